"""A learned optimiser: a recurrent network that turns gradients into steps (Andrychowicz et al. 2016).

Greek to Python: φ ``phi`` (weights of the network), θ ``theta`` [T, P] (T problems with P coordinates each), ∇_t ``gradient``,
h_t ``memory``, g_t ``change`` = the output times ``scale``, w_t = 1. One small LSTM serves every coordinate of every problem:
they are the rows of one batch [T·P]. From the official code: two layers of 20 units, a linear output, gradients as inputs that
are not differentiated, losses summed over the points of an unroll of 20 steps, Adam at 0.001 for φ.

Ours: first weights uniform within 1/√units and a forget bias of 1 (the official library's LSTM adds that bias in its formula),
and each problem's own gradient as the input on quadratics, where the official code has the gradient of the mean over 128.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.base import AllReduce, Meta, MetaLearner, State, no_reduce
from mlbook.meta_learners.bilevel import Estimate, outer_step, windows
from mlbook.models.functional import Params
from mlbook.optimizers.optimizees import Optimizee
from mlbook.optimizers.rules import losses


def log_and_sign(gradient: Tensor, p: float) -> Tensor:
    """[n] -> [n, 2]: (log|∇| / p, sgn ∇) where |∇| ≥ e^−p, else (−1, e^p ∇). Appendix A of the paper, p = 10 there."""
    small = math.exp(-p)
    magnitude = gradient.abs().clamp_min(small).log() / p  # [L2L 3] the exponent
    sign = (gradient / small).clamp(-1.0, 1.0)  # [L2L 3] the sign
    return torch.stack([magnitude, sign], -1)


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """x [n, in], h and c [n, units], weight [4·units, in + units] (gates i, f, o and candidate) -> the next h and c."""
    units = h.shape[1]
    z = F.linear(torch.cat([x, h], 1), weight, bias)
    i, f, o = torch.sigmoid(z[:, : 3 * units]).split(units, 1)
    c = f * c + i * torch.tanh(z[:, 3 * units :])
    return o * torch.tanh(c), c


@dataclass(frozen=True)
class CoordinateRule:
    """The network with weights φ as a rule of updating: the same for every coordinate, each with a memory of its own."""

    phi: Params
    layers: int
    scale: float
    p: float | None
    """Of ``log_and_sign``; None hands the gradient over as it is."""

    def fresh(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        units = self.phi["lstm.0.bias"].shape[0] // 4
        zero = theta.new_zeros(theta.numel(), units)
        return [(zero, zero)] * self.layers

    def update(self, gradient: Tensor, memory: list) -> tuple[Tensor, list]:
        flat = gradient.reshape(-1)  # [L2L 3] coordinates of all problems are rows of one batch
        x = flat.unsqueeze(1) if self.p is None else log_and_sign(flat, self.p)
        after = []
        for k, (h, c) in enumerate(memory):
            x, c = lstm_cell(x, h, c, self.phi[f"lstm.{k}.weight"], self.phi[f"lstm.{k}.bias"])  # [L2L 4]
            after.append((x, c))
        out = F.linear(x, self.phi["output.weight"], self.phi["output.bias"])
        return self.scale * out.view_as(gradient), after  # [L2L 4] g_t


@dataclass(frozen=True)
class Unrolled:
    """The inner loop of ``bilevel``: the optimisees under the rule. A state is (θ, memory, f of every problem at θ);
    memory and f are None where they have yet to be made."""

    rule: Callable[[Params], CoordinateRule]
    optimizee: Optimizee
    problems: Any
    second_derivatives: bool = False

    def _see(self, theta: Tensor, t: int) -> Tensor:
        """f of every problem at θ_t as step t sees it (the last point of a run is seen with the last mini-batch)."""
        batches = getattr(self.problems, "batches", None)
        return self.optimizee.loss(
            theta, self.problems, t if batches is None else min(t, batches.shape[1] - 1)
        )

    def start(self) -> tuple:
        theta = self.problems.start
        return theta, None, None

    def step(self, phi: Params, state: tuple, t: int) -> tuple:
        theta, memory, f = state
        rule = self.rule(phi)
        if memory is None:
            memory = rule.fresh(theta)
        if f is None:  # the first point of a window
            theta = theta.requires_grad_()
            f = self._see(theta, t)
        (gradient,) = torch.autograd.grad(  # [L2L 2]
            f.sum(), theta, create_graph=self.second_derivatives, retain_graph=True
        )
        change, memory = rule.update(gradient, memory)
        theta = theta + change  # [L2L 5]
        return theta, memory, self._see(theta, t + 1)

    def loss(self, phi: Params, state: tuple, t: int) -> Tensor:
        return state[2].mean()  # [L2L 6] w_t = 1, mean over problems

    def cut(self, state: tuple) -> tuple:
        theta, memory, _ = state
        memory = None if memory is None else [(h.detach(), c.detach()) for h, c in memory]
        return theta.detach(), memory, None


@dataclass(frozen=True)
class LearnedOptimizer(MetaLearner):
    """Training and use of the network. A meta-step: one run of ``steps`` steps on fresh problems, with an outer step behind every
    ``unroll`` of them (one epoch of the official code)."""

    optimizee: Optimizee
    steps: int = 100
    unroll: int = 20
    units: int = 20
    layers: int = 2
    scale: float = 1.0
    """Of the network's output."""
    p: float | None = None
    """Of the preprocessing (``log_and_sign``), or None for none."""
    second_derivatives: bool = False
    """Whether ∂∇_t/∂φ is kept; the official code drops it."""
    meta_lr: float = 1e-3
    meta_lr_decay: str = "constant"
    metric = "loss"
    logged = ("loss",)
    query_sets = False
    vmappable = True
    inductive = False
    engine = "autograd"
    fast_engine_fits = False

    def __post_init__(self) -> None:
        for name in ("steps", "unroll", "units", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.p is not None and not self.p > 0:
            raise UserError(f"p of the preprocessing must be positive, got {self.p}")
        if self.meta_lr_decay not in ("constant", "cosine"):
            raise UserError(f"meta_lr_decay must be constant or cosine, not {self.meta_lr_decay!r}")

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """φ at random, a fresh Adam."""
        bound, units = 1 / math.sqrt(self.units), self.units

        def draw(*shape: int) -> Tensor:
            return (bound * (2 * torch.rand(shape, generator=generator, device=generator.device) - 1)).to(
                device
            )

        phi, inputs = {}, 1 if self.p is None else 2
        for k in range(self.layers):
            phi[f"lstm.{k}.weight"] = draw(4 * units, inputs + units)
            phi[f"lstm.{k}.bias"] = torch.zeros(4 * units, device=device)
            phi[f"lstm.{k}.bias"][units : 2 * units] = 1.0
            inputs = units
        phi["output.weight"], phi["output.bias"] = draw(1, units), torch.zeros(1, device=device)
        return State({"params": phi}, torch.optim.Adam([phi[n] for n in sorted(phi)], lr=self.meta_lr))

    def rule(self, phi: Params) -> CoordinateRule:
        return CoordinateRule(phi, self.layers, self.scale, self.p)

    def unrolled(self, problems) -> Unrolled:
        return Unrolled(self.rule, self.optimizee, problems, self.second_derivatives)

    def meta_lr_at(self, progress: float) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * progress)) if self.meta_lr_decay == "cosine" else 1.0
        return self.meta_lr * cosine

    def step(
        self, state: State, problems, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        """One run on T problems; φ moves ``steps / unroll`` times. The metric is the mean loss of the points on the way."""
        phi, optimizer, total = state.meta["params"], state.optimizer, 0.0
        for group in optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):  # in a captured graph the rate is on the device
                group["lr"] = self.meta_lr_at(progress)

        def shared(found: Estimate) -> Estimate:
            gradient, metrics = all_reduce({"params": found.gradient}, {"loss": found.value})
            return Estimate(metrics["loss"], gradient["params"])

        for estimate in windows(self.unrolled(problems), self.steps, self.unroll):  # [L2L 1]
            total = total + outer_step(phi, estimate, optimizer, shared)  # [L2L 7]
        return State(state.meta, optimizer, state.meta_step + 1), {"loss": total / self.steps}

    def scores(self, meta: Meta, problems, steps: int, scored: Sequence[int]) -> Tensor:
        """Losses on all data of every problem after the ``scored`` steps: [T, len(scored)]."""
        return losses(self.rule(meta["params"]), self.optimizee, problems, steps)[:, list(scored)]
