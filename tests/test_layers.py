"""Imports run downward only, and the core needs nothing but torch, numpy, safetensors and filelock."""

import ast
import json
import os
import subprocess
import sys

import pytest
from package_fixtures import ROOT

PACKAGE = ROOT / "mlbook"

# From the bottom up. A name is a module, or a folder with all that is in it. A module imports from lower layers only, or
# from its own folder; modules that share a layer do not import each other.
LAYERS = [
    ["errors", "__init__"],
    ["models", "data"],
    ["tasks"],
    ["meta_learners"],
    ["engines", "optimizers", "reinforcement"],
    ["augmentation"],
    ["architecture"],
    ["experiments"],
    ["training"],
    ["results"],
    ["cli", "pages"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
CORE = [name for names in LAYERS[:-2] for name in names]
CORE_LIBRARIES = {"torch", "numpy", "safetensors", "filelock"}
# meta_learners sees of the tasks only what an episode is; that the two families below it stay apart is tested, too
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def unit(path):
    """The entry of LAYERS that a file belongs to."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(source, *, top_level=False):
    """Dotted names of all imports in a module; ``from a import b`` gives both ``a`` and ``a.b``."""
    tree = ast.parse(source)
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(path, source):
    """The imports of a file that run upward or sideways."""
    here = unit(path)
    own = {name for name in imports(source) if name.startswith("mlbook.")}
    targets = {name.split(".")[1] for name in own}
    package = here if (PACKAGE / here).is_dir() else None
    known = {t for t in targets if t in LEVEL}  # `from mlbook import __version__` names no module
    return {t for t in known if t != package and LEVEL[t] >= LEVEL[here]}


def test_every_module_has_its_layer():
    assert {unit(path) for path in MODULES} <= set(LEVEL), "give the new module its place in LAYERS"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_downward_only(path):
    assert upward(path, path.read_text(encoding="utf-8")) == set()


def test_an_upward_import_is_found():
    maml = PACKAGE / "meta_learners" / "maml.py"
    assert upward(maml, "from mlbook.training import train") == {"training"}
    assert upward(maml, "def f():\n    from mlbook import experiments") == {"experiments"}
    assert upward(maml, "import mlbook.results as r") == {"results"}
    assert upward(maml, "from mlbook.meta_learners.base import State") == set()
    assert upward(PACKAGE / "cli.py", "from mlbook.pages import notebook") == {"pages"}  # sideways
    assert upward(PACKAGE / "models" / "mlp.py", "from mlbook.tasks import Episode") == {"tasks"}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if unit(p) in CORE], ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_the_core_needs_few_libraries(path):
    source = path.read_text(encoding="utf-8")
    roots = {name.split(".")[0] for name in imports(source, top_level=True)}
    assert roots - set(sys.stdlib_module_names) - {"mlbook"} <= CORE_LIBRARIES
    late = {name.split(".")[0] for name in imports(source)} - roots
    # gymnasium and mujoco: the extra `rl`, imported where a half-cheetah is made
    optional = {"torchvision", "PIL", "gymnasium", "mujoco"}
    assert late - set(sys.stdlib_module_names) - {"mlbook"} <= CORE_LIBRARIES | optional


def test_only_what_cells_call_imports_ipython():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
        & {"IPython", "ipykernel"}
    }
    assert users <= {"pages/notebook.py", "pages/live.py", "pages/ledger_table.py"}


def reached(start):
    """Dotted names of the modules of the package that ``start`` imports, at once or later, directly or through others."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    found, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in files and name not in found:
            found.add(name)
            parts = name.split(".")
            todo += [".".join(parts[:n]) for n in range(1, len(parts))]
            todo += imports(files[name].read_text(encoding="utf-8"))
    return found


def test_the_command_line_never_reaches_the_pages():
    found = reached("mlbook.cli")
    assert {"mlbook.training.runner", "mlbook.results", "mlbook.data.omniglot"} <= found
    assert not {name for name in found if name.startswith("mlbook.pages")}
    assert "mlbook.pages.labs.assets" in reached("mlbook.pages.labs")


def test_a_newcomer_meets_few_rooms():
    entries = {p.name for p in PACKAGE.iterdir() if not p.name.startswith(("__", "."))}
    assert len(entries) <= 15, sorted(entries)


def modules_after(statement):
    """Names of all modules that are there after a statement in a fresh interpreter."""
    script = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return set(json.loads(answer.stdout))


def test_importing_mlbook_alone_imports_nothing_else():
    assert modules_after("import mlbook") - modules_after("") == {"mlbook"}


def test_the_command_line_starts_without_torch():
    assert not modules_after("import mlbook.cli") & {"torch", "numpy", "matplotlib", "IPython"}


def test_the_core_brings_no_drawing_and_no_torchvision():
    heavy = {"matplotlib", "torchvision", "PIL", "IPython", "ipywidgets", "anywidget"}
    assert not modules_after("import mlbook.training.runner, mlbook.results, mlbook.pages.checks") & heavy
