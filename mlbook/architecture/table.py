"""The table of a search space: what every architecture got, once for each of several seeds.

With it a search costs nothing: a child is not trained but looked up. The reward is the validation accuracy of one seed; what the
architecture is worth is the mean test accuracy of all other seeds, which no search has seen. Made by ``python -m
studies.architectures``.
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
    """validation and test: accuracies [architectures, seeds], float64, 0 to 1. about: data, training, where and when."""

    validation: Tensor
    test: Tensor
    about: dict

    @property
    def seeds(self) -> int:
        return self.validation.shape[1]

    def rewards(self, seed: int | Tensor) -> Tensor:
        """[architectures], or [searches, architectures] for as many seeds: validation accuracies of that one training."""
        return self.validation.T[seed]

    def worth(self, seed: int | Tensor) -> Tensor:
        """In the same shape: mean test accuracy of the other seeds' trainings."""
        return (self.test.sum(1) - self.test.T[seed]) / (self.seeds - 1)

    def best(self, seed: int | Tensor, fraction: float = 0.05) -> Tensor:
        """In the same shape: whether an architecture is among the best ``fraction`` of the space by its worth."""
        if not 0 < fraction <= 1:
            raise UserError(f"the fraction must lie in (0, 1], got {fraction}")
        worth = self.worth(seed)
        place = worth.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return place < round(fraction * worth.shape[-1])


@cache
def load() -> ArchitectureTable:
    """The table that is kept with the package: drawn characters of Omniglot."""
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
