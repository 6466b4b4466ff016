"""The losses on support and query sets, and what predictions and targets have to
look like for them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.errors import UserError


def check_targets(loss: str, prediction: Tensor, y: Tensor) -> None:
    """``UserError`` unless targets ``y`` fit ``prediction`` under that loss, in
    shape and type.

    cross_entropy: logits [B, N] and integer labels [B]; mse: values [B, ...] and
    real targets of the same shape.
    """
    shapes = f"{list(prediction.shape)}", f"{list(y.shape)}"
    if loss == "mse":
        if prediction.shape != y.shape:
            raise UserError(
                "predictions of shape {} and targets of shape {} do not fit: mse "
                "compares equal shapes".format(*shapes)
            )
        if not y.is_floating_point():
            raise UserError(
                f"mse needs real targets, not {y.dtype}; convert them with .float()"
            )
        return
    if y.dtype != torch.int64:
        raise UserError(
            f"cross_entropy needs class labels of type torch.int64, not {y.dtype}"
        )
    if prediction.dim() != 2 or prediction.shape[:1] != y.shape:
        raise UserError(
            "cross_entropy needs logits [B, N] and labels [B]; the network returns "
            "{} for labels of shape {}".format(*shapes)
        )


def cross_entropy(prediction: Tensor, y: Tensor) -> Tensor:
    """Mean over logits [B, N] and labels [B]."""
    check_targets("cross_entropy", prediction, y)
    return F.cross_entropy(prediction, y)


def mse(prediction: Tensor, y: Tensor) -> Tensor:
    """Mean over all entries of prediction and target."""
    check_targets("mse", prediction, y)
    return F.mse_loss(prediction, y)


LOSSES = {"cross_entropy": cross_entropy, "mse": mse}
"""Mean losses over a set: (predictions, targets) -> scalar."""


def check_labels(y: Tensor, n_way: int) -> None:
    """``UserError`` unless all labels are classes 0 to N − 1. It waits for the
    device."""
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < n_way:
        raise UserError(
            f"labels must be from 0 to {n_way - 1}, since the network has {n_way} "
            f"outputs; these are from {int(y.min())} to {int(y.max())}"
        )
