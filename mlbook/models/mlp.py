"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mlbook.errors import UserError
from mlbook.models.batch_norm import BatchNorm, Statistics, batch_statistics

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


def activation_of(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name; ``UserError`` where there is none."""
    if name not in ACTIVATIONS:
        raise UserError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {name!r}")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """A multi-layer perceptron; the default is MAML's sinusoid network 1-40-40-1 with 1,761 parameters.

    Weights start from a normal with standard deviation ``init_std``, truncated at two of them, and biases from
    zero, as in the official code; with ``init_std=None`` both are uniform within ±1/√inputs, as PyTorch starts them.

    batch_norm: normalise before every activation, as the official Omniglot network without convolutions does
        (784-256-128-64-64-N, no γ; biases stay, though batch norm cancels them, since the official count of 246,597 adapted
        parameters has them). Inputs [B, ...] are then flattened to [B, features].
    """

    def __init__(
        self,
        sizes: tuple[int, ...] = (1, 40, 40, 1),
        *,
        activation: str = "relu",
        init_std: float | None = 0.01,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation_of(activation)
        self.init_std = init_std
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.norms = nn.ModuleList(BatchNorm(b) for b in sizes[1:-1]) if batch_norm else None
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        for layer in self.layers:
            s = self.init_std
            if s is None:
                bound = 1 / math.sqrt(layer.in_features)
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
                continue
            nn.init.trunc_normal_(layer.weight, std=s, a=-2 * s, b=2 * s, generator=generator)
            nn.init.zeros_(layer.bias)
        for norm in self.norms or ():
            nn.init.zeros_(norm.beta)

    def forward(
        self, x: Tensor, statistics: list[Statistics] | None = None, collect: list[Statistics] | None = None
    ) -> Tensor:
        """x [..., features in] -> [..., features out]; with batch norm x [B, ...] -> [B, features out].

        statistics, collect: as in ``Conv4.forward``, with batch norm only.
        """
        if self.norms is None:
            for layer in self.layers[:-1]:
                x = self.activation(layer(x))
            return self.layers[-1](x)
        x = x.flatten(1)
        for i, (layer, norm) in enumerate(zip(self.layers[:-1], self.norms, strict=True)):
            x = layer(x)
            if collect is not None:
                collect.append(batch_statistics(x))
            x = self.activation(norm(x, None if statistics is None else statistics[i]))
        return self.layers[-1](x)
