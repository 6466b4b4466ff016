"""What a chapter costs, in one line under its title: minutes to read, seconds to run, what it needs.

The minutes are measured from the text by tools/reading_time.py and stand in the notebook's first table. The seconds are only
known after the build has run the chapter, so the line is made here; in Jupyter and Colab the table says what to expect.
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


def _one_line(app, doctree, docname):
    rows = cost_table(doctree) if chapter_number(docname) else None
    if rows is None:
        return
    read, run, needed = (entry.astext() for entry in rows[1])
    seconds = seconds_to_run(app.env, docname)
    if seconds is not None:
        others = NbMetadataCollector.get_exec_data(app.env, docname)["at_once"] - 1
        beside = (
            "" if others < 1 else ", beside another chapter" if others == 1 else f", beside {others} others"
        )
        run = f"{max(1, round(seconds))} seconds on {os.cpu_count()} CPU cores{beside}"
    line = nodes.paragraph(classes=["chapter-cost"])
    for i, (word, text) in enumerate((("To read", read), ("To run", run), ("Needs", needed))):
        line += [nodes.Text(" · " if i else ""), nodes.strong("", word), nodes.Text(f" {text}")]
    table = next(doctree.findall(nodes.table))
    table.replace_self(line)


def setup(app):
    app.connect("doctree-resolved", _one_line)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
