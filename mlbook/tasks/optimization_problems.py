"""Optimisation problems as tasks: what a learned optimiser is trained and tested on. The tasks axis T is first, as everywhere.

A task here has no support and query set: the problem is the data, and an optimiser is judged by the losses that it passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.data.pools import ClassPool
from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution


class QuadraticProblem(NamedTuple):
    """f(θ) = ‖Wθ − y‖², and where the optimiser starts."""

    W: Tensor  # [T, n, n]
    y: Tensor  # [T, n]
    start: Tensor  # [T, n]

    task = Episode.task
    to = Episode.to

    @property
    def n_tasks(self) -> int:
        """T."""
        return self.start.shape[0]


class PerturbedProblem(NamedTuple):
    """A ``QuadraticProblem`` with the noise that moves the weights of a learned optimiser on it."""

    W: Tensor  # [T, n, n]
    y: Tensor  # [T, n]
    start: Tensor  # [T, n]
    noise: Tensor  # [T, windows, weights], standard normal

    task = Episode.task
    to = Episode.to

    @property
    def n_tasks(self) -> int:
        """T."""
        return self.start.shape[0]

    @property
    def problems(self) -> QuadraticProblem:
        """Without the noise."""
        return QuadraticProblem(self.W, self.y, self.start)


class ImageProblem(NamedTuple):
    """Images to fit a classifier to: at step t it sees the images ``batches[:, t]``."""

    x: Tensor  # [T, M, D], 0 to 1
    labels: Tensor  # [T, M]
    batches: Tensor  # [T, steps, B]
    start: Tensor  # [T, P], all parameters of the classifier in a row

    task = Episode.task
    to = Episode.to

    @property
    def n_tasks(self) -> int:
        """T."""
        return self.start.shape[0]


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers from [0, 1) on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


def normal(shape: tuple[int, ...], spread: float, generator: torch.Generator) -> Tensor:
    """Normal numbers around 0 with standard deviation ``spread``, on the generator's device."""
    return spread * torch.randn(shape, generator=generator, device=generator.device)


@dataclass(frozen=True)
class Quadratics(TaskDistribution):
    """Section 3.1 of Andrychowicz et al. (2016), with the distributions of the official code: entries of W and y uniform on
    [0, 1) (the paper says Gaussian), start N(0, 0.01²)."""

    n: int = 10
    """Dimensions of θ."""

    def sample(self, n_tasks: int, generator: torch.Generator) -> QuadraticProblem:
        """``n_tasks`` problems on the generator's device."""
        W, y = uniform((n_tasks, self.n, self.n), generator), uniform((n_tasks, self.n), generator)
        return QuadraticProblem(W, y, normal((n_tasks, self.n), 0.01, generator))


@dataclass(frozen=True)
class Bowls(TaskDistribution):
    """Quadratics in the plane, 0 at the origin, turned at random. Ours, for chapter 15's race."""

    curvature: tuple[float, float] = (0.2, 20.0)
    """Range of the two principal curvatures, each log-uniform."""
    radius: float = 3.0
    """Each coordinate of the start is uniform within this."""

    def sample(self, n_tasks: int, generator: torch.Generator) -> QuadraticProblem:
        """``n_tasks`` problems on the generator's device."""
        low, high = self.curvature
        curvatures = low * (high / low) ** uniform((n_tasks, 2), generator)
        angle = math.pi * uniform((n_tasks,), generator)
        turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).view(-1, 2, 2)
        W = (curvatures / 2).sqrt()[:, :, None] * turn  # the Hessian of ‖Wθ‖² is 2WᵀW
        start = self.radius * (2 * uniform((n_tasks, 2), generator) - 1)
        return QuadraticProblem(W, torch.zeros_like(start), start)


@dataclass(frozen=True)
class Perturbed(TaskDistribution):
    """Quadratic problems with noise for training by evolution strategies: ε of every window, drawn after the problems."""

    tasks: TaskDistribution
    windows: int
    weights: int
    """Of the learned optimiser."""

    def to(self, device: torch.device | str) -> Perturbed:
        return replace(self, tasks=self.tasks.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> PerturbedProblem:
        """``n_tasks`` problems on the generator's device."""
        problems = self.tasks.sample(n_tasks, generator)
        return PerturbedProblem(*problems, normal((n_tasks, self.windows, self.weights), 1.0, generator))


@dataclass(frozen=True)
class ImageProblems(TaskDistribution):
    """Classifiers of ``n_way`` classes drawn from a pool, fitted to all images of these classes on random mini-batches.

    They take the place of MNIST in section 3.2 of Andrychowicz et al. (2016). Raises ``UserError`` where the pool has too few
    classes or classes of unequal size.
    """

    pool: ClassPool
    coordinates: int
    """P, parameters of the classifier."""
    steps: int = 100
    """As many mini-batches are drawn."""
    n_way: int = 10
    batch: int = 128
    """Images in a mini-batch, drawn with replacement."""
    spread: float = 0.01
    """Standard deviation of all parameters at the start."""

    def __post_init__(self) -> None:
        if self.n_way > self.pool.n_classes:
            raise UserError(f"{self.n_way} classes were asked for; the pool has {self.pool.n_classes}")
        if self.pool.fewest[0] < self.pool.n_examples:
            raise UserError("the classes of the pool must all have equally many examples")

    def to(self, device: torch.device | str) -> ImageProblems:
        """The same with the pool on another device."""
        return replace(self, pool=self.pool.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> ImageProblem:
        """``n_tasks`` problems; ``generator`` lives on the pool's device."""
        device, examples = generator.device, self.pool.n_examples
        order = torch.rand(n_tasks, len(self.pool.images), generator=generator, device=device).argsort(1)
        images = self.pool.images[order[:, : self.n_way]]  # [T, N, M/N, C, H, W]
        M = self.n_way * examples
        labels = torch.arange(self.n_way, device=device).repeat_interleave(examples).expand(n_tasks, M)
        batches = torch.randint(M, (n_tasks, self.steps, self.batch), generator=generator, device=device)
        x = images.reshape(n_tasks, M, -1).float() / 255
        return ImageProblem(x, labels, batches, normal((n_tasks, self.coordinates), self.spread, generator))
