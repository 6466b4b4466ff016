"""A learned optimiser: a recurrent network that turns gradients into steps (Andrychowicz et al. 2016).

Greek to Python: φ ``phi`` (weights of the network), θ ``theta`` [T, P] (T problems with P coordinates each), ∇_t ``gradient``,
h_t ``memory``, g_t ``change`` = the output times ``scale``, w_t = 1. One small LSTM serves every coordinate of every problem:
these are the rows of one batch [T·P]. As in the official code: two layers of 20 units, a linear output, gradients as inputs
that are not differentiated, losses summed over the points of an unroll of 20 steps, Adam at 0.001 for φ.

Our own choices: first weights uniform within 1/√units and a forget bias of 1 (the LSTM of the official library adds that bias
in its formula), and on quadratics each problem's own gradient as the input, where the official code takes the gradient of the
mean over 128.
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
from mlbook.meta_learners.base import AllReduce, Meta, MetaLearner, State, cosine, no_reduce
from mlbook.meta_learners.bilevel import outer_step, over_processes, windows
from mlbook.models.functional import Params
from mlbook.optimizers.optimizees import Optimizee
from mlbook.optimizers.rules import losses


def log_and_sign(gradient: Tensor, p: float) -> Tensor:
    """[n] -> [n, 2]: (log|∇| / p, sgn ∇) where |∇| ≥ e^−p, else (−1, e^p ∇). Appendix A of the paper, p = 10 there."""
    small = math.exp(-p)
    size = gradient.abs().clamp_min(small)
    magnitude = size.log() / p  # [L2L 3] the exponent
    sign = (gradient / small).clamp(-1.0, 1.0)  # [L2L 3] the sign
    return torch.stack([magnitude, sign], -1)


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One step of n LSTM cells: x [n, in], h and c [n, units] -> the next h and c.

    weight [4·units, in + units] and bias [4·units] have the rows of the gates i, f, o and of the candidate, in this order.
    """
    units = h.shape[1]
    z = F.linear(torch.cat([x, h], 1), weight, bias)
    i, f, o = torch.sigmoid(z[:, : 3 * units]).split(units, 1)
    c = f * c + i * torch.tanh(z[:, 3 * units :])
    return o * torch.tanh(c), c


@dataclass(frozen=True)
class CoordinateRule:
    """The network with weights φ as an update rule: the same for every coordinate, with a memory for each."""

    phi: Params
    layers: int
    scale: float
    """Of the output."""
    p: float | None
    """Of ``log_and_sign``; None hands the gradient over as it is."""

    def fresh(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """h and c of every layer, zero: [T·P, units]."""
        units = self.phi["lstm.0.bias"].shape[0] // 4
        zero = theta.new_zeros(theta.numel(), units)
        return [(zero, zero)] * self.layers

    def update(self, gradient: Tensor, memory: list) -> tuple[Tensor, list]:
        """∇_t [T, P] and the memory -> g_t [T, P] and the next memory."""
        phi, after = self.phi, []
        flat = gradient.reshape(-1)  # [L2L 3] one row per coordinate, [T·P]
        x = flat.unsqueeze(1) if self.p is None else log_and_sign(flat, self.p)
        for k, (h, c) in enumerate(memory):
            weight, bias = phi[f"lstm.{k}.weight"], phi[f"lstm.{k}.bias"]
            x, c = lstm_cell(x, h, c, weight, bias)  # [L2L 4]
            after.append((x, c))
        out = F.linear(x, phi["output.weight"], phi["output.bias"])
        return self.scale * out.view_as(gradient), after  # [L2L 4] g_t


@dataclass(frozen=True)
class Unrolled:
    """The inner loop of ``bilevel``: optimisees under the rule.

    A state is (θ, memory, f of every problem at θ); memory and f are None where they have yet to be computed.
    """

    rule: Callable[[Params], CoordinateRule]
    optimizee: Optimizee
    problems: Any
    second_derivatives: bool = False
    """Whether ∂∇_t/∂φ is kept."""

    def seen(self, theta: Tensor, t: int) -> Tensor:
        """f of every problem at θ_t, [T], on the mini-batch of step t, if any."""
        if hasattr(self.problems, "batches"):
            # the point after the last step has no batch of its own
            t = min(t, self.problems.batches.shape[1] - 1)
        return self.optimizee.loss(theta, self.problems, t)

    def start(self) -> tuple:
        return self.problems.start, None, None

    def step(self, phi: Params, state: tuple, t: int) -> tuple:
        theta, memory, f = state
        rule = self.rule(phi)
        if memory is None:
            memory = rule.fresh(theta)
        if f is None:  # the first point of a window
            theta = theta.requires_grad_()
            f = self.seen(theta, t)
        keep = {"create_graph": self.second_derivatives, "retain_graph": True}
        (gradient,) = torch.autograd.grad(f.sum(), theta, **keep)  # [L2L 2]
        change, memory = rule.update(gradient, memory)
        theta = theta + change  # [L2L 5]
        return theta, memory, self.seen(theta, t + 1)

    def loss(self, phi: Params, state: tuple, t: int) -> Tensor:
        return state[2].mean()  # [L2L 6] w_t = 1, mean over problems

    def cut(self, state: tuple) -> tuple:
        theta, memory, _ = state
        if memory is not None:
            memory = [(h.detach(), c.detach()) for h, c in memory]
        return theta.detach(), memory, None


@dataclass(frozen=True)
class LearnedOptimizer(MetaLearner):
    """Training and use of the network. A meta-step is one run of ``steps`` steps on fresh problems, with an outer step after
    every ``unroll`` of them (an epoch of the official code).

    Raises ``UserError`` for a setting that makes no sense.
    """

    optimizee: Optimizee
    steps: int = 100
    """Of a run in training."""
    unroll: int = 20
    """Steps in a window of truncated backpropagation."""
    units: int = 20
    """Of each LSTM layer."""
    layers: int = 2
    scale: float = 1.0
    """Of the network's output."""
    p: float | None = None
    """Of the preprocessing (``log_and_sign``), or None for none."""
    second_derivatives: bool = False
    """Whether ∂∇_t/∂φ is kept; the official code drops it."""
    meta_lr: float = 1e-3
    """Rate of Adam for φ."""
    meta_lr_decay: str = "constant"
    """Or ``cosine``: falling to zero over the training."""

    metric = "loss"
    logged = ("loss",)
    query_sets = False
    engine = "autograd"

    def __post_init__(self) -> None:
        for name in ("steps", "unroll", "units", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.p is not None and not self.p > 0:
            raise UserError(f"p of the preprocessing must be positive, got {self.p}")
        if self.meta_lr_decay not in ("constant", "cosine"):
            raise UserError(f"meta_lr_decay must be constant or cosine, not {self.meta_lr_decay!r}")

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """Random φ, drawn on the generator's device and moved to ``device``, and a fresh Adam."""
        bound, units = 1 / math.sqrt(self.units), self.units

        def draw(*shape: int) -> Tensor:
            uniform = torch.rand(shape, generator=generator, device=generator.device)
            return (bound * (2 * uniform - 1)).to(device)

        phi, inputs = {}, 1 if self.p is None else 2
        for k in range(self.layers):
            phi[f"lstm.{k}.weight"] = draw(4 * units, inputs + units)
            phi[f"lstm.{k}.bias"] = torch.zeros(4 * units, device=device)
            phi[f"lstm.{k}.bias"][units : 2 * units] = 1.0
            inputs = units
        phi["output.weight"], phi["output.bias"] = draw(1, units), torch.zeros(1, device=device)
        return State({"params": phi}, torch.optim.Adam([phi[n] for n in sorted(phi)], lr=self.meta_lr))

    def rule(self, phi: Params) -> CoordinateRule:
        """The update rule with weights φ."""
        return CoordinateRule(phi, self.layers, self.scale, self.p)

    def unrolled(self, problems) -> Unrolled:
        """The inner loop on these problems."""
        return Unrolled(self.rule, self.optimizee, problems, self.second_derivatives)

    def meta_lr_at(self, progress: float) -> float:
        """Rate for φ after the share ``progress`` of the training."""
        falls = self.meta_lr_decay == "cosine"
        return self.meta_lr * (cosine(progress) if falls else 1.0)

    def set_meta_lr(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Give the outer optimiser the rate of this meta-step."""
        for group in optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):  # a captured graph's rate
                group["lr"] = self.meta_lr_at(progress)

    def step(
        self,
        state: State,
        problems,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, dict[str, Tensor]]:
        """One run on T problems, in which φ moves ``steps / unroll`` times. The metric is the mean loss of the points passed."""
        phi, optimizer, total = state.meta["params"], state.optimizer, 0.0
        self.set_meta_lr(optimizer, progress)
        combine = over_processes(all_reduce)
        run = self.unrolled(problems)
        for estimate in windows(run, self.steps, self.unroll):  # [L2L 1]
            total = total + outer_step(phi, estimate, optimizer, combine)  # [L2L 7]
        metrics = {"loss": total / self.steps}
        return State(state.meta, optimizer, state.meta_step + 1), metrics

    def scores(self, meta: Meta, problems, steps: int, scored: Sequence[int]) -> Tensor:
        """Losses of every problem on all its data after the ``scored`` steps: [T, len(scored)]."""
        return losses(self.rule(meta["params"]), self.optimizee, problems, steps)[:, list(scored)]
