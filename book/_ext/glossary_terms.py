"""Definitions where they are needed: the first mention of a glossary term in a chapter shows its entry when one points at it.

Authors write plain words. In each chapter's paragraphs the first mention of every term becomes a link to the glossary, and
the page carries the entries it needs as JSON; book/_static/js/glossary.js shows them on hover, focus or touch.
"""

import json
import re

from chapter_numbers import chapter_number
from docutils import nodes
from sphinx import addnodes

GLOSSARY = "book/glossary"
# Titles, links, code, formulas, quizzes and what the code prints stay as they are.
CLOSED = (
    nodes.title,
    nodes.caption,
    nodes.reference,
    nodes.literal,
    nodes.math,
    nodes.raw,
    nodes.table,
    nodes.strong,
)
# Everyday words as well: only some of their mentions mean the term.
AMBIGUOUS = {"advantage", "baseline", "return", "way"}
# Terms of reinforcement learning, everyday words in the other chapters.
CHAPTERS = {"policy": {7, 17}, "reward": {7, 17}}
CLOSED_CLASSES = {"quiz-question", "cell_output", "admonition-title", "math"}


def entries(env):
    """{term: (anchor, definition as text)}, from the glossary page."""
    found = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        if not isinstance(item.parent.parent, addnodes.glossary):
            continue
        definition = next(child for child in item if isinstance(child, nodes.definition))
        text = " ".join(definition.astext().split())
        for term in item:
            if isinstance(term, nodes.term) and term.astext() not in AMBIGUOUS:
                found[term.astext()] = (term["ids"][0], text)
    return found


def pattern_of(term):
    """The term or its plural, as whole words; small letters stand for either."""
    words = r"[\s-]+".join(
        "".join(f"[{c.upper()}{c}]" if i == 0 and c.islower() else re.escape(c) for i, c in enumerate(word))
        for word in re.split(r"[\s-]+", term)
    )
    return re.compile(rf"(?<![\w-]){words}(?:s|es)?(?![\w-])")


def _is_open(text):
    node = text.parent
    while node is not None:
        if isinstance(node, CLOSED) or CLOSED_CLASSES & set(node.get("classes", [])):
            return False
        if isinstance(node, nodes.section | nodes.document):
            return True
        node = node.parent
    return True


def _link(app, doctree, docname):
    chapter = chapter_number(docname)
    if not chapter or GLOSSARY not in app.env.found_docs:
        return
    glossary = entries(app.env)
    here = [term for term in glossary if chapter in CHAPTERS.get(term, {chapter})]
    waiting = {term: pattern_of(term) for term in sorted(here, key=len, reverse=True)}
    address = app.builder.get_relative_uri(docname, GLOSSARY)
    for paragraph in list(doctree.findall(nodes.paragraph)):
        for text in [t for t in paragraph.findall(nodes.Text) if _is_open(t)]:
            parts, rest = [], text.astext()
            while rest:
                hits = [
                    (m.start(), -len(m.group()), term) for term, p in waiting.items() if (m := p.search(rest))
                ]
                if not hits:
                    break
                start, length, term = min(hits)
                link = nodes.reference("", "", internal=True, refuri=f"{address}#{glossary[term][0]}")
                link["classes"].append("glossary-term")
                link += nodes.Text(rest[start : start - length])
                parts += [nodes.Text(rest[:start]), link]
                rest = rest[start - length :]
                # An abbreviation and its long form may share an entry: one link for both.
                for other in [t for t in waiting if glossary[t][0] == glossary[term][0] or t == term]:
                    del waiting[other]
            if parts:
                text.parent.replace(text, [*parts, nodes.Text(rest)])


def _add_definitions(app, pagename, templatename, context, doctree):
    if not chapter_number(pagename) or "glossary-term" not in context.get("body", ""):
        return
    used = set(re.findall(r'class="glossary-term reference internal" href="[^"#]*#([^"]+)"', context["body"]))
    definitions = {anchor: text for anchor, text in entries(app.env).values() if anchor in used}
    listing = json.dumps(definitions, ensure_ascii=False).replace("</", "<\\/")
    context["body"] += f'<script type="application/json" id="glossary-entries">{listing}</script>'
    app.add_js_file("js/glossary.js", loading_method="defer")


def setup(app):
    app.connect("doctree-resolved", _link)
    app.connect("html-page-context", _add_definitions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
