"""What the record of ``studies.client_drift`` and the recorded runs of chapter 20 say: accuracies over seeds, rounds, bytes."""

from __future__ import annotations

from mlbook import experiments, results
from mlbook.errors import UserError
from mlbook.training.evaluation import mean_and_t95

DEFAULTS = {"inner_lr": 0.1, "meta_lr": 1.0, "momentum": 0.0, "control_variates": 0}


def in_points(values: list[float], *, sign: bool = False) -> str:
    """Shares from 0 to 1, one per seed, as ``45.1 ± 2.3``, in per cent or points."""
    mean, half = mean_and_t95(values)
    return f"{100 * mean:{'+' if sign else ''}.1f} ± {100 * half:.1f}".replace("-", "−")


def curves(study: dict, clients: str, inner_steps: int, **options) -> list[list[list[float]]]:
    """One curve for each seed: [local steps so far, accuracy] after every round that was tested.

    options: what differs from rate 0.1 and the plain average. Raises ``UserError`` where the study has no such training.
    """
    wanted = {**DEFAULTS, **options, "clients": clients, "inner_steps": inner_steps}
    for row in study["rows"]:
        if {**DEFAULTS, **{k: v for k, v in row.items() if k != "curves"}} == wanted:
            return [[_point(point) for point in curve.split(", ")] for curve in row["curves"]]
    raise UserError(f"the study has no training with {wanted}")


def _point(text: str) -> list[float]:
    steps, accuracy = text.split()
    return [int(steps), float(accuracy)]


def at_end(study: dict, clients: str, inner_steps: int, **options) -> list[float]:
    """Accuracy after the last round, one per seed."""
    return [curve[-1][1] for curve in curves(study, clients, inner_steps, **options)]


def rounds_to(study: dict, level: float, clients: str, inner_steps: int, **options) -> list[int | None]:
    """The first round that was tested whose model reaches this accuracy, one per seed; None where none does."""
    found = []
    for curve in curves(study, clients, inner_steps, **options):
        steps = next((steps for steps, accuracy in curve if accuracy >= level), None)
        found.append(None if steps is None else steps // inner_steps)
    return found


def round_bytes() -> int:
    """Bytes of the model of the experiments with shared labels as float32: what one client sends in one round."""
    config = experiments.config("fedavg-omniglot-alphabets", "colab")
    model = experiments.build_learner(config).model
    return 4 * sum(p.numel() for p in model.parameters())


def seeds(experiment: str, runs: list[dict] | None = None) -> list[dict]:
    """The evaluations of the recorded runs of an experiment, in the order of their seeds."""
    its = [r for r in (results.runs() if runs is None else runs) if r["experiment"] == experiment]
    return [r["evaluation"] for r in sorted(its, key=lambda r: r["config"]["seed"])]
