"""A backbone: a large network trained as an ordinary classifier of all
meta-train classes, whose features are then frozen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from mlbook.errors import UserError
from mlbook.meta_learners.base import (
    AllReduce,
    InitialisationLearner,
    Meta,
    Metrics,
    State,
    cosine,
    leaves,
    no_reduce,
    outer_step,
)
from mlbook.models.functional import Params, rest_of
from mlbook.tasks.episode import Episode

HALF = {"bf16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Backbone(InitialisationLearner):
    """SGD with Nesterov momentum on mini-batches of labelled images; the rate
    falls to zero along a cosine.

    model: a network with ``features`` and running batch-norm statistics
        (``WideResNet``), one output per meta-train class. At meta-test its
        features are compared with the mean features of each class of the
        support set (nearest centroid, by cosine).
    """

    n_way: int = 5
    """Classes of a meta-test task."""
    meta_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: Literal["float32", "bf16", "float16"] = "float32"
    """``bf16``: convolutions and matrix products round to bfloat16 in training
    (torch's autocast); ``float16``: to float16, and the loss is scaled
    (``torch.amp.GradScaler``). A WRN-28-10 on 128 crops of 80×80 needs 14.6 GiB
    in float32 and 7.6 GiB in half precision."""
    engine = "library"
    inductive = True
    vmappable = False
    recordable = False
    shared_result = "each process normalises its own part of a mini-batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.model, "features"):
            raise UserError("a backbone needs a network with features")

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        meta = self.draw(generator, device)
        optimizer = torch.optim.SGD(
            leaves(meta),
            lr=self.meta_lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=True,
        )
        meta["running"] = {
            name: t.detach().clone().to(device)
            for name, t in self.model.named_buffers()
        }
        scaled = self.precision == "float16"
        kind = torch.device(device).type
        scaler = torch.amp.GradScaler(kind) if scaled else None
        return State(meta, optimizer, scaler=scaler)

    def meta_lr_at(self, progress: float) -> float:
        return self.meta_lr * cosine(progress)

    def step(
        self,
        state: State,
        episodes: Episode,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, Metrics]:
        """One step on T labelled images (support sets of one image each).
        Running statistics are updated in place; several processes keep their
        own."""
        x, y = episodes.support_x.flatten(0, 1), episodes.support_y.flatten()
        params = {
            name: p.requires_grad_() for name, p in state.meta["params"].items()
        }
        self.model.train()
        half = HALF.get(self.precision)
        with torch.autocast(x.device.type, half, enabled=half is not None):
            x = x.contiguous(memory_format=torch.channels_last)
            held = rest_of(self.model, params)
            tensors = {**held, **params, **state.meta["running"]}
            prediction = functional_call(self.model, tensors, (x,))
        loss = F.cross_entropy(
            prediction.to(torch.promote_types(prediction.dtype, torch.float32)), y
        )
        scaled = loss if state.scaler is None else state.scaler.scale(loss)
        found = torch.autograd.grad(scaled, list(params.values()))
        gradient = dict(zip(params, found, strict=True))
        for p in params.values():
            p.requires_grad_(False)
        gradient, metrics = all_reduce(
            {"params": gradient}, self.metrics(loss, prediction.float(), y)
        )
        return outer_step(state, gradient, lr=self.meta_lr_at(progress)), metrics

    @torch.no_grad()
    def features(self, meta: Meta, x: Tensor) -> Tensor:
        """x [B, 3, H, W] from 0 to 1 -> [B, D] under the running statistics,
        each image by itself."""
        self.model.eval()
        x = x.contiguous(memory_format=torch.channels_last)
        return functional_call(
            self.model,
            {
                **rest_of(self.model, meta["params"]),
                **meta["params"],
                **meta["running"],
            },
            (x,),
            {"features": True},
        )

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """The mean of each class's normalised support features; there are no
        inner steps, every state is the same."""
        known = F.normalize(self.features(meta, support_x), dim=1)
        one_hot = F.one_hot(support_y, self.n_way).to(known.dtype)
        centroids = F.normalize(one_hot.t() @ known, dim=1)
        groups = {
            f"{group}.{name}": t
            for group in ("params", "running")
            for name, t in meta[group].items()
        }
        for _ in range(steps + 1):
            yield {"centroids": centroids, **groups}

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """The cosine with each centroid, [B, N]."""
        meta = {
            group: {
                n.removeprefix(f"{group}."): t
                for n, t in params.items()
                if n.startswith(f"{group}.")
            }
            for group in ("params", "running")
        }
        return F.normalize(self.features(meta, x), dim=1) @ params["centroids"].t()
