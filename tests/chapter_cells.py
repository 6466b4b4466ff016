"""Cells of a chapter by their ids, for tests that run or read them."""

import json

from package_fixtures import ROOT


def source(chapter, cell):
    """The text of the one cell of ``book/CHAPTER*.ipynb`` whose id begins with ``cell``."""
    (path,) = (ROOT / "book").glob(f"{chapter}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (found,) = ("".join(c["source"]) for c in cells if c["id"].startswith(cell))
    return found


def executed(chapter, *cells, replacing=None, given=None):
    """The names after running these cells one after the other; ``replacing``: {text: other text}, ``given``: names before."""
    names = dict(given or {})
    for cell in cells:
        text = source(chapter, cell)
        for old, new in (replacing or {}).items():
            text = text.replace(old, new)
        exec(compile(text, f"chapter {chapter}, {cell}", "exec"), names)
    return names
