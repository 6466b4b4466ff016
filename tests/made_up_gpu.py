"""A made-up GPU that computes, on the CPU: what mixes devices fails as on a real one, and all numbers are there.

    python tests/made_up_gpu.py book/04_maml.ipynb [--cells ID ...] [--json]

executes a notebook's code cells with ``env.device`` on the made-up device, one after the other, and says which fail. Unlike the
tensors of ``benchmarks.launches``, these may be read by the host: a page prints what it computes. Trainings are cut to a few
meta-steps and evaluations to a few tasks; ``assert`` is left out, since it speaks of the full ones.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.utils.backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU = "gpu:0"
CPUGenerator = torch.Generator
MIXING = {"copy_", "_to_copy"}  # operations that take tensors of both devices
INDEXING = {
    "index",
    "index_put",
    "index_put_",
    "_unsafe_index",
    "_index_put_impl_",
}  # indices may lie on the host


class OnGPU(torch.Tensor):
    """A tensor that says it lies on the GPU and holds its numbers on the host, in ``host``."""

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnGPU:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=torch.device(GPU),
        )
        made.host = real
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"OnGPU({self.host})"

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(tuple(torch.tensor(p) if isinstance(p, list) else p for p in parts))

    def tolist(self):
        return self.host.tolist()

    def __format__(self, how: str) -> str:
        return format(self.host, how)


GENERATORS: dict[int, torch.Generator] = {}
"""The generators of the GPU, by what torch's own code knows them by; they are kept, or another would get the same number."""


class Generator(CPUGenerator):
    """In the place of ``torch.Generator``: one of the host, or one that says it lives on the GPU."""

    def __new__(cls, device="cpu"):
        if torch.device(device).type == "cpu":
            return CPUGenerator()
        made = super().__new__(cls)
        GENERATORS[made._cdata] = made
        return made

    def __init__(self, device="cpu") -> None:
        pass

    device = property(lambda self: torch.device(GPU))


def compute(func, args, kwargs):
    """An operation on the host, after the checks that a GPU would make."""
    name = func.overloadpacket.__name__
    flat, spec = tree_flatten((args, kwargs))
    tensors = [t for t in flat if isinstance(t, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, OnGPU)]
    device = kwargs.get("device")
    on_gpu = device is not None and torch.device(device).type == "gpu"
    if not ours and not on_gpu and not any(isinstance(t, CPUGenerator) for t in flat):
        return func(*args, **kwargs)
    its = tensors[:1] if name in INDEXING else tensors
    if ours and name not in MIXING:
        theirs = [t for t in its if not isinstance(t, OnGPU) and t.dim()]
        if theirs or (name in INDEXING and not isinstance(its[0], OnGPU)):
            raise RuntimeError(f"Expected all tensors to be on the same device ({name})")
    to_gpu = on_gpu or (bool(ours) and device is None)
    for value in flat:
        if isinstance(value, CPUGenerator) and (value._cdata in GENERATORS) != to_gpu:
            place = "gpu" if to_gpu else "cpu"
            raise RuntimeError(f"Expected a '{place}' device type for generator ({name})")
    by_real = {id(t.host): t for t in ours}
    flat = [t.host if isinstance(t, OnGPU) else t for t in flat]
    args, kwargs = tree_unflatten(flat, spec)
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*args, **kwargs)
    if name == "copy_":
        to_gpu = id(args[0]) in by_real

    def place(value):
        if not isinstance(value, torch.Tensor) or not to_gpu:
            return value
        return by_real.get(id(value)) if id(value) in by_real else OnGPU(value)

    return tree_map(place, result)


class Everywhere(TorchDispatchMode):
    """Sees also what has no tensor of ours among its arguments: new tensors, random numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def make_up() -> torch.device:
    """From now on this process has the GPU."""
    torch.utils.backend_registration._setup_privateuseone_for_python_backend("gpu")
    torch.Generator = Generator
    make = torch.tensor
    # torch's own way from numbers to a device does not ask Python
    torch.tensor = lambda data, *, device=None, **rest: make(data, **rest).to(device or "cpu")
    Everywhere().__enter__()
    return torch.device(GPU)


# -- notebooks ------------------------------------------------------------------------------------------------------------


class Short(ast.NodeTransformer):
    """The same cell without its assertions and with less work; ``notebook.check`` may fail."""

    def visit_Assert(self, node):
        return ast.copy_location(ast.Expr(node.test), node)  # it is computed all the same


def shorten(meta_steps: int, n_tasks: int) -> None:
    """Cut trainings and evaluations of this process."""
    from mlbook import training
    from mlbook.experiments import Experiment
    from mlbook.pages.checks import comparison
    from mlbook.training import evaluation, loop, runner

    train, scores = loop.train, evaluation.fixed_scores
    preset, config = Experiment.preset, Experiment.config
    limit, most = meta_steps, n_tasks

    def few_steps(*args, meta_steps: int, **rest):
        for progress in train(*args, meta_steps=meta_steps, **rest):
            yield progress
            if progress.meta_step >= limit:
                return

    def few_tasks(*args, n_tasks: int, **rest):
        return scores(*args, n_tasks=min(n_tasks, most), **rest)

    def few_marks(*args, marks, **rest):
        return follow(*args, marks=(1, limit), **rest)

    def short_preset(self, name):
        full = preset(self, name)
        steps, tasks = min(full.meta_steps, limit), min(full.evaluation_tasks, most)
        return replace(full, meta_steps=steps, evaluation_tasks=tasks)

    def short_config(self, preset, *, meta_steps: int | None = None, seed: int = 0):
        return config(self, preset, meta_steps=meta_steps and min(meta_steps, limit), seed=seed)

    Experiment.preset, Experiment.config = short_preset, short_config
    evaluation.fixed_scores = few_tasks
    follow, comparison.follow = comparison.follow, few_marks
    for module in (loop, training, runner, comparison):
        module.train = few_steps


def code_cells(path: Path) -> list[tuple[str, str]]:
    """[(id, source)] of a notebook's code cells, without IPython's own commands."""
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"])
            found.append((cell["id"], re.sub(r"^(\s*)%.*$", r"\1pass", text, flags=re.MULTILINE)))
    return found


def execute(path: Path, device: torch.device, wanted=None) -> list[dict]:
    """What became of every cell: {"cell", "seconds", "error"}."""
    from mlbook.pages import notebook
    from mlbook.training import runner

    setup = notebook.setup
    notebook.setup = lambda *args, **options: replace(setup(*args, **options), device=device)
    runner.choose_device = lambda name: device
    rows, space = [], {"__name__": "__main__"}
    for number, (name, text) in enumerate(code_cells(path)):
        if wanted is not None and number and name not in wanted:
            continue
        began, error = time.monotonic(), None
        try:
            tree = ast.fix_missing_locations(Short().visit(ast.parse(text)))
            exec(compile(tree, f"{path.name}:{name}", "exec"), space)  # noqa: S102
        except Exception as found:  # noqa: BLE001
            import traceback

            here = [f for f in traceback.extract_tb(found.__traceback__) if path.name in f.filename]
            line = here[-1].lineno if here else 0
            last = traceback.extract_tb(found.__traceback__)[-1]
            error = f"line {line}: {type(found).__name__}: {str(found)[:300]} ({Path(last.filename).name}:{last.lineno})"
            print(f"{path.stem} {name} {error}", file=sys.stderr, flush=True)
        rows.append({"cell": name, "seconds": round(time.monotonic() - began, 2), "error": error})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--cells", nargs="+", help="only these, after the first")
    parser.add_argument("--json", type=Path, help="write what was found there")
    options = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "agg")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mlbook.pages import notebook

    for name in ("figure", "display"):
        setattr(notebook, name, lambda *args, **rest: None)
    device = make_up()
    shorten(meta_steps=2, n_tasks=25)
    found = {}
    for path in options.notebooks:
        rows = found[path.stem] = execute(path, device, options.cells)
        slow = sorted(rows, key=lambda r: -r["seconds"])[:4]
        print(f"{path.stem} slowest", [(r["cell"], r["seconds"]) for r in slow], file=sys.stderr)
        print(f"{path.stem}: {len(rows)} cells, {sum(r['seconds'] for r in rows):.1f} s", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
