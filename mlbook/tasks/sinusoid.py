"""Sine waves: the regression tasks of MAML (section 5.1 of the paper; ranges as in its official code)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution


@dataclass(frozen=True)
class Sinusoids(TaskDistribution):
    """Tasks y = A·sin(x − φ): amplitude A, phase φ and inputs x uniform over their ranges."""

    k_shot: int = 5
    """Support points per task, K."""
    n_query: int = 5
    """Query points per task (the official code takes as many as support points)."""
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    x_range: tuple[float, float] = (-5.0, 5.0)
    oracle: bool = False
    """Append A and φ to every input: what a learner could do if it were told the task (the paper's oracle)."""

    def __post_init__(self) -> None:
        if self.k_shot < 1 or self.n_query < 1:
            raise UserError("k_shot and n_query must be at least 1")

    def sample_tasks(self, n_tasks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Amplitudes and phases of ``n_tasks`` tasks, each [T]."""
        device = generator.device
        amplitude = _uniform((n_tasks,), self.amplitude, generator, device)
        phase = _uniform((n_tasks,), self.phase, generator, device)
        return amplitude, phase

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: support_x [T, K, 1 or 3], support_y [T, K, 1], query the same with Q."""
        amplitude, phase = self.sample_tasks(n_tasks, generator)
        points = self.k_shot + self.n_query
        x = _uniform((n_tasks, points, 1), self.x_range, generator, generator.device)
        y = amplitude[:, None, None] * torch.sin(x - phase[:, None, None])
        if self.oracle:
            x = with_oracle(x, amplitude, phase)
        k = self.k_shot
        return Episode(x[:, :k], y[:, :k], x[:, k:], y[:, k:])


@dataclass(frozen=True)
class GridSinusoids(TaskDistribution):
    """Reptile's sine waves (section 3 of its paper): y = A·sin(x + φ) with every phase, on a grid of 50 inputs from −5 to 5.

    A task is the wave at all points of the grid. The support set is a draw of them without replacement, the query set the grid.
    """

    k_shot: int = 10
    """Support points per task; 50 for all of them (meta-training)."""
    n_points: int = 50
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, 2 * math.pi)
    x_range: tuple[float, float] = (-5.0, 5.0)

    def __post_init__(self) -> None:
        if not 1 <= self.k_shot <= self.n_points:
            raise UserError(
                f"k_shot must be from 1 to {self.n_points}, the points of the grid, not {self.k_shot}"
            )

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: support_x, support_y [T, K, 1]; query_x, query_y [T, n_points, 1]."""
        device = generator.device
        amplitude = _uniform((n_tasks, 1, 1), self.amplitude, generator, device)
        phase = _uniform((n_tasks, 1, 1), self.phase, generator, device)
        grid = torch.linspace(*self.x_range, self.n_points, device=device)
        x = grid[None, :, None].expand(n_tasks, -1, 1)
        y = amplitude * torch.sin(x + phase)
        noise = torch.rand(n_tasks, self.n_points, 1, generator=generator, device=device)
        chosen = noise.topk(self.k_shot, dim=1).indices
        return Episode(x.gather(1, chosen), y.gather(1, chosen), x, y)


def with_oracle(x: Tensor, amplitude: Tensor, phase: Tensor) -> Tensor:
    """x [T, n, 1] with the task's amplitude and phase [T] appended to every input: [T, n, 3]."""
    T, n, _ = x.shape
    told = torch.stack([amplitude, phase], dim=-1)[:, None].expand(T, n, 2)
    return torch.cat([x, told], dim=-1)


def _uniform(shape, bounds, generator, device) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)
