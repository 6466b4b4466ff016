"""Families of curves, and distributions made of them: what makes tasks differ in kind and not only in degree."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution


@dataclass(frozen=True)
class Waves(TaskDistribution):
    """Tasks y = A·sin(ωx − φ): amplitude A and phase φ uniform, one frequency ω for all or a whole number drawn per task."""

    frequency: float | tuple[int, ...] = 1.0
    """ω, or the whole numbers that every task draws its own from."""
    k_shot: int = 10
    n_query: int = 10
    amplitude: tuple[float, float] = (0.5, 2.0)
    phase: tuple[float, float] = (0.0, math.pi)
    x_range: tuple[float, float] = (-3.0, 3.0)

    def __post_init__(self) -> None:
        _check(self.k_shot, self.n_query)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: support_x, support_y [T, K, 1], query the same with Q."""
        return self.sample_labelled(n_tasks, generator)[0]

    def sample_labelled(self, n_tasks: int, generator: torch.Generator) -> tuple[Episode, Tensor]:
        """The episodes and the frequency of every task, [T]."""
        A, phase = (_uniform(n_tasks, bounds, generator) for bounds in (self.amplitude, self.phase))
        if isinstance(self.frequency, tuple):
            choices = torch.tensor(self.frequency, dtype=A.dtype, device=A.device)
            drawn = torch.randint(len(choices), (n_tasks,), generator=generator, device=A.device)
            omega = choices[drawn]
        else:
            omega = torch.full((n_tasks,), float(self.frequency), device=A.device)
        shape = (-1, 1, 1)
        x = _inputs(self, n_tasks, generator)
        y = A.view(shape) * torch.sin(omega.view(shape) * x - phase.view(shape))
        return _divided(x, y, self.k_shot), omega


@dataclass(frozen=True)
class Lines(TaskDistribution):
    """Tasks y = a·x + b: slope a and level b uniform over ``bounds``."""

    k_shot: int = 10
    n_query: int = 10
    bounds: tuple[float, float] = (-1.0, 1.0)
    x_range: tuple[float, float] = (-3.0, 3.0)

    def __post_init__(self) -> None:
        _check(self.k_shot, self.n_query)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: support_x, support_y [T, K, 1], query the same with Q."""
        a, b = (_uniform(n_tasks, self.bounds, generator).view(-1, 1, 1) for _ in range(2))
        x = _inputs(self, n_tasks, generator)
        return _divided(x, a * x + b, self.k_shot)


@dataclass(frozen=True)
class Mixture(TaskDistribution):
    """Tasks of several families, each task from one of them with equal chances. The families' episodes have equal shapes."""

    families: tuple[TaskDistribution, ...]

    def __post_init__(self) -> None:
        if not self.families:
            raise UserError("a mixture needs at least one family")

    def to(self, device: torch.device | str) -> Mixture:
        return replace(self, families=tuple(family.to(device) for family in self.families))

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """``n_tasks`` episodes, without the number of the family."""
        return self.sample_labelled(n_tasks, generator)[0]

    def sample_labelled(self, n_tasks: int, generator: torch.Generator) -> tuple[Episode, Tensor]:
        """The episodes and the number of every task's family, [T] (what a learner is not told)."""
        drawn = [family.sample(n_tasks, generator) for family in self.families]
        label = torch.randint(len(drawn), (n_tasks,), generator=generator, device=generator.device)
        rows = torch.arange(n_tasks, device=generator.device)
        return Episode(*(torch.stack(fields)[label, rows] for fields in zip(*drawn, strict=True))), label


class Finite(TaskDistribution):
    """``n_tasks`` episodes of a distribution, drawn once: a meta-batch draws from these (with replacement), again and again."""

    def __init__(self, tasks: TaskDistribution, n_tasks: int, generator: torch.Generator) -> None:
        if n_tasks < 1:
            raise UserError(f"a finite set needs at least one task, not {n_tasks}")
        self.episodes = tasks.sample(n_tasks, generator)

    def to(self, device: torch.device | str) -> Finite:
        moved = copy.copy(self)
        moved.episodes = self.episodes.to(device)
        return moved

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """``n_tasks`` of the episodes, with replacement."""
        device = generator.device
        index = torch.randint(self.episodes.n_tasks, (n_tasks,), generator=generator, device=device)
        return Episode(*(field[index] for field in self.episodes))


def _check(k_shot: int, n_query: int) -> None:
    if k_shot < 1 or n_query < 1:
        raise UserError("k_shot and n_query must be at least 1")


def _uniform(n: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)


def _inputs(tasks: Waves | Lines, n_tasks: int, generator: torch.Generator) -> Tensor:
    low, high = tasks.x_range
    shape = (n_tasks, tasks.k_shot + tasks.n_query, 1)
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def _divided(x: Tensor, y: Tensor, k: int) -> Episode:
    return Episode(x[:, :k], y[:, :k], x[:, k:], y[:, k:])
