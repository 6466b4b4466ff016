"""The trust region: a step along the natural gradient, as long as a bound on the divergence of the policies allows.

Source: TRPO (Schulman et al. 2015), appendix C; the constants are those of the official code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.meta_learners.implicit import conjugate_gradient, dot, plus
from mlbook.models.functional import Params


class Step(NamedTuple):
    """Where a trust-region step ends."""

    params: Params
    loss: Tensor
    """At ``params``."""
    kl: Tensor
    """Mean divergence from the start, in nats."""
    accepted: bool
    """False: no candidate lowered the loss within the region, and the parameters stay as they were."""


def trust_region_step(
    params: Params,
    gradient: Params,
    product: Callable[[Params], Params],
    judge: Callable[[Params], tuple[Tensor, Tensor]],
    *,
    loss: Tensor,
    max_kl: float = 0.01,
    cg_steps: int = 10,
    backtracks: int = 15,
    ratio: float = 0.8,
) -> Step:
    """One step from ``params`` against ``gradient``: direction x = A⁻¹ gradient, length √(2·max_kl / xᵀA x), then backtracking.

    product: v -> A v, where A is the second derivative of the divergence at ``params``. judge: candidate -> (loss, divergence),
    computed exactly. loss: at ``params``. The n-th of ``backtracks`` candidates has ``ratio``ⁿ times the length, and the first
    one that lowers the loss within ``max_kl`` (nats) is taken.
    """
    direction = conjugate_gradient(product, gradient, cg_steps)  # [TRPO 2]
    curvature = dot(direction, product(direction)).clamp(min=1e-12)
    length = (2 * max_kl / curvature).sqrt()  # [TRPO 3]
    for n in range(backtracks):  # [TRPO 4]
        candidate = plus(params, -length * ratio**n, direction)
        new, kl = judge(candidate)
        if new < loss and kl <= max_kl:  # [TRPO 5]
            return Step(candidate, new, kl, True)
    return Step(params, loss, torch.zeros_like(loss), False)
