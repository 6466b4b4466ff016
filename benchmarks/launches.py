"""How many operations a meta-step sends to a GPU, counted without one.

    python -m benchmarks.launches [--only EXPERIMENT ENGINE] [--json] [--out FILE]

Tensors of a made-up device have shapes and a place but no numbers. A meta-step is run on them (sampling, inner loop, outer
gradient, optimiser) and every operation that would start a kernel is counted; views and allocations are not. A step that needs a
value on the host, or mixes in a tensor of the host, fails.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mlbook import experiments
from mlbook.data import ClassPool
from mlbook.engines import fast
from mlbook.meta_learners import first_look
from mlbook.meta_learners.base import State, leaves
from mlbook.tasks import FewShot, Sinusoids
from mlbook.training.cuda_graph import rates_on_device
from mlbook.training.records import keep

NO_KERNEL = set(
    "alias as_strided detach device empty empty_like empty_strided expand is_same_size lift_fresh new_empty new_empty_strided "
    "permute reshape _reshape_alias scalar_tensor select slice split split_with_sizes squeeze t transpose unbind unsqueeze "
    "_unsafe_view view".split()
)
ROWS = [
    (name, engine)
    for name in ("maml-omniglot-5w1s", "fomaml-omniglot-5w1s", "maml-omniglot-20w1s", "maml-sinusoid-5shot")
    for engine in ("loop", "vmap", "fast")
]


class Counting(TorchDispatchMode):
    """Counts operations by name, and the devices that their results lie on."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in NO_KERNEL:
            self.operations[name] += 1
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor) and tensor.dim():  # a number rides along in the launch
                    self.devices.add(tensor.device.type)
        return result


def made_up_device() -> str:
    """A device whose tensors have no memory; this process keeps it."""
    torch.utils.backend_registration._setup_privateuseone_for_python_backend("gpu")
    return "gpu:0"


def count(name: str, engine: str, device: str, fault: str | None = None) -> dict:
    """Operations of one meta-step of the paper's recipe. ``fault``: what a test puts in to see that it is found."""
    config = experiments.config(experiments.get(name), "paper")
    learner = experiments.build_learner(config)
    learner = fast(learner) if engine == "fast" else replace(learner, engine=engine)
    with FakeTensorMode(), draws_without_values():
        if config["dataset"] == "sinusoid":
            tasks = Sinusoids(config["k_shot"], config["n_query"])
        else:
            images = torch.empty(1200, 20, 1, 28, 28, dtype=torch.uint8, device=device)
            pool = ClassPool(images, rotations="per_task")
            tasks = FewShot(pool, config["n_way"], config["k_shot"], config["n_query"])
        params = {n: torch.empty(p.shape, device=device) for n, p in learner.model.named_parameters()}
        if config["dataset"] != "sinusoid":  # the first meta-step reads its labels, and these have no values
            first_look.SEEN[learner.model] = (config["n_way"],), {n: p.shape for n, p in params.items()}
        state = State({"params": params}, torch.optim.Adam(leaves({"params": params})))
        rates_on_device(state)
        generator = _Generator(device)

        def meta_step(state: State) -> State:
            episodes = tasks.sample(config["meta_batch_size"], generator)
            state, metrics = learner.step(state, episodes)
            if fault == "item":
                float(metrics["loss"])
            if fault == "host tensor":
                metrics["loss"] + torch.ones(3)
            return state

        state = meta_step(state)  # the optimiser makes its moments
        with Counting() as counting:
            meta_step(state)
    return {
        "experiment": name,
        "engine": engine,
        "launches": sum(counting.operations.values()),
        "devices": sorted(counting.devices),
        "most": counting.operations.most_common(8),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launches", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs=2, metavar=("EXPERIMENT", "ENGINE"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the record there")
    parser.add_argument("--fault", choices=["item", "host tensor"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = made_up_device()
    rows = [
        count(name, engine, device, options.fault)
        for name, engine in ([options.only] if options.only else ROWS)
    ]
    record = {"torch": torch.__version__.split("+")[0], "rows": rows}
    if options.out:
        keep(options.out, record)
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['experiment']:24} {row['engine']:5} {row['launches']:7,}  {row['most'][:4]}")


class _Generator:
    """Only a device: the draws of a made-up device have no values."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)


@contextmanager
def draws_without_values() -> Iterator[None]:
    """Let torch's random functions take such a generator."""
    names = ("rand", "randint")
    originals = {name: getattr(torch, name) for name in names}
    for name, original in originals.items():
        setattr(torch, name, lambda *args, generator, _original=original, **rest: _original(*args, **rest))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


if __name__ == "__main__":
    main()
