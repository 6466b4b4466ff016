"""2-D navigation: a point starts at the origin and looks for a goal that it cannot see (Finn et al. 2017, section 5.3.1).

All tasks and trajectories move at once, as tensors, on a CPU or a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.models.functional import Params
from mlbook.reinforcement.policy import GaussianPolicy
from mlbook.reinforcement.rollouts import Rollouts

REACH = 0.1
"""Longest move along each axis in one step; the square of goals has side 1."""
CLOSE = 0.01
"""A trajectory ends when both coordinates are nearer than this to the goal."""


@dataclass(frozen=True)
class Navigation:
    """Goals uniform in [−0.5, 0.5]²; s ← s + 0.1·clip(a, −1, 1); the reward depends on the distance d = ‖s − g‖ after the move.

    Raises ``UserError`` for an unknown reward or a horizon below 1.
    """

    reward: Literal["distance", "squared"] = "distance"
    """``distance``: −d, as the official code computes it. ``squared``: −d², as the paper's text says."""
    horizon: int = 100
    """The most steps of a trajectory."""
    goal_visible: bool = False
    """For the oracle: the observation is (s, g) instead of s."""
    ends: bool = True
    """Whether a trajectory ends at the goal (within ``CLOSE``) and collects no further reward. All rewards are negative, so
    ending early is worth something."""

    action_size = 2

    def __post_init__(self) -> None:
        if self.reward not in ("distance", "squared"):
            raise UserError(f"reward must be distance or squared, not {self.reward!r}")
        if self.horizon < 1:
            raise UserError(f"the horizon must be at least 1 step, got {self.horizon}")

    @property
    def observation_size(self) -> int:
        """2, or 4 with the goal."""
        return 4 if self.goal_visible else 2

    def sample_goals(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """[n_tasks, 2], uniform in the square, on the generator's device."""
        return torch.rand(n_tasks, 2, generator=generator, device=generator.device) - 0.5

    def roll(
        self,
        policy: GaussianPolicy,
        params: Params,
        goal: Tensor,
        noise: Tensor,
        reset: Tensor | None = None,
        *,
        path: list[Tensor] | None = None,
    ) -> Rollouts:
        """M trajectories of T tasks: goal [T, 2], noise [T, M, H, 2]; all tasks share the parameters, or these have a tasks axis.

        reset: not used, since every trajectory starts at the origin. path: a list to which the H + 1 positions [T, M, 2] are
        appended. No derivatives: policy gradients take rollouts as data.
        """
        T, M, H, _ = noise.shape
        state = noise.new_zeros(T, M, 2)
        target = goal[:, None, :].expand(T, M, 2).to(noise.dtype)
        alive = noise.new_ones(T, M)
        observed, acted, earned, taken = [], [], [], []
        if path is not None:
            path.append(state)
        with torch.no_grad():
            for t in range(H):
                observation = torch.cat([state, target], -1) if self.goal_visible else state
                action = policy.act(params, observation, noise[:, :, t])
                state = state + REACH * action.clamp(-1, 1) * alive[..., None]
                away = state - target
                square = away.square().sum(-1)
                reward = -square if self.reward == "squared" else -square.sqrt()
                observed.append(observation)
                acted.append(action)
                earned.append(reward * alive)
                taken.append(alive)
                if self.ends:
                    alive = alive * (away.abs() >= CLOSE).any(-1)
                if path is not None:
                    path.append(state)
        return Rollouts(
            torch.stack(observed, 2), torch.stack(acted, 2), torch.stack(earned, 2), torch.stack(taken, 2)
        )


def official_goals() -> Tensor:
    """The 40 meta-test goals of the official code, [40, 2]: ``numpy.random.seed(1)``, uniform in the square."""
    return torch.from_numpy(np.random.RandomState(1).uniform(-0.5, 0.5, size=(40, 2))).float()
