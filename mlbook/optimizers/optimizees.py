"""Optimisees: functions to be minimised, many problems at once. All parameters of a problem stand in one row θ [T, P]."""

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
    def loss(self, theta: Tensor, problem, t: int) -> Tensor:
        """f of every problem [T] as the optimiser sees it at step t (on a mini-batch, where there are any)."""

    def judged(self, theta: Tensor, problem) -> Tensor:
        """f of every problem [T] on all its data: what a way is judged by."""


@dataclass(frozen=True)
class Quadratic:
    """f(θ) = ‖Wθ − y‖²."""

    def loss(self, theta: Tensor, problem: QuadraticProblem, t: int = 0) -> Tensor:
        residual = (problem.W @ theta.unsqueeze(-1)).squeeze(-1) - problem.y
        return residual.square().sum(-1)

    def judged(self, theta: Tensor, problem: QuadraticProblem) -> Tensor:
        return self.loss(theta, problem)


@dataclass(frozen=True)
class Classifier:
    """The mean cross-entropy of a fully connected network; section 3.2 of the paper: 784-20-10, sigmoid."""

    sizes: tuple[int, ...] = (784, 20, 10)
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

    def _cross_entropy(self, theta: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        logits = self.logits(theta, x)
        return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)

    def loss(self, theta: Tensor, problem: ImageProblem, t: int) -> Tensor:
        rows = problem.batches[:, t]
        x = problem.x[torch.arange(len(rows), device=rows.device).unsqueeze(1), rows]
        return self._cross_entropy(theta, x, problem.labels.gather(1, rows))

    def judged(self, theta: Tensor, problem: ImageProblem) -> Tensor:
        return self._cross_entropy(theta, problem.x, problem.labels)
