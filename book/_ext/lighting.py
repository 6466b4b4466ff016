r"""Terms of formulas that light up when a lab runs the line of the algorithm that they stand for.

A line of a displayed formula that ends with a tag in a comment,

    \theta'_i = \theta - \alpha % [MAML 6]
    \nabla L^S_i(\theta) % [MAML 5]

becomes ``\class{line-maml-6}{...}`` on the site. To every other reader of the notebook (Jupyter, Colab, GitHub) the comment is
nothing. What stands on such a line has to be a formula by itself. A page with tagged formulas loads book/_static/js/lighting.js.
"""

import re

from docutils import nodes

TAGGED = re.compile(r"^[ \t]*(?P<tex>.*?)[ \t]*%[ \t]*\[(?P<tag>[A-Z][A-Za-z-]* \d+)\][ \t]*$", re.MULTILINE)


def name_of(tag):
    return "line-" + tag.lower().replace(" ", "-")


def lit(tex):
    """The formula with its tagged lines as classes."""
    return TAGGED.sub(lambda found: rf"\class{{{name_of(found['tag'])}}}{{{found['tex']}}}", tex)


def _mark(app, doctree):
    for formula in doctree.findall(nodes.math_block):
        text = formula.astext()
        if (new := lit(text)) != text:
            formula.children = [nodes.Text(new)]
            app.env.metadata[app.env.docname]["lit"] = True


def _add_script(app, pagename, templatename, context, doctree):
    if app.env.metadata.get(pagename, {}).get("lit"):
        app.add_js_file("js/lighting.js", loading_method="defer")


def setup(app):
    app.connect("doctree-read", _mark)
    app.connect("html-page-context", _add_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
