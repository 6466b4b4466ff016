"""Put the outputs of a notebook's executed copy into its page, and its times into the pages about times.

tools/build_book.py executes the copies, in the folder executed/. A cell that has changed since stays without outputs.
"""

import json
from datetime import datetime
from pathlib import Path

from myst_nb.sphinx_ import NbMetadataCollector


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def in_one(outputs):
    """Outputs with what was printed in parts, one after the other, in one."""
    joined = []
    for output in outputs:
        if joined and output["output_type"] == "stream" and joined[-1].get("name") == output["name"]:
            joined[-1] = {**joined[-1], "text": [*joined[-1]["text"], *output["text"]]}
        else:
            joined.append(output)
    return joined


def put_in(app, docname, source):
    path = Path(app.srcdir, "executed", f"{Path(docname).name}.ipynb")
    if not path.exists():
        return
    app.env.note_dependency(str(path))
    notebook, copy = json.loads(source[0]), json.loads(path.read_text(encoding="utf-8"))
    times = []
    for cell, ran in zip(code_cells(notebook), code_cells(copy), strict=False):
        times += ran["metadata"].get("execution", {}).values()
        if "".join(cell["source"]) == "".join(ran["source"]):
            cell.update(outputs=in_one(ran["outputs"]), execution_count=ran["execution_count"])
    for key in copy["metadata"].keys() & {"language_info", "widgets"}:
        notebook["metadata"][key] = copy["metadata"][key]
    source[0] = json.dumps(notebook)
    if times:
        marks = [datetime.strptime(time, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() for time in times]
        run = {"mtime": max(marks), "runtime": max(marks) - min(marks), "method": "nbmake", "succeeded": True}
        NbMetadataCollector.set_exec_data(app.env, docname, {**run, "at_once": copy["metadata"]["at_once"]})


def setup(app):
    app.connect("source-read", put_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
