"""A bilevel problem whose outer gradient is known by hand: the rate of gradient descent on a parabola f(θ) = ½aθ².

The inner loop is θ ← θ − αaθ, N times, so θ_N = (1 − αa)ᴺθ_0 and the last loss is J(α) = ½a(1 − αa)²ᴺθ_0². Each of the N steps
has the same share in dJ/dα = −N·a²(1 − αa)²ᴺ⁻¹θ_0². Where α is instead one of two rates, the second with the probability
p = sigmoid(ψ₂ − ψ₁), J(ψ) = (1 − p)f₁ + p f₂ and dJ/dψ₂ = p(1 − p)(f₂ − f₁).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.meta_learners.bilevel import Outer


@dataclass(frozen=True)
class RateOfDescent:
    """As an inner loop of ``meta_learners.bilevel`` with the outer variable ``alpha``."""

    a: float = 0.7
    start_at: float = 1.3
    steps: int = 6
    weights: Sequence[float] | None = None
    """w_t of the points 0 … N; by default only the last counts."""

    def start(self) -> Tensor:
        """θ_0, a number."""
        return torch.tensor(self.start_at, dtype=torch.float64)

    def step(self, outer: Outer, state: Tensor, t: int) -> Tensor:
        return state - outer["alpha"] * self.a * state

    def loss(self, outer: Outer, state: Tensor, t: int) -> Tensor:
        weight = float(t == self.steps) if self.weights is None else self.weights[t]
        return weight * 0.5 * self.a * state**2

    def cut(self, state: Tensor) -> Tensor:
        return state.detach()

    def final(self, alpha: Tensor | float):
        """J(α)."""
        return 0.5 * self.a * ((1 - alpha * self.a) ** self.steps * self.start_at) ** 2

    def by_hand(self, alpha: float, last: int | None = None) -> float:
        """dJ/dα if only the ``last`` steps depended on α (default: all)."""
        last = self.steps if last is None else last
        return -last * self.a**2 * (1 - alpha * self.a) ** (2 * self.steps - 1) * self.start_at**2


@dataclass(frozen=True)
class OneOfTwoRates:
    """The same with the logits ``choice`` [2] as the outer variable."""

    descent: RateOfDescent
    rates: tuple[float, float] = (0.3, 1.1)

    def loss(self, outer: Outer, choice: Tensor) -> Tensor:
        """f of a choice: one-hot [2], or a mixture of both."""
        return self.descent.final((choice * torch.tensor(self.rates, dtype=choice.dtype)).sum())

    def by_hand(self, logits: Tensor) -> Tensor:
        """dJ/dψ, [2]."""
        p = torch.softmax(logits, -1)
        first, second = (self.descent.final(rate) for rate in self.rates)
        slope = float(p[0] * p[1] * (second - first))
        return torch.tensor([-slope, slope], dtype=logits.dtype)
