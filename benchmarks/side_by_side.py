"""Rates for the four methods of chapter 14, chosen on meta-validation tasks, and longer runs with them, on sinusoids.

python -m benchmarks.side_by_side [--part short|long] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.compare import ROOT, keep, provenance
from mlbook import comparison
from mlbook.models import MLP
from mlbook.tasks import Sinusoids

RECORD = ROOT / "mlbook" / "results" / "benchmarks" / "side_by_side.json"
INIT_STD = 0.3
SHOT, TRAIN_QUERY, TEST_QUERY = 10, 10, 50
JUDGED_STEP = 10
META_BATCH = 25
VALIDATION_SEED, TEST_SEED = 2, 1
PARTS = {
    # meta-steps; first seeds in the search and in the runs with the chosen rates
    "short": {"meta_steps": 1_500, "search_seeds": (0, 1), "seeds": (0, 1, 2, 3, 4)},
    "long": {"meta_steps": 10_000, "search_seeds": (0,), "seeds": (0, 1, 2)},
}


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


def validated(contender: comparison.Contender, meta_steps: int, seeds) -> tuple[comparison.Contender, float]:
    """The contender with its best rate at meta-test, and its error on the meta-validation tasks (mean over the seeds)."""
    network, errors = model(), dict.fromkeys(comparison.TEST_RATES, 0.0)
    for seed in seeds:
        run = comparison.follow(
            contender, network, **setting(), meta_steps=meta_steps, marks=(meta_steps,), seed=seed, n_tasks=25
        )
        (point,) = run
        for rate in errors:
            judged = comparison.scores(
                network,
                point.meta,
                setting()["test_tasks"],
                test_lr=rate,
                steps=JUDGED_STEP,
                n_tasks=400,
                seed=VALIDATION_SEED,
            )
            errors[rate] += float(judged[:, JUDGED_STEP].mean()) / len(seeds)
    best = min(errors, key=errors.get)
    return replace(contender, test_lr=best), errors[best]


def search(meta_steps: int, seeds) -> dict:
    """Every contender of the grid with its validation error (null: the inner loop or the training diverged), and the best."""
    rows = {}
    for method in comparison.METHODS:
        tried = [validated(contender, meta_steps, seeds) for contender in comparison.grid(method)]
        best = min(tried, key=lambda pair: pair[1])[0]
        rows[method] = {
            "tried": [{**asdict(c), "validation_error": e if e < float("inf") else None} for c, e in tried],
            "chosen": asdict(best),
        }
        print(method, asdict(best), min(e for _, e in tried), flush=True)
    return rows


def runs(chosen: dict, meta_steps: int, seeds) -> dict:
    """Learning curves of the chosen contenders on the meta-test tasks, one per seed."""
    rows = {}
    for method, row in chosen.items():
        curves = []
        for seed in seeds:
            points = comparison.follow(
                comparison.Contender(**row["chosen"]),
                model(),
                **setting(),
                meta_steps=meta_steps,
                marks=marks(meta_steps),
                seed=seed,
                test_seed=TEST_SEED,
                n_tasks=200,
            )
            curves.append([(p.meta_step, p.error(JUDGED_STEP)) for p in points])
        rows[method] = curves
        print(method, [round(c[-1][1], 3) for c in curves], flush=True)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--part", choices=sorted(PARTS), help="default: all; the others stay as they were")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    record = json.loads(options.out.read_text()) if options.out.exists() else {"parts": {}}
    for name in [options.part] if options.part else PARTS:
        part = PARTS[name]
        chosen = search(part["meta_steps"], part["search_seeds"])
        record["parts"][name] = {
            **provenance(),
            **part,
            "grid": comparison.GRID,
            "test_rates": comparison.TEST_RATES,
            "methods": chosen,
            "curves": runs(chosen, part["meta_steps"], part["seeds"]),
        }
        keep(options.out, record)


if __name__ == "__main__":
    main()
