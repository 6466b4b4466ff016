"""Find a Chromium for the site tests, or get one.

    python tools/find_browser.py     # `make test` calls it: prints the path; exit status 1 when there is none

In this order: $MLBOOK_BROWSER; a Chromium or Chrome of the system; the one playwright downloads; as root on Debian or
Ubuntu, the package `chromium`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge"]
APPLICATIONS = [
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
]
NO_BROWSER = (
    "No browser for the site tests: install Chromium or Chrome, or run `python -m playwright install chromium`, "
    "or set MLBOOK_BROWSER to one."
)


def of_the_system():
    chosen = os.environ.get("MLBOOK_BROWSER")
    if chosen:
        return shutil.which(chosen)
    for name in [*NAMES, *APPLICATIONS]:
        path = shutil.which(name)
        if path:
            return path
    return None


def of_playwright():
    # In a process of its own: playwright's synchronous interface must not be started twice in one.
    code = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    path = Path(done.stdout.strip() or "-")
    return str(path) if path.exists() else None


def find_browser():
    """Path of a browser, or None."""
    return of_the_system() or of_playwright()


def _try(*command):
    print("trying:", " ".join(command), file=sys.stderr, flush=True)
    try:
        return subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def get_browser():
    """Path of a browser, installed if need be, or None."""
    path = find_browser()
    if path or os.environ.get("MLBOOK_BROWSER"):
        return path
    _try(sys.executable, "-m", "playwright", "install", "chromium")
    path = find_browser()
    if not path and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        _try("apt-get", "update")
        _try("apt-get", "install", "-y", "--no-install-recommends", "chromium")
        path = find_browser()
    return path


if __name__ == "__main__":
    found = get_browser()
    print(found or NO_BROWSER, file=sys.stdout if found else sys.stderr)
    sys.exit(0 if found else 1)
