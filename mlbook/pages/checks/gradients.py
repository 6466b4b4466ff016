"""Derivatives against finite differences, in float64, and the meta-gradient by its recursion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.meta_learners.base import Meta, leaves, map_leaves
from mlbook.meta_learners.inner_loop import inner_path


@dataclass(frozen=True)
class Comparison:
    """A directional derivative by a claimed gradient and by central differences."""

    claimed: float
    measured: float

    @property
    def relative_error(self) -> float:
        """|claimed − measured| / |measured|."""
        return abs(self.claimed - self.measured) / max(abs(self.measured), 1e-300)


def random_direction(meta: Meta, generator: torch.Generator) -> Meta:
    """A random direction of length 1 in the space of all meta-parameters."""
    direction = {
        group: {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in params.items()}
        for group, params in meta.items()
    }
    length = torch.sqrt(sum((t * t).sum() for t in leaves(direction)))
    return map_leaves(lambda t: t / length, direction)


def moved(meta: Meta, direction: Meta, distance: float) -> Meta:
    """``meta`` + distance · ``direction``."""
    return {
        group: {name: p + distance * direction[group][name] for name, p in params.items()}
        for group, params in meta.items()
    }


def inner_product(a: Meta, b: Meta) -> Tensor:
    """⟨a, b⟩ over all tensors, a scalar."""
    return sum((x * y).sum() for x, y in zip(leaves(a), leaves(b), strict=True))


def compare_gradient(
    function: Callable[[Meta], Tensor],
    gradient: Meta,
    meta: Meta,
    *,
    generator: torch.Generator,
    directions: int = 5,
    distance: float = 1e-5,
) -> list[Comparison]:
    """Hold a claimed ``gradient`` of ``function`` at ``meta`` against central differences in random directions:
    (f(θ + hd) − f(θ − hd)) / 2h against ⟨gradient, d⟩.

    Meaningful only in float64 and for a smooth function: the error of the difference is O(h²) plus rounding / h, and a ReLU
    or max-pooling network has kinks that no gradient sees. Raises ``TypeError`` for other types.
    """
    if any(p.dtype != torch.float64 for p in leaves(meta)):
        raise TypeError("finite differences need float64 parameters")
    comparisons = []
    for _ in range(directions):
        direction = random_direction(meta, generator)
        ahead, behind = (function(moved(meta, direction, sign * distance)) for sign in (1, -1))
        claimed = inner_product(gradient, direction)
        comparisons.append(Comparison(float(claimed), float((ahead - behind) / (2 * distance))))
    return comparisons


def worst(comparisons: list[Comparison]) -> float:
    """Largest error, relative to the largest measured derivative (a direction in which nothing happens proves nothing)."""
    scale = max(abs(c.measured) for c in comparisons)
    return max(abs(c.claimed - c.measured) for c in comparisons) / scale


def to_float64(meta: Meta) -> Meta:
    """The same numbers in double precision."""
    return map_leaves(torch.Tensor.double, meta)


def relative_distance(a: Meta, b: Meta) -> float:
    """‖a − b‖ / ‖b‖ over all tensors."""
    difference = sum(((x - y) ** 2).sum() for x, y in zip(leaves(a), leaves(b), strict=True))
    return float(torch.sqrt(difference / sum((y * y).sum() for y in leaves(b))))


def cosine(a: Meta, b: Meta) -> float:
    """Cosine of the angle between two gradients."""
    return float(inner_product(a, b) / torch.sqrt(inner_product(a, a) * inner_product(b, b)))


def hessian_vector(
    loss: Callable[[dict], Tensor],
    params: dict[str, Tensor],
    vector: dict[str, Tensor],
) -> dict[str, Tensor]:
    """H·v of a scalar ``loss`` at ``params`` without forming H: the derivative of the gradient along v."""
    return torch.func.jvp(torch.func.grad(loss), (params,), (vector,))[1]


def meta_gradient_by_recursion(
    support_loss: Callable[[dict], Tensor],
    query_loss: Callable[[dict], Tensor],
    params: dict[str, Tensor],
    *,
    inner_lr: float,
    steps: int,
) -> dict[str, Tensor]:
    """The meta-gradient of one task by v ← v − α·H_S(θⁿ)·v, from n = N − 1 down to 0, starting at v = ∇L_Q(θᴺ).

    An independent way to the number that ``MAML.meta_gradient`` gets from automatic differentiation.
    """
    path = list(inner_path(support_loss, params, inner_lr=inner_lr, steps=steps))
    v = torch.func.grad(query_loss)(path[-1])  # [HVP 1]
    for point in reversed(path[:-1]):  # [HVP 2]
        Hv = hessian_vector(support_loss, point, v)  # [HVP 3]
        v = {name: v[name] - inner_lr * Hv[name] for name in v}  # [HVP 4]
    return v
