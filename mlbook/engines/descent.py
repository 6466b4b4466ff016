"""The inner loop of one task after the other with first derivatives only, in place: Reptile's training, and MAML at meta-test.

What is saved is overhead, which counts where a mini-batch has ten small images: the patches of the input are cut once per task
(``models/conv4_kernels.py``), and parameters and Adam's moments lie in one row each, which is updated in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.meta_learners.inner_loop import BETA2, EPSILON, Moments
from mlbook.models.conv4 import Conv4
from mlbook.models.conv4_kernels import logits
from mlbook.models.functional import Params


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
            gradient = torch.autograd.grad(loss, list(self.moving.values()))  # [MAML 5]
        with torch.no_grad():
            if self.v is None:
                for (name, p), g in zip(self.moving.items(), gradient, strict=True):
                    rate = self.inner_lr[name] if isinstance(self.inner_lr, dict) else self.inner_lr
                    p.sub_(rate * g)  # [MAML 6]
            else:
                g = lay_out(dict(zip(self.leaves, gradient, strict=True)))
                self.v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)  # [ADAM 2]
                self.weight.mul_(BETA2).add_(1 - BETA2)
                g.mul_(self.inner_lr * self.weight.sqrt())
                self.row.addcdiv_(g, self.v.sqrt().add_(EPSILON), value=-1)  # [ADAM 3]
        return loss.detach(), prediction.detach()
