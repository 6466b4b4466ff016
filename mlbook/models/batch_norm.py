"""Batch normalisation for meta-learning: the modes in one place.

Which statistics normalise the query images decides what a few-shot accuracy means:

* ``transductive``: mean and variance of the batch that is being classified (official MAML and Reptile, at
  meta-training and at meta-test alike). The query images help each other.
* ``support_and_query``: mean and variance of the support set together with one query image (what the Reptile paper calls
  non-transductive). Queries do not see each other.
* ``support``: statistics of the support batch under the adapted parameters. Each query stands alone.
* ``running``: averages collected over meta-training, as in ordinary supervised learning.
* ``none``: no normalisation. Meant for networks without batch norm; at meta-test it shows how much of a network with batch norm
  the normalisation is.

The statistics are written out from sums. ``torch.func`` differentiates sums correctly in every order; the
composition ``grad(vmap(...))`` through ``F.batch_norm`` with a scale γ silently drops terms of the second
derivative (seen in torch 2.13), which ``tests/test_meta_gradients.py`` keeps on record.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

MODES = ("transductive", "support_and_query", "support", "running", "none")


class Statistics(NamedTuple):
    mean: Tensor  # [C]
    variance: Tensor  # [C], biased (divided by the number of values)


def batch_statistics(x: Tensor) -> Statistics:
    """Statistics of x [B, C, ...] over everything but the channels."""
    dims = [d for d in range(x.dim()) if d != 1]
    mean = x.mean(dims, keepdim=True)
    variance = (x - mean).square().mean(dims)
    return Statistics(mean.flatten(), variance)


def no_statistics(module: nn.Module, like: Tensor) -> list[Statistics]:
    """Per batch-norm layer of ``module`` the statistics with which it leaves its input as it is, but for β (and γ): mean 0 and
    variance 1 − eps. like: a tensor with the type and device of the parameters."""
    return [
        Statistics(like.new_zeros(len(norm.beta)), like.new_full((len(norm.beta),), 1 - norm.eps))
        for norm in module.modules()
        if isinstance(norm, BatchNorm)
    ]


class BatchNorm(nn.Module):
    """y = γ·(x − mean)/sqrt(variance + eps) + β over channels, with the statistics handed in or taken from x.

    gamma: whether there is a scale γ. Official MAML has none (``tf.contrib.layers.batch_norm`` with its default
    ``scale=False``, ``epsilon=0.001``); Reptile has one.
    """

    def __init__(self, channels: int, *, gamma: bool = False, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(channels)) if gamma else None
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        mean, variance = batch_statistics(x) if statistics is None else statistics
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        if self.gamma is not None:
            scale = scale * self.gamma
        return (x - mean.view(shape)) * scale.view(shape) + self.beta.view(shape)
