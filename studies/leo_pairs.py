"""LEO, its ablations and the baselines on the same features, task by task: differences whose noise is that of pairs (chapter 10).

python -m studies.leo_pairs RUN... [--tasks N] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from mlbook import experiments
from mlbook.data.progress import ProgressLine
from mlbook.results import STUDIES
from mlbook.training.evaluation import fixed_scores
from mlbook.training.memory import keep_freed_memory
from mlbook.training.records import keep, provenance
from mlbook.training.runner import load_checkpoint
from studies.summary import beside

RECORD = STUDIES / "leo_pairs.json"
SEED = 1
WITHOUT_TRAINING = ("centroid", "finetuning")


def scores_of(config: dict, meta, n_tasks: int) -> Tensor:
    """Scores [n_tasks] at the reported inner step, on the experiment's own meta-test tasks."""
    line = ProgressLine(n_tasks, config["name"])
    found = fixed_scores(
        experiments.build_learner(config),
        meta,
        experiments.build_tasks(config, "test"),
        n_tasks=n_tasks,
        seed=SEED,
        on_progress=line,
        steps=config["test_steps"],
        scored_steps=(config["report_step"],),
    )[:, 0]
    line.close()
    return found


def untrained(name: str) -> tuple[dict, dict]:
    """A baseline that has no meta-training."""
    config = experiments.config(experiments.get(name), "paper")
    return config, experiments.build_learner(config).init(torch.Generator().manual_seed(0)).meta


def compared(runs: list[tuple[dict, dict]], n_tasks: int) -> dict:
    """{features and shots: {"reference": .., "rows": {experiment: ..}}} of runs, (config, meta) each; those without an
    ordinary LEO on the same features and shots are left out."""
    found: dict[str, dict] = {}
    by_name = {config["name"]: (config, meta) for config, meta in runs}
    for name, (config, meta) in by_name.items():
        k = config["k_shot"]
        if name != f"leo-{config['features'][0]}-5w{k}s":
            continue
        ending = f"-{config['features'][0]}-5w{k}s"
        baselines = {method: untrained(f"{method}-features{ending}") for method in WITHOUT_TRAINING}
        others = [run for n, run in by_name.items() if ending in n and n != name]
        reference = scores_of(config, meta, n_tasks)
        rows = {name: {**beside(reference, reference), "meta_steps": config["meta_steps"]}}
        for its, its_meta in [*others, *baselines.values()]:
            scores = scores_of(its, its_meta, n_tasks)
            rows[its["name"]] = {**beside(scores, reference), "meta_steps": its["meta_steps"]}
        found[ending[1:]] = {"reference": name, "tasks": n_tasks, "seed": SEED, "rows": rows, **provenance()}
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.leo_pairs", description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a training")
    parser.add_argument("--tasks", type=int, default=2_000, metavar="N")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    found = compared([load_checkpoint(run / "checkpoint.safetensors") for run in options.runs], options.tasks)
    if not found:
        sys.exit("leo_pairs: there is no ordinary LEO among these runs, so there is nothing to compare with")
    record = json.loads(options.out.read_text()) if options.out.exists() else {}
    keep(options.out, {**record, **found})
    for title, section in found.items():
        for name, values in section["rows"].items():
            print(
                f"{title:22} {name:44} {100 * values['accuracy']:5.2f} "
                f"{100 * values['difference']:+.2f} ± {100 * values['difference_ci95']:.2f}"
            )


if __name__ == "__main__":
    main()
