"""The checkpoints of one training for a lab to carry in its page: the first in 32 bits, then differences.

Each difference is taken from the checkpoint before it *as it was kept*, so that errors do not add up. Vectors and the first and
last weights, which are few and to which the answers are sensitive, have 16 bits an entry and one scale. A large matrix has one
scale per row, and 8 bits an entry where the difference is small, else 16. ``studies.train_maml`` records what this rounding
changes. train_maml.js reads the same bytes (``unpackPath``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mlbook.errors import UserError

FINE, COARSE = 32_767, 127
WIDEST = 0.004
"""The widest step between two codes of 8 bits."""


def blocks(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """(rows with a scale of their own, entries of a row) of each tensor."""
    large = [len(shape) == 2 and min(shape) > 1 for shape in shapes]
    return [shape if own else (1, math.prod(shape)) for shape, own in zip(shapes, large, strict=True)]


def pack(path: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> bytes:
    """path [checkpoints, parameters] -> little-endian bytes: the first as float32; then of each, tensor by tensor, a byte with
    the number of bytes of a code, the scales as float32 and the codes as int8 or int16."""
    if not np.isfinite(path).all():
        raise UserError("the parameters of a checkpoint are not all finite")
    kept = path[0].astype("<f4")
    out = [kept.tobytes()]
    for wanted in path[1:]:
        difference, start, parts = wanted.astype("f8") - kept, 0, []
        for rows, length in blocks(shapes):
            block = difference[start : start + rows * length].reshape(rows, length)
            most = np.abs(block).max(1, keepdims=True)
            largest = COARSE if rows > 1 and most.max() <= WIDEST * COARSE else FINE
            scale = (most / largest).astype("<f4")
            codes = np.rint(block / np.where(scale > 0, scale, 1)).clip(-largest, largest)
            kind = "i1" if largest == COARSE else "<i2"
            parts += [bytes([np.dtype(kind).itemsize]), scale.tobytes(), codes.astype(kind).tobytes()]
            start += rows * length
        out += parts
        kept = unpack(kept.tobytes() + b"".join(parts), shapes)[1]
    return b"".join(out)


def unpack(data: bytes, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The checkpoints that ``pack`` kept, float32 [checkpoints, parameters]."""
    count = sum(rows * length for rows, length in blocks(shapes))
    path, at = [np.frombuffer(data, "<f4", count)], 4 * count
    while at < len(data):
        differences = []
        for rows, length in blocks(shapes):
            size, codes = data[at], at + 1 + 4 * rows
            scale = np.frombuffer(data, "<f4", rows, at + 1)[:, None].astype("f8")
            block = np.frombuffer(data, f"<i{size}", rows * length, codes).reshape(rows, length)
            differences.append((block * scale).ravel())
            at = codes + size * rows * length
        path.append((path[-1] + np.concatenate(differences)).astype("<f4"))
    return np.stack(path)
