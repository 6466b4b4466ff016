"""Strokes of a pen, the pixels that they become, and invented characters made of strokes.

strokes.js has the first two for the page.

A stroke is a list of coordinates x0, y0, x1, y1, … on a square of 105 × 105, y downwards, as Omniglot's drawings were.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlbook.data.omniglot import ORIGINAL, nearest_28

Stroke = Sequence[float]

PEN = 5.4
"""Diameter of the pen on that square. Over Omniglot's 32,460 drawings at 28×28, of the 2×2 blocks with any ink 10 % are full and
0.6 % hold two diagonal pixels only. Round pens of 5 and 6 give 6 and 13 % full and 1.8 and 0.4 % diagonal ones."""
MIDDLE = (51.0, 50.5)
"""Where the middle of the box around a drawing lies on average in Omniglot (x, y). Single drawings lie 1.5 pixels of the 28 × 28
(standard deviation) away from it in either direction: they were not centred."""


def smoothed(stroke: Stroke) -> list[float]:
    """Points pulled a little towards their neighbours (weights ¼, ½, ¼), but for the ends."""
    return [
        v if i < 2 or i >= len(stroke) - 2 else (stroke[i - 2] + 2 * v + stroke[i + 2]) / 4
        for i, v in enumerate(stroke)
    ]


def pixels(strokes: Sequence[Stroke], centred: bool = False) -> Tensor:
    """float32 [28, 28] of a drawing, ink = 1: a round pen on a bitmap of 105 × 105, then the pixels that ``nearest_28`` reads.

    centred: first move the drawing so that its middle is ``MIDDLE``.
    """
    ink = torch.zeros(ORIGINAL, ORIGINAL, dtype=torch.bool)
    lines = [torch.tensor(smoothed(s), dtype=torch.float64).view(-1, 2) for s in strokes]
    if not lines:
        return nearest_28(ink).float()
    if centred:
        points = torch.cat(lines)
        shift = torch.tensor(MIDDLE, dtype=torch.float64) - (points.amin(0) + points.amax(0)) / 2
        lines = [line + shift for line in lines]
    centre = torch.arange(ORIGINAL, dtype=torch.float64) + 0.5
    place = torch.stack([centre.expand(ORIGINAL, -1), centre[:, None].expand(-1, ORIGINAL)], -1)
    for line in lines:
        ends = line[1:] if len(line) > 1 else line  # a tap is a dot
        for a, b in zip(line, ends, strict=False):
            way = b - a
            share = ((place - a) @ way / (way @ way)).clamp(0, 1) if way.any() else torch.zeros(())
            ink |= (place - a - share[..., None] * way).square().sum(-1) <= (PEN / 2) ** 2
    return nearest_28(ink).float()


def invented(
    classes: int, drawings: int, seed: int, *, hand: float = 0.09, points: int = 12
) -> list[list[list[list[int]]]]:
    """Characters as ``data.glyphs`` invents them (two or three Bézier curves each), as strokes: [class][drawing][stroke], whole
    coordinates. hand: how unsteadily a character is drawn again, in halves of the square's side.
    """
    g = torch.Generator().manual_seed(seed)
    grid = torch.randint(0, 4, (classes, 3, 2, 2), generator=g) / 1.5 - 1
    bend = torch.randn(classes, 3, 2, 2, generator=g) * 0.45
    start, end = grid[:, :, 0], grid[:, :, 1]
    end = torch.where((start - end).norm(dim=-1, keepdim=True) < 0.5, -start - 0.3 * start.sign() - 0.1, end)
    control = torch.stack([start, 2 / 3 * start + end / 3, start / 3 + 2 / 3 * end, end], dim=2)
    control[:, :, 1:3] += bend
    strokes = torch.randint(2, 4, (classes,), generator=g)
    again = control[:, None] + hand * torch.randn(classes, drawings, 3, 4, 2, generator=g)
    t = torch.linspace(0, 1, points)
    basis = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
    curve = torch.einsum("pk,cdskx->cdspx", basis, again)
    angle, size = (0.1 * torch.randn(classes, drawings, generator=g) for _ in range(2))
    cos, sin, size = angle.cos(), angle.sin(), 0.62 * size.exp()
    turn = size[..., None, None] * torch.stack(
        [torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2
    )
    curve = torch.einsum("cdxy,cdspy->cdspx", turn, curve)
    place = (ORIGINAL / 2 * (1 + curve)).round().clamp(4, ORIGINAL - 4).long()
    return [
        [[stroke.flatten().tolist() for stroke in drawing[: strokes[c]]] for drawing in place[c]]
        for c in range(classes)
    ]
