"""Execute the chapters and build the site into _build/html; warnings are errors.

    python tools/build_book.py       # `make book` calls it

A chapter whose cells did not change is not executed again, as long as nothing else changed that its outputs depend on:
the package, and which data sets are there. Jupyter Book's cache looks at the cells alone, so it is emptied here when the rest is
different. The pages are all written again when an extension or the table of contents changed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import make_print
import run_chapters

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"


def digest_of(files, more=b""):
    digest = hashlib.sha256(sys.version.encode() + more)
    for path in sorted(files):
        if path.is_file():
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def inputs():
    """{what: hash}: everything outside the cells that the chapters' outputs depend on, and what the pages depend on besides."""
    package = [path for path in (ROOT / "mlbook").rglob("*") if "__pycache__" not in path.parts]
    # Chapters fall back to generated glyphs where a data set is missing, so importing one changes their outputs.
    data = subprocess.run(
        [sys.executable, "-m", "mlbook", "data", "list"], cwd=ROOT, capture_output=True
    ).stdout
    return {
        "outputs": digest_of([*package, ROOT / "constraints.txt"], data),
        "pages": digest_of([*(ROOT / "book/_ext").glob("*.py"), ROOT / "_toc.yml", ROOT / "_config.yml"]),
    }


def main():
    start = time.monotonic()
    stamp, now = BUILD / "inputs.json", inputs()
    before = json.loads(stamp.read_text()) if stamp.exists() else {}
    old = []
    if before != now:
        old += [".doctrees", "html"]
    if before.get("outputs") != now["outputs"]:
        old += [".jupyter_cache", "jupyter_execute"]
    for folder in old:
        shutil.rmtree(BUILD / folder, ignore_errors=True)
    stamp.unlink(missing_ok=True)  # an interrupted build leaves none
    BUILD.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", ""),
        "MLBOOK_CHAPTERS_AT_ONCE": str(run_chapters.at_once()),
    }
    subprocess.run([sys.executable, run_chapters.__file__], cwd=ROOT, env=environment, check=True)
    # Not the script `jupyter-book`: it stands elsewhere where this environment borrows another's packages.
    start_it = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start_it, "build", ".", "-W", "--keep-going"]
    code = subprocess.run(command, cwd=ROOT, env=environment).returncode
    if code:
        for report in sorted((BUILD / "html/reports").rglob("*.log")):
            print(f"\n--- {report.relative_to(ROOT)}\n{report.read_text()}")
        sys.exit("The book was not built: the warnings above are errors here.")
    make_print.main()
    stamp.write_text(json.dumps(now))
    print(
        f"\nThe book is built ({time.monotonic() - start:.0f} s). Open {BUILD.name}/html/index.html in a browser, or"
    )
    print(f"  {sys.executable} -m http.server -d {BUILD.name}/html 8000     and then http://127.0.0.1:8000/")


if __name__ == "__main__":
    main()
