"""MAML whose optimum is known: models that are linear in their parameters, with squared error.

With features ψ(x) the prediction is ψ(x)·θ. For a support set with the matrix X [K, P] of features and the targets y, N gradient
steps on the mean squared error end at

    θᴺ = θ + Xᵀ C (y − Xθ),        C = (2α/K) Σ_{j<N} (I − αS)ʲ,   S = (2/K) X Xᵀ   [K, K],

so the error on the query set is linear in θ, J(θ) is a sum of squares, and its minimum is the solution of one linear system.

Greek to Python: α ``inner_lr``, N ``steps``, C ``step_matrix``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlbook.errors import UserError
from mlbook.tasks import Episode


class TanhFeatures(nn.Module):
    """f(x) = Σ θ_p·ψ_p(x) with ψ_p(x) = s·tanh(slope_p·(x − centre_p)), fixed at random, and one constant; only θ is a parameter.

    size: number of random features, P − 1. span: centres lie in ±span.
    """

    def __init__(self, size: int = 40, *, seed: int = 0, span: float = 3.0, slope: float = 4.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        draw = 2 * torch.rand(2, size, generator=g, dtype=torch.float64) - 1
        self.register_buffer("slopes", slope * draw[0])
        self.register_buffer("centres", span * draw[1])
        self.scale = 3 / size**0.5
        self.theta = nn.Parameter(torch.zeros(size + 1, dtype=torch.float64))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """θ = 0, where nothing is random."""
        nn.init.zeros_(self.theta)

    def features(self, x: Tensor) -> Tensor:
        """x [..., 1] -> [..., P]."""
        curves = self.scale * torch.tanh(self.slopes.to(x.dtype) * (x - self.centres.to(x.dtype)))
        return torch.cat([curves, torch.ones_like(x)], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., 1] -> [..., 1]."""
        return (self.features(x) @ self.theta)[..., None]


class Design(NamedTuple):
    """The error after adaptation as a function of the start: residual A·θ − t of every task."""

    matrix: Tensor  # A [T, B, P]
    target: Tensor  # t [T, B]

    def losses(self, start: Tensor) -> Tensor:
        """Mean squared error of every task after adaptation from ``start`` [P]: [T]."""
        return (self.matrix @ start - self.target).square().mean(1)

    def part(self, tasks: Tensor) -> Design:
        """Some of the tasks (a mask or indices)."""
        return Design(self.matrix[tasks], self.target[tasks])


def step_matrix(x: Tensor, *, inner_lr: float, steps: int) -> Tensor:
    """C of the module's formula for features x [T, K, P]: [T, K, K], from the eigenvalues s of S: (1 − (1 − αs)ᴺ)/s."""
    K = x.shape[-2]
    s, vectors = torch.linalg.eigh((2 / K) * x @ x.mT)
    s = s.clamp_min(0)
    small = inner_lr * s < 0.5  # there log1p keeps the digits that 1 − (1 − αs)ᴺ would lose
    exact = -torch.expm1(steps * torch.log1p(-torch.where(small, inner_lr * s, 0)))
    moved = torch.where(small, exact, 1 - (1 - inner_lr * s) ** steps)
    ratio = torch.where(s > 1e-14, moved / s.clamp_min(1e-14), inner_lr * steps)
    return (2 / K) * (vectors * ratio[:, None]) @ vectors.mT


def after_adaptation(
    model: TanhFeatures, episodes: Episode, *, inner_lr: float, steps: int, on: str = "query"
) -> Design:
    """The residuals on the ``query`` or the ``support`` set after ``steps`` inner steps, as a function of θ."""
    if on not in ("query", "support"):
        raise UserError(f"on must be query or support, not {on!r}")
    x, y = model.features(episodes.support_x.double()), episodes.support_y.double()
    to_x, to_y = (
        (x, y) if on == "support" else (model.features(episodes.query_x.double()), episodes.query_y.double())
    )
    through = to_x @ x.mT @ step_matrix(x, inner_lr=inner_lr, steps=steps)  # [T, B, K]
    return Design(to_x - through @ x, (to_y - through @ y)[..., 0])


def best_start(design: Design, *, ridge: float = 1e-6) -> Tensor:
    """The θ that minimises the mean loss of the tasks of ``design``, plus ``ridge``·‖θ‖² so that there is exactly one: [P]."""
    A, t = design.matrix.flatten(0, 1), design.target.flatten()
    P = A.shape[1]
    return torch.linalg.solve(A.mT @ A / len(A) + ridge * torch.eye(P, dtype=A.dtype), A.mT @ t / len(A))


def starts_by_turns(
    design: Design, n_starts: int, generator: torch.Generator, *, ridge: float = 1e-6, turns: int = 60
) -> tuple[Tensor, list[float]]:
    """Several starts, each the best one for the tasks that are best off with it: like k-means, with the loss after adaptation
    in the place of the distance.

    Returns the starts [n_starts, P] and the mean loss after every turn. It begins with random groups; each half turn solves a
    least-squares problem or takes a minimum, so the loss never rises (up to the ridge), and a minimum may be a local one.
    """
    if n_starts < 1:
        raise UserError(f"n_starts must be at least 1, not {n_starts}")
    group = torch.randint(n_starts, (len(design.target),), generator=generator)
    starts, history = [None] * n_starts, []
    for _ in range(turns):
        for m in range(n_starts):
            if (group == m).any() or starts[m] is None:
                starts[m] = best_start(design.part(group == m), ridge=ridge)
        losses = torch.stack([design.losses(start) for start in starts])
        history.append(float(losses.amin(0).mean()))
        if torch.equal(group, losses.argmin(0)):
            break
        group = losses.argmin(0)
    return torch.stack(starts), history


def chosen_losses(starts: Tensor, support: Design, query: Design) -> tuple[Tensor, Tensor]:
    """Every task takes the start with the smallest loss on its *support* set after adaptation: query losses [T], choices [T]."""
    choice = torch.stack([support.losses(start) for start in starts]).argmin(0)
    losses = torch.stack([query.losses(start) for start in starts])
    return losses.gather(0, choice[None])[0], choice
