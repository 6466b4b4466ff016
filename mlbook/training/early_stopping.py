"""Early stopping: of the states that a training passes through, keep the one that does best on meta-validation tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mlbook.meta_learners.base import Meta, MetaLearner, State, map_leaves
from mlbook.tasks.episode import TaskDistribution
from mlbook.training.checkpoint import flatten, unflatten
from mlbook.training.evaluation import evaluate

TASKS = 2_000
"""Meta-validation tasks of one look; the same ones at every look."""
SEED = 2
PREFIX = "best/"


@dataclass
class EarlyStopping:
    """Call it after every meta-step. Training goes on to its end; what is kept is the best state of those looked at."""

    learner: MetaLearner
    tasks: TaskDistribution
    """Meta-validation tasks, sampled on the CPU."""
    every: int
    """Meta-steps between two looks; the last meta-step is looked at, too."""
    last: int
    inner_steps: int
    n_tasks: int = TASKS
    meta: Meta | None = None
    """The best state so far."""
    looks: list[tuple[int, float]] = field(default_factory=list)
    """(meta-step, score) of every look: accuracy, or mean squared error."""

    def better(self, score: float) -> bool:
        scores = [s for _, s in self.looks]
        if not scores:
            return True
        return score > max(scores) if self.learner.metric == "accuracy" else score < min(scores)

    def __call__(self, state: State) -> None:
        if state.meta_step % self.every and state.meta_step != self.last:  # [STOP 1]
            return
        score = evaluate(  # [STOP 2] the same meta-validation tasks at every look
            self.learner,
            state.meta,
            self.tasks,
            n_tasks=self.n_tasks,
            steps=self.inner_steps,
            seed=SEED,
            scored_steps=(self.inner_steps,),
        ).value
        if self.better(score):  # [STOP 3]
            self.meta = map_leaves(torch.clone, state.meta)
        self.looks.append((state.meta_step, score))

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to lie in a resume file."""
        best = {} if self.meta is None else {PREFIX + "meta/" + k: t for k, t in flatten(self.meta).items()}
        return {PREFIX + "looks": torch.tensor(self.looks, dtype=torch.float64).view(-1, 2), **best}

    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """The state that ``tensors`` gave."""
        self.looks = [(int(step), score) for step, score in tensors[PREFIX + "looks"].tolist()]
        prefix = PREFIX + "meta/"
        found = {k.removeprefix(prefix): t.to(device) for k, t in tensors.items() if k.startswith(prefix)}
        self.meta = unflatten(found) if found else None

    def record(self) -> dict:
        """What a run record says of it."""
        pick = max if self.learner.metric == "accuracy" else min
        step, score = pick(self.looks, key=lambda look: look[1])
        return {
            "meta_step": step,
            self.learner.metric: score,
            "tasks": self.n_tasks,
            "looks": [[step, round(score, 5)] for step, score in self.looks],
        }
