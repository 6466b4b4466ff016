"""Execute the chapters, as many at a time as there are cores (at most four), into the cache that Jupyter Book looks at.

    python tools/run_chapters.py       # `tools/build_book.py` calls it

Jupyter Book by itself executes one notebook after another. What is in its cache it takes as it is; a chapter that fails here is
left out of the cache, so that Jupyter Book meets the same error and reports it in its place.
"""

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "_build/.jupyter_cache"
TIMEOUT = yaml.safe_load((ROOT / "_config.yml").read_text())["execute"]["timeout"]  # seconds for one cell


def at_once():
    """How many chapters are executed at a time."""
    return max(1, min(4, os.cpu_count() or 1))


def execute(path):
    """(path, the notebook with its outputs, seconds, error or None)."""
    notebook = nbformat.read(path, as_version=4)
    result = single_nb_execution(notebook, cwd=str(path.parent), timeout=TIMEOUT, allow_errors=False)
    return path, result.nb, result.time, result.exc_string


def missing(cache, paths):
    """Those whose cells are not in the cache."""
    found = []
    for path in paths:
        try:
            cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            found.append(path)
    return found


def main(paths=None, folder=CACHE):
    """Execute what is missing; the paths that failed."""
    cache, failed = get_cache(str(folder)), []
    todo = missing(cache, sorted((ROOT / "book").glob("*.ipynb")) if paths is None else paths)
    todo.sort(key=lambda path: -path.stat().st_size)  # the long ones first, or the last one runs alone
    # One core each, unless told otherwise: threads of several chapters would only get into each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once())))
    with ProcessPoolExecutor(at_once()) as pool:
        for done in as_completed([pool.submit(execute, path) for path in todo]):
            path, notebook, seconds, error = done.result()
            print(f"{path.stem}: {seconds:.0f} s{', FAILED' if error else ''}", flush=True)
            if error:
                failed.append(path)
                continue
            bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    return failed


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"all chapters: {time.monotonic() - began:.0f} s")
    sys.exit(0)  # what failed is reported by the build
