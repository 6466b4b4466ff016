"""The gallery of labs, from the list in mlbook/pages/labs/gallery.py.

    ```{lab-gallery}       one card per lab: picture, title, what to try, and the chapter, to which the whole card leads
    ```

tools/lab_pictures.py takes the pictures.
"""

import json
import os
import re
from pathlib import Path

from chapter_numbers import chapter_number
from docutils.statemachine import StringList
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

CARD = """\
:::{{grid-item-card}} {title}
:img-top: _static/labs/{name}.png
:img-alt: Picture of the lab “{title}”
:link: {page}
:link-type: url
:link-alt: To the lab “{title}”, {place}
:class-card: lab-card

{sentence}

*{footer}*
:::
"""


def place(page):
    document = page.partition("#")[0]
    if number := chapter_number(f"book/{document}"):
        return f"chapter {number}"
    return "the front page" if document == "index" else f"the page “{heading(document)}”"


def heading(document):
    """The first heading of a notebook."""
    notebook = json.loads((Path(__file__).parents[1] / f"{document}.ipynb").read_text(encoding="utf-8"))
    return "".join(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# ")


def address(page):
    document, _, heading = page.partition("#")
    return f"{document}.html#{heading}"


class _Gallery(SphinxDirective):
    def run(self):
        from mlbook.pages.labs.gallery import CARDS

        cards = []
        for card in CARDS:
            for page in (card.page, *card.other_pages):
                if f"book/{page.partition('#')[0]}" not in self.env.found_docs:
                    raise ExtensionError(f"mlbook/pages/labs/gallery.py: there is no page {page}")
            picture = os.path.join(self.env.srcdir, f"book/_static/labs/{card.name}.png")
            if not os.path.exists(picture):
                raise ExtensionError(f"no {picture}: run python tools/lab_pictures.py {card.widget}")
            self.env.note_dependency(picture)
            also = f", also in {' and '.join(place(p) for p in card.other_pages)}" if card.other_pages else ""
            cards.append(
                CARD.format(
                    title=card.title,
                    name=card.name,
                    page=address(card.page),
                    place=place(card.page),
                    sentence=card.sentence,
                    footer=place(card.page)[0].upper() + place(card.page)[1:] + also,
                )
            )
        text = "::::{grid} 1 2 2 2\n:gutter: 3\n\n" + "\n".join(cards) + "\n::::\n"
        return (
            self.parse_text_to_nodes(text) if hasattr(self, "parse_text_to_nodes") else self.old_parse(text)
        )

    def old_parse(self, text):
        from docutils import nodes

        node = nodes.Element()
        self.state.nested_parse(StringList(re.split("\n", text), "lab-gallery"), self.content_offset, node)
        return node.children


def setup(app):
    app.add_directive("lab-gallery", _Gallery)
    return {"parallel_read_safe": True}
