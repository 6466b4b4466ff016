"""The random numbers that LEO's meta-training draws with every episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.tasks.episode import Episode, TaskDistribution

NOTHING = torch.empty(0)


class NoisyEpisode(NamedTuple):
    """An ``Episode`` with the random numbers of one pass of LEO through it.

    Frozen noise makes the meta-loss a plain function of the meta-parameters, and
    a run repeatable. Numbers that a learner does not need are empty, [T, 0].
    """

    support_x: Tensor  # [T, N·K, D], or [T, K, in] for regression
    support_y: Tensor  # [T, N·K] in blocks of K, or [T, K, out]
    query_x: Tensor  # [T, N·Q, D] or [T, Q, in]
    query_y: Tensor  # [T, N·Q] or [T, Q, out]
    z_noise: Tensor  # [T, N, K, n_z] or [T, n_z], standard normal: codes
    w_noise: Tensor  # [T, decodings, N, K, D] or [T, decodings, P], normal: weights
    support_keep: Tensor = NOTHING  # [T, N·K, D], uniform: dropout of the encoder
    support_drop: Tensor = NOTHING  # [T, steps, N·K, D], uniform: of inner steps
    query_drop: Tensor = NOTHING  # [T, N·Q, D], uniform: of the query loss

    task = Episode.task
    n_tasks = Episode.n_tasks
    to = Episode.to


AnyEpisode = Episode | NoisyEpisode


@dataclass(frozen=True)
class LEONoise(TaskDistribution):
    """The tasks of another distribution, with the random numbers that a LEO needs."""

    tasks: TaskDistribution
    shapes: Callable[[Episode], dict[str, tuple[int, ...]]]
    """The learner's ``noise_shapes``: the shape of a task's noise, field by field."""

    def to(self, device: torch.device | str) -> LEONoise:
        return replace(self, tasks=self.tasks.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> NoisyEpisode:
        """Episodes of ``tasks``; their noise is drawn after them, field after field."""
        episodes = self.tasks.sample(n_tasks, generator)
        shapes, noise = self.shapes(episodes), {}
        for name in NoisyEpisode._fields[4:]:
            draw = torch.randn if name in ("z_noise", "w_noise") else torch.rand
            shape = (n_tasks, *shapes.get(name, (0,)))
            noise[name] = draw(shape, generator=generator, device=generator.device)
        return NoisyEpisode(*episodes, **noise)
