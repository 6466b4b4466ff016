"""Several processes, one meta-batch: each takes a part of the tasks, and their gradients are averaged (torch.distributed).

Started by ``torchrun --nproc-per-node=N -m mlbook train ...``. All processes draw the same meta-batch from the same generator and
take every Nth task of it, so the result is that of one process up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.base import AllReduce, Meta, leaves, no_reduce
from mlbook.tasks.episode import Episode


@dataclass
class Traffic:
    """What a process has put into averages over all processes."""

    calls: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; the default is one that trains alone."""

    rank: int = 0
    count: int = 1
    traffic: Traffic = field(default_factory=Traffic, compare=False)
    """Of the averages that ``mean_over`` takes: one a meta-step."""

    def part(self, episodes: Episode) -> Episode:
        """The tasks of this process."""
        if self.count == 1:
            return episodes
        return episodes._make(field[self.rank :: self.count] for field in episodes)

    def mean_over(self, n_tasks: int) -> AllReduce:
        """What turns the mean over this process's part of ``n_tasks`` tasks into the mean over all of them."""
        if self.count == 1:
            return no_reduce
        share = len(range(self.rank, n_tasks, self.count)) / n_tasks

        def all_reduce(gradient: Meta, metrics: dict[str, Tensor]) -> tuple[Meta, dict[str, Tensor]]:
            mine = leaves(gradient) + list(metrics.values())
            flat = share * torch.cat([tensor.detach().reshape(-1) for tensor in mine])
            dist.all_reduce(flat)
            self.traffic.calls += 1
            self.traffic.bytes += flat.numel() * flat.element_size()
            parts = flat.split([tensor.numel() for tensor in mine])
            whole = iter(part.view(tensor.shape) for part, tensor in zip(parts, mine, strict=True))
            mean: Meta = {group: {} for group in gradient}
            for group in sorted(gradient):
                for name in sorted(gradient[group]):
                    mean[group][name] = next(whole)
            return mean, {name: next(whole) for name in metrics}

        return all_reduce

    def check_same(self, value: int, what: str) -> None:
        """``UserError`` in all processes unless they have the same ``value``."""
        if self.count == 1:
            return
        values: list[int | None] = [None] * self.count
        dist.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise UserError(
                f"the processes do not agree on the {what} ({values}); give them the same --out folder"
            )

    def first_does(self, action: Callable[[], None]) -> None:
        """The first process acts and the others wait for it; where it meets a ``UserError``, all do."""
        if self.count == 1:
            action()
            return
        refusal: list[str | None] = [None]
        if self.rank == 0:
            try:
                action()
            except UserError as error:
                refusal = [str(error)]
        dist.broadcast_object_list(refusal, 0)
        if refusal[0] is not None:
            raise UserError(refusal[0])

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes()


def started() -> int:
    """How many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def processes(device: torch.device, meta_batch_size: int) -> Iterator[Processes]:
    """The processes that ``torchrun`` started, joined for the time of the block; one alone without it."""
    count = started()
    if count == 1:
        yield ALONE
        return
    if count > meta_batch_size:
        raise UserError(
            f"{count} processes cannot share a meta-batch of {meta_batch_size} tasks; start fewer"
        )
    options: dict = {"backend": "gloo"}
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            raise UserError(f"there are {torch.cuda.device_count()} GPUs for more processes; start fewer")
        torch.cuda.set_device(local)
        # without it the first collective has to guess which GPU is whose
        options = {"backend": "nccl", "device_id": torch.device("cuda", local)}
    dist.init_process_group(**options)
    try:
        yield Processes(dist.get_rank(), count)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "by peer" not in str(error):
            raise
        raise UserError("another process of this training ended; what it said is the reason") from None
    dist.destroy_process_group()  # not after an error: taking leave would wait for processes that wait for this one
