"""A Gaussian policy: a small network gives the mean of the action, and a learned vector its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.models.functional import Params

MIN_LOG_STD = math.log(1e-6)
"""The spread never falls below 1e-6 (official code)."""


@dataclass(frozen=True)
class GaussianPolicy:
    """π_θ(a | s) = N(mean_θ(s), diag(exp(2·log_std))) with ReLU units.

    Parameters: ``layers.i.weight`` [out, in], ``layers.i.bias`` [out], ``log_std`` [A]. All tasks share them, or each has a tasks
    axis in front. Two hidden layers of 100 as in Finn et al. 2017, appendix A.2; the spread, which does not depend on the state,
    as in the official code. Raises ``UserError`` where there is no hidden layer.
    """

    observation_size: int = 2
    action_size: int = 2
    hidden: tuple[int, ...] = (100, 100)
    init_log_std: float = 0.0

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise UserError("the policy needs at least one hidden layer, and units in each")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer, from the observation to the action."""
        return (self.observation_size, *self.hidden, self.action_size)

    def initial(self, generator: torch.Generator) -> Params:
        """Xavier-uniform weights (within ±√(6/(in + out))), zero biases, spread exp(init_log_std); on the generator's device."""
        params: Params = {}
        for i, (a, b) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            draw = torch.rand(b, a, generator=generator, device=generator.device)
            params[f"layers.{i}.weight"] = (2 * draw - 1) * math.sqrt(6 / (a + b))
            params[f"layers.{i}.bias"] = torch.zeros(b, device=generator.device)
        params["log_std"] = torch.full((self.action_size,), self.init_log_std, device=generator.device)
        return params

    def mean(self, params: Params, observations: Tensor) -> Tensor:
        """Mean action: observations [T, n, O] -> [T, n, A]."""
        x, last = observations, len(self.sizes) - 2
        for i in range(last + 1):
            x = x @ params[f"layers.{i}.weight"].mT + params[f"layers.{i}.bias"].unsqueeze(-2)
            if i < last:
                x = torch.relu(x)
        return x

    def log_std(self, params: Params) -> Tensor:
        """Logarithm of the spread: [T, 1, A], or [1, A] where the parameters are shared."""
        return params["log_std"].clamp(min=MIN_LOG_STD).unsqueeze(-2)

    def act(self, params: Params, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions mean + spread · noise, [T, n, A]; ``noise`` is standard normal and has that shape."""
        return self.mean(params, observations) + self.log_std(params).exp() * noise

    def log_prob(self, params: Params, observations: Tensor, actions: Tensor) -> Tensor:
        """log π_θ(a | s) for observations [T, M, H, O] and actions [T, M, H, A]: [T, M, H]."""
        T, M, H = actions.shape[:3]
        mean = self.mean(params, observations.reshape(T, M * H, -1))
        log_std = self.log_std(params)
        z = (actions.reshape(T, M * H, -1) - mean) * (-log_std).exp()
        density = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)
        return density.sum(-1).view(T, M, H)


def divergence(mean: Tensor, log_std: Tensor, new_mean: Tensor, new_log_std: Tensor) -> Tensor:
    """KL(old ‖ new) in nats of Gaussians with diagonal covariance: four times [..., A] -> [...]."""
    ratio = (2 * (log_std - new_log_std)).exp() + ((mean - new_mean) * (-new_log_std).exp()).square()
    return (new_log_std - log_std + 0.5 * ratio - 0.5).sum(-1)
