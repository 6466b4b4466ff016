"""The table of a search space: the accuracies of every architecture, trained once for each of several seeds.

With it a search costs nothing, because a child is looked up instead of trained. The reward is the validation accuracy of one
seed. The worth of an architecture is its mean test accuracy under all other seeds, which the search has not seen. ``python -m
studies.architectures`` makes the table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from mlbook.architecture.children import SIZES
from mlbook.errors import UserError


@dataclass(frozen=True)
class ArchitectureTable:
    """Accuracies, float64, from 0 to 1. Rows are in the order of ``children.enumerate_space``."""

    validation: Tensor
    """[architectures, seeds]."""
    test: Tensor
    """[architectures, seeds]."""
    about: dict
    """Data, training, seeds, versions, when and on what machine."""

    @property
    def seeds(self) -> int:
        """How many there are."""
        return self.validation.shape[1]

    def rewards(self, seed: int | Tensor) -> Tensor:
        """Validation accuracies of one seed, [architectures]; for seeds [searches], [searches, architectures]."""
        return self.validation.T[seed]

    def worth(self, seed: int | Tensor) -> Tensor:
        """Mean test accuracy under the other seeds, in the same shape."""
        return (self.test.sum(1) - self.test.T[seed]) / (self.seeds - 1)

    def best(self, seed: int | Tensor, fraction: float = 0.05) -> Tensor:
        """Whether an architecture is among the best ``fraction`` of the space by its worth, in the same shape.

        Raises ``UserError`` for a fraction outside (0, 1].
        """
        if not 0 < fraction <= 1:
            raise UserError(f"the fraction must lie in (0, 1], got {fraction}")
        worth = self.worth(seed)
        place = worth.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return place < round(fraction * worth.shape[-1])


@cache
def load() -> ArchitectureTable:
    """The table that comes with the package: characters of Omniglot. Raises ``UserError`` if it is of another search space."""
    record = json.loads((files("mlbook") / "results" / "architectures.json").read_text(encoding="utf-8"))
    drawings = record["drawings"]
    parts = []
    for part in ("validation", "test"):
        right = torch.tensor(record.pop(f"{part}_right"), dtype=torch.float64)
        parts.append(right / drawings[part])
    if [len(options) for _, options in record["decisions"]] != list(SIZES):
        raise UserError(
            "the table is of another search space; make it again: python -m studies.architectures"
        )
    return ArchitectureTable(*parts, record)
