"""Other tasks with changed support sets: shorter ones, noisy ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution


@dataclass(frozen=True)
class Prefixes(TaskDistribution):
    """Support sets of another length in every meta-batch: the first k points of each, k uniform from ``least`` to all of them.

    So a learner meets every number of shots up to that of ``tasks``. The query sets stay as they are.
    """

    tasks: TaskDistribution
    least: int = 1

    def to(self, device: torch.device | str) -> Prefixes:
        return replace(self, tasks=self.tasks.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes with support_x [T, k, D], support_y [T, k, 1] and the query sets of ``tasks``."""
        episodes = self.tasks.sample(n_tasks, generator)
        most = episodes.support_x.shape[1]
        if not 1 <= self.least <= most:
            raise UserError(f"least must be from 1 to {most}, the points of a support set, not {self.least}")
        drawn = torch.randint(self.least, most + 1, (1,), generator=generator, device=generator.device)
        k = int(drawn)
        return episodes._replace(support_x=episodes.support_x[:, :k], support_y=episodes.support_y[:, :k])


@dataclass(frozen=True)
class NoisySupport(TaskDistribution):
    """The same tasks with Gaussian noise on the targets of their support sets; what is asked for stays the clean value.

    The noise is drawn after the tasks, so these are the tasks that ``tasks`` gives.
    """

    tasks: TaskDistribution
    noise: float
    """Its standard deviation."""

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise UserError(f"noise is a standard deviation and must not be negative, got {self.noise}")

    def to(self, device: torch.device | str) -> NoisySupport:
        return replace(self, tasks=self.tasks.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        episodes = self.tasks.sample(n_tasks, generator)
        y = episodes.support_y
        noise = torch.randn(y.shape, generator=generator, device=generator.device, dtype=y.dtype)
        return episodes._replace(support_y=y + self.noise * noise)
