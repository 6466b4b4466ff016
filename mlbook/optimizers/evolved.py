"""A learned optimiser trained by evolution strategies. Nothing is differentiated but the functions that it minimises.

Every problem of a meta-batch has one pair of particles of its own: weights φ + σε and φ − σε, on the same problem. The noise
comes with the problems (``tasks.optimization_problems.Perturbed``), so a meta-step is a plain function of weights and meta-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.base import AllReduce, State, no_reduce
from mlbook.meta_learners.bilevel import outer_step, over_processes
from mlbook.meta_learners.evolution import Noise, enlarged, evolution_windows
from mlbook.models.functional import Params
from mlbook.optimizers.learned_optimizer import CoordinateRule, LearnedOptimizer
from mlbook.optimizers.optimizees import Optimizee
from mlbook.tasks.optimization_problems import PerturbedProblem, QuadraticProblem


class Runs(NamedTuple):
    """Where n particles are, each on one problem with P coordinates."""

    theta: Tensor  # [n, P]
    memory: list  # h and c of every layer, [n, P, units]
    f: Tensor  # [n], at θ
    gradient: Tensor  # [n, P], at θ


@dataclass(frozen=True)
class Population:
    """Runs of a learned optimiser as ``evolution.Particles``."""

    rule: Callable[[Params], CoordinateRule]
    optimizee: Optimizee
    problems: QuadraticProblem
    fresh: Callable[[Tensor], list]
    """The rule's memory before the first step from θ."""

    @cached_property
    def twice(self) -> QuadraticProblem:
        """The problems of both signs."""
        return self.problems._make(torch.cat([field, field]) for field in self.problems)

    def seen(self, theta: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """f and ∇ of every particle at θ_t."""
        alone = len(theta) == self.problems.n_tasks
        with torch.enable_grad():
            at = theta.detach().requires_grad_()
            f = self.optimizee.loss(at, self.problems if alone else self.twice, t)
            (gradient,) = torch.autograd.grad(f.sum(), at)
        return f.detach(), gradient

    def start(self) -> Runs:
        theta = self.problems.start
        memory = [
            tuple(enlarged(part[None], len(theta)) for part in layer) for layer in self.fresh(theta[:1])
        ]
        return Runs(theta, memory, *self.seen(theta, 0))

    def step(self, phi: Params, state: Runs, t: int) -> Runs:
        def update(phi: Params, gradient: Tensor, memory: list) -> tuple[Tensor, list]:
            return self.rule(phi).update(gradient, memory)

        change, memory = torch.func.vmap(update)(phi, state.gradient, state.memory)
        theta = state.theta + change
        return Runs(theta, memory, *self.seen(theta, t + 1))

    def losses(self, phi: Params, state: Runs, t: int) -> Tensor:
        return state.f


@dataclass(frozen=True)
class EvolvedOptimizer(LearnedOptimizer):
    """``LearnedOptimizer`` with evolution strategies in the place of backpropagation. A meta-step is one run of ``steps`` steps
    on T perturbed problems, with an outer step after every ``unroll`` of them.

    Raises ``UserError`` for a setting that makes no sense.
    """

    sigma: float = 0.01
    """Of the perturbations of φ."""
    persistent: bool = True
    """PES; else truncated ES."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0:
            raise UserError(f"sigma must be positive, got {self.sigma}")

    @property
    def windows(self) -> int:
        """Outer steps of a meta-step."""
        return -(-self.steps // self.unroll)

    @cached_property
    def weights(self) -> int:
        """Of the network."""
        drawn = self.init(torch.Generator().manual_seed(0)).meta["params"]
        return sum(tensor.numel() for tensor in drawn.values())

    def population(self, phi: Params, problems: QuadraticProblem) -> Population:
        """The inner loop on these problems, one particle a problem and a sign."""
        return Population(self.rule, self.optimizee, problems, self.rule(phi).fresh)

    def step(
        self,
        state: State,
        problems: PerturbedProblem,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, dict[str, Tensor]]:
        """The metric is the mean loss of the points passed, by the perturbed weights."""
        phi, optimizer, total = state.meta["params"], state.optimizer, 0.0
        self.set_meta_lr(optimizer, progress)
        particles = self.population(phi, problems.problems)
        estimates = evolution_windows(
            particles,
            self.steps,
            self.unroll,
            sigma=self.sigma,
            pairs=problems.n_tasks,
            noise=given(problems.noise),
            persistent=self.persistent,
        )
        for estimate in estimates:
            total = total + outer_step(phi, estimate, optimizer, over_processes(all_reduce))
        return State(state.meta, optimizer, state.meta_step + 1), {"loss": total / self.steps}


def given(noise: Tensor) -> Noise:
    """ε from a table [pairs, windows, weights], window after window."""
    rows = iter(noise.unbind(1))

    def epsilon(outer: Params, pairs: int) -> Params:
        names = sorted(outer)
        parts = next(rows).split([outer[name].numel() for name in names], 1)
        return {name: part.view(pairs, *outer[name].shape) for name, part in zip(names, parts, strict=True)}

    return epsilon
