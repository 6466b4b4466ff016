"""Labelled images with the usual random changes that do not change the label."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution
from mlbook.tasks.few_shot import LabelledImages


@dataclass(frozen=True)
class Augmented(TaskDistribution):
    """``LabelledImages``, each cut to a random square, mirrored half of the time, its colours jittered."""

    images: LabelledImages
    crop: int
    """Side of the square, at most that of the image. Convolutional networks with average pooling take the whole image later."""
    jitter: float = 0.4
    """Brightness, contrast and saturation are scaled by factors drawn from 1 − jitter to 1 + jitter."""

    def __post_init__(self) -> None:
        size = self.images.pool.images.shape[-1]
        if not 1 <= self.crop <= size:
            raise UserError(f"crop must be from 1 to {size}, the size of the images, not {self.crop}")
        if not 0 <= self.jitter < 1:
            raise UserError(f"jitter must be from 0 to below 1, not {self.jitter}")

    @property
    def pool(self):
        """The pool that the images come from."""
        return self.images.pool

    def to(self, device: torch.device | str) -> Augmented:
        return replace(self, images=self.images.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """As ``LabelledImages``, with images [T, 1, C, crop, crop] from 0 to 1."""
        episode = self.images.sample(n_tasks, generator)
        x = episode.support_x[:, 0]  # [T, C, H, W]
        T, size, device = n_tasks, x.shape[-1], x.device
        corner = torch.randint(size - self.crop + 1, (2, T), generator=generator, device=device)
        mirrored = torch.rand(T, generator=generator, device=device) < 0.5
        along = torch.arange(self.crop, device=device)
        rows = corner[0][:, None] + along  # [T, crop]
        columns = corner[1][:, None] + torch.where(mirrored[:, None], self.crop - 1 - along, along)
        which = torch.arange(T, device=device)[:, None, None]
        x = x[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        factors = 1 + self.jitter * (2 * torch.rand(3, T, 1, 1, 1, generator=generator, device=device) - 1)
        x = jittered(x, *factors) if self.jitter else x
        return episode._replace(support_x=x[:, None])


def jittered(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """x [T, C, H, W] with brightness, contrast (about the image's mean) and saturation (about its grey) scaled."""
    x = x * brightness
    x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast)
    return torch.lerp(x.mean(1, keepdim=True), x, saturation).clamp(0, 1)
