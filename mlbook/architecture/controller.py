"""A controller that writes architectures, one decision after another, and learns from their rewards (Zoph & Le 2017).

An LSTM reads the decision it has just taken and gives the probabilities of the next: P(a_t | a_1..a_{t−1}; θ_c). Its rewards are
numbers, so dJ/dθ_c of J = E[R] is estimated by REINFORCE with a moving average of past rewards as baseline b.

Greek to Python: θ_c ``theta``, a ``choices`` (row numbers per decision), R ``rewards``, b ``baseline``. From the paper: two
layers of 35 units, first weights uniform within 0.08, Adam. Ours: the rate, one child per update, no skip connections by
attention. Many independent searches are rows of one batch [S]; none sees another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from mlbook.architecture.children import SIZES
from mlbook.errors import UserError
from mlbook.meta_learners.bilevel import Estimate, Estimator, Outer, gradient_of
from mlbook.models.functional import Params
from mlbook.optimizers.learned_optimizer import lstm_cell


@dataclass(frozen=True)
class LSTMController:
    """P(a; θ_c) over sequences of decisions."""

    sizes: tuple[int, ...] = SIZES
    """Options of each decision."""
    units: int = 35
    layers: int = 2
    spread: float = 0.08

    def init(self, generator: torch.Generator, searches: int) -> Outer:
        """θ_c of every search [S, ...], uniform within ``spread``."""
        u = self.units

        def draw(*shape: int) -> Tensor:
            return self.spread * (2 * torch.rand(searches, *shape, generator=generator) - 1)

        theta = {"start": draw(u)}
        for k in range(self.layers):
            theta[f"lstm.{k}.weight"], theta[f"lstm.{k}.bias"] = draw(4 * u, 2 * u), draw(4 * u)
        for t, options in enumerate(self.sizes):
            theta[f"embedding.{t}"] = draw(options, u)
            theta[f"output.{t}.weight"], theta[f"output.{t}.bias"] = draw(options, u), draw(options)
        return theta

    def walk(
        self, theta: Params, take: Callable[[int, Tensor], Tensor], n: int
    ) -> tuple[Tensor, list[Tensor]]:
        """n sequences under one θ_c: choices [n, T] and the log-probabilities [n, options] of every decision.

        take: t and log P(a_t | a_<t) [n, options] -> the options taken [n].
        """
        x = theta["start"].expand(n, -1)
        zero = x.new_zeros(n, self.units)
        memory, choices, found = [(zero, zero)] * self.layers, [], []
        for t in range(len(self.sizes)):
            after = []
            for k, (h, c) in enumerate(memory):
                x, c = lstm_cell(x, h, c, theta[f"lstm.{k}.weight"], theta[f"lstm.{k}.bias"])
                after.append((x, c))
            memory = after
            logits = F.linear(x, theta[f"output.{t}.weight"], theta[f"output.{t}.bias"])
            found.append(logits.log_softmax(-1))  # [NAS 3] log P(a_t | a_<t)
            choices.append(take(t, found[-1]))
            x = F.embedding(choices[-1], theta[f"embedding.{t}"])  # the decision is what it reads next
        return torch.stack(choices, 1), found


@dataclass(frozen=True)
class IndependentController:
    """One softmax per decision, which knows nothing of the others: P(a) = Π_t softmax(θ_t)[a_t]."""

    sizes: tuple[int, ...] = SIZES

    def init(self, generator: torch.Generator, searches: int) -> Outer:
        """All options equally likely."""
        return {f"{t}": torch.zeros(searches, options) for t, options in enumerate(self.sizes)}

    def walk(
        self, theta: Params, take: Callable[[int, Tensor], Tensor], n: int
    ) -> tuple[Tensor, list[Tensor]]:
        found = [theta[f"{t}"].log_softmax(-1).expand(n, -1) for t in range(len(self.sizes))]
        return torch.stack([take(t, log_p) for t, log_p in enumerate(found)], 1), found


Controller = LSTMController | IndependentController


def draw(controller: Controller, theta: Params, uniform: Tensor) -> Tensor:
    """Choices [n, T] of one search by numbers ``uniform`` [n, T] from [0, 1): the first option whose summed probability exceeds
    its number."""

    def take(t: int, log_p: Tensor) -> Tensor:
        passed = log_p.detach().exp().cumsum(-1)[:, :-1] <= uniform[:, t : t + 1]
        return passed.sum(-1)

    return controller.walk(theta, take, len(uniform))[0]


def log_probability(controller: Controller, theta: Params, choices: Tensor) -> tuple[Tensor, Tensor]:
    """choices [n, T] -> log P(a; θ_c) [n], and the summed entropies of the decisions on the way [n]."""
    _, found = controller.walk(theta, lambda t, _: choices[:, t], len(choices))
    rows = torch.stack([log_p.gather(1, choices[:, t : t + 1])[:, 0] for t, log_p in enumerate(found)])
    entropy = torch.stack([-(log_p.exp() * log_p).sum(-1) for log_p in found])
    return rows.sum(0), entropy.sum(0)  # [NAS 3] the log of a product


def reinforce(
    controller: Controller, choices: Tensor, rewards: Tensor, baseline: Tensor, entropy_bonus: float = 0.0
) -> Estimator:
    """The estimate of −dJ/dθ_c of S searches at once (outer steps descend): mean over m of −(R − b) ∇ log P(a; θ_c).

    choices [S, m, T] must have been drawn from θ_c as it is; rewards [S, m]; baseline [S], which may depend on anything but these
    choices. ``bilevel.score_function`` is the same for one search. entropy_bonus: adds that much of the entropies to J.
    """

    def estimate(theta: Outer) -> Estimate:
        def surrogate(point: Outer) -> Tensor:
            log_p, entropy = vmap(lambda w, a: log_probability(controller, w, a))(point, choices)
            advantage = rewards - baseline[:, None]
            return -(advantage * log_p + entropy_bonus * entropy).mean(1).sum()  # [NAS 4]

        return Estimate(1 - rewards.mean(), gradient_of(surrogate, theta).gradient)

    return estimate


def distribution(controller: Controller, theta: Params, space: Tensor) -> Tensor:
    """P(a; θ_c) of all architectures ``space`` [A, T] under one θ_c: [A]."""
    with torch.no_grad():
        return log_probability(controller, theta, space)[0].exp()


def moving_average(baseline: Tensor, rewards: Tensor, decay: float, first: bool) -> Tensor:
    """b after the rewards [S, m] of an update; the first rewards start it."""
    if not 0 <= decay < 1:
        raise UserError(f"the decay of the baseline must lie in [0, 1), got {decay}")
    mean = rewards.mean(1)
    return mean if first else decay * baseline + (1 - decay) * mean  # [NAS 5]
