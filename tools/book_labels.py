"""What the book's labels refer to: titles, numbers and addresses, as the built site has them.

Sphinx numbers figures, equations, algorithms and exercises per chapter and per kind, in reading order. The same count
is made here from the sources, so that the Colab copies can say "Algorithm 4.1" without a built site.
tests/test_site.py compares the two.
"""

import json
import re
import sys
from pathlib import Path

import yaml

sys.path.append(str(Path(__file__).resolve().parents[1] / "book/_ext"))  # where Sphinx finds them
from chapter_numbers import chapter_number, split_title
from colab_links import colab_url
from set_repository import pages

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,}|:{3,})(?P<info>.*)$")
DIRECTIVE = re.compile(r"^\{(?P<name>[^}]+)\}\s*(?P<argument>.*)$")
TARGET = re.compile(r"^\((?P<label>[^()]+)\)=\s*$")
DOLLARS = re.compile(r"^\$\$\s*\((?P<label>[^()]+)\)\s*$")
AMSMATH = re.compile(r"^\\begin\{(equation|align|gather|multline|alignat|flalign)\}")
UNNUMBERED = {"prf:proof", "prf:observation*"}
EXERCISES = {"exercise": "Exercise", "exercise-start": "Exercise"}


def read_directive(argument_line, body):
    """Split a directive's body into its options and its content."""
    options, lines = {}, list(body)
    if lines and lines[0].strip() == "---":
        end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), len(lines) - 1)
        options = {k: str(v) for k, v in (yaml.safe_load("\n".join(lines[1:end])) or {}).items()}
        lines = lines[end + 1 :]
    else:
        while lines and (match := re.match(r"^\s*:([\w-]+):\s*(.*)$", lines[0])):
            options[match[1]] = match[2].strip()
            lines.pop(0)
    while lines and not lines[0].strip():
        lines.pop(0)
    return argument_line.strip(), options, lines


def blocks(text):
    """Yield ("line", line) and ("fence", mark, info, body lines, indent); a fence ends as CommonMark says."""
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        match = FENCE.match(lines[i])
        # A colon fence is only one with a directive in it; "::: note" and the like do not occur in this book.
        if not match or (match["mark"][0] == ":" and not DIRECTIVE.match(match["info"].strip())):
            yield ("line", lines[i])
            i += 1
            continue
        mark, indent = match["mark"], match["indent"]
        closing = re.compile(rf"^[ \t]*{re.escape(mark[0])}{{{len(mark)},}}\s*$")
        end = next((j for j in range(i + 1, len(lines)) if closing.match(lines[j])), len(lines))
        body = [line.removeprefix(indent) for line in lines[i + 1 : end]]
        yield ("fence", mark, match["info"].strip(), body, indent)
        i = end + 1


class Book:
    """The labels of a book folder; `references` maps a label to (kind, number, title, address)."""

    def __init__(self, root):
        self.root = Path(root)
        config = yaml.safe_load((self.root / "_config.yml").read_text(encoding="utf-8"))
        self.repository = config["repository"]["url"].rstrip("/")
        self.branch = config["repository"].get("branch", "main")
        self.colab_branch = config["sphinx"]["config"]["colab_branch"]
        self.site = pages(self.repository)
        self.references, self._titles, self._loose = {}, {}, {}
        toc = yaml.safe_load((self.root / "_toc.yml").read_text(encoding="utf-8"))
        self.docnames = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
        for docname in self.docnames:
            self._read(docname)

    def cells(self, docname):
        """The Markdown texts of a page, in order, with the metadata of its code cells as dictionaries."""
        notebook, page = self.root / f"{docname}.ipynb", self.root / f"{docname}.md"
        if notebook.exists():
            for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
                if cell["cell_type"] == "markdown":
                    yield "".join(cell["source"])
                elif cell["cell_type"] == "code":
                    yield cell.get("metadata", {})
        elif page.exists():
            yield page.read_text(encoding="utf-8")

    def title(self, docname):
        number = chapter_number(docname)
        title = self._titles.get(docname, docname)
        return f"{number}. {title}" if number else title

    def page_url(self, docname, anchor=""):
        """Address of a page on the site."""
        return f"{self.site}{docname}.html" + (f"#{anchor}" if anchor else "")

    def link_to(self, docname):
        """Where a link to another page leads in a Colab copy: to its own copy, or to the site."""
        if chapter_number(docname):
            return colab_url(self.repository, self.colab_branch, docname)
        return self.page_url(docname)

    def raw_url(self, path):
        """Address of a file of the repository, for pictures."""
        owner_name = self.repository.removeprefix("https://github.com/")
        return f"https://raw.githubusercontent.com/{owner_name}/{self.branch}/{path}"

    # -- reading --------------------------------------------------------------------------------------------------

    def _read(self, docname):
        self._chapter, self._docname = chapter_number(docname), docname
        self._counts = (
            {} if self._chapter else self._loose
        )  # pages without a number count on, one after the other
        self._section = [0, 0]
        for item in self.cells(docname):
            if isinstance(item, dict):
                figure = item.get("mystnb", {}).get("figure", {})
                if figure:
                    self._add("Fig.", figure.get("name"), figure.get("caption", ""))
            else:
                self._scan(item)

    def _next(self, kind):
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{self._chapter}.{self._counts[kind]}" if self._chapter else str(self._counts[kind])

    def _add(self, kind, label, title="", number=None):
        number = number or self._next(kind)
        if label:
            anchor = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
            if kind == "Equation":
                anchor = "equation-" + anchor
            self.references[label] = (kind, number, title, self.page_url(self._docname, anchor))

    def _scan(self, text):
        targets = []
        for kind, *block in blocks(text):
            if kind == "line":
                targets = self._scan_line(block[0], targets)
                continue
            _, info, body, _ = block
            directive = DIRECTIVE.match(info)
            if directive:
                self._scan_directive(directive["name"], directive["argument"], body, targets)
                targets = []

    def _scan_line(self, line, targets):
        """Read one line outside all boxes; returns the labels that wait for what follows."""
        if target := TARGET.match(line):
            return [*targets, target["label"]]
        if heading := re.match(r"^(#+)\s+(.*)$", line):
            level, title = len(heading[1]), re.sub(r"\s*\{[#.].*\}$", "", heading[2])
            if level == 1:
                title = split_title(title)[1]
                self._titles.setdefault(self._docname, title)
            elif level == 2:
                self._section[0] += 1
            number = f"{self._chapter}.{self._section[0]}" if level == 2 and self._chapter else ""
            number = str(self._chapter) if level == 1 and self._chapter else number
            for label in targets:
                self._add("Section", label, title, number or " ")
            return []
        if labelled := DOLLARS.match(line) or re.match(r"^\$\$.*\$\$\s*\((?P<label>[^()]+)\)\s*$", line):
            self._add("Equation", labelled["label"])
        elif AMSMATH.match(line.strip()):
            self._add("Equation", None)
        return targets if not line.strip() else []

    def _scan_directive(self, name, argument, body, targets):
        argument, options, content = read_directive(argument, body)
        label = options.get("label") or options.get("name")
        if name == "math":
            if label:
                self._add("Equation", label)
        elif name.startswith("prf:"):
            if "nonumber" in options or name in UNNUMBERED:
                number = " "
            else:
                number = None
            self._add(name[4:].capitalize(), label, argument, number)
        elif name in EXERCISES:
            self._add("Exercise", label, argument, " " if "nonumber" in options else None)
        elif name == "figure" and content:
            self._add("Fig.", label, content[0])
        elif name in {"table", "list-table", "csv-table"} and argument:
            self._add("Table", label, argument)
        for extra in targets:
            if label in self.references:
                self.references[extra] = self.references[label]
        if name not in {"math", "code-block", "code"}:
            self._scan("\n".join(content))
