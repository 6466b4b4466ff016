"""Class pools on disk: one file per split, verified when read, and written only when all splits are complete."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mlbook.data.pools import SPLITS, ClassPool, stack
from mlbook.data.tensor_file import fingerprint, load_header, load_tensors, save_tensors, writing
from mlbook.errors import CheckpointError, DataError

__all__ = ["SPLITS", "about", "available", "load", "read", "replace", "save", "split_path", "stack"]


def split_path(stem: Path, split: str) -> Path:
    """The file of one split; ``stem`` is the common path of a data set without the ending."""
    return stem.with_name(f"{stem.name}-{split}.safetensors")


def available(stem: Path) -> bool:
    """Whether all splits are there."""
    return all(split_path(stem, split).is_file() for split in SPLITS)


def save(stem: Path, splits: dict[str, dict[str, Tensor]], header: dict[str, str]) -> None:
    """Write all splits, {split: {class: [n, ...]}}, as ``replace`` does."""

    together = _of_all(splits)

    def write(path: Path, split: str, classes: dict[str, Tensor]) -> None:
        images, counts = stack(classes)
        its = {
            "names": json.dumps(list(classes)),
            "sha256": fingerprint(images),
            "split": split,
            "set": together,
        }
        save_tensors(path, {"images": images, "counts": counts}, {**header, **its})

    replace(stem, splits, write)


def _of_all(splits: dict[str, dict[str, Tensor]]) -> str:
    """A checksum of all splits, which each of their files carries: files of two imports are not one set."""
    total = hashlib.sha256()
    for split, classes in splits.items():
        for name, examples in classes.items():
            total.update(f"{split}/{name}/{fingerprint(examples)}\n".encode())
    return total.hexdigest()


def replace(
    stem: Path,
    splits: dict[str, dict[str, Tensor]],
    write: Callable[[Path, str, dict[str, Tensor]], None],
) -> None:
    """Write all splits, each by ``write(path, split, classes)``. The old files give way when all new ones are complete.

    Raises ``UserError`` where that cannot be done (a full disk, a read-only folder); the old files are then as they were.
    """
    new = {split: stem.with_name(f".{stem.name}-{split}.new") for split in SPLITS}
    old = {split: stem.with_name(f".{stem.name}-{split}.old") for split in SPLITS}
    try:
        for split, classes in splits.items():
            write(new[split], split, classes)
        with writing(split_path(stem, SPLITS[0])):
            _exchange(stem, new, old)
    finally:
        for path in (*new.values(), *old.values()):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _exchange(stem: Path, new: dict[str, Path], old: dict[str, Path]) -> None:
    """Give all new files their names, or none: whatever was done before a failure is undone.

    An old file keeps its name until the new one takes it, so a process that is killed here leaves files of the old set or of the
    new one; ``load`` sees where they are mixed.
    """
    moved: list[tuple[Path, Path]] = []
    try:
        for split in SPLITS:
            path = split_path(stem, split)
            if path.exists():
                _keep(path, old[split])
                moved.append((path, old[split]))
            os.replace(new[split], path)
            moved.append((new[split], path))
    except OSError:
        for before, now in reversed(moved):
            os.replace(now, before)
        raise


def _keep(path: Path, old: Path) -> None:
    """A second name for a file; on file systems without links it is moved."""
    old.unlink(missing_ok=True)
    try:
        os.link(path, old)
    except OSError:
        os.replace(path, old)


def about(stem: Path) -> dict:
    """What the header of an imported set says of it, without reading the pictures; ``DataError`` if it is damaged."""
    path = split_path(stem, "train")
    try:
        with safe_open(path, "pt") as file:
            found = json.loads(file.metadata()["about"])
            if not isinstance(found, dict):
                raise ValueError("its header is not what was written")
            return found
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); import {stem.name} again") from None


def headers(stem: Path) -> dict[str, dict[str, str]]:
    """The header of every split that is there, without reading the pictures; ``DataError`` if a file is damaged."""
    paths = {split: split_path(stem, split) for split in SPLITS}
    try:
        return {split: load_header(path) for split, path in paths.items() if path.is_file()}
    except CheckpointError as error:
        raise DataError(f"{error}; import {stem.name} again") from None


def digests(stem: Path) -> dict[str, str]:
    """What tells the pictures of every split from others: the checksums that ``load`` compares. Empty for an absent set."""
    return {split: header.get("sha256", "") for split, header in headers(stem).items()}


def read(
    path: Path, split: str, key: str, again: str
) -> tuple[Tensor, Tensor, tuple[str, ...], dict[str, str]]:
    """Examples [classes, n, ...], counts [classes], names and header of one split's file.

    key: what the examples are called in it. again: what is to be done where the file is damaged or is not ``split``; the
    ``DataError`` ends with it.
    """
    try:
        tensors, header = load_tensors(path)
    except CheckpointError as error:
        raise DataError(f"{error}; {again}") from None
    if (
        tensors.keys() != {key, "counts"}
        or header.get("split") != split
        or fingerprint(tensors[key]) != header.get("sha256")
    ):
        raise DataError(f"{path} is damaged or not the {split} split (wrong checksum); {again}")
    examples, counts = tensors[key], tensors["counts"]
    try:
        names = tuple(str(name) for name in json.loads(header["names"]))
        whole = examples.dim() > 2 and counts.shape == (len(examples),) == (len(names),)
        whole = whole and 0 < int(counts.min()) <= int(counts.max()) <= examples.shape[1]
    except (KeyError, TypeError, ValueError, RuntimeError):
        whole = False
    if not whole:
        raise DataError(f"{path} is damaged (its names and counts are not those of its examples); {again}")
    return examples, counts, names, header


def load(stem: Path, split: str, *, what: str) -> tuple[ClassPool, dict[str, str]]:
    """One split and its header; ``DataError`` if the file is damaged or is not ``split``. ``what``: the data set, in words."""
    examples, counts, names, header = read(split_path(stem, split), split, "images", f"import {what} again")
    if len({its.get("set") for its in headers(stem).values()}) > 1:
        raise DataError(
            f"the splits of {what} are of two imports, one of which was broken off; import {what} again"
        )
    return ClassPool(examples, names=names, split=split).with_counts(counts), header
