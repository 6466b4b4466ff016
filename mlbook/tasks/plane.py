"""Few-shot classification in a plane: bent sectors, seen through bumps on a grid. Small enough to draw every part of LEO."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution

REACH = 3.0
"""Half the side of the square that is drawn; no point lies outside."""


def bumps(points: Tensor, grid: int = 7, width: float = 0.8) -> Tensor:
    """Features of points [..., 2]: [..., grid²], Gaussian bumps of the given width on a grid over the square, at length 1.

    Bump number i·grid + j stands in row i (x₂ from −3 up) and column j (x₁ from −3 up).
    """
    places = torch.linspace(-REACH, REACH, grid, dtype=points.dtype, device=points.device)
    x1, x2 = points[..., 0, None], points[..., 1, None]
    row, column = (-((x - places) ** 2) / (2 * width**2) for x in (x2, x1))
    both = (row[..., :, None] + column[..., None, :]).flatten(-2).exp()
    return torch.nn.functional.normalize(both, dim=-1)


@dataclass(frozen=True)
class BentSectors(TaskDistribution):
    """Tasks that cut the plane into N sectors about the origin, one per class, with boundaries bent alike in all tasks.

    In polar coordinates (r, angle) a boundary is the spiral angle = start + bend · r. What a task draws are the starts, and which
    sector is which class; what all tasks share is the bend. A class has two free numbers, where its sector begins and ends: one
    example says little of them, three say more.
    """

    k_shot: int = 1
    n_query: int = 10
    n_way: int = 3
    bend: float = 0.8
    """Radians by which a boundary turns per unit of radius."""
    smallest: float = 1.6
    """Least width of a sector in radians. With three classes none is wider than half a turn then."""
    margin: float = 0.05
    """Part of a sector's width on either side that has no points."""
    radii: tuple[float, float] = (0.6, 2.8)
    grid: int = 7
    width: float = 0.8
    """Of the bumps, see ``bumps``."""

    def __post_init__(self) -> None:
        if min(self.k_shot, self.n_query, self.n_way) < 1:
            raise UserError("n_way, k_shot and n_query must be at least 1")
        if not 0 <= self.smallest * self.n_way <= 2 * math.pi:
            raise UserError(f"{self.n_way} sectors of {self.smallest} radians are more than a turn")

    @property
    def features(self) -> int:
        """D, length of a feature vector."""
        return self.grid**2

    def points(self, n_tasks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Support points [T, N, K, 2] and query points [T, N, Q, 2]."""
        T, N, M = n_tasks, self.n_way, self.k_shot + self.n_query
        options = {"generator": generator, "device": generator.device}
        # the rest of the turn is shared out at random: all ways to share it are equally likely
        share = -torch.rand(T, N, **options).clamp_min(1e-9).log()
        share = share / share.sum(1, keepdim=True)
        size = self.smallest + (2 * math.pi - N * self.smallest) * share
        start = size.cumsum(1) - size + 2 * math.pi * torch.rand(T, 1, **options)
        order = torch.rand(T, N, **options).argsort(1)
        start, size = start.gather(1, order)[:, :, None], size.gather(1, order)[:, :, None]
        inside = self.margin + (1 - 2 * self.margin) * torch.rand(T, N, M, **options)
        low, high = self.radii
        r = low + (high - low) * torch.rand(T, N, M, **options)
        angle = start + size * inside + self.bend * r
        points = torch.stack([r * angle.cos(), r * angle.sin()], -1)
        return points[:, :, : self.k_shot], points[:, :, self.k_shot :]

    def episode(self, support: Tensor, query: Tensor) -> Episode:
        """Points [..., N, K, 2] and [..., N, Q, 2] as an episode over their features, classes in blocks."""

        def part(points: Tensor) -> tuple[Tensor, Tensor]:
            *tasks, N, M, _ = points.shape
            labels = torch.arange(N, device=points.device)[:, None].expand(*tasks, N, M)
            x = bumps(points, self.grid, self.width)
            return x.reshape(*tasks, N * M, -1), labels.reshape(*tasks, N * M)

        return Episode(*part(support), *part(query))

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: x float32 [T, N·K or N·Q, D], y int64."""
        return self.episode(*self.points(n_tasks, generator))


def nearest_mean(support: Tensor, query: Tensor) -> Tensor:
    """Class of the nearest mean of the support points in the plane: [..., N, K, 2] and [..., N, Q, 2] -> [..., N, Q]."""
    means = support.mean(-2)[..., None, None, :, :]
    return (query[..., None, :] - means).square().sum(-1).argmin(-1)
