"""Chapters compute where their environment says: read in their code, and run on a made-up GPU (``made_up_gpu``)."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from package_fixtures import ROOT

CHAPTERS = [
    path for path in sorted((ROOT / "book").glob("*.ipynb")) if re.match(r"\d\d_|own_data", path.name)
]
CALLS = {
    "classifier_training",
    "evaluate",
    "evaluate_config",
    "fixed_scores",
    "follow",
    "outer_loop",
    "pretrained",
    "run",
    "running_statistics",
    "task_scores",
    "train",
    "trained",
}
"""What trains, evaluates or loads a checkpoint; and what cells define by these names."""

ON_THE_CPU = {
    ("05", "code-020"): "float64 gradients, twelve of a small network",
    ("05", "code-026"): "a histogram of rates",
    ("08", "code-024"): "three parameters, 60 meta-steps",
    ("09", "code-045"): "three tasks in a figure",
    ("10", "code-034"): "codes of 200 tasks, taken apart with the linear algebra of the host",
    ("11", "code-016"): "one task in a figure",
    ("14", "code-011"): "another follow: paths in the plane, in float64",
    ("15", "code-015"): "another run: seven steps on one function, in float64",
    ("16", "code-031"): "a policy in a figure",
    ("17", "code-018"): "choices of a recorded search, looked up in a table",
}
"""{(chapter, cell): why}"""


FAST = ("10_leo_images",)
"""Notebooks that the suite always runs on the made-up GPU. The others take minutes: MLBOOK_EVERY_CHAPTER=1 runs them, too."""
EVERY = pytest.mark.skipif(
    not os.environ.get("MLBOOK_EVERY_CHAPTER"), reason="takes minutes; MLBOOK_EVERY_CHAPTER=1 runs it"
)
NOT_SHOWN = {
    (
        "03_pretraining_or_meta_learning",
        "code-027",
    ): "forward-mode derivatives under vmap ask for memory the made-up device has not",
    ("11_reptile", "code-018"): "draws a curve of points that the shortened training has not",
}
"""Cells that fail on the made-up GPU for a reason that is not the GPU's: {(notebook, cell): why}."""


def cells(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            yield cell["id"], re.sub(r"^(\s*)%.*$", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE)


class Reader(ast.NodeVisitor):
    """Follows what is made with ``env`` through the names of a notebook, cell after cell."""

    def __init__(self):
        self.known = {"env"}
        self.calls = set(CALLS)
        self.parameters = []
        self.found = []  # (line, call) without anything of the environment

    def of_env(self, *nodes):
        names = {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}
        return bool(names & self.known) or any(names & its for its in self.parameters)

    def learn(self, target, *values):
        if any(self.of_env(value) for value in values):
            self.known |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}

    def visit_Assign(self, node):
        self.generic_visit(node)
        for target in node.targets:
            if not self.parameters and not self.of_env(node.value):  # a name that is used again
                self.known -= {
                    n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
                } - {"env"}
            self.learn(target, node.value)

    def visit_AugAssign(self, node):
        self.generic_visit(node)
        self.learn(node.target, node.value)

    def visit_For(self, node):
        self.learn(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node):
        self.learn(node.target, node.iter)
        self.generic_visit(node)

    def _comprehended(self, node):
        for part in node.generators:
            self.visit(part)
        self.generic_visit(node)

    visit_ListComp = visit_DictComp = visit_SetComp = visit_GeneratorExp = _comprehended

    def visit_FunctionDef(self, node):
        arguments = {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}
        before = len(self.found)
        self.parameters.append(arguments)
        self.generic_visit(node)
        self.parameters.pop()
        inside = {
            getattr(n.func, "attr", getattr(n.func, "id", ""))
            for n in ast.walk(node)
            if isinstance(n, ast.Call)
        }
        text = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - arguments
        self.known.discard(node.name)
        if text & self.known:
            self.known.add(node.name)  # it takes the device itself
        elif arguments and inside & self.calls and before == len(self.found):
            self.calls.add(node.name)  # whoever calls it has to give it

    def visit_Call(self, node):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = [*node.args, *(k.value for k in node.keywords)]
        if name in self.calls and not self.of_env(*given, node.func):
            self.found.append((node.lineno, name))
        self.generic_visit(node)


def without_env(path):
    """[(cell, line, call)] of a notebook."""
    reader, rows = Reader(), []
    for name, text in cells(path):
        reader.found = []
        reader.visit(ast.parse(text))
        rows += [(name, line, call) for line, call in reader.found]
    return rows


def test_every_training_and_evaluation_is_given_the_device_of_the_page():
    missing, used = [], set()
    for path in CHAPTERS:
        for cell, line, call in without_env(path):
            key = path.name[:2], (re.match(r"code-\d+", cell) or re.match(r"[\w-]+", cell)).group()
            used.add(key)
            if key not in ON_THE_CPU:
                missing.append(f"{path.name}, {cell}, line {line}: {call}")
    assert not missing, "\n".join(missing)
    assert set(ON_THE_CPU) == used, "exceptions that are none"


def test_the_reader_sees_what_it_should():
    reader = Reader()
    reader.visit(
        ast.parse(
            """
config, meta = pretrained("a", env.device)
evaluate(learner, meta, tasks)
_, other = pretrained("b")
evaluate(learner, other, tasks)
def measure(meta):
    return evaluate(learner, meta, tasks)
measure(meta)
measure(other)
[evaluate(learner, m, tasks) for m in (meta, other)]
"""
        )
    )
    assert [line for line, _ in reader.found] == [4, 5, 9]


needs_made_up_device = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot make up a device",
)


@needs_made_up_device
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[] if p.stem in FAST else [pytest.mark.slow, EVERY]) for p in CHAPTERS],
)
def test_a_notebook_runs_on_a_gpu_that_is_made_up(path, tmp_path):
    """No tensor of the host meets one of the GPU, no generator is of the other, and figures get numbers of the host."""
    command = [sys.executable, ROOT / "tests/made_up_gpu.py", path, "--json", tmp_path / "found.json"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    (rows,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8")).values()
    failed = {re.match(r"code-\d+", row["cell"]).group(): row["error"] for row in rows if row["error"]}
    excused = {cell for stem, cell in NOT_SHOWN if stem == path.stem}
    assert not {cell: error for cell, error in failed.items() if cell not in excused}
    assert excused <= set(failed), "exceptions that are none"


@needs_made_up_device
def test_the_made_up_gpu_refuses_what_a_gpu_refuses():
    program = """
import torch, made_up_gpu
gpu, host = made_up_gpu.make_up(), torch.Generator().manual_seed(0)
there = torch.Generator(gpu).manual_seed(0)
x = torch.rand(3, 4, generator=there, device=gpu)
assert x.device.type == "gpu" and x.cpu().tolist() == torch.rand(3, 4, generator=host).tolist()
assert float((x * 2).sum()) == float((2 * x.cpu()).sum()) and x[[0, 2]].shape == (2, 4)
assert torch.func.vmap(torch.func.grad(lambda v: (v * v).sum()))(x).device == x.device
for wrong in (
    lambda: x + torch.ones(4),
    lambda: torch.ones(5)[x[0].long()],
    lambda: torch.rand(3, generator=there),
    lambda: torch.rand(3, generator=host, device=gpu),
    lambda: x.numpy(),
):
    try:
        wrong()
    except (RuntimeError, TypeError):
        continue
    raise SystemExit("not refused")
"""
    folder = ROOT / "tests"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-1500:]


def test_tensors_of_chapters_have_no_device_of_their_own():
    for path in CHAPTERS:
        for name, text in cells(path):
            assert "cuda" not in text and '"gpu' not in text, (path.name, name)
