"""NaN and infinity are refused where they come up, not carried on."""

from __future__ import annotations

import math

import torch

from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, Metrics, State, leaves

STEPS_BETWEEN_LOOKS = 100
"""Meta-steps between two looks at the parameters on a GPU; every look waits for it."""


def not_finite(meta: Meta) -> str | None:
    """The name of a tensor of ``meta`` that holds NaN or infinity; None where all are finite."""
    for group in sorted(meta):
        for name, tensor in sorted(meta[group].items()):
            if not torch.isfinite(tensor).all():
                return name if group == "params" else f"{group}/{name}"
    return None


def refuse_not_finite(meta: Meta, where: str = "", error: type[UserError] = UserError) -> None:
    """Raise ``error`` with the name of the parameter that holds NaN or infinity. where: what holds it, a file for instance."""
    if (name := not_finite(meta)) is not None:
        raise error(f"{where or 'these meta-parameters'}: parameter {name} holds NaN or infinity")


def check_step(state: State, metrics: Metrics, meta_steps: int) -> None:
    """``UserError`` with the meta-step where the loss or a parameter has become NaN or infinite.

    On a CPU every meta-step is looked at, on a GPU every hundredth and the last of ``meta_steps``.
    """
    tensors = leaves(state.meta)
    waits = any(t.device.type != "cpu" for t in tensors)
    if waits and state.meta_step % STEPS_BETWEEN_LOOKS and state.meta_step != meta_steps:
        return
    loss = float(metrics.get("loss", 0.0))
    if not math.isfinite(loss):
        raise UserError(f"the loss became {loss} at meta-step {state.meta_step}; lower the rates")
    # a sum is finite where everything is, unless it overflows; only then is every entry looked at
    if (
        not all(math.isfinite(t.sum().item()) for t in tensors)
        and (name := not_finite(state.meta)) is not None
    ):
        raise UserError(
            f"parameter {name} became NaN or infinite at meta-step {state.meta_step}; lower the rates"
        )
