"""The random numbers that LEO's meta-training draws with every episode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.tasks.episode import Episode, TaskDistribution
from mlbook.tasks.few_shot import FewShotFeatures
from mlbook.tasks.sines_lines import SinesAndLines


class NoisyEpisode(NamedTuple):
    """An ``Episode`` with the random numbers of one pass of LEO through it. Frozen noise makes the meta-loss a plain function of
    the meta-parameters, and makes runs repeatable whatever computes them."""

    support_x: Tensor  # [T, N·K, D]
    support_y: Tensor  # [T, N·K], classes in blocks of K
    query_x: Tensor  # [T, N·Q, D]
    query_y: Tensor  # [T, N·Q]
    z_noise: Tensor  # [T, N, K, n_z], standard normal
    w_noise: Tensor  # [T, decodings, N, K, D], standard normal
    support_keep: Tensor  # [T, N·K, D], uniform in [0, 1): dropout before the encoder
    support_drop: (
        Tensor  # [T, steps, N·K, D], uniform: dropout before the classifier, anew at every inner step
    )
    query_drop: Tensor  # [T, N·Q, D], uniform

    task = Episode.task
    n_tasks = Episode.n_tasks
    to = Episode.to


@dataclass(frozen=True)
class Noisy(TaskDistribution):
    """The tasks of another distribution, each with the random numbers that LEO's meta-training draws."""

    tasks: FewShotFeatures
    latent: int
    """n_z."""
    latent_steps: int
    finetuning_steps: int

    def to(self, device: torch.device | str) -> Noisy:
        return replace(self, tasks=self.tasks.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> NoisyEpisode:
        """Episodes of ``tasks`` with all noise, standard normal or uniform."""
        episodes = self.tasks.sample(n_tasks, generator)
        T, S, D = episodes.support_x.shape
        N, K = self.tasks.n_way, self.tasks.k_shot
        steps = self.latent_steps + self.finetuning_steps
        options = {"generator": generator, "device": generator.device}
        return NoisyEpisode(
            *episodes,
            torch.randn(T, N, K, self.latent, **options),
            torch.randn(T, self.latent_steps + 1, N, K, D, **options),
            torch.rand(T, S, D, **options),
            torch.rand(T, steps, S, D, **options),
            torch.rand(T, episodes.query_x.shape[1], D, **options),
        )


class NoisyPoints(NamedTuple):
    """An ``Episode`` of regression with the random numbers of one pass of LEO through it (of features: ``NoisyEpisode``)."""

    support_x: Tensor  # [T, K, in]
    support_y: Tensor  # [T, K, out]
    query_x: Tensor  # [T, Q, in]
    query_y: Tensor  # [T, Q, out]
    z_noise: Tensor  # [T, n_z], standard normal
    w_noise: Tensor  # [T, decodings, P], standard normal, for the P parameters that the decoder makes

    task = Episode.task
    n_tasks = Episode.n_tasks
    to = Episode.to


@dataclass(frozen=True)
class WithNoise(TaskDistribution):
    """The tasks of another distribution, each with the random numbers that LEO's meta-training on regression draws."""

    tasks: SinesAndLines
    latent: int
    """n_z."""
    parameters: int
    """P, of the base network."""
    latent_steps: int

    def sample(self, n_tasks: int, generator: torch.Generator) -> NoisyPoints:
        episodes = self.tasks.sample(n_tasks, generator)
        options = {"generator": generator, "device": generator.device}
        return NoisyPoints(
            *episodes,
            torch.randn(n_tasks, self.latent, **options),
            torch.randn(n_tasks, self.latent_steps + 1, self.parameters, **options),
        )
