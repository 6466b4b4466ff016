"""Reptile by closed forms and by the library's kernels: the steps of ``meta_learners/reptile.py`` with less overhead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from mlbook.engines import conv4_sweeps, mlp_sweeps
from mlbook.engines.descent import Descent
from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, Metrics
from mlbook.meta_learners.inner_loop import Moments
from mlbook.meta_learners.reptile import Adapted, Reptile
from mlbook.models import conv4_kernels
from mlbook.models.functional import Params
from mlbook.tasks.episode import BatchedEpisode, Episode


@dataclass(frozen=True)
class FastReptile(Reptile):
    """``Reptile`` with the same arguments and the same steps. ``UserError`` for a network that has no fast way."""

    engine = "fast"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not fits(self):
            raise UserError(
                "engine fast needs a Conv4 (stride or max_pool, batch norm, ReLU, no biases) with cross_entropy, or a ReLU MLP "
                "with mse and plain gradient descent on whole support sets"
            )

    @property
    def by_kernels(self) -> bool:
        """Whether the inner loop is that of ``descent``: one task after the other, a step at a time."""
        return self.loss == "cross_entropy"

    @property
    def vmappable(self) -> bool:
        return not self.by_kernels

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int, order: Tensor | None = None
    ) -> Iterator[Params]:
        if not self.by_kernels:
            yield from super().path(meta, support_x, support_y, steps, order)
            return
        cut = conv4_kernels.patches(self.model, support_x)
        descent = Descent(self.model, meta["params"], self.moments_of(meta), self.inner_lr)
        yield descent.params
        for batch in self.batches(cut, support_y, steps, order):
            descent.step(*batch)
            yield descent.params

    def task(self, theta: Params, moments: Moments | None, episode: Episode | BatchedEpisode) -> Adapted:
        """k inner steps on one task, from θ."""
        if not self.by_kernels:
            return super().task(theta, moments, episode)
        episode = episode._replace(
            support_x=conv4_kernels.patches(self.model, episode.support_x),
            query_x=conv4_kernels.patches(self.model, episode.query_x)
            if self.tail == "query"
            else episode.query_x,
        )
        batches = self.task_batches(episode)
        descent = Descent(self.model, theta, moments, self.inner_lr)
        for batch in batches[:-1]:
            descent.step(*batch)
        start = theta if self.follow == "displacement" else descent.params
        loss, prediction = descent.step(*batches[-1])  # [REPTILE 3]
        adapted = descent.params
        towards = {name: adapted[name] - start[name] for name in theta}
        return Adapted(towards, descent.moments, self.metrics(loss, prediction, batches[-1][1]))

    def mean_over(
        self, theta: Params, moments: Moments | None, episodes: Episode | BatchedEpisode
    ) -> Adapted:
        tasks = self.one_by_one if self.serial or self.by_kernels else self.at_once
        return tasks(theta, moments, episodes)

    def meta_gradient(self, meta: Meta, episodes: Episode | BatchedEpisode) -> tuple[Meta, Metrics]:
        """The mean of θ − φ, all tasks at once by closed forms where every step sees the whole support set."""
        if plain(self) and not isinstance(episodes, BatchedEpisode):
            sweeps = mlp_sweeps if self.loss == "mse" else conv4_sweeps
            if sweeps.fits(self.model):
                self.check_episodes(meta, episodes)
                mean, metrics = sweeps.displacement(
                    self.model, meta["params"], episodes, inner_lr=self.inner_lr, steps=self.inner_steps
                )
                return {"params": mean}, metrics
        return super().meta_gradient(meta, episodes)


def plain(learner: Reptile) -> bool:
    """Whether this is gradient descent, and θ follows the whole way on the support set."""
    return (learner.optimizer, learner.follow, learner.tail) == ("sgd", "displacement", "support")


def fits(learner: Reptile) -> bool:
    """Whether there is a fast way to the steps of this learner. It moves all parameters."""
    if not all(p.requires_grad for p in learner.model.parameters()):
        return False
    if learner.loss == "mse":
        return mlp_sweeps.fits(learner.model) and plain(learner)
    return conv4_kernels.fits(learner.model)
