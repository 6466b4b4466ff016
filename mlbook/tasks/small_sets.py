"""Small labelled image sets as tasks: what a policy of data augmentation is searched and tested on. The tasks axis T is first.

A task is a classification problem. It has a few training images, on which a network is trained from scratch, and images of the
same classes that are held back: the validation set of a search, the test set of a test. No policy changes those.
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
        """T."""
        return self.x.shape[0]


@dataclass(frozen=True)
class SmallSets(TaskDistribution):
    """Small sets from a pool. Images keep the orientation that they have in the pool.

    Raises ``UserError`` where the pool has too few classes or images, or where ``side`` does not divide the width of its images.
    """

    pool: ClassPool
    n_way: int = 5
    n_train: int = 5
    """Training images of each class."""
    n_held: int = 10
    """Images of each class that are held back."""
    side: int = 14
    """Width in pixels, to which images are averaged down."""

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

    def to(self, device: torch.device | str) -> SmallSets:
        """The same with the pool on another device."""
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
