"""Where in a network the inner loop does its work: layers that are put back, and features before and after."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.maml import MAML
from mlbook.models.conv4 import Conv4
from mlbook.models.functional import Params, call
from mlbook.tasks.episode import Episode
from mlbook.training.evaluation import score, task_path


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of features x [n, D] and y [n, E] of the same n inputs: from 0 to 1.

    ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) with centred columns and Frobenius norms (Kornblith et al. 2019, equation 3). Turning the features or
    scaling all of them by one factor changes nothing. It is biased upwards unless n is several times D and E.
    """
    if len(x) != len(y) or len(x) < 2:
        rows = f"{len(x)} and {len(y)} rows"
        raise UserError(
            f"CKA compares features of the same inputs; these have {rows}"
        )
    x, y = x - x.mean(0), y - y.mean(0)
    alike = (y.t() @ x).square().sum()
    return alike / ((x.t() @ x).norm() * (y.t() @ y).norm())


def layer_outputs(model: Conv4, params: Params, x: Tensor) -> list[Tensor]:
    """What the four modules and the head make of images x [B, C, H, W]: five tensors [rows, features].

    Every position of a module's output is a row and its channels are the features, so that there are many more rows than
    features. Batch norm takes the statistics of x.
    """
    outputs: list[Tensor] = []
    with torch.no_grad():
        logits = call(model, params, x, outputs=outputs)
    return [*(its.permute(0, 2, 3, 1).flatten(0, 2) for its in outputs), logits]


def similarities(model: Conv4, before: Params, after: Params, x: Tensor) -> Tensor:
    """``linear_cka`` of the five outputs on images x under two sets of parameters: [5]."""
    pairs = zip(*(layer_outputs(model, params, x) for params in (before, after)), strict=True)
    return torch.stack([linear_cka(a, b) for a, b in pairs])


def put_back(adapted: Params, start: Params, prefixes: Sequence[str]) -> Params:
    """The adapted parameters, but those whose names begin with one of ``prefixes`` as they were before the inner loop."""
    chosen = tuple(prefixes)
    kept = {name: p for name, p in start.items() if name.startswith(chosen)}
    return adapted | kept


PARTS = (
    (),
    ("convs.0",),
    ("convs.0", "convs.1"),
    ("convs.0", "convs.1", "convs.2"),
    ("convs",),
    ("head",),
    ("convs", "head"),
)
"""What ``put_back_scores`` puts back: nothing, one to four modules from below, the head alone, everything."""


def put_back_scores(
    learner: MAML, meta: dict, task: Episode, *, steps: int, batch_norm: str = "transductive", parts=PARTS
) -> Tensor:
    """Accuracy on one task after ``steps`` inner steps with each of ``parts`` put back: [parts].

    Freezing after the fact (Raghu et al. 2020, section 3.2): if the accuracy stays, that part did not have to move.
    """
    start = meta["params"]
    with torch.no_grad():
        *_, adapted = task_path(learner, meta, task, steps)
        each = (put_back(adapted, start, part) if part else adapted for part in parts)
        return torch.stack([score(learner, params, task, batch_norm, None) for params in each])
