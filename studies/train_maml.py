"""Where the loss of MAML on sine waves falls: checkpoints of five trainings, and each checkpoint's inner step taken apart.

python -m studies.train_maml [--seeds N] [--tasks N] [--trainings FOLDER] [--out FILE]

Trains ``maml-sinusoid-5shot`` as its preset ``paper`` does. Seed 0 goes the whole way: its checkpoints are the lab's, and go into
a second file beside the record (``.safetensors``). The other seeds end at ``END``. The errors are those after one step on ten
points, as in meta-training, on the same tasks for all (``mlbook.pages.checks.inner_step`` says what is measured).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlbook import experiments
from mlbook.data.tensor_file import load_tensors, save_tensors
from mlbook.engines import fastest
from mlbook.models import MLP, Params
from mlbook.pages.checks import inner_step
from mlbook.pages.labs import coded_path
from mlbook.results import STUDIES
from mlbook.tasks import Episode, Sinusoids
from mlbook.training.evaluation import fixed_episodes
from mlbook.training.loop import train
from mlbook.training.memory import keep_freed_memory
from mlbook.training.records import keep, provenance
from studies.summary import interval_over_seeds, mean_and_interval

RECORD = STUDIES / "train_maml.json"
EXPERIMENT, PRESET = "maml-sinusoid-5shot", "paper"
DENSE = tuple(range(2_000, 6_001, 200))
AT = (0, 500, 1_000, 1_500, 1_800, *DENSE, 7_000, 8_000, 10_000, 15_000, 20_000, 30_000, 50_000, 70_000)
END = 10_000
BEGIN, AFTER = 2_000, (5_200, 5_400, 5_600, 5_800, 6_000)
"""The fall is that from the error at ``BEGIN`` to the mean of the errors ``AFTER`` it: single checkpoints shake, above all when
linearised."""
TASKS, TASK_SEED, QUERIES = 1_000, 3, 50
SHAPES = [tuple(p.shape) for p in MLP().parameters()]


def trained(seed: int, last: int, folder: Path | None) -> dict[int, Tensor]:
    """The checkpoints of a training, from ``folder`` where it was kept there, else trained and kept."""
    path = None if folder is None else folder / f"seed{seed}.safetensors"
    if path is not None and path.exists():
        tensors, _ = load_tensors(path)
        found = dict(zip(tensors["meta_steps"].tolist(), tensors["params"], strict=True))
        return {t: found[t] for t in AT if t <= last}
    found = checkpoints(seed, last)
    if path is not None:
        kept = {"params": torch.stack(list(found.values())), "meta_steps": torch.tensor(list(found))}
        save_tensors(path, kept, {})
    return found


def checkpoints(seed: int, last: int) -> dict[int, Tensor]:
    """Meta-step -> all parameters, float32 [P]."""
    config = experiments.get(EXPERIMENT).config(PRESET, seed=seed)
    setup, cpu = experiments.setup(config), torch.device("cpu")
    learner = fastest(setup.learner, cpu, "float32")
    state = learner.init(torch.Generator().manual_seed(seed), cpu)

    def flat(state) -> Tensor:
        return torch.cat([p.detach().flatten() for p in state.meta["params"].values()])

    found = {0: flat(state).clone()}
    options = {"meta_steps": last, "meta_batch_size": config["meta_batch_size"], "state": state}
    # the generator of `mlbook train`: what it trains with this seed on a CPU is the same
    options["generator"] = torch.Generator().manual_seed(seed + 1)
    for progress in train(learner, setup.tasks("train"), **options):
        if progress.meta_step in AT:
            found[progress.meta_step] = flat(progress.state).clone()
    return found


def as_params(flat: Tensor) -> Params:
    """The parameters by name, in double precision."""
    parts = flat.double().split([int(np.prod(shape)) for shape in SHAPES])
    return {n: v.view(s) for n, v, s in zip(inner_step.NAMES, parts, SHAPES, strict=True)}


def episodes(k_shot: int, n_tasks: int) -> Episode:
    """The tasks of all measurements, in double precision."""
    blocks = list(fixed_episodes(Sinusoids(k_shot, QUERIES), n_tasks, TASK_SEED))
    return blocks[0]._make(torch.cat(fields).double() for fields in zip(*blocks, strict=True))


def measured(path: dict[int, Tensor], tasks: Episode, rate: float) -> tuple[list[dict], list[float]]:
    """Of each checkpoint: measures [T] by name; and the factor of "best length"."""
    found = [inner_step.taken_apart(as_params(flat), tasks, rate) for flat in path.values()]
    return [values for values, _ in found], [factor for _, factor in found]


def fall(at: list[int], values: list[dict]) -> dict[str, Tensor]:
    """How much the errors fall from ``BEGIN`` to ``AFTER``, task by task: [T] by name.

    "switching" is the part of the actual fall that is not one of the linearised step: what the step gains by not being linear.
    """

    def difference(name: str) -> Tensor:
        return values[at.index(BEGIN)][name] - torch.stack([values[at.index(t)][name] for t in AFTER]).mean(0)

    falls = {name: difference(name) for name in inner_step.MEASURES}
    return {**falls, "switching": falls["actual"] - falls["linearised"]}


def crossings(at: list[int], values: list[dict]) -> int:
    """The first of the kept meta-steps from ``BEGIN`` on at which the actual step is better than the linearised one, for good."""
    better = [float((v["actual"] - v["linearised"]).mean()) < 0 for v in values]
    first = max((i for i, b in enumerate(better) if not b), default=-1) + 1
    return at[first]


def short(values) -> list[float]:
    return [round(float(v), 5) for v in values]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.train_maml", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, choices=range(3, 6), metavar="3..5")
    parser.add_argument("--tasks", type=int, default=TASKS, metavar="N")
    parser.add_argument("--trainings", type=Path, metavar="FOLDER", help="keep the trainings there, to go on")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    config = experiments.get(EXPERIMENT).config(PRESET)
    rate, k_shot = config["learner"]["inner_lr"], config["k_shot"]
    tasks = episodes(k_shot, options.tasks)
    runs, falls = {}, []
    for seed in range(options.seeds):
        began = time.monotonic()
        path = trained(seed, END if seed else AT[-1], options.trainings)
        at = list(path)
        values, factors = measured(path, tasks, rate)
        rows = {
            name: [mean_and_interval(v[name]) for v in values] for name in (*inner_step.MEASURES, "switched")
        }
        its = fall(at, values)
        falls.append({name: float(v.mean()) for name, v in its.items()})
        two = [as_params(path[t]) for t in (BEGIN, AFTER[-1])]
        runs[seed] = {
            "meta_steps": at,
            "mean": {name: short(r["mean"] for r in row) for name, row in rows.items()},
            "ci95": {name: short(r["ci95"] for r in row) for name, row in rows.items()},
            "factor": short(factors),
            "fall": {name: mean_and_interval(v) for name, v in its.items()},
            "ahead from": crossings(at, values),
            # linearised errors: [function before, after] × [kernel before, after]
            "crossed": [[float(inner_step.crossed(f, k, tasks, rate).mean()) for k in two] for f in two],
            "seconds": round(time.monotonic() - began, 1),
        }
        print(seed, {name: round(v, 3) for name, v in falls[-1].items()}, runs[seed]["crossed"], flush=True)
        if seed == 0:
            coded = keep_checkpoints(options.out.with_suffix(".safetensors"), path, tasks, rate, values)
    setup = {
        "experiment": EXPERIMENT,
        "preset": PRESET,
        "config": config,
        "seeds": options.seeds,
        "tasks": options.tasks,
        "task_seed": TASK_SEED,
        "k_shot": k_shot,
        "queries": QUERIES,
        "inner_lr": rate,
        "begin": BEGIN,
        "after": list(AFTER),
        "command": "python -m studies.train_maml",
    }
    shares = {name: [f[name] / f["actual"] for f in falls] for name in ("linearised", "switching")}
    summary = {name: interval_over_seeds([f[name] for f in falls]) for name in falls[0]}
    summary |= {f"share of {name}": interval_over_seeds(values) for name, values in shares.items()}
    keep(options.out, {"setup": setup, "fall": summary, "runs": runs, "coded": coded, **provenance()})


def keep_checkpoints(path: Path, kept: dict[int, Tensor], tasks: Episode, rate: float, values: list[dict]):
    """Write the lab's file; returns what the rounding does to the errors, the largest change of a mean."""
    data = coded_path.pack(torch.stack(list(kept.values())).numpy(), SHAPES)
    tensors = {"path": torch.frombuffer(bytearray(data), dtype=torch.uint8)}
    tensors["meta_steps"] = torch.tensor(list(kept))
    save_tensors(path, tensors, {"experiment": EXPERIMENT, "preset": PRESET, "seed": "0"})
    rounded = torch.from_numpy(coded_path.unpack(data, SHAPES))
    again, _ = measured(dict(enumerate(rounded)), tasks, rate)
    changes = {
        name: max(abs(float((a[name] - b[name]).mean())) for a, b in zip(again, values, strict=True))
        for name in ("before", "actual", "linearised")
    }
    return {"bytes": len(data), "checkpoints": len(kept), "largest change of a mean": changes}


if __name__ == "__main__":
    main()
