"""Linear functions y = w·x, and random networks on inputs like theirs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mlbook.errors import UserError
from mlbook.tasks.episode import Episode, TaskDistribution


@dataclass(frozen=True)
class LinearFunctions(TaskDistribution):
    """Tasks y = w·x with w ~ N(0, I) and every input uniform in ±``half_range``, or normal.

    ``half_range`` 0.5, ten dimensions and ten points are those of the notebooks that come with von Oswald et al. 2023; one
    input of ±1 with a level and noise of 0.3 are the lines of chapter 19. Normal inputs are those of Garg et al. 2022.
    """

    inputs: int = 10
    k_shot: int = 10
    n_query: int = 10
    half_range: float = 0.5
    level: bool = False
    """Put a 1 before the inputs, so that w has a level: features D = inputs + 1."""
    noise: float = 0.0
    """Standard deviation of the noise on support targets; query targets have none."""
    spreads: tuple[float, ...] = ()
    """Standard deviation of each input, which is then normal with mean 0; empty: uniform inputs."""
    weight_std: float = 1.0
    """Standard deviation of every entry of w."""

    def __post_init__(self) -> None:
        if self.inputs < 1 or self.k_shot < 1 or self.n_query < 1:
            raise UserError("inputs, k_shot and n_query must be at least 1")
        if not (self.half_range > 0 and self.noise >= 0 and self.weight_std >= 0):
            raise UserError("half_range must be positive, noise and weight_std must not be negative")
        if self.spreads and (len(self.spreads) != self.inputs or min(self.spreads) < 0):
            raise UserError(f"spreads are {self.inputs} numbers from 0 up, one for each input")

    @property
    def features(self) -> int:
        """D, numbers in an input."""
        return self.inputs + self.level

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: support_x [T, K, D], support_y [T, K, 1], query the same with Q."""
        options = {"generator": generator, "device": generator.device}
        K = self.k_shot
        shape = (n_tasks, K + self.n_query, self.inputs)
        if self.spreads:
            x = torch.randn(shape, **options) * torch.tensor(self.spreads, device=generator.device)
        else:
            x = self.half_range * (2 * torch.rand(shape, **options) - 1)
        if self.level:
            x = torch.cat([torch.ones_like(x[..., :1]), x], -1)
        w = self.weight_std * torch.randn(n_tasks, self.features, 1, **options)
        noise = self.noise * torch.randn(n_tasks, K, 1, **options)
        y = x @ w
        return Episode(x[:, :K], y[:, :K] + noise, x[:, K:], y[:, K:])


@dataclass(frozen=True)
class RandomNetworks(TaskDistribution):
    """Tasks y = √(2/R) Σ_j v_j max(0, u_j·x): networks with R hidden units, all u_j and v_j ~ N(0, 1), inputs x ~ N(0, I).

    Those of Garg et al. 2022, where R = 100. The mean square of y is the number of inputs, as with w·x.
    """

    inputs: int = 5
    k_shot: int = 10
    n_query: int = 10
    hidden: int = 100
    """R."""

    def __post_init__(self) -> None:
        if min(self.inputs, self.k_shot, self.n_query, self.hidden) < 1:
            raise UserError("inputs, k_shot, n_query and hidden must be at least 1")

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Episodes for ``n_tasks`` tasks: support_x [T, K, D], support_y [T, K, 1], query the same with Q."""
        options = {"generator": generator, "device": generator.device}
        K = self.k_shot
        x = torch.randn(n_tasks, K + self.n_query, self.inputs, **options)
        u = torch.randn(n_tasks, self.inputs, self.hidden, **options)
        v = torch.randn(n_tasks, self.hidden, 1, **options)
        y = (2 / self.hidden) ** 0.5 * (x @ u).relu() @ v
        return Episode(x[:, :K], y[:, :K], x[:, K:], y[:, K:])
