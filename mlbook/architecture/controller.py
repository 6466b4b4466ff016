"""A controller that writes architectures, one decision after another, and learns from their rewards (Zoph & Le 2017).

An LSTM reads the decision it has just taken and gives the probabilities of the next: P(a_t | a_1..a_{t−1}; θ_c). Its rewards are
numbers, so the gradient of J = E[R] in θ_c is estimated by REINFORCE, with a moving average of past rewards as baseline b.

Greek to Python: θ_c ``theta``, a ``choices`` (one index per decision), R ``rewards``, b ``baseline``. As in the paper: two layers
of 35 units, first weights uniform within 0.08, Adam. Our own: the rate, one child per update, no skip connections by attention.
Many independent searches stand side by side along an axis S; none sees another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mlbook.architecture.children import SIZES
from mlbook.errors import UserError
from mlbook.meta_learners.bilevel import Estimate, Estimator, Outer
from mlbook.models.functional import Params
from mlbook.optimizers.learned_optimizer import lstm_cell


@dataclass(frozen=True)
class LSTMController:
    """P(a; θ_c) over sequences of decisions."""

    sizes: tuple[int, ...] = SIZES
    """Options of each decision."""
    units: int = 35
    """Of each LSTM layer, and of an embedded decision."""
    layers: int = 2
    spread: float = 0.08
    """First weights are uniform within this."""

    def init(self, generator: torch.Generator, searches: int) -> Outer:
        """θ_c of every search, [S, ...]."""
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
        self,
        theta: Params,
        take: Callable[[int, Tensor], Tensor],
        n: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """n sequences under one θ_c: choices [n, T] and, of every decision, the log-probabilities [n, options].

        take: t and log P(a_t | a_<t) [n, options] -> the options taken [n].
        """
        x = theta["start"].expand(n, -1)
        zero = x.new_zeros(n, self.units)
        memory, choices, found = [(zero, zero)] * self.layers, [], []
        for t in range(len(self.sizes)):
            after = []
            for k, (h, c) in enumerate(memory):
                weight, bias = theta[f"lstm.{k}.weight"], theta[f"lstm.{k}.bias"]
                x, c = lstm_cell(x, h, c, weight, bias)
                after.append((x, c))
            memory = after
            weight, bias = theta[f"output.{t}.weight"], theta[f"output.{t}.bias"]
            logits = F.linear(x, weight, bias)
            log_p = logits.log_softmax(-1)  # [NAS 3] log P(a_t | a_<t)
            found.append(log_p)
            choices.append(take(t, log_p))
            # the decision is what it reads next
            x = F.embedding(choices[-1], theta[f"embedding.{t}"])
        return torch.stack(choices, 1), found


@dataclass(frozen=True)
class IndependentController:
    """One softmax per decision, which knows nothing of the others: P(a) = Π_t softmax(θ_t)[a_t]."""

    sizes: tuple[int, ...] = SIZES
    """Options of each decision."""

    def init(self, generator: torch.Generator, searches: int) -> Outer:
        """Logits θ_t of every search, [S, options]: all options are equally likely."""
        return {f"{t}": torch.zeros(searches, options) for t, options in enumerate(self.sizes)}

    def walk(
        self, theta: Params, take: Callable[[int, Tensor], Tensor], n: int
    ) -> tuple[Tensor, list[Tensor]]:
        """As ``LSTMController.walk``."""
        found = [theta[f"{t}"].log_softmax(-1).expand(n, -1) for t in range(len(self.sizes))]
        return torch.stack([take(t, log_p) for t, log_p in enumerate(found)], 1), found


Controller = LSTMController | IndependentController


def draw(controller: Controller, theta: Params, uniform: Tensor) -> Tensor:
    """n architectures of one search, [n, T], by numbers ``uniform`` [n, T] from [0, 1).

    Each decision takes the first option at which the summed probabilities exceed its number.
    """

    def take(t: int, log_p: Tensor) -> Tensor:
        passed = log_p.detach().exp().cumsum(-1)[:, :-1] <= uniform[:, t : t + 1]
        return passed.sum(-1)

    return controller.walk(theta, take, len(uniform))[0]


def log_probability(
    controller: Controller,
    theta: Params,
    choices: Tensor,
) -> tuple[Tensor, Tensor]:
    """log P(a; θ_c) of choices [n, T], [n], and the summed entropies (in nats) of the decisions on the way, [n]."""
    _, found = controller.walk(theta, lambda t, _: choices[:, t], len(choices))
    columns = choices.split(1, 1)  # T of [n, 1]
    taken = [p.gather(1, a)[:, 0] for p, a in zip(found, columns, strict=True)]
    entropy = [-(p.exp() * p).sum(-1) for p in found]
    log_p = torch.stack(taken).sum(0)  # [NAS 3] the log of a product
    return log_p, torch.stack(entropy).sum(0)


def reinforce(
    controller: Controller,
    choices: Tensor,
    rewards: Tensor,
    baseline: Tensor,
    entropy_bonus: float = 0.0,
) -> Estimator:
    """−dJ/dθ_c of S searches at once (outer steps descend): mean over m children of −(R − b) ∇ log P(a; θ_c).

    choices [S, m, T] must have been drawn from θ_c as it is; rewards [S, m]; baseline [S], which may depend on anything but
    these choices. entropy_bonus: that much of the entropies is added to J. The value is 1 − mean reward.
    ``bilevel.score_function`` does the same for one search.
    """

    def one_search(theta: Params, a: Tensor, R: Tensor, b: Tensor) -> Tensor:
        log_p, entropy = log_probability(controller, theta, a)
        gain = (R - b) * log_p + entropy_bonus * entropy
        return -gain.mean()  # [NAS 4] its gradient is the estimate

    def estimate(theta: Outer) -> Estimate:
        gradient = vmap(grad(one_search))(theta, choices, rewards, baseline)
        return Estimate(1 - rewards.mean(), gradient)

    return estimate


def distribution(controller: Controller, theta: Params, space: Tensor) -> Tensor:
    """P(a; θ_c) of all architectures ``space`` [A, T] under one θ_c: [A]."""
    with torch.no_grad():
        return log_probability(controller, theta, space)[0].exp()


def moving_average(
    baseline: Tensor,
    rewards: Tensor,
    decay: float,
    first: bool,
) -> Tensor:
    """b [S] after the rewards [S, m] of an update. The first rewards start it.

    Raises ``UserError`` for a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(f"the decay must lie in [0, 1), got {decay}")
    mean = rewards.mean(1)
    if first:
        return mean
    return decay * baseline + (1 - decay) * mean  # [NAS 5]
