"""MAML and its relatives: FOMAML, ANIL and Meta-SGD are arguments of the same
code.

Greek to Python: θ ``meta["params"]``, α ``inner_lr``, β ``meta_lr``, N inner
steps ``inner_steps``, θᴺ ``adapted``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

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
    cosine,
    leaves,
    mean_over_tasks,
    no_reduce,
    outer_step,
    running_mean,
)
from mlbook.meta_learners.inner_loop import inner_path
from mlbook.meta_learners.losses import LOSSES
from mlbook.models.functional import Params, check_names, learning
from mlbook.models.mapping import at_once_or_one_by_one, grad, task_by_task
from mlbook.tasks.episode import Episode

OVER_TASKS = {"in_dims": (None, 0), "randomness": "different"}
"""How ``vmap`` maps: all tasks have the same θ, and each its own dropout."""


@dataclass(frozen=True)
class MAML(InitialisationLearner):
    """Model-agnostic meta-learning (Finn et al. 2017), and with arguments
    FOMAML, Meta-SGD and ANIL."""

    inner_lr: float = 0.01
    """α; the first value of the learned rates with ``learn_inner_lr``."""
    inner_steps: int = 1
    """N, gradient steps on the support set in meta-training."""
    inner_loss: Literal["mean", "class_sum"] = "mean"
    """``class_sum``: α multiplies the sum over classes of the per-class mean
    loss, as in the official code, where the step is therefore n_way times
    longer than the same α gives on a mean loss."""
    first_order: bool = False
    """FOMAML: drop the derivative of the inner gradients (section 5.2 of the
    paper)."""
    learn_inner_lr: bool = False
    """Meta-SGD (Li et al. 2017): one learned rate per scalar parameter."""
    names: tuple[str, ...] | None = None
    """Parameters that the inner loop moves; default all. ANIL: the head
    only."""
    meta_lr: float = 1e-3
    """β, rate of the outer Adam."""
    meta_lr_decay: Literal["constant", "cosine"] = "constant"
    """The official code keeps β constant; ``cosine`` takes it to zero over the
    run."""
    clip_value: float | None = None
    """Bound on every entry of the meta-gradient (official miniImageNet: 10)."""
    engine: Literal["vmap", "loop"] = "vmap"
    """How the meta-gradient is computed: of all tasks at once, or task by task
    with a fraction of the memory. A network that torch cannot map over tasks
    (recurrent layers, a forward that looks at values) is computed task by task
    in either case. The closed forms of ``mlbook.engines`` are a third way, for
    the networks of the tables."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_steps < 0:
            raise UserError(
                f"inner_steps must not be negative, got {self.inner_steps}"
            )
        check_names(self.model, self.names)
        self.check_engine()

    def check_engine(self) -> None:
        """``UserError`` where this learner's ``engine`` cannot compute its
        gradient."""
        if self.engine not in ("vmap", "loop"):
            raise UserError(
                f"engine must be vmap or loop, not {self.engine!r} "
                "(see mlbook.engines for fast ones)"
            )

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """θ (see ``draw``), rates α where they are learned, a fresh Adam."""
        meta = self.draw(generator, device)  # [MAML 1]
        if self.learn_inner_lr:
            names = self.names or tuple(meta["params"])
            meta["inner_lr"] = {
                n: torch.full_like(meta["params"][n], self.inner_lr) for n in names
            }
        return State(meta, torch.optim.Adam(leaves(meta), lr=self.meta_lr))

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """Parameters of one task after 0, 1, ..., ``steps`` inner steps: θ⁰ =
        θ, θ¹, ..., θᴺ."""

        def support_loss(params: Params) -> Tensor:
            prediction = self.predict(params, support_x)
            loss = LOSSES[self.loss](prediction, support_y)
            return self.inner_scale(prediction) * loss

        return inner_path(
            support_loss,
            meta["params"],
            inner_lr=meta.get("inner_lr", self.inner_lr),
            steps=steps,
            names=self.names,
            first_order=self.first_order,
        )

    def inner_scale(self, prediction: Tensor) -> int:
        """What multiplies the mean support loss: the number of classes for
        ``class_sum``, else 1."""
        return prediction.shape[-1] if self.inner_loss == "class_sum" else 1

    def task_loss(self, meta: Meta, episode: Episode) -> tuple[Tensor, Metrics]:
        """Query loss of one task after the inner loop, L_Q(θᴺ), and what to
        report of it."""
        *_, adapted = self.path(
            meta, episode.support_x, episode.support_y, self.inner_steps
        )
        prediction = self.predict(adapted, episode.query_x)
        loss = LOSSES[self.loss](prediction, episode.query_y)  # [MAML 7]
        return loss, self.metrics(loss, prediction, episode.query_y)

    def meta_loss(self, meta: Meta, episodes: Episode) -> tuple[Tensor, Metrics]:
        """J(θ): the mean query loss over the T tasks of a meta-batch, each
        adapted from the same θ."""

        def at_once(episodes: Episode) -> tuple[Tensor, Metrics]:
            losses, metrics = vmap(self.task_loss, **OVER_TASKS)(meta, episodes)
            return losses.mean(), {n: v.mean() for n, v in metrics.items()}

        def one_by_one(episodes: Episode) -> tuple[Tensor, Metrics]:
            tasks = map(episodes.task, range(episodes.n_tasks))
            found = [self.task_loss(meta, task) for task in tasks]
            losses, metrics = zip(*found, strict=True)
            each = {n: torch.stack([m[n] for m in metrics]) for n in metrics[0]}
            return torch.stack(losses).mean(), {
                n: v.mean() for n, v in each.items()
            }

        with learning():
            return at_once_or_one_by_one(
                self.model, "loss", at_once, one_by_one, episodes
            )

    def meta_gradient(self, meta: Meta, episodes: Episode) -> tuple[Meta, Metrics]:
        """∇J(θ) through the inner loop, in the structure of ``meta``, and mean
        metrics.

        The gradient of every task is taken inside the map over tasks. The other
        way round, differentiating the mapped ``meta_loss``, is silently wrong
        where a network has torch's own normalisation layers.
        """
        self.check_query_sets(meta, episodes)
        task_gradient = grad(self.task_loss, has_aux=True)

        def at_once(episodes: Episode) -> tuple[Meta, Metrics]:
            over_tasks = vmap(task_gradient, **OVER_TASKS)
            gradients, metrics = over_tasks(meta, episodes)  # [MAML 4]
            return mean_over_tasks(gradients, metrics)

        def one_by_one(episodes: Episode) -> tuple[Meta, Metrics]:
            tasks = map(episodes.task, range(episodes.n_tasks))
            results = (task_gradient(meta, task) for task in tasks)
            return running_mean(results, episodes.n_tasks)

        return self.by_engine(at_once, one_by_one, episodes)

    def by_engine(
        self,
        at_once: Callable[[Episode], tuple[Meta, Metrics]],
        one_by_one: Callable[[Episode], tuple[Meta, Metrics]],
        episodes: Episode,
    ) -> tuple[Meta, Metrics]:
        """The one or the other of ``episodes``, as ``engine`` says and the network
        allows; dropout is on."""
        with learning():
            if self.engine == "loop":
                return task_by_task(self.model, lambda: one_by_one(episodes))
            kind = "first-order gradient" if self.first_order else "gradient"
            ways = at_once, one_by_one
            return at_once_or_one_by_one(
                self.model, kind, *ways, episodes, compare=True
            )

    def check_episodes(
        self, meta: Meta, episodes: Episode, *, wait: bool = False
    ) -> None:
        first_look.check(self, meta, episodes, wait=wait)

    def check_query_sets(self, meta: Meta, episodes: Episode) -> None:
        """``UserError`` where there is nothing to be judged on, or targets do not
        fit the network."""
        if episodes.query_y.shape[1] == 0:
            raise UserError(
                "MAML learns from query sets; these episodes have none "
                "(n_query is 0)"
            )
        self.check_episodes(meta, episodes)

    def meta_lr_at(self, progress: float) -> float:
        """β when ``progress`` of the run is done."""
        falls = self.meta_lr_decay == "cosine"
        return self.meta_lr * (cosine(progress) if falls else 1.0)

    def step(
        self,
        state: State,
        episodes: Episode,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, Metrics]:
        """One meta-step on a meta-batch; arguments as in
        ``MetaLearner.step``."""
        gradient, metrics = all_reduce(*self.meta_gradient(state.meta, episodes))
        lr, clip = self.meta_lr_at(progress), self.clip_value
        new = outer_step(state, gradient, lr=lr, clip_value=clip)  # [MAML 8]
        return new, metrics
