"""Run Colab copies as Colab would: top to bottom, in a fresh environment with Colab's ipywidgets, from an empty folder.

    python tools/run_colab.py                       # every copy (`make test-colab`)
    python tools/run_colab.py 01_learning_to_learn  # these only

The environment is a new virtual one. It sees the packages of this one (so that PyTorch need not be fetched again), but not
`mlbook`, which the copy's own first cell installs from a wheel, and it has ipywidgets 7.7.1, as Colab has, in their place.
Afterwards torch and ipywidgets must be what they were. Any Python that runs this file will do.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import make_colab
from set_repository import ROOT

IPYWIDGETS = "ipywidgets==7.7.1"
VERSIONS = "import torch, ipywidgets; print(torch.__version__, ipywidgets.__version__)"


CLEAN = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "MLBOOK_DATA", "VIRTUAL_ENV"}}


def run(*command, **settings):
    """The command's standard output; RuntimeError with the end of what it printed if it fails."""
    settings = {"env": CLEAN, **settings}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **settings)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command[:5]))} ...\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout.strip()


def make_environment(folder):
    """A Python with this one's packages except mlbook and ipywidgets; its path, and the wheel for the first cell."""
    run(sys.executable, "-m", "venv", folder / "env")
    python = folder / "env/bin/python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    mine = [path for path in sys.path if path.rstrip("/").endswith("-packages")]
    (site / "borrowed.pth").write_text("\n".join(mine) + "\n", encoding="utf-8")
    run(python, "-m", "pip", "install", "-q", IPYWIDGETS)
    run(python, "-m", "ipykernel", "install", "--sys-prefix", "--name", "python3")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "wheel", cwd=ROOT)
    return python, next((folder / "wheel").glob("*.whl"))


def execute(python, notebook, folder, wheel):
    """Run one notebook in an empty folder; seconds."""
    folder.mkdir()
    (folder / notebook.name).write_bytes(notebook.read_bytes())
    environment = {
        **CLEAN,
        "MLBOOK_SOURCE": str(wheel),
        "MLBOOK_DATA": str(folder / "data"),
        "HOME": str(folder),
    }
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    code = (
        "import nbformat, sys; from nbclient import NotebookClient;"
        "nb = nbformat.read(sys.argv[1], 4); NotebookClient(nb, timeout=600, kernel_name='python3').execute();"
        "nbformat.write(nb, sys.argv[1])"
    )
    start = time.monotonic()
    run(python, "-c", code, notebook.name, cwd=folder, env=environment)
    done = json.loads((folder / notebook.name).read_text(encoding="utf-8"))
    unrun = [
        cell for cell in done["cells"] if cell["cell_type"] == "code" and cell["execution_count"] is None
    ]
    if unrun:
        raise RuntimeError(f"{notebook.name}: {len(unrun)} cells were not run")
    return time.monotonic() - start


def main(names=()):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_colab.main(folder / "copies")
        python, wheel = make_environment(folder)
        before = run(python, "-c", VERSIONS)
        if (
            run(python, "-c", "import importlib.util as i; print(i.find_spec('mlbook') is None)", cwd=folder)
            != "True"
        ):
            raise RuntimeError("the fresh environment already has mlbook: its first cell would prove nothing")
        for notebook in sorted((folder / "copies").glob("*.ipynb")):
            if names and notebook.stem not in names:
                continue
            # Each chapter installs the package itself, as on a machine of its own.
            seconds = execute(python, notebook, folder / notebook.stem, wheel)
            after = run(python, "-c", VERSIONS)
            if after != before:
                raise RuntimeError(f"{notebook.name} changed torch or ipywidgets: {before} -> {after}")
            print(f"{notebook.name}: {seconds:.0f} s, torch and ipywidgets {after}", flush=True)
            run(python, "-m", "pip", "uninstall", "-q", "-y", "mlbook")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RuntimeError as error:
        sys.exit(str(error))
