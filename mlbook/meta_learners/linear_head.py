"""Baselines over fixed features, without meta-training: the nearest class
centroid, and a linear classifier trained by gradient descent on the support
set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from mlbook.errors import UserError
from mlbook.meta_learners import arguments
from mlbook.meta_learners.base import Meta, MetaLearner, State
from mlbook.models.functional import Params


@dataclass(frozen=True)
class LinearHead(MetaLearner):
    """A classifier w [N, D] without bias, computed from the support set
    alone."""

    n_way: int = 5
    start: Literal["centroids", "zero"] = "centroids"
    """``centroids``: w is ``scale`` times the mean support vector of each
    class, scaled to length 1 (softmax over cosines); ``zero``: w is zero."""
    scale: float = 10.0
    inner_lr: float = 1.0
    """Rate of gradient descent on the mean cross-entropy."""
    inductive = True
    recordable = False

    def __post_init__(self) -> None:
        arguments.check(self)

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """Nothing is learned across tasks; the scale stands where parameters
        stand, so that a checkpoint is whole."""
        scale = torch.tensor(self.scale, device=device)
        return State({"params": {"scale": scale}}, torch.optim.SGD([scale], lr=0.0))

    def one_process_because(self) -> str | None:
        return "has no meta-training"

    def meta_lr_at(self, progress: float) -> float:
        return 0.0

    def step(self, *_, **__) -> NoReturn:
        raise UserError(
            "this baseline has no meta-training: its presets have 0 meta-steps"
        )

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """{"w": [N, D]} after 0..``steps`` steps of gradient descent on a
        support set [N·K, D]."""
        one_hot = F.one_hot(support_y, self.n_way).to(support_x.dtype)
        w = one_hot.t() @ support_x
        w = (
            F.normalize(w, dim=1) * meta["params"]["scale"]
            if self.start == "centroids"
            else torch.zeros_like(w)
        )

        def loss(w: Tensor) -> Tensor:
            return (
                -(F.log_softmax(support_x @ w.t(), dim=1) * one_hot).sum(1).mean()
            )

        yield {"w": w}
        for _ in range(steps):
            w = w - self.inner_lr * grad(loss)(w)
            yield {"w": w}

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """x [B, D] -> logits [B, N]."""
        return x @ params["w"].t()
