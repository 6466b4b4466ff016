"""Time of a whole meta-step on a GPU: recorded as a graph, started kernel by kernel, as a loop; with rounded products.

    python -m benchmarks.gpu [--out FILE]          # --device cpu --meta-steps 3: only to see that it runs

Every variant runs in a process of its own. Before timing, the gradient on the device is held against float64 on the CPU, and a
recorded training against a plain one. Images are random bytes; real ones would take the same time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from mlbook import experiments
from mlbook.data import ClassPool
from mlbook.engines import fast, fits
from mlbook.meta_learners.base import leaves
from mlbook.pages.checks import relative_distance, to_float64
from mlbook.results import BENCHMARKS
from mlbook.tasks import FewShot, Sinusoids
from mlbook.training.checkpoint import one_line
from mlbook.training.finite import STEPS_BETWEEN_LOOKS
from mlbook.training.loop import train
from mlbook.training.precision import use_precision
from mlbook.training.records import keep, machine, provenance

RECORD = BENCHMARKS / "gpu.json"
NAMES = ("maml-omniglot-5w1s", "fomaml-omniglot-5w1s", "maml-omniglot-20w1s", "maml-sinusoid-5shot")
QUIET = 5
VARIANTS = (  # engine, recorded as a graph, precision, share of the meta-steps
    ("fast", True, "float32", 1.0),
    ("fast", True, "tf32", 1.0),
    ("fast", True, "bf16", 1.0),
    ("fast", False, "float32", 0.2),
    ("vmap", True, "float32", 1.0),
    ("vmap", False, "float32", 0.2),
    ("loop", False, "float32", 0.02),
)


class Setting:
    """A learner, tasks that are born on the device, and a training of so many meta-steps."""

    def __init__(self, name: str, engine: str, precision: str, device: torch.device) -> None:
        config = experiments.config(experiments.get(name), "paper")
        learner = experiments.build_learner(config)
        if not fits(learner):
            raise SystemExit(f"{name} has no closed form")
        self.learner = (
            fast(learner, precision=precision) if engine == "fast" else replace(learner, engine=engine)
        )
        self.plain = replace(learner, engine="loop")
        self.batch, self.device = config["meta_batch_size"], device
        if config["dataset"] == "sinusoid":
            self.tasks = Sinusoids(config["k_shot"], config["n_query"])
        else:
            g = torch.Generator().manual_seed(0)
            images = torch.randint(256, (1200, 20, 1, 28, 28), dtype=torch.uint8, generator=g)
            pool = ClassPool(images, rotations="per_task").to(device)
            self.tasks = FewShot(pool, config["n_way"], config["k_shot"], config["n_query"])

    def steps(self, n: int, *, graph: bool):
        state = self.learner.init(torch.Generator().manual_seed(0), self.device)
        generator = torch.Generator(device=self.device).manual_seed(1)
        yield from train(
            self.learner,
            self.tasks,
            meta_steps=n,
            meta_batch_size=self.batch,
            state=state,
            generator=generator,
            graph=graph,
        )


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """On a GPU any wait for it within the block is an error."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def gradient_error(setting: Setting) -> float:
    """Relative distance of one meta-gradient on the device to the same in float64 on the CPU."""
    meta = setting.learner.init(torch.Generator().manual_seed(0)).meta
    g = torch.Generator(device=setting.device).manual_seed(2)
    episodes = setting.tasks.sample(4, g).to("cpu")
    exact, _ = setting.plain.meta_gradient(to_float64(meta), episodes.to(torch.float64))
    there = {group: {n: p.to(setting.device) for n, p in ps.items()} for group, ps in meta.items()}
    found, _ = setting.learner.meta_gradient(there, episodes.to(setting.device))
    found = {group: {n: p.to("cpu", torch.float64) for n, p in ps.items()} for group, ps in found.items()}
    return float(relative_distance(found, exact))


def graph_distance(setting: Setting, n: int = 20) -> float:
    """Largest difference of a parameter after ``n`` meta-steps, recorded against plain."""
    ends = [[*setting.steps(n, graph=graph)][-1].state.meta for graph in (True, False)]
    return max(float((a - b).abs().max()) for a, b in zip(leaves(ends[0]), leaves(ends[1]), strict=True))


def measure(setting: Setting, n: int, *, graph: bool, rounds: int) -> dict:
    """Milliseconds per meta-step: median and range over ``rounds`` stretches of n meta-steps. On a GPU a wait for the device is
    an error in the ``QUIET`` meta-steps before them; later ones look at the loss now and then, as every training does."""
    cuda = setting.device.type == "cuda"
    warm = min(50, max(5, n // 10))
    assert warm + QUIET < STEPS_BETWEEN_LOOKS
    running = setting.steps(warm + QUIET + n * rounds, graph=graph)
    for _ in range(warm):
        next(running)
    with no_waiting(setting.device):
        for _ in range(QUIET):
            next(running)
    wait(setting.device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(n):
            next(running)
        wait(setting.device)
        times.append(1000 * (time.perf_counter() - began) / n)
    return {
        "ms_per_meta_step": {"median": statistics.median(times), "min": min(times), "max": max(times)},
        "meta_steps": n,
        "peak_mib": round(torch.cuda.max_memory_allocated(setting.device) / 2**20, 1) if cuda else None,
    }


def row(name: str, variant: tuple, device: torch.device, meta_steps: int, rounds: int) -> dict:
    """What there is to say of one variant; ``error`` where it failed."""
    engine, graph, precision, share = variant
    found = {"experiment": name, "engine": engine, "graph": graph, "precision": precision}
    try:
        setting = Setting(name, engine, precision, device)
        use_precision(precision, device, setting.learner)
        found["gradient_error"] = gradient_error(setting)
        if graph:
            found["graph_distance"] = graph_distance(setting)
        found |= measure(setting, max(2, int(share * meta_steps)), graph=graph, rounds=rounds)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {one_line(error)[:300]}"
    return found


def in_a_process(arguments: list[str], seconds: float) -> dict:
    """``row`` in a process of its own: after a CUDA error nothing works in the one that met it."""
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {seconds:.0f} s"}
    if answer.returncode:
        said = answer.stderr.strip().splitlines() or ["no word"]
        return {"error": f"ended with status {answer.returncode}: {said[-1][:300]}"}
    return json.loads(answer.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--meta-steps", type=int, default=500, help="meta-steps in a timed stretch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=NAMES, metavar="EXPERIMENT")
    parser.add_argument("--seconds", type=float, default=120.0, help="for each variant")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    if cuda and not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA GPU is available here", file=sys.stderr)
        raise SystemExit(2)
    if options.row is not None:
        found = row(options.only[0], VARIANTS[options.row], device, options.meta_steps, options.rounds)
        print(json.dumps(found))
        return
    record = {
        **provenance(),
        "machine": {**machine(), "gpu": torch.cuda.get_device_name() if cuda else None},
        "rows": [],
    }
    settings = ["--device", options.device, "--meta-steps", options.meta_steps, "--rounds", options.rounds]
    for name in options.only:
        for number, (engine, graph, precision, _) in enumerate(VARIANTS):
            if graph and not cuda:
                continue
            asked = [str(a) for a in (*settings, "--only", name, "--row", number)]
            labels = {"experiment": name, "engine": engine, "graph": graph, "precision": precision}
            record["rows"].append({**labels, **in_a_process(asked, options.seconds)})
            print(json.dumps(record["rows"][-1]), flush=True)
            if options.out or cuda:
                keep(options.out or RECORD, record)


if __name__ == "__main__":
    main()
