"""The derivative of what an inner loop converges to, from its end point alone.

If the parameters w* minimise L_T(η, w), then ∇_w L_T(η, w*) = 0 for every outer
variable η, and differentiating this equation gives dw*/dη without the path that
led to w* (the implicit function theorem). It asks for one linear system A x = b
with A = ∇²L_T at w*, which is solved by products A v: conjugate gradients, or a
Neumann series.

Greek to Python: η ``outer``, w* ``params``, L_T ``inner_loss``, L_V
``outer_loss``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.bilevel import Estimate, Estimator, Outer
from mlbook.meta_learners.inner_loop import Loss
from mlbook.models.functional import Params
from mlbook.models.mapping import grad

Product = Callable[[Params], Params]
"""v -> A v, in the structure of v."""
Solve = Callable[[Product, Params], Params]
"""A and b -> x with A x ≈ b."""
LossOf = Callable[[Outer, Params], Tensor]
"""η and w -> a number."""


# -- linear algebra on groups of tensors ---------------------------------------


def dot(a: Params, b: Params) -> Tensor:
    """⟨a, b⟩ over all entries, a number."""
    return sum((a[name] * b[name]).sum() for name in a)


def plus(a: Params, factor: float | Tensor, b: Params) -> Params:
    """a + factor·b, in the structure of a."""
    return {name: a[name] + factor * b[name] for name in a}


def hessian_product(loss: Loss, params: Params) -> Product:
    """v -> ∇²L(params) v: the gradient of ⟨∇L, v⟩, at about twice the cost of a
    gradient (Pearlmutter 1994)."""

    def product(v: Params) -> Params:
        return grad(lambda p: dot(grad(loss)(p), v))(params)

    return product


def conjugate_gradient(
    product: Product,
    b: Params,
    steps: int = 10,
    tolerance: float = 1e-10,
    *,
    start: Params | None = None,
) -> Params:
    """x with A x ≈ b, from products A v alone. A must be symmetric and positive
    definite, which is not checked.

    Exact after as many steps as b has different eigenvalues of A in it, but for
    rounding. Stops after ``steps`` steps, or where ‖b − A x‖² ≤ ``tolerance``.
    start: the first x (default: zero); it costs one more product.
    """
    if start is None:
        x, residual = {n: torch.zeros_like(v) for n, v in b.items()}, b
    else:
        x, residual = start, plus(b, -1.0, product(start)) if steps else b
    direction, size = residual, dot(residual, residual)
    for _ in range(steps):
        image = product(direction)
        curvature = dot(direction, image)
        # no branch on a value: under vmap every task has its own
        done = (size <= tolerance) | (curvature == 0)
        length = torch.where(done, torch.zeros_like(size), size / curvature)
        x = plus(x, length, direction)
        residual = plus(residual, -length, image)
        new = dot(residual, residual)
        turn = torch.where(done, torch.zeros_like(size), new / size)
        direction, size = plus(residual, turn, direction), new
    return x


def neumann_series(
    product: Product, b: Params, steps: int, *, rate: float
) -> Params:
    """α Σ_{j<J} (I − αA)ʲ b, which tends to A⁻¹b as J grows.

    steps J: terms, at least 1; J − 1 products. rate α: between 0 and 2 over the
    largest eigenvalue of A, else the series diverges. Raises ``UserError`` for
    fewer terms or a rate that is not positive.

    Source: Lorraine et al. (2020), algorithm 3.
    """
    if steps < 1 or not rate > 0:
        raise UserError(
            f"steps must be at least 1 and rate positive, got {steps} and {rate}"
        )
    term = total = b
    for _ in range(steps - 1):
        term = plus(term, -rate, product(term))
        total = plus(total, 1.0, term)
    return {name: rate * value for name, value in total.items()}


# -- the outer gradient --------------------------------------------------------


def hypergradient(
    inner_loss: LossOf,
    outer_loss: LossOf,
    outer: Outer,
    params: Params,
    solve: Solve,
) -> Estimate:
    """L_V and dL_V/dη = ∂L_V/∂η − (∂²L_T/∂η∂w) A⁻¹ ∂L_V/∂w at w* = ``params``.

    Exact where ``params`` minimise ``inner_loss`` at ``outer`` and ``solve`` is
    exact. Elsewhere the error grows in proportion to the distance to the
    minimum, and nothing in the numbers tells.

    Source: Lorraine et al. (2020), equation 2.
    """

    def judged(both: dict[str, Params]) -> tuple[Tensor, Tensor]:
        loss = outer_loss(both["outer"], both["params"])
        return loss, loss.detach()

    slopes, value = grad(judged, has_aux=True)({"outer": outer, "params": params})
    product = hessian_product(partial(inner_loss, outer), params)
    solved = solve(product, slopes["params"])

    def mixed(outer: Outer) -> Tensor:
        return dot(grad(partial(inner_loss, outer))(params), solved)

    return Estimate(value, plus(slopes["outer"], -1.0, grad(mixed)(outer)))


def implicit(
    inner: Callable[[Outer], Params],
    inner_loss: LossOf,
    outer_loss: LossOf,
    solve: Solve = conjugate_gradient,
) -> Estimator:
    """dJ/dη for ``bilevel.outer_step``, J(η) = L_V(η, w*(η)): memory does not
    grow with the number of inner steps.

    inner: η -> w*, by whatever means; no derivative is taken of it. solve: for
    instance ``partial(neumann_series, steps=20, rate=0.1)``.
    """

    def estimate(outer: Outer) -> Estimate:
        point = {name: tensor.detach() for name, tensor in outer.items()}
        params = {name: value.detach() for name, value in inner(point).items()}
        return hypergradient(inner_loss, outer_loss, point, params, solve)

    return estimate
