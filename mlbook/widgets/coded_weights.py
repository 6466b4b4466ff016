"""Weights in a quarter of their bytes: 8 bits each with one scale per filter, for a lab that carries whole networks in its page.

A tensor with more than one index is rounded row by row (a row is a filter, or one output of a linear layer): the entries are
whole multiples, from −127 to 127, of one number in 32 bits. Tensors with one index (biases, batch norm) stay in 32 bits. Second
moments of Adam spread over many powers of two and are divisors, so their *logarithms* are cut into 255 equal steps per tensor.
draw_worker.js reads the same bytes (``unpackCoded``).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.models.functional import Params

LEVELS = 127
STEPS = 255
LEAST = -60
"""Smallest logarithm of a second moment that is kept: the root of 2⁻⁶⁰ is a tenth of the ε = 10⁻⁸ that Adam adds to it. The
shipped Reptile weights have dead filters whose moments are far smaller."""


def _rows(t: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [rows, entries] and scales [rows, 1] (float32 values, as doubles) of a tensor with several indices."""
    rows = t.detach().cpu().double().flatten(1)
    scale = (rows.abs().amax(1, keepdim=True) / LEVELS).float().double()
    whole = (rows / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(-LEVELS, LEVELS)
    return whole, scale


def _logarithms(t: Tensor) -> tuple[Tensor, float, float]:
    """Steps [entries] and the lowest and the highest logarithm to base 2 (float32 values)."""
    logs = t.detach().cpu().double().flatten().clamp(min=2.0**LEAST).log2()
    low, high = (float(np.float32(v)) for v in (logs.min(), logs.max()))
    width = max(high - low, 1e-30)
    return ((logs - low) / width * STEPS).round().clamp(0, STEPS), low, high


def pack(params: Params) -> bytes:
    """Parameters as bytes, in the order of the dict. ``UserError`` where they are not finite."""
    parts: list[bytes] = []
    for name, t in params.items():
        if not t.isfinite().all():
            raise UserError(f"{name} has entries that are not finite")
        if t.ndim < 2:
            parts.append(t.detach().cpu().numpy().astype("<f4").tobytes())
            continue
        for whole, scale in zip(*_rows(t), strict=True):
            parts += [scale.numpy().astype("<f4").tobytes(), whole.numpy().astype("i1").tobytes()]
    return b"".join(parts)


def rounded(params: Params) -> Params:
    """What ``pack`` keeps of the parameters, in double precision: what the page computes with."""
    found = {}
    for name, t in params.items():
        if t.ndim < 2:
            found[name] = t.detach().cpu().float().double()
        else:
            whole, scale = _rows(t)
            found[name] = (whole * scale).view(t.shape)
    return found


def pack_moments(moments: Params) -> bytes:
    """Second moments as bytes, in the order of the dict."""
    parts = []
    for t in moments.values():
        steps, low, high = _logarithms(t)
        parts += [np.array([low, high], "<f4").tobytes(), steps.numpy().astype("u1").tobytes()]
    return b"".join(parts)


def rounded_moments(moments: Params) -> Params:
    """What ``pack_moments`` keeps of second moments, in double precision."""
    found = {}
    for name, t in moments.items():
        steps, low, high = _logarithms(t)
        found[name] = torch.exp2(low + (high - low) * steps / STEPS).view(t.shape)
    return found
