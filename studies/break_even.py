"""What a sine wave costs without meta-training: the same network trained from random weights, on few and on many points.

python -m studies.break_even [--out FILE]

Costs are counted in gradients of the loss of one example. The aim is the error of the shipped MAML start after ten inner steps
on five points, from its run record. Every step of Adam sees all of a wave's points; of ``RATES`` the one counts that gets there
first, else the one that comes nearest, on these very waves: in favour of training from scratch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.func import grad, vmap

from mlbook import results
from mlbook.models import MLP, call, initial_params
from mlbook.pages.checks import comparison
from mlbook.results import STUDIES
from mlbook.tasks import Sinusoids
from mlbook.tasks.episode import Episode
from mlbook.training.records import keep, provenance
from studies.summary import mean_and_interval

RECORD = STUDIES / "break_even.json"
POINTS, RATES, STEPS, EVERY = (5, 20, 100), (0.003, 0.01), 1_500, 25
TASKS, SEED, QUERIES = 100, 3, 50
META_TRAINED, ADAPTED = "maml-sinusoid-5shot", 10


def trained_from_scratch(episodes: Episode, rate: float) -> Tensor:
    """Squared error of every wave on its queries after every ``EVERY`` steps of Adam from weights of its own, [looks, tasks]."""
    model = MLP(init_std=None)
    generator = torch.Generator().manual_seed(SEED)
    starts = [initial_params(model, generator) for _ in range(episodes.n_tasks)]
    params = {name: torch.stack([start[name] for start in starts]).requires_grad_() for name in starts[0]}
    optimiser = torch.optim.Adam(params.values(), lr=rate)

    def error(p, x, y):
        return (call(model, p, x) - y).square().mean()

    slopes, errors = vmap(grad(error)), []
    for step in range(1, STEPS + 1):
        detached = {name: p.detach() for name, p in params.items()}
        for name, g in slopes(detached, episodes.support_x, episodes.support_y).items():
            params[name].grad = g
        optimiser.step()
        if step % EVERY == 0:
            with torch.no_grad():
                errors.append(vmap(error)(params, episodes.query_x, episodes.query_y))
    return torch.stack(errors)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.break_even", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    run = results.run_record(META_TRAINED)
    config, aim = run["config"], run["evaluation"]["mean"][ADAPTED]
    per_task = comparison.cost("MAML", config["learner"]["inner_steps"], config["k_shot"], config["n_query"])
    rows = {}
    for points in POINTS:
        episodes = Sinusoids(points, QUERIES).sample(TASKS, torch.Generator().manual_seed(SEED))
        found = []
        for rate in RATES:
            errors = trained_from_scratch(episodes, rate)
            means = errors.mean(1)
            reached = (means <= aim).nonzero()
            look = int(reached[0]) if len(reached) else int(means.argmin())
            found.append(
                {
                    "rate": rate,
                    "reached": bool(len(reached)),
                    "steps": EVERY * (look + 1),
                    "cost": EVERY * (look + 1) * points,
                    **mean_and_interval(errors[look]),
                }
            )
        rows[str(points)] = min(
            found, key=lambda row: (not row["reached"], row["steps"] if row["reached"] else row["mean"])
        )
        print(points, rows[str(points)], flush=True)
    keep(
        options.out,
        {
            "tasks": TASKS,
            "aim": aim,
            "meta_training": {
                "experiment": META_TRAINED,
                "meta_steps": config["meta_steps"],
                "tasks": config["meta_steps"] * config["meta_batch_size"],
                "cost": per_task.example_gradients * config["meta_batch_size"] * config["meta_steps"],
                "seconds": run["seconds"],
            },
            "adaptation": {
                "points": config["test_shot"],
                "steps": ADAPTED,
                "cost": ADAPTED * config["test_shot"],
            },
            "scratch": rows,
            **provenance(),
        },
    )


if __name__ == "__main__":
    main()
