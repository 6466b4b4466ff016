"""Make an environment with the libraries of ``benchmarks.compare`` (standard library only).

    python benchmarks/install_peers.py [.venv-peers] [--torch 2.13.0]

learn2learn 0.2.0 does not install as it is on Python 3.11 or newer: its source archive ships C files that an old Cython wrote.
Here they are written anew. torchmeta is not tried: all its versions require torch < 1.10.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import venv
from importlib import metadata
from pathlib import Path

NEEDS = ("torch", "numpy", "safetensors", "filelock", "pillow")
"""What the benchmarks themselves and ``mlbook`` import."""
LEARN2LEARN_NEEDS = (
    "torchvision",
    "requests",
    "tqdm",
    "gym",
    "gym_notices",
    "scipy",
    "qpth",
    "cloudpickle",
)
ROOT = Path(__file__).resolve().parents[1]


def torch_here() -> str:
    """The running environment's torch without its local suffix, or any."""
    try:
        return metadata.version("torch").split("+")[0]
    except metadata.PackageNotFoundError:
        return ""


class Environment:
    def __init__(self, folder: Path, torch: str) -> None:
        self.python = folder.resolve() / "bin" / "python"
        self.constraints = folder / "constraints.txt"
        if not self.python.exists():
            venv.create(folder, with_pip=True)
            (folder / ".gitignore").write_text("*\n")
        lines = [
            "numpy<2",
            "safetensors",
            "setuptools<81",
            "cython<3",
            *([f"torch=={torch}"] if torch else []),
        ]
        self.constraints.write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str, folder: Path | None = None) -> None:
        subprocess.run([str(self.python), *arguments], cwd=folder, check=True, capture_output=True, text=True)

    def install(self, *packages: str) -> None:
        self.run("-m", "pip", "install", "-c", str(self.constraints), *packages)

    def learn2learn(self) -> None:
        self.install("cython", *LEARN2LEARN_NEEDS)
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            source = ("--no-deps", "--no-binary", "learn2learn", "--no-build-isolation")
            self.run("-m", "pip", "download", *source, "-d", name, "learn2learn==0.2.0")
            with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
                archive.extractall(place)
            tree = place / "learn2learn-0.2.0"
            for old in (tree / "learn2learn" / "data").glob("*.c"):
                old.unlink()
            modules = sorted(str(path) for path in (tree / "learn2learn" / "data").glob("*.pyx"))
            self.run("-m", "cython", "-3", *modules, folder=tree)
            self.run("-m", "pip", "install", "--no-build-isolation", "--no-deps", ".", folder=tree)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make an environment with the libraries to compare with.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--torch", default=torch_here(), help="its version (default: the one that runs this)")
    chosen = parser.parse_args()
    environment = Environment(chosen.folder, chosen.torch)
    steps = {
        "torch": lambda: environment.install(*NEEDS, "setuptools", "wheel"),
        "higher": lambda: environment.install("higher"),
        "torchopt": lambda: environment.install("torchopt"),
        "learn2learn": environment.learn2learn,
    }
    failed = 0
    for package, install in steps.items():
        try:
            install()
            door = "from mlbook.data.torchvision_import import torchvision; torchvision(); "
            code = f"{door * (package == 'learn2learn')}import {package}"
            environment.run("-W", "ignore", "-c", code, folder=ROOT)
            print(f"{package}: installed", flush=True)
        except subprocess.CalledProcessError as error:
            failed += 1
            lines = (error.stderr or error.stdout).strip().splitlines() or ["no message"]
            print(f"{package}: not installed ({lines[-1]})", flush=True)
    print("torchmeta: not installed (it requires torch < 1.10)")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
