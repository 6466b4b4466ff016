"""Numbers for the figures that code draws: "Figure 4.2" before the caption, with an address of its own.

The figures are HTML outputs of cells, so they are numbered in the finished pages. Each says there how wide it was drawn, for
phones. book/_static/js/figures.js adds what needs a reader's browser: saving the picture, copying the link; wide.js marks what
is wider than its frame.
"""

import re
from pathlib import Path

from chapter_numbers import chapter_number

FIGURE = re.compile(r'<figure class="mlbook-figure">(.*?)</figure>', re.DOTALL)
WIDTH = re.compile(r'style="width:(\d+px);')
CAPTION = re.compile(r"<figcaption>(.*?)</figcaption>", re.DOTALL)


def numbered(text, chapter):
    """The HTML of a page with its figures numbered and their ids set."""
    count = 0

    def number(match):
        nonlocal count
        count += 1
        name = f"{chapter}.{count}" if chapter else str(count)
        label = f'<a class="figure-number" href="#figure-{name}">Figure {name}</a>'
        inside = WIDTH.sub(r'style="--drawn:\1;width:\1;', match.group(1), count=1)
        if CAPTION.search(inside):
            inside = CAPTION.sub(lambda found: f"<figcaption>{label} {found.group(1)}</figcaption>", inside)
        else:
            inside += f"<figcaption>{label}</figcaption>"
        return f'<figure class="mlbook-figure" id="figure-{name}">{inside}</figure>'

    return FIGURE.sub(number, text)


def _number_all(app, exception):
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir, "book").glob("*.html"):
            text = path.read_text(encoding="utf-8")
            new = numbered(text, chapter_number(f"book/{path.stem}"))
            if new != text:
                path.write_text(new, encoding="utf-8")


def setup(app):
    app.add_js_file("js/figures.js", loading_method="defer")
    app.add_js_file("js/wide.js", loading_method="defer")
    app.connect("build-finished", _number_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
