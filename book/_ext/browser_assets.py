"""Serve MathJax and what draws the labs from the site itself.

The labs need js/labs.js alone. MathJax, and the widget manager for a page that has other widgets than labs, are put into
book/_static/vendor by `make` (tools/vendor.py). Where that folder is missing, Sphinx's default stands, a link to a CDN: the
labs still work, and the formulas do with a network.
"""

from pathlib import Path

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)

WIDGET_SCRIPTS = {"js/labs.js": {"loading_method": "defer"}}


def _choose(app, config):
    config.nb_ipywidgets_js = WIDGET_SCRIPTS
    if (Path(app.srcdir) / "book/_static/vendor/complete").exists():
        config.mathjax_path = "vendor/mathjax/tex-chtml.js"
    else:
        LOGGER.info("book/_static/vendor is missing: the pages will load MathJax from a CDN")


def setup(app):
    app.connect("config-inited", _choose, priority=100)  # before MyST-NB copies its settings
    return {"parallel_read_safe": True, "parallel_write_safe": True}
