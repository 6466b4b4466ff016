"""Create or update the virtual environment in which the book is built and tested (standard library only).

    python3 tools/make_env.py .venv          # `make setup` calls it

An installed PyTorch is never replaced: neither one in the given environment, nor one of the Python that creates it
(the new environment then sees that Python's packages). Only where there is none does constraints.txt choose.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROBE = """
import json
from importlib import metadata
found = {}
for name in ("torch", "torchvision"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def installed_torch(python):
    """{'torch': version, 'torchvision': version} of an interpreter, as far as it has them and torch is new enough."""
    found = json.loads(
        subprocess.run([python, "-c", PROBE], check=True, capture_output=True, text=True).stdout
    )
    major, minor = (int(part) for part in found.get("torch", "0.0").split(".")[:2])
    return found if (major, minor) >= (2, 4) else {}


def pinned_by_torch(python):
    """Names of the packages of which an interpreter's torch or torchvision asks for one version only, in small letters."""
    code = (
        "from importlib.metadata import requires, PackageNotFoundError\n"
        "for name in ('torch', 'torchvision'):\n"
        "    try: print('\\n'.join(requires(name) or []))\n"
        "    except PackageNotFoundError: pass"
    )
    lines = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    exact = [line for line in lines if "==" in line.split(";")[0] and "extra" not in line]
    return {re.match(r"[\w.-]+", line).group().lower() for line in exact}


def create(folder):
    import venv

    try:
        import ensurepip  # noqa: F401  (Debian and Ubuntu put it into a package of its own)
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(
            f"This Python cannot make virtual environments; on Debian or Ubuntu: apt install python{version}-venv"
        )
    # What "system packages" means to venv: those of the Python itself, also if this one runs in an environment.
    base = getattr(sys, "_base_executable", None) or sys.executable
    venv.create(folder, with_pip=True, clear=True, system_site_packages=bool(installed_torch(base)))


def constraints(python):
    """constraints.txt, but with the torch that is already there, and without a say in what that torch asks for."""
    keep = installed_torch(python)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    if keep:
        free = {
            *keep,
            *pinned_by_torch(python),
        }  # torch 2.6 asks for one version of sympy, which is not the newest
        lines = [line for line in lines if line.split("==")[0].lower() not in free]
        lines += [f"{name}=={version}" for name, version in keep.items()]
    return "\n".join(lines) + "\n"


def main(folder):
    if sys.version_info < (3, 10):
        sys.exit(
            f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=/path/to/python3.12"
        )
    folder = Path(folder)
    python = folder / "bin/python"
    if not python.exists():
        create(folder)
    chosen = folder / "constraints.txt"
    chosen.write_text(constraints(str(python)))
    print("installing the package and its tools (a few minutes the first time)", end=" ... ", flush=True)
    start = time.monotonic()
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(chosen)]
    done = subprocess.run([*command, "-e", f"{ROOT}[book,test]"], stderr=subprocess.PIPE, text=True)
    # Without pip's remark that a folder of the user's own settings does not exist.
    said = re.sub(r"WARNING: Location .* is ignored.*\n", "", done.stderr)
    print(f"{time.monotonic() - start:.0f} s\n{said}", end="", flush=True)
    if done.returncode:
        sys.exit("pip could not install the requirements (its message stands above)")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".venv")
