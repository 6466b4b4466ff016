"""One bilevel problem, five outer variables. They differ in the way to the outer gradient, and in nothing else.

Tasks: odd curves y = A sin x + B sin 2x seen at a few noisy points. Inner loop: gradient descent on a model that is linear in
features of x. Any of five things may be the outer variable η; the others stay as they are in ``FIXED``:

``initialisation``  θ_0                                        exact
``rate``            log α                                      exact
``optimiser``       log rate and momentum (as a logit)         truncated
``augmentation``    logits of what is done to copied points    relaxed
``architecture``    logits of the kind of features             score_function
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.meta_learners.bilevel import Estimator, Outer

FEATURES = 6
KINDS = ("powers", "waves", "bumps")
COPIES = ("as it is", "turned about the origin", "mirrored")
SIGNS = ((1.0, 1.0), (-1.0, -1.0), (-1.0, 1.0))
"""What a copy does to x and to y. The curves are odd: turned about the origin they stay themselves, mirrored they do not."""
FIXED: Outer = {
    "initialisation": torch.zeros(FEATURES),
    "rate": torch.tensor(math.log(0.1)),
    "optimiser": torch.tensor([0.0, -3.0]),
    "augmentation": torch.tensor([1.0, 0.0, 0.0]),
    "architecture": torch.tensor([1.0, 0.0, 0.0]),
}
"""What holds for everything that is not the outer variable. For the two choices it is the choice itself, not its logits."""
ESTIMATES = {
    "initialisation": "exact",
    "rate": "exact",
    "optimiser": "truncated",
    "augmentation": "relaxed",
    "architecture": "score_function",
}


class Curves(NamedTuple):
    """T tasks; x and y [T, points]."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


def curves(n_tasks: int, generator: torch.Generator, points: int = 5, noise: float = 0.1) -> Curves:
    """A and B are normal around 1 and 0.5. Each task has ``points`` noisy support points and 20 query points without noise."""
    A = 1 + 0.5 * torch.randn(n_tasks, 1, generator=generator)
    B = 0.5 + 0.5 * torch.randn(n_tasks, 1, generator=generator)

    def seen(n: int, spread: float) -> tuple[Tensor, Tensor]:
        x = math.pi * (2 * torch.rand(n_tasks, n, generator=generator) - 1)
        return x, A * x.sin() + B * (2 * x).sin() + spread * torch.randn(n_tasks, n, generator=generator)

    return Curves(*seen(points, noise), *seen(20, 0.0))


def features(x: Tensor) -> Tensor:
    """x [...] -> [..., kinds, FEATURES]: powers of x/π, sines and cosines, six bumps."""
    z, k = x.unsqueeze(-1), torch.arange(FEATURES)
    waves = torch.cat([torch.sin((1 + k[:3]) * z), torch.cos(k[:3] * z)], -1)
    bumps = torch.exp(-2 * (z - math.pi * (2 * k / (FEATURES - 1) - 1)).square())
    return torch.stack([(z / math.pi) ** k, waves, bumps], -2)


@dataclass(frozen=True)
class Fit:
    """The inner loop on a batch of tasks. A state is (θ, velocity) [T, FEATURES], or None before the first step."""

    tasks: Curves
    steps: int = 10
    drawn: Outer = field(default_factory=dict)
    """Choices that have been made, by name; soft or hard."""

    def seen(self, x: Tensor) -> Tensor:
        """Points x [T, n] -> the features that the architecture computes of them, [T, n, FEATURES]."""
        kind = {**FIXED, **self.drawn}["architecture"]
        return (features(x) * kind[:, None]).sum(-2)

    @cached_property
    def support(self) -> tuple[Tensor, Tensor]:
        """The points, then three copies of them: features [T, 4n, FEATURES] and targets [T, 4n]."""
        x, y = self.tasks.support_x, self.tasks.support_y
        copies = [(self.seen(a * x), b * y) for a, b in ((1.0, 1.0), *SIGNS)]
        return tuple(torch.cat(part, 1) for part in zip(*copies, strict=True))

    @cached_property
    def query(self) -> Tensor:
        """Features of the query points, [T, 20, FEATURES]."""
        return self.seen(self.tasks.query_x)

    def start(self) -> None:
        return None

    def step(self, outer: Outer, state: tuple[Tensor, Tensor] | None, t: int) -> tuple[Tensor, Tensor]:
        η = {**FIXED, **outer, **self.drawn}
        (phi, y), n = self.support, self.tasks.support_x.shape[1]
        if state is None:  # the start may be what is learned
            theta = η["initialisation"].expand(len(phi), -1)
            state = theta, torch.zeros_like(theta)
        theta, velocity = state
        weights = torch.cat([torch.ones(1), η["augmentation"]]).repeat_interleave(n)
        residual = (phi @ theta.unsqueeze(-1)).squeeze(-1) - y
        gradient = ((weights * residual).unsqueeze(1) @ phi).squeeze(1) / n
        velocity = η["optimiser"][1].sigmoid() * velocity + gradient
        return theta - (η["rate"] + η["optimiser"][0]).exp() * velocity, velocity

    def loss(self, outer: Outer, state: tuple[Tensor, Tensor], t: int) -> Tensor:
        """What step t adds to J, the mean of the query losses after all steps."""
        found = (self.query @ state[0].unsqueeze(-1)).squeeze(-1)
        return (found - self.tasks.query_y).square().mean() / self.steps

    def cut(self, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
        return None if state is None else tuple(part.detach() for part in state)


def objective(tasks: Curves, outer: Outer, drawn: Outer | None = None) -> Tensor:
    """J, a number: of a run with these choices."""
    fit, state, total = Fit(tasks, drawn=drawn or {}), None, torch.zeros(())
    for t in range(fit.steps):
        state = fit.step(outer, state, t)
        total = total + fit.loss(outer, state, t + 1)
    return total


def estimator(
    variable: str,
    tasks: Curves,
    generator: torch.Generator,
) -> Estimator:
    """The way to dJ/dη that belongs to this outer variable. Raises ``UserError`` for an unknown one."""
    if variable not in ESTIMATES:
        message = f"the outer variable must be one of {', '.join(ESTIMATES)}"
        raise UserError(f"{message}, not {variable!r}")
    fit = Fit(tasks)
    if ESTIMATES[variable] == "exact":
        return bilevel.exact(fit, fit.steps)
    if ESTIMATES[variable] == "truncated":
        return bilevel.truncated(fit, fit.steps, window=5)

    def with_choice(outer: Outer, choice: Tensor) -> Tensor:
        return objective(tasks, {}, {variable: choice})

    if ESTIMATES[variable] == "relaxed":
        draw = bilevel.gumbel_softmax(variable, temperature=0.5)
        options = {"samples": 2, "generator": generator}
        return bilevel.relaxed(draw, with_choice, **options)
    draw = bilevel.categorical(variable)
    options = {"samples": 4, "generator": generator, "baseline": 0.5}
    return bilevel.score_function(draw, with_choice, **options)


def expected(variable: str, outer: Outer, tasks: Curves) -> Tensor:
    """J at η, without a graph. For a choice it is the mean over the options, weighted by their probabilities."""
    if ESTIMATES[variable] in ("exact", "truncated"):
        return objective(tasks, outer).detach()
    p = outer[variable].softmax(-1)
    each = [objective(tasks, {}, {variable: one}).detach() for one in torch.eye(len(p))]
    return (p * torch.stack(each)).sum()


def learn(
    variable: str,
    steps: int,
    *,
    lr: float = 0.05,
    seed: int = 0,
) -> Iterator[tuple[float, Outer]]:
    """The outer loop, the same for all five: yields J on tasks that it does not train on, and η, at the start and after every
    step. Choices start undecided, everything else as in ``FIXED``."""
    generator = torch.Generator().manual_seed(seed)
    test = curves(200, torch.Generator().manual_seed(1_000 + seed))
    outer = {variable: FIXED[variable].clone()}
    if ESTIMATES[variable] in ("relaxed", "score_function"):
        outer = {variable: torch.zeros_like(FIXED[variable])}
    optimizer = torch.optim.Adam(outer.values(), lr=lr)
    yield float(expected(variable, outer, test)), outer
    for _ in range(steps):
        estimate = estimator(variable, curves(32, generator), generator)
        bilevel.outer_step(outer, estimate, optimizer)  # one line for all
        yield float(expected(variable, outer, test)), outer
