"""Number a chapter by its file name: book/04_maml.ipynb is chapter 4, also while chapter 3 is not written yet.

Sphinx counts the chapters of the table of contents. Everything else (figures, equations, algorithms, the navigation)
takes its number from there, so one correction right after that count is enough.

A chapter's title carries its number in the notebook ("# 4. MAML"), for those who read it in Jupyter or Colab. On the site
that number is taken off, since Sphinx puts its own there.
"""

import re

from docutils import nodes
from sphinx import addnodes

try:  # Jupyter Book's own collector, which counts once more after Sphinx's
    from sphinx_external_toc.collectors import TocTreeCollectorWithStyles as Collector
except ImportError:  # before sphinx-external-toc 1.1
    from sphinx.environment.collectors.toctree import TocTreeCollector as Collector

CHAPTER = re.compile(r"(?:^|/)(\d\d)_[^/]*$")


def chapter_number(docname):
    """The number in the file name, or None for a page that is not a chapter."""
    match = CHAPTER.search(docname)
    return int(match.group(1)) if match else None


def split_title(title):
    """(number or None, title without it) of "4. MAML"."""
    match = re.match(r"(\d+)\.\s+", title)
    return (int(match.group(1)), title[match.end() :]) if match else (None, title)


def _strip_number(app, doctree):
    chapter = chapter_number(app.env.docname)
    for title in doctree.findall(nodes.title):
        first = next(title.findall(nodes.Text), None)
        if chapter and first is not None:
            number, rest = split_title(first.astext())
            if number == chapter:
                first.parent.replace(first, nodes.Text(rest))
        return  # only the first title is the chapter's


def _renumber(env):
    for docname, numbers in env.toc_secnumbers.items():
        chapter = chapter_number(docname)
        if chapter is None:
            continue
        for anchor, number in numbers.items():
            if number:
                numbers[anchor] = (chapter, *number[1:])
        places = [env.titles[docname], *env.tocs[docname].findall(addnodes.compact_paragraph)]
        for place in places:
            for node in place.findall():
                number = getattr(node, "attributes", {}).get("secnumber")
                if number:
                    node["secnumber"] = [chapter, *number[1:]]


def _install(app):
    count = Collector.assign_section_numbers
    if getattr(count, "by_file_name", False):
        return

    def assign_section_numbers(self, env):
        before = env.toc_secnumbers
        count(self, env)
        _renumber(env)
        return [name for name, numbers in env.toc_secnumbers.items() if before.get(name) != numbers]

    assign_section_numbers.by_file_name = True
    Collector.assign_section_numbers = assign_section_numbers


def setup(app):
    # "builder-inited" comes after every extension's set-up; sphinx_multitoc_numbering replaces the same method there.
    app.connect("builder-inited", _install)
    app.connect("doctree-read", _strip_number, priority=400)  # before Sphinx collects the titles
    return {"parallel_read_safe": True, "parallel_write_safe": True}
