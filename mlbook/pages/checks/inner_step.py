"""One inner step of MAML taken apart: as it is, linearised at the start, and with the switches of its ReLUs held.

For a fully connected ReLU network with one input and one output, ``MLP()``. f(x; θ) is the network, θ′ = θ + Δθ its parameters
after one step of gradient descent on the support points.

* linearised: f(x; θ) + J(x)Δθ, what the step would give if the network were linear in its parameters. J(x)Δθ is
  −(2α/K) Σ k(x, x_k)(f(x_k; θ) − y_k) with the kernel k(x, x′) = J(x)J(x′)ᵀ.
* held: f(x; θ′) with each ReLU open or shut as it is at θ for the same x. It is a polynomial of degree three in Δθ; what it lacks
  of the step as it is comes from units that the step switches on or off.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from mlbook.models import MLP, Params, call
from mlbook.tasks import Episode

model = MLP()
NAMES = [name for name, _ in model.named_parameters()]
FIRST = NAMES[:2]
"""Weight and bias of the first layer."""
MEASURES = ("before", "actual", "linearised", "held", "first layer", "best length")
"""Errors on the query set: before the step; after it; linearised; with the switches held; after a step of the first layer alone;
and linearised, with one factor on J(x)Δθ, the same for all tasks, that suits them best."""


def answers(params: Params, x: Tensor) -> Tensor:
    """f(x; θ): x [n, 1] -> [n]."""
    return call(model, params, x)[:, 0]


def held(start: Params, params: Params, x: Tensor) -> Tensor:
    """The network with ``params``, each ReLU open or shut as with ``start``: x [n, 1] -> [n]."""
    values, before = x, x
    for i in range(0, len(NAMES) - 2, 2):
        weight, bias = NAMES[i : i + 2]
        sums = before @ start[weight].mT + start[bias]
        before = sums.relu()
        values = (values @ params[weight].mT + params[bias]) * (sums > 0)
    return (values @ params[NAMES[-2]].mT + params[NAMES[-1]])[:, 0]


def switched(start: Params, params: Params, x: Tensor) -> Tensor:
    """Share of the pairs of hidden unit and input at which the unit is open with one of the two and shut with the other."""
    changed, one, other = [], x, x
    for i in range(0, len(NAMES) - 2, 2):
        one, other = (v @ p[NAMES[i]].mT + p[NAMES[i + 1]] for v, p in ((one, start), (other, params)))
        changed.append((one > 0) != (other > 0))
        one, other = one.relu(), other.relu()
    return torch.cat(changed, dim=1).to(x.dtype).mean()


def step_of(params: Params, x: Tensor, y: Tensor, inner_lr: float) -> Params:
    """Δθ = −α ∇L on the points x, y [K, 1]."""
    gradient = grad(lambda p: (answers(p, x) - y[:, 0]).square().mean())(params)
    return {name: -inner_lr * g for name, g in gradient.items()}


def taken_apart(params: Params, episodes: Episode, inner_lr: float) -> tuple[dict[str, Tensor], float]:
    """The ``MEASURES`` of every task and the share of ``switched`` units, [T] each; and the factor of "best length"."""

    def task(support_x, support_y, query_x, query_y):
        move = step_of(params, support_x, support_y, inner_lr)
        adapted = {name: p + move[name] for name, p in params.items()}
        before, change = jvp(lambda p: answers(p, query_x), (params,), (move,))
        part = {**params, **{name: adapted[name] for name in FIRST}}
        wanted = query_y[:, 0]
        curves = [
            before,
            answers(adapted, query_x),
            before + change,
            held(params, adapted, query_x),
            answers(part, query_x),
        ]
        errors = torch.stack([(curve - wanted).square().mean() for curve in curves])
        along = ((wanted - before) * change).mean(), change.square().mean()
        return errors, *along, switched(params, adapted, query_x)

    errors, fits, squares, share = vmap(task)(*episodes)
    factor = fits.mean() / squares.mean().clamp(min=1e-30)
    best = errors[:, 0] - 2 * factor * fits + factor**2 * squares
    found = dict(zip(MEASURES, [*errors.T, best], strict=True))
    return {**found, "switched": share}, float(factor)


def crossed(function: Params, response: Params, episodes: Episode, inner_lr: float) -> Tensor:
    """Query error of a linearised step with the function of one network and the kernel of another, [T]."""

    def task(support_x, support_y, query_x, query_y):
        residual = answers(function, support_x) - support_y[:, 0]
        _, back = vjp(lambda p: answers(p, support_x), response)
        (gradient,) = back(2 / len(residual) * residual)
        move = {name: -inner_lr * g for name, g in gradient.items()}
        _, change = jvp(lambda p: answers(p, query_x), (response,), (move,))
        return (answers(function, query_x) + change - query_y[:, 0]).square().mean()

    return vmap(task)(*episodes)
