"""The derivative of an unrolled optimiser by adjoints, to check automatic differentiation independently.

The loop is θ_{t+1} = θ_t + g_t, (g_t, h_{t+1}) = m(∇_t, h_t, φ), the objective L = Σ_{t=1..N} w_t f(θ_t). With the gradients ∇_t
taken as numbers that do not depend on φ, the adjoints λ_t = dL/dθ_t and ν_t = dL/dh_t run backwards:

    λ_t = w_t ∇f(θ_t) + λ_{t+1},
    ν_t = (∂h_{t+1}/∂h_t)ᵀ ν_{t+1} + (∂g_t/∂h_t)ᵀ λ_{t+1},
    dL/dφ = Σ_t (∂g_t/∂φ)ᵀ λ_{t+1} + (∂h_{t+1}/∂φ)ᵀ ν_{t+1}.

With the second derivatives kept, ∇_t = ∇f(θ_t) moves with θ_t, which adds to λ_t the product H(θ_t) κ_t, where
κ_t = (∂g_t/∂∇_t)ᵀ λ_{t+1} + (∂h_{t+1}/∂∇_t)ᵀ ν_{t+1} is the adjoint of the gradient (equations of chapter 15).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vjp

from mlbook.models.functional import Params
from mlbook.optimizers.learned_optimizer import CoordinateRule

Rule = Callable[[Params], CoordinateRule]


def run(f: Callable[[Tensor], Tensor], rule: CoordinateRule, theta: Tensor, steps: int) -> tuple[list, list]:
    """Points θ_0 … θ_N and memories h_0 … h_N; f: θ -> scalar."""
    points, memories = [theta], [rule.fresh(theta)]
    for _ in range(steps):
        change, memory = rule.update(grad(f)(points[-1]), memories[-1])
        points.append(points[-1] + change)
        memories.append(memory)
    return points, memories


def summed_loss(f: Callable[[Tensor], Tensor], rule: Rule, phi: Params, theta: Tensor, steps: int) -> Tensor:
    """L(φ) = Σ_{t=1..N} f(θ_t) of the true loop, in which ∇_t depends on φ."""
    points, _ = run(f, rule(phi), theta, steps)
    return sum(f(point) for point in points[1:])


def loss_with_given_gradients(
    f: Callable[[Tensor], Tensor], rule: Rule, phi: Params, theta: Tensor, gradients: list[Tensor]
) -> Tensor:
    """The same of a loop that gets its gradients from outside: what is differentiated when ∂∇_t/∂φ is dropped."""
    now = rule(phi)
    memory, total = now.fresh(theta), 0.0
    for gradient in gradients:
        change, memory = now.update(gradient, memory)
        theta = theta + change
        total = total + f(theta)
    return total


def by_adjoints(
    f: Callable[[Tensor], Tensor],
    rule: Rule,
    phi: Params,
    theta: Tensor,
    steps: int,
    *,
    second_derivatives: bool = False,
) -> Params:
    """dL/dφ of ``summed_loss`` by the recursion above; without ``second_derivatives`` ∂∇_t/∂φ counts as zero."""
    points, memories = run(f, rule(phi), theta, steps)
    slope = grad(f)
    lam = slope(points[steps])  # λ_N, w_t = 1
    nu = [(torch.zeros_like(h), torch.zeros_like(c)) for h, c in memories[steps]]
    total = {name: torch.zeros_like(p) for name, p in phi.items()}
    for t in reversed(range(steps)):
        gradient = slope(points[t])
        _, back = vjp(lambda phi, g, h: rule(phi).update(g, h), phi, gradient, memories[t])
        in_phi, kappa, nu = back((lam, nu))  # the three transposed Jacobians at once
        total = {name: total[name] + in_phi[name] for name in phi}
        direct = gradient if t > 0 else torch.zeros_like(gradient)  # L starts at θ_1
        lam = direct + lam
        if second_derivatives:
            lam = lam + vjp(slope, points[t])[1](kappa)[0]  # H(θ_t) κ_t, and H is its own transpose
    return total
