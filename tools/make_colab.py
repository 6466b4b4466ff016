"""Write copies of the chapters that read well in Colab (and in plain Jupyter) into a folder.

    python tools/make_colab.py [_build/colab]      # `make colab` calls it, after the build

The chapters are written in MyST Markdown, whose boxes, citations and cross-references are raw text outside the built
site. Here boxes become HTML boxes, solutions and drop-downs become <details>, references become links with the numbers
they have on the site, and a GPU is asked for where a cell trains what a GPU speeds up. Every exercise gets a cell to answer in.
Where the site has been built, the copies
have its outputs, so that there is something to see before anything is run; a lab comes alive when its cell is run.
tools/myst_to_plain.py translates the Markdown; this file knows notebooks.
"""

import copy
import json
import re
import shutil
import sys
from pathlib import Path

import myst_to_plain
from book_labels import Book
from colab_links import has_copy
from set_repository import ROOT

EXECUTED = ROOT / "executed"  # see build_book.py
EXERCISE = re.compile(r"^:{3,}\{exercise\}[^\S\n]*(.*)\n:label: *(\S+)", re.MULTILINE)
LAB = "A lab. It comes alive when this cell is run."
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}

# What a GPU speeds up: the named experiments that a page trains, and networks of torchvision's size.
GPU_WORK = re.compile(r"\bnotebook\.train\(|\btorchvision\(\)\.models\b")

# Colab draws labs only after this; plain Jupyter needs nothing.
WIDGETS = """#@title Switch on the labs (Colab only)
try:
    from google.colab import output

    output.enable_custom_widget_manager()
except ImportError:
    pass"""


def _source(cell):
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def _first_cells(note):
    metadata = {"cellView": "form"}
    code = {"cell_type": "code", "id": "colab-labs", "metadata": metadata, "source": WIDGETS, "outputs": []}
    return [
        {"cell_type": "markdown", "id": "colab-note", "metadata": {}, "source": note},
        {**code, "execution_count": None},
    ]


def _fold(cell, title):
    """Colab hides the code of a cell that begins with #@title and has the view 'form'; it still runs."""
    if not _source(cell).startswith("#@title"):
        cell["source"] = f"#@title {title} (double-click to see the code)\n{_source(cell)}"
    cell["metadata"]["cellView"] = "form"


def stub(label, title, book):
    """The cell in which a reader answers an exercise: code for what asks for code, text for the rest."""
    _, number, *_ = book.references[label]
    if re.search(r"\b(code|experiment)\b", title):
        source = f"# Exercise {number}: your code. The solution is folded below, with the properties it is checked for.\n..."
        code = {"cell_type": "code", "execution_count": None, "outputs": []}
    else:
        source, code = f"*Exercise {number}: your answer (double-click to write).*", {"cell_type": "markdown"}
    return {"id": f"answer-{label}", "metadata": {"tags": ["answer"]}, "source": source, **code}


def wants_gpu(notebook):
    """Whether a cell trains something that a GPU speeds up."""
    return any(cell["cell_type"] == "code" and GPU_WORK.search(_source(cell)) for cell in notebook["cells"])


def outputs_of(executed):
    """[(source, outputs)] of an executed notebook's code cells; of a lab only that it is one."""
    found = []
    for cell in executed["cells"] if executed else []:
        if cell["cell_type"] != "code":
            continue
        outputs = copy.deepcopy(cell["outputs"])
        for output in outputs:
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                output["data"] = {"text/plain": LAB}
        found.append((_source(cell), outputs))
    return found


def convert(notebook, docname, book, executed=None):
    """The Colab copy of one notebook (as parsed JSON), with the outputs of its executed twin where there is one."""
    result = copy.deepcopy(notebook)
    translate = myst_to_plain.Translator(book, docname)
    gpu = wants_gpu(notebook)
    note = f"*Colab copy of [{book.title(docname)}]({book.page_url(docname)}). " + (
        "With a GPU (Runtime → Change runtime type → T4 GPU) it trains for minutes; without one it runs, too, and trains less.*"
        if gpu
        else "It needs no GPU.*"
    )
    cells, twins = _first_cells(note), iter(outputs_of(executed))
    for cell in result["cells"]:
        cell["metadata"] = dict(cell.get("metadata", {}))
        if cell["cell_type"] == "markdown":
            source = _source(cell)
            text = translate(source).strip()
            if not text:
                continue
            cell["source"] = text
            cells.append(cell)
            cells += [stub(label, title, book) for title, label in EXERCISE.findall(source)]
            continue
        elif cell["cell_type"] == "code":
            source, outputs = next(twins, (None, []))
            cell["outputs"] = (
                outputs if source == _source(cell) else []
            )  # the text has changed since the build
            cell["execution_count"] = None
            if translate.inside_solution:
                _fold(cell, "Solution")
            elif HIDDEN & set(cell["metadata"].get("tags", [])) and "notebook.setup(" not in _source(cell):
                _fold(cell, "Code of the next output")
        cells.append(cell)
    result["cells"] = cells
    result["metadata"] = {
        **result.get("metadata", {}),
        **({"accelerator": "GPU"} if gpu else {}),
        "colab": {**({"gpuType": "T4"} if gpu else {}), "provenance": [], "toc_visible": True},
    }
    result["nbformat"], result["nbformat_minor"] = 4, 5
    return result


def main(folder):
    folder = Path(folder)
    book = Book(ROOT)
    copies = {}
    for path in sorted(path for path in (ROOT / "book").glob("*.ipynb") if has_copy(f"book/{path.stem}")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        twin = EXECUTED / path.name
        executed = json.loads(twin.read_text(encoding="utf-8")) if twin.exists() else None
        copies[path.name] = convert(notebook, f"book/{path.stem}", book, executed)
        for cell in copies[path.name]["cells"]:
            left = cell["cell_type"] == "markdown" and myst_to_plain.leftovers(_source(cell))
            if left:
                sys.exit(f"{path.name}: not translated: {left[0]}")
    # Nothing is written before everything is translated.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, notebook in copies.items():
        text = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(copies)} Colab copies in {folder}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_build/colab")
