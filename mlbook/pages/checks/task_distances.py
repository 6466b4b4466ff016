"""Distances between tasks, computed from what one start makes of them, and a way to judge a distance by known labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vmap

from mlbook.errors import UserError
from mlbook.meta_learners import MAML
from mlbook.meta_learners.base import Meta
from mlbook.meta_learners.losses import LOSSES
from mlbook.tasks import Episode


def gradient_distance(learner: MAML, meta: Meta, episodes: Episode) -> Tensor:
    """1 − cosine of the angle between the support gradients of two tasks at the start: [T, T], from 0 to 2."""

    def one_task(episode: Episode) -> Tensor:
        def loss(params):
            return LOSSES[learner.loss](learner.predict(params, episode.support_x), episode.support_y)

        return torch.cat([g.flatten() for g in grad(loss)(meta["params"]).values()])

    unit = torch.nn.functional.normalize(vmap(one_task)(episodes), dim=1)
    return (1 - unit @ unit.mT).detach()


def function_distance(learner: MAML, meta: Meta, episodes: Episode, *, steps: int, x: Tensor) -> Tensor:
    """Root mean squared difference, over the inputs x [n, ...], of the predictions of two tasks' adapted parameters: [T, T]."""

    def one_task(episode: Episode) -> Tensor:
        *_, adapted = learner.path(meta, episode.support_x, episode.support_y, steps)
        return learner.predict(adapted, x).flatten()

    with torch.no_grad():
        curves = vmap(one_task)(episodes)
    return torch.cdist(curves, curves) / curves.shape[1] ** 0.5


def neighbours_agree(distance: Tensor, labels: Tensor) -> float:
    """How often the nearest other task has the same label. distance [T, T], labels [T]."""
    return float((labels[_without_self(distance).argmin(1)] == labels).float().mean())


def two_groups(distance: Tensor) -> Tensor:
    """Divide tasks into two groups [T] of 0 and 1 about the two medoids with the smallest sum of distances.

    A medoid is a task; all pairs are tried. Raises ``UserError`` for fewer than two tasks.
    """
    T = len(distance)
    if T < 2:
        raise UserError("two groups need at least two tasks")
    best, pair = torch.inf, (0, 1)
    for i in range(T - 1):
        sums = torch.minimum(distance[i], distance[i + 1 :]).sum(1)
        if float(sums.min()) < best:
            best, pair = float(sums.min()), (i, i + 1 + int(sums.argmin()))
    return (distance[pair[1]] < distance[pair[0]]).long()


def agreement(groups: Tensor, labels: Tensor) -> float:
    """Share of tasks whose group of two agrees with their label of two, the groups named in the better of both ways: 0.5 to 1."""
    same = float((groups == labels).float().mean())
    return max(same, 1 - same)


def _without_self(distance: Tensor) -> Tensor:
    return distance.clone().fill_diagonal_(torch.inf)
