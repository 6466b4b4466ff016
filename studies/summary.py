"""Scores of tasks as the entries of a record: means with 95 % intervals, and differences task by task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mlbook.training.evaluation import mean_and_ci95, mean_and_t95


def mean_and_interval(values: Tensor) -> dict[str, float]:
    """values [n] -> their mean and the half-width of its 95 % interval."""
    mean, half = mean_and_ci95(values.double())
    return {"mean": mean, "ci95": half}


def interval_over_seeds(values: Sequence[float]) -> dict[str, float]:
    """One number per seed -> their mean and the half-width of its 95 % interval by Student's t."""
    mean, half = mean_and_t95(values)
    return {"mean": mean, "ci95": half}


def beside(scores: Tensor, reference: Tensor) -> dict[str, float]:
    """Accuracies [n], and their difference from the reference's on the same tasks."""
    (accuracy, half), (gain, width) = mean_and_ci95(scores), mean_and_ci95(scores - reference)
    return {"accuracy": accuracy, "ci95": half, "difference": gain, "difference_ci95": width}
