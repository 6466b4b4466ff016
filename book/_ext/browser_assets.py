"""Serve MathJax, require.js, the widget manager and anywidget from the site itself.

`make` puts them into book/_static/vendor (tools/vendor.py). Where that folder is missing, Sphinx's and MyST-NB's own
defaults stand, which are links to public CDNs: the book still works, but only with a network.
"""

from pathlib import Path

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)

WIDGET_SCRIPTS = {  # the order matters
    "vendor/require.js": {},
    "js/widgets-offline.js": {},
    "vendor/embed-amd.js": {},
}


def _choose(app, config):
    if (Path(app.srcdir) / "book/_static/vendor/complete").exists():
        config.mathjax_path = "vendor/mathjax/tex-mml-chtml.js"
        config.nb_ipywidgets_js = WIDGET_SCRIPTS
    else:
        LOGGER.info(
            "book/_static/vendor is missing: the pages will load MathJax and the widget manager from CDNs"
        )


def setup(app):
    app.connect("config-inited", _choose, priority=100)  # before MyST-NB copies its settings
    return {"parallel_read_safe": True, "parallel_write_safe": True}
