"""The ledger: published results and ours. Every number on a page comes from here.

``published*.json``: value, interval, protocol and source of the published rows. ``reproductions*.json``: what others got.
``runs/``: one record per run of ours. ``pretrained/``: the checkpoints that are shipped. ``benchmarks/`` and ``studies/``: what
the programs in the folders of these names found.
"""

from __future__ import annotations

import json
import statistics
from functools import cache
from pathlib import Path

import torch

from mlbook.errors import CheckpointError
from mlbook.experiments import EXPERIMENTS, trained_by
from mlbook.meta_learners.base import Meta
from mlbook.training.runner import load_checkpoint

__all__ = ["benchmark", "ledger", "pretrained", "published", "run_record", "runs", "study"]

FOLDER = Path(__file__).parent
RUNS, PRETRAINED = FOLDER / "runs", FOLDER / "pretrained"
BENCHMARKS, STUDIES = FOLDER / "benchmarks", FOLDER / "studies"


def _read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def published() -> dict[str, dict]:
    """Published rows by key."""
    return _read(FOLDER / "published.json")


@cache
def reproductions() -> list[dict]:
    """What other code bases report of MAML, and how they read its inner rate (``loss``: what the rate multiplies the gradient of;
    ``queries``: per class at meta-test, K for as many as shots, null where we did not find it)."""
    return _read(FOLDER / "reproductions.json")


@cache
def reproductions_of_leo() -> list[dict]:
    """What code bases report of LEO on features of which backbone; a pair of values is a range."""
    return _read(FOLDER / "reproductions_leo.json")


@cache
def reproductions_of_learned_optimizers() -> list[dict]:
    """What a user of the official code got: base-10 logarithms of mean final losses, learned beside its own Adam."""
    return _read(FOLDER / "reproductions_optimizers.json")


@cache
def published_augmentation() -> dict:
    """Test errors of policies of data augmentation, hours of DADA's search, and the policy that it found on CIFAR-10."""
    return _read(FOLDER / "published_augmentation.json")


def runs() -> list[dict]:
    """All run records, in the order of their file names."""
    return [_read(path) for path in sorted(RUNS.glob("*.json"))]


def run_record(experiment: str, records: list[dict] | None = None) -> dict | None:
    """The record shown for an experiment: the longest run, of equals the one with the smallest seed. records: all of them, where
    they have been read already."""
    its = [r for r in (runs() if records is None else records) if r["experiment"] == experiment]
    return max(its, key=lambda r: (r["meta_steps"], -r["config"]["seed"]), default=None)


def benchmark(name: str) -> dict | None:
    """The record of ``python -m benchmarks.NAME`` that is kept with the package, or None if there is none."""
    path = BENCHMARKS / f"{name}.json"
    return _read(path) if path.is_file() else None


def study(name: str) -> dict | None:
    """The record of ``python -m studies.NAME`` that is kept with the package, or None if there is none."""
    path = STUDIES / f"{name}.json"
    return _read(path) if path.is_file() else None


def pretrained_path(experiment: str) -> Path:
    """The shipped checkpoint of an experiment (or of the one that trains for it), or ``CheckpointError``."""
    owner = trained_by(experiment)
    path = PRETRAINED / f"{owner}.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint of {experiment} is shipped; train it: python -m mlbook train {owner} --preset colab"
        )
    return path


def pretrained(experiment: str, device: torch.device | str = "cpu") -> tuple[dict, Meta]:
    """Configuration and meta-parameters of a shipped checkpoint, or ``CheckpointError``.

    The configuration is that of the training, whose experiment may serve others, see ``pretrained_path``.
    """
    return load_checkpoint(pretrained_path(experiment), device)


def ours(record: dict) -> dict:
    """The part of a run record that stands in a results table."""
    evaluation = record["evaluation"]
    metric = evaluation["metric"]
    official = {"official_goals": record["official_goals"]} if "official_goals" in record else {}
    return {
        "metric": metric,
        # of an agent, the returns after 0, 1, … inner steps are the result
        metric: evaluation["mean"] if metric == "return" else evaluation[metric],
        **official,
        "ci95": evaluation["ci95"],
        "by_step": evaluation["mean"],
        "ci95_by_step": evaluation["ci95_by_step"],
        "step": evaluation["step"],
        "tasks": evaluation["tasks"],
        "protocol": evaluation["protocol"],
        "meta_steps": record["meta_steps"],
        "preset": record["preset"],
        "device": record["device"],
        "seconds": record["seconds"],
        "seed": record["config"]["seed"],
        "commit": record["commit"],
    }


def by_seed(record: dict, records: list[dict] | None = None) -> dict[int, float]:
    """{seed: score at the reported step} of this run and of those that differ from it in the seed alone: what the draw of the
    training changes, which the interval over tasks does not cover. records: all of them, where they have been read already."""

    def recipe(its: dict) -> dict:
        return {key: value for key, value in its["config"].items() if key != "seed"}

    found = {}
    for its in runs() if records is None else records:
        test, shown = its.get("evaluation", {}), record["evaluation"]
        if its["experiment"] == record["experiment"] and recipe(its) == recipe(record):
            if (test["tasks"], test["step"]) == (shown["tasks"], shown["step"]):
                found[its["config"]["seed"]] = test["mean"][test["step"]]
    return dict(sorted(found.items()))


def ledger() -> list[dict]:
    """One row per experiment and per published result without one: published beside ours."""
    rows = []
    claimed = set()
    records = runs()
    for experiment in EXPERIMENTS.values():
        record = run_record(experiment.name, records)
        row = published().get(experiment.published) if experiment.published else None
        claimed.add(experiment.published)
        rows.append(
            {
                "experiment": experiment.name,
                "published": row,
                "ours": ours(record) | {"by_seed": by_seed(record, records)} if record else None,
                "deviation": deviations(record) if record else None,
            }
        )
    for key, row in published().items():
        if key not in claimed:
            rows.append({"experiment": key, "published": row, "ours": None, "deviation": None})
    return rows


def deviations(record: dict) -> str:
    """Where a run departs from the published recipe: the options in which its preset differs from ``paper``."""
    from mlbook.experiments import config, get

    full = config(get(record["experiment"]), "paper", seed=record["config"]["seed"])
    changes = []
    for key, value in record["config"].items():
        if key == "learner":
            names = sorted(set(value) | set(full["learner"]))
            pairs = [(n, value.get(n), full["learner"].get(n)) for n in names]
        elif key != "preset":
            pairs = [(key, value, full.get(key))]
        else:
            continue
        changes += [f"{n} {new} instead of {_or_default(old)}" for n, new, old in pairs if new != old]
    return "; ".join(changes) or "none"


def _or_default(value) -> str:
    return "the default" if value is None else str(value)


def status(row: dict) -> str:
    """Why a row has no result of ours: ``not run yet``, ``quoted`` from other work, or ``no experiment yet``; else ``run``."""
    if row["ours"] is not None:
        return "run"
    if row["experiment"] in EXPERIMENTS:
        return "not run yet"
    return "quoted" if row["published"]["protocol"].startswith("as quoted") else "no experiment yet"


def is_pending(row: dict) -> bool:
    """Whether an experiment of ours has no run at full length (paper preset) yet."""
    return row["experiment"] in EXPERIMENTS and (row["ours"] is None or row["ours"]["preset"] != "paper")


def score_text(
    value: float | None, ci95: float | None, metric: str, *, percent_digits: int = 2, unit: bool = True
) -> str:
    """A score as it is printed, like ``98.70 ± 0.20 %``; a dash where there is none.

    An accuracy, 0 to 1, becomes a percentage with ``percent_digits``; a loss has four digits (a very small one
    two, with an exponent); other metrics have two.
    """
    if value is None:
        return "–"
    if metric == "loss" and 0 < value < 0.0005:
        return f"{value:.1e}" + ("" if ci95 is None else f" ± {ci95:.1e}")
    scale, digits, sign = {
        "accuracy": (100, percent_digits, " %" if unit else ""),
        "loss": (1, 4, ""),
    }.get(metric, (1, 2, ""))
    interval = "" if ci95 is None else f" ± {scale * ci95:.{digits}f}"
    return f"{scale * value:.{digits}f}{interval}{sign}"


def trainings(row: dict) -> str:
    """The scores of all trainings by the recipe that a row shows, and their standard deviation; empty where there is one."""
    scores = list(row["ours"].get("by_seed", {}).values())
    if len(scores) < 2:
        return ""
    accuracy = row["ours"]["metric"] == "accuracy"
    *each, spread = (
        f"{100 * value:.2f}" if accuracy else f"{value:.3g}" for value in (*scores, statistics.stdev(scores))
    )
    return f"{len(scores)} trainings: {', '.join(each)} (standard deviation {spread})"


def as_text(rows: list[dict]) -> str:
    """The ledger as aligned lines for a terminal."""
    width = max(len(name) for name in ("experiment", *(row["experiment"] for row in rows)))
    lines = [f"{'experiment':{width}} {'published':>16} {'ours':>17}  how"]
    for row in rows:
        theirs, mine = row["published"], row["ours"]
        left = score_text(theirs["value"], theirs["ci95"], theirs["metric"], unit=False) if theirs else "–"
        if mine is None:
            right, how = status(row), ""
        else:
            right = score_text(mine["by_step"][mine["step"]], mine["ci95"], mine["metric"], unit=False)
            how = f"{mine['preset']}, {mine['meta_steps']:,} meta-steps, {mine['tasks']} tasks, step {mine['step']}"
        lines.append(f"{row['experiment']:{width}} {left:>16} {right:>17}  {how}")
    return "\n".join(lines)
