"""Inner loops on mini-batches: which support examples every inner step sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.episode import BatchedEpisode, TaskDistribution


def cycled(n_tasks: int, n_examples: int, size: int, steps: int, generator: torch.Generator) -> Tensor:
    """Indices [T, steps, size] into ``n_examples`` examples: cycled without replacement, in a new order at every pass.

    The passes follow each other without a gap, so a mini-batch may take the end of one and the start of the next (as in
    ``_mini_batches`` of the official Reptile code).
    """
    passes = -(-steps * size // n_examples)
    # the order of uniform noise is a random permutation
    noise = torch.rand(n_tasks, passes, n_examples, generator=generator, device=generator.device)
    return noise.argsort(2).flatten(1)[:, : steps * size].view(n_tasks, steps, size)


@dataclass(frozen=True)
class MiniBatches(TaskDistribution):
    """The tasks of another distribution, each with the order in which its inner loop goes through the support set."""

    tasks: TaskDistribution
    size: int
    """Support examples per inner step, M."""
    steps: int
    """Inner steps, k."""

    def __post_init__(self) -> None:
        for name in ("size", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"a mini-batch's {name} must be at least 1, not {getattr(self, name)}")

    def to(self, device: torch.device | str) -> MiniBatches:
        return replace(self, tasks=self.tasks.to(device))

    def sample(self, n_tasks: int, generator: torch.Generator) -> BatchedEpisode:
        """Episodes of ``tasks`` with an ``order`` [T, k, M] each."""
        episodes = self.tasks.sample(n_tasks, generator)
        order = cycled(n_tasks, episodes.support_x.shape[1], self.size, self.steps, generator)
        return BatchedEpisode(*episodes, order)
