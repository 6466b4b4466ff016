"""How long a chapter takes to read, from what stands on its page; `make format` writes it into the chapters' first table.

    python tools/reading_time.py            # what every chapter takes
    python tools/reading_time.py --write    # and put it into the notebooks

A reader with a pencil: 160 words a minute, 15 seconds for a displayed formula, 3 seconds for 40 characters of visible code
(spaces left out, so that the breaks of a long line do not count), 20 seconds for a figure or table, a minute for a function
shown beside its algorithm. What unfolds (dropdowns, folded cells, everything from `unfold-start` to `unfold-end`), exercises,
solutions, quizzes and references are not counted: the main path is. Rounded to five minutes.
"""

import json
import re
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "book"
CELL = re.compile(r"(\| to read \| to run \| needs \|\n\| --- \| --- \| --- \|\n\| )about (\d+) minutes( \|)")
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
UNSEEN = {"hide-cell", "remove-cell", "hide-output", "remove-output"}
SECONDS = {"word": 60 / 160, "formula": 15, "character": 3 / 40, "output": 20, "shown": 60}


def _without_dropdowns(text):
    """The text without the boxes that open on a click."""
    out, until = [], None
    lines = text.splitlines()
    for i, line in enumerate(lines):
        mark = re.match(r"^\s*(:{3,}|`{3,})(\{[\w-]+\})?", line)
        if until is None and mark and mark.group(2):
            following = "\n".join(lines[i + 1 : i + 4])
            if mark.group(2) == "{dropdown}" or re.match(r"(:\w+:.*\n)*:class:.*dropdown", following):
                until = mark.group(1)
                continue
        if until is not None:
            if line.strip() == until:
                until = None
            continue
        out.append(line)
    return "\n".join(out)


def main_path(notebook):
    """The cells of a chapter's main path, up to its exercises: (kind, text, tags) of each."""
    inside = False
    for cell in notebook["cells"]:
        source, tags = "".join(cell["source"]), set(cell["metadata"].get("tags", []))
        if cell["cell_type"] == "code":
            if not inside:
                yield "code", source, tags
            continue
        seen = []
        for part in re.split(r"^(`{3,}\{unfold-(?:start|end)\}.*)$", source, flags=re.MULTILINE):
            if "{unfold-start}" in part:
                inside = True
            elif "{unfold-end}" in part:
                inside = False
            elif not inside:
                seen.append(part)
        text = _without_dropdowns("\n".join(seen))
        before, *after = re.split(r"^## Exercises", text, maxsplit=1, flags=re.MULTILINE)
        yield "markdown", before, tags
        if after:
            return


def _prose(text):
    """Words and displayed formulas of Markdown, without markup."""
    text = re.sub(r"^:{3,}.*$|^:\w+:.*$|^\(.*\)=$|^\s*\|[-| :]+\|$", "", text, flags=re.MULTILINE)
    formulas = len(re.findall(r"\$\$.+?\$\$|\\begin\{(?:align|equation|gather)", text, flags=re.DOTALL))
    text = re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"\$[^$]+\$", "x", text)  # a formula within a line reads like a word
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return len(re.findall(r"\w[\w’'-]*", text)), formulas


def words(notebook):
    """Words of prose on the main path."""
    return sum(_prose(text)[0] for kind, text, _ in main_path(notebook) if kind == "markdown")


def minutes(notebook):
    """Minutes to read a chapter's main path (the notebook as a dict), a multiple of 5."""
    seconds = 0.0
    for kind, text, tags in main_path(notebook):
        if kind == "markdown":
            count, formulas = _prose(text)
            seconds += SECONDS["word"] * count + SECONDS["formula"] * formulas
            continue
        if not tags & FOLDED:
            seconds += SECONDS["character"] * len("".join(text.split()))
        if not tags & UNSEEN:
            if "notebook.figure" in text or "notebook.table" in text or "display(" in text:
                seconds += SECONDS["output"]
            seconds += SECONDS["shown"] * text.count("notebook.show(")
    return max(5, 5 * round(seconds / 300))


def stated(notebook):
    """The minutes that the chapter's first table states, or None."""
    match = CELL.search("".join(notebook["cells"][0]["source"]))
    return int(match.group(2)) if match else None


def main(write=False):
    for path in sorted(BOOK.glob("[0-9][0-9]_*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found, said = minutes(notebook), stated(notebook)
        other = "" if found == said else f", the page says {said}"
        print(f"{path.name:45s} {words(notebook):5d} words {found:3d} minutes{other}")
        if write and found != said:
            first = "".join(notebook["cells"][0]["source"])
            first = CELL.sub(rf"\g<1>about {found} minutes\g<3>", first)
            notebook["cells"][0]["source"] = first.splitlines(keepends=True)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
