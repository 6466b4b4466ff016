"""Sets that a user imported: of pictures (``image_folder``) or of arrays (``tensor_sets``). A name is one set, three files."""

from __future__ import annotations

import json
import re
from pathlib import Path

from torch import Tensor

from mlbook.data import pool_files
from mlbook.data.files import listed
from mlbook.data.pools import SPLITS, ClassPool
from mlbook.data.storage import data_folder
from mlbook.errors import DataError, UserError

RESERVED = ("omniglot", "mini", "mini-imagenet", "glyphs")


def folder() -> Path:
    """Where imported sets lie, three files each."""
    return data_folder() / "images"


def imported() -> list[str]:
    """Names of the sets that are there."""
    ending = "-train.safetensors"
    try:
        names = sorted(path.name.removesuffix(ending) for path in folder().glob(f"*{ending}"))
        return [name for name in names if pool_files.available(folder() / name)]
    except OSError:  # no folder that could be looked into
        return []


def check_name(name: str) -> None:
    """``UserError`` if a set cannot be called ``name``."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED or name.startswith("sinusoid"):
        raise UserError(
            "the name must be small letters, digits and _, starting with a letter, and not "
            f"{', '.join(RESERVED)} or sinusoid…; got {name!r}"
        )
    if len(name) > 100:
        raise UserError(f"the name has {len(name)} letters; use at most 100")


def check_classes(splits: dict[str, dict[str, Tensor]], source: object) -> None:
    """``DataError`` where a split has fewer than two classes, or a class fewer than two examples."""
    for split in SPLITS:
        its = splits.get(split, {})
        for label, examples in its.items():
            if len(examples) < 2:
                raise DataError(
                    f"class {label} has 1 picture; an episode needs at least 2 of each class; nothing was imported"
                )
        if len(its) < 2:
            raise DataError(
                f"{source} gives {len(its)} meta-{split} classes; each split needs at least 2; nothing was imported"
            )


def save(name: str, splits: dict[str, dict[str, Tensor]], about: dict) -> None:
    """Write {split: {class: [n, ...]}} and what the header says of the set. All or nothing; ``UserError`` where that fails."""
    about = about | {
        "train_classes": len(splits["train"]),
        "fewest": min(len(examples) for its in splits.values() for examples in its.values()),
    }
    pool_files.save(folder() / name, splits, {"about": json.dumps(about)})


def about(name: str) -> dict:
    """What the header says: ``train_classes``; ``fewest`` examples of a class; ``channels`` and ``size`` of pictures, or the
    ``shape`` of arrays. ``DataError`` if it is damaged."""
    found = pool_files.about(folder() / name)
    kinds = ("channels", "size") if "shape" not in found else ()
    if not all(isinstance(found.get(key), int) for key in ("train_classes", "fewest", *kinds)):
        raise DataError(f"the header of {name} is damaged; import {name} again")
    return found


def shape(name: str) -> tuple[int, int, int]:
    """(channels, size, meta-train classes) of a set of pictures."""
    its = about(name)
    return its["channels"], its["size"], its["train_classes"]


def array_shape(name: str) -> tuple[int, ...] | None:
    """The shape of an example of a set of arrays; None for a set of pictures."""
    found = about(name).get("shape")
    return None if found is None else tuple(int(n) for n in found)


def fewest(name: str) -> int:
    """Examples of the smallest class of a set."""
    return about(name)["fewest"]


def load(name: str, split: str) -> ClassPool:
    """The pool of ``train``, ``validation`` or ``test``; ``DataError`` if there is no such set or its file is damaged."""
    if split not in SPLITS:
        raise UserError(f"split must be train, validation or test, not {split!r}")
    if name not in imported():
        raise DataError(
            f"no set of your own is named {name!r}; run: python -m mlbook data import-images {name} --from FOLDER"
        )
    return pool_files.load(folder() / name, split, what=name)[0]


def described(splits: dict[str, dict[str, Tensor]], most: int = 5) -> list[str]:
    """A line per split: how many classes and examples, and some names."""
    lines = []
    for split in SPLITS:
        its = splits.get(split, {})
        counts = [len(examples) for examples in its.values()]
        least, largest = min(counts, default=0), max(counts, default=0)
        each = f"{least}" if least == largest else f"{least} to {largest}"
        lines.append(f"  {split:10} {len(its):5,} classes × {each}: {listed(list(its), most)}")
    return lines
