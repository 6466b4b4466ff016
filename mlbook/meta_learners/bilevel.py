"""One bilevel problem, many outer variables: the outer loop, and the ways to its gradient.

An outer variable η (an initialisation, a learning rate, an optimiser's weights, the probabilities of augmentations or of
architectures) is judged by what an inner loop makes of it: J(η) = E[Σ_t w_t f(θ_t)], θ_{t+1} = step(η, θ_t). The outer loop is
always the same (``outer_step``); what differs is the estimate of dJ/dη:

``exact``           differentiate through the whole inner loop                          unbiased
``truncated``       cut the graph of the loop every ``window`` steps                    biased, memory O(window)
``relaxed``         a discrete choice becomes a soft one that can be differentiated     biased, little variance
``score_function``  (f − b) ∇ log p of the choice drawn; f need not be differentiable   unbiased, much variance
``evolution``       differences of J at η ± σε; nothing is differentiated (``evolution.py``)

An estimator is a function η -> (value, gradient). η is a dict of tensors.

Derivatives are taken by ``torch.autograd`` (``gradient_at``), outside of any ``vmap`` that the inner loop contains. In this order
second derivatives through torch's own normalisation layers are silently wrong (``mlbook.models.batch_norm``). An inner loop on
such a network should give its estimate by ``vmap(grad(...))``, as ``mlbook.architecture`` does, and leave the rest to ``move``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.base import AllReduce

Outer = dict[str, Tensor]
"""The outer variable η by name."""
InnerState = Any
"""What an inner loop carries from step to step; only the problem itself looks
inside."""


class Estimate(NamedTuple):
    """J, or the part of it that was looked at, and an estimate of dJ/dη."""

    value: Tensor
    """A number, without a graph."""
    gradient: Outer
    """In the structure of η."""


Estimator = Callable[[Outer], Estimate]
Combine = Callable[[Estimate], Estimate]
"""What becomes of an estimate before it is used: a clip, say, or a mean over
processes."""


def outer_step(
    outer: Outer,
    estimate: Estimator,
    optimizer: torch.optim.Optimizer,
    combine: Combine = lambda found: found,
) -> Tensor:
    """One step of the outer loop: estimate dJ/dη, then move η in place. Returns
    J as it was estimated.

    optimizer: holds the tensors of ``outer``. combine: see ``Combine``.
    """
    found = combine(estimate(outer))  # [OUTER 1] value and gradient at η
    return move(outer, found, optimizer)


def move(outer: Outer, found: Estimate, optimizer: torch.optim.Optimizer) -> Tensor:
    """Move η in place by an estimate that has been made. Returns its value.
    Other tensors of the optimiser stay."""
    for name, tensor in outer.items():
        tensor.grad = found.gradient[name].to(tensor.dtype)
    optimizer.step()  # [OUTER 2] η moves
    for tensor in outer.values():
        tensor.grad = None
    return found.value


def over_processes(all_reduce: AllReduce) -> Combine:
    """Value and gradient become their means over all processes; ``all_reduce``
    as a meta-learner's ``step`` gets it."""

    def combine(found: Estimate) -> Estimate:
        gradient, metrics = all_reduce(
            {"params": found.gradient}, {"loss": found.value}
        )
        return Estimate(metrics["loss"], gradient["params"])

    return combine


class Inner(Protocol):
    """An inner loop, one step at a time."""

    def start(self) -> InnerState:
        """θ_0, and whatever else the loop remembers."""

    def step(self, outer: Outer, state: InnerState, t: int) -> InnerState:
        """The state after step t + 1; differentiable in ``outer`` and in
        ``state``."""

    def loss(self, outer: Outer, state: InnerState, t: int) -> Tensor:
        """w_t f(θ_t), a number: what the state after t steps adds to J."""

    def cut(self, state: InnerState) -> InnerState:
        """The same state without its past: no derivative flows to earlier
        steps."""


def leaves_of(outer: Outer) -> Outer:
    """Copies of η without a past, for derivatives to be taken at."""
    return {
        name: tensor.detach().requires_grad_() for name, tensor in outer.items()
    }


def gradient_at(
    value: Tensor, point: Outer, *, create_graph: bool = False
) -> Estimate:
    """``value``, a number, with its gradient in ``point`` by reverse-mode
    differentiation; zeros where it does not depend on a tensor. create_graph:
    the gradient can be differentiated again."""
    tensors = list(point.values())
    options = {
        "create_graph": create_graph,
        "allow_unused": True,
        "materialize_grads": True,
    }
    found = torch.autograd.grad(value, tensors, **options)
    return Estimate(value.detach(), dict(zip(point, found, strict=True)))


def gradient_of(function: Callable[[Outer], Tensor], outer: Outer) -> Estimate:
    """Value and gradient of a function η -> number, as ``gradient_at`` has
    them."""
    point = leaves_of(outer)
    return gradient_at(function(point), point)


def through_window(
    inner: Inner, outer: Outer, state: InnerState, first: int, last: int
) -> tuple[Estimate, InnerState]:
    """What steps ``first`` to ``last`` − 1 of an inner loop add to J and to
    dJ/dη, and the state after them.

    No derivative flows to the steps before, and none will flow back to these.
    """
    point, now, total = leaves_of(outer), inner.cut(state), 0.0
    for t in range(first, last):
        now = inner.step(point, now, t)  # [BILEVEL 1] kept on the graph
        total = total + inner.loss(point, now, t + 1)  # [BILEVEL 2] Σ w_t f(θ_t)
    return gradient_at(total, point), inner.cut(now)  # [BILEVEL 3]


def windows(inner: Inner, steps: int, window: int) -> Iterator[Estimator]:
    """One run of the inner loop as estimators for t = 1..window, window +
    1..2·window, …, to be called in this order.

    The state goes on from one to the next, its past does not. Between two of
    them η may have moved: that is how a learned optimiser is trained (truncated
    backpropagation through time). Raises ``UserError`` where steps or window
    are below 1.
    """
    if steps < 1 or window < 1:
        wrong = f"got {steps} and {window}"
        raise UserError(f"steps and window must be at least 1, {wrong}")
    state = inner.start()
    for first in range(0, steps, window):

        def estimate(outer: Outer, first: int = first) -> Estimate:
            nonlocal state
            last = min(first + window, steps)
            found, state = through_window(inner, outer, state, first, last)
            return found

        yield estimate


def summed(parts: Callable[[], Iterable[Estimator]]) -> Estimator:
    """The sum of the estimates of one run, all at one η. parts: begins a run, as
    ``windows`` does."""

    def estimate(outer: Outer) -> Estimate:
        value, gradient = (
            0.0,
            {name: torch.zeros_like(t) for name, t in outer.items()},
        )
        for part in parts():
            found = part(outer)
            value = value + found.value
            gradient = {
                name: g + found.gradient[name] for name, g in gradient.items()
            }
        return Estimate(value, gradient)

    return estimate


def truncated(inner: Inner, steps: int, window: int) -> Estimator:
    """dJ/dη at one η, each loss differentiated back to the beginning of its
    window only. Errors as in ``windows``."""
    return summed(lambda: windows(inner, steps, window))


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
    """The mean of d/dη of ``loss(η, draw(η, generator))`` over ``samples`` soft
    choices, through which derivatives flow.

    Biased: a mixture of two options is not one of them, and even where the loss
        is linear the mean of a soft choice is not the probability of the hard
        one (it comes close as the temperature falls).
    """

    def estimate(outer: Outer) -> Estimate:
        point = leaves_of(outer)
        value = (
            sum(loss(point, draw(point, generator)) for _ in range(samples))
            / samples
        )
        return gradient_at(value, point)

    return estimate


def score_function(
    draw: Callable[[Outer, torch.Generator], tuple[Any, Tensor]],
    reward_or_loss: Callable[[Outer, Any], Tensor],
    *,
    samples: int,
    generator: torch.Generator,
    baseline: Tensor | float = 0.0,
) -> Estimator:
    """The mean of (f − b) ∇ log p over ``samples`` choices: REINFORCE (Williams
    1992).

    draw: η and a generator -> a choice and its log-probability, differentiable
        in η. reward_or_loss: f of a choice, a number; where it depends on η
        besides the choice, that is not differentiated. baseline b: anything
        that does not depend on the choice; it changes the variance and not the
        mean.
    """

    def estimate(outer: Outer) -> Estimate:
        point, surrogate, values = leaves_of(outer), 0.0, []
        for _ in range(samples):
            choice, log_probability = draw(point, generator)
            with torch.no_grad():
                values.append(torch.as_tensor(reward_or_loss(outer, choice)))
            surrogate = surrogate + (values[-1] - baseline) * log_probability
        gradient = gradient_at(surrogate / samples, point).gradient
        return Estimate(torch.stack(values).mean(), gradient)

    return estimate


def categorical(
    name: str,
) -> Callable[[Outer, torch.Generator], tuple[Tensor, Tensor]]:
    """For ``score_function``: one-hot choices [..., K] drawn by the logits
    η[name] [..., K], and their summed log-probability."""

    def draw(outer: Outer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        log_p = outer[name].log_softmax(-1)
        rows = log_p.detach().exp().reshape(-1, log_p.shape[-1])
        index = torch.multinomial(rows, 1, generator=generator)
        choice = torch.zeros_like(rows).scatter_(1, index, 1.0).reshape(log_p.shape)
        return choice, (choice * log_p).sum()

    return draw


def gumbel_softmax(
    name: str, temperature: float
) -> Callable[[Outer, torch.Generator], Tensor]:
    """For ``relaxed``: softmax((η[name] + Gumbel noise) / temperature), which
    becomes one-hot as the temperature falls (Jang et al. 2017). Raises
    ``UserError`` for a temperature that is not positive."""
    if not temperature > 0:
        raise UserError(f"the temperature must be positive, got {temperature}")

    def draw(outer: Outer, generator: torch.Generator) -> Tensor:
        logits = outer[name]
        uniform = torch.rand(
            logits.shape,
            generator=generator,
            dtype=logits.dtype,
            device=logits.device,
        )
        tiny = torch.finfo(logits.dtype).tiny
        noise = -(-(uniform.clamp_min(tiny).log())).clamp_min(tiny).log()
        return ((logits + noise) / temperature).softmax(-1)

    return draw
