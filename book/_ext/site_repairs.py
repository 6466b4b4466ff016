"""Small repairs to the built pages."""

import html
import re
from pathlib import Path

from chapter_numbers import chapter_number
from docutils import nodes

# MathJax weighs more than all else a page loads, and deferred scripts wait for each other: it comes after the labs are drawn.
MATHJAX = re.compile(r'<script defer="defer" src="([^"]*mathjax[^"]*\.js[^"]*)"></script>')
LATER = (
    "<script>addEventListener('DOMContentLoaded', () => setTimeout(() => "
    "document.head.append(Object.assign(document.createElement('script'), {{src: '{}'}}))))</script>"
)

# A line may break on either side of a formula, even before a full stop: what stands at it without a space stays with it,
# brackets, punctuation, and the end of a word as in "K-shot".
SPAN = r'<span class="math notranslate nohighlight">(?:(?!</span>).)*</span>'
FORMULA = re.compile(rf"([(\[“]{SPAN}[.,;:?!)\]”’]*|{SPAN}(?:[.,;:?!)\]”’]+|-\w+[.,;:?!)\]”’]*))", re.DOTALL)

PERCENT = re.compile(r"(?<=\d) %")

# The table of runs that MyST-NB makes: file names for pages, and a column that is the same in every row.
RUN = re.compile(
    r'(<span class="doc">)([^<]+)(</span></a></p></td>\n<td><p>[^<]*</p></td>\n)'
    r"<td><p>nbmake</p></td>\n(<td><p>[\d.]+</p></td>\n)<td><p>(.)</p></td>"
)
HEADS = {"Document": "page", "Modified": "run", "Run Time (s)": "seconds", "Status": "went through"}


def _table_of_runs(text, titles):
    """The HTML of the status page with titles in place of file names."""

    def row(match):
        link, name, middle, seconds, mark = match.groups()
        title, number = titles[name], chapter_number(name)
        if number and not title[0].isdigit():
            title = f"{number}. {title}"
        return f"{link}{html.escape(title)}{middle}{seconds}<td><p>{'yes' if mark == '✅' else 'no'}</p></td>"

    text = RUN.sub(row, text).replace('<th class="head"><p>Method</p></th>\n', "")
    for old, new in HEADS.items():
        text = text.replace(f'<th class="head"><p>{old}</p></th>', f'<th class="head"><p>{new}</p></th>')
    return text


def _title_beside_logo(app, config):
    # Not in _config.yml: theme options given there replace all that Jupyter Book sets, the buttons included.
    config.html_theme_options.setdefault("logo", {})["text"] = config.html_title


def _percent_stays(app, doctree, docname):
    """A number and its per cent sign stand on one line."""
    for text in list(doctree.findall(nodes.Text)):
        if isinstance(
            text.parent, nodes.literal | nodes.literal_block | nodes.math | nodes.math_block | nodes.raw
        ):
            continue
        if (new := PERCENT.sub("\u00a0%", text)) != text:
            text.parent.replace(text, nodes.Text(new))


def _drop_duplicates(app, pagename, templatename, context, doctree):
    """Sphinx and sphinx-thebe register an inline script twice; the second copy is a JavaScript error."""
    files = context.get("script_files")
    if not files:
        return
    seen, keep = set(), []
    for file in files:
        body = getattr(file, "attributes", {}).get("body")
        if body is None or body not in seen:
            keep.append(file)
        seen.add(body)
    files[:] = keep


def _mend_pages(app, exception):
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = path.read_text(encoding="utf-8")
            # docutils calls the bibliography a list, and its entries something that may not stand in one.
            lighter = text.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
            lighter = FORMULA.sub(r'<span class="kept">\1</span>', lighter)
            lighter = MATHJAX.sub(lambda found: LATER.format(found.group(1)), lighter)
            # The front page has the book's name; one is enough.
            lighter = re.sub(r"<title>([^<]+) &#8212; \1</title>", r"<title>\1</title>", lighter)
            if path.name == "status.html":
                titles = {name: title.astext() for name, title in app.env.titles.items()}
                lighter = _table_of_runs(lighter, titles)
            if lighter != text:
                path.write_text(lighter, encoding="utf-8")


def setup(app):
    app.connect("build-finished", _mend_pages)
    app.connect("config-inited", _title_beside_logo)
    app.connect("html-page-context", _drop_duplicates, priority=999)
    app.connect("doctree-resolved", _percent_stays)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
