"""Losses without a useful derivative: the 0-1 loss, its expectation under a random prediction, and the score-function estimator.

If the label y is drawn with the probabilities p(z) = softmax(z) and a wrong label costs c(y), then the expected cost
E(z) = Σ_y p_y(z)·c(y) is smooth in z although c is not, and

    ∇E(z) = Σ_y p_y·c(y)·∇log p_y = E_y[ c(y)·(onehot(y) − p) ].

The last form needs costs of drawn labels only (REINFORCE, Williams 1992). A baseline b that does not depend on y changes nothing
in the mean, because E_y[∇log p_y] = 0, and much in the variance.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expected_cost(logits: Tensor, cost: Tensor) -> Tensor:
    """Σ_y softmax(z)_y·c(y): logits and cost [..., C] -> [...]."""
    return (torch.softmax(logits, -1) * cost).sum(-1)


def score_function_draws(
    logits: Tensor, cost: Tensor, draws: int, generator: torch.Generator, *, baseline: bool = False
) -> Tensor:
    """Estimates of ∇E from one drawn label each: c(y)·(onehot(y) − p), [draws, C].

    logits, cost: [C]. baseline: subtract the expected cost from c(y).
    """
    p = torch.softmax(logits, -1)
    y = torch.multinomial(p, draws, replacement=True, generator=generator)
    c = cost[y] - (expected_cost(logits, cost) if baseline else 0)
    return c[:, None] * (torch.nn.functional.one_hot(y, len(p)).to(p.dtype) - p)


def zero_one_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of wrong answers, logits [B, C] and labels [B] -> scalar. Piecewise constant in the logits: its derivative is zero
    wherever it exists. (The product with zero keeps it a function of the logits for automatic differentiation.)"""
    return (logits.argmax(-1) != labels).to(logits.dtype).mean() + 0 * logits.sum()


def expected_zero_one_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of wrong answers if labels are drawn from softmax(logits): 1 − mean p(right label)."""
    return 1 - torch.softmax(logits, -1).gather(-1, labels[:, None]).mean()


def sampled_zero_one_loss(logits: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """A scalar whose derivative is the score-function estimate of that of ``expected_zero_one_loss``, one drawn label per
    example, with the expected cost of the example as baseline.

    noise: uniform numbers from 0 to 1, [B, C], that decide the draw. The value of the result means nothing, and so do its second
    derivatives (chapter 7).
    """
    gumbel = -(-(noise.clamp(1e-6, 1 - 1e-6)).log()).log()
    drawn = (logits.detach() + gumbel).argmax(-1)
    right = torch.softmax(logits.detach(), -1).gather(-1, labels[:, None])[:, 0]
    cost = (drawn != labels).to(logits.dtype) - (1 - right)
    return (cost * torch.log_softmax(logits, -1).gather(-1, drawn[:, None])[:, 0]).mean()
