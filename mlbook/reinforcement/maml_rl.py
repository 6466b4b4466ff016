"""MAML for reinforcement learning: policy gradients in the inner loop, a trust region (or a plain gradient) in the outer one.

Greek to Python: θ ``meta["params"]``, α ``inner_lr``, θ′ ``adapted``, N inner steps ``inner_steps``, δ ``max_kl``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.base import AllReduce, Meta, MetaLearner, State, leaves, no_reduce, outer_step
from mlbook.models.functional import Params
from mlbook.reinforcement.policy import GaussianPolicy
from mlbook.reinforcement.rollouts import Environment, Rollouts, RolloutTasks, advantages
from mlbook.reinforcement.surrogates import SURROGATES, inner_loss, mean_divergence, outer_loss
from mlbook.reinforcement.trust_region import plus, trust_region_step


class Derivatives:
    """Gradient and second derivative of a loss per task at parameters per task: the loss is recorded once, products are cheap."""

    def __init__(self, loss, params: Params) -> None:
        """loss: parameters per task -> [T]."""
        self.at = {name: p.detach().requires_grad_() for name, p in params.items()}
        value = loss(self.at)
        self.value = value.detach()  # [T]
        self._graph = torch.autograd.grad(value.sum(), list(self.at.values()), create_graph=True)
        self.gradient = {name: g.detach() for name, g in zip(self.at, self._graph, strict=True)}

    def times(self, v: Params) -> Params:
        """H v for every task: v and the result have a tasks axis."""
        # a parameter that enters the gradient nowhere (the spread in the gradient of an empty set, say) has derivative zero
        found = torch.autograd.grad(
            self._graph,
            list(self.at.values()),
            grad_outputs=[v[name] for name in self.at],
            retain_graph=True,
            allow_unused=True,
        )
        return {
            n: torch.zeros_like(p) if f is None else f
            for (n, p), f in zip(self.at.items(), found, strict=True)
        }


class Round(NamedTuple):
    """What the agents collected, and what the learner makes of it."""

    rollouts: Rollouts
    advantage: Tensor  # [T, M, H]
    log_prob: Tensor  # [T, M, H]   log π of the actions under the policy that took them


@dataclass(frozen=True)
class MAMLRL(MetaLearner):
    """Model-agnostic meta-learning of a policy (Finn et al. 2017, algorithm 3). Defaults are those of the official code."""

    world: Environment
    policy: GaussianPolicy
    inner_lr: float = 0.5
    """α of the first inner step."""
    later_lr: float | None = None
    """α of all later inner steps; default: half of ``inner_lr``, as the official code has it at meta-test."""
    inner_steps: int = 1
    """N in meta-training; 0: joint pre-training of one policy for all tasks."""
    first_order: bool = False
    """FOMAML: θ′ moves with θ as if by the same amount."""
    surrogate: Literal["log", "dice"] = "log"
    """The inner loss: ``log`` drops the dependence of the sampling on θ in second derivatives (as the official code does);
    ``dice`` keeps it."""
    outer: Literal["trpo", "gradient"] = "trpo"
    """The outer step: trust region, or Adam on the meta-gradient."""
    max_kl: float = 0.01
    """δ: bound on the mean divergence between the adapted policies before and after the outer step."""
    cg_steps: int = 10
    damping: float = 1e-5
    """Multiple of the identity that is added to the curvature of the divergence."""
    curvature_every: int = 4
    """The curvature (of the divergence, and of the inner loss within it) is taken from each such trajectory; gradients come from
    all of them, and the bound is checked on all."""
    meta_lr: float = 1e-3
    """Rate of Adam, ``outer="gradient"`` only."""
    discount: float = 0.99
    gae: float = 1.0

    metric = "return"
    logged = ("loss", "before", "after", "kl")
    query_sets = False
    recordable = False
    """As a CUDA graph: the trust region looks at numbers before it goes on."""
    engine = "rollouts"
    vmappable = True
    inductive = False
    fast_engine_fits = False

    def __post_init__(self) -> None:
        if self.inner_steps < 0:
            raise UserError(f"inner_steps must not be negative, got {self.inner_steps}")
        if self.surrogate not in SURROGATES:
            raise UserError(f"surrogate must be {' or '.join(SURROGATES)}, not {self.surrogate!r}")
        if self.outer not in ("trpo", "gradient"):
            raise UserError(f"outer must be trpo or gradient, not {self.outer!r}")
        if not self.max_kl > 0:
            raise UserError(f"max_kl must be positive, got {self.max_kl}")

    def one_process_because(self) -> str | None:
        return "computes all its tasks at once"

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """A random policy, drawn on the generator's device, then moved."""
        meta = {"params": {n: p.to(device) for n, p in self.policy.initial(generator).items()}}
        if self.outer == "trpo":  # the step has no rate and no memory
            return State(meta, torch.optim.SGD(leaves(meta), lr=1.0))
        return State(meta, torch.optim.Adam(leaves(meta), lr=self.meta_lr))

    def meta_lr_at(self, progress: float) -> float:
        return self.meta_lr

    def rate(self, n: int) -> float:
        """α of inner step n = 0, 1, …"""
        later = self.inner_lr / 2 if self.later_lr is None else self.later_lr
        return self.inner_lr if n == 0 else later

    def collect(self, params: Params, tasks: RolloutTasks, n: int) -> Round:
        """Round n of rollouts with parameters shared or per task."""
        rollouts = self.world.roll(
            self.policy, params, tasks.goal, tasks.noise[:, n], tasks.reset[:, n]
        )  # [RL 1]
        with torch.no_grad():
            log_prob = self.policy.log_prob(params, rollouts.observations, rollouts.actions)
        return Round(rollouts, advantages(rollouts, discount=self.discount, gae=self.gae), log_prob)  # [RL 2]

    def inner(self, params: Params, round_: Round) -> Derivatives:
        """The inner loss on one round, with its derivatives, at parameters per task."""
        return Derivatives(lambda p: inner_loss(self.surrogate, self.policy, p, *round_), params)

    def path(self, meta: Meta, tasks: RolloutTasks, steps: int) -> Iterator[tuple[Params, Round]]:
        """Adapted parameters (per task) after 0, 1, …, ``steps`` inner steps, each with its own rollouts."""
        params = per_task(meta["params"], tasks.n_tasks)
        for n in range(steps + 1):
            found = self.collect(params, tasks, n)
            yield params, found
            if n < steps:
                gradient = self.inner(params, found).gradient
                params = plus(params, -self.rate(n), gradient)  # [RL 3]

    def scores(self, meta: Meta, tasks: RolloutTasks, steps: int, scored: Sequence[int]) -> Tensor:
        """Mean undiscounted return of every task after the ``scored`` inner steps: [T, len(scored)]."""
        # copies without a graph: rollouts are data, and the evaluation runs without gradients around it
        with torch.enable_grad():
            found = [r.rollouts.returns().mean(1) for _, r in self.path(detached(meta), tasks, steps)]
        return torch.stack(found, 1)[:, list(scored)]

    def explore(self, params: Params, tasks: RolloutTasks) -> tuple[list[Round], list[Derivatives], Params]:
        """Rounds 0..N with the inner derivatives between them, and the adapted parameters, per task."""
        rounds, inner = [], []
        params = per_task(params, tasks.n_tasks)
        for n in range(self.inner_steps):
            rounds.append(self.collect(params, tasks, n))
            inner.append(self.inner(params, rounds[-1]))
            params = plus(params, -self.rate(n), inner[-1].gradient)  # [RL 3]
        rounds.append(self.collect(params, tasks, self.inner_steps))  # [RL 4]
        return rounds, inner, params

    def pull_back(self, inner: list[Derivatives], v: Params) -> Params:
        """(dθ′/dθ)ᵀ v per task: v ← v − α H v, backwards over the inner steps (equation 5.1). H is symmetric."""
        if self.first_order:
            return v
        for n in range(len(inner) - 1, -1, -1):
            v = plus(v, -self.rate(n), inner[n].times(v))  # [RL 5]
        return v

    def push_forward(self, inner: list[Derivatives], v: Params) -> Params:
        """(dθ′/dθ) v per task."""
        if self.first_order:
            return v
        for n, derivatives in enumerate(inner):
            v = plus(v, -self.rate(n), derivatives.times(v))
        return v

    def step(
        self, state: State, tasks: RolloutTasks, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        """One meta-step on a meta-batch of tasks with N + 1 rounds."""
        params = state.meta["params"]
        rounds, inner, adapted = self.explore(params, tasks)
        last = rounds[-1]
        old = detached({"": adapted})[""]
        outer = Derivatives(lambda p: outer_loss(self.policy, p, *last), old)
        gradient = mean_over_tasks(self.pull_back(inner, outer.gradient))
        metrics = {
            "loss": outer.value.mean(),
            "before": rounds[0].rollouts.returns().mean(),
            "after": last.rollouts.returns().mean(),
        }
        if self.outer == "gradient":
            state = outer_step(state, {"params": gradient}, lr=self.meta_lr_at(progress))
            return state, {**metrics, "kl": self.judge(state.meta["params"], rounds, old)[1]}
        moved = self.trust_region(params, gradient, rounds, inner, old, metrics["loss"])
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(moved.params[name])
        return State(state.meta, state.optimizer, state.meta_step + 1), {**metrics, "kl": moved.kl}

    def trust_region(
        self,
        params: Params,
        gradient: Params,
        rounds: list[Round],
        inner: list[Derivatives],
        old: Params,
        loss: Tensor,
    ):
        """The step of ``trust_region_step`` under the divergence of the *adapted* policies.

        At θ the divergence and its gradient are zero, so its second derivative with respect to θ is Bᵀ F B, with B = dθ′/dθ and
        F the second derivative with respect to θ′: third derivatives are not needed.
        """
        some = [self.thinned(found) for found in rounds]
        kl = Derivatives(lambda p: mean_divergence(self.policy, old, p, some[-1].rollouts), old)
        if self.curvature_every > 1 and not self.first_order:
            inner = [self.inner(d.at, found) for d, found in zip(inner, some[:-1], strict=True)]

        def product(v: Params) -> Params:
            """(Bᵀ F B + damping) v, mean over tasks."""
            forward = self.push_forward(inner, per_task(v, len(rounds[-1].log_prob)))
            back = mean_over_tasks(self.pull_back(inner, kl.times(forward)))  # [TRPO 1]
            return plus(back, self.damping, v)

        return trust_region_step(
            params,
            gradient,
            product,
            lambda candidate: self.judge(candidate, rounds, old),
            loss=loss,
            max_kl=self.max_kl,
            cg_steps=self.cg_steps,
        )  # [RL 6]

    def thinned(self, found: Round) -> Round:
        """Each ``curvature_every``-th trajectory."""
        every = self.curvature_every
        some = Rollouts(*(f[:, ::every] for f in found.rollouts))
        return Round(some, found.advantage[:, ::every], found.log_prob[:, ::every])

    def judge(self, params: Params, rounds: list[Round], old: Params) -> tuple[Tensor, Tensor]:
        """Outer loss and divergence of a candidate θ on given rounds: the inner steps are taken anew, on the same data."""
        adapted = per_task(params, len(rounds[-1].log_prob))
        for n, found in enumerate(rounds[:-1]):
            leaf = {name: p.detach().requires_grad_() for name, p in adapted.items()}
            loss = inner_loss(self.surrogate, self.policy, leaf, *found).sum()
            gradient = dict(zip(leaf, torch.autograd.grad(loss, list(leaf.values())), strict=True))
            adapted = plus(detached({"": leaf})[""], -self.rate(n), gradient)
        with torch.no_grad():
            last = rounds[-1]
            loss = outer_loss(self.policy, adapted, *last).mean()
            return loss, mean_divergence(self.policy, old, adapted, last.rollouts).mean()


def per_task(params: Params, n_tasks: int) -> Params:
    """One set of parameters, seen by each of ``n_tasks`` tasks: [...] -> [T, ...]."""
    return {name: p.detach().expand(n_tasks, *p.shape) for name, p in params.items()}


def mean_over_tasks(values: Params) -> Params:
    return {name: v.mean(0) for name, v in values.items()}


def detached(meta: Meta) -> Meta:
    return {group: {name: p.detach() for name, p in ps.items()} for group, ps in meta.items()}
