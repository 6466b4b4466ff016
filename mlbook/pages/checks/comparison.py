"""Joint pre-training, FOMAML, Reptile and MAML on the same tasks and the same points: training, cost and judgement.

Every method gets the same meta-batches. MAML and FOMAML divide the points of a task into a support and a query set; joint
pre-training and Reptile, which know no such division, get all of them as one set. Reptile is the one with plain gradient descent
on that set; the outer optimiser is the one of each method's paper (Adam; for Reptile the interpolation with ε falling to zero).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mlbook.engines import fast
from mlbook.errors import UserError
from mlbook.meta_learners import MAML, Reptile, joint_training
from mlbook.meta_learners.base import Meta, MetaLearner, State
from mlbook.pages.checks.directions import METHODS
from mlbook.tasks import Sinusoids
from mlbook.tasks.episode import Episode, TaskDistribution
from mlbook.training.evaluation import fixed_episodes, mean_and_ci95, task_scores
from mlbook.training.loop import train

TITLES = {"joint": "pre-training", "FOMAML": "FOMAML", "Reptile": "Reptile", "MAML": "MAML"}
PRODUCT = 2
"""A Hessian-vector product costs about as much as this many gradients (chapter 5)."""


@dataclass(frozen=True)
class Contender:
    """One method with its rates."""

    method: str
    """One of ``METHODS``."""
    meta_lr: float
    """Outer rate: β of Adam, or Reptile's ε at the start."""
    inner_lr: float = 0.01
    """α in meta-training (joint pre-training has none)."""
    inner_steps: int = 5
    """N in meta-training, or Reptile's k."""
    test_lr: float = 0.01
    """α at meta-test."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")

    def learner(self, model: nn.Module, loss: str = "cross_entropy", engine: str = "vmap") -> MetaLearner:
        """The package's meta-learner; engine ``vmap`` or ``fast``."""
        options = {"loss": loss, "meta_lr": self.meta_lr}
        if self.method == "joint":
            made = joint_training(model, **options)
        else:
            options |= {"inner_lr": self.inner_lr, "inner_steps": self.inner_steps}
            if self.method == "Reptile":
                made = Reptile(model, **options)
            else:
                made = MAML(model, first_order=self.method == "FOMAML", **options)
        return fast(made) if engine == "fast" else made

    def tasks(self, tasks: TaskDistribution) -> TaskDistribution:
        """Where this method's meta-batches come from."""
        return Pooled(tasks) if self.method in ("joint", "Reptile") else tasks


@dataclass(frozen=True)
class Pooled:
    """The episodes of ``tasks`` with all points of a task in one set, which is given as support and as query set."""

    tasks: TaskDistribution

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        e = self.tasks.sample(n_tasks, generator)
        x, y = torch.cat([e.support_x, e.query_x], 1), torch.cat([e.support_y, e.query_y], 1)
        return Episode(x, y, x, y)


@dataclass(frozen=True)
class NoisyWaves:
    """Sinusoids of one amplitude with phases from 1 to 1 + spread; noise on the targets, at meta-test on the support set only."""

    spread: float
    test: bool = False
    noise: float = 0.5

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        phases = (1.0, 1.0 + self.spread)
        waves = Sinusoids(10, 50 if self.test else 10, amplitude=(2.0, 2.0), phase=phases)
        e = waves.sample(n_tasks, generator)
        noisy = [
            y + self.noise * torch.randn(y.shape, generator=generator, device=y.device)
            for y in (e.support_y, e.query_y)
        ]
        return e._replace(support_y=noisy[0], query_y=e.query_y if self.test else noisy[1])


# -- cost -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What one meta-step takes for one task of S support and Q query points."""

    gradients: int
    """Gradients of a mean loss."""
    products: int
    """Hessian-vector products."""
    kept: int
    """Points of the inner path that are kept for the outer derivative, with all that their gradients stored."""
    example_gradients: int
    """The same in gradients of the loss of one example, a product counted as ``PRODUCT`` of them."""


def cost(method: str, inner_steps: int, support: int, query: int) -> Cost:
    """Cost of one meta-step for one task. inner_steps: N, or Reptile's k; support, query: examples of the task."""
    if method == "joint":
        return Cost(1, 0, 0, support + query)
    if method == "Reptile":
        return Cost(inner_steps, 0, 0, inner_steps * (support + query))
    if method == "FOMAML":
        return Cost(inner_steps + 1, 0, 0, inner_steps * support + query)
    if method == "MAML":
        sweeps = inner_steps * (1 + PRODUCT)
        return Cost(inner_steps + 1, inner_steps, inner_steps, sweeps * support + query)
    raise UserError(f"method must be one of {', '.join(METHODS)}, not {method!r}")


def measured_flops(learner: MetaLearner, meta: Meta, episodes: Episode) -> int:
    """Floating-point operations in the matrix products of one meta-gradient, counted by torch while it is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    learner.check_episodes(meta, episodes)  # the first look at a network, which costs a forward pass once
    with FlopCounterMode(display=False) as counter:
        learner.meta_gradient(meta, episodes)
    return counter.get_total_flops()


# -- training and judgement -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A method at one moment of its meta-training."""

    meta_step: int
    meta: Meta
    scores: Tensor  # [tasks, steps + 1], after 0, 1, … inner steps

    def error(self, step: int) -> float:
        """Mean error over the tasks after ``step`` inner steps."""
        return float(self.scores[:, step].mean())


def scores(
    model: nn.Module,
    meta: Meta,
    tasks: TaskDistribution,
    *,
    test_lr: float,
    steps: int,
    n_tasks: int = 200,
    seed: int = 1,
    loss: str = "mse",
) -> Tensor:
    """Query score of every test task after 0..``steps`` inner steps, [tasks, steps + 1] in float64: the same inner loop and the
    same fixed tasks for all methods. Scores that are not finite (the inner loop diverged) become infinite."""
    tester = MAML(model, loss=loss, inner_lr=test_lr)
    device = next(iter(meta["params"].values())).device
    with torch.no_grad():
        blocks = [
            task_scores(tester, meta, e.to(device), steps=steps).cpu()
            for e in fixed_episodes(tasks, n_tasks, seed)
        ]
    return torch.cat(blocks).double().nan_to_num(nan=torch.inf, posinf=torch.inf)


def _states(
    contender: Contender,
    model: nn.Module,
    tasks: TaskDistribution,
    *,
    meta_steps: int,
    meta_batch_size: int = 25,
    seed: int = 0,
    loss: str = "mse",
    engine: str = "fast",
    device: torch.device | str = "cpu",
) -> Iterator[State]:
    """The state before training and after every meta-step."""
    learner = contender.learner(model, loss=loss, engine=engine)
    state = learner.init(torch.Generator().manual_seed(seed), device)
    yield state
    run = train(
        learner,
        contender.tasks(tasks),
        meta_steps=meta_steps,
        meta_batch_size=meta_batch_size,
        state=state,
        generator=torch.Generator(device).manual_seed(seed + 1),
    )
    for progress in run:
        yield progress.state


def trained(contender: Contender, model: nn.Module, tasks: TaskDistribution, **options) -> State:
    """Meta-train. options: ``meta_steps``, ``meta_batch_size`` (25), ``seed`` (0) of the first parameters and of the meta-train
    tasks, ``loss``, ``engine`` and ``device``. Methods with the same seed start at the same point and see the same meta-batches.
    """
    return deque(_states(contender, model, tasks, **options), maxlen=1).pop()


def follow(
    contender: Contender,
    model: nn.Module,
    tasks: TaskDistribution,
    test_tasks: TaskDistribution,
    *,
    marks: Sequence[int],
    steps: int = 10,
    n_tasks: int = 200,
    test_seed: int = 1,
    loss: str = "mse",
    **options,
) -> Iterator[Point]:
    """Meta-train as ``trained`` does, and yield a ``Point`` at every meta-step in ``marks`` (0: before training), judged on
    ``n_tasks`` tasks of the fixed sequence ``test_seed`` after 0..``steps`` inner steps."""
    for state in _states(contender, model, tasks, loss=loss, **options):
        if state.meta_step in marks:
            meta = {g: {n: p.clone() for n, p in params.items()} for g, params in state.meta.items()}
            judged = scores(
                model,
                meta,
                test_tasks,
                test_lr=contender.test_lr,
                steps=steps,
                n_tasks=n_tasks,
                seed=test_seed,
                loss=loss,
            )
            yield Point(state.meta_step, meta, judged)


@dataclass(frozen=True)
class Verdict:
    """Who has the smallest mean error on the same tasks, and whether the tasks tell it from the second."""

    best: str
    second: str
    difference: float
    """Mean error of the second minus that of the best."""
    ci95: float
    """Half-width of the 95 % interval of that difference over the tasks, paired."""

    @property
    def clear(self) -> bool:
        """Whether the difference is larger than its interval."""
        return self.difference > self.ci95

    def __str__(self) -> str:
        return self.best if self.clear else f"{self.best} or {self.second}"


def verdict(errors: dict[str, Tensor]) -> Verdict:
    """Compare per-task errors [tasks] of several methods on the same tasks."""
    order = sorted(errors, key=lambda name: float(errors[name].mean()))
    best, second = order[:2]
    if not torch.isfinite(errors[second]).all():
        return Verdict(best, second, torch.inf, 0.0)
    difference = errors[second] - errors[best]
    return Verdict(best, second, *mean_and_ci95(difference))


# -- the search for rates -------------------------------------------------------------------------------------------------

GRID = {
    "joint": {"meta_lr": (0.003, 0.01, 0.03)},
    "FOMAML": {"meta_lr": (0.003, 0.01, 0.03, 0.1), "inner_lr": (0.001, 0.003, 0.01, 0.02)},
    "Reptile": {"meta_lr": (0.25, 0.5, 1.0), "inner_lr": (0.003, 0.01, 0.02, 0.03)},
    "MAML": {"meta_lr": (0.003, 0.01, 0.03), "inner_lr": (0.001, 0.003, 0.01, 0.02)},
}
"""Rates that were tried for every method; the chapter uses the best by error on meta-validation tasks. Where the best lay at an
edge the grid was extended (Reptile's ε = 1 is the whole way to the adapted parameters)."""
TEST_RATES = (0.001, 0.003, 0.01, 0.02)
"""Inner rates tried at meta-test, for every method and every trained initialisation."""


def grid(method: str) -> list[Contender]:
    """All contenders of a method's grid (the rate at meta-test is chosen after training)."""
    contenders = [Contender(method, meta_lr=rate) for rate in GRID[method]["meta_lr"]]
    inner = GRID[method].get("inner_lr")
    return contenders if inner is None else [replace(c, inner_lr=a) for c in contenders for a in inner]
