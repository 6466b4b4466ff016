"""Small labelled image sets as tasks: what a policy of data augmentation is searched and tested on. The tasks axis T is first.

A task is a classification problem with few training images, on which a network is trained from scratch, and images of the same
classes that were held back: in a search they are the validation set, in a test the test set. No policy changes those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.data.pools import ClassPool
from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution


class SmallSet(NamedTuple):
    """Images to train a network on, images that were held back, and the seed of all other randomness of the training."""

    x: Tensor  # [T, M, C, H, W], 0 to 1
    labels: Tensor  # [T, M]
    held_x: Tensor  # [T, B, C, H, W]
    held_labels: Tensor  # [T, B]
    seed: Tensor  # [T], whole numbers

    task = Episode.task
    to = Episode.to

    @property
    def n_tasks(self) -> int:
        return self.x.shape[0]


@dataclass(frozen=True)
class SmallSets(TaskDistribution):
    """``n_way`` classes of a pool, ``n_train`` images of each to train on and ``n_held`` held back, averaged down to ``side``
    pixels. Images keep the orientation that they have in the pool."""

    pool: ClassPool
    n_way: int = 5
    n_train: int = 5
    n_held: int = 10
    side: int = 14

    def __post_init__(self) -> None:
        if self.n_way > self.pool.n_classes:
            raise UserError(f"{self.n_way} classes were asked for; the pool has {self.pool.n_classes}")
        if self.n_train + self.n_held > self.pool.fewest[0]:
            raise UserError(
                f"{self.n_train} images to train on and {self.n_held} held back are more than the "
                f"{self.pool.fewest[0]} of the smallest class"
            )
        if self.pool.images.shape[-1] % self.side:
            raise UserError(f"side must divide {self.pool.images.shape[-1]}, got {self.side}")

    def to(self, device: torch.device) -> SmallSets:
        return replace(self, pool=self.pool.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> SmallSet:
        """``n_tasks`` sets; ``generator`` lives on the pool's device."""
        images, device = self.pool.images, generator.device
        classes = torch.rand(n_tasks, len(images), generator=generator, device=device).argsort(1)
        order = torch.rand(n_tasks, self.n_way, self.pool.fewest[0], generator=generator, device=device)
        examples = order.argsort(2)[:, :, : self.n_train + self.n_held]
        drawn = images[classes[:, : self.n_way, None], examples].float() / 255  # [T, N, K + Q, C, H, W]
        small = F.avg_pool2d(drawn.flatten(0, 2), drawn.shape[-1] // self.side).view(
            *drawn.shape[:4], self.side, self.side
        )
        labels = torch.arange(self.n_way, device=device)[None, :, None].expand(n_tasks, -1, drawn.shape[2])

        def part(tensor: Tensor, where: slice) -> Tensor:
            return tensor[:, :, where].flatten(1, 2)

        train, held = slice(0, self.n_train), slice(self.n_train, None)
        seed = torch.randint(2**31, (n_tasks,), generator=generator, device=device)
        return SmallSet(part(small, train), part(labels, train), part(small, held), part(labels, held), seed)
