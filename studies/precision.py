"""What rounding the factors of matrix products (tf32, bf16) does to the meta-gradient and to the trained network.

    python -m studies.precision [--meta-steps 400] [--seeds 2] [--out FILE]

On a CPU the rounding is imitated (``mlbook.engines.convolutions``). Errors are relative distances to the gradient in
float64, on the official Omniglot network with generated characters, at random and at trained weights. Accuracy is that of short
trainings of ``maml-glyphs-5w1s``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from mlbook import experiments, results
from mlbook.engines import fast
from mlbook.engines.convolutions import PRECISIONS
from mlbook.pages.checks import relative_distance, to_float64
from mlbook.results import STUDIES
from mlbook.training.records import keep, provenance
from mlbook.training.runner import evaluate_config, load_checkpoint, run

RECORD = STUDIES / "precision.json"
NAME = "maml-glyphs-5w1s"


def gradient_errors(meta, precision: str, batches: int) -> list[float]:
    """Relative distance of the meta-gradient to float64, for several meta-batches of 16 tasks."""
    config = experiments.config(experiments.get(NAME), "colab")
    learner = fast(experiments.build_learner(config))
    tasks, generator = experiments.build_tasks(config, "train"), torch.Generator().manual_seed(5)
    errors = []
    for _ in range(batches):
        episodes = tasks.sample(16, generator)
        exact, _ = learner.meta_gradient(to_float64(meta), episodes.to(torch.float64))
        rounded, _ = replace(learner, precision=precision).meta_gradient(meta, episodes)
        errors.append(float(relative_distance(rounded, exact)))
    return errors


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.precision", description=__doc__.split("\n")[0])
    parser.add_argument("--meta-steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batches", type=int, default=9)
    parser.add_argument("--tasks", type=int, default=600, help="meta-test tasks")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    learner = experiments.build_learner(experiments.config(experiments.get(NAME), "colab"))
    weights = {
        "random": learner.init(torch.Generator().manual_seed(0)).meta,
        "trained": results.pretrained("maml-omniglot-5w1s")[1],
    }
    rows = []
    for precision in PRECISIONS:
        row: dict = {"precision": precision, "accuracy": [], "ci95": []}
        for state, meta in weights.items():
            errors = gradient_errors(meta, precision, options.batches)
            row[f"error_{state}"] = {
                "median": statistics.median(errors),
                "min": min(errors),
                "max": max(errors),
            }
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "run"
                run(
                    NAME, meta_steps=options.meta_steps, seed=seed, device="cpu", out=out, precision=precision
                )
                config, meta = load_checkpoint(out / "checkpoint.safetensors")
            score = evaluate_config(config, meta, n_tasks=options.tasks)
            row["accuracy"].append(score.value)
            row["ci95"].append(score.interval)
        rows.append(row)
        print(row, flush=True)
    record = {
        **provenance(),
        "experiment": NAME,
        "meta_steps": options.meta_steps,
        "tasks": options.tasks,
        "batches": options.batches,
        "rows": rows,
    }
    keep(options.out, record)


if __name__ == "__main__":
    main()
