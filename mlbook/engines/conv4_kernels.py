"""First derivatives of Conv4 by the library's own kernels: one mini-batch of one task after the other, many times.

Reptile needs nothing but ordinary training, task by task, and so does MAML at meta-test. What is saved here is overhead, which
counts where a mini-batch has ten small images: the 3×3 patches of the input are cut once per task and serve every inner step as
a matrix product, images keep the channels last in memory, and parameters and Adam's moments lie in one row each, which is updated
in place. ``F.batch_norm`` is right in first derivatives; ``models/batch_norm.py`` says where it is not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.meta_learners.inner_loop import BETA2, EPSILON, Moments
from mlbook.models.batch_norm import Statistics
from mlbook.models.conv4 import Conv4
from mlbook.models.functional import Params


def fits(model: nn.Module) -> bool:
    """Whether this is a Conv4 with batch norm, ReLU, no biases, and no average pooling."""
    return (
        isinstance(model, Conv4)
        and model.downsample in ("stride", "max_pool", "max_pool_same")
        and model.norms is not None
        and model.activation is torch.relu
        and model.convs[0].bias is None
    )


def lay_out(tensors: Params) -> Tensor:
    """All values in one row, those of a convolution with the channels last."""
    return torch.cat(
        [t.permute(0, 2, 3, 1).reshape(-1) if t.dim() == 4 else t.reshape(-1) for t in tensors.values()]
    )


def views(row: Tensor, like: Params) -> Params:
    """The inverse of ``lay_out``: tensors in the shapes of ``like`` that share the memory of ``row``."""
    parts = row.split([t.numel() for t in like.values()])
    shaped = {}
    for (name, t), part in zip(like.items(), parts, strict=True):
        if t.dim() == 4:
            filters, channels, h, w = t.shape
            shaped[name] = part.view(filters, h, w, channels).permute(0, 3, 1, 2)
        else:
            shaped[name] = part.view(t.shape)
    return shaped


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


class Descent:
    """The inner loop on one task: one step at a time, in place.

    moments: Adam's, as ``inner_loop.adam_path`` takes them; None for plain gradient descent. For that, ``names`` are the
    parameters that move (default: all) and ``inner_lr`` may be one tensor for each of them.
    """

    def __init__(
        self,
        model: Conv4,
        params: Params,
        moments: Moments | None,
        inner_lr: float | Params,
        names: tuple[str, ...] | None = None,
    ) -> None:
        self.model, self.like, self.inner_lr = model, params, inner_lr
        self.row = lay_out(params)
        self.leaves = {name: p.detach() for name, p in views(self.row, params).items()}
        self.moving = {name: self.leaves[name].requires_grad_() for name in names or params}
        self.v = None if moments is None else lay_out(moments.v)
        self.weight = None if moments is None else moments.weight.clone()

    @property
    def params(self) -> Params:
        """A copy of the parameters as they are."""
        return views(self.row.clone(), self.like)

    @property
    def moments(self) -> Moments | None:
        return None if self.v is None else Moments(views(self.v, self.like), self.weight)

    def step(self, cut: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One inner step on the patches and labels of a mini-batch; its loss and logits before the step."""
        with torch.enable_grad():
            prediction = logits(self.model, self.leaves, cut)
            loss = F.cross_entropy(prediction, y)
            gradient = torch.autograd.grad(loss, list(self.moving.values()))
        with torch.no_grad():
            if self.v is None:
                for (name, p), g in zip(self.moving.items(), gradient, strict=True):
                    rate = self.inner_lr[name] if isinstance(self.inner_lr, dict) else self.inner_lr
                    p.sub_(rate * g)
            else:
                g = lay_out(dict(zip(self.leaves, gradient, strict=True)))
                self.v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
                self.weight.mul_(BETA2).add_(1 - BETA2)
                g.mul_(self.inner_lr * self.weight.sqrt())
                self.row.addcdiv_(g, self.v.sqrt().add_(EPSILON), value=-1)
        return loss.detach(), prediction.detach()
