"""Pictures for a page whose reader has none yet: coloured outlines, one folder per class, like a folder of photographs."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WAVES = 4
"""Waves around the outline of a class."""


def outline(label: int, number: int, size: int = 64) -> Image.Image:
    """Picture ``number`` of class ``label``: its shape and roughly its colour. Place, size, turn, brightness and ground vary."""
    kind, own = np.random.default_rng(label), np.random.default_rng((label, number))
    waves, hue, saturation = kind.uniform(-0.45, 0.45, (2, WAVES)), kind.uniform(), kind.uniform(0.5, 1)
    angle = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    turns = np.arange(2, WAVES + 2)[:, None] * angle
    radius = np.clip(1 + waves[0] @ np.cos(turns) + waves[1] @ np.sin(turns), 0.2, None)
    radius *= size * own.uniform(0.34, 0.44) / radius.max()
    middle, turn = size / 2 + own.uniform(-0.05, 0.05, 2) * size, own.normal(0, 0.15)
    points = np.stack([radius * np.cos(angle + turn), radius * np.sin(angle + turn)], 1) + middle
    ground = (own.uniform(30, 225) + own.normal(0, 12, 3)).clip(0, 255)
    ink = 255 * np.array(
        colorsys.hsv_to_rgb((hue + own.normal(0, 0.04)) % 1, saturation, own.uniform(0.35, 1))
    )
    picture = Image.new("RGB", (size, size), tuple(int(c) for c in ground))
    ImageDraw.Draw(picture).polygon([tuple(p) for p in points.tolist()], fill=tuple(int(c) for c in ink))
    grain = np.asarray(picture, dtype=float) + own.normal(0, 12, (size, size, 3))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


def make_pictures(folder: Path, *, classes: int = 50, each: int = 16, size: int = 64) -> Path:
    """Write ``each`` pictures of every class as ``folder/kind-07/kind-07-03.png``; returns the folder."""
    for label in range(classes):
        place = folder / f"kind-{label:02}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            outline(label, number, size).save(place / f"{place.name}-{number:02}.png", compress_level=1)
    return folder
