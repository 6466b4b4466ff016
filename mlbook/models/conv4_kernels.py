"""Conv4 by the library's own kernels, for first derivatives: ordinary training, task after task.

The 3×3 patches of the input are cut once and serve every pass as a matrix product, and images keep the channels last in memory.
``F.batch_norm`` is right in first derivatives; ``models/batch_norm.py`` says where it is not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.models.batch_norm import Statistics
from mlbook.models.conv4 import Conv4
from mlbook.models.functional import Params


def fits(model: nn.Module) -> bool:
    """Whether this is a Conv4 of square images with batch norm, ReLU, no biases, and no average pooling."""
    return (
        isinstance(model, Conv4)
        and model.square
        and model.downsample in ("stride", "max_pool", "max_pool_same")
        and model.norms is not None
        and model.activation is torch.relu
        and model.convs[0].bias is None
    )


def patches(model: Conv4, images: Tensor) -> Tensor:
    """All 3×3 patches of ``images`` [S, C, H, W] that the first convolution reads: [S, h, w, 9·C]."""
    stride = model.convs[0].stride[0]
    side = -(-images.shape[-1] // stride)
    columns = F.unfold(images, 3, padding=1, stride=stride)  # [S, 9·C, h·w]
    return columns.transpose(1, 2).reshape(len(images), side, side, -1)


def logits(
    model: Conv4, params: Params, cut: Tensor, running: list[Statistics] | None = None, momentum: float = 0.01
) -> Tensor:
    """The network on patches [M, h, w, 9·C], with the statistics of these M images: [M, N].

    running: averages, one entry per layer, which are moved by ``momentum`` towards these statistics in place.
    """
    M, h, w, _ = cut.shape
    stride, pool = model.convs[0].stride, model.downsample != "stride"
    x = cut.flatten(0, 2) @ params["convs.0.weight"].flatten(1).t()
    for i, norm in enumerate(model.norms):
        if i:
            x = F.conv2d(x, params[f"convs.{i}.weight"], None, stride, 1)
        gamma, beta = params.get(f"norms.{i}.gamma"), params[f"norms.{i}.beta"]
        mean, variance = (None, None) if running is None else running[i]
        x = F.batch_norm(x, mean, variance, gamma, beta, True, momentum, norm.eps)
        x = torch.relu(x)
        if not i:  # rows of a matrix become images with the channels last
            x = x.view(M, h, w, -1).permute(0, 3, 1, 2)
        if pool:
            x = F.max_pool2d(x, 2, ceil_mode=model.downsample == "max_pool_same")
    return F.linear(model.features(x), params["head.weight"], params["head.bias"])
