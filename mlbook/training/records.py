"""How a run or a measurement becomes a record: written whole, with the machine, the commit and the date that it comes from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path

import torch

import mlbook
from mlbook.data.tensor_file import write_atomically

ROOT = Path(mlbook.__file__).resolve().parents[1]
"""The source tree, where the package runs from one."""


def machine() -> dict:
    """Processor, number of cores, versions of torch and Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit() -> str | None:
    """The commit of the source tree, with + where its code differs from it; None where there is no source tree."""
    if not (ROOT / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "mlbook/*.py", "benchmarks/*.py", "studies/*.py")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def today() -> str:
    """The date of a record."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")


def provenance() -> dict:
    """Where and when a record comes from."""
    return {"machine": machine(), "commit": commit(), "date": today()}


def keep(path: Path, record: dict) -> None:
    """Write a record; a reader never sees half a file."""
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
