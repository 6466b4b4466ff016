"""Sines and lines: regression tasks of two kinds with noisy targets (LEO, section 4.1).

Of the paper: half of the tasks are sines, half are lines, the noise on the targets has the standard deviation 0.3, five
shots. The ranges are those of the work that the paper took these tasks from (PLATIPUS, Finn et al. 2018): sines as in MAML,
slope and level of the lines from −3 to 3, inputs from −5 to 5. Ours: the number of queries, and queries without noise at
meta-test, where the error is then that of the curve itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution


class Curves(NamedTuple):
    """T curves: y = A·sin(x − φ), or y = a·x + b where ``is_line``."""

    is_line: Tensor  # [T], bool
    scale: Tensor  # [T], amplitude A or slope a
    shift: Tensor  # [T], phase φ or level b

    def at(self, x: Tensor) -> Tensor:
        """x [T, n, 1] -> y [T, n, 1], without noise."""
        is_line, scale, shift = (field[:, None, None] for field in self)
        return torch.where(is_line, scale * x + shift, scale * torch.sin(x - shift))


class KnownEpisode(NamedTuple):
    """An ``Episode`` with the curves that it was drawn from (what a learner is not told)."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    is_line: Tensor
    scale: Tensor
    shift: Tensor

    @property
    def episode(self) -> Episode:
        return Episode(*self[:4])

    @property
    def curves(self) -> Curves:
        return Curves(*self[4:])


@dataclass(frozen=True)
class SinesAndLines(TaskDistribution):
    """Tasks that are a sine or a line, with equal chances; support targets are noisy."""

    k_shot: int = 5
    n_query: int = 15
    noise: float = 0.3
    """Standard deviation of the Gaussian noise on the targets."""
    noisy_queries: bool = True
    """Whether query targets are noisy as well: they are in meta-training; at meta-test they are the curve itself."""
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    slope: tuple[float, float] = (-3.0, 3.0)
    level: tuple[float, float] = (-3.0, 3.0)
    x_range: tuple[float, float] = (-5.0, 5.0)

    def __post_init__(self) -> None:
        if self.k_shot < 1 or self.n_query < 1:
            raise UserError("k_shot and n_query must be at least 1")
        if not self.noise >= 0:
            raise UserError(f"noise is a standard deviation and must not be negative, got {self.noise}")

    def sample_curves(self, n_tasks: int, generator: torch.Generator) -> Curves:
        """``n_tasks`` curves, without points."""

        def uniform(bounds: tuple[float, float]) -> Tensor:
            low, high = bounds
            return low + (high - low) * torch.rand(n_tasks, generator=generator, device=generator.device)

        is_line = torch.randint(2, (n_tasks,), generator=generator, device=generator.device).bool()
        scale = torch.where(is_line, uniform(self.slope), uniform(self.amplitude))
        return Curves(is_line, scale, torch.where(is_line, uniform(self.level), uniform(self.phase)))

    def sample_known(self, n_tasks: int, generator: torch.Generator) -> KnownEpisode:
        """Episodes for ``n_tasks`` tasks with their curves: support_x, support_y [T, K, 1], query the same with Q."""
        curves = self.sample_curves(n_tasks, generator)
        options = {"generator": generator, "device": generator.device}
        low, high = self.x_range
        x = low + (high - low) * torch.rand(n_tasks, self.k_shot + self.n_query, 1, **options)
        noise = self.noise * torch.randn(x.shape, **options)
        if not self.noisy_queries:
            noise[:, self.k_shot :] = 0
        y = curves.at(x) + noise
        K = self.k_shot
        return KnownEpisode(x[:, :K], y[:, :K], x[:, K:], y[:, K:], *curves)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        return self.sample_known(n_tasks, generator).episode


@dataclass(frozen=True)
class Known(TaskDistribution):
    """The same tasks, each with its curve: ``sample`` gives a ``KnownEpisode``."""

    tasks: SinesAndLines

    def sample(self, n_tasks: int, generator: torch.Generator) -> KnownEpisode:
        return self.tasks.sample_known(n_tasks, generator)
