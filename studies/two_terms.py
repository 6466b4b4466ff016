"""Sine-wave starts from joint training, from Reptile and from the two leading terms of its direction: ten seeds, every step.

python -m studies.two_terms [--out FILE]

The problem is that of chapter 12: 200 meta-steps on five tasks each, five mini-batches of ten points; then ten steps at rate 0.02
on ten points of each of 200 new tasks. Seed s draws the first weights and the tasks of meta-training; the three directions of a
seed share both, and all share the new tasks.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.func import vmap

from mlbook.meta_learners.inner_loop import inner_path
from mlbook.models import MLP, call
from mlbook.models.functional import initial_params
from mlbook.pages.checks import expansion
from mlbook.results import STUDIES
from mlbook.tasks import Sinusoids
from mlbook.training.evaluation import STUDENT
from mlbook.training.records import keep, provenance

RECORD = STUDIES / "two_terms.json"
RATES, SEEDS = (0.001, 0.002), tuple(range(10))
META_STEPS, TASKS, BATCHES, LENGTH = 200, 5, 5, 0.01
"""``LENGTH`` is ε·α at the first meta-step, the same for all; it falls linearly to zero."""
STEPS, TEST_RATE, TEST_TASKS, TEST_SEED = 10, 0.02, 200, 99
network = MLP((1, 20, 20, 1), activation="tanh", init_std=0.5)
waves = Sinusoids(50, 1, phase=(0.0, 2 * math.pi))
DIRECTIONS = {
    "joint training": lambda p, b, alpha: expansion.expanded(loss, p, b, alpha, order=0)["reptile"],
    "two terms": lambda p, b, alpha: expansion.expanded(loss, p, b, alpha, order=1)["reptile"],
    "Reptile": lambda p, b, alpha: expansion.total(expansion.inner_sgd(loss, p, b, alpha)[1]),
}


def loss(params, batch) -> Tensor:
    return (call(network, params, batch["x"]) - batch["y"]).square().mean()


def mini_batches(tasks: int, generator: torch.Generator) -> dict[str, Tensor]:
    """[tasks, mini-batches, points, 1]"""
    data = waves.sample(tasks, generator)
    return {"x": data.support_x.view(tasks, BATCHES, -1, 1), "y": data.support_y.view(tasks, BATCHES, -1, 1)}


def start(direction, alpha: float, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    theta = initial_params(network, generator)
    mapped = vmap(lambda p, b: direction(p, b, alpha), in_dims=(None, 0))
    for step in range(META_STEPS):
        g = mapped(theta, mini_batches(TASKS, generator))
        length = LENGTH * (1 - step / META_STEPS)
        theta = {name: p - length * g[name].mean(0) for name, p in theta.items()}
    return theta


def errors(theta: dict[str, Tensor]) -> Tensor:
    """Mean squared error on the second mini-batch of new tasks after 0, …, STEPS steps on the first, [STEPS + 1]."""
    data = mini_batches(TEST_TASKS, torch.Generator().manual_seed(TEST_SEED))

    def one(batches):
        support, query = expansion.pick(batches, 0), expansion.pick(batches, 1)
        path = inner_path(lambda p: loss(p, support), theta, inner_lr=TEST_RATE, steps=STEPS)
        return torch.stack([loss(p, query) for p in path])

    return vmap(one)(data).mean(0).double()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.two_terms", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    rates = {}
    for alpha in RATES:
        found = {
            name: torch.stack([errors(start(direction, alpha, seed)) for seed in SEEDS])
            for name, direction in DIRECTIONS.items()
        }
        row = rates[f"{alpha:g}"] = {
            "error": {name: e.mean(0).tolist() for name, e in found.items()},
            "difference": {},
        }
        for name in ("two terms", "Reptile"):
            gain = found[name] - found["joint training"]  # [seeds, steps + 1]
            row["difference"][name] = {
                "mean": gain.mean(0).tolist(),
                "ci95": (STUDENT[len(SEEDS)] * gain.std(0) / len(SEEDS) ** 0.5).tolist(),
                "better": (gain < 0).sum(0).tolist(),
            }
            print(alpha, name, [f"{m:+.3f}" for m in row["difference"][name]["mean"]], flush=True)
    setup = {"seeds": len(SEEDS), "meta_steps": META_STEPS, "test_tasks": TEST_TASKS, "test_rate": TEST_RATE}
    keep(options.out, {"setup": setup, "rates": rates, **provenance()})


if __name__ == "__main__":
    main()
