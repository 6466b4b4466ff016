"""Policy gradients where the truth is known: a walk on a line, and the derivatives of MAML-RL with frozen noise.

The walk: s ← s + a with a ~ N(θ, σ²) from s = 0, reward −(s − g)² after each of H steps. Everything about it is a polynomial in
θ: after t steps s is N(tθ, tσ²), so the expected return is J(θ) = −Σ_t ((tθ − g)² + tσ²).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.models.functional import Params
from mlbook.reinforcement import MAMLRL, SURROGATES, RolloutTasks, outer_loss, per_task, plus
from mlbook.reinforcement.maml_rl import Derivatives, mean_over_tasks


class Walks(NamedTuple):
    """M walks of H steps."""

    actions: Tensor  # [M, H]
    advantage: Tensor  # [M, H]


class Estimate(NamedTuple):
    """Mean over samples and its standard error."""

    value: float
    error: float

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % interval."""
        return 1.96 * self.error


@dataclass(frozen=True)
class Walk:
    """The problem, with the exact derivatives of its expected return in θ (a number)."""

    goal: float = 1.0
    sigma: float = 0.5
    horizon: int = 3

    def gradient(self, theta: float) -> float:
        """J′(θ)."""
        return -sum(2 * t * (t * theta - self.goal) for t in range(1, self.horizon + 1))

    def second_derivative(self) -> float:
        """J″, the same at every θ."""
        return -sum(2.0 * t * t for t in range(1, self.horizon + 1))

    def meta_gradient(self, theta: float, inner_lr: float) -> float:
        """dJ(θ + α∇J(θ))/dθ."""
        adapted = theta + inner_lr * self.gradient(theta)
        return (1 + inner_lr * self.second_derivative()) * self.gradient(adapted)

    def sample(self, theta: float, n: int, generator: torch.Generator, *, baseline: bool = True) -> Walks:
        """``n`` walks. The advantage of a step is the return from it on, minus the exact value of the state with ``baseline``."""
        noise = torch.randn(n, self.horizon, generator=generator, dtype=torch.float64)
        actions = theta + self.sigma * noise
        position = actions.cumsum(1)
        reward = -(position - self.goal).square()
        to_go = reward.flip(1).cumsum(1).flip(1)
        if not baseline:
            return Walks(actions, to_go)
        before = position - actions
        value = torch.stack(
            [
                -sum(
                    (before[:, t] + k * theta - self.goal).square() + k * self.sigma**2
                    for k in range(1, self.horizon - t + 1)
                )
                for t in range(self.horizon)
            ],
            1,
        )
        return Walks(actions, to_go - value)

    def estimates(self, kind: str, theta: float, walks: Walks) -> tuple[Estimate, Estimate]:
        """First and second derivative of J at θ from samples at θ, as the surrogate ``kind`` of ``SURROGATES`` gives them."""
        n = len(walks.actions)
        at = torch.full((n, 1, 1), theta, dtype=torch.float64, requires_grad=True)  # a θ for each walk
        actions, advantage = walks.actions[:, None], walks.advantage[:, None]  # [walks, 1, H]
        log_prob = -0.5 * ((actions - at) / self.sigma).square() - math.log(self.sigma)
        # the surrogates are means over steps and are losses; J is a sum and a gain
        gain = -self.horizon * SURROGATES[kind](
            log_prob, advantage, torch.ones_like(advantage), log_prob.detach()
        )
        first = torch.autograd.grad(gain.sum(), at, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), at)[0]
        return _estimate(first), _estimate(second)


def _estimate(values: Tensor) -> Estimate:
    values = values.detach().flatten()
    return Estimate(float(values.mean()), float(values.std() / len(values) ** 0.5))


class MetaGradientCheck(NamedTuple):
    """One number computed in two ways."""

    claimed: float
    """Directional derivative from the recursion."""
    measured: float
    """The same by a central difference of the outer loss, with the same trajectories."""


def meta_gradient_with_frozen_noise(
    learner: MAMLRL, params: Params, tasks: RolloutTasks, direction: Params, step: float = 1e-5
) -> MetaGradientCheck:
    """Derivative of the outer loss of θ along ``direction``: trajectories are drawn once, at θ, and kept.

    What is differentiated is what the learner computes: inner steps on given data, then the outer loss on given data.
    """
    rounds, inner, old = learner.explore(params, tasks)
    last = rounds[-1]
    outer = Derivatives(lambda p: outer_loss(learner.policy, p, *last), old)
    gradient = mean_over_tasks(learner.pull_back(inner, outer.gradient))
    claimed = sum(float((gradient[name] * direction[name]).sum()) for name in gradient)
    ahead, behind = (
        float(learner.judge(plus(params, sign * step, direction), rounds, old)[0]) for sign in (1, -1)
    )
    return MetaGradientCheck(claimed, (ahead - behind) / (2 * step))


def return_gradient_by_differences(
    learner: MAMLRL, params: Params, tasks: RolloutTasks, direction: Params, step: float = 1e-3
) -> Estimate:
    """Derivative of the expected return along ``direction``: rollouts with the *same noise* at θ ± step·direction.

    No probability and no advantage occurs in it, so it checks the score function independently.
    """

    def returns(sign: int) -> Tensor:
        moved = per_task(plus(params, sign * step, direction), tasks.n_tasks)
        return learner.environment.roll(learner.policy, moved, *tasks.of_round(0)).returns()

    return _estimate((returns(1) - returns(-1)) / (2 * step))


def return_gradient_by_scores(
    learner: MAMLRL, params: Params, tasks: RolloutTasks, direction: Params
) -> Estimate:
    """The same derivative by scores: Σ_t ⟨∇ log π(a_t | s_t), direction⟩ · (return from t on − its mean), per trajectory."""
    shared = per_task(params, tasks.n_tasks)
    rollouts = learner.environment.roll(learner.policy, shared, *tasks.of_round(0))
    to_go = rollouts.rewards.flip(-1).cumsum(-1).flip(-1)
    advantage = (to_go - to_go.mean(1, keepdim=True)) * rollouts.mask

    # a derivative of many numbers by one: differentiate their weighted sum by the one, then that by the weights
    scale, weights = to_go.new_zeros((), requires_grad=True), torch.ones_like(to_go, requires_grad=True)
    moved = per_task_along(params, direction, scale, tasks.n_tasks)
    log_prob = learner.policy.log_prob(moved, rollouts.observations, rollouts.actions)
    total = torch.autograd.grad((log_prob * weights).sum(), scale, create_graph=True)[0]
    score = torch.autograd.grad(total, weights)[0]
    return _estimate((score * advantage).sum(-1))


def per_task_along(params: Params, direction: Params, scale: Tensor, n_tasks: int) -> Params:
    """θ + scale·direction for every task; differentiable in ``scale``."""
    moved = {name: params[name] + scale * direction[name] for name in params}
    return {name: p.expand(n_tasks, *p.shape) for name, p in moved.items()}
