"""One bilevel problem, many outer variables: the outer loop, and four ways to its gradient.

An outer variable η (an initialisation, a learning rate, an optimiser's weights, the probabilities of augmentations or of
architectures) is judged by what an inner loop makes of it: J(η) = E[Σ_t w_t f(θ_t)], θ_{t+1} = step(η, θ_t). The outer loop is
always the same (``outer_step``); what differs is the estimate of dJ/dη:

``exact``           differentiate through the whole inner loop                          unbiased
``truncated``       cut the graph of the loop every ``window`` steps                    biased, memory O(window)
``relaxed``         a discrete choice becomes a soft one that can be differentiated     biased, little variance
``score_function``  (f − b) ∇ log p of the choice drawn; f need not be differentiable   unbiased, much variance

An estimate is a function η -> (value, gradient). η is a dict of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mlbook.errors import UserError

Outer = dict[str, Tensor]
"""The outer variable η by name."""
State = Any
"""What an inner loop carries from step to step; only the problem itself looks inside."""


class Estimate(NamedTuple):
    """J (or the part of it that was looked at) and an estimate of dJ/dη, in the structure of η."""

    value: Tensor
    gradient: Outer


Estimator = Callable[[Outer], Estimate]


def outer_step(
    outer: Outer,
    estimate: Estimator,
    optimizer: torch.optim.Optimizer,
    combine: Callable[[Estimate], Estimate] = lambda found: found,
) -> Tensor:
    """One step of the outer loop: estimate dJ/dη, let ``optimizer`` (which holds the tensors of ``outer``) move η in place.

    combine: what becomes of the estimate before it is used (a clip, a mean over processes). Returns J as it was estimated.
    """
    found = combine(estimate(outer))  # [OUTER 1] value and gradient at η
    for name, tensor in outer.items():
        tensor.grad = found.gradient[name].to(tensor.dtype)
    optimizer.step()  # [OUTER 2] η moves
    for tensor in outer.values():
        tensor.grad = None
    return found.value


class Inner(Protocol):
    """An inner loop, one step at a time."""

    def start(self) -> State:
        """θ_0, and whatever else the loop remembers."""

    def step(self, outer: Outer, state: State, t: int) -> State:
        """The state after step t + 1; differentiable in ``outer`` and in ``state``."""

    def loss(self, outer: Outer, state: State, t: int) -> Tensor:
        """w_t f(θ_t), a scalar: what the state after t steps adds to J."""

    def cut(self, state: State) -> State:
        """The same state without its past: no derivative flows to earlier steps."""


def gradient_of(function: Callable[[Outer], Tensor], outer: Outer) -> Estimate:
    """Value and gradient of a scalar function by reverse-mode differentiation; entries it does not depend on get zeros."""
    point = {name: tensor.detach().requires_grad_() for name, tensor in outer.items()}
    value = function(point)
    found = torch.autograd.grad(value, list(point.values()), allow_unused=True, materialize_grads=True)
    return Estimate(value.detach(), dict(zip(point, found, strict=True)))


def windows(inner: Inner, steps: int, window: int) -> Iterator[Estimator]:
    """Estimators for t = 1..window, window + 1..2·window, … of one run of the inner loop, to be called in this order.

    Each unrolls its own window only; the state lives on from one to the next, its past does not. Between two of them η may have
    moved: that is how a learned optimiser is trained (truncated backpropagation through time).
    """
    if steps < 1 or window < 1:
        raise UserError(f"steps and window must be at least 1, got {steps} and {window}")
    carried = inner.start()
    for first in range(0, steps, window):

        def estimate(outer: Outer, first: int = first) -> Estimate:
            nonlocal carried
            last = None

            def unrolled(point: Outer) -> Tensor:
                nonlocal last
                state, total = inner.cut(carried), 0.0
                for t in range(first, min(first + window, steps)):
                    state = inner.step(point, state, t)  # [BILEVEL 1] the inner loop, on the graph
                    total = total + inner.loss(point, state, t + 1)  # [BILEVEL 2] Σ w_t f(θ_t)
                last = state
                return total

            found = gradient_of(unrolled, outer)  # [BILEVEL 3] backwards through this window
            carried = inner.cut(last)
            return found

        yield estimate


def truncated(inner: Inner, steps: int, window: int) -> Estimator:
    """dJ/dη at one η, each loss differentiated back to the beginning of its window only."""

    def estimate(outer: Outer) -> Estimate:
        value, gradient = 0.0, {name: torch.zeros_like(t) for name, t in outer.items()}
        for part in windows(inner, steps, window):
            found = part(outer)
            value = value + found.value
            gradient = {name: g + found.gradient[name] for name, g in gradient.items()}
        return Estimate(value, gradient)

    return estimate


def exact(inner: Inner, steps: int) -> Estimator:
    """dJ/dη through the whole inner loop; memory grows with ``steps``."""
    return truncated(inner, steps, steps)


# -- choices -----------------------------------------------------------------------------------------------------------


def relaxed(
    draw: Callable[[Outer, torch.Generator], Any],
    loss: Callable[[Outer, Any], Tensor],
    *,
    samples: int,
    generator: torch.Generator,
) -> Estimator:
    """The mean of d/dη of ``loss(η, draw(η, generator))`` over ``samples`` soft choices, through which derivatives flow.

    Biased: a mixture of two options is not one of them, and even where the loss is linear the mean of a soft choice is not the
    probability of the hard one (it comes close as the temperature falls).
    """

    def estimate(outer: Outer) -> Estimate:
        def mean(point: Outer) -> Tensor:
            return sum(loss(point, draw(point, generator)) for _ in range(samples)) / samples

        return gradient_of(mean, outer)

    return estimate


def score_function(
    draw: Callable[[Outer, torch.Generator], tuple[Any, Tensor]],
    reward_or_loss: Callable[[Outer, Any], Tensor],
    *,
    samples: int,
    generator: torch.Generator,
    baseline: Tensor | float = 0.0,
) -> Estimator:
    """The mean of (f − b) ∇ log p over ``samples`` choices: REINFORCE (Williams 1992).

    draw: η and a generator -> a choice and its log-probability, differentiable in η. reward_or_loss: f of a choice, a number;
    what it depends on in η besides the choice is not differentiated. baseline b: anything that does not depend on the choice;
    it changes the variance and not the mean.
    """

    def estimate(outer: Outer) -> Estimate:
        values = []

        def surrogate(point: Outer) -> Tensor:
            total = 0.0
            for _ in range(samples):
                choice, log_probability = draw(point, generator)
                with torch.no_grad():
                    values.append(torch.as_tensor(reward_or_loss(outer, choice)))
                total = total + (values[-1] - baseline) * log_probability
            return total / samples

        gradient = gradient_of(surrogate, outer).gradient
        return Estimate(torch.stack(values).mean(), gradient)

    return estimate


def categorical(name: str) -> Callable[[Outer, torch.Generator], tuple[Tensor, Tensor]]:
    """For ``score_function``: one-hot choices [..., K] drawn by the logits η[name] [..., K], and their summed log-probability."""

    def draw(outer: Outer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        log_p = outer[name].log_softmax(-1)
        rows = log_p.detach().exp().reshape(-1, log_p.shape[-1])
        index = torch.multinomial(rows, 1, generator=generator)
        choice = torch.zeros_like(rows).scatter_(1, index, 1.0).reshape(log_p.shape)
        return choice, (choice * log_p).sum()

    return draw


def gumbel_softmax(name: str, temperature: float) -> Callable[[Outer, torch.Generator], Tensor]:
    """For ``relaxed``: softmax((η[name] + Gumbel noise) / temperature), one-hot as temperature → 0. Jang et al. (2017)."""
    if not temperature > 0:
        raise UserError(f"the temperature must be positive, got {temperature}")

    def draw(outer: Outer, generator: torch.Generator) -> Tensor:
        logits = outer[name]
        uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype, device=logits.device)
        tiny = torch.finfo(logits.dtype).tiny
        noise = -(-(uniform.clamp_min(tiny).log())).clamp_min(tiny).log()
        return ((logits + noise) / temperature).softmax(-1)

    return draw
