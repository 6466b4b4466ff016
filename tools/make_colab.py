"""Write copies of the chapters that read well in Colab (and in plain Jupyter) into a folder.

    python tools/make_colab.py [_build/colab]      # `make colab` calls it

The chapters are written in MyST Markdown, whose boxes, citations and cross-references are raw text outside the built
site. Here boxes become HTML boxes, solutions and drop-downs become <details>, references become links with the numbers
they have on the site, and a GPU is asked for. tools/myst_to_plain.py translates the Markdown; this file knows notebooks.
"""

import copy
import json
import shutil
import sys
from pathlib import Path

import myst_to_plain
from book_labels import Book
from set_repository import ROOT

HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}

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


def convert(notebook, docname, book):
    """The Colab copy of one notebook (both as parsed JSON)."""
    result = copy.deepcopy(notebook)
    translate = myst_to_plain.Translator(book, docname)
    note = (
        f"*Colab copy of [{book.title(docname)}]({book.page_url(docname)}). For a GPU: Runtime → Change runtime "
        "type → T4 GPU; the quick settings need none.*"
    )
    cells = _first_cells(note)
    for cell in result["cells"]:
        cell["metadata"] = dict(cell.get("metadata", {}))
        if cell["cell_type"] == "markdown":
            text = translate(_source(cell)).strip()
            if not text:
                continue
            cell["source"] = text
        elif cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            if translate.inside_solution:
                _fold(cell, "Solution")
            elif HIDDEN & set(cell["metadata"].get("tags", [])):
                _fold(cell, "Code of the next output")
        cells.append(cell)
    result["cells"] = cells
    result["metadata"] = {
        **result.get("metadata", {}),
        "accelerator": "GPU",
        "colab": {"gpuType": "T4", "provenance": [], "toc_visible": True},
    }
    result["nbformat"], result["nbformat_minor"] = 4, 5
    return result


def main(folder):
    folder = Path(folder)
    book = Book(ROOT)
    copies = {}
    for path in sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        copies[path.name] = convert(notebook, f"book/{path.stem}", book)
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
