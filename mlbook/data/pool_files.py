"""Class pools on disk: one file per split, verified when read, and written only when all splits are complete."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mlbook.data.pools import ClassPool
from mlbook.data.tensor_file import fingerprint, load_header, load_tensors, save_tensors
from mlbook.errors import CheckpointError, DataError

SPLITS = ("train", "validation", "test")


def split_path(stem: Path, split: str) -> Path:
    """The file of one split; ``stem`` is the common path of a data set without the ending."""
    return stem.with_name(f"{stem.name}-{split}.safetensors")


def available(stem: Path) -> bool:
    """Whether all splits are there."""
    return all(split_path(stem, split).is_file() for split in SPLITS)


def stack(classes: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Examples by class, {name: [n, ...]}, as one tensor [classes, largest n, ...] (the rest zero), and counts [classes]."""
    counts = torch.tensor([len(its) for its in classes.values()])
    first = next(iter(classes.values()))
    examples = first.new_zeros(len(classes), int(counts.max()), *first.shape[1:])
    for row, its in zip(examples, classes.values(), strict=True):
        row[: len(its)] = its
    return examples, counts


def save(stem: Path, splits: dict[str, dict[str, Tensor]], header: dict[str, str]) -> None:
    """Write all splits, {split: {class: uint8 [n, C, H, W]}}, as ``replace`` does."""

    def write(path: Path, split: str, classes: dict[str, Tensor]) -> None:
        images, counts = stack(classes)
        its = {"names": json.dumps(list(classes)), "sha256": fingerprint(images), "split": split}
        save_tensors(path, {"images": images, "counts": counts}, {**header, **its})

    replace(stem, splits, write)


def replace(
    stem: Path,
    splits: dict[str, dict[str, Tensor]],
    write: Callable[[Path, str, dict[str, Tensor]], None],
) -> None:
    """Write all splits, each by ``write(path, split, classes)``. The old files give way when all new ones are complete."""
    new = {split: stem.with_name(f".{stem.name}-{split}.new") for split in SPLITS}
    try:
        for split, classes in splits.items():
            write(new[split], split, classes)
        for split in SPLITS:
            os.replace(new[split], split_path(stem, split))
    finally:
        for path in new.values():
            with suppress(OSError):  # what went wrong is said already
                path.unlink()


def about(stem: Path) -> dict:
    """What the header of an imported set says of it, without reading the pictures; ``DataError`` if it is damaged."""
    path = split_path(stem, "train")
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["about"])
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


def load(stem: Path, split: str, *, what: str) -> tuple[ClassPool, dict[str, str]]:
    """One split and its header; ``DataError`` if the file is damaged or is not ``split``. ``what``: the data set, in words."""
    path = split_path(stem, split)
    try:
        tensors, header = load_tensors(path)
    except CheckpointError as error:
        raise DataError(f"{error}; import {what} again") from None
    if (
        tensors.keys() != {"images", "counts"}
        or header.get("split") != split
        or fingerprint(tensors["images"]) != header.get("sha256")
    ):
        raise DataError(f"{path} is damaged (wrong checksum); import {what} again")
    names = tuple(json.loads(header["names"]))
    return ClassPool(tensors["images"], names=names).with_counts(tensors["counts"]), header
