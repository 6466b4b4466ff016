"""Transfer without meta-learning: a classifier of all meta-train classes, whose
features serve new classes.

The baselines of Ravi and Larochelle (2017) that MAML's miniImageNet table
quotes: nearest neighbour in the features, and fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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
from mlbook.meta_learners.inner_loop import inner_path
from mlbook.meta_learners.pretraining import headless
from mlbook.models import conv4_kernels
from mlbook.models.batch_norm import Statistics
from mlbook.models.functional import Params, call
from mlbook.tasks.episode import Episode

RUNNING = ("running_mean", "running_variance")
"""Groups of ``meta`` with the running statistics; a task's parameters carry
them as ``running.<group>.<layer>``."""


@dataclass(frozen=True)
class Classifier(InitialisationLearner):
    """Ordinary supervised training on mini-batches of all meta-train classes,
    with running batch-norm statistics.

    model: a Conv4 with one output per meta-train class. At meta-test each image
        is classified alone, with the running statistics.
    """

    n_way: int = 5
    """Classes of a meta-test task."""
    adapt: Literal["nearest", "head", "all"] = "nearest"
    """What happens to a support set: ``nearest``: queries take the label of the
    support image with the largest cosine between features; ``head``: a new
    linear layer is trained on it by gradient descent; ``all``: the network
    below is trained along."""
    inner_lr: float = 0.01
    """Rate of that gradient descent."""
    meta_lr: float = 1e-3
    """Rate of Adam in training; it falls to zero along a cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not conv4_kernels.fits(self.model):
            raise UserError(
                "the classifier needs a Conv4 with batch norm, ReLU and no biases"
            )
        if not all(p.requires_grad for p in self.model.parameters()):
            raise UserError(
                "the classifier trains its whole network; parts of this one are "
                "frozen (requires_grad is False)"
            )

    engine = "library"
    shared_result = "each process normalises its own part of a mini-batch"
    inductive = True

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """Random θ, statistics of a standard normal, a fresh Adam."""
        meta = self.draw(generator, device)
        optimizer = torch.optim.Adam(leaves(meta), lr=self.meta_lr)
        shift = {f"norms.{i}": norm.beta for i, norm in enumerate(self.model.norms)}
        for group, fill in zip(RUNNING, (0.0, 1.0), strict=True):
            meta[group] = {
                name: torch.full_like(b, fill, device=device)
                for name, b in shift.items()
            }
        return State(meta, optimizer)

    def meta_lr_at(self, progress: float) -> float:
        return self.meta_lr * cosine(progress)

    def step(
        self,
        state: State,
        episodes: Episode,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, Metrics]:
        """One step of Adam on a mini-batch of labelled images: T support sets
        of one image each (``LabelledImages``).

        Several processes normalise each with the statistics of its own part,
        and keep their own running averages.
        """
        x, y = episodes.support_x.flatten(0, 1), episodes.support_y.flatten()
        params = {
            name: p.requires_grad_() for name, p in state.meta["params"].items()
        }
        # torch's own kernels: first derivatives of F.batch_norm are right
        cut = conv4_kernels.patches(self.model, x)
        prediction = conv4_kernels.logits(
            self.model, params, cut, running_of(state.meta)
        )
        loss = F.cross_entropy(prediction, y)
        gradient = dict(
            zip(
                params,
                torch.autograd.grad(loss, list(params.values())),
                strict=True,
            )
        )
        for p in params.values():
            p.requires_grad_(False)
        gradient, metrics = all_reduce(
            {"params": gradient}, self.metrics(loss, prediction, y)
        )
        return outer_step(state, gradient, lr=self.meta_lr_at(progress)), metrics

    def _features(self, params: Params, x: Tensor) -> Tensor:
        """What the head reads of x [B, C, H, W], under the running statistics:
        [B, D]."""
        return call(
            self.model,
            headless(self.model, params),
            x,
            statistics=running_of(params, "running."),
        )

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """The network for one task, after 0..``steps`` steps of fine-tuning
        (``nearest``: the same every time)."""
        params = dict(meta["params"])
        for group in RUNNING:
            params |= {
                f"running.{group}.{layer}": t for layer, t in meta[group].items()
            }
        features = self._features(params, support_x)
        if self.adapt == "nearest":
            known = {
                "support": F.normalize(features, dim=1),
                "support_y": support_y,
            }
            for _ in range(steps + 1):
                yield {**params, **known}
            return
        weight = params["head.weight"]
        params["head.weight"] = weight.new_zeros(self.n_way, weight.shape[1])
        params["head.bias"] = weight.new_zeros(self.n_way)
        names = [
            n for n in meta["params"] if self.adapt == "all" or n.startswith("head")
        ]

        def head_loss(params: Params) -> Tensor:
            return F.cross_entropy(
                F.linear(features, params["head.weight"], params["head.bias"]),
                support_y,
            )

        def loss(params: Params) -> Tensor:
            return F.cross_entropy(self.predict(params, support_x), support_y)

        chosen = head_loss if self.adapt == "head" else loss
        yield from inner_path(
            chosen, params, inner_lr=self.inner_lr, steps=steps, names=tuple(names)
        )

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """Logits [B, N] of a task's network; each image by itself."""
        features = self._features(params, x)
        if "support" in params:
            cosine = F.normalize(features, dim=1) @ params["support"].t()  # [B, S]
            classes = torch.arange(self.n_way, device=x.device)
            other = params["support_y"][None] != classes[:, None]  # [N, S]
            return cosine[:, None, :].masked_fill(other, -2.0).amax(-1)
        return F.linear(features, params["head.weight"], params["head.bias"])


def running_of(tensors: dict, prefix: str = "") -> list[Statistics]:
    """The running statistics, layer by layer, from the groups of ``meta`` or
    from a task's parameters."""
    if prefix:
        groups = [
            {
                n.removeprefix(f"{prefix}{g}."): t
                for n, t in tensors.items()
                if n.startswith(f"{prefix}{g}.")
            }
            for g in RUNNING
        ]
    else:
        groups = [tensors[g] for g in RUNNING]
    mean, variance = groups
    return [
        Statistics(mean[f"norms.{i}"], variance[f"norms.{i}"])
        for i in range(len(mean))
    ]
