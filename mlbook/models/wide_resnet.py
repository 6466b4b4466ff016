"""Wide residual networks (Zagoruyko and Komodakis 2016): backbones whose features serve new classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.errors import UserError


class Block(nn.Module):
    """Two times batch norm, ReLU and a 3×3 convolution, beside a shortcut."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(into), _norm(out)
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        changes = into != out or stride != 1
        self.shortcut = nn.Conv2d(into, out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        beside = x if self.shortcut is None else self.shortcut(active)
        return beside + self.conv2(F.relu(self.norm2(self.conv1(active))))


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    norm.num_batches_tracked = None  # the running averages are exponential; nothing counts batches
    return norm


class WideResNet(nn.Module):
    """WRN-``depth``-``width`` for colour pictures, with a linear classifier of ``n_outputs`` classes behind the average pooling.

    depth: 6n + 4 layers, n blocks in each of three groups of 16, 32 and 64 times ``width`` channels. stride: of the first group;
    1 in the published network, 2 quarters its cost. The other groups halve the picture. D = 64·``width`` features.
    """

    def __init__(self, n_outputs: int, *, depth: int = 28, width: int = 10, stride: int = 1) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise UserError(f"the depth of a wide residual network is 6n + 4 with n at least 1, not {depth}")
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        blocks, into = [], 16
        for group, strides in enumerate((stride, 2, 2)):
            for n in range((depth - 4) // 6):
                out = 16 * 2**group * width
                blocks.append(Block(into, out, strides if n == 0 else 1))
                into = out
        self.blocks = nn.Sequential(*blocks)
        self.norm = _norm(into)
        self.head = nn.Linear(into, n_outputs)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """He-initialised convolutions, a small classifier, batch norm as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] from 0 to 1 -> [B, D], the average over the picture behind the last ReLU."""
        x = (x - 0.45) / 0.25  # mean and spread of the colours of photographs, about
        x = F.relu(self.norm(self.blocks(self.stem(x))))
        return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))

    def forward(self, x: Tensor, *, features: bool = False) -> Tensor:
        """x [B, 3, H, W] -> logits [B, n_outputs], or the features themselves."""
        found = self.features(x)
        return found if features else self.head(found)
