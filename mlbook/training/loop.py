"""The outer loop as a generator. It knows no algorithm, no plot and no progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.meta_learners.base import MetaLearner, Metrics, State
from mlbook.tasks.episode import TaskDistribution
from mlbook.training.cuda_graph import CapturedStep
from mlbook.training.distributed import ALONE, Processes
from mlbook.training.finite import check_step


@dataclass
class Progress:
    """What the outer loop hands out after every meta-step."""

    meta_step: int
    metrics: dict[str, Tensor]
    """Scalars, still on the device: reading one waits for it."""
    state: State
    generator: torch.Generator


def train(
    learner: MetaLearner,
    tasks: TaskDistribution,
    *,
    meta_steps: int,
    meta_batch_size: int,
    state: State,
    generator: torch.Generator,
    processes: Processes = ALONE,
    graph: bool = False,
) -> Iterator[Progress]:
    """Yield after every meta-step from ``state.meta_step`` up to ``meta_steps``.

    generator: the source of all randomness but dropout's (that is torch's own, ``torch.manual_seed``); it must live where the
    tasks are sampled. processes: the processes that share every meta-batch. graph: record the meta-step as a CUDA graph.
    Raises ``UserError`` where the loss or a parameter is no longer finite, with the meta-step (a GPU is asked every hundredth).
    """
    all_reduce = processes.mean_over(meta_batch_size)

    def meta_step(state: State, progress: float) -> tuple[State, Metrics]:
        episodes = tasks.sample(meta_batch_size, generator)  # [MAML 3]
        return learner.step(state, processes.part(episodes), progress, all_reduce)

    step = meta_step
    if graph:
        step = CapturedStep(meta_step, learner, state, generator)
    while state.meta_step < meta_steps:  # [MAML 2]
        state, metrics = step(state, state.meta_step / meta_steps)
        check_step(state, metrics, meta_steps)
        yield Progress(state.meta_step, metrics, state, generator)
