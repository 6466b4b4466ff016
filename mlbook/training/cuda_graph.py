"""A whole meta-step as one CUDA graph: sampling, inner loop, outer loss, backward pass and optimiser in a single launch.

A meta-step of a small network is hundreds to thousands of small kernels, and starting them one by one can take longer than
running them. A graph records them once and starts them together. What it reads and writes has to stay where it was: parameters
and moments are updated in place, the outer rate is a tensor, and random numbers come from a generator that the graph knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.base import MetaLearner, State

Step = Callable[[State, float], tuple[State, dict[str, Tensor]]]

WARM_UP = 3
"""Meta-steps that run as they are before the recording, so that libraries and the optimiser have set themselves up. They are
steps of the training like all others."""


def can_capture(state: State) -> bool:
    """Whether this optimiser can read its rate from the device's memory."""
    return isinstance(state.optimizer, torch.optim.Adam)


def rates_on_device(state: State) -> list[Tensor]:
    """Turn the optimiser's rates and step counts into tensors beside the parameters; returns the rates."""
    rates = []
    for group in state.optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = torch.full((), float(group["lr"]), device=device)
        group["capturable"] = True
        rates.append(group["lr"])
        for p in group["params"]:
            moments = state.optimizer.state.get(p)
            if moments:
                moments["step"] = torch.full((), float(moments["step"]), device=device)
    return rates


class CapturedStep:
    """``step`` after the third call as one graph launch; called like it.

    step: (state, progress) -> (state, metrics); it must update the tensors of ``state`` in place and draw random numbers from
    ``generator`` only. The metrics of a call are overwritten by the next one. Raises ``UserError`` where the recording fails.
    """

    failure: ClassVar[str | None] = None
    """Why a recording failed in this process. CUDA may then be in a state in which nothing works: there is no second attempt."""

    def __init__(self, step: Step, learner: MetaLearner, state: State, generator: torch.Generator) -> None:
        if CapturedStep.failure is not None:
            raise UserError(refusal(CapturedStep.failure))
        self.step, self.learner, self.generator = step, learner, generator
        self.rates = rates_on_device(state)
        self.stream = torch.cuda.Stream()
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.metrics: dict[str, Tensor] = {}

    def __call__(self, state: State, progress: float) -> tuple[State, dict[str, Tensor]]:
        for rate in self.rates:
            rate.fill_(self.learner.meta_lr_at(progress))
        self.calls += 1
        if self.calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                state, metrics = self.step(state, progress)
            torch.cuda.current_stream().wait_stream(self.stream)
            return state, metrics
        if self.graph is None:
            self.graph = self._record(state)
        self.graph.replay()
        return replace(state, meta_step=state.meta_step + 1), self.metrics

    def _record(self, state: State) -> torch.cuda.CUDAGraph:
        try:
            graph = torch.cuda.CUDAGraph()
            if torch.__version__ < (2, 14):  # later versions know of every generator that is used
                graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph):  # takes down what would run; nothing is computed
                _, self.metrics = self.step(state, 0.0)
        except Exception as error:
            CapturedStep.failure = first_cause(error)
            raise UserError(refusal(CapturedStep.failure)) from None
        return graph


def first_cause(error: BaseException) -> str:
    """One line about what went wrong first: an error within a recording makes its end fail as well, with a message of its own."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def refusal(reason: str) -> str:
    """What the user is told."""
    return f"the meta-step could not be recorded as a CUDA graph ({reason}); start again with --no-graph"
