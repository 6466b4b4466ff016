"""What a disk may refuse, found out before the work: folders that cannot be made or written, and too little room."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from mlbook.errors import StorageError

BLOCK = 4096


def reason(error: OSError) -> str:
    """Why the system refused, in its own words as far as they help."""
    if isinstance(error, FileExistsError) and error.filename:  # of a folder that was to be made
        return f"{error.filename} is no folder"
    return error.strerror or str(error)


def make(folder: Path, name: str) -> list[Path]:
    """Make a folder and those above it; returns the ones that were not there, innermost first.

    name: what the user calls the folder. ``StorageError``, and nothing made, where it cannot be had.
    """
    made: list[Path] = []
    try:
        if folder.is_symlink() and not folder.exists():
            raise StorageError(f"{name} is a link to {os.readlink(folder)}, which is not there")
        if folder.exists() and not folder.is_dir():
            raise StorageError(f"{name} is a file, not a folder")
        for one in reversed([folder, *folder.parents]):
            if not one.is_dir():
                try:
                    one.mkdir()
                    made.insert(0, one)
                except FileExistsError:
                    if not one.is_dir():  # else another process made it just now
                        raise
    except OSError as error:
        remove(made)
        raise StorageError(f"{name} cannot be made ({reason(error)})") from None
    return made


def remove(folders: list[Path]) -> None:
    """Take back what ``make`` made, as far as it is empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def probe(folder: Path, name: str, needed: int = 0) -> None:
    """Write and remove a small file, and look at the free room; ``StorageError`` unless ``needed`` bytes will fit."""
    trial = folder / f".trial.{os.getpid()}.tmp"
    try:
        with open(trial, "wb") as file:
            file.write(bytes(BLOCK))
            file.flush()
            os.fsync(file.fileno())
        room = shutil.disk_usage(folder)
    except OSError as error:
        raise StorageError(f"{name} cannot be written ({reason(error)})") from None
    finally:
        with suppress(OSError):
            trial.unlink()
    # some network file systems know no sizes and say 0 of 0
    if room.total and room.free < needed:
        raise StorageError(
            f"{name} has room for {room.free / 1e6:,.2f} MB, and {needed / 1e6:,.2f} MB are needed; make room or "
            "choose another place"
        )
