"""The same task under every numbering of its classes: what a learned head makes of the order."""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, MetaLearner
from mlbook.meta_learners.losses import check_labels
from mlbook.tasks.episode import Episode
from mlbook.training.evaluation import predictions

MOST_CLASSES = 6
"""7 classes have 5,040 numberings."""
AT_ONCE = 24
"""Relabellings that are adapted at the same time; more would only need more memory."""


def relabellings(n_way: int) -> Tensor:
    """All numberings of ``n_way`` classes, int64 [N!, N]: class c gets the number ``row[c]``. The first changes nothing."""
    if not 1 <= n_way <= MOST_CLASSES:
        raise UserError(f"all numberings are tried for 1 to {MOST_CLASSES} classes, not for {n_way}")
    return torch.tensor(list(permutations(range(n_way))))


def relabelled_logits(
    learner: MetaLearner,
    meta: Meta,
    task: Episode,
    *,
    steps: int,
    batch_norm: str = "transductive",
) -> Tensor:
    """What the learner says of one task's queries after ``steps`` inner steps, once for each of the P = N! numberings of its
    classes, put back into the task's own order: [P, B, N].

    task: one task, without the tasks axis. batch_norm: as in ``evaluate``, but not ``running``. The spread over the rows is what
    one number for this task does not show (Ye and Chao 2022).
    """
    n_way = int(task.support_y.max()) + 1
    check_labels(task.query_y, n_way)
    numberings = relabellings(n_way).to(task.support_y.device)

    def one(numbers: Tensor) -> Tensor:
        labels = numbers[task.support_y]  # [RELABEL 1]
        path = learner.path(meta, task.support_x, labels, steps)
        *_, adapted = path  # [RELABEL 2]
        its = learner, adapted, task, batch_norm, None
        logits = predictions(*its)  # [RELABEL 3]
        return logits.index_select(1, numbers)  # [RELABEL 4]

    with torch.no_grad():
        if not learner.vmappable:
            return torch.stack([one(numbers) for numbers in numberings])
        return vmap(one, chunk_size=AT_ONCE, randomness="different")(numberings)


def accuracies(logits: Tensor, y: Tensor) -> Tensor:
    """Logits [P, B, N] and labels y [B] -> the accuracy of every row, [P]."""
    return (logits.argmax(-1) == y).float().mean(-1)


def shared_head(meta: Meta, names: tuple[str, ...] = ("head.weight", "head.bias")) -> Meta:
    """The same meta-parameters with the mean of the head's rows in every row.

    No class has a place of its own then, and all numberings give the same result. UNICORN-MAML (Ye and Chao 2022) meta-trains
    such a head; here it is made from one that was trained in the ordinary way. names: the tensors [N, ...] of the head.
    """
    params = dict(meta["params"])
    for name in names:
        if name not in params:
            raise UserError(f"there is no {name} among the parameters")
        params[name] = params[name].mean(0, keepdim=True).expand_as(params[name]).clone()
    return {**meta, "params": params}


class Spread(NamedTuple):
    """Accuracies of T tasks under P numberings, in brief."""

    mean: Tensor
    """Over all of them."""
    worst: Tensor
    """Each task's worst numbering, mean over the tasks."""
    best: Tensor
    """Each task's best numbering: picked by the answers, so nobody could pick it."""
    within: Tensor
    """Standard deviation over the numberings of a task (root of the mean variance)."""
    between: Tensor
    """Standard deviation over tasks of their means. within² + between² is the variance of a task under one random numbering."""


def spread(scores: Tensor) -> Spread:
    """Of accuracies [T, P]."""
    variance = scores.var(1, correction=0).mean()
    return Spread(
        scores.mean(),
        scores.amin(1).mean(),
        scores.amax(1).mean(),
        variance.sqrt(),
        scores.mean(1).std(correction=0),
    )
