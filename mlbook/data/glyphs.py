"""Generated glyphs: stroke characters by several drawers, so that every image chapter runs with no download.

They stand in for Omniglot where it is not there and are always labelled as generated. A class is a small set of curved strokes;
a drawer redraws it with his own slant, size, pen width and unsteady hand. Everything follows from one fixed seed.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from mlbook.data.pools import ClassPool, Rotations
from mlbook.errors import UserError

CLASSES, DRAWERS, SIZE = 600, 20, 28
SPLITS = {"train": (0, 400), "validation": (400, 450), "test": (450, 600)}
SEED = 20
MAX_STROKES, POINTS = 4, 64


def load(split: str, rotations: Rotations = "per_task") -> ClassPool:
    """The pool of one split (``train``, ``validation``, ``test`` or ``all``): [classes, 20, 1, 28, 28], ink = 255."""
    if split not in SPLITS and split != "all":
        raise UserError(f"split must be train, validation, test or all, not {split!r}")
    images = _drawings()
    names = tuple(f"generated glyph {i}" for i in range(CLASSES))
    pool = ClassPool(images[:, :, None], rotations, names)
    return pool if split == "all" else pool.subset(slice(*SPLITS[split]))


def load_as_reptile(split: str) -> ClassPool:
    """As ``omniglot.load_as_reptile``: rotations as classes for ``train``, upright glyphs for ``test``; ink = 0."""
    if split not in ("train", "test"):
        raise UserError(f"split must be train or test, not {split!r}")
    return load(split, "as_classes" if split == "train" else "none").inverted()


@functools.cache
def _drawings() -> Tensor:
    """All drawings, uint8 [classes, drawers, 28, 28]."""
    g = torch.Generator().manual_seed(SEED)
    # a class: 2 to 4 strokes, each a cubic Bézier curve between points of a 4×4 grid, bent by its inner control points
    grid = (
        torch.randint(0, 4, (CLASSES, MAX_STROKES, 2, 2), generator=g) / 1.5 - 1
    )  # start and end, in [-1, 1]
    bend = torch.randn(CLASSES, MAX_STROKES, 2, 2, generator=g) * 0.45
    start, end = grid[:, :, 0], grid[:, :, 1]
    # a stroke that would be a dot is stretched to the opposite side
    end = torch.where((start - end).norm(dim=-1, keepdim=True) < 0.1, -start - 0.3 * start.sign() - 0.1, end)
    control = torch.stack([start, 2 / 3 * start + end / 3, start / 3 + 2 / 3 * end, end], dim=2)
    control[:, :, 1:3] += bend
    n_strokes = torch.randint(2, MAX_STROKES + 1, (CLASSES,), generator=g)

    # a drawing: jittered control points, then slant, size and place of the drawer's hand
    C, D = CLASSES, DRAWERS
    drawn = control[:, None] + 0.10 * torch.randn(C, D, MAX_STROKES, 4, 2, generator=g)
    t = torch.linspace(0, 1, POINTS)
    basis = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)  # [P, 4]
    curve = torch.einsum("pk,cdskx->cdspx", basis, drawn)  # [C, D, strokes, P, 2]
    angle = 0.16 * torch.randn(C, D, generator=g)
    scale = 0.72 * torch.exp(0.12 * torch.randn(C, D, 2, generator=g))
    shear = 0.18 * torch.randn(C, D, generator=g)
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # [C, D, 2, 2]
    lean = torch.zeros(C, D, 2, 2)
    lean[..., 0, 0], lean[..., 1, 1] = scale[..., 0], scale[..., 1]
    lean[..., 0, 1] = shear
    curve = torch.einsum("cdxy,cdspy->cdspx", turn @ lean, curve)
    curve = curve + 0.09 * torch.randn(C, D, 1, 1, 2, generator=g)

    # ink: stamp a round pen along every stroke
    pen = 0.75 + 0.35 * torch.rand(C, D, generator=g)  # radius in pixels
    around = torch.linspace(0, 2 * math.pi, 9)[:-1]
    ring = torch.cat([torch.zeros(1, 2), torch.stack([torch.cos(around), torch.sin(around)], -1)])  # [9, 2]
    pixel = (curve + 1) * (SIZE - 1) / 2
    stamp = pixel[..., None, :] + pen[:, :, None, None, None, None] * ring  # [C, D, strokes, P, 9, 2]
    column, row = stamp.round().long().clamp_(0, SIZE - 1).unbind(-1)
    real = (torch.arange(MAX_STROKES) < n_strokes[:, None])[:, None, :, None, None].expand_as(row)
    index = (row * SIZE + column).flatten(2)
    # strokes that the class does not have are stamped into a bin that is thrown away
    index = torch.where(real.flatten(2), index, SIZE * SIZE)
    canvas = torch.zeros(C, D, SIZE * SIZE + 1, dtype=torch.uint8)
    canvas.scatter_(2, index, 255)
    return canvas[..., :-1].reshape(C, D, SIZE, SIZE)
