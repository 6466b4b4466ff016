"""The one problem with five outer variables (``five_variables``), every estimate of the outer gradient at the same price.

The price is counted in *runs* of the inner loop on a batch of 32 tasks. A derivative backwards through a run costs twice the run
again, so it counts three; a pair of evolution strategies counts two. Truncated ES also runs η itself, one more for all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.meta_learners.bilevel import Estimator, Outer
from mlbook.meta_learners.evolution import (
    SideBySide,
    evolution,
    gaussian,
    persistent_evolution,
    truncated_evolution,
)
from mlbook.pages.checks import five_variables as five
from mlbook.pages.checks.five_variables import FIXED, Curves, Fit, curves, objective

BATCH, WINDOW = 32, 5
CONTINUOUS = ("exact", "truncated", "evolution", "truncated_evolution", "persistent_evolution")
DISCRETE = ("relaxed", "score_function", "evolution")
SIGMA = {"continuous": 0.1, "choice": 1.0}
"""σ of the perturbations; for a choice they have to be as large as the differences of its logits."""


def ways(variable: str) -> tuple[str, ...]:
    """The estimates that there are for an outer variable. A window that does not see the start tells nothing of it."""
    if variable == "initialisation":
        return tuple(way for way in CONTINUOUS if not way.startswith("truncated"))
    return CONTINUOUS if five.ESTIMATES[variable] in ("exact", "truncated") else DISCRETE


def by_hard_choice(variable: str, tasks: Curves, pairs: int, generator: torch.Generator):
    """Losses of a stack of logits, each after one hard choice: the largest of logits + Gumbel noise, the same noise for both
    signs of a pair. They jump where the choice changes, and have no derivative to speak of."""
    uniform = torch.rand(pairs, len(FIXED[variable]), generator=generator)
    noise = -(-uniform.clamp_min(1e-12).log()).log()

    def losses(stack: Outer) -> Tensor:
        chosen = (stack[variable] + torch.cat([noise, noise])).argmax(-1)
        one_hot = torch.eye(stack[variable].shape[-1])[chosen]
        return torch.func.vmap(lambda choice: objective(tasks, {}, {variable: choice}))(one_hot)

    return losses


def estimator(variable: str, way: str, runs: int, generator: torch.Generator) -> Estimator:
    """An estimate of dJ/dη on freshly drawn tasks that costs ``runs`` runs (a multiple of 6, at least 6).

    Raises ``UserError`` for an estimate that this variable does not have, or another number of runs.
    """
    if way not in ways(variable):
        raise UserError(f"{variable} has the estimates {', '.join(ways(variable))}, not {way!r}")
    if runs < 6 or runs % 6:
        raise UserError(f"runs must be a multiple of 6, got {runs}")
    reverse = way in ("exact", "truncated")
    tasks = curves(BATCH * runs // 3 if reverse else BATCH, generator)
    fit, pairs = Fit(tasks), runs // 2
    if reverse:
        return bilevel.truncated(fit, fit.steps, fit.steps if way == "exact" else WINDOW)

    def with_choice(outer: Outer, choice: Tensor) -> Tensor:
        return objective(tasks, {}, {variable: choice})

    if way == "relaxed":
        draw = bilevel.gumbel_softmax(variable, temperature=0.5)
        return bilevel.relaxed(draw, with_choice, samples=runs // 3, generator=generator)
    if way == "score_function":
        draw = bilevel.categorical(variable)
        options = {"samples": runs, "generator": generator, "baseline": 0.5}
        return bilevel.score_function(draw, with_choice, **options)
    if ways(variable) == DISCRETE:
        losses = by_hard_choice(variable, tasks, pairs, generator)
        return evolution(losses, sigma=SIGMA["choice"], pairs=pairs, noise=gaussian(generator))
    options = {"sigma": SIGMA["continuous"], "pairs": pairs, "noise": gaussian(generator)}
    if way == "evolution":
        return evolution(torch.func.vmap(lambda η: objective(tasks, η)), **options)
    by_windows = persistent_evolution if way == "persistent_evolution" else truncated_evolution
    return by_windows(SideBySide(fit), fit.steps, WINDOW, **options)


def start(variable: str) -> Outer:
    """Where the outer loop begins: as in ``FIXED``, or an undecided choice."""
    undecided = ways(variable) == DISCRETE
    return {variable: torch.zeros_like(FIXED[variable]) if undecided else FIXED[variable].clone()}


def true_gradient(variable: str, tasks: int = 4_000) -> Tensor:
    """dJ/dη at the start, on many tasks, by differentiation."""
    drawn = curves(tasks, torch.Generator().manual_seed(77))
    point = bilevel.leaves_of(start(variable))
    if ways(variable) == DISCRETE:
        p = point[variable].softmax(-1)
        each = [objective(drawn, {}, {variable: one}).detach() for one in torch.eye(len(p))]
        value = (p * torch.stack(each)).sum()
    else:
        value = objective(drawn, point)
    return bilevel.gradient_at(value, point).gradient[variable]


def errors(variable: str, way: str, runs: int, draws: int, generator: torch.Generator) -> dict[str, float]:
    """At the start, relative to the length of the true gradient: how far the mean of ``draws`` estimates is off, what 95 % of
    such means are off by chance alone, and the spread of one estimate."""
    truth, outer = true_gradient(variable), start(variable)
    found = torch.stack(
        [estimator(variable, way, runs, generator)(outer).gradient[variable].flatten() for _ in range(draws)]
    )
    size = truth.norm()
    spread = found.var(0).sum().sqrt()
    return {
        "off": float((found.mean(0) - truth.flatten()).norm() / size),
        "noise": float(1.96 * spread / draws**0.5 / size),
        "spread": float(spread / size),
    }


def learn(
    variable: str, way: str, runs: int, steps: int, *, lr: float = 0.05, seed: int = 0
) -> Iterator[float]:
    """The outer loop: yields J on 200 tasks that it does not train on, at the start and after every step."""
    generator = torch.Generator().manual_seed(seed)
    test = curves(200, torch.Generator().manual_seed(1_000 + seed))
    outer = start(variable)
    optimizer = torch.optim.Adam(outer.values(), lr=lr)
    yield float(five.expected(variable, outer, test))
    for _ in range(steps):
        bilevel.outer_step(outer, estimator(variable, way, runs, generator), optimizer)
        yield float(five.expected(variable, outer, test))
