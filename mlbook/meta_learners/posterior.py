"""Posterior means: the predictions with the smallest mean squared error that any
learner can have on a family of tasks (the Bayes rule).

A curve of these families is y = c·s_g(x) + r_g(x) with noise of standard deviation σ:
linear in one parameter c, uniform over an interval, once the other, g, is known. Sines:
c = A, g = φ, s = sin(x − φ), r = 0. Lines: c is the level, g the slope, s = 1, r = g·x.
So c is integrated exactly and g over a grid. The formulas are in the chapter on
in-context learning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mlbook.errors import UserError

Curves = tuple[Callable[[Tensor], tuple[Tensor, Tensor]], tuple[float, float]]
"""x [..., n, 1] -> (s, r), each [..., n, G]; and the interval of c."""

GRID = 1000


def sines(
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, math.pi),
    grid: int = GRID,
) -> Curves:
    """A·sin(x − φ) with A and φ uniform; φ over a grid."""

    def parts(x: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.sin(x - _middles(phase, grid, x))
        return s, torch.zeros_like(s)

    return parts, amplitude


def lines(
    slope: tuple[float, float] = (-3.0, 3.0),
    level: tuple[float, float] = (-3.0, 3.0),
    grid: int = GRID,
) -> Curves:
    """a·x + b with a and b uniform; a over a grid."""

    def parts(x: Tensor) -> tuple[Tensor, Tensor]:
        r = x * _middles(slope, grid, x)
        return torch.ones_like(r), r

    return parts, level


def posterior_mean(families: Sequence[Curves], noise: float) -> Callable:
    """The rule E[y(x) | context] where a task is of each family with equal chances.

    noise: σ, standard deviation of the noise on the context's y; for data without noise
    one that is small, but not below the spacing of the grid (0.02). The rule takes
    (context x [..., K, 1], context y [..., K, 1], x [..., B, 1]) -> [..., B, 1].
    """
    if not noise > 0:
        raise UserError(f"noise must be a positive number, not {noise}")

    def rule(context_x: Tensor, context_y: Tensor, x: Tensor) -> Tensor:
        cx, cy, qx = (v.double() for v in (context_x, context_y, x))
        evidence, means = [], []
        for parts, (low, high) in families:
            s, r = parts(cx)
            rest = cy - r  # [..., K, G]
            ss, sy = s.square().sum(-2), (s * rest).sum(-2)
            ss = ss.clamp(min=1e-9)
            middle, spread = sy / ss, noise / ss.sqrt()
            misfit = (rest.square().sum(-2) - sy.square() / ss) / (2 * noise**2)
            log_share, c = truncated_normal(middle, spread, low, high)
            # ∫ N(y | c, σ²) dc / (high − low), averaged over the grid below
            evidence.append(
                log_share
                + spread.log()
                - misfit
                - math.log((high - low) * s.shape[-1])
            )
            query_s, query_r = parts(qx)
            means.append(query_s * c[..., None, :] + query_r)  # [..., B, G]
        weights = torch.cat(evidence, -1).softmax(-1)
        found = torch.cat(means, -1) @ weights[..., None]
        return found.to(x.dtype)

    return rule


def truncated_normal(
    mean: Tensor, spread: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Of N(mean, spread²) cut to [low, high]: the log of the probability of the
    interval, and the mean within it."""
    a, b = (low - mean) / spread, (high - mean) / spread
    flip = a > 0  # the tails are computed where they are small numbers, on the left
    left, right = torch.where(flip, -b, a), torch.where(flip, -a, b)
    log_share = log_normal_cdf(right) + torch.log1p(
        -torch.exp(_log_ratio(left, right)).clamp(max=1 - 1e-15)
    )
    density = [
        -0.5 * v.square() - 0.5 * math.log(2 * math.pi) for v in (left, right)
    ]
    shift = torch.exp(density[0] - log_share) - torch.exp(density[1] - log_share)
    shift = torch.where(flip, -shift, shift)
    return log_share, (mean + spread * shift).clamp(low, high)


def log_normal_cdf(z: Tensor) -> Tensor:
    """log Φ(z), also far out on the left, where Φ itself is 0 in floating point."""
    tail = torch.special.erfcx(-z.clamp(max=0) / math.sqrt(2))
    left = torch.log(tail / 2) - z.clamp(max=0).square() / 2
    right = torch.log1p(-torch.erfc(z.clamp(min=0) / math.sqrt(2)) / 2)
    return torch.where(z < 0, left, right)


def _log_ratio(left: Tensor, right: Tensor) -> Tensor:
    return log_normal_cdf(left) - log_normal_cdf(right)


def _middles(bounds: tuple[float, float], n: int, like: Tensor) -> Tensor:
    """The middles of n equal parts of an interval, [n]."""
    low, high = bounds
    steps = torch.arange(n, dtype=like.dtype, device=like.device)
    return low + (high - low) * (steps + 0.5) / n
