"""What training, evaluation and checkpoints know of a meta-learner, and what
the learners of an initialisation share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from mlbook.meta_learners import arguments
from mlbook.models.batch_norm import BatchNorm
from mlbook.models.functional import (
    Params,
    call,
    check_trainable,
    initial_params,
    place,
)
from mlbook.models.mapping import is_mapped
from mlbook.tasks.episode import Episode

Meta = dict[str, Params]
"""Everything that is meta-learned, in named groups: ``meta["params"]`` is the
initialisation θ."""

Metrics = dict[str, Tensor]
"""What is reported beside a gradient: scalars by name."""

AllReduce = Callable[[Meta, Metrics], tuple[Meta, Metrics]]
"""What several processes make of their gradients and metrics: the mean over the
whole meta-batch."""


def no_reduce(gradient: Meta, metrics: Metrics) -> tuple[Meta, Metrics]:
    """What one process makes of them: nothing."""
    return gradient, metrics


@dataclass
class State:
    """A meta-learner between two meta-steps: what is learned, and the outer
    optimiser with its moments."""

    meta: Meta
    optimizer: torch.optim.Optimizer
    meta_step: int = 0
    scaler: torch.amp.GradScaler | None = None
    """In float16: the factor of the loss that keeps small gradients above
    zero."""


class MetaLearner:
    """What the rest of the package asks of a meta-learner. A learner defines
    ``init`` and ``step``, and either ``path`` and ``predict`` or, where its
    tasks have no query sets, ``scores``."""

    metric: str = "accuracy"
    """What is measured on a query set: ``accuracy`` or ``mse``; of an optimiser
    the ``loss`` that it minimises; of an agent the ``return`` of its
    rollouts."""
    logged: tuple[str, ...] = ("loss", "accuracy")
    """The metrics of ``step`` that a run writes into its log."""
    engine: str = "vmap"
    """How the meta-gradient is computed; a run's record names it."""
    vmappable: bool = True
    """Whether ``path`` can be mapped over tasks (``torch.func.vmap``); else it
    takes one task at a time."""
    inductive: bool = False
    """Whether every query is classified by itself, whatever the batch-norm
    mode."""
    has_batch_norm: bool = False
    """Whether predictions depend on a batch-norm mode."""
    recordable: bool = True
    """Whether a meta-step can be recorded as a CUDA graph: it never waits for
    the device."""
    query_sets: bool = True
    """Whether tasks have query sets. Where they have none (functions to be
    minimised, environments), ``scores`` is asked."""
    shared_result: str = "the result of one process"
    """What several processes that share every meta-batch arrive at."""
    is_search: bool = False
    """Whether the run itself is what is judged; then ``trials`` is asked."""

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """The state before the first meta-step."""
        raise NotImplementedError

    def step(
        self,
        state: State,
        episodes: Episode,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, Metrics]:
        """One meta-step on a meta-batch.

        progress: share of the run that is done, for rates that fall.
        all_reduce: what is done with gradient and metrics before they are used.
        The returned state replaces the given one, whose tensors it reuses.
        """
        raise NotImplementedError

    def meta_lr_at(self, progress: float) -> float:
        """The outer rate when ``progress`` of the run is done."""
        return self.meta_lr

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """Parameters of one task after 0, 1, ..., ``steps`` inner steps."""
        raise NotImplementedError

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """What a task's parameters say of inputs x [B, ...]: logits [B, N] or
        values [B, out]."""
        raise NotImplementedError

    def scores(
        self, meta: Meta, tasks: Episode, steps: int, scored: Sequence[int]
    ) -> Tensor:
        """The score of every task after the ``scored`` ones of ``steps`` inner
        steps, [T, len(scored)]."""
        raise NotImplementedError

    def trials(self, meta: Meta, steps: int) -> Tensor:
        """The score of every search of this run after 0, 1, ..., ``steps``
        steps, [searches, steps + 1]."""
        raise NotImplementedError

    def one_process_because(self) -> str | None:
        """Why several processes cannot share a meta-batch; None where they
        can."""
        return None

    def engine_used(self) -> str:
        """The engine that computes: ``engine``, or ``loop`` once a network has
        turned out to be one that torch cannot map over tasks."""
        return self.engine

    def check_episodes(
        self, meta: Meta, episodes: Episode, *, wait: bool = False
    ) -> None:
        """``UserError`` where targets do not fit the network. wait: look at labels
        on a GPU, too."""


@dataclass(frozen=True)
class InitialisationLearner(MetaLearner):
    """What the learners of an initialisation θ have in common: a network, a
    loss, and how θ is drawn."""

    model: nn.Module
    """Any module with differentiable parameters that maps one tensor to one
    tensor. It is never changed, and frozen parameters stay as they are."""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """Mean loss over a support set, a query set or a mini-batch."""

    def __post_init__(self) -> None:
        arguments.check(self)
        check_trainable(self.model)

    @property
    def metric(self) -> str:
        return "accuracy" if self.loss == "cross_entropy" else "mse"

    @property
    def logged(self) -> tuple[str, ...]:
        return ("loss", "accuracy") if self.metric == "accuracy" else ("loss",)

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(module, BatchNorm) for module in self.model.modules())

    def draw(self, generator: torch.Generator, device: torch.device | str) -> Meta:
        """θ as ``initial_params`` gives it: drawn on the generator's device, or
        the network's present values; then moved."""
        params = initial_params(self.model, generator)
        params = {name: p.to(device) for name, p in params.items()}
        place(self.model, params)
        return {"params": params}

    def engine_used(self) -> str:
        mapped = is_mapped(self.model, "gradient", "first-order gradient")
        return "loop" if self.engine == "vmap" and not mapped else self.engine

    def predict(self, params: Params, x: Tensor) -> Tensor:
        return call(self.model, params, x)

    def metrics(self, loss: Tensor, prediction: Tensor, y: Tensor) -> Metrics:
        """What is reported of a loss: the loss, and of classes the accuracy."""
        if self.metric == "mse":
            return {"loss": loss.detach()}
        right = (prediction.detach().argmax(-1) == y).to(prediction.dtype)
        return {"loss": loss.detach(), "accuracy": right.mean()}


# -- groups of tensors ---------------------------------------------------------


def leaves(meta: Meta) -> list[Tensor]:
    """The tensors of ``meta`` in a fixed order."""
    return [
        meta[group][name] for group in sorted(meta) for name in sorted(meta[group])
    ]


def map_leaves(function: Callable[..., Tensor], *metas: Meta) -> Meta:
    """``function`` of the tensors that stand in the same place of all
    ``metas``, in the structure of the first."""
    first = metas[0]
    return {
        group: {
            name: function(*(meta[group][name] for meta in metas))
            for name in first[group]
        }
        for group in first
    }


def mean_over_tasks(gradients: Meta, metrics: Metrics) -> tuple[Meta, Metrics]:
    """The mean over the tasks axis T, which stands first in every tensor."""
    mean = map_leaves(lambda g: g.mean(0), gradients)
    return mean, {name: values.mean() for name, values in metrics.items()}


def running_mean(
    results: Iterable[tuple[Meta, Metrics]], n_tasks: int
) -> tuple[Meta, Metrics]:
    """The same of the gradients and metrics of ``n_tasks`` tasks that come one
    after the other; only their sum is kept."""
    total: Meta | None = None
    metrics: Metrics = {}
    for gradient, values in results:
        if total is None:
            total = map_leaves(torch.zeros_like, gradient)
        for mean, g in zip(leaves(total), leaves(gradient), strict=True):
            mean.add_(g, alpha=1 / n_tasks)
        metrics = {
            name: metrics.get(name, 0) + v / n_tasks for name, v in values.items()
        }
    return total, metrics


# -- the outer step ------------------------------------------------------------


def cosine(progress: float) -> float:
    """From 1 to 0 along half a wave, when ``progress`` of a run is done
    (Loshchilov and Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def outer_step(
    state: State, gradient: Meta, *, lr: float, clip_value: float | None = None
) -> State:
    """One step of the outer optimiser at rate ``lr`` on the groups of
    ``state.meta`` that ``gradient`` has, in place.

    clip_value: bound on every entry of the gradient.
    """
    learned = leaves({group: state.meta[group] for group in gradient})
    for tensor, g in zip(learned, leaves(gradient), strict=True):
        g = g.to(tensor.dtype)
        tensor.grad = g if clip_value is None else g.clamp(-clip_value, clip_value)
    for group in state.optimizer.param_groups:
        # in a captured graph the rate is a tensor, read from the device's
        # memory
        if not isinstance(group["lr"], Tensor):
            group["lr"] = lr
    if state.scaler is None:
        state.optimizer.step()
    else:  # no step where a gradient has overflowed
        state.scaler.step(state.optimizer)
        state.scaler.update()
    for tensor in learned:
        tensor.grad = None
    return replace(state, meta_step=state.meta_step + 1)
