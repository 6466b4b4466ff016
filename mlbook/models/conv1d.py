"""A four-layer convolutional network for signals: ``Conv4`` with one dimension instead of two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.models.batch_norm import BatchNorm, Statistics, batch_statistics


class Conv1d4(nn.Module):
    """Four modules of [convolution of width 3, batch norm, ReLU, max-pooling of two], then a linear classifier of all positions.

    channels, size: of a signal [C, L], of any length. Pooling keeps what is left over: 100 -> 50 -> 25 -> 13 -> 7.
    Convolutions have no biases, and batch norm no scale γ, as in ``Conv4``.
    """

    def __init__(self, n_way: int, *, channels: int, size: int, filters: int = 64) -> None:
        super().__init__()
        widths = [channels] + [filters] * 4
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, 3, padding=1, bias=False) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.norms = nn.ModuleList(BatchNorm(filters) for _ in range(4))
        for _ in range(4):
            size = (size + 1) // 2
        self.head = nn.Linear(filters * size, n_way)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Xavier (uniform) weights, as in ``Conv4``; the classifier's biases and β zero."""
        for layer in (*self.convs, self.head):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(self.head.bias)
        for norm in self.norms:
            nn.init.zeros_(norm.beta)

    def forward(
        self, x: Tensor, statistics: list[Statistics] | None = None, collect: list[Statistics] | None = None
    ) -> Tensor:
        """x [B, C, L] -> logits [B, N]. statistics, collect: as in ``Conv4.forward``."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x)
            if collect is not None:
                collect.append(batch_statistics(x))
            x = torch.relu(norm(x, None if statistics is None else statistics[i]))
            x = F.max_pool1d(x, 2, ceil_mode=True)
        return self.head(x.flatten(1))
