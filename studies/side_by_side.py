"""Rates for the four methods of chapter 14, chosen on meta-validation tasks, and longer runs with them, on sinusoids.

python -m studies.side_by_side [--only METHOD] [--again] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from mlbook.models import MLP
from mlbook.pages.checks import comparison
from mlbook.results import STUDIES
from mlbook.tasks import Sinusoids
from mlbook.training.records import keep, provenance

RECORD = STUDIES / "side_by_side.json"
INIT_STD = 0.3
SHOT, TRAIN_QUERY, TEST_QUERY = 10, 10, 50
JUDGED_STEP = 10
META_BATCH = 25
VALIDATION_SEED, TEST_SEED = 2, 1
VALIDATION_TASKS, TEST_TASKS = 200, 200
SEARCH = {"meta_steps": 1_000, "seeds": (0, 1)}
RUNS = {
    "short": {"meta_steps": 1_000, "seeds": (0, 1, 2, 3, 4)},
    "long": {"meta_steps": 5_000, "seeds": (0, 1)},
}
"""Runs with the chosen rates. The rates are those that were best after 1,000 meta-steps, in the long runs, too."""


def model() -> MLP:
    with torch.random.fork_rng(devices=[]):
        return MLP(init_std=INIT_STD)


def marks(meta_steps: int) -> tuple[int, ...]:
    """Where a learning curve is read: 0, then about eight points per factor of ten."""
    points = {round(10 ** (i / 8)) for i in range(8, 60)}
    return (0, *sorted(p for p in points if p < meta_steps), meta_steps)


def setting() -> dict:
    return {
        "tasks": Sinusoids(SHOT, TRAIN_QUERY),
        "test_tasks": Sinusoids(SHOT, TEST_QUERY),
        "meta_batch_size": META_BATCH,
        "steps": JUDGED_STEP,
    }


def validated(contender: comparison.Contender, meta_steps: int, seeds, tasks: int = VALIDATION_TASKS):
    """The contender with its best rate at meta-test, and its error on the meta-validation tasks (mean over the seeds)."""
    network, errors = model(), dict.fromkeys(comparison.TEST_RATES, 0.0)
    for seed in seeds:
        state = comparison.trained(
            contender,
            network,
            setting()["tasks"],
            meta_steps=meta_steps,
            meta_batch_size=META_BATCH,
            seed=seed,
        )
        for rate in errors:
            judged = comparison.scores(
                network,
                state.meta,
                setting()["test_tasks"],
                test_lr=rate,
                steps=JUDGED_STEP,
                n_tasks=tasks,
                seed=VALIDATION_SEED,
            )
            errors[rate] += float(judged[:, JUDGED_STEP].mean()) / len(seeds)
    best = min(errors, key=errors.get)
    return replace(contender, test_lr=best), errors[best]


def search(method: str, known: list[dict], meta_steps: int, seeds) -> dict:
    """Every contender of the method's grid with its validation error (null: the inner loop or the training diverged), and the
    best. known: rows of an earlier search, which are not repeated."""
    rows = []
    for contender in comparison.grid(method):
        options = asdict(contender)
        row = next((r for r in known if all(r[k] == options[k] for k in options if k != "test_lr")), None)
        if row is None:
            best, error = validated(contender, meta_steps, seeds)
            row = {**asdict(best), "validation_error": error if error < float("inf") else None}
            print(row, flush=True)
        rows.append(row)
    finite = [row for row in rows if row["validation_error"] is not None]
    best = min(finite, key=lambda row: row["validation_error"])
    return {"tried": rows, "chosen": {k: v for k, v in best.items() if k != "validation_error"}}


def run(chosen: dict, meta_steps: int, seeds) -> list:
    """Learning curves of a chosen contender on the meta-test tasks, one per seed: (meta-step, error) pairs."""
    curves = []
    for seed in seeds:
        points = comparison.follow(
            comparison.Contender(**chosen),
            model(),
            **setting(),
            meta_steps=meta_steps,
            marks=marks(meta_steps),
            seed=seed,
            test_seed=TEST_SEED,
            n_tasks=TEST_TASKS,
        )
        curves.append([(p.meta_step, p.error(JUDGED_STEP)) for p in points])
    print(chosen["method"], meta_steps, [round(c[-1][1], 3) for c in curves], flush=True)
    return curves


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.side_by_side", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--only", choices=comparison.METHODS, help="this method; what the record says of others stays"
    )
    parser.add_argument(
        "--again", action="store_true", help="search anew, not only what the record does not have"
    )
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    record = json.loads(options.out.read_text()) if options.out.exists() else {"methods": {}}
    if (record.get("search"), record.get("judged_step")) != (json.loads(json.dumps(SEARCH)), JUDGED_STEP):
        record = {"methods": {}}  # of a search in another setting nothing can be kept
    setup = {
        "search": SEARCH,
        "runs": RUNS,
        "grid": comparison.GRID,
        "test_rates": comparison.TEST_RATES,
        "meta_batch_size": META_BATCH,
        "points": {"support": SHOT, "query": TRAIN_QUERY, "test query": TEST_QUERY},
        "judged_step": JUDGED_STEP,
        "tasks": {"meta-validation": VALIDATION_TASKS, "meta-test": TEST_TASKS},
    }
    for method in [options.only] if options.only else comparison.METHODS:
        known = [] if options.again else record["methods"].get(method, {}).get("tried", [])
        row = search(method, known, **SEARCH)
        row |= provenance()
        row["curves"] = {name: run(row["chosen"], **RUNS[name]) for name in RUNS}
        record |= setup
        record["methods"][method] = row
        keep(options.out, record)


if __name__ == "__main__":
    main()
