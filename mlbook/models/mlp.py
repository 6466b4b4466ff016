"""Fully connected networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


class MLP(nn.Module):
    """A multi-layer perceptron; the default is MAML's sinusoid network 1-40-40-1 with 1,761 parameters.

    Weights start from a normal with standard deviation ``init_std``, truncated at two of them, and biases from
    zero, as in the official code; with ``init_std=None`` both are uniform within ±1/√inputs, as PyTorch starts them.
    """

    def __init__(
        self,
        sizes: tuple[int, ...] = (1, 40, 40, 1),
        *,
        activation: str = "relu",
        init_std: float | None = 0.01,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.init_std = init_std
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
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

    def forward(self, x: Tensor) -> Tensor:
        """x [..., features in] -> [..., features out]."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
