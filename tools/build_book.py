"""Execute the notebooks and build the site into _build/html; warnings are errors.

    python tools/build_book.py       # `make book` calls it

pytest's plugin nbmake executes copies of the notebooks in the folder executed/ (it leaves out what is below a folder _build),
several at a time; book/_ext/executed_copies.py puts their outputs into the pages. A copy bears a stamp of its cells and of all
else that outputs depend on; once it has run through, it is not executed again as long as the stamp is right.
"""

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import make_print
import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "executed"
TIMEOUT = yaml.safe_load((ROOT / "_config.yml").read_text())["execute"]["timeout"]  # seconds for one cell
NOISE = re.compile(r".*(over TCP without encryption|Learn more about nbmake).*\n")


@contextlib.contextmanager
def step(what):
    """One line: what is done, and the seconds it took."""
    print(what, end=" ... ", flush=True)
    start = time.monotonic()
    yield
    print(f"{time.monotonic() - start:.0f} s", flush=True)


def digest(files, *more):
    found = hashlib.sha256(repr(more).encode())
    for path in sorted(files):
        if path.is_file() and "__pycache__" not in path.parts:
            found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.hexdigest()


def surroundings():
    """A hash of what outputs depend on beside the cells: the package, the pinned versions, Python, the data sets there are."""
    # Generated characters take the place of missing data.
    data = [sys.executable, "-m", "mlbook", "data", "list"]
    listed = subprocess.run(data, cwd=ROOT, capture_output=True, check=True).stdout
    return digest([*(ROOT / "mlbook").rglob("*"), ROOT / "constraints.txt"], sys.version, listed)


def code_cells(path):
    """The notebook in a file, and its code cells that are not empty."""
    notebook = nbformat.read(path, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def stamp(path, around):
    return digest([], around, [cell.source for cell in code_cells(path)[1]])


def is_fresh(path, around, folder=EXECUTED):
    """Whether the copy of a notebook ran through, with these cells and surroundings."""
    if not (copy := folder / path.name).exists():
        return False
    notebook, cells = code_cells(copy)
    ended = all("shell.execute_reply" in cell.metadata.get("execution", {}) for cell in cells)
    failed = any(output.output_type == "error" for cell in cells for output in cell.outputs)
    return ended and not failed and notebook.metadata.get("stamp") == stamp(path, around)


def execute(paths, around, folder=EXECUTED):
    """Execute copies of the notebooks; what pytest says where one fails."""
    folder.mkdir(exist_ok=True)
    at_once = min(4, os.cpu_count() or 1, len(paths))
    paths = sorted(paths, key=lambda path: -path.stat().st_size)  # a long one started last would run alone
    copies = [folder / path.name for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.update(stamp=stamp(path, around), at_once=at_once)
        nbformat.write(notebook, copy)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake", "--overwrite"]
    command += [f"--nbmake-timeout={TIMEOUT}", f"-n{at_once}", "--maxschedchunk=1", *copies]
    # Threads of several notebooks would only get into each other's way.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    return NOISE.sub("", done.stdout) if done.returncode else ""


def main():
    notebooks, around = sorted((ROOT / "book").glob("*.ipynb")), surroundings()
    stale = [path for path in notebooks if not is_fresh(path, around)]
    with step(f"executing {len(stale)} of {len(notebooks)} notebooks"):
        if failures := execute(stale, around) if stale else "":
            sys.exit(f"\n{failures}\nThe book was not built: a notebook failed.")
    whole = ROOT / "_build/whole"  # the Makefile has everything written again where this is missing
    whole.unlink(missing_ok=True)
    with step("building the site"):
        # Not the script `jupyter-book`: it stands elsewhere where this environment borrows another's packages.
        start_it = "from jupyter_book.cli.main import main; main()"
        command = [sys.executable, "-c", start_it, "build", ".", "-W", "--keep-going", "-q"]
        if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
            sys.exit("\nThe book was not built: the warnings above are errors here.")
    whole.touch()
    with step("printing it on one page"):
        make_print.main()
    print(f"Open _build/html/index.html, or run {sys.executable} -m http.server -d _build/html 8000")


if __name__ == "__main__":
    main()
