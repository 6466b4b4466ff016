"""The code that a page shows is written to be read there: narrow, public names, tags at the end of the line that does it."""

import ast
import json
import re
from types import SimpleNamespace

import pytest
from package_fixtures import ROOT

from mlbook.pages import notebook

COLUMNS = 84
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
PRIVATE = re.compile(
    r"(?:^|[\s(\[{,=+*/-])_[a-z]\w*|\._(?!replace\b)[a-z]\w*"
)  # a NamedTuple's _replace is public


def shown(path):
    """Everything that a chapter hands to ``notebook.show``, found by running its imports alone."""
    found = []
    names = {"notebook": SimpleNamespace(show=lambda *things, **_: found.extend(things))}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse(re.sub(r"(?m)^(\s*)[%!](?=[a-z]).*$", r"\1pass", "".join(cell["source"])))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("mlbook"):
                kept = [alias for alias in node.names if alias.name != "notebook"]
                if kept:
                    exec(ast.unparse(ast.ImportFrom(node.module, kept, 0)), names)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "notebook.show":
                exec(ast.unparse(node), names)
    return found


def faults(source):
    """One sentence for every line that does not belong on a page."""
    for line in source.splitlines():
        code = line.split("#")[0]
        if len(line) > COLUMNS:
            yield f"{len(line)} columns: {line}"
        if re.match(r"\s*[)\]}]+.*# .*\[[A-Z][\w-]* \d+\]", line):
            yield f"a tag behind a closing bracket: {line}"
        if PRIVATE.search(code) and "__" not in code:
            yield f"a private name: {line}"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_shown_code_fits_its_page(path):
    found = {
        f"{thing.__qualname__}: {fault}" for thing in shown(path) for fault in faults(notebook.source(thing))
    }
    assert not found


def test_chapters_show_code_and_a_fault_is_found():
    assert sum(len(shown(path)) for path in CHAPTERS) > 50
    assert (
        len(list(faults("x" * 85 + "\n)  # [MAML 8]\ny = _hidden(x)\nz = a._inner\nw = e._replace(x=1)")))
        == 4
    )
