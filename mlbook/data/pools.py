"""Classes with examples, resident on one device: of images or other tensors (``ClassPool``) and of features (``FeaturePool``)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mlbook.errors import DataError, UserError

Rotations = Literal["none", "per_task", "as_classes"]
SPLITS = ("train", "validation", "test")
SHARES = (0.64, 0.16, 0.20)
"""Parts of the classes that become meta-train, meta-validation and meta-test where nothing else is said."""


def stack(classes: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Examples by class, {name: [n, ...]}, as one tensor [classes, largest n, ...] (the rest zero), and counts [classes]."""
    counts = torch.tensor([len(its) for its in classes.values()])
    first = next(iter(classes.values()))
    examples = first.new_zeros(len(classes), int(counts.max()), *first.shape[1:])
    for row, its in zip(examples, classes.values(), strict=True):
        row[: len(its)] = its
    return examples, counts


def cut(labels: list, shares: Sequence[float] = SHARES) -> dict[str, list]:
    """Labels per split: shuffled with a fixed seed, then cut by the three shares."""
    labels = list(labels)
    random.Random(0).shuffle(labels)
    first, second = round(shares[0] * len(labels)), round((shares[0] + shares[1]) * len(labels))
    return dict(zip(SPLITS, (labels[:first], labels[first:second], labels[second:]), strict=True))


@dataclass(frozen=True)
class ClassPool:
    """Classes with examples, resident on one device as one tensor.

    images: [classes, examples, C, H, W], uint8, 255 = full ink or full brightness: they are drawn as numbers from 0 to 1. Or
        floating-point numbers of any shape [classes, examples, ...] (images, signals, tables), which are drawn as they are.
    rotations: ``"none"``; ``"per_task"`` turns every class of an episode by its own random multiple of 90°
        (official MAML: two rotations of one character never meet in a task); ``"as_classes"`` makes every
        rotation a class of its own (official Reptile: they may meet). Needs square images.
    names: one name per class (for display), or empty.
    counts: [classes], how many of its examples each class really has (the rest of its rows is padding), or None where all
        have all.
    split: ``train``, ``validation`` or ``test``, for messages; or empty.
    """

    images: Tensor
    rotations: Rotations = "none"
    names: tuple[str, ...] = ()
    counts: Tensor | None = None
    split: str = ""

    def __post_init__(self) -> None:
        shape, uint8 = self.images.shape, self.images.dtype == torch.uint8
        if len(shape) != 5 if uint8 else len(shape) < 3 or not self.images.is_floating_point():
            raise UserError(
                "ClassPool needs a uint8 tensor of shape [classes, examples, C, H, W] or floating-point numbers of shape "
                f"[classes, examples, ...]; got {str(self.images.dtype).removeprefix('torch.')} {list(shape)}"
            )
        if self.rotations not in ("none", "per_task", "as_classes"):
            raise UserError(f"rotations must be none, per_task or as_classes, not {self.rotations!r}")
        if self.rotations != "none" and (len(shape) != 5 or shape[-1] != shape[-2]):
            raise UserError("rotations need square images")

    @classmethod
    def from_tensors(
        cls, x, labels, splits: dict[str, Sequence] | Sequence[float] | None = None
    ) -> ClassPool | dict[str, ClassPool]:
        """A pool of examples and their labels, or one pool per split.

        x: [n, ...], a tensor or an array: uint8 images [n, C, H, W], which are drawn as numbers from 0 to 1, or floating-point
            numbers of any shape (signals [n, C, L], tables [n, D]), kept as float32 and not changed otherwise.
        labels: [n] whole numbers or texts: a tensor, an array or a list. Classes are in their order, and named by them. They may
            have different numbers of examples.
        splits: {"train": labels, "validation": labels, "test": labels}; or three shares that add up to 1, by which the classes
            are cut after a shuffle that is always the same. All classes of ``labels`` are in one split, and only in one.

        Raises ``DataError`` where lengths differ, numbers are not finite, a class has one example, or a label is in two splits or
        in none; ``UserError`` for numbers of another type.
        """
        x, labels = _examples(x), _labels(labels)
        if len(x) != len(labels):
            raise DataError(f"there are {len(x)} examples and {len(labels)} labels")
        if not len(x):
            raise DataError("there are no examples")
        rows: dict[int | str, list[int]] = {label: [] for label in sorted(set(labels))}
        for row, label in enumerate(labels):
            rows[label].append(row)
        for label, its in rows.items():
            if len(its) < 2:
                raise DataError(f"class {label} has 1 example; an episode needs at least 2 of each class")
        if splits is None:
            return cls.of_classes({label: x[its] for label, its in rows.items()}, "")
        return {
            split: cls.of_classes({label: x[rows[label]] for label in its}, split)
            for split, its in _splits(list(rows), splits).items()
        }

    @classmethod
    def of_classes(cls, classes: dict, split: str = "") -> ClassPool:
        """A pool of {class: examples [n, ...]}, which may have different numbers of examples."""
        examples, counts = stack(classes)
        return cls(examples, names=tuple(str(label) for label in classes), split=split).with_counts(counts)

    @property
    def in_words(self) -> str:
        """What messages call it."""
        return f"the meta-{self.split} split" if self.split else "the pool"

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
            return self.n_examples, "a class"
        least = int(self.counts.argmin())
        return int(self.counts[least]), self.names[least] if self.names else f"class {least}"

    def with_counts(self, counts: Tensor) -> ClassPool:
        """The same pool, whose classes have ``counts`` examples."""
        return replace(self, counts=None if bool((counts == self.n_examples).all()) else counts)

    @cached_property
    def rows(self) -> Tensor:
        """Every example as a row, [classes·examples, C·H·W] (or the product of another shape); where there are rotations, all
        images turned by 0°, then by 90°, 180° and 270°. Made once: to copy rows costs a twentieth of turning images at
        every draw."""
        if self.rotations == "none":
            return self.images.flatten(2).flatten(0, 1)
        return torch.stack([self.images.rot90(k, (3, 4)) for k in range(4)]).flatten(3).flatten(0, 2)

    def drawn(self, index: Tensor) -> Tensor:
        """The rows of ``index``, of any shape, as float32 [..., C, H, W] (or another shape): images of uint8 from 0 to 1."""
        rows = self.rows.index_select(0, index.flatten())
        rows = rows / 255 if rows.dtype == torch.uint8 else rows.float()
        return rows.view(*index.shape, *self.images.shape[2:])

    def labelled(self) -> tuple[Tensor, Tensor]:
        """All examples, upright, as ordinary training wants them: x float32 [n, ...] (images of uint8 from 0 to 1) and the
        numbers of their classes, y int64 [n]."""
        classes, most = self.images.shape[:2]
        numbers = torch.arange(classes, device=self.images.device).repeat_interleave(most)
        there = torch.arange(classes * most, device=self.images.device)
        if self.counts is not None:
            there = there[there % most < self.counts[numbers]]
        return self.drawn(there), numbers[there]

    def to(self, device: torch.device | str) -> ClassPool:
        """The same pool on another device."""
        counts = None if self.counts is None else self.counts.to(device)
        return replace(self, images=self.images.to(device), counts=counts)

    def inverted(self) -> ClassPool:
        """The negative of every image (uint8 only)."""
        if self.images.dtype != torch.uint8:
            raise UserError("only images of uint8 have a negative")
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
    is padding), or None where all have all. names: one per class, or empty. split: as in ``ClassPool``.
    """

    features: Tensor
    normalise: bool = True
    counts: Tensor | None = None
    names: tuple[str, ...] = ()
    split: str = ""

    def __post_init__(self) -> None:
        if self.features.dim() != 3 or not self.features.is_floating_point():
            raise UserError("FeaturePool needs a floating-point tensor of shape [classes, examples, D]")

    in_words = ClassPool.in_words

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


def _examples(x) -> Tensor:
    """x as uint8 [n, C, H, W] or float32 [n, ...]."""
    import numpy as np

    try:
        if not isinstance(x, Tensor):
            array = np.array(x)
            x = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
        x = x.detach().cpu()
    except (TypeError, ValueError) as error:
        raise DataError(f"x is not an array of numbers ({' '.join(str(error).split())})") from None
    kind = str(x.dtype).removeprefix("torch.")
    if x.dtype == torch.uint8:
        if x.dim() != 4:
            raise UserError(
                f"uint8 is for images [n, C, H, W], and x is {list(x.shape)}; make other data floating-point numbers"
            )
    elif not x.is_floating_point():
        raise UserError(f"x holds {kind}; it needs uint8 images or floating-point numbers")
    if x.dim() < 2 or 0 in x.shape[1:]:
        raise DataError(f"x has the shape {list(x.shape)}; it needs [n, ...] with numbers in every example")
    if x.dtype == torch.uint8:
        return x
    x = x.float()
    broken = (~x.isfinite()).flatten(1).any(1).nonzero().flatten()
    if len(broken):
        raise DataError(
            f"{len(broken)} of {len(x)} examples hold numbers that are not finite as float32 (the first is number "
            f"{int(broken[0])})"
        )
    return x


def _labels(labels) -> list[int] | list[str]:
    """Labels as whole numbers or as texts."""
    import numpy as np

    try:
        array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(f"the labels are no list ({' '.join(str(error).split())})") from None
    if array.ndim != 1:
        raise DataError(f"labels must have the shape [n], not {list(array.shape)}")
    if array.size and array.dtype.kind not in "iuU":
        raise UserError(f"labels must be whole numbers or texts, not {array.dtype}")
    if isinstance(labels, (list, tuple)) and len({isinstance(label, str) for label in labels}) > 1:
        raise UserError("labels must be whole numbers or texts, not both")  # numpy made texts of all
    return array.tolist()


def _splits(labels: list, splits: dict[str, Sequence] | Sequence[float]) -> dict[str, list]:
    """Labels per split, each label once; ``DataError`` where that cannot be."""
    if not isinstance(splits, dict):
        shares = [float(share) for share in splits]
        if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"splits must be three shares that add up to 1, not {shares}")
        found = cut(labels, shares)
    else:
        if unknown := [split for split in splits if split not in SPLITS]:
            raise UserError(f"a split is called {', '.join(SPLITS)}, not {unknown[0]!r}")
        found = {split: sorted(set(_labels(its))) for split, its in splits.items()}
    where: dict = {}
    for split, its in found.items():
        if not its:
            raise DataError(f"the split {split} has no classes")
        for label in its:
            if label not in labels:
                raise DataError(f"the split {split} names class {label}, which has no examples")
            if label in where:
                raise DataError(
                    f"class {label} is in the splits {where[label]} and {split}; classes of a split must be new"
                )
            where[label] = split
    left = [label for label in labels if label not in where]
    if left:
        raise DataError(f"class {left[0]} is in no split")
    return found
