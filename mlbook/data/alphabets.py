"""Characters by alphabet, and each drawing's place in the order of the drawers: what is needed to give drawings to clients.

Omniglot has 50 alphabets, 30 in its background part and 20 in its evaluation part. Every character was drawn 20 times, and
drawing j of all characters of one alphabet is by the same person; drawing j of another alphabet may be by somebody else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlbook.data import glyphs, omniglot
from mlbook.errors import DataError, UserError

PARTS = ("background", "evaluation")
GLYPHS_EACH = 20
"""Generated glyphs in an "alphabet": they have none, so that many neighbours take its place. Nor have they drawers: every drawing
has a hand of its own."""


def load(dataset: str, part: str = "background") -> dict[str, Tensor]:
    """The drawings of every alphabet, {name: uint8 [characters, 20, 28, 28]}, ink = 255; characters in the order of their names.

    dataset: ``omniglot`` or ``glyphs``. part: ``background`` or ``evaluation``. Raises ``DataError`` when Omniglot is not there.
    """
    if part not in PARTS:
        raise UserError(f"part must be background or evaluation, not {part!r}")
    if dataset == "glyphs":
        images = glyphs.load("all").images[:, :, 0]
        groups = images.split(GLYPHS_EACH)
        cut = glyphs.SPLITS["train"][1] // GLYPHS_EACH
        its = range(cut) if part == "background" else range(cut, len(groups))
        return {f"generated group {i}": groups[i] for i in its}
    if dataset != "omniglot":
        raise UserError(f"alphabets are known of omniglot and glyphs, not of {dataset!r}")
    if not omniglot.available():
        raise DataError(
            "Omniglot is not there yet; run: python -m mlbook data get omniglot  (or data import omniglot --from PATH)"
        )
    images, names = omniglot.verified()
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        folder, alphabet, _ = name.split("/")
        if folder == f"images_{part}":
            rows.setdefault(alphabet, []).append(row)
    return {alphabet: images[torch.tensor(its)] for alphabet, its in rows.items()}
