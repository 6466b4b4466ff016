"""Episodes: the support and query data of a meta-batch of tasks; and what a distribution over tasks is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Episode(NamedTuple):
    """One draw of support and query data for each of T tasks. The tasks axis is always first.

    A tuple, so ``torch.func.vmap`` maps over it as it is. Inside the map the tasks axis is gone.
    """

    support_x: Tensor  # [T, S, ...]   S = N·K for classification, K for regression
    support_y: Tensor  # [T, S] class labels, or [T, S, 1] targets
    query_x: Tensor  # [T, B, ...]   B = N·Q for classification, Q for regression
    query_y: Tensor  # [T, B] or [T, B, 1]

    def task(self, index: int) -> Episode:
        """The data of one task, without the tasks axis."""
        return self._make(field[index] for field in self)

    @property
    def n_tasks(self) -> int:
        """T."""
        return self.support_x.shape[0]

    def to(self, *args) -> Episode:
        """Inputs (and real-valued targets) moved or cast as by ``Tensor.to``; class labels keep their type."""

        def move(field: Tensor) -> Tensor:
            moved = field.to(*args)
            return moved if field.is_floating_point() else moved.to(field.dtype)

        return self._make(move(field) for field in self)


class BatchedEpisode(NamedTuple):
    """An ``Episode`` whose inner loop sees a mini-batch of the support set at every step."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    order: Tensor  # [T, k, M]: the support examples of inner steps 1..k, as indices

    task = Episode.task
    n_tasks = Episode.n_tasks
    to = Episode.to


class ClientRound(NamedTuple):
    """A round of federated learning: a ``BatchedEpisode`` of clients, whose data are the support sets."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    order: Tensor  # [T, k, M]: the examples of local steps 1..k, as indices
    weight: Tensor  # [T]: n_k divided by the mean of n, over the clients of this round
    number: Tensor  # [T]: which client it is

    task = Episode.task
    n_tasks = Episode.n_tasks
    to = Episode.to


class TaskDistribution:
    """Where episodes come from. For ``training.train`` and ``evaluate`` anything with this ``sample`` will do."""

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """Data of ``n_tasks`` tasks. ``generator`` is the only source of randomness; the episodes lie on its device."""
        raise NotImplementedError

    @property
    def n_listed(self) -> int | None:
        """How many tasks there are, where they stand in a list; None where they are drawn."""
        return None

    def at(self, start: int, n_tasks: int, generator: torch.Generator) -> Episode:
        """``n_tasks`` tasks of the list from number ``start`` on; where tasks are drawn, what ``sample`` gives."""
        return self.sample(n_tasks, generator)

    def to(self, device: torch.device | str) -> TaskDistribution:
        """The same distribution, sampling on ``device``. One that holds no tensors samples everywhere."""
        return self
