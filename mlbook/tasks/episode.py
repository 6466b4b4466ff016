"""Episodes, and few-shot classification episodes cut from a pool of classes by indexing alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mlbook.errors import UserError

Rotations = Literal["none", "per_task", "as_classes"]


class Episode(NamedTuple):
    """One draw of support and query data for each of T tasks. The tasks axis is always first.

    A tuple, so ``torch.func.vmap`` maps over it as it is. Inside the map the tasks axis is gone.
    """

    support_x: Tensor  # [T, S, ...]   S = N·K for classification, K for regression
    support_y: Tensor  # [T, S] class labels, or [T, S, 1] targets
    query_x: Tensor  # [T, B, ...]   B = N·Q for classification, Q for regression
    query_y: Tensor  # [T, B] or [T, B, 1]

    def task(self, index: int) -> Episode:
        """The data of one task, without the tasks axis."""
        return self._make(field[index] for field in self)

    @property
    def n_tasks(self) -> int:
        return self.support_x.shape[0]

    def to(self, *args) -> Episode:
        """Inputs (and real-valued targets) moved or cast as by ``Tensor.to``; class labels keep their type."""

        def move(field: Tensor) -> Tensor:
            moved = field.to(*args)
            return moved if field.is_floating_point() else moved.to(field.dtype)

        return self._make(move(field) for field in self)


class BatchedEpisode(NamedTuple):
    """An ``Episode`` whose inner loop sees a mini-batch of the support set at every step."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    order: Tensor  # [T, k, M]: the support examples of inner steps 1..k, as indices

    task = Episode.task
    n_tasks = Episode.n_tasks
    to = Episode.to


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
class FewShot:
    """N-way K-shot episodes from a pool: classes and examples without replacement, support and query disjoint.

    A whole meta-batch is drawn by indexing on the device of the pool; nothing is copied from the host.
    """

    pool: ClassPool
    n_way: int
    k_shot: int
    n_query: int

    def __post_init__(self) -> None:
        for name, least in (
            ("n_way", 1),
            ("k_shot", 1),
            ("n_query", 0),
        ):  # Reptile trains without a query set
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.n_way > self.pool.n_classes:
            raise UserError(
                f"{self.n_way}-way episodes need {self.n_way} classes; the pool has {self.pool.n_classes}"
            )
        fewest, name = self.pool.fewest
        if self.k_shot + self.n_query > fewest:
            raise UserError(
                f"{self.k_shot} support and {self.n_query} query examples per class need "
                f"{self.k_shot + self.n_query} examples; {name} has {fewest}"
            )

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: x float32 in [0, 1] of shape [T, N·K or N·Q, C, H, W], y int64.

        ``generator`` must live on the device of the pool.
        """
        images, device = self.pool.images, self.pool.images.device
        T, N, E = n_tasks, self.n_way, self.k_shot + self.n_query
        # the order of uniform noise is a random permutation: its first entries are a draw without replacement
        noise = torch.rand(T, self.pool.n_classes, generator=generator, device=device)
        classes = noise.topk(N, dim=1).indices  # [T, N]
        noise = torch.rand(T, N, self.pool.n_examples, generator=generator, device=device)
        turns = None
        if self.pool.rotations == "as_classes":
            classes, turns = classes // 4, classes % 4
        elif self.pool.rotations == "per_task":
            turns = torch.randint(4, (T, N), generator=generator, device=device)
        if self.pool.counts is not None:  # padding is never drawn: its noise is below all others
            padding = (
                torch.arange(self.pool.n_examples, device=device) >= self.pool.counts[classes][:, :, None]
            )
            noise = noise.masked_fill(padding, -1.0)
        examples = noise.topk(E, dim=2).indices  # [T, N, E]
        index = classes[:, :, None] * self.pool.n_examples + examples  # [T, N, E], rows of ``pool.rows``
        if turns is not None:
            index = index + turns[:, :, None] * (images.shape[0] * images.shape[1])
        labels = torch.arange(N, device=device)
        support_y = labels[:, None].expand(N, self.k_shot).reshape(1, -1).expand(T, -1)
        query_y = labels[:, None].expand(N, self.n_query).reshape(1, -1).expand(T, -1)
        K = self.k_shot
        return Episode(self._images(index[:, :, :K]), support_y, self._images(index[:, :, K:]), query_y)

    def _images(self, index: Tensor) -> Tensor:
        """Rows [T, N, n] of the pool as float32 images [T, N·n, C, H, W] from 0 to 1."""
        rows = self.pool.rows.index_select(0, index.flatten())
        return (rows / 255).view(len(index), -1, *self.pool.images.shape[2:])


@dataclass(frozen=True)
class LabelledImages:
    """Ordinary supervised learning in the form of episodes: every "task" is one image with the number of its class."""

    pool: ClassPool

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """``n_tasks`` images drawn with replacement: support x [T, 1, C, H, W] in [0, 1], y int64 [T, 1]; no query set."""
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
        x = (pool.rows.index_select(0, rows) / 255).view(n_tasks, 1, *pool.images.shape[2:])
        y = classes[:, None]
        return Episode(x, y, x[:, :0], y[:, :0])
