"""Few-shot classification: episodes cut from a pool of classes by indexing alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mlbook.data.pools import ClassPool, FeaturePool
from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution


@dataclass(frozen=True)
class FewShot(TaskDistribution):
    """N-way K-shot episodes from a pool: classes and examples without replacement, support and query disjoint.

    A whole meta-batch is drawn by indexing on the device of the pool; nothing is copied from the host.
    """

    pool: ClassPool
    n_way: int
    k_shot: int
    n_query: int

    def __post_init__(self) -> None:
        for name, least in {"n_way": 1, "k_shot": 1, "n_query": 0}.items():  # Reptile has no query set
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.n_way > self.pool.n_classes:
            raise UserError(
                f"{self.n_way}-way episodes need {self.n_way} classes; {self.pool.in_words} has {self.pool.n_classes}"
            )
        fewest, name = self.pool.fewest
        if self.k_shot + self.n_query > fewest:
            raise UserError(
                f"{self.k_shot} support and {self.n_query} query examples per class need "
                f"{self.k_shot + self.n_query} examples; {name} of {self.pool.in_words} has {fewest}"
            )

    def to(self, device: torch.device | str) -> FewShot:
        return replace(self, pool=self.pool.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: x float32 of shape [T, N·K or N·Q, C, H, W], y int64.

        Images of uint8 are drawn as numbers from 0 to 1, other examples (of any shape) as they are in the pool.

        ``generator`` must live on the device of the pool.
        """
        pool, device = self.pool, self.pool.images.device
        T, N, K, Q = n_tasks, self.n_way, self.k_shot, self.n_query
        options = {"generator": generator, "device": device}
        # the largest entries of noise are a draw without replacement
        noise = torch.rand(T, pool.n_classes, **options)
        classes = noise.topk(N, dim=1).indices  # [T, N]
        noise = torch.rand(T, N, pool.n_examples, **options)
        turns = None
        if pool.rotations == "as_classes":
            classes, turns = classes // 4, classes % 4
        elif pool.rotations == "per_task":
            turns = torch.randint(4, (T, N), **options)
        if pool.counts is not None:  # padding is never among the largest
            there = pool.counts[classes][:, :, None]
            padding = torch.arange(pool.n_examples, device=device) >= there
            noise = noise.masked_fill(padding, -1.0)
        examples = noise.topk(K + Q, dim=2).indices  # [T, N, K + Q]
        rows = classes[:, :, None] * pool.n_examples + examples  # of pool.rows
        if turns is not None:
            rows = rows + turns[:, :, None] * (len(pool.images) * pool.n_examples)
        labels = torch.arange(N, device=device)[:, None]
        support_y = labels.expand(N, K).reshape(1, -1).expand(T, -1)
        query_y = labels.expand(N, Q).reshape(1, -1).expand(T, -1)
        support_x = pool.drawn(rows[:, :, :K].flatten(1))
        query_x = pool.drawn(rows[:, :, K:].flatten(1))
        return Episode(support_x, support_y, query_x, query_y)


@dataclass(frozen=True)
class FewShotFeatures(TaskDistribution):
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
                f"{self.n_way}-way episodes need {self.n_way} classes; {self.pool.in_words} has {len(self.pool.features)}"
            )
        if self.k_shot + queries > self.pool.fewest:
            raise UserError(
                f"{self.k_shot} support and {queries} query examples per class need {self.k_shot + queries}; "
                f"the smallest class of {self.pool.in_words} has {self.pool.fewest}"
            )

    def to(self, device: torch.device | str) -> FewShotFeatures:
        return replace(self, pool=self.pool.to(device))

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
class LabelledImages(TaskDistribution):
    """Ordinary supervised learning in the form of episodes: every "task" is one image with the number of its class."""

    pool: ClassPool

    def to(self, device: torch.device | str) -> LabelledImages:
        return replace(self, pool=self.pool.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """``n_tasks`` images drawn with replacement: support x [T, 1, C, H, W], y int64 [T, 1]; no query set. As in ``FewShot``,
        they may be other examples."""
        pool, device = self.pool, self.pool.images.device
        classes = torch.randint(pool.n_classes, (n_tasks,), generator=generator, device=device)
        noise = torch.rand(n_tasks, generator=generator, device=device)
        if pool.counts is None:
            counts = torch.full_like(classes, pool.n_examples)
        else:
            counts = pool.counts[classes // (pool.n_classes // len(pool.images))]
        examples = torch.minimum((noise * counts).long(), counts - 1)  # rounding may reach the next integer
        rows = classes * pool.n_examples + examples
        if pool.rotations == "as_classes":
            rows = (classes // 4 + (classes % 4) * len(pool.images)) * pool.n_examples + examples
        elif pool.rotations == "per_task":
            turns = torch.randint(4, (n_tasks,), generator=generator, device=device)
            rows = rows + turns * len(pool.images) * pool.n_examples
        x = pool.drawn(rows[:, None])
        y = classes[:, None]
        return Episode(x, y, x[:, :0], y[:, :0])
