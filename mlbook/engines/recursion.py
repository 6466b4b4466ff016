"""The meta-gradient by the recursion of chapter 5, for networks whose derivatives are written out by hand.

v ← v − H·(α v), from the last inner step to the first. A network brings three sweeps in closed form: ``forward``, ``backward``
(the gradient of every task) and ``hessian_vector`` (H·v of every task). Weights carry a tasks axis of 1 or T in front.

On a CPU a convolutional network's meta-batch is cut into chunks of tasks. Support sets are smaller than query sets, so more
tasks go into a chunk of the inner loop than into one of the query sweep. Sums over tasks are kept in float64: then the result
hardly depends on how the tasks are cut, or dealt out to several processes.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mlbook.tasks.episode import Episode

Weights = dict[str, Tensor]


class Network(Protocol):
    adapted: tuple[str, ...]
    """Weights that the inner loop moves."""

    def prepare(self, x: Tensor) -> Any: ...

    def forward(self, w: Weights, x: Any, y: Tensor, scale: float) -> Any: ...

    def backward(self, w: Weights, sweep: Any, everything: bool) -> Weights: ...

    def hessian_vector(self, w: Weights, v: Weights, sweep: Any, scale: float) -> Weights: ...

    def metrics(self, sweep: Any, y: Tensor) -> dict[str, Tensor]: ...


class Gradient(NamedTuple):
    """A meta-gradient with what is reported beside it."""

    weights: Weights
    rates: Weights | None
    """Gradient of learned inner rates, where there are any."""
    metrics: dict[str, Tensor]


def meta_gradient(
    network: Network,
    theta: Weights,
    episodes: Episode,
    *,
    inner_lr: float | Weights,
    steps: int,
    inner_scale: float = 1.0,
    first_order: bool = False,
    chunks: tuple[int, int] | None = None,
    recompute: bool = False,
) -> Gradient:
    """Mean over tasks of ∇L_Q(θᴺ), the same for learned rates (or None), both in float64, and mean metrics.

    theta: weights with a tasks axis of 1. inner_lr: a number, or one tensor per adapted weight (Meta-SGD). chunks: tasks worked
    on at once in the inner loop and in the query sweep (default: all). recompute: keep only the parameters of each inner step
    and go through its network again on the way back (activation checkpointing: memory grows only by the parameters of each step,
    for one more gradient per step).
    """
    T = episodes.n_tasks
    size, query_size = chunks or (T, T)
    total: Gradient | None = None
    with torch.no_grad():
        for start in range(0, T, size):
            part = Episode(*(field[start : start + size] for field in episodes))
            sums = summed_gradients(
                network, theta, part, inner_lr, steps, inner_scale, first_order, query_size, recompute
            )
            total = sums if total is None else _add(total, sums)
    return Gradient(*(group and {name: value / T for name, value in group.items()} for group in total))


def summed_gradients(
    network: Network,
    theta: Weights,
    part: Episode,
    rates: float | Weights,
    steps: int,
    scale: float = 1.0,
    first_order: bool = False,
    query_size: int = 1,
    recompute: bool = False,
) -> Gradient:
    """The gradients of some tasks, added up; arguments as in ``meta_gradient``."""
    learned = isinstance(rates, dict)
    rate = rates if learned else dict.fromkeys(network.adapted, rates)
    rate_sums = {name: zeros(p) for name, p in rate.items()} if learned else None
    support = network.prepare(part.support_x)
    w, taken, names = theta, [], network.adapted
    for _ in range(steps):
        sweep = network.forward(w, support, part.support_y, scale)
        g = network.backward(w, sweep, False)  # [MAML 5]
        # a step that nothing depends on is forgotten
        if learned or not first_order:
            kept = None if recompute or first_order else sweep
            taken.append((w, kept, g if learned else None))
        moved = {n: minus(w[n], rate[n], g[n]) for n in names}  # [MAML 6]
        w = {**w, **moved}
    sweep = None
    v, metrics = query_gradients(network, w, part, query_size)  # [HVP 1]
    while taken:  # [HVP 2]
        w, sweep, g = taken.pop()
        if learned:
            for name in rate_sums:
                rate_sums[name] -= over_tasks(g[name] * v[name])
        if first_order:
            continue
        if sweep is None:
            sweep = network.forward(w, support, part.support_y, scale)
            network.backward(w, sweep, False)
        # one rate for all comes out of the linear H·(αv): a pass less
        along = {n: rate[n] * v[n] if learned else v[n] for n in names}
        h = network.hessian_vector(w, along, sweep, scale)  # [HVP 3]
        v = {n: minus(v[n], 1 if learned else rates, h[n]) for n in v}  # [HVP 4]
    weights = {name: over_tasks(g) for name, g in v.items()}
    return Gradient(weights, rate_sums, metrics)


def zeros(p: Tensor) -> Tensor:
    return torch.zeros_like(p, dtype=torch.float64)


def over_tasks(x: Tensor) -> Tensor:
    return x.sum(0, keepdim=True, dtype=torch.float64)


def minus(a: Tensor, rate: float | Tensor, b: Tensor) -> Tensor:
    """a − rate·b."""
    return a - rate * b if isinstance(rate, Tensor) else torch.sub(a, b, alpha=rate)


def query_gradients(
    network: Network, w: Weights, part: Episode, size: int
) -> tuple[Weights, dict[str, Tensor]]:
    """∇L_Q of every task at its own weights, and the metrics added up over the tasks."""
    T = part.n_tasks
    gradients: list[Weights] = []
    metrics: dict[str, Tensor] = {}
    for start in range(0, T, size):
        own = slice(start, start + size)
        mine = {name: value[own] if len(value) == T else value for name, value in w.items()}
        x, y = part.query_x[own], part.query_y[own]
        sweep = network.forward(mine, network.prepare(x), y, 1.0)
        gradients.append(network.backward(mine, sweep, True))  # [MAML 7]
        for name, value in network.metrics(sweep, y).items():
            metrics[name] = metrics.get(name, 0) + len(y) * value
    return {name: torch.cat([g[name] for g in gradients]) for name in w}, metrics


def displacement(
    network: Network,
    theta: Weights,
    x: Tensor,
    y: Tensor,
    *,
    inner_lr: float,
    steps: int,
    chunk: int | None = None,
) -> tuple[Weights, dict[str, Tensor]]:
    """Mean over tasks of θ − θᴺ after ``steps`` steps on (x, y), which Reptile follows, and mean metrics before the last step."""
    T, metrics = len(x), {}
    total = {name: zeros(p) for name, p in theta.items()}
    with torch.no_grad():
        for start in range(0, T, chunk or T):
            own = slice(start, start + (chunk or T))
            source, w = network.prepare(x[own]), theta
            for _ in range(steps):
                sweep = network.forward(w, source, y[own], 1.0)
                g = network.backward(w, sweep, True)
                w = {name: minus(w[name], inner_lr, g[name]) for name in theta}
            for name, value in network.metrics(sweep, y[own]).items():
                metrics[name] = metrics.get(name, 0) + len(y[own]) / T * value
            for name, sums in total.items():
                sums += over_tasks(theta[name] - w[name])
    return {name: sums / T for name, sums in total.items()}, metrics


def _add(a: Gradient, b: Gradient) -> Gradient:
    return Gradient(
        *(
            group and {name: group[name] + other[name] for name in group}
            for group, other in zip(a, b, strict=True)
        )
    )
