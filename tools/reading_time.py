"""How long a chapter takes to read, from what stands on its page; `make format` writes it into the chapters' first table.

    python tools/reading_time.py            # what every chapter takes
    python tools/reading_time.py --write    # and put it into the notebooks

A reader with a pencil: 160 words a minute, 15 seconds for a displayed formula, 3 seconds for a visible line of code,
20 seconds for a figure or table, a minute for a function shown beside its algorithm. Exercises, solutions, quizzes and
references are not counted. Rounded to five minutes.
"""

import json
import re
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "book"
CELL = re.compile(r"(\| to read \| to run \| needs \|\n\| --- \| --- \| --- \|\n\| )about (\d+) minutes( \|)")
SECONDS = {"word": 60 / 160, "formula": 15, "line": 3, "output": 20, "shown": 60}


def _prose(text):
    """Words and displayed formulas of Markdown, with markup and everything behind the chapter's last section cut off."""
    text = re.sub(r"^:{3,}.*$|^:\w+:.*$|^\(.*\)=$|^\s*\|[-| :]+\|$", "", text, flags=re.MULTILINE)
    formulas = len(re.findall(r"\$\$.+?\$\$|\\begin\{(?:align|equation|gather)", text, flags=re.DOTALL))
    text = re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"\$[^$]+\$", "x", text)  # a formula within a line reads like a word
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return len(re.findall(r"\w[\w’'-]*", text)), formulas


def minutes(notebook):
    """Minutes to read a chapter (the notebook as a dict), a multiple of 5."""
    seconds = 0.0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "markdown":
            if re.search(r"^## Exercises", source, re.MULTILINE):
                source = source.split("## Exercises")[0]
                seconds += SECONDS["word"] * _prose(source)[0]
                break
            words, formulas = _prose(source)
            seconds += SECONDS["word"] * words + SECONDS["formula"] * formulas
        elif "hide-input" not in tags and "remove-input" not in tags:
            seconds += SECONDS["line"] * len([line for line in source.splitlines() if line.strip()])
        if "notebook.figure" in source or "notebook.table" in source or "display(" in source:
            seconds += SECONDS["output"]
        if cell["cell_type"] == "code":
            seconds += SECONDS["shown"] * source.count("notebook.show(")
    return max(5, 5 * round(seconds / 300))


def stated(notebook):
    """The minutes that the chapter's first table states, or None."""
    match = CELL.search("".join(notebook["cells"][0]["source"]))
    return int(match.group(2)) if match else None


def main(write=False):
    for path in sorted(BOOK.glob("[0-9][0-9]_*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found, said = minutes(notebook), stated(notebook)
        print(f"{path.name:45s} {found:3d} minutes{'' if found == said else f', the page says {said}'}")
        if write and found != said:
            first = "".join(notebook["cells"][0]["source"])
            first = CELL.sub(rf"\g<1>about {found} minutes\g<3>", first)
            notebook["cells"][0]["source"] = first.splitlines(keepends=True)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
