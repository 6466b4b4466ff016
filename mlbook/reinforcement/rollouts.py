"""What an agent collects in an environment, and what policy gradients need of it: returns, baseline, advantages.

Shapes: T tasks, M trajectories per task, H steps at most (the horizon), O values in an observation, A in an action.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mlbook.models.functional import Params


class Rollouts(NamedTuple):
    """M trajectories of each of T tasks. After a trajectory has ended, ``mask`` and rewards are 0."""

    observations: Tensor  # [T, M, H, O]   before the action
    actions: Tensor  # [T, M, H, A]   as the policy drew them, before any clipping
    rewards: Tensor  # [T, M, H]
    mask: Tensor  # [T, M, H]   1 where the step was taken, 0 after the end

    def returns(self) -> Tensor:
        """Undiscounted sum of rewards of every trajectory, [T, M]: what tables report."""
        return self.rewards.sum(-1)


class RolloutTasks(NamedTuple):
    """T tasks with all the randomness that their rollouts need: the same tasks give the same rollouts for the same policy.

    Round n is what the agent collects after n inner steps.
    """

    goal: Tensor  # [T, G]   what tells the tasks apart
    noise: Tensor  # [T, rounds, M, H, A]   standard normal: the draws of the actions
    reset: Tensor  # [T, rounds, M] int64: seeds of the first states, where the environment draws them

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.goal)

    def of_round(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """What ``Environment.roll`` takes for round n: goal [T, G], noise [T, M, H, A], reset [T, M]."""
        return self.goal, self.noise[:, n], self.reset[:, n]

    def task(self, index: int) -> RolloutTasks:
        """One task, with a tasks axis of length 1."""
        return self._make(field[index : index + 1] for field in self)

    def to(self, *args) -> RolloutTasks:
        """Moved or cast as by ``Tensor.to``; the seeds stay whole numbers."""
        return self._make(f.to(*args) if f.is_floating_point() else f.to(*args).to(f.dtype) for f in self)


class Environment(Protocol):
    """Where agents act: one environment for many tasks at once, which differ in their goals."""

    horizon: int
    """H, the most steps of a trajectory."""
    observation_size: int
    """O."""
    action_size: int
    """A."""
    reward: str
    """The rule of the reward in one word. Returns under different rules are never compared."""

    def sample_goals(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Goals of ``n_tasks`` random tasks, [T, G], on the generator's device."""

    def roll(self, policy, params: Params, goal: Tensor, noise: Tensor, reset: Tensor) -> Rollouts:
        """M trajectories of each task: goal [T, G], noise [T, M, H, A], reset [T, M].

        ``params`` of the policy are shared by all tasks or have a tasks axis. The same arguments give the same rollouts.
        """


def discounted_sums(rewards: Tensor, discount: float) -> Tensor:
    """Σ_k discount^k r_{t+k} for every step t, along the last axis: [..., H] -> [..., H]."""
    found, running = [], torch.zeros_like(rewards[..., 0])
    for t in range(rewards.shape[-1] - 1, -1, -1):
        running = rewards[..., t] + discount * running
        found.append(running)
    return torch.stack(found[::-1], -1)


def features(observations: Tensor) -> Tensor:
    """What the linear baseline sees, [..., H, O] -> [..., H, 2·O + 4]: observations o (clipped to ±10) and o², time t/100, its
    square and cube, and 1.

    The official code uses these (Duan et al. 2016, benchmarking; ``rllab``).
    """
    o = observations.clamp(-10, 10)
    time = torch.arange(o.shape[-2], dtype=o.dtype, device=o.device)[:, None].expand(*o.shape[:-1], 1) / 100
    return torch.cat([o, o**2, time, time**2, time**3, torch.ones_like(time)], -1)


def linear_baseline(
    rollouts: Rollouts,
    discount: float,
    ridge: float = 1e-5,
) -> Tensor:
    """b(s_t): a linear fit, one per task, of the discounted returns on ``features``; [T, M, H], 0 after the end.

    It is solved in float64: where all trajectories start at the same point, the features are nearly collinear.
    """
    T, M, H = rollouts.rewards.shape
    seen = features(rollouts.observations) * rollouts.mask[..., None]
    to_go = discounted_sums(rollouts.rewards, discount) * rollouts.mask
    x = seen.view(T, M * H, -1).double()
    y = to_go.view(T, M * H, 1).double()
    gram = x.mT @ x + ridge * torch.eye(x.shape[-1]).to(x)
    weights = torch.linalg.solve(gram, x.mT @ y)
    return (x @ weights).view(T, M, H).to(rollouts.rewards.dtype)


def advantages(
    rollouts: Rollouts,
    *,
    discount: float,
    gae: float,
    standardise: bool = True,
) -> Tensor:
    """Generalised advantage estimates Â_t (Schulman et al. 2016, equation 16), [T, M, H], 0 after the end.

    discount: γ. gae: λ; at 1 the advantage is the discounted return minus the baseline. standardise: shift and scale the
    advantages of each task, over all its steps, to mean 0 and standard deviation 1. The official code calls this centring.
    """
    value = linear_baseline(rollouts, discount)
    end = torch.zeros_like(value[..., :1])
    following = torch.cat([value[..., 1:], end], -1)
    delta = (rollouts.rewards + discount * following - value) * rollouts.mask
    found = discounted_sums(delta, discount * gae) * rollouts.mask
    if not standardise:
        return found
    count = rollouts.mask.sum((1, 2), keepdim=True)
    mean = found.sum((1, 2), keepdim=True) / count
    centred = (found - mean) * rollouts.mask
    variance = centred.square().sum((1, 2), keepdim=True) / count
    return centred / (variance.sqrt() + 1e-8)
