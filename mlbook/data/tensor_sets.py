"""Arrays and their labels as a few-shot benchmark, with the commands of the others: images, signals, tables.

python -m mlbook data import-tensors heartbeats --from heartbeats.npz
python -m mlbook train maml-heartbeats-5w1s
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mlbook.data import own_sets
from mlbook.data.files import shown
from mlbook.data.pools import SHARES, SPLITS, ClassPool
from mlbook.errors import DataError, UserError

KINDS = {1: "tables of {} features", 2: "signals of {} channels × {}", 3: "images of {} channels, {}×{}"}
"""By the number of dimensions of an example."""
KEYS = ("x", "y", "split")


@dataclass
class Arrays:
    """What was read of a file, before anything is written."""

    name: str
    splits: dict[str, dict[str, Tensor]]
    """{split: {class: [n, ...]}}, uint8 or float32."""
    how: str
    """Where the splits are from."""

    @property
    def example(self) -> Tensor:
        return next(iter(self.splits["train"].values()))[0]

    def lines(self) -> list[str]:
        """The set in words: what an example is, splits, classes, counts."""
        example = self.example
        kind = KINDS[example.dim()].format(*example.shape)
        scale = "drawn as numbers from 0 to 1" if example.dtype == torch.uint8 else "taken as they are"
        dtype = str(example.dtype).removeprefix("torch.")
        return [f"{self.name}: {kind}, {dtype}, {scale}; {self.how}", *own_sets.described(self.splits)]

    def save(self) -> dict[str, int]:
        """Write the set; returns classes per split. ``UserError`` where it cannot be written, and the old one stays."""
        own_sets.save(self.name, self.splits, {"shape": list(self.example.shape)})
        return {split: len(its) for split, its in self.splits.items()}


def import_from(name: str, source: Path) -> dict[str, int]:
    """``read``, and write what was read; returns classes per split. All or nothing."""
    return read(name, source).save()


def read(name: str, source: Path) -> Arrays:
    """A set from a .npz (read without running what it carries) or .safetensors file. Writes nothing.

    The file has ``x`` [n, C, H, W] (images), [n, C, L] (signals) or [n, D] (tables), uint8 (images only) or real numbers,
    which are taken as they are: nothing is standardised. ``y`` [n]: whole numbers or texts. ``split`` [n], if there is one:
    train, validation or test, or 0, 1 or 2 for them; without, the classes are shuffled with a fixed seed and cut 64 : 16 : 20.
    Raises ``UserError`` on a bad name, ``DataError`` on a damaged file, other shapes, or too few classes or examples.
    """
    own_sets.check_name(name)
    arrays = _arrays(source)
    for key in KEYS[:2]:
        if key not in arrays:
            raise DataError(
                f"{shown(source)} has no array {key} (it has: {', '.join(shown(k) for k in sorted(arrays)) or 'none'}); "
                "x holds the examples and y their labels; nothing was imported"
            )
    try:
        splits = _split_labels(arrays["y"], arrays["split"]) if "split" in arrays else SHARES
        pools = ClassPool.from_tensors(arrays["x"], arrays["y"], splits)
    except UserError as error:
        raise type(error)(f"{shown(source)}: {error}; nothing was imported") from None
    found = {split: _classes(pools[split]) if split in pools else {} for split in SPLITS}
    own_sets.check_classes(found, shown(source))
    shape = tuple(pools["train"].images.shape[2:])
    if len(shape) not in KINDS:
        raise DataError(
            f"{shown(source)}: x has the shape [n, {', '.join(map(str, shape))}]; it must be [n, C, H, W] (images), [n, C, L] "
            "(signals) or [n, D] (tables); nothing was imported"
        )
    if len(shape) == 3 and shape[0] > 4 >= shape[2]:
        raise DataError(
            f"{shown(source)}: x has the shape [n, {', '.join(map(str, shape))}], with the channels last; it must be "
            "[n, C, H, W]; nothing was imported"
        )
    if len(shape) == 3 and min(shape[1:]) < 16:
        raise DataError(
            f"{shown(source)}: the images are {shape[1]}×{shape[2]}; the networks here need at least 16×16; "
            "nothing was imported"
        )
    how = "the splits are those of the file" if "split" in arrays else "classes shuffled and cut 64 : 16 : 20"
    return Arrays(name, found, how)


def _arrays(source: Path) -> dict:
    """The arrays of the file that matter here, by name (others only as a name)."""
    import numpy as np

    ending = source.suffix.lower()
    if ending not in (".npz", ".safetensors"):
        raise UserError(f"arrays are imported from a .npz or .safetensors file, not from {shown(source)}")
    try:
        if not source.is_file():
            raise DataError(f"{shown(source)} does not exist or is no file")
        if ending == ".npz":
            with np.load(source, allow_pickle=False) as file:
                return {key: file[key] if key in KEYS else None for key in file.files}
        from safetensors import safe_open

        with safe_open(source, "pt") as file:
            return {key: file.get_tensor(key) if key in KEYS else None for key in file.keys()}  # noqa: SIM118
    except DataError:
        raise
    except Exception as error:  # damaged files make numpy and zipfile raise errors of many kinds
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "it holds Python objects, which could run code"
        raise DataError(f"{shown(source)} cannot be read ({reason}); nothing was imported") from None


def _split_labels(labels, split) -> dict[str, list]:
    """{split: its labels} from the split of every example."""
    import numpy as np

    labels, split = np.asarray(labels), np.asarray(split)
    if labels.ndim != 1 or split.shape != labels.shape:
        raise DataError(
            f"split has the shape {list(split.shape)} and y {list(labels.shape)}; both must be [n]"
        )
    if split.dtype.kind == "S":
        split = np.char.decode(split, "utf-8", "replace")
    if split.dtype.kind in "iu":
        numbers = np.unique(split)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= 2:
            raise DataError(f"split must be 0, 1 or 2, or train, validation or test, not {numbers.max()}")
        split = np.array(SPLITS)[split]
    elif split.dtype.kind != "U":
        raise DataError(f"split must be texts or whole numbers, not {split.dtype}")
    named = {str(name) for name in np.unique(split)}
    order = [*(name for name in SPLITS if name in named), *sorted(named - set(SPLITS))]
    return {name: np.unique(labels[split == name]) for name in order}


def _classes(pool: ClassPool) -> dict[str, Tensor]:
    """{class: its examples}, without padding."""
    counts = [pool.n_examples] * len(pool.images) if pool.counts is None else pool.counts.tolist()
    return {name: its[:n] for name, its, n in zip(pool.names, pool.images, counts, strict=True)}
