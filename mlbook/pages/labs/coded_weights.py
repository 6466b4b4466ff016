"""Whole networks for a lab to carry in its page: weights in 16 bits, second moments of Adam in 8.

Weights are rounded to half precision. Second moments spread over many powers of two and are divisors, so their *logarithms* are
cut into 255 equal steps per tensor. draw_worker.js reads the same bytes (``unpackMethods``).

What the rounding costs (600 meta-test tasks of Omniglot, 5-way 1-shot, five queries each, the same for each kind, batch norm over
the support set and one query): MAML after 3 steps is right on 95.77 % with 32 bits and with 16, and no task differs. Reptile
after 50 steps is right on 96.10 % with 32 bits and on 96.07 % with 16 (and 8 for the moments), one query of 3,000 less. Weights
in 8 bits with one scale per filter would halve the size, but cost Reptile 0.6 points (95.47 %), nearly all of it in the last
convolution.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.models.functional import Params

STEPS = 255
LEAST = -60
"""Smallest logarithm of a second moment that is kept: the root of 2⁻⁶⁰ is a tenth of the ε = 10⁻⁸ that Adam adds to it. The
shipped Reptile weights have dead filters whose moments are far smaller."""


def _logarithms(t: Tensor) -> tuple[Tensor, float, float]:
    """Steps [entries] and the lowest and the highest logarithm to base 2 (float32 values)."""
    logs = t.detach().cpu().double().flatten().clamp(min=2.0**LEAST).log2()
    low, high = (float(np.float32(v)) for v in (logs.min(), logs.max()))
    width = max(high - low, 1e-30)
    return ((logs - low) / width * STEPS).round().clamp(0, STEPS), low, high


def pack(tensors: Iterable[Tensor]) -> bytes:
    """Parameters in this order as little-endian float16. ``UserError`` where one is not finite in 16 bits."""
    flat = torch.cat([p.detach().cpu().flatten() for p in tensors]).half()
    if not flat.isfinite().all():
        raise UserError("the parameters are not all finite as 16-bit numbers")
    return flat.numpy().astype("<f2").tobytes()


def rounded(params: Params) -> Params:
    """What ``pack`` keeps of the parameters, in double precision: what the page computes with."""
    return {name: p.detach().cpu().half().double() for name, p in params.items()}


def pack_moments(moments: Params) -> bytes:
    """Second moments as bytes, in the order of the dict: lowest and highest logarithm as float32, then 8 bits each."""
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
