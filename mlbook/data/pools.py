"""Classes with examples, resident on one device: of images (``ClassPool``) and of features (``FeaturePool``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mlbook.errors import UserError

Rotations = Literal["none", "per_task", "as_classes"]


@dataclass(frozen=True)
class ClassPool:
    """Classes with examples, resident on one device as one uint8 tensor.

    images: [classes, examples, C, H, W], uint8, 255 = full ink or full brightness.
    rotations: ``"none"``; ``"per_task"`` turns every class of an episode by its own random multiple of 90°
        (official MAML: two rotations of one character never meet in a task); ``"as_classes"`` makes every
        rotation a class of its own (official Reptile: they may meet). Needs square images.
    names: one name per class (for display), or empty.
    counts: [classes], how many of its examples each class really has (the rest of its rows is padding), or None where all
        have all.
    """

    images: Tensor
    rotations: Rotations = "none"
    names: tuple[str, ...] = ()
    counts: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 5:
            raise UserError("ClassPool needs a uint8 tensor of shape [classes, examples, C, H, W]")
        if self.rotations not in ("none", "per_task", "as_classes"):
            raise UserError(f"rotations must be none, per_task or as_classes, not {self.rotations!r}")
        if self.rotations != "none" and self.images.shape[-1] != self.images.shape[-2]:
            raise UserError("rotations need square images")

    @property
    def n_classes(self) -> int:
        """How many different classes an episode can draw from (rotations counted where they are classes)."""
        return self.images.shape[0] * (4 if self.rotations == "as_classes" else 1)

    @property
    def n_examples(self) -> int:
        """Examples of the largest class."""
        return self.images.shape[1]

    @cached_property
    def fewest(self) -> tuple[int, str]:
        """Examples of the smallest class, and its name."""
        if self.counts is None:
            return self.n_examples, "a class of the pool"
        least = int(self.counts.argmin())
        return int(self.counts[least]), self.names[least] if self.names else f"class {least}"

    def with_counts(self, counts: Tensor) -> ClassPool:
        """The same pool, whose classes have ``counts`` examples."""
        return replace(self, counts=None if bool((counts == self.n_examples).all()) else counts)

    @cached_property
    def rows(self) -> Tensor:
        """Every image as a row, [classes·examples, C·H·W]; where there are rotations, all images turned by 0°, then by 90°, 180°
        and 270°. Made once: to copy rows costs a twentieth of turning images at every draw."""
        if self.rotations == "none":
            return self.images.flatten(2).flatten(0, 1)
        return torch.stack([self.images.rot90(k, (3, 4)) for k in range(4)]).flatten(3).flatten(0, 2)

    def to(self, device: torch.device | str) -> ClassPool:
        """The same pool on another device."""
        counts = None if self.counts is None else self.counts.to(device)
        return replace(self, images=self.images.to(device), counts=counts)

    def inverted(self) -> ClassPool:
        """The negative of every image."""
        return replace(self, images=255 - self.images)

    def subset(self, classes: slice | list[int]) -> ClassPool:
        """The pool of some of the classes: what a meta-train / meta-validation / meta-test split is made of."""
        index = range(self.images.shape[0])[classes] if isinstance(classes, slice) else classes
        names = tuple(self.names[i] for i in index) if self.names else ()
        smaller = replace(self, images=self.images[classes], names=names, counts=None)
        return smaller if self.counts is None else smaller.with_counts(self.counts[classes])


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
        """The same pool on another device."""
        counts = None if self.counts is None else self.counts.to(device)
        return replace(self, features=self.features.to(device), counts=counts)

    @property
    def fewest(self) -> int:
        """Examples of the smallest class."""
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
