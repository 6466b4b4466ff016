"""What the make-up of the query batch and the batch-norm mode do to the score of one set of weights (chapter 6).

python -m studies.batch_norm [--tasks N] [--only EXPERIMENT] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from mlbook import experiments, results
from mlbook.data.progress import ProgressLine
from mlbook.errors import CheckpointError, DataError
from mlbook.results import STUDIES
from mlbook.training.evaluation import QueryBatches, fixed_episodes, running_statistics, score
from mlbook.training.memory import keep_freed_memory
from mlbook.training.records import keep, provenance
from mlbook.training.runner import fastest
from studies.summary import beside

RECORD = STUDIES / "batch_norm.json"
WEIGHTS = ("maml-omniglot-5w1s", "fomaml-mini-5w1s", "maml-mini-5w1s")
"""Shipped weights that are measured where they and their data are there."""
QUERIES = 15
"""Per class, as most later work counts."""
SEED = 1
RUNNING_TASKS = 100
"""Meta-train tasks over whose adapted networks the running statistics are averaged."""
CELLS = (
    ("transductive", None),
    ("transductive", QueryBatches(5, per_class=True)),
    ("transductive", QueryBatches(25)),
    ("transductive", QueryBatches(1, per_class=True)),
    ("transductive", QueryBatches(5)),
    ("transductive", QueryBatches(1)),
    ("support_and_query", None),
    ("support", None),
    ("running", None),
    ("none", None),
)
"""(batch-norm mode, batches); the first one is what the others are compared with."""


def cell(mode: str, batches: QueryBatches | None, scores: Tensor, reference: Tensor) -> dict:
    """One cell of the matrix from the tasks' scores [n], and its difference from the reference's on the same tasks."""
    return {
        "batch_norm": mode,
        "batches": "one batch" if batches is None else str(batches),
        **beside(scores, reference),
    }


def matrix(name: str, n_tasks: int) -> dict:
    """All cells of the shipped weights of experiment ``name``, on the same meta-test tasks, adapted parameters and queries."""
    config, meta = results.pretrained(name)
    learner, steps = experiments.build_learner(config), config["report_step"]
    tasks = experiments.build_tasks({**config, "test_query": QUERIES}, "test")
    running = running_statistics(
        learner, meta, experiments.build_tasks(config, "train"), steps=steps, n_tasks=RUNNING_TASKS
    )
    quick = fastest(learner, torch.device("cpu"))  # the same adapted parameters
    scores: list[list[Tensor]] = []
    line = ProgressLine(n_tasks, name)
    with torch.no_grad():
        for episodes in fixed_episodes(tasks, n_tasks, SEED):
            together = [None if b is None else b.index(episodes.query_y) for _, b in CELLS]
            for t in range(episodes.n_tasks):
                episode = episodes.task(t)
                *_, params = quick.path(meta, episode.support_x, episode.support_y, steps)
                batches = [None if index is None else index[t] for index in together]
                scores.append(
                    [
                        score(learner, params, episode, mode, running, index)
                        for (mode, _), index in zip(CELLS, batches, strict=True)
                    ]
                )
                line(len(scores))
    columns = torch.tensor(scores, dtype=torch.float64).t()
    rows = [cell(*made, column, columns[0]) for made, column in zip(CELLS, columns, strict=True)]
    line.close()
    return {
        "preset": config["preset"],
        "meta_steps": config["meta_steps"],
        "training_queries": config["n_query"],
        "n_way": config["n_way"],
        "k_shot": config["k_shot"],
        "queries": QUERIES,
        "step": steps,
        "tasks": n_tasks,
        "seed": SEED,
        "cells": rows,
        **provenance(),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.batch_norm", description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=600, metavar="N")
    parser.add_argument("--only", choices=WEIGHTS, help="these weights; what the record says of others stays")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    record = json.loads(options.out.read_text()) if options.out.exists() else {"weights": {}}
    for name in [options.only] if options.only else WEIGHTS:
        try:
            record["weights"][name] = matrix(name, options.tasks)
        except (CheckpointError, DataError) as error:
            print(f"{name}: {error}")
            continue
        keep(options.out, record)
        for row in record["weights"][name]["cells"]:
            print(
                f"{row['batch_norm']:18} {row['batches']:28} {100 * row['accuracy']:5.1f} ± {100 * row['ci95']:.1f}"
            )


if __name__ == "__main__":
    main()
