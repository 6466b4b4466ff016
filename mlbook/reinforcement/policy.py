"""A Gaussian policy: a small network says the mean of the action, one learned vector its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.models.functional import Params

MIN_LOG_STD = math.log(1e-6)


@dataclass(frozen=True)
class GaussianPolicy:
    """π_θ(a | s) = N(mean_θ(s), diag(exp(2·log_std))), ReLU units; one set of parameters, or one per task.

    Parameters: ``layers.i.weight`` [out, in], ``layers.i.bias`` [out], ``log_std`` [A], each with a tasks axis in front where
    they are one per task. Source: Finn et al. 2017, appendix A.2 (two hidden layers of 100); the spread, which does not depend on
    the state, from the official code.
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
        return (self.observation_size, *self.hidden, self.action_size)

    def initial(self, generator: torch.Generator) -> Params:
        """Xavier-uniform weights (within ±√(6/(in + out))), zero biases, spread exp(init_log_std)."""
        params: Params = {}
        for i, (a, b) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            draw = torch.rand(b, a, generator=generator, device=generator.device)
            params[f"layers.{i}.weight"] = (2 * draw - 1) * math.sqrt(6 / (a + b))
            params[f"layers.{i}.bias"] = torch.zeros(b, device=generator.device)
        params["log_std"] = torch.full((self.action_size,), self.init_log_std, device=generator.device)
        return params

    def mean(self, params: Params, observations: Tensor) -> Tensor:
        """[T, n, O] -> [T, n, A] with parameters of T tasks (or of one, shared)."""
        x, last = observations, len(self.sizes) - 2
        for i in range(last + 1):
            x = x @ params[f"layers.{i}.weight"].mT + params[f"layers.{i}.bias"].unsqueeze(-2)
            if i < last:
                x = torch.relu(x)
        return x

    def log_std(self, params: Params) -> Tensor:
        """[T, 1, A] (or [1, A]), never below the spread 1e-6."""
        return params["log_std"].clamp(min=MIN_LOG_STD).unsqueeze(-2)

    def act(self, params: Params, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions [T, n, A] drawn with standard normal ``noise`` of that shape: mean + spread · noise."""
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
    """KL(old ‖ new) of diagonal Gaussians, summed over the action: [..., A] -> [...]."""
    ratio = (2 * (log_std - new_log_std)).exp() + ((mean - new_mean) * (-new_log_std).exp()).square()
    return (new_log_std - log_std + 0.5 * ratio - 0.5).sum(-1)
