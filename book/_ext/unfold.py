"""Parts of a page that unfold where they stand, across cells: for what only some readers want.

    ```{unfold-start} What it costs in memory
    ```
    ... prose, code cells with their outputs ...
    ```{unfold-end}
    ```

A dropdown ends with its cell; these two mark the first and the last place of one that holds code cells too. Both stand
at the same level of the page, with no heading between them. A start without its end, or the reverse, is a warning, that
is, an error of the build.
"""

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx_design.shared import create_component

LOGGER = logging.getLogger(__name__)


class unfold_start(nodes.General, nodes.Element):  # noqa: N801  (docutils names its nodes so)
    pass


class unfold_end(nodes.General, nodes.Element):  # noqa: N801
    pass


class UnfoldStart(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        node = unfold_start()
        inline, messages = self.state.inline_text(self.arguments[0], self.lineno)
        node += nodes.rubric(self.arguments[0], "", *inline)
        self.set_source_info(node)
        return [node, *messages]


class UnfoldEnd(SphinxDirective):
    def run(self):
        node = unfold_end()
        self.set_source_info(node)
        return [node]


def _fold(app, doctree):
    for start in list(doctree.findall(unfold_start)):
        siblings = start.parent.children
        first = siblings.index(start)
        ends = (
            i for i, node in enumerate(siblings) if i > first and isinstance(node, (unfold_end, unfold_start))
        )
        last = next(ends, None)
        if last is None or isinstance(siblings[last], unfold_start):
            LOGGER.warning("unfold-start without an unfold-end in the same section", location=start)
            start.replace_self(start.children)
            continue
        box = create_component(
            "dropdown",
            opened=False,
            type="dropdown",
            has_title=True,
            icon=None,
            chevron=None,
            container_classes=["sd-mb-3", "unfold"],
            title_classes=[],
            body_classes=[],
        )
        box += start.children
        box += siblings[first + 1 : last]
        start.parent[first : last + 1] = [box]
    for end in list(doctree.findall(unfold_end)):
        LOGGER.warning("unfold-end without an unfold-start in the same section", location=end)
        end.parent.remove(end)


def setup(app):
    app.add_node(unfold_start)
    app.add_node(unfold_end)
    app.add_directive("unfold-start", UnfoldStart)
    app.add_directive("unfold-end", UnfoldEnd)
    app.connect("doctree-read", _fold)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
