"""The four-layer convolutional networks of MAML, as in its official code."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.errors import UserError
from mlbook.models.batch_norm import BatchNorm, Statistics, batch_statistics
from mlbook.models.mlp import activation_of


class Conv4(nn.Module):
    """Four modules of [3×3 convolution, batch norm, ReLU], then a linear classifier.

    downsample: ``"stride"``: convolutions of stride 2, no pooling, and the mean over space before the classifier
        (official Omniglot network, 28×28 -> 14 -> 7 -> 4 -> 2); ``"max_pool"``: stride 1 and 2×2 max-pooling, then
        all positions flattened (official miniImageNet network, 84×84 -> 42 -> 21 -> 10 -> 5); ``"max_pool_same"``: the same, but
        a row or column that is left over is pooled too (TensorFlow's padding 'same', official Reptile: 21 -> 11 -> 6);
        ``"average_pool"``: the smooth relative of the latter, for finite differences.
    bias: whether convolutions have biases. Before batch norm a bias cancels exactly: its gradient is zero and it
        never moves, so it is left out unless asked for. The official parameter counts (111,749 adapted for Omniglot
        5-way, 32,645 for miniImageNet) include them. Networks without batch norm always have biases.
    gamma: scale in batch norm (official MAML: none; official Reptile: yes).
    size: pixels of a side, or (height, width).
    spatial_mean: whether the classifier reads the mean over space or all positions; default: the mean behind strides, as in
        official MAML (official Reptile flattens there too: 2·2·64 = 256 features for 28×28).

    TensorFlow pads 'SAME' with stride 2 on the right and below only; padding on both sides is the same network on
    images turned by 180°, and Omniglot tasks are turned at random by multiples of 90° (see tests/test_models.py).
    """

    def __init__(
        self,
        n_way: int,
        *,
        channels: int = 1,
        filters: int = 64,
        size: int | tuple[int, int] = 28,
        downsample: Literal["stride", "max_pool", "max_pool_same", "average_pool"] = "stride",
        batch_norm: bool = True,
        gamma: bool = False,
        bias: bool = False,
        spatial_mean: bool | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if downsample not in ("stride", "max_pool", "max_pool_same", "average_pool"):
            raise UserError(
                f"downsample must be stride, max_pool, max_pool_same or average_pool, not {downsample!r}"
            )
        self.downsample = downsample
        self.activation = activation_of(activation)
        stride = 2 if downsample == "stride" else 1
        widths = [channels] + [filters] * 4
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=bias or not batch_norm)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.norms = nn.ModuleList(BatchNorm(filters, gamma=gamma) for _ in range(4)) if batch_norm else None
        self.spatial_mean = downsample == "stride" if spatial_mean is None else spatial_mean
        height, width = (size, size) if isinstance(size, int) else size
        self.square = height == width
        rounded_up = 1 if downsample in ("stride", "max_pool_same") else 0
        for _ in range(4):
            height, width = (height + rounded_up) // 2, (width + rounded_up) // 2
        if not height * width:
            raise UserError(
                f"images of {size} pixels are too small for four poolings; height and width must be at least 16"
            )
        features = filters if self.spatial_mean else filters * height * width
        self.head = nn.Linear(features, n_way)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Official initial values: Xavier (uniform) convolutions; the classifier from N(0, 1) after the spatial mean, Xavier
        after flattening; biases and β zero."""
        for conv in self.convs:
            nn.init.xavier_uniform_(conv.weight, generator=generator)
        if self.spatial_mean:
            nn.init.normal_(self.head.weight, generator=generator)
        else:
            nn.init.xavier_uniform_(self.head.weight, generator=generator)
        for name, p in self.named_parameters():
            if name.endswith(("bias", "beta")):
                nn.init.zeros_(p)
            elif name.endswith("gamma"):
                nn.init.ones_(p)

    def forward(
        self,
        x: Tensor,
        statistics: list[Statistics] | None = None,
        collect: list[Statistics] | None = None,
        outputs: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B, C, H, W] -> logits [B, N].

        statistics: one entry per layer to normalise with (batch-norm modes ``support`` and ``running``); default:
            those of x itself. collect: a list that receives the statistics of x, layer by layer. outputs: a list that receives
            what the four modules give, [B, filters, h, w].
        """
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms is not None:
                if collect is not None:
                    collect.append(batch_statistics(x))
                x = self.norms[i](x, None if statistics is None else statistics[i])
            x = self.activation(x)
            if self.downsample in ("max_pool", "max_pool_same"):
                x = F.max_pool2d(x, 2, ceil_mode=self.downsample == "max_pool_same")
            elif self.downsample == "average_pool":
                x = F.avg_pool2d(x, 2)
            if outputs is not None:
                outputs.append(x)
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the classifier reads of the last module's output [B, C, h, w]."""
        return x.mean((2, 3)) if self.spatial_mean else x.flatten(1)


def adapted_names(module: nn.Module) -> tuple[str, ...]:
    """The parameters that official MAML adapts in the inner loop: all but batch norm's β (and γ)."""
    return tuple(name for name, _ in module.named_parameters() if not name.endswith(("beta", "gamma")))


def head_names(module: nn.Module) -> tuple[str, ...]:
    """The parameters of the last linear layer: what ANIL adapts."""
    last = [name for name, child in module.named_modules() if isinstance(child, nn.Linear)][-1]
    return tuple(name for name, _ in module.named_parameters() if name.startswith(last + "."))


def count(module: nn.Module, names: tuple[str, ...] | None = None) -> int:
    """Number of scalar parameters, of all or of the named ones."""
    return sum(math.prod(p.shape) for n, p in module.named_parameters() if names is None or n in names)
