"""MAML for reinforcement learning: policy gradients in the inner loop, a trust region (or a plain gradient) in the outer one.

Source: Finn et al. (2017), section 3.2 and algorithm 3. Greek to Python: θ ``meta["params"]``, α ``inner_lr``, θ′ ``adapted``,
N inner steps ``inner_steps``, δ ``max_kl``. Shapes: T tasks, M trajectories, H steps.

Nothing here goes through ``vmap``: the policy computes all tasks in one batched product, and the loss of a task depends on its
own parameters only, so the gradient of the summed losses holds the gradients of all tasks. A policy of yours that maps a module
over tasks by ``vmap`` must not have torch's normalisation layers in it: second derivatives would be silently wrong
(``mlbook.models.batch_norm``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.base import AllReduce, Meta, MetaLearner, State, leaves, no_reduce, outer_step
from mlbook.meta_learners.bilevel import gradient_of
from mlbook.models.functional import Params
from mlbook.reinforcement.policy import GaussianPolicy
from mlbook.reinforcement.rollouts import Environment, Rollouts, RolloutTasks, advantages
from mlbook.reinforcement.surrogates import SURROGATES, inner_loss, mean_divergence, outer_loss
from mlbook.reinforcement.trust_region import Step, plus, trust_region_step


class Derivatives:
    """Gradient and second derivative of a loss, per task. The loss is computed once; products with H are cheap after that.

    ``at``: the parameters, each with a tasks axis. ``value``: the losses [T]. ``gradient``: in the structure of ``at``.
    """

    def __init__(self, loss: Callable[[Params], Tensor], params: Params) -> None:
        """loss: parameters with a tasks axis -> [T], where entry i depends on the parameters of task i only."""
        self.at = {name: p.detach().requires_grad_() for name, p in params.items()}
        value = loss(self.at)
        self.value = value.detach()
        self._graph = torch.autograd.grad(value.sum(), list(self.at.values()), create_graph=True)
        self.gradient = {name: g.detach() for name, g in zip(self.at, self._graph, strict=True)}

    def times(self, v: Params) -> Params:
        """H v for every task; v and the result have a tasks axis. Zero for parameters that the gradient does not depend on."""
        found = torch.autograd.grad(
            self._graph,
            list(self.at.values()),
            grad_outputs=[v[name] for name in self.at],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self.at, found, strict=True))


class Round(NamedTuple):
    """One round of rollouts, and what the learner computes from it."""

    rollouts: Rollouts
    advantage: Tensor  # [T, M, H]
    log_prob: Tensor  # [T, M, H]   log π of the actions under the policy that took them


class Exploration(NamedTuple):
    """Everything that a meta-step collects before it moves θ."""

    rounds: list[Round]
    """After 0, 1, …, N inner steps."""
    inner: list[Derivatives]
    """Of the inner loss, at the start of each inner step."""
    adapted: Params
    """θ′ with a tasks axis, without a graph."""


@dataclass(frozen=True)
class MAMLRL(MetaLearner):
    """Model-agnostic meta-learning of a policy (Finn et al. 2017, algorithm 3). Defaults are those of the official code.

    Raises ``UserError`` for a setting that makes no sense.
    """

    environment: Environment
    policy: GaussianPolicy
    inner_lr: float = 0.5
    """α of the first inner step."""
    later_lr: float | None = None
    """α of all later inner steps. Default: half of ``inner_lr``, as the official code has it at meta-test."""
    inner_steps: int = 1
    """N in meta-training; 0: joint pre-training of one policy for all tasks."""
    first_order: bool = False
    """FOMAML: dθ′/dθ is taken to be the identity."""
    surrogate: Literal["log", "dice"] = "log"
    """The inner loss. ``log`` leaves the dependence of the sampling on θ out of the second derivative, as the official code
    does; ``dice`` keeps it."""
    outer: Literal["trpo", "gradient"] = "trpo"
    """The outer step: trust region, or Adam on the meta-gradient."""
    max_kl: float = 0.01
    """δ, in nats: bound on the mean divergence between the adapted policies before and after the outer step."""
    cg_steps: int = 10
    """Steps of conjugate gradients for each outer step."""
    damping: float = 1e-5
    """Multiple of the identity that is added to the curvature of the divergence."""
    curvature_every: int = 4
    """Second derivatives (of the divergence, and of the inner loss within it) use every so-many-th trajectory. The gradient
    uses all of them, and the bound is checked on all."""
    meta_lr: float = 1e-3
    """Rate of Adam; only with ``outer="gradient"``."""
    discount: float = 0.99
    """γ of the advantages."""
    gae: float = 1.0
    """λ of the advantages."""

    metric = "return"
    logged = ("loss", "before", "after", "kl")
    query_sets = False
    engine = "rollouts"
    recordable = False  # the trust region looks at numbers before it goes on

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
        """A random policy, drawn on the generator's device, then moved to ``device``."""
        meta = {"params": {n: p.to(device) for n, p in self.policy.initial(generator).items()}}
        if self.outer == "trpo":  # the trust region needs no rate and keeps no moments
            return State(meta, torch.optim.SGD(leaves(meta), lr=1.0))
        return State(meta, torch.optim.Adam(leaves(meta), lr=self.meta_lr))

    def meta_lr_at(self, progress: float) -> float:
        """The rate of Adam, which stays the same."""
        return self.meta_lr

    def rate(self, n: int) -> float:
        """α of inner step n = 0, 1, …"""
        later = self.inner_lr / 2 if self.later_lr is None else self.later_lr
        return self.inner_lr if n == 0 else later

    def collect(self, params: Params, tasks: RolloutTasks, n: int) -> Round:
        """Round n of rollouts, with parameters that all tasks share or with one set per task."""
        roll, draws = self.environment.roll, tasks.of_round(n)
        rollouts = roll(self.policy, params, *draws)  # [RL 1]
        states, actions = rollouts.observations, rollouts.actions
        with torch.no_grad():
            log_prob = self.policy.log_prob(params, states, actions)
        options = {"discount": self.discount, "gae": self.gae}
        return Round(rollouts, advantages(rollouts, **options), log_prob)  # [RL 2]

    def inner(self, params: Params, found: Round) -> Derivatives:
        """The inner loss on one round, with its derivatives, at one set of parameters per task."""
        return Derivatives(lambda p: inner_loss(self.surrogate, self.policy, p, *found), params)

    def path(self, meta: Meta, tasks: RolloutTasks, steps: int) -> Iterator[tuple[Params, Round]]:
        """Adapted parameters, with a tasks axis, after 0, 1, …, ``steps`` inner steps, and the rollouts of each."""
        params = per_task(meta["params"], tasks.n_tasks)
        for n in range(steps + 1):
            found = self.collect(params, tasks, n)
            yield params, found
            if n < steps:
                gradient = self.inner(params, found).gradient
                params = plus(params, -self.rate(n), gradient)  # [RL 3]

    def scores(self, meta: Meta, tasks: RolloutTasks, steps: int, scored: Sequence[int]) -> Tensor:
        """Mean undiscounted return of every task after each of the ``scored`` inner steps: [T, len(scored)]."""
        with torch.enable_grad():  # evaluation turns gradients off, and an inner step needs one
            found = [r.rollouts.returns().mean(1) for _, r in self.path(meta, tasks, steps)]
        return torch.stack(found, 1)[:, list(scored)]

    def explore(self, params: Params, tasks: RolloutTasks) -> Exploration:
        """Rounds 0 to N with the inner derivatives between them, and the adapted parameters."""
        rounds, inner = [], []
        params = per_task(params, tasks.n_tasks)
        for n in range(self.inner_steps):
            rounds.append(self.collect(params, tasks, n))
            inner.append(self.inner(params, rounds[-1]))
            params = plus(params, -self.rate(n), inner[-1].gradient)  # [RL 3]
        rounds.append(self.collect(params, tasks, self.inner_steps))  # [RL 4]
        return Exploration(rounds, inner, params)

    def pull_back(self, inner: list[Derivatives], v: Params) -> Params:
        """(dθ′/dθ)ᵀ v per task: v ← v − α H v, backwards over the inner steps (equation 5.1). H is symmetric."""
        if self.first_order:
            return v
        for n in range(len(inner) - 1, -1, -1):
            v = plus(v, -self.rate(n), inner[n].times(v))  # [RL 5]
        return v

    def push_forward(self, inner: list[Derivatives], v: Params) -> Params:
        """(dθ′/dθ) v per task: the same factors, forwards."""
        if self.first_order:
            return v
        for n, derivatives in enumerate(inner):
            v = plus(v, -self.rate(n), derivatives.times(v))
        return v

    def step(
        self, state: State, tasks: RolloutTasks, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        """One meta-step on a meta-batch of tasks with N + 1 rounds.

        Metrics: outer loss, mean return before and after the inner steps, divergence (nats) of the adapted policies.
        """
        params = state.meta["params"]
        found = self.explore(params, tasks)
        last = found.rounds[-1]
        outer = Derivatives(lambda p: outer_loss(self.policy, p, *last), found.adapted)
        gradient = mean_over_tasks(self.pull_back(found.inner, outer.gradient))
        metrics = {
            "loss": outer.value.mean(),
            "before": found.rounds[0].rollouts.returns().mean(),
            "after": last.rollouts.returns().mean(),
        }
        if self.outer == "gradient":
            state = outer_step(state, {"params": gradient}, lr=self.meta_lr_at(progress))
            return state, {**metrics, "kl": self.judge(state.meta["params"], found.rounds, found.adapted)[1]}
        moved = self.trust_region(params, gradient, found, metrics["loss"])
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(moved.params[name])
        return State(state.meta, state.optimizer, state.meta_step + 1), {**metrics, "kl": moved.kl}

    def trust_region(
        self,
        params: Params,
        gradient: Params,
        found: Exploration,
        loss: Tensor,
    ) -> Step:
        """The step of ``trust_region_step`` under the divergence of the *adapted* policies.

        At θ the divergence and its gradient are zero, so its second derivative with respect to θ is Bᵀ F B, with B = dθ′/dθ and
        F the second derivative with respect to θ′: third derivatives are not needed.
        """
        rounds, inner, old = found
        policy, some = self.policy, [self.thinned(its) for its in rounds]
        visited = some[-1].rollouts
        kl = Derivatives(lambda p: mean_divergence(policy, old, p, visited), old)
        if self.curvature_every > 1 and not self.first_order:
            pairs = zip(inner, some[:-1], strict=True)
            inner = [self.inner(d.at, its) for d, its in pairs]

        def product(v: Params) -> Params:
            """(Bᵀ F B + damping) v, mean over tasks."""
            forward = self.push_forward(inner, per_task(v, len(kl.value)))
            back = self.pull_back(inner, kl.times(forward))  # [TRPO 1]
            return plus(mean_over_tasks(back), self.damping, v)

        def judge(candidate: Params) -> tuple[Tensor, Tensor]:
            return self.judge(candidate, rounds, old)

        return trust_region_step(  # [RL 6]
            params,
            gradient,
            product,
            judge,
            loss=loss,
            max_kl=self.max_kl,
            cg_steps=self.cg_steps,
        )

    def thinned(self, found: Round) -> Round:
        """Every ``curvature_every``-th trajectory."""
        every = self.curvature_every
        some = Rollouts(*(f[:, ::every] for f in found.rollouts))
        return Round(some, found.advantage[:, ::every], found.log_prob[:, ::every])

    def judge(self, params: Params, rounds: list[Round], old: Params) -> tuple[Tensor, Tensor]:
        """Outer loss of a candidate θ, and its adapted policies' divergence from ``old`` (nats), both means over tasks.

        The candidate takes its inner steps anew, on the rounds that are given.
        """
        adapted = per_task(params, len(rounds[-1].log_prob))
        for n, found in enumerate(rounds[:-1]):
            its = gradient_of(
                lambda p, f=found: inner_loss(self.surrogate, self.policy, p, *f).sum(), adapted
            )
            adapted = plus(adapted, -self.rate(n), its.gradient)
        with torch.no_grad():
            last = rounds[-1]
            loss = outer_loss(self.policy, adapted, *last).mean()
            return loss, mean_divergence(self.policy, old, adapted, last.rollouts).mean()


def per_task(params: Params, n_tasks: int) -> Params:
    """The same parameters for each of ``n_tasks`` tasks, without a graph: [...] -> [T, ...]."""
    return {name: p.detach().expand(n_tasks, *p.shape) for name, p in params.items()}


def mean_over_tasks(values: Params) -> Params:
    """[T, ...] -> [...]."""
    return {name: v.mean(0) for name, v in values.items()}
