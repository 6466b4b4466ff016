"""Functions of the policy whose gradients are policy gradients, one number per task.

All are *losses*: a step against the gradient raises the return. The rollouts are data; only log π depends on the parameters.
Shapes: T tasks, M trajectories, H steps.
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
    """−mean(log π · Â), four times [T, M, H] -> [T]. The gradient is right; the second derivative leaves out that other
    parameters would have sampled other trajectories."""
    return -_mean_over_steps(log_prob * advantage, mask)


def dice_surrogate(log_prob: Tensor, advantage: Tensor, mask: Tensor, old_log_prob: Tensor) -> Tensor:
    """−mean((□_t − □_{t−1})·Â_t), four times [T, M, H] -> [T]: the gradient of ``log_surrogate``, and right second derivatives
    as well (DiCE, Foerster et al. 2018; with a baseline, Farquhar et al. 2019, λ = 1).

    □_t = exp(c_t − c_t^old), c_t = Σ_{u ≤ t} log π(a_u | s_u), is 1 at the parameters that collected the data. Its derivatives
    are those of the probability of the trajectory up to t.
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
    """Loss of the inner step for every task, [T]; advantage and old_log_prob [T, M, H].

    kind: a key of ``SURROGATES``, else ``UserError``.
    """
    if kind not in SURROGATES:
        raise UserError(f"surrogate must be {' or '.join(SURROGATES)}, not {kind!r}")
    log_prob = policy.log_prob(params, rollouts.observations, rollouts.actions)
    return SURROGATES[kind](log_prob, advantage, rollouts.mask, old_log_prob)


def outer_loss(
    policy: GaussianPolicy, params: Params, rollouts: Rollouts, advantage: Tensor, old_log_prob: Tensor
) -> Tensor:
    """−mean(π_new/π_old · Â), [T]: what ``params`` would gain on the rollouts of the old parameters, each step weighted by how
    much more likely its action has become. advantage and old_log_prob [T, M, H]."""
    log_prob = policy.log_prob(params, rollouts.observations, rollouts.actions)
    return -_mean_over_steps((log_prob - old_log_prob).exp() * advantage, rollouts.mask)


def mean_divergence(policy: GaussianPolicy, old: Params, params: Params, rollouts: Rollouts) -> Tensor:
    """KL(π_old ‖ π_new) in nats, mean over the visited states, [T]. Differentiable in ``params``, the new parameters."""
    observations = rollouts.observations.flatten(1, 2)
    kl = divergence(
        policy.mean(old, observations).detach(),
        policy.log_std(old).detach(),
        policy.mean(params, observations),
        policy.log_std(params),
    )
    return _mean_over_steps(kl.view(rollouts.mask.shape), rollouts.mask)
