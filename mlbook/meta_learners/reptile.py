"""Reptile: θ moves towards what a few steps of ordinary training on a task make
of it.

Greek to Python: θ ``meta["params"]``, α ``inner_lr``, ε ``meta_lr``, k inner
steps ``inner_steps``, φ ``adapted``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mlbook.errors import UserError
from mlbook.meta_learners import first_look
from mlbook.meta_learners.base import (
    AllReduce,
    InitialisationLearner,
    Meta,
    Metrics,
    State,
    leaves,
    no_reduce,
    outer_step,
)
from mlbook.meta_learners.inner_loop import Loss, Moments, adam_path, inner_path
from mlbook.meta_learners.losses import LOSSES
from mlbook.models.functional import Params, learning
from mlbook.models.mapping import at_once_or_one_by_one
from mlbook.tasks.episode import BatchedEpisode, Episode

Episodes = Episode | BatchedEpisode
"""With an order of mini-batches, or without."""


class Adapted(NamedTuple):
    """What the inner loop made of one task."""

    towards: Params
    """The way that θ should go: φ − θ, or the last step alone."""
    moments: Moments | None
    metrics: dict[str, Tensor]


@dataclass(frozen=True)
class Reptile(InitialisationLearner):
    """Reptile (Nichol et al. 2018), serial with one task per meta-batch and
    batched with several: θ ← θ + ε·mean(φ − θ).

    Training looks at the support sets only. Episodes with an ``order``
    (``tasks.MiniBatches``) give every inner step a mini-batch of its own;
    without one, every step sees the whole support set.
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
    """Adam's second moments. ``carried``: on from step to step and from task to
    task, so tasks are taken one after the other (the official code).
    ``shared``: all tasks of a meta-batch start from the same ones and hand on
    their mean, so tasks may be computed at once. ``fresh``: from zero in every
    task."""
    follow: Literal["displacement", "last_step"] = "displacement"
    """``last_step``: θ moves along the last inner step alone: FOMAML, with that
    step's mini-batch as the query set."""
    tail: Literal["support", "query"] = "support"
    """What the last inner step sees: another mini-batch of the support set, or
    the query set (a separate tail)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_steps < 1:
            raise UserError(
                f"inner_steps must be at least 1, got {self.inner_steps}"
            )

    @property
    def serial(self) -> bool:
        """Whether a task needs what the task before it left behind."""
        return self.optimizer == "adam" and self.moments == "carried"

    def engine_used(self) -> str:
        alone = self.serial and self.engine == "vmap"
        return "loop" if alone else super().engine_used()

    @property
    def recordable(self) -> bool:
        return False  # SGD cannot read a rate from the device's memory

    def one_process_because(self) -> str | None:
        reason = "takes its tasks one after the other (Adam's moments live on)"
        return reason if self.serial else None

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """θ (see ``draw``); Adam's moments are zero."""
        meta = self.draw(generator, device)  # [REPTILE 1]
        optimizer = torch.optim.SGD(leaves(meta), lr=self.meta_lr)
        if self.optimizer == "adam" and self.moments != "fresh":
            meta |= groups_of(Moments.fresh(meta["params"]))
        return State(meta, optimizer)

    def moments_of(self, meta: Meta) -> Moments | None:
        """Adam's moments that a task starts from: the trained ones, also at
        meta-test, or fresh ones."""
        if self.optimizer == "sgd":
            return None
        if self.moments == "fresh":
            return Moments.fresh(meta["params"])
        return Moments(meta["second_moment"], meta["moment_weight"]["weight"])

    def batches(
        self, x: Tensor, y: Tensor, steps: int, order: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """What each of the ``steps`` inner steps sees of a support set;
        ``order`` [steps or more, M]."""
        if order is None:
            return [(x, y)] * steps
        if steps > len(order):
            raise UserError(
                f"{steps} inner steps need as many mini-batches; "
                f"these episodes have {len(order)}"
            )
        return [(x[index], y[index]) for index in order[:steps]]

    def loss_on(self, x: Tensor, y: Tensor) -> Loss:
        """The mean loss on one mini-batch, as a function of the parameters."""

        def loss(params: Params) -> Tensor:
            return LOSSES[self.loss](self.predict(params, x), y)

        return loss

    def descend(
        self,
        params: Params,
        moments: Moments | None,
        batches: list[tuple[Tensor, Tensor]],
    ) -> Iterator[tuple[Params, Moments | None]]:
        """Parameters and Adam's moments after 0, 1, ... steps, one on each of
        the ``batches``."""
        losses = [self.loss_on(x, y) for x, y in batches]
        if moments is not None:
            rate = self.inner_lr
            yield from adam_path(losses, params, moments, inner_lr=rate)
            return
        k, rate = len(losses), self.inner_lr
        for adapted in inner_path(losses, params, inner_lr=rate, steps=k):
            yield adapted, None

    def path(
        self,
        meta: Meta,
        support_x: Tensor,
        support_y: Tensor,
        steps: int,
        order: Tensor | None = None,
    ) -> Iterator[Params]:
        """Parameters of one task after 0, 1, ..., ``steps`` inner steps."""
        batches = self.batches(support_x, support_y, steps, order)
        theta, moments = meta["params"], self.moments_of(meta)
        for params, _ in self.descend(theta, moments, batches):
            yield params

    def task_batches(self, episode: Episodes) -> list[tuple[Tensor, Tensor]]:
        """What the k inner steps of meta-training see of one task."""
        order = getattr(episode, "order", None)
        batches = self.batches(
            episode.support_x, episode.support_y, self.inner_steps, order
        )
        if self.tail == "query":
            batches[-1] = (episode.query_x, episode.query_y)
        return batches

    def task(
        self, theta: Params, moments: Moments | None, episode: Episodes
    ) -> Adapted:
        """k inner steps on one task, from θ."""
        batches = self.task_batches(episode)
        path = self.descend(theta, moments, batches)
        *_, (last, _), (adapted, moments) = path  # [REPTILE 3]
        start = theta if self.follow == "displacement" else last
        towards = {name: adapted[name] - start[name] for name in theta}
        x, y = batches[-1]  # judged before the step on it
        prediction = self.predict(last, x)
        metrics = self.metrics(LOSSES[self.loss](prediction, y), prediction, y)
        return Adapted(towards, moments, metrics)

    def at_once(
        self, theta: Params, moments: Moments | None, episodes: Episodes
    ) -> Adapted:
        """The mean over tasks that start from the same θ and moments."""

        def task(episode):
            adapted = self.task(theta, moments, episode)
            return adapted if moments else adapted._replace(moments=())

        over_tasks = vmap(task, randomness="different")
        batch = over_tasks(episodes)  # [REPTILE 2]
        handed_on = None
        if moments is not None:
            v = {n: values.mean(0) for n, values in batch.moments.v.items()}
            handed_on = Moments(v, batch.moments.weight.mean())
        towards = {n: d.mean(0) for n, d in batch.towards.items()}
        metrics = {n: values.mean() for n, values in batch.metrics.items()}
        return Adapted(towards, handed_on, metrics)

    def one_by_one(
        self, theta: Params, moments: Moments | None, episodes: Episodes
    ) -> Adapted:
        """The mean over tasks, each with the moments that the one before it
        left (``carried``)."""
        T, towards, metrics = episodes.n_tasks, None, {}
        start, left = moments, []
        for t in range(T):
            adapted = self.task(theta, moments, episodes.task(t))
            share = {name: d / T for name, d in adapted.towards.items()}
            if towards is None:
                towards = share
            else:
                towards = {n: d.add_(share[n]) for n, d in towards.items()}
            for n, value in adapted.metrics.items():
                metrics[n] = metrics.get(n, 0) + value / T
            if self.serial:
                moments = adapted.moments
            else:
                left.append(adapted.moments)
        if start is not None and not self.serial:
            stacks = {n: torch.stack([m.v[n] for m in left]) for n in start.v}
            v = {n: stack.mean(0) for n, stack in stacks.items()}
            moments = Moments(v, torch.stack([m.weight for m in left]).mean())
        return Adapted(towards, moments, metrics)

    def mean_over(
        self, theta: Params, moments: Moments | None, episodes: Episodes
    ) -> Adapted:
        """The mean over the tasks of a meta-batch, in the way that their
        moments and the network allow."""
        mean = self.one_by_one if self.serial else self.at_once
        with learning():
            return at_once_or_one_by_one(
                self.model,
                "first-order gradient",
                lambda episodes: mean(theta, moments, episodes),
                lambda episodes: self.one_by_one(theta, moments, episodes),
                episodes,
            )

    def check_episodes(
        self, meta: Meta, episodes: Episodes, *, wait: bool = False
    ) -> None:
        first_look.check(self, meta, episodes, wait=wait)

    def meta_gradient(self, meta: Meta, episodes: Episodes) -> tuple[Meta, Metrics]:
        """What Reptile puts in a gradient's place, the mean of θ − φ over
        tasks; beside it the moments to hand on; metrics."""
        self.check_episodes(meta, episodes)
        theta, moments = meta["params"], self.moments_of(meta)
        towards, moments, metrics = self.mean_over(theta, moments, episodes)
        gradient: Meta = {"params": {name: -d for name, d in towards.items()}}
        if moments is not None and self.moments != "fresh":
            gradient |= groups_of(moments)
        return gradient, metrics

    def meta_lr_at(self, progress: float) -> float:
        """ε when ``progress`` of the run is done."""
        return self.meta_lr + (self.meta_lr_final - self.meta_lr) * progress

    def step(
        self,
        state: State,
        episodes: Episodes,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, Metrics]:
        """One meta-step on a meta-batch; arguments as in
        ``MetaLearner.step``."""
        gradient, metrics = all_reduce(*self.meta_gradient(state.meta, episodes))
        towards, lr = (
            {"params": gradient.pop("params")},
            self.meta_lr_at(progress),
        )
        new = outer_step(state, towards, lr=lr)  # [REPTILE 4]
        for group, values in gradient.items():
            for name, value in values.items():
                state.meta[group][name].copy_(value)
        return new, metrics


def groups_of(moments: Moments) -> Meta:
    """Adam's moments as groups of ``meta``."""
    return {"second_moment": moments.v, "moment_weight": {"weight": moments.weight}}
