"""A trained optimiser beside hand-designed ones with tuned rates, on small classifiers of drawn characters (chapter 15).

python -m studies.optimizers [EXPERIMENT] [--checkpoint FILE] [--tasks N] [--transfer N] [--tuning N] [--out FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from mlbook import experiments, results
from mlbook.data.progress import ProgressLine
from mlbook.experiments import optimizers
from mlbook.optimizers import HAND_DESIGNED, losses, tuned
from mlbook.results import STUDIES
from mlbook.training.evaluation import fixed_episodes
from mlbook.training.memory import keep_freed_memory
from mlbook.training.records import keep, provenance
from mlbook.training.runner import load_checkpoint
from studies.summary import mean_and_interval

NAMES = {
    "learned-optimizer-mlp": STUDIES / "optimizers.json",
    "learned-optimizer-mlp-one-set": STUDIES / "optimizers_one_set.json",
}
RIVALS = ("SGD", "momentum", "RMSprop", "Adam")
RATES = {
    "SGD": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "momentum": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "RMSprop": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "Adam": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
}
TUNING_SEED, SEED = 11, 12
CONDITIONS = {
    "as trained": {},
    "ReLU": {"model": "mlp_784-20-10_relu"},
    "two hidden layers": {"model": "mlp_784-20-20-10_sigmoid"},
    "40 units": {"model": "mlp_784-40-10_sigmoid"},
    "200 steps": {"steps": 200},
}
"""Section 3.2 of the paper: what is changed between training and use, one thing at a time."""
AT_ONCE = 10


def curves(rule, optimizee, problems, n: int, steps: int, line: ProgressLine | None = None) -> Tensor:
    """Losses of ``rule`` on the first ``n`` problems of the fixed sequence: [n, steps + 1]."""
    found = []
    for block in fixed_episodes(problems, n, SEED):
        for start in range(0, block.n_tasks, AT_ONCE):
            part = block._make(field[start : start + AT_ONCE] for field in block)
            found.append(losses(rule, optimizee, part, steps))
            if line is not None:
                line(sum(map(len, found)))
    return torch.cat(found)


def condition(config: dict, meta, change: dict, n: int, n_tuning: int) -> dict:
    """Rivals with rates tuned on problems of meta-validation characters, and the learned rule, on meta-test characters."""
    steps = change.get("steps", config["test_steps"])
    config = {**config, "model": change.get("model", config["model"]), "test_steps": steps}
    optimizee = optimizers.optimizee(config["model"])
    tuning = experiments.build_tasks(config, "validation").sample(
        n_tuning, torch.Generator().manual_seed(TUNING_SEED)
    )
    test = experiments.build_tasks(config, "test")
    rules, rates = {"learned": experiments.build_learner(config).rule(meta["params"])}, {}
    for name in RIVALS:
        rate, grid = tuned(HAND_DESIGNED[name], optimizee, tuning, steps, RATES[name])
        rates[name] = {
            "rate": rate,
            "grid": {f"{r:g}": v if v < float("inf") else None for r, v in grid.items()},
        }
        rules[name] = HAND_DESIGNED[name](rate)
    line = ProgressLine(n * len(rules), config["model"])
    found = {}
    for i, (name, rule) in enumerate(rules.items()):
        found[name] = curves(rule, optimizee, test, n, steps, lambda done, i=i: line(i * n + done))
    line.close()
    mine, rows = found["learned"][:, -1], {}
    for name, its in found.items():
        final = its[:, -1]
        rows[name] = {
            **mean_and_interval(final),
            "log10": mean_and_interval(final.clamp_min(1e-12).log10()),
            "by_step": [round(v, 6) if v == v and v < 1e6 else None for v in its.mean(0).tolist()],
            "minus_learned": mean_and_interval(final - mine),
            "worse": float((final > mine).double().mean()),
            "diverged": int((~final.isfinite()).sum()),
        }
    return {
        "model": config["model"],
        "steps": steps,
        "problems": n,
        "tuning_problems": n_tuning,
        "rates": rates,
        "rules": rows,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.optimizers", description=__doc__.split("\n")[0])
    first, *_ = NAMES
    parser.add_argument("experiment", nargs="?", choices=NAMES, default=first, metavar="EXPERIMENT")
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--tasks", type=int, default=100, metavar="N", help="problems as trained")
    parser.add_argument("--transfer", type=int, default=40, metavar="N", help="problems under each change")
    parser.add_argument(
        "--tuning", type=int, default=10, metavar="N", help="problems that rates are chosen on"
    )
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    out = NAMES[options.experiment] if options.out is None else options.out
    if options.checkpoint is None:
        config, meta = results.pretrained(options.experiment)
    else:
        config, meta = load_checkpoint(options.checkpoint)
        if config["name"] != options.experiment:
            parser.error(f"{options.checkpoint} is of {config['name']}, not of {options.experiment}")
    record = {"experiment": config["name"], "run": experiments.run_id(config), "conditions": {}}
    for name, change in CONDITIONS.items():
        n = options.transfer if change else options.tasks
        record["conditions"][name] = condition(config, meta, change, n, options.tuning)
        keep(out, {**record, **provenance()})
        rows = record["conditions"][name]["rules"]
        print(
            name, {rule: f"{row['mean']:.4f} ± {row['ci95']:.4f}" for rule, row in rows.items()}, flush=True
        )


if __name__ == "__main__":
    main()
