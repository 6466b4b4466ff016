"""What a chapter costs: the time it took to run when this site was built, put into its first table.

The minutes to read are measured from the text by tools/reading_time.py and stand in the notebook. The seconds to run are
only known after the build has run the chapter, so they are put in here; in Jupyter and Colab the cell says what to expect.
"""

import os
import re

from chapter_numbers import chapter_number
from docutils import nodes
from myst_nb.sphinx_ import NbMetadataCollector


def seconds_to_run(env, docname):
    """Seconds that the notebook's execution took, or None where it was not executed (see executed_copies.py)."""
    data = NbMetadataCollector.get_exec_data(env, docname)
    return data.get("runtime") if data else None


def cost_table(doctree):
    """(first row, second row) of the table "to read | to run | needs", or None."""
    table = next(doctree.findall(nodes.table), None)
    rows = list(table.findall(nodes.row)) if table else []
    if len(rows) == 2 and [entry.astext() for entry in rows[0]] == ["to read", "to run", "needs"]:
        return rows
    return None


def needs(doctree):
    """Numbers of the chapters that a chapter asks for: "chapters 3 to 5 and 11" gives [3, 4, 5, 11]."""
    text = cost_table(doctree)[1][2].astext().split(";")[0]
    numbers = set()
    for first, last in re.findall(r"\b(\d+)(?:\s+to\s+(\d+))?", text):
        numbers |= set(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def minutes_to_read(doctree):
    return int(re.search(r"\d+", cost_table(doctree)[1][0].astext()).group())


def _put_in(app, doctree, docname):
    seconds = seconds_to_run(app.env, docname)
    if not chapter_number(docname) or seconds is None:
        return
    cell = cost_table(doctree)[1][1]
    others = NbMetadataCollector.get_exec_data(app.env, docname)["at_once"] - 1
    beside = (
        "" if others < 1 else " beside another chapter" if others == 1 else f" beside {others} other chapters"
    )
    text = f"{max(1, round(seconds))} seconds{beside} on {os.cpu_count()} CPU cores, when this site was built"
    cell.clear()
    cell += nodes.paragraph("", text)


def setup(app):
    app.connect("doctree-resolved", _put_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
