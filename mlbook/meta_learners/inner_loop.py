"""The inner loop: gradient descent on the support set of one task. Training,
evaluation, labs and tests all call it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.models.functional import Params
from mlbook.models.mapping import grad

Loss = Callable[[Params], Tensor]


def inner_path(
    support_loss: Loss | Sequence[Loss],
    params: Params,
    *,
    inner_lr: float | Params,
    steps: int,
    names: tuple[str, ...] | None = None,
    first_order: bool = False,
) -> Iterator[Params]:
    """Yield θ⁰, θ¹, …, θᴺ of one task: θⁿ⁺¹ = θⁿ − α ∇L_S(θⁿ).

    support_loss L_S: params -> scalar loss on the task's support set; or a
        sequence of N losses, one for each step (mini-batches, as in Reptile).
    params θ⁰: dict of tensors; the yielded dicts have the same keys and shapes.
    inner_lr α: one rate, or one tensor per adapted parameter (Meta-SGD).
    steps N: number of gradient steps (0 is allowed).
    names: the parameters that move (default: all); the others are handed on
        unchanged (ANIL, batch norm's β).
    first_order: treat every inner gradient as a constant for the outer
        derivative (FOMAML).

    Source: MAML (Finn et al. 2017), algorithms 1 and 2; Meta-SGD (Li et al.
    2017), equation 2; ANIL (Raghu et al. 2020).
    """
    names = tuple(params) if names is None else names
    one_for_all = not isinstance(inner_lr, dict)
    rates = dict.fromkeys(names, inner_lr) if one_for_all else inner_lr
    yield params
    for n in range(steps):
        loss = support_loss if callable(support_loss) else support_loss[n]
        gradient = gradient_of(loss, params, names)  # [MAML 5]
        if first_order:
            gradient = {n: g.detach() for n, g in gradient.items()}  # [FOMAML 5]
        moved = {n: params[n] - rates[n] * gradient[n] for n in names}  # [MAML 6]
        params = {**params, **moved}
        yield params


def gradient_of(loss: Loss, params: Params, names: tuple[str, ...]) -> Params:
    """∇ of ``loss`` at ``params`` with respect to the parameters ``names``; the
    others stay as they are."""

    def loss_of(moving: Params) -> Tensor:
        return loss({**params, **moving})

    return grad(loss_of)({name: params[name] for name in names})


class Moments(NamedTuple):
    """What Adam with β₁ = 0 remembers: ``v``, the running mean of squared
    gradients, and ``weight``, the share of that mean which gradients make up (1
    − β₂ᵗ after t steps from nothing)."""

    v: Params
    weight: Tensor  # a scalar

    @classmethod
    def fresh(cls, params: Params) -> Moments:
        """Those of an optimiser that has seen nothing."""
        return cls(
            {n: torch.zeros_like(p) for n, p in params.items()},
            next(iter(params.values())).new_zeros(()),
        )


BETA2, EPSILON = 0.999, 1e-8


def adam_path(
    losses: Sequence[Loss], params: Params, moments: Moments, *, inner_lr: float
) -> Iterator[tuple[Params, Moments]]:
    """Yield (φ₁, v₁), (φ₂, v₂), …: one step of Adam with β₁ = 0 on each of the
    ``losses``, from moments that are handed in.

    φ ← φ − α·sqrt(weight)·g / (sqrt(v) + EPSILON) with v ← β₂v + (1 − β₂)g²:
    the update of the official Reptile code (Adam as TensorFlow writes it, β₂ =
    0.999). Not made to be differentiated through.
    """
    yield params, moments
    for loss in losses:
        gradient = grad(loss)(params)  # [ADAM 1]
        fresh = {n: (1 - BETA2) * g * g for n, g in gradient.items()}
        v = {n: BETA2 * moments.v[n] + fresh[n] for n in params}  # [ADAM 2]
        moments = Moments(v, BETA2 * moments.weight + (1 - BETA2))
        rate = inner_lr * moments.weight.sqrt()
        change = {n: rate * gradient[n] / (v[n].sqrt() + EPSILON) for n in params}
        params = {n: p - change[n] for n, p in params.items()}  # [ADAM 3]
        yield params, moments


def adapt(support_loss: Loss | Sequence[Loss], params: Params, **options) -> Params:
    """The last point θᴺ of ``inner_path``, which has the arguments."""
    return deque(inner_path(support_loss, params, **options), maxlen=1).pop()
