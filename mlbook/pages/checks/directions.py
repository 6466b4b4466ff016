"""Four methods read off one inner path: joint pre-training, FOMAML, Reptile and MAML; and whether a field is a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from mlbook.meta_learners.inner_loop import Loss, adapt
from mlbook.models.functional import Params
from mlbook.pages.checks.gradients import hessian_vector

METHODS = ("joint", "FOMAML", "Reptile", "MAML")


@dataclass(frozen=True)
class InnerPath:
    """k gradient steps of one task on k losses, each step on the next loss."""

    losses: tuple[Loss, ...]
    """L_1, …, L_k."""
    points: tuple[Params, ...]
    """φ_1, …, φ_{k+1}: one more than there are losses."""
    gradients: tuple[Params, ...]
    """g_i = L_i'(φ_i)."""
    inner_lr: float
    """α."""


def inner_path_over(
    losses: Sequence[Loss],
    params: Params,
    inner_lr: float,
) -> InnerPath:
    """φ_{i+1} = φ_i − α L_i'(φ_i) from φ_1 = ``params``, by the package's inner loop, one step for every loss."""
    points, gradients = [params], []
    for loss in losses:
        point = points[-1]
        gradients.append(grad(loss)(point))  # [FOUR 1]
        points.append(adapt(loss, point, inner_lr=inner_lr, steps=1))  # [FOUR 2]
    return InnerPath(tuple(losses), tuple(points), tuple(gradients), inner_lr)


def four_directions(path: InnerPath) -> dict[str, Params]:
    """What each method puts in the place of a gradient at φ_1 (it is subtracted), from one inner path.

    Keys: ``joint``, ``FOMAML``, ``Reptile``, ``MAML``; values in the structure of the parameters. MAML and FOMAML take the
    last loss as query loss, so in their terms there are N = k − 1 inner steps. Reptile's is (φ_1 − φ_{k+1}) / α.
    Source: Nichol et al. 2018, section 5.1; the factors of MAML's are those of chapter 5.
    """
    g = path.gradients
    reptile = {n: sum(gradient[n] for gradient in g) for n in g[0]}
    v = g[-1]
    for i in reversed(range(len(g) - 1)):
        Hv = hessian_vector(path.losses[i], path.points[i], v)
        v = {n: v[n] - path.inner_lr * Hv[n] for n in v}
    return {
        "joint": g[0],  # [FOUR 3]
        "FOMAML": g[-1],  # [FOUR 4]
        "Reptile": reptile,  # [FOUR 5]
        "MAML": v,  # [FOUR 6]
    }


def mean_directions(
    batch_loss: Callable[[Params, Tensor, Tensor], Tensor],
    params: Params,
    x: Tensor,
    y: Tensor,
    inner_lr: float,
) -> dict[str, Params]:
    """``four_directions`` averaged over T tasks with k batches each. x, y: [T, k, ...]; batch_loss(params, x, y) of a batch."""

    def one_task(x: Tensor, y: Tensor) -> dict[str, Params]:
        losses = [lambda p, i=i: batch_loss(p, x[i], y[i]) for i in range(len(x))]
        return four_directions(inner_path_over(losses, params, inner_lr))

    directions = vmap(one_task)(x, y)
    return {method: {n: d.mean(0) for n, d in direction.items()} for method, direction in directions.items()}


Field = Callable[[Tensor], Tensor]
"""A vector field on flat parameters: [P] -> [P]."""


def flat(params: Params) -> Tensor:
    """All parameters in one vector [P]."""
    return torch.cat([p.flatten() for p in params.values()])


def flat_field(direction: Callable[[Params], Params], params: Params) -> Field:
    """A direction as a field on vectors laid out as ``flat(params)``."""
    sizes = [p.numel() for p in params.values()]

    def on_vectors(point: Tensor) -> Tensor:
        parts = point.split(sizes)
        return flat(direction({n: q.view(p.shape) for (n, p), q in zip(params.items(), parts, strict=True)}))

    return on_vectors


def jacobian(field: Field, point: Tensor) -> Tensor:
    """Derivative of a field at ``point`` [P]: entry (i, j) is ∂F_i/∂φ_j; by automatic differentiation."""
    return torch.func.jacrev(field)(point)


def asymmetry(matrix: Tensor) -> float:
    """‖J − Jᵀ‖ / ‖J‖ (Frobenius): 0 for the Jacobian of a gradient, 2 for a pure rotation."""
    return float((matrix - matrix.T).norm() / matrix.norm())
