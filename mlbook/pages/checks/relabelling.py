"""What is left of a classifier's score when the classes of an episode are numbered at random: nothing."""

from __future__ import annotations

from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.errors import UserError

MOST_CLASSES = 7
"""7! = 5,040 numberings; more would be no longer a matter of a moment."""


def numberings(n_way: int) -> Tensor:
    """All ways to number N classes: [N!, N], entry [p, c] is the label of class c."""
    if not 1 <= n_way <= MOST_CLASSES:
        raise UserError(f"n_way must be from 1 to {MOST_CLASSES}, not {n_way}: all N! numberings are listed")
    return torch.tensor(list(permutations(range(n_way))))


def accuracies(predicted: Tensor, classes: Tensor, n_way: int) -> Tensor:
    """Accuracy of fixed predictions under every numbering of the classes: [N!] (float64).

    predicted: [B] labels that a classifier gave without having seen a support set; classes: [B], the class of each query, 0 to
    N − 1. The mean is exactly 1/N, whatever was predicted: a class has the label ŷ in (N − 1)! of N! numberings.
    """
    return (numberings(n_way)[:, classes] == predicted).double().mean(1)


def mean_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of fixed logits [B, N], averaged over all N! numberings of the classes [B]."""
    labels = numberings(logits.shape[-1])[:, classes]  # [N!, B]
    every = logits.expand(len(labels), *logits.shape).flatten(0, 1)
    return F.cross_entropy(every, labels.flatten())


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """Cross-entropy of logits [B, N] against the target 1/N for every class; no label is looked at. At least log N."""
    return -logits.log_softmax(-1).mean()
