"""LEO beside MAML on sines and lines: all tasks, and those whose five points leave something open (chapter 9).

python -m studies.sines_lines [--tasks N] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.func import vmap

from mlbook import experiments, results
from mlbook.data.progress import ProgressLine
from mlbook.errors import CheckpointError
from mlbook.pages.checks.sines_lines import Posterior, posterior
from mlbook.results import STUDIES
from mlbook.tasks.sines_lines import Known, KnownEpisode
from mlbook.training.evaluation import fixed_episodes, task_scores
from mlbook.training.memory import keep_freed_memory
from mlbook.training.records import keep, provenance
from mlbook.training.runner import fastest
from studies.summary import mean_and_interval

RECORD = STUDIES / "sines_lines.json"
METHODS = ("leo", "maml")
SEED = 3
"""Of the tasks: neither those of the trials nor those of the run records."""
STEP = 10
"""The inner step that is compared: LEO's last, and one at which MAML, trained for five, is no worse than after five."""
GRID = 60
SAMPLES, SAMPLED_TASKS, BINS = 20, 1_000, 8
NARROW = 4.0
"""Inputs of a support set that lie in a stretch of this length, of the ten that queries come from."""
UNDECIDED = 0.05
"""Both kinds of task have at least this probability."""
GROUPS = {
    "all": "all tasks",
    "sines": "sines",
    "lines": "lines",
    "ambiguous": "ambiguous: even the best prediction has an expected squared error above the noise's variance",
    "undecided": f"undecided: sine and line both have a probability of at least {UNDECIDED}",
    "narrow": f"narrow: the five inputs lie in a stretch of length {NARROW:g}",
}


def groups(batch: KnownEpisode, known: Posterior, noise: float) -> dict[str, Tensor]:
    """Which tasks belong to which group, bool [T] each. The last three depend on the support set alone (and where the queries
    lie), not on what the curve really is."""
    x = batch.support_x.flatten(1)
    return {
        "all": torch.ones_like(batch.is_line),
        "sines": ~batch.is_line,
        "lines": batch.is_line,
        "ambiguous": known.spread.square().mean(1) > noise**2,
        "undecided": (known.p_line - 0.5).abs() <= 0.5 - UNDECIDED,
        "narrow": x.max(1).values - x.min(1).values < NARROW,
    }


def calibration(learner, meta, batches: list[KnownEpisode], ambiguous: Tensor, best: Tensor) -> dict:
    """Spread of curves from samples of the code beside the error of their mean, before and after inner steps.

    ambiguous: which tasks are, [T]; best: the best possible squared error of each, [T]. ``bins``: root mean squares over all
    queries in bins of equal size; ``all``, ``ambiguous``: means of the squares over those tasks.
    """
    generator = torch.Generator().manual_seed(SEED)
    variances, errors = [], []
    for batch in batches:
        noise = torch.randn(len(batch.is_line), SAMPLES, learner.latent, generator=generator)
        curves = vmap(learner.sampled_curves, in_dims=(None, 0, 0, 0, 0))(
            meta, batch.support_x, batch.support_y, batch.query_x, noise
        )[:, :, [0, learner.latent_steps, -1]].squeeze(-1)  # [T, S, 3, n]
        variances.append(curves.var(1))
        errors.append((curves.mean(1) - batch.query_y.squeeze(-1)[:, None]).square())
    variance, error = torch.cat(variances).double(), torch.cat(errors).double()
    found = {"samples": SAMPLES, "tasks": len(variance), "ambiguous_tasks": int(ambiguous.sum())}
    for i, when in enumerate(("start", "after_latent_steps", "end")):
        v, e = variance[:, i].flatten(), error[:, i].flatten()
        bins = [(v[b].mean().sqrt(), e[b].mean().sqrt()) for b in v.argsort().chunk(BINS)]
        found[when] = {"spread": [float(s) for s, _ in bins], "error": [float(e) for _, e in bins]}
        for group, rows in (("all", torch.ones_like(ambiguous)), ("ambiguous", ambiguous)):
            found[when][group] = {
                "variance": float(variance[rows, i].mean()),
                "mse": float(error[rows, i].mean()),
                "best": float(best[rows].mean()),
            }
    return found


def compare(n_tasks: int) -> dict:
    """The record: every shipped method's error after each inner step on every group, and its paired difference from LEO's."""
    found = {}
    for method in METHODS:
        try:
            found[method] = results.pretrained(f"{method}-sines-lines-5shot")
        except CheckpointError as error:
            print(f"{method}: {error}")
    learners = {
        m: fastest(experiments.build_learner(config), torch.device("cpu")) for m, (config, _) in found.items()
    }
    tasks = experiments.build_tasks(next(iter(found.values()))[0], "test")
    batches, scores, best, members = [], {method: [] for method in found}, [], []
    line = ProgressLine(n_tasks, "sines and lines")
    with torch.no_grad():
        for batch in fixed_episodes(Known(tasks), n_tasks, SEED):
            batches.append(batch)
            known = posterior(tasks, batch.support_x, batch.support_y, batch.query_x, GRID)
            best.append((known.mean - batch.query_y.squeeze(-1)).square().mean(1))
            members.append(groups(batch, known, tasks.noise))
            for method, (_, meta) in found.items():
                scores[method].append(task_scores(learners[method], meta, batch.episode, steps=STEP).double())
            line(sum(len(b.is_line) for b in batches))
        line.close()
        few = SAMPLED_TASKS // len(batches[0].is_line)
        calibrated = calibration(
            learners["leo"],
            found["leo"][1],
            batches[:few],
            torch.cat([m["ambiguous"] for m in members[:few]]),
            torch.cat(best[:few]),
        )
    scores = {method: torch.cat(parts) for method, parts in scores.items()}
    record = {
        "tasks": n_tasks,
        "seed": SEED,
        "k_shot": tasks.k_shot,
        "noise": tasks.noise,
        "queries": tasks.n_query,
        "methods": {
            m: {key: config[key] for key in ("name", "preset", "meta_steps")}
            for m, (config, _) in found.items()
        },
        "step": STEP,
        "groups": {},
        "calibration": calibrated,
    }
    for name, title in GROUPS.items():
        chosen = torch.cat([m[name] for m in members])
        row = {"title": title, "tasks": int(chosen.sum()), "best": mean_and_interval(torch.cat(best)[chosen])}
        leo = scores["leo"][chosen, STEP]
        for method in found:
            its = scores[method][chosen]
            reported = its[:, STEP]
            row[method] = {
                "by_step": [mean_and_interval(column) for column in its.t()],
                **mean_and_interval(reported),
                "median": float(reported.median()),
                "difference": mean_and_interval(reported - leo),
                "worse": float((reported > leo).double().mean()),
            }
        record["groups"][name] = row
    return {**record, **provenance()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.sines_lines", description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=9_000, metavar="N")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    record = compare(options.tasks)
    keep(options.out, record)
    for name, row in record["groups"].items():
        print(f"{name}: {row['tasks']} tasks; best possible {row['best']['mean']:.3f}")
        for method in record["methods"]:
            its = row[method]
            print(
                f"  {method:8} {its['mean']:.3f} ± {its['ci95']:.3f}  median {its['median']:.3f}  "
                f"− LEO {its['difference']['mean']:.3f} ± {its['difference']['ci95']:.3f}  worse on {its['worse']:.0%}"
            )
    print(json.dumps(record["calibration"]))


if __name__ == "__main__":
    main()
