"""Influence balancing, as in the code of Vicol et al. (2021): a run whose truncated outer gradient has the wrong sign.

n = 23 numbers follow s ← As + vθ, with ½ on the diagonal of A and just above it; v is +1 ten times, then −1 thirteen times. The
loss of every step is ½(s₀ − 1)². θ is one number. Row 0 of A^j holds C(j, i)/2^j, so with K steps of memory

    ds₀/dθ = g_K = Σ_{j<K} 2^−j Σ_i C(j, i) v_i,

which is positive up to K = 40, negative from 41 on and tends to −6: in the long run s₀ = −6θ, and θ* = −1/6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mlbook.meta_learners.bilevel import Outer

SIZE, POSITIVE = 23, 10
BEST = -1 / 6


def direction() -> Tensor:
    """v [23], float64."""
    v = -torch.ones(SIZE, dtype=torch.float64)
    v[:POSITIVE] = 1.0
    return v


def influence(memory: int) -> float:
    """g_K: how fast s₀ moves with θ where only the last K steps depend on it."""
    v = direction().tolist()
    return sum(sum(math.comb(j, i) * v[i] for i in range(min(j + 1, SIZE))) / 2**j for j in range(memory))


@dataclass(frozen=True)
class Influence:
    """As an inner loop of ``meta_learners.bilevel`` with the outer variable ``theta``, a number in float64."""

    rested: float | None = None
    """Start where s rests at this θ; by default all entries of s are 1 at the start."""

    @cached_property
    def matrix(self) -> Tensor:
        ones = torch.ones(SIZE, dtype=torch.float64)
        return 0.5 * (torch.diag(ones) + torch.diag(ones[1:], 1))

    @cached_property
    def v(self) -> Tensor:
        return direction()

    def start(self) -> Tensor:
        """s of length 23."""
        return torch.ones(SIZE, dtype=torch.float64) if self.rested is None else self.resting(self.rested)

    def step(self, outer: Outer, state: Tensor, t: int) -> Tensor:
        return self.matrix @ state + self.v * outer["theta"]

    def loss(self, outer: Outer, state: Tensor, t: int) -> Tensor:
        return 0.5 * (state[0] - 1) ** 2

    def cut(self, state: Tensor) -> Tensor:
        return state.detach()

    def resting(self, theta: float) -> Tensor:
        """The state that s tends to."""
        eye = torch.eye(SIZE, dtype=torch.float64)
        return torch.linalg.solve(eye - self.matrix, self.v * theta)
