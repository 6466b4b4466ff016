"""A small space of architectures that can be enumerated, and its children: networks that tell drawn characters apart.

A decision sequence a_1..a_5: an operation in each of three places (``OPERATIONS``), an activation for the whole network, and
whether the first features are added to what the last place gives. 5·5·5·2·2 = 500 architectures. Images are averaged to
14×14; the stem, a 3×3 convolution of stride 2, gives 8 maps of 7×7, which every operation keeps; averages over 3×3 squares
leave 72 numbers for a linear layer.

``forward`` takes one entry per decision: an index, and only that option is computed, or a row of weights over all options.
So the same code is the child of a search and the one network of a relaxation that has every option. Greek to Python: weights
w ``params``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

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
SIZES = tuple(len(options) for _, options in DECISIONS)
MAPS, SIDE = 8, 3
_ACTIVATE = {"relu": F.relu, "tanh": torch.tanh}
_KERNELS = {"conv1": (MAPS, MAPS, 1, 1), "depthwise3": (MAPS, 1, 3, 3), "conv3": (MAPS, MAPS, 3, 3)}

Choice = tuple[int, ...]
"""One option per decision, as an index."""


def enumerate_space() -> list[Choice]:
    """All architectures in lexicographic order: the rows of the table."""
    return list(itertools.product(*(range(n) for n in SIZES)))


def number(choice: Sequence[int]) -> int:
    """The row of an architecture in that order."""
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
        return int(self.train_y.max()) + 1


def characters(pool: ClassPool, classes: int = 50, train: int = 10, validation: int = 5) -> Characters:
    """Of the first ``classes`` of a pool: ``train`` drawings of each to learn from, ``validation`` for rewards, the rest to test.

    Ordinary classification: the characters that are tested are those that were learned.
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
    """Weights w of one child, or (choice None) of the network that has every option: uniform with variance 1/fan-in."""

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


def forward(params: Params, decided: Sequence[int | Tensor], x: Tensor) -> Tensor:
    """Logits [n, classes]. decided: per decision the option taken, or the weights [options] of all of them (summing to 1)."""
    activation, shortcut = decided[3], decided[4]

    def activate(z: Tensor) -> Tensor:
        return _mixture(activation, [lambda z=z, f=f: f(z) for f in _ACTIVATE.values()])

    h = activate(F.conv2d(x, params["stem.weight"], params["stem.bias"], stride=2, padding=1))
    first = h
    for place in range(3):

        def convolved(operation: str, h: Tensor = h, place: int = place) -> Tensor:
            weight = params[f"{place}.{operation}.weight"]
            groups = MAPS if operation == "depthwise3" else 1
            bias = params[f"{place}.{operation}.bias"]
            return activate(F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2, groups=groups))

        options = [lambda h=h: h, lambda h=h: F.max_pool2d(h, 3, stride=1, padding=1)]
        options += [lambda o=operation, f=convolved: f(o) for operation in OPERATIONS[2:]]
        h = _mixture(decided[place], options)
    h = h + _mixture(shortcut, [lambda: torch.zeros_like(first), lambda: first])
    pooled = F.avg_pool2d(h, 3, stride=2).flatten(1)
    return F.linear(pooled, params["head.weight"], params["head.bias"])


def _mixture(decided: int | Tensor, options: list[Callable[[], Tensor]]) -> Tensor:
    """The option taken, or Σ_i weights_i · option_i()."""
    if isinstance(decided, int):
        return options[decided]()
    return sum(decided[i] * option() for i, option in enumerate(options))


@dataclass(frozen=True)
class Training:
    """How every child is trained: Adam on mini-batches, the rate falling to zero along a cosine."""

    steps: int = 150
    batch: int = 100
    lr: float = 0.015


def train_children(
    choice: Choice,
    data: Characters,
    seeds: Sequence[int],
    training: Training = Training(),  # noqa: B008
) -> Params:
    """One architecture trained from several starts at once: w(a) with a leading axis over ``seeds``. A seed gives both the start
    and the order of the drawings."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    starts = [initial(choice, data.classes, generator) for generator in generators]
    params = {key: torch.stack([start[key] for start in starts]).requires_grad_() for key in starts[0]}
    optimizer = torch.optim.Adam(params.values(), lr=training.lr)
    n = len(data.train_x)
    passes = 1 + training.steps * training.batch // n
    order = torch.stack(
        [torch.cat([torch.randperm(n, generator=g) for _ in range(passes)]) for g in generators]
    )
    together = vmap(lambda w, x: forward(w, choice, x))
    for step in range(training.steps):
        rows = order[:, step * training.batch : (step + 1) * training.batch]
        logits = together(params, data.train_x[rows])
        loss = F.cross_entropy(logits.flatten(0, 1), data.train_y[rows].flatten()) * len(seeds)
        for leaf, gradient in zip(
            params.values(), torch.autograd.grad(loss, list(params.values())), strict=True
        ):
            leaf.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = training.lr * 0.5 * (1 + math.cos(math.pi * step / training.steps))
        optimizer.step()
    return {key: tensor.detach() for key, tensor in params.items()}


def accuracies(params: Params, choice: Choice, data: Characters) -> Tensor:
    """Of children with a leading axis: [children, 2], on the drawings for rewards and on those for the test."""

    def right(x: Tensor, y: Tensor) -> Tensor:
        found = vmap(lambda w: forward(w, choice, x))(params).argmax(-1)
        return (found == y).float().mean(1)

    with torch.no_grad():
        sets = ((data.validation_x, data.validation_y), (data.test_x, data.test_y))
        return torch.stack([right(x, y) for x, y in sets], 1)
