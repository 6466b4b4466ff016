"""The point near all solution sets: distances, closest points, and Reptile with either of them or with k gradient steps.

Greek to Python: φ ``phi``, W_τ a task object with ``loss`` and ``project``, P_W(φ) ``task.project(phi)``, α ``inner_lr``, k
``steps``, ε ``rate``. Points are rows: every function takes ``[..., d]`` and treats each row for itself; all in float64.

Source: Nichol et al. 2018, section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import adapt


class Task(Protocol):
    """A loss whose minimisers form a set W."""

    def loss(self, p: Tensor) -> Tensor:
        """The loss at every row of p [..., d]: [...], zero on W."""
        ...

    def project(self, phi: Tensor) -> Tensor:
        """P_W(φ), the point of W closest to every row of φ [..., d]."""
        ...


# -- solution sets in the plane ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A task with two parameters and one equation, r(p) = 0: its solution set is a curve, its loss ½ r(p)²."""

    residual: Callable[[Tensor], Tensor]
    """r: points [..., 2] -> [...]."""
    point: Callable[[Tensor], Tensor]
    """The same curve as a path, needed only for distances: t [...] -> points [..., 2], smooth."""
    span: tuple[float, float]
    """The t that ``project`` searches: the whole of a closed curve, enough of an open one."""

    def loss(self, p: Tensor) -> Tensor:
        """½ r(p)² of every row."""
        return 0.5 * self.residual(p) ** 2

    def project(self, phi: Tensor) -> Tensor:
        """The closest point of the curve to every row of ``phi``: the best of a grid, then the place near it where the
        distance along the path turns from falling to rising. Where two points are equally close it is one of them."""
        t = torch.linspace(*self.span, 1001, dtype=phi.dtype)
        best = (phi[..., None, :] - self.point(t)).square().sum(-1).argmin(-1, keepdim=True)
        low, width = t[best] - (t[1] - t[0]), 2 * (t[1] - t[0])
        parts = torch.arange(1, 17, dtype=phi.dtype) / 16
        slope = torch.func.grad(lambda t: 0.5 * (self.point(t) - phi[..., None, :]).square().sum())
        for _ in range(12):
            rising = slope(low + width * parts) > 0
            rising[..., -1] = True
            low, width = low + width * rising.int().argmax(-1, keepdim=True) / 16, width / 16
        return self.point(low[..., 0] + width / 2)


def line(normal: tuple[float, float], offset: float, *, steepness: float = 1.0) -> Curve:
    """⟨n, p⟩ = offset for a unit vector n along ``normal``; r is ``steepness`` times the signed distance."""
    n = torch.tensor(normal, dtype=torch.float64)
    n = n / n.norm()
    along = torch.stack([-n[1], n[0]])
    return Curve(
        lambda p: steepness * (p @ n - offset), lambda t: offset * n + t[..., None] * along, (-20.0, 20.0)
    )


def ellipse(centre: tuple[float, float], radii: tuple[float, float], *, steepness: float = 1.0) -> Curve:
    """The points with Σ((pᵢ − cᵢ)/rᵢ)² = 1; r is ``steepness`` times left minus right."""
    c, a = (torch.tensor(v, dtype=torch.float64) for v in (centre, radii))
    return Curve(
        lambda p: steepness * ((((p - c) / a) ** 2).sum(-1) - 1),
        lambda t: c + a * torch.stack([torch.cos(t), torch.sin(t)], -1),
        (-torch.pi, torch.pi),
    )


def graph(
    function: Callable[[Tensor], Tensor], span: tuple[float, float] = (-8.0, 8.0), *, steepness: float = 1.0
) -> Curve:
    """The curve p₂ = f(p₁); r is ``steepness`` times p₂ − f(p₁)."""
    return Curve(
        lambda p: steepness * (p[..., 1] - function(p[..., 0])),
        lambda t: torch.stack([t, function(t)], -1),
        span,
    )


def hyperbola(slope: float) -> Curve:
    """Two weights in a row, f(x) = p₂·p₁·x, fitted to y = slope·x at x = 1: p₁p₂ = slope, the branch with p₁ > 0.

    Raises ``UserError`` for a slope that is not positive.
    """
    if slope <= 0:
        raise UserError(f"the slope of the task must be positive, got {slope}")
    root = slope**0.5
    return Curve(
        lambda p: p[..., 0] * p[..., 1] - slope,
        lambda t: root * torch.stack([t.exp(), (-t).exp()], -1),
        (-4.0, 4.0),
    )


# -- affine solution sets ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine:
    """Linear least squares, one task or several at once: loss ½‖Ap − b‖², W = {p: Ap = b} (or all least-squares solutions)."""

    A: Tensor
    """[m, d], or [T, m, d] for T tasks; with m < d there are more unknowns than equations."""
    b: Tensor
    """[m] or [T, m]."""

    def loss(self, p: Tensor) -> Tensor:
        """p [d] or [T, d] -> [] or [T]."""
        return 0.5 * ((self.A @ p[..., None])[..., 0] - self.b).square().sum(-1)

    def project(self, phi: Tensor) -> Tensor:
        """P(φ) = φ − A⁺(Aφ − b): the closest point of W, for one φ [d] (one row per task) or one φ per task [T, d]."""
        residual = (self.A @ phi[..., None])[..., 0] - self.b
        return phi - (torch.linalg.pinv(self.A) @ residual[..., None])[..., 0]

    def share(self, inner_lr: float, steps: int | None) -> Tensor:
        """M_k = I − (I − αAᵀA)ᵏ [.., d, d], with U_k(φ) = φ − M_k(φ − c) for any c in W; ``None`` is k → ∞, the projector A⁺A."""
        if steps is None:
            return torch.linalg.pinv(self.A) @ self.A
        identity = torch.eye(self.A.shape[-1], dtype=self.A.dtype)
        return identity - torch.linalg.matrix_power(identity - inner_lr * self.A.mT @ self.A, steps)

    def fixed_point(
        self, start: Tensor, *, inner_lr: float = 0.0, steps: int | None = None, rtol: float = 1e-10
    ) -> Tensor:
        """Where batched Reptile on all T tasks ends from ``start`` [d]: the solution of Σ_τ M_τ(φ − c_τ) = 0 nearest to it.

        steps: k, or ``None`` for the exact projection. The inner loop must converge, 0 < αλ < 2. Directions that the tasks
        together move by less than ``rtol`` of the most that they move any are left as they are at ``start``.
        """
        share, c = self.share(inner_lr, steps), (torch.linalg.pinv(self.A) @ self.b[..., None])[..., 0]
        pull = (share @ (c - start)[..., None])[..., 0].mean(0)
        return start + torch.linalg.pinv(share.mean(0), hermitian=True, rtol=rtol) @ pull


# -- the objective, and Reptile in two forms --------------------------------------------------------------------------


def half_squared_distance(task: Task, phi: Tensor) -> Tensor:
    """½D(φ, W)² of every row."""
    return 0.5 * (phi - task.project(phi)).square().sum(-1)


def gradient_steps(
    task: Task,
    phi: Tensor,
    *,
    inner_lr: float,
    steps: int,
) -> Tensor:
    """Where k gradient steps on the task's loss lead from every row of ``phi``; a row's loss depends on that row alone."""

    def loss(params):
        return task.loss(params["phi"]).sum()

    return adapt(loss, {"phi": phi}, inner_lr=inner_lr, steps=steps)["phi"]


def draw(tasks: Sequence[Task], n: int, generator: torch.Generator) -> list[Task]:
    """``n`` tasks, each drawn uniformly from ``tasks``."""
    return [tasks[i] for i in torch.randint(len(tasks), (n,), generator=generator).tolist()]


def reptile_by_projection(
    phi: Tensor,
    tasks: Sequence[Task],
    rates: Sequence[float],
) -> Tensor:
    """Serial Reptile with the exact closest minimiser. tasks, rates: the task and the ε of every meta-step.

    Returns the path of φ, [meta-steps + 1, d].
    """
    path = [phi]
    for task, rate in zip(tasks, rates, strict=True):  # [PROJ 1]
        end = task.project(phi)  # [PROJ 2]
        phi = (1 - rate) * phi + rate * end  # [PROJ 3]
        path.append(phi)
    return torch.stack(path)


def reptile_by_steps(
    phi: Tensor,
    tasks: Sequence[Task],
    rates: Sequence[float],
    **inner,
) -> Tensor:
    """Serial Reptile as it is: k gradient steps in the place of the projection; the rest as in ``reptile_by_projection``.

    inner: ``inner_lr`` α and ``steps`` k, as in ``gradient_steps``.
    """
    path = [phi]
    for task, rate in zip(tasks, rates, strict=True):  # [STEPS 1]
        end = gradient_steps(task, phi, **inner)  # [STEPS 2]
        phi = (1 - rate) * phi + rate * end  # [STEPS 3]
        path.append(phi)
    return torch.stack(path)


def reptile_batched(
    phi: Tensor, ends: Callable[[Tensor], Tensor], *, rate: float = 1.0, meta_steps: int
) -> Tensor:
    """All tasks in every meta-step: φ ← φ + ε·mean(end − φ). ends: φ [d] -> the end points of all tasks [T, d].

    Returns the path of φ, [meta-steps + 1, d].
    """
    path = [phi]
    for _ in range(meta_steps):
        phi = phi + rate * (ends(phi) - phi).mean(0)
        path.append(phi)
    return torch.stack(path)


# -- how far k → ∞ is from the projection -----------------------------------------------------------------------------


def flow(curve: Curve, phi: Tensor, *, intervals: int = 100) -> Tensor:
    """The paths of gradient flow on ½r² from the rows of ``phi`` to the curve, [intervals + 1, ..., 2]: k steps with α → 0,
    k → ∞.

    The flow runs along ∇r. With r itself as the clock, dp/dr = ∇r/‖∇r‖², and r runs from r(φ) to 0 (Runge-Kutta, order 4).
    ∇r must not vanish on the way.
    """
    gradient = torch.func.grad(lambda p: curve.residual(p).sum())
    r, h, p = curve.residual(phi)[..., None], 1 / intervals, phi

    def slope(p):
        g = gradient(p)
        return -r * g / g.square().sum(-1, keepdim=True)

    path = [p]
    for _ in range(intervals):
        a = slope(p)
        b = slope(p + h / 2 * a)
        c = slope(p + h / 2 * b)
        d = slope(p + h * c)
        p = p + h / 6 * (a + 2 * b + 2 * c + d)
        path.append(p)
    return torch.stack(path)


def nearby_solution(residual: Callable[[Tensor], Tensor], phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Look for a solution p near φ at which φ − p is normal to the solution set, as it is at the closest minimiser.

    Gauss-Newton on ½‖p − φ‖² + ½c‖r(p)‖² from p = φ, for c = 1, 10, …, 10¹⁰; each step has the best of seven lengths.
    residual r: [d] -> [n], n < d; works under ``vmap``. Returns p, max |r(p)|, and the share of φ − p that is tangential.
    Where both are 0, p meets the condition; whether it is the closest of all minimisers, nobody can tell from this.
    """
    jacobian = torch.func.jacrev(residual)
    lengths = torch.tensor([1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.0], dtype=phi.dtype)
    p = phi
    for c in (10.0**exponent for exponent in range(11)):
        for _ in range(10):
            J = jacobian(p)
            damped = J @ J.mT + torch.eye(J.shape[0], dtype=phi.dtype) / c
            target = phi - J.mT @ torch.linalg.solve(damped, residual(p) + J @ (phi - p))
            tried = p + lengths[:, None] * (target - p)
            cost = (tried - phi).square().sum(-1) + c * torch.func.vmap(residual)(tried).square().sum(-1)
            p = torch.take_along_dim(tried, cost.argmin().reshape(1, 1), 0)[0]
    J, gap = jacobian(p), phi - p
    tangential = gap - J.mT @ torch.linalg.solve(J @ J.mT, J @ gap)
    return p, residual(p).abs().max(), tangential.norm() / gap.norm()
