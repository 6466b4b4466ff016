"""The meta-gradient by the recursion of chapter 5, for networks whose derivatives are written out by hand.

v ← v − H·(α v), from the last inner step to the first. A network brings three sweeps in closed form: ``forward``, ``backward``
(the gradient of every task) and ``hessian_vector`` (H·v of every task). Weights are matrices with a tasks axis of 1 or T.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from mlbook.tasks.episode import Episode

Weights = dict[str, Tensor]


class Network(Protocol):
    adapted: tuple[str, ...]
    """Weights that the inner loop moves."""

    def prepare(self, x: Tensor) -> Tensor: ...

    def forward(self, w: Weights, x: Tensor, y: Tensor, scale: float) -> Any: ...

    def backward(self, w: Weights, sweep: Any, everything: bool) -> Weights: ...

    def hessian_vector(self, w: Weights, v: Weights, sweep: Any, scale: float) -> Weights: ...

    def metrics(self, sweep: Any, y: Tensor) -> dict[str, Tensor]: ...


def meta_gradient(
    network: Network,
    theta: Weights,
    episodes: Episode,
    *,
    inner_lr: float | Weights,
    steps: int,
    inner_scale: float = 1.0,
    first_order: bool = False,
    chunk: int | None = None,
) -> tuple[Weights, Weights | None, dict[str, Tensor]]:
    """Mean over tasks of ∇L_Q(θᴺ), the same for learned rates (or None), and mean metrics.

    theta: weights with a tasks axis of 1. inner_lr: a number, or one tensor per adapted weight (Meta-SGD). chunk: tasks worked
    on at once (default: all).
    """
    T = episodes.n_tasks
    learned = isinstance(inner_lr, dict)
    rates = inner_lr if learned else dict.fromkeys(network.adapted, inner_lr)
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    rate_total = {name: torch.zeros_like(p) for name, p in rates.items()} if learned else None
    metrics: dict[str, Tensor] = {}
    chunk = chunk or T
    for start in range(0, T, chunk):
        part = Episode(*(field[start : start + chunk] for field in episodes))
        support = network.prepare(part.support_x)
        w, taken = theta, []
        for _ in range(steps):
            sweep = network.forward(w, support, part.support_y, inner_scale)
            g = network.backward(w, sweep, False)
            taken.append((w, sweep, g))
            w = {**w, **{name: w[name] - rates[name] * g[name] for name in network.adapted}}
        query = network.forward(w, network.prepare(part.query_x), part.query_y, 1.0)
        v = network.backward(w, query, True)
        for w, sweep, g in reversed(taken):
            if learned:
                for name in rate_total:
                    rate_total[name] -= (g[name] * v[name]).sum(0, keepdim=True)
            if not first_order:
                scaled = {name: rates[name] * v[name] for name in network.adapted}
                h = network.hessian_vector(w, scaled, sweep, inner_scale)
                v = {name: v[name] - h[name] for name in v}
        for name, g in v.items():
            total[name] += g.sum(0, keepdim=True)
        share = part.n_tasks / T
        for name, value in network.metrics(query, part.query_y).items():
            metrics[name] = metrics.get(name, 0) + share * value

    def mean(weights: Weights) -> Weights:
        return {name: g / T for name, g in weights.items()}

    return mean(total), mean(rate_total) if learned else None, metrics
