"""Translate MyST Markdown into Markdown and HTML that Colab and plain Jupyter show properly.

A directive or role that is not known here is an error, so that none slips through as raw text.
"""

import re

from book_labels import AMSMATH, DIRECTIVE, DOLLARS, TARGET, blocks, read_directive

BOXES = {  # directive: (title, colour of its edge)
    "note": ("Note", "#0072B2"),
    "tip": ("Tip", "#009E73"),
    "hint": ("Hint", "#009E73"),
    "important": ("Important", "#CC79A7"),
    "seealso": ("See also", "#0072B2"),
    "warning": ("Warning", "#D55E00"),
    "caution": ("Caution", "#D55E00"),
    "attention": ("Attention", "#D55E00"),
    "danger": ("Danger", "#D55E00"),
    "error": ("Error", "#D55E00"),
    "margin": ("", "#999999"),
    "sidebar": ("", "#999999"),
    "topic": ("", "#999999"),
    "admonition": ("", "#0072B2"),
}
PLAIN = {
    "div",
    "container",
    "epigraph",
    "pull-quote",
    "grid",
    "tab-set",
    "compound",
    "table-wrapper",
    "centered",
}
TITLED = {"tab-item", "grid-item", "grid-item-card", "card"}
CODE = {"code-block", "code", "sourcecode"}
DROPPED = {"tableofcontents", "contents", "solution-end", "exercise-end", "bibliography"}
TEXT_ROLES = {
    "abbr", "func", "class", "meth", "mod", "attr", "data", "exc", "obj", "file", "command", "program", "option",
    "samp", "guilabel", "menuselection", "envvar", "rfc", "code", "literal", "py:func", "py:class", "py:mod",
    "py:meth", "py:attr", "py:obj",
}  # fmt: skip
HTML_ROLES = {"sub": "sub", "subscript": "sub", "sup": "sup", "superscript": "sup", "kbd": "kbd"}
REFERENCES = {"ref", "numref", "eq", "prf:ref", "doc", "term", "download", "std:ref", "any"}

# In this order: a role, a code span, mathematics, a Markdown link. Only the first and the last are changed.
INLINE = re.compile(
    r"(?P<role>\{(?P<name>[a-zA-Z][\w:.+-]*)\}(?P<ticks>`+)(?P<content>.+?)(?P=ticks))"
    r"|(?P<code>(?P<fence>`+)(?!`).+?(?P=fence))"
    r"|(?P<math>\$\$.+?\$\$|\$[^$]+\$)"
    r"|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)(?P<linktitle>\s+\"[^\"]*\")?\)"
    r"|(?P<attributes>\{[#.][^}`]*\})",
    re.DOTALL,
)
LEFTOVERS = [
    re.compile(r"\{[a-zA-Z][\w:.+-]*\}`"),
    re.compile(r"^\s*(?:`{3,}|~{3,}|:{3,})\s*\{.*$", re.MULTILINE),
    re.compile(r"^\s*:{3,}.*$", re.MULTILINE),
    re.compile(r"^\([^()]+\)=\s*$", re.MULTILINE),
    re.compile(r"^\$\$\s*\([^()]+\)\s*$", re.MULTILINE),
    re.compile(r"^\+\+\+.*$", re.MULTILINE),
]


def leftovers(text):
    """What is still MyST in a translated text; code blocks and code spans may quote what they like."""
    text = re.sub(r"^(`{3,}|~{3,})(?!\s*\{)[^\n]*\n.*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(?<![}`])(`+)(?!`)[^\n]+?\1(?!`)", "", text)
    return [match.group(0) for pattern in LEFTOVERS for match in pattern.finditer(text)]


def box(title, body, colour):
    """An HTML box; the blank lines let Markdown and mathematics work inside."""
    head = f"**{title}**\n\n" if title else ""
    return f'<div style="border-left: 4px solid {colour}; padding: 0.2em 1em; margin: 1em 0">\n\n{head}{body}\n\n</div>'


def details(title, body, opened=False):
    return f"<details{' open' if opened else ''}>\n<summary><b>{title}</b></summary>\n\n{body}\n\n</details>"


def _html_title(text):
    """A title inside <summary>, where Markdown does not work."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    text = re.sub(r"\*(.+?)\*", r"<i>\1</i>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


class Translator:
    """Translates the Markdown cells of one page, in order; `inside_solution` tells how to treat code cells."""

    def __init__(self, book, docname):
        self.book, self.docname = book, docname
        self.inside_solution = False
        self._bibliography = None

    def __call__(self, text):
        return re.sub(r"\n{3,}", "\n\n", self._blocks(text))

    # -- blocks ---------------------------------------------------------------------------------------------------

    def _blocks(self, text):
        out, paragraph, in_math = [], [], False

        def flush():
            if paragraph:
                out.append(self._inline("\n".join(paragraph)))
                paragraph.clear()

        for kind, *block in blocks(text):
            if kind == "fence":
                flush()
                out.append(self._fence(*block))
                continue
            line = block[0]
            if line.strip().startswith("$$") and not re.match(r"^\s*\$\$.+\$\$", line):
                closing = in_math
                in_math = not in_math
                if closing and (label := DOLLARS.match(line)):
                    line = self._tag(label["label"]) + "\n$$"
                if closing or not in_math:
                    paragraph.append(line)
                    out.append("\n".join(paragraph))
                    paragraph.clear()
                else:
                    flush()
                    paragraph.append(line)
            elif in_math:
                paragraph.append(line)
            elif one := re.match(r"^\s*\$\$(?P<tex>.+)\$\$\s*(?:\((?P<label>[^()]+)\))?\s*$", line):
                flush()
                tag = self._tag(one["label"]) if one["label"] else ""
                out.append(f"$${one['tex']}{tag}$$")
            elif AMSMATH.match(line.strip()):
                flush()
                out.append(line)
            elif TARGET.match(line):
                flush()
                out.append(f'<a id="{TARGET.match(line)["label"]}"></a>\n')
            elif re.match(r"^(%|\+\+\+)", line) or re.match(r"^\{[#.][^}]*\}\s*$", line):
                continue
            elif not line.strip():
                flush()
                out.append("")
            else:
                paragraph.append(line)
        flush()
        return "\n".join(out)

    def _tag(self, label):
        return rf"\tag{{{self.book.references[label][1]}}}"

    def _fence(self, mark, info, body, indent):
        directive = DIRECTIVE.match(info)
        if not directive:
            text = "\n".join([mark + info, *body, mark])
        else:
            argument, options, content = read_directive(directive["argument"], body)
            text = self._directive(directive["name"], argument, options, "\n".join(content))
        return "\n".join(indent + line if line else "" for line in f"\n{text}\n".split("\n"))

    def _directive(self, name, argument, options, content):
        classes = options.get("class", "")
        title = self._inline(argument)
        if name in CODE:
            return f"```{argument}\n{content}\n```"
        if name == "math":
            tag = self._tag(options["label"]) if "label" in options else ""
            tex = "\n".join(filter(None, [argument, content]))
            return f"$$\n{tex}{tag}\n$$"
        if name == "raw":
            return content
        if name in DROPPED:
            self.inside_solution = self.inside_solution and name != "solution-end"
            return ""
        if name in {"figure", "image"}:
            return self._figure(argument, options, content)
        if name in {"list-table", "csv-table"}:
            return self._table(name, title, options, content)
        body = self._blocks(content).strip()
        if name == "table":
            return f"**{self._numbered(name='Table', options=options)}** {title}\n\n{body}"
        if name in {"dropdown", "toggle", "solution"} or "dropdown" in classes or "toggle" in classes:
            if name == "solution":
                title = f"Solution to {self._name_of(argument)}"
            elif name.startswith("prf:"):
                title = self._proof_title(name, argument, options)
            return details(_html_title(title or BOXES.get(name, ("More", ""))[0]), body, "open" in options)
        if name == "unfold-start":
            return f"---\n\n**For those who want to know more: {title}**"
        if name == "unfold-end":
            return "---"
        if name == "solution-start":
            self.inside_solution = True
            return f"**Solution to {self._name_of(argument)}**\n\n{body}"
        if name in {"exercise", "exercise-start"}:
            head = self._numbered("Exercise", options) + (f" ({title})" if title else "")
            return box(head, body, "#E69F00")
        if name.startswith("prf:"):
            return box(self._proof_title(name, argument, options), body, "#56B4E9")
        if name in BOXES:
            given, colour = BOXES[name]
            # "note" and its kin may carry the first words of their text on the first line.
            if given and title:
                body, title = f"{title}\n\n{body}".strip(), ""
            return box(title or given, body, colour)
        if name in TITLED:
            return f"**{title}**\n\n{body}" if title else body
        if name in PLAIN:
            return body
        raise ValueError(
            f"{self.docname}: no translation for the directive {{{name}}} (tools/myst_to_plain.py)"
        )

    def _numbered(self, name, options):
        reference = self.book.references.get(options.get("label") or options.get("name"))
        return f"{reference[0]} {reference[1]}".strip() if reference else name

    def _name_of(self, label):
        reference = self.book.references.get(label)
        return f"{reference[0]} {reference[1]}".strip() if reference else "the exercise"

    def _proof_title(self, name, argument, options):
        head = self._numbered(name[4:].capitalize(), options)
        return head + (f" ({self._inline(argument)})" if argument else "")

    def _figure(self, source, options, caption):
        if not re.match(r"https?:", source):
            source = self.book.raw_url(f"book/{source}")
        picture = f'<img src="{source}" alt="{options.get("alt", "")}"'
        if "width" in options:
            picture += f' width="{options["width"]}"'
        text = self._blocks(caption).strip()
        if text and options.get("name"):
            text = f"**{self._numbered('Fig.', options)}** {text}"
        return f"{picture}>\n\n{text}".strip()

    def _table(self, name, title, options, content):
        if name == "csv-table":
            raise ValueError(f"{self.docname}: use list-table, csv-table has no translation")
        rows = []
        for line in content.split("\n"):
            if cell := re.match(r"^\s*\*\s+-\s?(.*)$", line):
                rows.append([cell[1]])
            elif cell := re.match(r"^\s+-\s?(.*)$", line):
                rows[-1].append(cell[1])
            elif line.strip():
                rows[-1][-1] += " " + line.strip()
        rows = [[self._inline(cell).replace("|", "\\|") for cell in row] for row in rows]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|" + " --- |" * len(rows[0]))
        head = f"**{self._numbered('Table', options)}** {title}\n\n" if title else ""
        return head + "\n".join(lines)

    # -- inside a paragraph ---------------------------------------------------------------------------------------

    def _inline(self, text):
        return INLINE.sub(self._replace, text)

    def _replace(self, match):
        if match["role"]:
            return self._role(match["name"], match["content"])
        if match["attributes"]:
            return ""
        if match["target"]:
            return self._link(match)
        return match[0]

    def _role(self, name, content):
        if name.startswith("cite"):
            return self._cite(name, content)
        explicit = re.match(r"^(.*?)\s*<([^<>]+)>$", content, re.DOTALL)
        text, target = (explicit[1], explicit[2]) if explicit else ("", content)
        if name in REFERENCES:
            return self._reference(name, text, target)
        if name in HTML_ROLES:
            return f"<{HTML_ROLES[name]}>{content}</{HTML_ROLES[name]}>"
        if name == "math":
            return f"${content}$"
        if name == "abbr":
            return content
        if name in TEXT_ROLES:
            return f"`{(text or target).lstrip('~')}`"
        if name == "octicon" or name.startswith("fa"):
            return ""
        if name.startswith("bdg"):
            return f"**{text or target}**"
        raise ValueError(f"{self.docname}: no translation for the role {{{name}}} (tools/myst_to_plain.py)")

    def _reference(self, name, text, target):
        if name == "term":
            anchor = "term-" + re.sub(r"[^A-Za-z0-9]+", "-", target).strip("-")
            return f"[{text or target}]({self.book.page_url('book/glossary', anchor)})"
        if name in {"doc", "download"}:
            docname = "book/" + re.sub(r"\.(md|ipynb)$", "", target.rsplit("/", 1)[-1])
            return f"[{text or self.book.title(docname)}]({self.book.link_to(docname)})"
        if target not in self.book.references:
            raise ValueError(f"{self.docname}: the label {target!r} does not exist")
        kind, number, title, url = self.book.references[target]
        number = number.strip()
        if kind == "Equation":
            shown = f"({number})"
        elif name in {"ref", "std:ref"} and kind in {"Section", "Fig.", "Table"}:
            shown = title
        else:
            shown = f"{kind} {number}".strip()
        if name == "numref" and text:
            shown = text.replace("%s", number).replace("{number}", number).replace("{name}", title)
        return f"[{shown if name == 'numref' else text or shown}]({url})"

    def _link(self, match):
        text, target = match["text"], match["target"]
        if re.match(r"(https?|mailto):", target):
            return match[0] if match["image"] else f"[{self._inline(text)}]({target})"
        if match["image"]:
            return f"![{text}]({self.book.raw_url('book/' + target)})"
        page, _, anchor = target.partition("#")
        if not page or target in self.book.references:
            label = anchor or page
            if label in self.book.references:
                return self._reference("ref", self._inline(text), label)
            return match[0]
        docname = "book/" + re.sub(r"\.(md|ipynb|html)$", "", page.rsplit("/", 1)[-1])
        if docname in self.book.docnames:
            return f"[{self._inline(text) or self.book.title(docname)}]({self.book.link_to(docname)})"
        return f"[{self._inline(text)}]({self.book.repository}/blob/{self.book.branch}/book/{target})"

    # -- citations ------------------------------------------------------------------------------------------------

    def _cite(self, name, content):
        cited = [self._entry(key.strip()) for key in content.split(",")]
        if name in {"cite:t", "cite:ts", "cite:ct"}:
            return ", ".join(f"[{authors} ({year})]({url})" for authors, year, url in cited)
        return "(" + "; ".join(f"[{authors}, {year}]({url})" for authors, year, url in cited) + ")"

    def _entry(self, key):
        """(authors, year, address) of an entry of book/references.bib."""
        if self._bibliography is None:
            from pybtex.database import parse_file

            self._bibliography = parse_file(str(self.book.root / "book/references.bib")).entries
        if key not in self._bibliography:
            raise ValueError(f"{self.docname}: {key!r} is not in book/references.bib")
        entry = self._bibliography[key]
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        names = [re.sub(r"[{}]", "", " ".join(p.prelast_names + p.last_names)) for p in people]
        authors = (
            names[0]
            if len(names) == 1
            else f"{names[0]} and {names[1]}"
            if len(names) == 2
            else f"{names[0]} et al."
        )
        url = entry.fields.get("url") or self.book.page_url("book/bibliography")
        if "doi" in entry.fields:
            url = "https://doi.org/" + entry.fields["doi"]
        return authors, entry.fields.get("year", "no year"), url
