"""What is measured: networks, sizes and synthetic data, the same for every contender."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlbook.models import MLP, Conv4
from mlbook.tasks import Episode, Sinusoids

N = 5  # classes of a task
INNER_LR = 0.01  # small enough for a meta-gradient that float32 can compute on images without structure
NETWORKS = {
    "sinusoid": lambda: MLP((1, 40, 40, 1), init_std=0.3),
    "strided": lambda: Conv4(N),
    "pooled": lambda: Conv4(N, downsample="max_pool"),
    "miniimagenet": lambda: Conv4(N, channels=3, filters=32, size=84, downsample="max_pool"),
}
IMAGES = {"strided": (1, 28, 28), "pooled": (1, 28, 28), "miniimagenet": (3, 84, 84)}


@dataclass(frozen=True)
class Problem:
    """One meta-gradient. All parameters of the network move in the inner loop, batch norm's β included."""

    network: str
    """Key of ``NETWORKS``."""
    tasks: int
    """Meta-batch size, T."""
    steps: int
    shots: int
    """Support examples per class, or support points."""
    queries: int
    """Query examples per class, or query points (Reptile has none)."""
    order: int = 2
    """2: MAML, 1: first-order MAML, 0: Reptile (the mean of θ minus θ after ``steps`` SGD steps on the support set)."""

    @property
    def name(self) -> str:
        order = {0: "reptile", 1: "first-order", 2: "second-order"}[self.order]
        size = f"{self.shots}-shot" + (f"-{self.queries}-query" if self.order else "")
        return f"{self.network}-{size}-{self.tasks}-tasks-{self.steps}-step-{order}"

    def build(self, tasks: int, dtype: torch.dtype) -> tuple[nn.Module, Episode]:
        """The network with its weights, and a meta-batch of ``tasks`` tasks, from fixed seeds."""
        g = torch.Generator().manual_seed(1)
        module = NETWORKS[self.network]()
        module.reset_parameters(g)
        with torch.no_grad():
            for p in module.parameters():  # no weight has a special value, such as the β that start from zero
                p.add_(0.02 * torch.randn(p.shape, generator=g))
        if self.network == "sinusoid":
            episodes = Sinusoids(self.shots, max(self.queries, 1)).sample(tasks, g)
        else:
            fields = []
            for count in (self.shots, max(self.queries, 1)):
                fields.append(torch.rand(tasks, N * count, *IMAGES[self.network], generator=g))
                fields.append(torch.arange(N).repeat_interleave(count).expand(tasks, -1))
            episodes = Episode(*fields)
        return module.to(dtype), episodes.to(dtype)


@dataclass(frozen=True)
class Sampling:
    """A meta-batch of 5-way 1-shot episodes with 15 queries per class, from images in memory."""

    tasks: int = 32
    classes: int = 1200
    examples: int = 20
    name: str = "sampling-5-way-1-shot-15-query-32-tasks"

    def build(self, tasks: int, dtype: torch.dtype) -> tuple[Tensor]:
        """Random images, uint8 [classes, examples, 1, 28, 28]."""
        g = torch.Generator().manual_seed(1)
        shape = self.classes, self.examples, 1, 28, 28
        return (torch.randint(256, shape, generator=g, dtype=torch.uint8),)


PROBLEMS = (
    *(Problem("sinusoid", tasks, steps, 10, 10) for tasks in (25, 1000) for steps in (1, 5)),
    *(Problem("sinusoid", 25, steps, 10, 10, order=1) for steps in (1, 5)),
    *(Problem("strided", 32, steps, 1, 1) for steps in (1, 5)),
    Problem("strided", 32, 1, 1, 1, order=1),
    Problem("strided", 32, 1, 1, 15),
    *(Problem("pooled", 32, steps, 1, queries) for queries in (15, 5) for steps in (1, 5)),
    Problem("pooled", 32, 5, 1, 15, order=1),
    Problem("miniimagenet", 4, 5, 1, 15),
    Problem("sinusoid", 25, 5, 10, 0, order=0),
    Problem("strided", 5, 5, 10, 0, order=0),
    Sampling(),
)
