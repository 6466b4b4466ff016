"""Optimisees: functions to be minimised, many problems at once. θ [T, P] has all parameters of a problem in one row.

Problem i's loss depends on row i only, so the gradient of the summed losses holds the gradients of all problems, and no ``vmap``
is needed. An optimisee of yours must keep to that. If it maps a module over the rows by ``vmap``, the module must not have
torch's normalisation layers: ``LearnedOptimizer(second_derivatives=True)`` would be silently wrong
(``mlbook.models.batch_norm``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.optimization_problems import ImageProblem, QuadraticProblem

ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}


class Optimizee(Protocol):
    """A family of functions; a problem (``mlbook.tasks.optimization_problems``) says which ones."""

    def loss(self, theta: Tensor, problem, t: int) -> Tensor:
        """f of every problem [T] as the optimiser sees it at step t (on a mini-batch, where there are any)."""

    def judged(self, theta: Tensor, problem) -> Tensor:
        """f of every problem [T] on all its data: what an optimiser is judged by."""


@dataclass(frozen=True)
class Quadratic:
    """f(θ) = ‖Wθ − y‖²."""

    def loss(self, theta: Tensor, problem: QuadraticProblem, t: int = 0) -> Tensor:
        """f of every problem [T]; the same at every step."""
        residual = (problem.W @ theta.unsqueeze(-1)).squeeze(-1) - problem.y
        return residual.square().sum(-1)

    def judged(self, theta: Tensor, problem: QuadraticProblem) -> Tensor:
        """The same as ``loss``."""
        return self.loss(theta, problem)


@dataclass(frozen=True)
class Classifier:
    """The mean cross-entropy of a fully connected network: 784-20-10, sigmoid, in Andrychowicz et al. (2016), section 3.2.

    Raises ``UserError`` for an unknown activation.
    """

    sizes: tuple[int, ...] = (784, 20, 10)
    """Units of each layer, from the image to the classes."""
    activation: Literal["sigmoid", "relu", "tanh"] = "sigmoid"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")

    @property
    def coordinates(self) -> int:
        """P: weights and biases."""
        return sum(a * b + b for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True))

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """theta [T, P], x [T, B, D] -> [T, B, classes]."""
        at = 0
        for i, (a, b) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            weight = theta[:, at : at + a * b].view(-1, a, b)
            bias = theta[:, at + a * b : at + a * b + b]
            x = torch.baddbmm(bias.unsqueeze(1), x, weight)
            x = ACTIVATIONS[self.activation](x) if i + 2 < len(self.sizes) else x
            at += a * b + b
        return x

    def cross_entropy(self, theta: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """Mean over the images of every problem: theta [T, P], x [T, B, D], labels [T, B] -> [T]."""
        logits = self.logits(theta, x)
        return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)

    def loss(self, theta: Tensor, problem: ImageProblem, t: int) -> Tensor:
        """f of every problem [T] on the mini-batch of step t."""
        rows = problem.batches[:, t]
        x = problem.x[torch.arange(len(rows), device=rows.device).unsqueeze(1), rows]
        return self.cross_entropy(theta, x, problem.labels.gather(1, rows))

    def judged(self, theta: Tensor, problem: ImageProblem) -> Tensor:
        """f of every problem [T] on all its images."""
        return self.cross_entropy(theta, problem.x, problem.labels)
