"""Few-shot episodes over features instead of images, and the noise that a stochastic meta-learner needs with each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.episode import Episode


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
class FeaturePool:
    """Classes with feature vectors, resident on one device: features [classes, examples, D], float16 or float32.

    normalise: scale every vector to length 1 when it is drawn. counts: [classes], examples that each class really has (the rest
    is padding), or None where all have all. names: one per class, or empty.
    """

    features: Tensor
    normalise: bool = True
    counts: Tensor | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.features.dim() != 3 or not self.features.is_floating_point():
            raise UserError("FeaturePool needs a floating-point tensor of shape [classes, examples, D]")

    def to(self, device: torch.device | str) -> FeaturePool:
        counts = None if self.counts is None else self.counts.to(device)
        return replace(self, features=self.features.to(device), counts=counts)

    @property
    def fewest(self) -> int:
        return self.features.shape[1] if self.counts is None else int(self.counts.min())

    def joined(self, other: FeaturePool) -> FeaturePool:
        """The classes of both (meta-train with meta-validation, as the published LEO numbers need)."""
        examples = max(self.features.shape[1], other.features.shape[1])

        def padded(pool: FeaturePool) -> tuple[Tensor, Tensor]:
            classes, own, D = pool.features.shape
            extra = pool.features.new_zeros(classes, examples - own, D)
            counts = torch.full((classes,), own) if pool.counts is None else pool.counts
            return torch.cat([pool.features, extra], 1), counts

        (a, n), (b, m) = padded(self), padded(other)
        counts = torch.cat([n, m])
        return replace(
            self,
            features=torch.cat([a, b]),
            counts=None if bool((counts == examples).all()) else counts,
            names=self.names + other.names,
        )


@dataclass(frozen=True)
class FewShotFeatures:
    """N-way K-shot episodes over a ``FeaturePool``; like ``FewShot`` on images.

    n_query: queries per class, or None for all that remain (the official evaluation of LEO, where classes are of equal size).
    """

    pool: FeaturePool
    n_way: int
    k_shot: int
    n_query: int | None

    def __post_init__(self) -> None:
        queries = 1 if self.n_query is None else self.n_query
        if min(self.n_way, self.k_shot, queries) < 1:
            raise UserError("n_way, k_shot and n_query must be at least 1")
        if self.n_way > len(self.pool.features):
            raise UserError(
                f"{self.n_way}-way episodes need {self.n_way} classes; the pool has {len(self.pool.features)}"
            )
        if self.k_shot + queries > self.pool.fewest:
            raise UserError(
                f"{self.k_shot} support and {queries} query examples per class need {self.k_shot + queries}; "
                f"the smallest class of the pool has {self.pool.fewest}"
            )

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: x float32 [T, N·K or N·Q, D], y int64. ``generator`` lives on the pool's device."""
        features, device = self.pool.features, self.pool.features.device
        T, N, K = n_tasks, self.n_way, self.k_shot
        Q = self.pool.fewest - K if self.n_query is None else self.n_query
        noise = torch.rand(T, len(features), generator=generator, device=device)
        classes = noise.topk(N, dim=1).indices  # [T, N]
        noise = torch.rand(T, N, features.shape[1], generator=generator, device=device)
        if self.pool.counts is not None:
            padding = torch.arange(features.shape[1], device=device) >= self.pool.counts[classes][:, :, None]
            noise = noise.masked_fill(padding, -1.0)
        examples = noise.topk(K + Q, dim=2).indices  # [T, N, K + Q]
        x = features[classes[:, :, None], examples].float()
        if self.pool.normalise:
            x = torch.nn.functional.normalize(x, dim=-1)
        labels = torch.arange(N, device=device)[None, :, None]
        support_y, query_y = labels.expand(T, N, K).reshape(T, -1), labels.expand(T, N, Q).reshape(T, -1)
        D = x.shape[-1]
        return Episode(x[:, :, :K].reshape(T, -1, D), support_y, x[:, :, K:].reshape(T, -1, D), query_y)


@dataclass(frozen=True)
class Noisy:
    """The tasks of another distribution, each with the random numbers that LEO's meta-training draws."""

    tasks: FewShotFeatures
    latent: int
    """n_z."""
    latent_steps: int
    finetuning_steps: int

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
