"""What training, evaluation and checkpoints know of a meta-learner: this, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.errors import UserError
from mlbook.models.functional import Params, call, initial_params
from mlbook.tasks.episode import Episode

Meta = dict[str, Params]
"""Everything that is meta-learned, in named groups: ``meta["params"]`` is the initialisation θ."""


AllReduce = Callable[[Meta, dict[str, Tensor]], tuple[Meta, dict[str, Tensor]]]
"""What several processes make of their gradients and metrics: the mean over the whole meta-batch."""


def no_reduce(gradient: Meta, metrics: dict[str, Tensor]) -> tuple[Meta, dict[str, Tensor]]:
    """What one process makes of them: nothing."""
    return gradient, metrics


@dataclass
class State:
    """A meta-learner between two meta-steps: what is learned, and the outer optimiser with its moments."""

    meta: Meta
    optimizer: torch.optim.Optimizer
    meta_step: int = 0


class MetaLearner(Protocol):
    """What training and evaluation ask for. Where tasks have no query set (functions to be minimised, environments), a method
    ``scores(meta, tasks, steps, scored) -> [T, len(scored)]`` stands in for ``path`` and ``predict``; a search, whose own run is
    what is judged, has ``trials(meta, steps) -> [searches, steps + 1]``."""

    metric: str
    """What counts on a query set: ``accuracy`` or ``mse``; for an optimiser the ``loss`` that it minimises; for an agent the
    ``return`` of its rollouts."""
    vmappable: bool
    """Whether ``path`` can be mapped over tasks (``torch.func.vmap``); else it takes one task at a time."""
    inductive: bool
    """Whether every query is classified by itself whatever the batch-norm mode."""

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State: ...

    def meta_lr_at(self, progress: float) -> float: ...

    def step(
        self, state: State, episodes: Episode, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]: ...

    def path(self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int) -> Iterator[Params]: ...

    def predict(self, params: Params, x: Tensor) -> Tensor: ...


LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
"""Mean losses over a set: (predictions, targets) -> scalar."""


@dataclass(frozen=True)
class InitialisationLearner:
    """What the learners of an initialisation θ have in common: a network, a loss, and how θ is drawn."""

    model: nn.Module
    """Any module whose parameters are differentiable and whose call has no side effect."""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """Mean loss over a support set, a query set or a mini-batch."""
    inductive = False

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UserError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")

    @property
    def metric(self) -> str:
        return "accuracy" if self.loss == "cross_entropy" else "mse"

    @property
    def vmappable(self) -> bool:
        return True

    def draw(self, generator: torch.Generator, device: torch.device | str) -> Meta:
        """Random θ, drawn on the generator's device, then moved."""
        params = initial_params(self.model, generator)
        return {"params": {name: p.to(device) for name, p in params.items()}}

    def predict(self, params: Params, x: Tensor) -> Tensor:
        return call(self.model, params, x)


def leaves(meta: Meta) -> list[Tensor]:
    """The tensors of ``meta`` in a fixed order."""
    return [meta[group][name] for group in sorted(meta) for name in sorted(meta[group])]


def outer_step(state: State, gradient: Meta, *, lr: float, clip_value: float | None = None) -> State:
    """One step of the outer optimiser at rate ``lr`` on the groups of ``state.meta`` that ``gradient`` has (updated in place)."""
    learned = leaves({group: state.meta[group] for group in gradient})
    for tensor, g in zip(learned, leaves(gradient), strict=True):
        g = g.to(tensor.dtype)
        tensor.grad = g if clip_value is None else g.clamp(-clip_value, clip_value)
    for group in state.optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # in a captured graph the rate is read from the device's memory
            continue
        group["lr"] = lr
    state.optimizer.step()
    for tensor in learned:
        tensor.grad = None
    return State(state.meta, state.optimizer, state.meta_step + 1)
