"""The search: what is searched, and the page that shows what was found.

Sphinx's own index knows which page holds a word, not where on it; it fetches every page found to quote from it, which a
browser refuses for files of a folder; and it holds code, set-up cells and LaTeX. So the book keeps a list of its own: one
entry for each section (heading, prose), each term of the glossary and each name of the API. Code, what code prints,
displayed formulas, solutions and answers are left out; short formulas in a sentence are written in letters. The list is a
script, search-sections.js, so that it loads from a folder too. In the browser MiniSearch (book/_static/vendor) indexes it,
and book/_static/js/search.js ranks and shows.
"""

import json
import re
import textwrap
from pathlib import Path

from chapter_numbers import chapter_number
from docutils import nodes
from sphinx import addnodes

LISTING = "_static/search-sections.js"
BEFORE, AFTER = "window.mlbookSections = ", ";\n"
LIBRARY = Path(__file__).resolve().parents[1] / "_static/vendor/minisearch.js"
CDN = "https://cdn.jsdelivr.net/npm/minisearch@7.2.0/dist/umd/index.min.js"  # where vendor.py could fetch nothing

CLOSED = (
    nodes.literal_block,
    nodes.math_block,
    nodes.raw,
    nodes.comment,
    nodes.image,
    nodes.system_message,
    nodes.footnote_reference,
    addnodes.index,
)
CLOSED_NAMES = {"amsmath", "solution_node", "solution_enumerable_node", "exercise_title", "toctree"}
CLOSED_CLASSES = {
    "cell_input",
    "cell_output",
    "quiz-answers",
    "quiz-why",
    "toctree-wrapper",
    "amsmath",
    "chapter-cost",
}

PAGE = """\
<h1>Search</h1>
<form id="book-search" role="search" action="" method="get">
<label for="book-search-words">Words to look for in headings, text, glossary and API</label>
<span class="search-line"><input type="search" id="book-search-words" name="q" autocomplete="off" autocorrect="off"
autocapitalize="off" spellcheck="false" aria-describedby="book-search-count"><button type="submit">Search</button></span>
</form>
<p id="book-search-count" role="status"></p>
<div id="search-results"></div>
<noscript><p>The search needs JavaScript. The <a href="book/glossary.html">glossary</a> and the
<a href="genindex.html">index</a> do without.</p></noscript>
"""

# -- formulas as letters ------------------------------------------------------------------------------------------------

LETTERS = dict(
    zip(
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi pi rho sigma tau "
        "phi varphi chi psi omega Gamma Delta Theta Lambda Pi Sigma Phi Psi Omega nabla partial infty times cdot "
        "leftarrow gets log exp min max star top approx le leq ge geq ne neq to rightarrow in sum prod pm ll gg sim "
        "propto ell dots ldots cdots prime mid odot".split(),
        [
            *"αβγδεεζηθϑκλμνξπρστφφχψωΓΔΘΛΠΣΦΨΩ∇∂∞×·←←",
            "log ",
            "exp ",
            "min ",
            "max ",
            *"*⊤≈≤≤≥≥≠≠→→∈∑∏±≪≫∼∝ℓ………′|⊙",
        ],
        strict=True,
    )
)
WRAPPERS = r"\\(?:mathcal|mathbf|mathrm|mathbb|boldsymbol|bm|text|operatorname|textbf|textit|tilde|hat|bar)\s*\{([^{}]*)\}"
SPACES = r"\\(?:left|right|big|Big|quad|qquad)(?![A-Za-z])|\\[,;!: ]"
SUPERSCRIPTS = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")


def readable(tex):
    """A short formula in letters, or an ellipsis where LaTeX would be left in it."""
    text = re.sub(SPACES, " ", tex)
    text = re.sub(r"\\([A-Za-z]+)", lambda m: LETTERS.get(m[1], m[0]), text)
    for _ in range(3):  # wrappers stand in one another
        text = re.sub(WRAPPERS, r"\1", text)
    text = re.sub(r"\\(?:tilde|hat|bar|mathbf|mathcal)\s*(\w)", r"\1", text)
    text = re.sub(r"\\sqrt\s*(?:\{(\w+)\}|(\w))", r"√\1\2", text)
    text = re.sub(r"\\[dt]?frac\s*(?:\{([^{}\\]+)\}\{([^{}\\]+)\}|(\d)(\d))", r"\1\3/\2\4", text)
    text = re.sub(r"\^\{?([0-9+\-]+)\}?", lambda m: m[1].translate(SUPERSCRIPTS), text)
    text = re.sub(r"\^\{?(′+|\*)\}?", r"\1", text)
    text = re.sub(r"([_^])\{([^{}]+)\}", r"\1\2", text).replace(r"\%", "%").replace(r"\|", "‖")
    text = " ".join(text.split())
    return "…" if re.search(r"[\\{}&]", text) or len(text) > 40 else text


# -- the list --------------------------------------------------------------------------------------------------------------


def _is_closed(node):
    return (
        isinstance(node, CLOSED)
        or type(node).__name__ in CLOSED_NAMES
        or bool(CLOSED_CLASSES & set(node.get("classes", [])))
    )


def _words(node):
    """The prose of a node, in order, without what is listed elsewhere: its subsections, terms and names of the API."""
    if isinstance(node, nodes.Text):
        return node.astext()
    if isinstance(node, nodes.math):
        return readable(node.astext())
    if _is_closed(node) or isinstance(node, (nodes.section, addnodes.glossary, addnodes.desc)):
        return ""
    if isinstance(node, nodes.title) and isinstance(node.parent, nodes.section):
        return ""
    text = "".join(_words(child) for child in node.children)
    if isinstance(node, (nodes.title, nodes.term, nodes.rubric)) and text[-1:].isalnum():
        text += "."
    return text if isinstance(node, nodes.Inline) else text + " "


def _clean(text):
    return re.sub(r"\s+([,;:.)])", r"\1", " ".join(text.split()))


def _terms(doctree):
    for item in doctree.findall(nodes.definition_list_item):
        if isinstance(item.parent.parent, addnodes.glossary):
            terms = [child for child in item if isinstance(child, nodes.term)]
            meaning = next(child for child in item if isinstance(child, nodes.definition))
            names = ", ".join("".join(t.astext() for t in term.findall(nodes.Text)) for term in terms)
            yield {"kind": "term", "title": names, "id": terms[0]["ids"][0], "text": _clean(_words(meaning))}


def _names(doctree):
    """Functions and classes with the first sentence of their docstrings."""
    for thing in doctree.findall(addnodes.desc):
        signature = next(iter(thing.findall(addnodes.desc_signature)), None)
        if signature is None or not signature["ids"]:
            continue
        doc = next(iter(thing.findall(nodes.literal_block)), None)
        text = (
            textwrap.shorten(doc.astext().split("\n\n")[0], 200, placeholder=" …") if doc is not None else ""
        )
        yield {"kind": "name", "title": signature["ids"][0], "text": _clean(text)}


def sections(doctree):
    """The entries of one page, in order; the first is the page's own."""
    found = []
    for section in doctree.findall(nodes.section):
        title = next((child for child in section if isinstance(child, nodes.title)), None)
        if title is None:
            continue
        heading = "".join(
            readable(n.astext()) if isinstance(n, nodes.math) else n.astext() for n in title.children
        )
        entry = {"title": _clean(heading), "text": _clean("".join(_words(child) for child in section))}
        if found:
            entry["id"] = section["ids"][0]
        found.append(entry)
    return [*found, *_terms(doctree), *_names(doctree)]


def _kept(app):
    path = Path(app.outdir) / LISTING
    if not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8")[len(BEFORE) : -len(AFTER)])


def _start(app):
    if app.builder.format == "html":
        app.builder.search = False  # no index and no page of Sphinx's
        app.mlbook_sections = {}


def _collect(app, pagename, templatename, context, doctree):
    if pagename == "search":
        context["metatags"] = context.get("metatags", "") + '<meta name="robots" content="noindex" />\n'
        local = LIBRARY.exists()
        app.add_js_file("vendor/minisearch.js" if local else CDN, loading_method="defer", priority=900)
        app.add_js_file("search-sections.js", loading_method="defer", priority=901)
        app.add_js_file("js/search.js", loading_method="defer", priority=902)
        app.add_css_file("search.css", priority=900)
    elif doctree is not None and pagename in app.env.found_docs:
        app.mlbook_sections[pagename] = {
            "number": chapter_number(pagename) or None,
            "title": app.env.titles[pagename].astext(),
            "sections": sections(doctree),
        }


def _add_page(app):
    if app.builder.format != "html":
        return
    yield "search", {"title": "Search", "body": PAGE}, "page.html"


def _write(app, exception):
    """Pages that have not changed are not written again: their entries are those of the last build."""
    if exception is not None or app.builder.format != "html":
        return
    listed = {**_kept(app), **app.mlbook_sections}
    order = [name for name in [app.config.root_doc, *app.env.toctree_includes.get(app.config.root_doc, [])]]
    order += sorted(set(listed) - set(order))
    pages = {name: listed[name] for name in order if name in listed and name in app.env.found_docs}
    text = json.dumps(pages, ensure_ascii=False, separators=(",", ":"))
    (Path(app.outdir) / LISTING).write_text(BEFORE + text + AFTER, encoding="utf-8")


def setup(app):
    app.connect("builder-inited", _start)
    app.connect("html-collect-pages", _add_page)
    app.connect("html-page-context", _collect)
    app.connect("build-finished", _write)
    # The entries are gathered while pages are written, in one process.
    return {"parallel_read_safe": True, "parallel_write_safe": False}
