"""The half-cheetah: a planar runner with six joints, simulated by MuJoCo through gymnasium (``pip install "mlbook[rl]"``).

Two families of tasks (Finn et al. 2017, section 5.3.2): run forward or backward, or run at a given speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.models.functional import Params
from mlbook.reinforcement.policy import GaussianPolicy
from mlbook.reinforcement.rollouts import Rollouts

CONTROL_COST = 0.05
"""What a step costs, per unit of ‖a‖²."""


@lru_cache(maxsize=2)
def environments(count: int):
    """``count`` half-cheetahs that step together. Raises ``UserError`` where gymnasium or MuJoCo is missing."""
    try:
        import gymnasium
        import mujoco  # noqa: F401
    except ImportError:
        raise UserError(
            'the half-cheetah needs gymnasium and MuJoCo: pip install "mlbook[rl]" (or "gymnasium[mujoco]")'
        ) from None
    return gymnasium.make_vec("HalfCheetah-v5", num_envs=count, vectorization_mode="sync")


@dataclass(frozen=True)
class HalfCheetah:
    """Velocity v of the body along the track, action a in [−1, 1]⁶.

    ``direction``: goal g = ±1, reward g·v − 0.05‖a‖². ``velocity``: g uniform in [0, 2], reward −|v − g| − 0.05‖a‖². Speeds are
    in metres per second. No trajectory ends before the horizon. Observations are gymnasium's 17 (joint angles and speeds); the
    official code's simulator had 20. Raises ``UserError`` for an unknown task or a horizon outside 1 to 1000.
    """

    task: Literal["direction", "velocity"] = "direction"
    horizon: int = 200
    """Steps of a trajectory."""

    observation_size = 17
    action_size = 6

    def __post_init__(self) -> None:
        if self.task not in ("direction", "velocity"):
            raise UserError(f"the half-cheetah's task must be direction or velocity, not {self.task!r}")
        if not 1 <= self.horizon <= 1000:
            raise UserError(f"the horizon must be from 1 to 1000 steps, got {self.horizon}")

    @property
    def reward(self) -> str:
        """The task decides the reward."""
        return self.task

    def sample_goals(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """[n_tasks, 1] on the generator's device: ±1, or speeds."""
        draw = torch.rand(n_tasks, 1, generator=generator, device=generator.device)
        return 2 * draw if self.task == "velocity" else torch.where(draw < 0.5, -1.0, 1.0)

    def roll(
        self, policy: GaussianPolicy, params: Params, goal: Tensor, noise: Tensor, reset: Tensor
    ) -> Rollouts:
        """M trajectories of T tasks: goal [T, 1], noise [T, M, H, 6], reset [T, M] seeds of the first states.

        The T·M simulators run side by side on the CPU, the policy where its parameters are. Raises ``UserError`` where the
        simulator is missing.
        """
        T, M, H, _ = noise.shape
        envs = environments(T * M)
        seen, _ = envs.reset(seed=[int(s) for s in reset.flatten().tolist()])
        target = np.repeat(goal[:, 0].cpu().double().numpy(), M)
        observed, acted, earned = [], [], []
        with torch.no_grad():
            for t in range(H):
                observation = torch.as_tensor(np.asarray(seen)).to(noise).view(T, M, -1)
                action = policy.act(params, observation, noise[:, :, t])
                applied = action.clamp(-1, 1).reshape(T * M, -1).cpu().numpy().astype(np.float32)
                seen, _, _, _, about = envs.step(applied)
                speed = np.asarray(about["x_velocity"])
                gain = target * speed if self.task == "direction" else -np.abs(speed - target)
                reward = gain - CONTROL_COST * np.square(applied, dtype=np.float64).sum(1)
                observed.append(observation)
                acted.append(action)
                earned.append(torch.as_tensor(reward).to(noise).view(T, M))
        rewards = torch.stack(earned, 2)
        return Rollouts(torch.stack(observed, 2), torch.stack(acted, 2), rewards, torch.ones_like(rewards))
