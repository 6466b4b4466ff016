"""Scalar functions of the policy whose gradients are policy gradients.

All are *losses*: their negative gradient points to more return. The rollouts are data; only log π depends on the parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.models.functional import Params
from mlbook.reinforcement.policy import GaussianPolicy, divergence
from mlbook.reinforcement.rollouts import Rollouts


def _mean_over_steps(values: Tensor, mask: Tensor) -> Tensor:
    """[T, M, H] -> [T]: the mean over all steps that were taken."""
    return (values * mask).sum((1, 2)) / mask.sum((1, 2))


def log_surrogate(log_prob: Tensor, advantage: Tensor, mask: Tensor, old_log_prob: Tensor) -> Tensor:
    """−mean(log π · Â), [T]: right gradient; its second derivative lacks the dependence of the sampling on the parameters."""
    return -_mean_over_steps(log_prob * advantage, mask)


def dice_surrogate(log_prob: Tensor, advantage: Tensor, mask: Tensor, old_log_prob: Tensor) -> Tensor:
    """The same value of the gradient, and right second derivatives as well, [T] (DiCE: Foerster et al. 2018; with a baseline:
    Farquhar et al. 2019, λ = 1).

    □_t = exp(c_t − c_t^old) with c_t = Σ_{u ≤ t} log π(a_u | s_u) is 1 at the parameters that collected the data and carries the
    derivatives of the probability of the trajectory up to t. The loss is −mean((□_t − □_{t−1})·Â_t).
    """
    box = ((log_prob - old_log_prob) * mask).cumsum(-1).exp()
    before = torch.cat([torch.ones_like(box[..., :1]), box[..., :-1]], -1)
    return -_mean_over_steps((box - before) * advantage, mask)


SURROGATES = {"log": log_surrogate, "dice": dice_surrogate}


def inner_loss(
    kind: str,
    policy: GaussianPolicy,
    params: Params,
    rollouts: Rollouts,
    advantage: Tensor,
    old_log_prob: Tensor,
) -> Tensor:
    """Loss of the inner step for every task, [T]; ``kind`` is a key of ``SURROGATES``."""
    if kind not in SURROGATES:
        raise UserError(f"surrogate must be {' or '.join(SURROGATES)}, not {kind!r}")
    log_prob = policy.log_prob(params, rollouts.observations, rollouts.actions)
    return SURROGATES[kind](log_prob, advantage, rollouts.mask, old_log_prob)


def outer_loss(
    policy: GaussianPolicy, params: Params, rollouts: Rollouts, advantage: Tensor, old_log_prob: Tensor
) -> Tensor:
    """−mean(π_new/π_old · Â), [T]: importance-weighted advantage of ``params`` on the rollouts of the old parameters."""
    log_prob = policy.log_prob(params, rollouts.observations, rollouts.actions)
    return -_mean_over_steps((log_prob - old_log_prob).exp() * advantage, rollouts.mask)


def mean_divergence(policy: GaussianPolicy, old: Params, params: Params, rollouts: Rollouts) -> Tensor:
    """KL(π_old ‖ π_new), mean over the visited states, [T]."""
    observations = rollouts.observations.flatten(1, 2)
    kl = divergence(
        policy.mean(old, observations).detach(),
        policy.log_std(old).detach(),
        policy.mean(params, observations),
        policy.log_std(params),
    )
    return _mean_over_steps(kl.view(rollouts.mask.shape), rollouts.mask)
