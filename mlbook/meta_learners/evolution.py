"""Outer gradients from losses alone: evolution strategies, and persistent ones
for runs that are cut in windows.

Nothing is differentiated. η is moved by σε and by −σε, ε standard normal, and
the difference of the two losses says how steep J is along ε (Salimans et al.
2017, with the antithetic pairs of Vicol et al. 2021):

``evolution``             the whole inner loop for every pair; unbiased for the
                          gradient of the smoothed loss E_ε J(η + σε)
``truncated_evolution``   cut in windows, each from the run of η itself; the
                          bias of truncated backpropagation
``persistent_evolution``  cut in windows, every particle goes on from where it
                          was; no such bias, more variance

All are estimators of ``mlbook.meta_learners.bilevel`` and go into its
``outer_step``. Particles are computed side by side: in a *stack* every tensor
has an axis of particles first. Its first half has the signs +, its second −.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.bilevel import (
    Estimate,
    Estimator,
    Inner,
    InnerState,
    Outer,
    summed,
)

Noise = Callable[[Outer, int], Outer]
"""η and the number n of pairs -> ε: a stack of n."""


def gaussian(generator: torch.Generator) -> Noise:
    """ε standard normal, drawn on the generator's device, tensor after tensor."""

    def normal(of: Tensor, pairs: int) -> Tensor:
        options = {"dtype": of.dtype, "device": generator.device}
        shape = (pairs, *of.shape)
        return torch.randn(shape, generator=generator, **options).to(of.device)

    return lambda outer, pairs: {n: normal(of, pairs) for n, of in outer.items()}


def moved(outer: Outer, epsilon: Outer, sigma: float) -> Outer:
    """η + σε for every pair, then η − σε: a stack of 2n."""
    both = {name: torch.cat([e, -e]) for name, e in epsilon.items()}
    return {name: η.detach() + sigma * both[name] for name, η in outer.items()}


def from_losses(losses: Tensor, directions: Outer, sigma: float) -> Estimate:
    """The mean over n pairs of (J⁺ − J⁻) / 2σ times a direction.

    losses [2n]: at η + σε, then at η − σε. directions: a stack of n.
    """
    up, down = losses.chunk(2)
    slope = (up - down) / (2 * sigma * len(up))
    gradient = {n: torch.tensordot(slope, e, 1) for n, e in directions.items()}
    return Estimate(losses.mean(), gradient)


def check_pairs(sigma: float, pairs: int) -> None:
    """``UserError`` unless σ is positive and there is a pair."""
    if not sigma > 0:
        raise UserError(f"sigma must be positive, got {sigma}")
    if pairs < 1:
        raise UserError(f"pairs must be at least 1, got {pairs}")


def evolution(
    losses: Callable[[Outer], Tensor], *, sigma: float, pairs: int, noise: Noise
) -> Estimator:
    """Antithetic evolution strategies on J.

    losses: a stack of 2n η -> [2n]; of a function J of one η they are
    ``torch.func.vmap(J)`` or, where it cannot be mapped, ``one_by_one(J)``.
    What J draws at random must be the same for both halves of a pair. Raises
    ``UserError`` where σ is not positive or there is no pair.
    """
    check_pairs(sigma, pairs)

    @torch.no_grad()
    def estimate(outer: Outer) -> Estimate:
        epsilon = noise(outer, pairs)  # [ES 1] ε ~ N(0, I)
        found = losses(moved(outer, epsilon, sigma))  # [ES 2] J(η ± σε)
        return from_losses(found, epsilon, sigma)  # [ES 3]

    return estimate


def one_by_one(loss: Callable[[Outer], Any]) -> Callable[[Outer], Tensor]:
    """``loss`` of one η for a stack, one after the other."""

    def losses(stack: Outer) -> Tensor:
        n = len(next(iter(stack.values())))
        each = [loss({k: t[i] for k, t in stack.items()}) for i in range(n)]
        return torch.stack([torch.as_tensor(value) for value in each])

    return losses


# -- windows ---------------------------------------------------------------------


class Particles(Protocol):
    """Many runs of an inner loop side by side, each with an η of its own. η and
    the state are stacks."""

    def start(self) -> InnerState:
        """A stack of one state for all particles, or of one for each pair (where
        pairs have problems of their own)."""

    def step(self, outer: Outer, state: InnerState, t: int) -> InnerState:
        """The states after step t + 1."""

    def losses(self, outer: Outer, state: InnerState, t: int) -> Tensor:
        """w_t f(θ_t) of every particle: [n]."""


def mapped(change: Callable[[Tensor], Any], state: InnerState) -> InnerState:
    """A state with every tensor changed: tuples, lists and dicts of tensors, or
    None for a state that has yet to be made."""
    if isinstance(state, (tuple, list)):
        parts = [mapped(change, part) for part in state]
        return state._make(parts) if hasattr(state, "_make") else type(state)(parts)
    if isinstance(state, dict):
        return {name: mapped(change, part) for name, part in state.items()}
    return state if state is None else change(state)


def enlarged(stack: Any, n: int) -> Any:
    """A stack of 1 or n as a stack of n."""
    return mapped(lambda part: part.expand(n, *part.shape[1:]), stack)


@dataclass(frozen=True)
class SideBySide:
    """An inner loop of ``bilevel`` as ``Particles``, mapped by ``vmap``; so its
    steps must not call ``torch.autograd``."""

    inner: Inner

    def start(self) -> InnerState:
        return mapped(lambda part: part[None], self.inner.start())

    def over(self, function: Callable, outer: Outer, state: InnerState, t: int):
        axes = (0, mapped(lambda _: 0, state), None)
        return torch.func.vmap(function, axes)(outer, state, t)

    def step(self, outer: Outer, state: InnerState, t: int) -> InnerState:
        return self.over(self.inner.step, outer, state, t)

    def losses(self, outer: Outer, state: InnerState, t: int) -> Tensor:
        return self.over(self.inner.loss, outer, state, t)


def size(state: InnerState) -> int:
    """Particles in a stack; 1 before it has been made."""
    while isinstance(state, (tuple, list)):
        state = state[0]
    return 1 if state is None else len(state)


def through_window(
    particles: Particles, stack: Outer, state: InnerState, first: int, last: int
) -> tuple[Tensor, InnerState]:
    """The losses [n] of steps ``first`` to ``last`` − 1, summed, and the states
    after them."""
    total = 0.0
    for t in range(first, last):
        state = particles.step(stack, state, t)  # [PES 2]
        total = total + particles.losses(stack, state, t + 1)
    return total, state


def evolution_windows(
    particles: Particles,
    steps: int,
    window: int,
    *,
    sigma: float,
    pairs: int,
    noise: Noise,
    persistent: bool,
) -> Iterator[Estimator]:
    """One run of the inner loop as estimators for t = 1..window, window +
    1..2·window, …, to be called in this order, as ``bilevel.windows``. η may
    move between two of them.

    persistent: every particle goes on from its own state, and a loss is
        credited to the sum ξ of all ε that led to it (PES, Vicol et al. 2021).
        Otherwise the window starts all particles from the run of η itself, and
        its loss is credited to its own ε (truncated ES).

    Raises ``UserError`` as ``evolution`` and ``bilevel.windows``.
    """
    check_pairs(sigma, pairs)
    if steps < 1 or window < 1:
        wrong = f"got {steps} and {window}"
        raise UserError(f"steps and window must be at least 1, {wrong}")
    kept, xi = particles.start(), {}  # of the particles, or of η's own run

    def both_signs() -> InnerState:
        return mapped(lambda part: torch.cat([part, part]), enlarged(kept, pairs))

    for first in range(0, steps, window):
        last = min(first + window, steps)

        @torch.no_grad()
        def estimate(
            outer: Outer, first: int = first, last: int = last
        ) -> Estimate:
            nonlocal kept, xi
            epsilon = noise(outer, pairs)  # [PES 1] ε ~ N(0, I)
            stack = moved(outer, epsilon, sigma)
            state = kept if persistent and first else both_signs()
            found, state = through_window(particles, stack, state, first, last)
            if persistent:
                kept = state  # each particle's own
                xi = {n: xi.get(n, 0) + e for n, e in epsilon.items()}  # [PES 3]
            else:
                still = {n: t.detach()[None] for n, t in outer.items()}
                own = enlarged(still, size(kept))
                _, kept = through_window(particles, own, kept, first, last)
                xi = epsilon
            return from_losses(found, xi, sigma)  # [PES 4]

        yield estimate


def persistent_evolution(
    particles: Particles, steps: int, window: int, **options
) -> Estimator:
    """dJ/dη at one η by PES: the sum over the windows of one run. options and
    errors as in ``evolution_windows``."""
    return summed(
        lambda: evolution_windows(
            particles, steps, window, persistent=True, **options
        )
    )


def truncated_evolution(
    particles: Particles, steps: int, window: int, **options
) -> Estimator:
    """The same by truncated ES."""
    return summed(
        lambda: evolution_windows(
            particles, steps, window, persistent=False, **options
        )
    )
