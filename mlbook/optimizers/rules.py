"""Update rules: a gradient and a memory become a step. The hand-designed rules, and the run that all rules share.

A rule gets θ and gradients [T, P] of T problems at once and treats each coordinate of each problem alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mlbook.optimizers.optimizees import Optimizee

Memory = Any
"""What a rule remembers from step to step; only the rule itself looks inside."""


class Rule(Protocol):
    """How gradients become steps."""

    def fresh(self, theta: Tensor) -> Memory:
        """The memory before the first step from θ [T, P]."""

    def update(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """∇_t [T, P] and the memory -> what is added to θ_t [T, P], and the next memory."""


@dataclass(frozen=True)
class SGD:
    """m ← μm + ∇, θ ← θ − αm, or θ ← θ − α(∇ + μm) with ``nesterov``. μ = 0 is plain gradient descent."""

    rate: float
    momentum: float = 0.0
    nesterov: bool = False

    def fresh(self, theta: Tensor) -> Tensor:
        return torch.zeros_like(theta)

    def update(self, gradient: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.momentum * memory + gradient
        direction = gradient + self.momentum * memory if self.nesterov else memory
        return -self.rate * direction, memory


@dataclass(frozen=True)
class RMSprop:
    """θ ← θ − α∇/(√v + ε), v ← ρv + (1 − ρ)∇²."""

    rate: float
    decay: float = 0.9
    epsilon: float = 1e-8

    def fresh(self, theta: Tensor) -> Tensor:
        return torch.zeros_like(theta)

    def update(self, gradient: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.decay * memory + (1 - self.decay) * gradient.square()
        return -self.rate * gradient / (memory.sqrt() + self.epsilon), memory


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba (2015), algorithm 1."""

    rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def fresh(self, theta: Tensor) -> tuple[Tensor, Tensor, int]:
        return torch.zeros_like(theta), torch.zeros_like(theta), 0

    def update(self, gradient: Tensor, memory: tuple) -> tuple[Tensor, tuple]:
        m, v, t = memory
        m = self.beta1 * m + (1 - self.beta1) * gradient
        v = self.beta2 * v + (1 - self.beta2) * gradient.square()
        t += 1
        mean, square = m / (1 - self.beta1**t), v / (1 - self.beta2**t)
        return -self.rate * mean / (square.sqrt() + self.epsilon), (m, v, t)


RATES = tuple(float(f"{mantissa}e{power}") for power in (-3, -2, -1, 0) for mantissa in (1, 2, 5))
"""The grid of rates that the hand-designed rules are tuned on: 0.001 to 5."""
HAND_DESIGNED: dict[str, Callable[[float], Rule]] = {
    "SGD": SGD,
    "momentum": lambda rate: SGD(rate, momentum=0.9),
    "Nesterov": lambda rate: SGD(rate, momentum=0.9, nesterov=True),
    "RMSprop": RMSprop,
    "Adam": Adam,
}


def losses(rule: Rule, optimizee: Optimizee, problems, steps: int, *, only_last: bool = False) -> Tensor:
    """f of every problem, on all its data, after 0, 1, …, ``steps`` steps: [T, steps + 1]; with ``only_last`` [T, 1]."""
    theta, found = problems.start, []
    memory = rule.fresh(theta)
    for t in range(steps):
        with torch.enable_grad():
            at = theta.detach().requires_grad_()
            # a problem's loss depends on its own row only: the gradient of the sum has all gradients
            (gradient,) = torch.autograd.grad(optimizee.loss(at, problems, t).sum(), at)
        with torch.no_grad():
            if not only_last:
                found.append(optimizee.judged(theta, problems))
            change, memory = rule.update(gradient, memory)
            theta = theta + change
    with torch.no_grad():
        found.append(optimizee.judged(theta, problems))
    return torch.stack(found, 1)


def tuned(
    make: Callable[[float], Rule],
    optimizee: Optimizee,
    problems,
    steps: int,
    rates: Sequence[float] = RATES,
) -> tuple[float, dict[float, float]]:
    """The rate with the lowest mean final loss on ``problems``, and the mean final loss of every rate (infinite where a run
    diverges). make: rate -> rule."""
    found = {}
    for rate in rates:
        final = losses(make(rate), optimizee, problems, steps, only_last=True).mean()
        found[rate] = float(final) if torch.isfinite(final) else float("inf")
    return min(found, key=found.get), found
