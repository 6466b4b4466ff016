"""A small space of architectures that can be enumerated, and its children: networks that tell drawn characters apart.

An architecture is a sequence of decisions a_1..a_5: an operation in each of three places (``OPERATIONS``), an activation for the
whole network, and whether the first features are added to the output of the last place. That makes 5·5·5·2·2 = 500. Images are
averaged to 14×14; the stem, a 3×3 convolution of stride 2, gives 8 maps of 7×7, and every operation keeps this size; averages
over 3×3 squares leave 72 numbers for a linear layer.

``forward`` takes one entry per decision. An index computes that option only: a child of a search. A row of weights computes all
options and adds them up: the one network of a relaxation. Greek to Python: weights w ``params``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mlbook.data.pools import ClassPool
from mlbook.errors import UserError
from mlbook.models.functional import Params

OPERATIONS = ("identity", "max_pool", "conv1", "depthwise3", "conv3")
ACTIVATIONS = ("relu", "tanh")
SHORTCUT = ("no", "yes")
DECISIONS = (
    ("place 1", OPERATIONS),
    ("place 2", OPERATIONS),
    ("place 3", OPERATIONS),
    ("activation", ACTIVATIONS),
    ("shortcut", SHORTCUT),
)
"""Each decision with its options."""
SIZES = tuple(len(options) for _, options in DECISIONS)
"""Options of each decision."""
MAPS, SIDE = 8, 3
"""Maps of every layer, and the width to which they are averaged before the linear layer."""
_KERNELS = {"conv1": (MAPS, MAPS, 1, 1), "depthwise3": (MAPS, 1, 3, 3), "conv3": (MAPS, MAPS, 3, 3)}

Choice = tuple[int, ...]
"""One option per decision, as an index."""


def enumerate_space() -> list[Choice]:
    """All architectures in lexicographic order: the rows of the table."""
    return list(itertools.product(*(range(n) for n in SIZES)))


def number(choice: Sequence[int]) -> int:
    """The row of an architecture in that order. Raises ``UserError`` for an option that does not exist."""
    row = 0
    for option, size in zip(choice, SIZES, strict=True):
        if not 0 <= option < size:
            raise UserError(f"an option must lie between 0 and {size - 1}, got {option}")
        row = row * size + int(option)
    return row


def name(choice: Sequence[int]) -> str:
    """An architecture in words, such as ``conv3 · max_pool · identity, relu, shortcut``."""
    a = [options[i] for (_, options), i in zip(DECISIONS, choice, strict=True)]
    return f"{' · '.join(a[:3])}, {a[3]}, {'shortcut' if a[4] == 'yes' else 'no shortcut'}"


class Characters(NamedTuple):
    """Drawings of some characters in three parts; x [n, 1, 14, 14] around zero, y [n]."""

    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def classes(self) -> int:
        """How many characters there are."""
        return int(self.train_y.max()) + 1


def characters(pool: ClassPool, classes: int = 50, train: int = 10, validation: int = 5) -> Characters:
    """The first ``classes`` of a pool: ``train`` drawings of each to learn from, ``validation`` for rewards, the rest to test.

    This is ordinary classification: the characters of the test are those that were learned. Raises ``UserError`` where the pool
    is too small.
    """
    if pool.n_classes < classes or not 0 < train < train + validation < pool.n_examples:
        raise UserError(f"{classes} classes with more than {train + validation} examples are needed")
    images = pool.images[:classes].float() / 255
    x = F.avg_pool2d(images.flatten(0, 1), 2).view(classes, -1, 1, 14, 14)
    x = (x - x.mean()) / x.std()
    parts = x.split([train, validation, x.shape[1] - train - validation], 1)
    fields = []
    for part in parts:
        fields += [part.flatten(0, 1), torch.arange(classes).repeat_interleave(part.shape[1])]
    return Characters(*fields)


def initial(
    choice: Choice | None, classes: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Params:
    """Weights w of one child; with ``choice`` None those of the network that has every option.

    Uniform with variance 1/fan-in, biases 0.
    """

    def draw(*shape: int) -> Tensor:
        bound = (3 / math.prod(shape[1:])) ** 0.5
        return bound * (2 * torch.rand(shape, generator=generator, dtype=dtype) - 1)

    params = {"stem.weight": draw(MAPS, 1, 3, 3), "stem.bias": torch.zeros(MAPS, dtype=dtype)}
    for place in range(3):
        for operation in OPERATIONS if choice is None else (OPERATIONS[choice[place]],):
            if operation in _KERNELS:
                params[f"{place}.{operation}.weight"] = draw(*_KERNELS[operation])
                params[f"{place}.{operation}.bias"] = torch.zeros(MAPS, dtype=dtype)
    params["head.weight"] = draw(classes, MAPS * SIDE * SIDE)
    params["head.bias"] = torch.zeros(classes, dtype=dtype)
    return params


def forward(
    params: Params,
    decided: Sequence[int | Tensor],
    x: Tensor,
) -> Tensor:
    """Logits [n, classes] of drawings x [n, 1, 14, 14].

    decided: for each decision the option taken, or the weights [options] of all its options (summing to 1).
    """
    *places, activation, shortcut = decided
    weight, bias = params["stem.weight"], params["stem.bias"]
    first = activate(activation, F.conv2d(x, weight, bias, stride=2, padding=1))
    h = first
    for place, decision in enumerate(places):
        option = partial(operate, params, place, activation, h)
        h = mixture(decision, option)
    added = (torch.zeros_like(first), first)
    h = h + mixture(shortcut, lambda i: added[i])
    pooled = F.avg_pool2d(h, 3, stride=2).flatten(1)
    return F.linear(pooled, params["head.weight"], params["head.bias"])


def mixture(decided: int | Tensor, option: Callable[[int], Tensor]) -> Tensor:
    """``option(decided)``, or Σ_i decided_i · option(i) where weights [options] are given."""
    if isinstance(decided, int):
        return option(decided)
    return sum(decided[i] * option(i) for i in range(len(decided)))


def activate(decided: int | Tensor, z: Tensor) -> Tensor:
    """ReLU, tanh, or a mixture of both."""
    return mixture(decided, lambda i: (F.relu, torch.tanh)[i](z))


def operate(
    params: Params,
    place: int,
    activation: int | Tensor,
    h: Tensor,
    option: int,
) -> Tensor:
    """One operation on the maps h [n, MAPS, 7, 7]: same shape. Convolutions have weights of their own in every place."""
    operation = OPERATIONS[option]
    if operation == "identity":
        return h
    if operation == "max_pool":
        return F.max_pool2d(h, 3, stride=1, padding=1)
    name = f"{place}.{operation}"
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    groups = MAPS if operation == "depthwise3" else 1
    padding = weight.shape[-1] // 2
    z = F.conv2d(h, weight, bias, padding=padding, groups=groups)
    return activate(activation, z)


@dataclass(frozen=True)
class Training:
    """How every child is trained: Adam on mini-batches, with a rate that falls to zero along a cosine."""

    steps: int = 150
    batch: int = 100
    """Drawings in a mini-batch."""
    lr: float = 0.015
    """Rate of the first step."""


def train_children(
    choice: Choice,
    data: Characters,
    seeds: Sequence[int],
    training: Training = Training(),  # noqa: B008
) -> Params:
    """One architecture trained from several starts at once: w(a), each tensor with a leading axis over ``seeds``.

    A seed decides the start and the order of the drawings.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    starts = [initial(choice, data.classes, generator) for generator in generators]
    params = {key: torch.stack([start[key] for start in starts]) for key in starts[0]}
    optimizer = torch.optim.Adam(params.values(), lr=training.lr)
    n = len(data.train_x)
    passes = 1 + training.steps * training.batch // n
    order = torch.stack(
        [torch.cat([torch.randperm(n, generator=g) for _ in range(passes)]) for g in generators]
    )

    def child_loss(w: Params, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(forward(w, choice, x), y)

    for step in range(training.steps):
        rows = order[:, step * training.batch : (step + 1) * training.batch]
        gradient = vmap(grad(child_loss))(params, data.train_x[rows], data.train_y[rows])
        for key, leaf in params.items():
            leaf.grad = gradient[key]
        for group in optimizer.param_groups:
            group["lr"] = training.lr * 0.5 * (1 + math.cos(math.pi * step / training.steps))
        optimizer.step()
    return params


def accuracies(params: Params, choice: Choice, data: Characters) -> Tensor:
    """Of children whose weights have a leading axis: [children, 2], on the drawings for rewards and on those of the test."""

    def right(x: Tensor, y: Tensor) -> Tensor:
        logits = vmap(forward, in_dims=(0, None, None))(params, choice, x)
        return (logits.argmax(-1) == y).float().mean(1)

    with torch.no_grad():
        sets = ((data.validation_x, data.validation_y), (data.test_x, data.test_y))
        return torch.stack([right(x, y) for x, y in sets], 1)
