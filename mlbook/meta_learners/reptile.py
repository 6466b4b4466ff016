"""Reptile: θ moves towards what a few steps of ordinary training on a task make of it.

Greek to Python: θ ``meta["params"]``, α ``inner_lr``, ε ``meta_lr``, k inner steps ``inner_steps``, φ ``adapted``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mlbook.engines import conv4_kernels, fast_conv4, fast_mlp
from mlbook.errors import UserError
from mlbook.meta_learners.base import (
    LOSSES,
    AllReduce,
    InitialisationLearner,
    Meta,
    State,
    leaves,
    no_reduce,
    outer_step,
)
from mlbook.meta_learners.inner_loop import Loss, Moments, adam_path, inner_path
from mlbook.models.functional import Params
from mlbook.tasks.episode import BatchedEpisode, Episode


class Adapted(NamedTuple):
    """What the inner loop made of one task."""

    towards: Params
    """The way that θ should go: φ − θ, or the last step alone."""
    moments: Moments | None
    metrics: dict[str, Tensor]


@dataclass(frozen=True)
class Reptile(InitialisationLearner):
    """Reptile (Nichol et al. 2018), serial with one task per meta-batch and batched with several: θ ← θ + ε·mean(φ − θ).

    Training looks at the support sets only. Episodes with an ``order`` (``tasks.MiniBatches``) give every inner step a mini-batch
    of its own; without one, every step sees the whole support set.
    """

    inner_lr: float = 0.01
    """α."""
    inner_steps: int = 5
    """k, steps on one task in meta-training."""
    meta_lr: float = 1.0
    """ε at the start, the share of the way to the mean of the φ."""
    meta_lr_final: float = 0.0
    """ε at the end; it changes linearly over the run."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Of the inner loop. ``adam``: with β₁ = 0, as published for images."""
    moments: Literal["carried", "shared", "fresh"] = "carried"
    """Adam's second moments. ``carried``: on from step to step and from task to task, so tasks are taken one after the other
    (the official code). ``shared``: all tasks of a meta-batch start from the same ones and hand on their mean, so tasks may be
    computed at once. ``fresh``: from zero in every task."""
    follow: Literal["displacement", "last_step"] = "displacement"
    """``last_step``: θ moves along the last inner step alone: FOMAML, with that step's mini-batch as the query set."""
    tail: Literal["support", "query"] = "support"
    """What the last inner step sees: another mini-batch of the support set, or the query set (a separate tail)."""
    engine: Literal["vmap", "fast"] = "vmap"
    """How gradients are computed: by automatic differentiation (of all tasks at once where moments allow it), or by closed
    forms and the library's kernels (``fast_conv4``, ``fast_mlp``, ``conv4_kernels``), for their networks only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_steps < 1:
            raise UserError(f"inner_steps must be at least 1, got {self.inner_steps}")
        choices = {
            "optimizer": ("sgd", "adam"),
            "moments": ("carried", "shared", "fresh"),
            "follow": ("displacement", "last_step"),
            "tail": ("support", "query"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.engine == "fast" and not self.fast_engine_fits:
            raise UserError(
                "engine fast needs a Conv4 (stride or max_pool, batch norm, ReLU, no biases) with cross_entropy, or a ReLU MLP "
                "with mse and plain gradient descent on whole support sets"
            )

    @property
    def fast_engine_fits(self) -> bool:
        """Whether there is a fast way to the gradients of this learner."""
        if self.loss == "mse":
            return fast_mlp.fits(self.model) and self._plain
        return conv4_kernels.fits(self.model)

    @property
    def _plain(self) -> bool:
        return (self.optimizer, self.follow, self.tail) == ("sgd", "displacement", "support")

    @property
    def vmappable(self) -> bool:
        """Whether ``path`` can be mapped over tasks."""
        return not self._kernels

    @property
    def _kernels(self) -> bool:
        return self.engine == "fast" and conv4_kernels.fits(self.model)

    @property
    def serial(self) -> bool:
        """Whether a task needs what the task before it left behind."""
        return self.optimizer == "adam" and self.moments == "carried"

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """Random θ, drawn on the generator's device, then moved; Adam's moments are zero."""
        meta = self.draw(generator, device)  # [REPTILE 1]
        optimizer = torch.optim.SGD(leaves(meta), lr=self.meta_lr)
        if self.optimizer == "adam" and self.moments != "fresh":
            meta |= _groups(Moments.fresh(meta["params"]))
        return State(meta, optimizer)

    def moments_of(self, meta: Meta) -> Moments | None:
        """Adam's moments that a task starts from: the trained ones, also at meta-test, or fresh ones."""
        if self.optimizer == "sgd":
            return None
        if self.moments == "fresh":
            return Moments.fresh(meta["params"])
        return Moments(meta["second_moment"], meta["moment_weight"]["weight"])

    def batches(
        self, x: Tensor, y: Tensor, steps: int, order: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """What each of the ``steps`` inner steps sees of a support set; ``order`` [steps or more, M]."""
        if order is None:
            return [(x, y)] * steps
        if steps > len(order):
            raise UserError(
                f"{steps} inner steps need as many mini-batches; these episodes have {len(order)}"
            )
        return [(x[index], y[index]) for index in order[:steps]]

    def _losses(self, batches: list[tuple[Tensor, Tensor]]) -> list[Loss]:
        return [lambda params, x=x, y=y: LOSSES[self.loss](self.predict(params, x), y) for x, y in batches]

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int, order: Tensor | None = None
    ) -> Iterator[Params]:
        """Parameters of one task after 0, 1, ..., ``steps`` inner steps."""
        if self._kernels:
            yield from self._path_by_kernels(meta, support_x, support_y, steps, order)
            return
        losses = self._losses(self.batches(support_x, support_y, steps, order))
        for params, _ in self._descend(meta["params"], self.moments_of(meta), losses):
            yield params

    def _path_by_kernels(self, meta, support_x, support_y, steps, order) -> Iterator[Params]:
        cut = conv4_kernels.patches(self.model, support_x)
        descent = conv4_kernels.Descent(self.model, meta["params"], self.moments_of(meta), self.inner_lr)
        yield descent.params
        for batch in self.batches(cut, support_y, steps, order):
            descent.step(*batch)
            yield descent.params

    def _descend(self, params: Params, moments: Moments | None, losses: list[Loss]):
        if moments is not None:
            yield from adam_path(losses, params, moments, inner_lr=self.inner_lr)
            return
        for adapted in inner_path(losses, params, inner_lr=self.inner_lr, steps=len(losses)):
            yield adapted, None

    def task(self, theta: Params, moments: Moments | None, episode: Episode | BatchedEpisode) -> Adapted:
        """k inner steps on one task, from θ."""
        if self._kernels:
            return self._task_by_kernels(theta, moments, episode)
        order = getattr(episode, "order", None)
        batches = self.batches(episode.support_x, episode.support_y, self.inner_steps, order)
        if self.tail == "query":
            batches[-1] = (episode.query_x, episode.query_y)
        path = self._descend(theta, moments, self._losses(batches))
        *_, (last, _), (adapted, moments) = path  # [REPTILE 3]
        start = theta if self.follow == "displacement" else last
        towards = {name: adapted[name] - start[name] for name in theta}
        prediction, y = self.predict(last, batches[-1][0]), batches[-1][1]
        return Adapted(towards, moments, self._metrics(LOSSES[self.loss](prediction, y), prediction, y))

    def _task_by_kernels(
        self, theta: Params, moments: Moments | None, episode: Episode | BatchedEpisode
    ) -> Adapted:
        cut = conv4_kernels.patches(self.model, episode.support_x)
        batches = self.batches(cut, episode.support_y, self.inner_steps, getattr(episode, "order", None))
        if self.tail == "query":
            batches[-1] = (conv4_kernels.patches(self.model, episode.query_x), episode.query_y)
        descent = conv4_kernels.Descent(self.model, theta, moments, self.inner_lr)
        for batch in batches[:-1]:
            descent.step(*batch)
        start = theta if self.follow == "displacement" else descent.params
        loss, prediction = descent.step(*batches[-1])
        adapted = descent.params
        towards = {name: adapted[name] - start[name] for name in theta}
        return Adapted(towards, descent.moments, self._metrics(loss, prediction, batches[-1][1]))

    def _metrics(self, loss: Tensor, prediction: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Of the last mini-batch, before the step on it: in a first pass through the support set these are new examples."""
        if self.metric == "mse":
            return {"loss": loss}
        return {"loss": loss, "accuracy": (prediction.argmax(-1) == y).to(prediction.dtype).mean()}

    def meta_gradient(self, meta: Meta, episodes: Episode | BatchedEpisode) -> tuple[Meta, dict[str, Tensor]]:
        """What Reptile puts in a gradient's place, the mean of θ − φ over tasks; beside it the moments to hand on; metrics."""
        if self.engine == "fast" and self._plain and not isinstance(episodes, BatchedEpisode):
            family = {"mse": fast_mlp, "cross_entropy": fast_conv4}[self.loss]
            if family.fits(self.model):
                return self._by_closed_form(family, meta, episodes)
        tasks = self._task_by_task if self.serial or self._kernels else self._all_at_once
        towards, moments, metrics = tasks(meta["params"], self.moments_of(meta), episodes)
        gradient: Meta = {"params": {name: -d for name, d in towards.items()}}
        if moments is not None and self.moments != "fresh":
            gradient |= _groups(moments)
        return gradient, metrics

    def _all_at_once(
        self, theta: Params, moments: Moments | None, episodes: Episode | BatchedEpisode
    ) -> Adapted:
        """The mean over tasks that start from the same θ and moments."""

        def task(episode):
            adapted = self.task(theta, moments, episode)
            return adapted if adapted.moments is not None else adapted._replace(moments=())

        batch = vmap(task)(episodes)  # [REPTILE 2]
        handed_on = None
        if moments is not None:
            handed_on = Moments(
                {n: v.mean(0) for n, v in batch.moments.v.items()}, batch.moments.weight.mean()
            )
        return Adapted(
            {name: d.mean(0) for name, d in batch.towards.items()},
            handed_on,
            {name: value.detach().mean() for name, value in batch.metrics.items()},
        )

    def _task_by_task(
        self, theta: Params, moments: Moments | None, episodes: Episode | BatchedEpisode
    ) -> Adapted:
        """The mean over tasks, each with the moments that the one before it left (``carried``)."""
        T, towards, metrics = episodes.n_tasks, None, {}
        start, left = moments, []
        for t in range(T):
            adapted = self.task(theta, moments, episodes.task(t))
            share = {name: d / T for name, d in adapted.towards.items()}
            towards = share if towards is None else {name: d.add_(share[name]) for name, d in towards.items()}
            metrics = {
                name: metrics.get(name, 0) + value.detach() / T for name, value in adapted.metrics.items()
            }
            if self.serial:
                moments = adapted.moments
            else:
                left.append(adapted.moments)
        if start is not None and not self.serial:
            mean = {n: torch.stack([m.v[n] for m in left]).mean(0) for n in start.v}
            moments = Moments(mean, torch.stack([m.weight for m in left]).mean())
        return Adapted(towards, moments, metrics)

    def _by_closed_form(self, family, meta: Meta, episodes: Episode) -> tuple[Meta, dict[str, Tensor]]:
        mean, metrics = family.displacement(
            self.model, meta["params"], episodes, inner_lr=self.inner_lr, steps=self.inner_steps
        )
        return {"params": mean}, metrics

    def meta_lr_at(self, progress: float) -> float:
        """ε when ``progress`` of the run is done."""
        return self.meta_lr + (self.meta_lr_final - self.meta_lr) * progress

    def step(
        self,
        state: State,
        episodes: Episode | BatchedEpisode,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, dict[str, Tensor]]:
        """One meta-step on a meta-batch; arguments as in ``MAML.step``."""
        gradient, metrics = all_reduce(*self.meta_gradient(state.meta, episodes))
        new = outer_step(
            state, {"params": gradient.pop("params")}, lr=self.meta_lr_at(progress)
        )  # [REPTILE 4]
        for group, values in gradient.items():
            for name, value in values.items():
                state.meta[group][name].copy_(value)
        return new, metrics


def _groups(moments: Moments) -> Meta:
    """Adam's moments as groups of ``meta``."""
    return {"second_moment": moments.v, "moment_weight": {"weight": moments.weight}}
