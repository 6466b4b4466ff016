"""The simplest few-shot learner: no training at all. A baseline that every
other number has to beat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mlbook.tasks.episode import Episode


def nearest_neighbour(
    episodes: Episode, features: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Label every query image as its nearest support image, in squared
    Euclidean distance: labels [T, B].

    features: maps images [M, C, H, W] to vectors [M, D]; default: the raw
        pixels.
    """

    def vectors(x: Tensor) -> Tensor:
        images = x.flatten(0, 1)
        out = images.flatten(1) if features is None else features(images)
        return out.view(*x.shape[:2], -1)

    query, support = vectors(episodes.query_x), vectors(episodes.support_x)
    distance = torch.cdist(query, support)  # [T, B, S]
    return episodes.support_y.gather(1, distance.argmin(2))


def accuracies(
    episodes: Episode, features: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Accuracy of ``nearest_neighbour`` on the query set of every task: [T]."""
    return (
        (nearest_neighbour(episodes, features) == episodes.query_y).double().mean(1)
    )
