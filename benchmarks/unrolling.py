"""Memory and time of a meta-gradient against the inner steps: unrolled, implicit, first order.

    python -m benchmarks.unrolling [--rounds 3] [--out FILE]

iMAML's inner problem on four 5-way 1-shot tasks, the official Omniglot network with scale and shift in batch norm, one thread.
Each contender at each number of steps runs in a process of its own: memory is the most that was resident above what was there
before, time seconds of the processor. Ratios within one run are what can be compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.harness import MIB, memory_now
from mlbook.meta_learners import IMAML
from mlbook.models import Conv4
from mlbook.results import BENCHMARKS
from mlbook.tasks import Episode
from mlbook.training.records import keep, provenance

RECORD = BENCHMARKS / "unrolling.json"
STEPS = (1, 2, 4, 8, 16, 32, 64)
CONTENDERS = {
    "unrolled": {"solver": "unrolled"},
    "implicit, 5 CG steps": {"solver": "cg", "solver_steps": 5},
    "first order": {"solver": "cg", "solver_steps": 0},
}


def episodes(tasks: int = 4) -> Episode:
    """Random images, 5-way 1-shot with three queries per class."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(tasks, 20, 1, 28, 28, generator=g)
    y = torch.arange(5).repeat(tasks, 4)
    return Episode(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])


def serve(pipe, options: dict, steps: int, rounds: int) -> None:
    """One contender at one number of steps: seconds of each call, and bytes above the imports at the most."""
    torch.set_num_threads(1)
    learner = IMAML(Conv4(5, gamma=True, spatial_mean=False), inner_lr=0.01, **options)
    meta, batch = learner.init(torch.Generator().manual_seed(0)).meta, episodes()
    replace(learner, inner_steps=0).meta_gradient(meta, batch)  # what torch sets up once
    before = memory_now("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts here
    seconds = []
    for _ in range(rounds):
        begun = time.process_time()
        replace(learner, inner_steps=steps).meta_gradient(meta, batch)
        seconds.append(time.process_time() - begun)
    pipe.send((seconds, memory_now("VmHWM") - before))


def measured(options: dict, steps: int, rounds: int) -> tuple[list[float], int]:
    """The same in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=serve, args=(its, options, steps, rounds))
    process.start()
    found = ours.recv()
    process.join()
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unrolling", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    rows = []
    for steps in STEPS:
        for name, values in CONTENDERS.items():
            seconds, memory = measured(values, steps, options.rounds)
            row = {
                "contender": name,
                "inner_steps": steps,
                "seconds": seconds,
                "median": statistics.median(seconds),
                "memory_mib": round(memory / MIB, 1),
            }
            rows.append(row)
            print(f"{steps:3} steps  {name:24}{row['median']:8.2f} s  {row['memory_mib']} MiB", flush=True)
    keep(options.out, {**provenance(), "threads": 1, "tasks": 4, "rows": rows})


if __name__ == "__main__":
    main()
