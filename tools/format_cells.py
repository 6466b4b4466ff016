"""Format the code cells of the notebooks to the width of a page's code box; nothing else in the files changes.

python tools/format_cells.py            # `make format` calls it
python tools/format_cells.py --check    # names the cells that would change, exit status 1 if there are any
"""

import json
import subprocess
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "book"
COLUMNS = 84  # what fits the box on the site


def formatted(source):
    """The cell's source as ruff formats it; cells with IPython's own commands stay as they are."""
    if any(line.lstrip().startswith(("%", "!")) for line in source.splitlines()):
        return source
    command = ["ruff", "format", "-q", "--line-length", str(COLUMNS), "--stdin-filename", "cell.py", "-"]
    done = subprocess.run(
        [sys.executable, "-m", *command], input=source, capture_output=True, text=True, check=True
    )
    return done.stdout.rstrip("\n")


def main(check=False):
    changed = []
    for path in sorted(BOOK.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        before = len(changed)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code" and (source := "".join(cell["source"])).strip():
                new = formatted(source)
                if new != source:
                    cell["source"] = new.splitlines(keepends=True)
                    changed.append(f"{path.name} {cell.get('id')}")
        if len(changed) > before and not check:
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if check and changed:
        sys.exit("these cells are not formatted (make format): " + ", ".join(changed))


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
