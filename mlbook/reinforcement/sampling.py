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
    """Tasks of a ``world``: each a goal, with noise for ``rounds`` rounds of ``trajectories`` rollouts."""

    world: Environment
    trajectories: int = 20
    """M, of every round."""
    rounds: int = 2
    """Inner steps + 1: every inner step has rollouts of its own, and the adapted policy has, too."""
    fixed: Tensor | None = None
    """These goals in this order, over and over, instead of random ones, [n, G]."""

    def __post_init__(self) -> None:
        if self.trajectories < 2 or self.rounds < 1:
            raise UserError("rollouts need at least 2 trajectories and 1 round")

    def sample(self, n_tasks: int, generator: torch.Generator) -> RolloutTasks:
        """``n_tasks`` tasks, drawn on the generator's device."""
        where = {"generator": generator, "device": generator.device}
        if self.fixed is None:
            goal = self.world.sample_goals(n_tasks, generator)
        else:
            goal = self.fixed[torch.arange(n_tasks) % len(self.fixed)].to(generator.device)
        shape = (n_tasks, self.rounds, self.trajectories)
        noise = torch.randn(*shape, self.world.horizon, self.world.action_size, **where)
        return RolloutTasks(goal, noise, torch.randint(2**31, shape, **where))
