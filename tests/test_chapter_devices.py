"""Chapters compute where their environment says: read in their code, and run on a made-up GPU (``made_up_gpu``)."""

import ast
import json
import re

from package_fixtures import ROOT

CHAPTERS = [
    path for path in sorted((ROOT / "book").glob("*.ipynb")) if re.match(r"\d\d_|own_data", path.name)
]
CALLS = {
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
    (
        "03",
        "code-033",
    ): "classifier_training, whose pool and generator are of the device; nothing by these names",
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
            key = path.name[:2], re.match(r"code-\d+", cell).group()
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


def test_tensors_of_chapters_have_no_device_of_their_own():
    for path in CHAPTERS:
        for name, text in cells(path):
            assert "cuda" not in text and '"gpu' not in text, (path.name, name)
