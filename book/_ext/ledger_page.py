"""The results page: its script, the library that sorts and filters its table, and the ledger as files beside it.

DataTables comes from book/_static/vendor (tools/vendor.py). Where that folder is missing the table stands there whole, unsorted.
"""

import json
from pathlib import Path

PAGE = "book/results"
LIBRARY = "vendor/dataTables.min.js"


def _add_scripts(app, pagename, templatename, context, doctree):
    if pagename == PAGE and (Path(app.srcdir) / "book/_static" / LIBRARY).exists():
        app.add_js_file(LIBRARY, loading_method="defer")
        app.add_js_file("js/ledger.js", loading_method="defer", priority=800)


def _write_files(app, exception):
    if exception or app.builder.format != "html":
        return
    from mlbook import results
    from mlbook.pages.ledger_table import as_csv

    rows, folder = results.ledger(), Path(app.outdir) / "book"
    (folder / "results.csv").write_text(as_csv(rows), encoding="utf-8")
    (folder / "results.json").write_text(
        json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def setup(app):
    app.connect("html-page-context", _add_scripts)
    app.connect("build-finished", _write_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
