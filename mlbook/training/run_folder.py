"""The folder of a run: it can be written, it has room, and one training at a time has it.

All that is found out before the training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mlbook.data import disk
from mlbook.errors import StorageError, UserError

LOCK = ".lock"
"""The lock file. In the folder of a run it stays: to remove it could give two trainings a lock each."""
FILES = ("checkpoint.safetensors", "log.csv", "record.json")


def resume_file(out: Path) -> Path:
    """What ``--resume`` needs."""
    return out / "resume" / "state.safetensors"


@contextmanager
def locked(file: Path, refusal: str, name: str) -> Iterator[None]:
    """Hold the lock ``file`` for the time of the block; it ends with the process, however that ends.

    name: what the user calls the folder. Raises ``UserError`` with ``refusal`` where another process holds the
    lock. On a file system without locks the block is entered all the same, and a line on stderr says so: whoever
    trains there alone shall not be kept from it.
    """
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(refusal) from None
    except (OSError, NotImplementedError) as error:  # older versions of the library raise the latter
        # a file that can be written, but not locked: network and cloud disks answer in many ways
        if isinstance(error, OSError) and not os.access(file, os.W_OK):
            raise StorageError(f"{name} cannot be written ({disk.reason(error)})") from None
        print(
            f"mlbook: {name} is on a file system without locks; train there once at a time", file=sys.stderr
        )
    try:
        yield
    finally:
        lock.release()


def check(out: Path, *, resume: bool) -> None:
    """``UserError`` where ``out`` is no place for a run, without touching it. resume: a run may be there already."""
    try:
        if out.exists() and not out.is_dir():
            raise StorageError(f"--out {out} is a file, not a folder")
        if not resume and ((out / FILES[0]).exists() or (out / "resume").exists()):
            raise UserError(
                f"{out} already holds a run; add --resume to go on with it, or choose another --out"
            )
        if resume and (out / FILES[0]).is_file() and not os.path.lexists(resume_file(out)):
            raise UserError(
                f"{out} holds a finished run, but not the state that --resume goes on from; choose another --out"
            )
        for name in FILES:
            if (out / name).is_dir():
                raise StorageError(
                    f"--out {out} holds a folder {name} where a file belongs; choose another --out"
                )
        if (out / "resume").exists() and not (out / "resume").is_dir():
            raise StorageError(
                f"--out {out} holds a file where the folder resume belongs; choose another --out"
            )
        if resume_file(out).is_dir():
            raise StorageError(
                f"{resume_file(out)} is a folder, not the state of a run; choose another --out"
            )
    except OSError as error:
        raise StorageError(f"--out {out} cannot be read ({disk.reason(error)})") from None


@contextmanager
def claimed(out: Path, *, resume: bool, needed: int) -> Iterator[None]:
    """Make the folder ``out`` and keep it from other trainings until the block or the process ends.

    needed: bytes that a run writes at most. Raises ``UserError`` where another training has the folder, where
    it holds a run already, cannot be written or has too little room. A folder that has not become one of a run
    when the block ends is left as it was before.
    """
    name = f"--out {out}"
    made = disk.make(out, name)
    new = not os.path.lexists(out / LOCK)
    refusal = f"another training is writing to {name}; wait for its end, or choose another --out"
    try:
        with locked(out / LOCK, refusal, name):
            try:
                _prepare(out, name, resume, needed)
                yield
            finally:
                # nobody else can hold it: this process has, since it was made
                if new and not any(os.path.lexists(out / file) for file in (*FILES, "resume")):
                    with suppress(OSError):
                        (out / LOCK).unlink()
    finally:
        disk.remove(made)


def _prepare(out: Path, name: str, resume: bool, needed: int) -> None:
    """Look at the folder again (it may have become a run while the data was loaded), clear what a killed process
    was writing (nobody else writes here now), and try to write."""
    check(out, resume=resume)
    try:
        folders = [folder for folder in (out, out / "resume") if folder.is_dir()]
        for path in [path for folder in folders for path in folder.glob(".*.tmp")]:
            path.unlink()
        there = sum(path.stat().st_size for path in (out / FILES[0], resume_file(out)) if path.exists())
    except OSError as error:
        raise StorageError(f"{name} cannot be written ({disk.reason(error)})") from None
    for folder in folders:
        disk.probe(folder, name, needed - there if folder == out else 0)
