"""Distributions of tasks for reinforcement learning: goals, and the random numbers that rollouts will use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.reinforcement.rollouts import Environment, RolloutTasks
from mlbook.tasks.episode import TaskDistribution


@dataclass(frozen=True)
class Goals(TaskDistribution):
    """Tasks of an environment: each has a goal, and noise for ``rounds`` rounds of ``trajectories`` rollouts.

    Raises ``UserError`` for fewer than 2 trajectories or no round.
    """

    environment: Environment
    trajectories: int = 20
    """M, in every round."""
    rounds: int = 2
    """Inner steps + 1: each inner step collects rollouts of its own, and so does the adapted policy."""
    fixed: Tensor | None = None
    """Goals [n, G] in place of random ones: a list of tasks, which begins again at its end."""

    def __post_init__(self) -> None:
        if self.trajectories < 2 or self.rounds < 1:
            raise UserError("rollouts need at least 2 trajectories and 1 round")

    @property
    def n_listed(self) -> int | None:
        return None if self.fixed is None else len(self.fixed)

    def sample(self, n_tasks: int, generator: torch.Generator) -> RolloutTasks:
        """``n_tasks`` tasks, drawn on the generator's device."""
        return self.at(0, n_tasks, generator)

    def at(self, start: int, n_tasks: int, generator: torch.Generator) -> RolloutTasks:
        """The same, with the ``fixed`` goals from number ``start`` on."""
        where = {"generator": generator, "device": generator.device}
        if self.fixed is None:
            goal = self.environment.sample_goals(n_tasks, generator)
        else:
            number = torch.arange(start, start + n_tasks) % len(self.fixed)
            goal = self.fixed[number].to(generator.device)
        shape = (n_tasks, self.rounds, self.trajectories)
        noise = torch.randn(*shape, self.environment.horizon, self.environment.action_size, **where)
        return RolloutTasks(goal, noise, torch.randint(2**31, shape, **where))
