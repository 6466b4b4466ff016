"""How a device rounds products, and whether it repeats itself: torch's switches, set in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from mlbook.engines import conv4_sweeps
from mlbook.engines.convolutions import PRECISIONS
from mlbook.errors import UserError
from mlbook.meta_learners import IMAML, MAML, Backbone
from mlbook.meta_learners.base import MetaLearner


def use_precision(precision: str, device: torch.device, learner: MetaLearner) -> None:
    """Set torch's switches for matrix products and convolutions to ``precision``; ``UserError`` where it cannot be had."""
    if precision not in PRECISIONS:
        raise UserError(f"--precision must be {', '.join(PRECISIONS)}, not {precision!r}")
    cuda = device.type == "cuda"
    if precision == "bf16" or (precision == "tf32" and not cuda):
        by_engine = isinstance(learner, MAML) and not isinstance(learner, IMAML)
        if not (by_engine and conv4_sweeps.fits(learner.model)):
            place = "a GPU or " if precision == "tf32" else ""
            raise UserError(
                f"--precision {precision} needs {place}one of the convolutional networks, trained by MAML"
            )
    if not cuda:
        return
    if precision != "float32" and not has_short_units():
        # a run's id says tf32 or bf16, and the products would be others
        raise UserError(f"this GPU has no {precision} units; use --precision float32")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # sums are kept in float32
    # a backbone calls the same large convolutions over and over: the fastest way to each is measured once
    repeat = torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = isinstance(learner, Backbone) and not repeat


def has_short_units() -> bool:
    """Whether this GPU has units for tf32 and bf16: from Ampere on, so a T4 has none (torch only imitates bf16 there)."""
    return torch.cuda.get_device_capability() >= (8, 0)


def for_device(learner: MetaLearner, device: torch.device) -> MetaLearner:
    """The learner as it can be trained there: a backbone that rounds to bf16 rounds to float16 on a GPU without bf16 units."""
    rounds = isinstance(learner, Backbone) and learner.precision == "bf16"
    if rounds and device.type == "cuda" and not has_short_units():
        return replace(learner, precision="float16")
    return learner


@contextmanager
def repeatable(on: bool) -> Iterator[None]:
    """Within the block torch takes operations that give the same bits every time, where ``on`` is true.

    An operation that has no such form is a ``RuntimeError`` of torch's.
    """
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is used first
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic = before[1]
