"""Sets of feature vectors of images: extracted by a backbone of ours, or the published ones of LEO.

A set has one file per split, ``NAME-SPLIT.safetensors`` in the folder ``features`` of the data folder. Its header says what the
features are of and what made them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from mlbook.data import mini_imagenet, pool_files
from mlbook.data.files import shown
from mlbook.data.pickles import expecting, load_arrays
from mlbook.data.pool_files import SPLITS, split_path
from mlbook.data.pools import FeaturePool
from mlbook.data.storage import data_folder
from mlbook.data.tensor_file import fingerprint, save_tensors
from mlbook.errors import DataError, UserError


@dataclass(frozen=True)
class Published:
    """One of the two published sets (github.com/deepmind/leo): 640 numbers per image, from the middle of it."""

    about: str
    classes: dict[str, int]
    """Classes per split."""
    names: dict[str, list[str]] | None = None
    """WordNet numbers per split, where this book knows them."""
    size: int = 640


PUBLISHED = {
    "mini-deepmind": Published(
        "published features of miniImageNet",
        {"train": 64, "validation": 16, "test": 20},
        mini_imagenet.CLASSES,
    ),
    "tiered-deepmind": Published(
        "published features of tieredImageNet", {"train": 351, "validation": 97, "test": 160}
    ),
}
SAMPLE = Path(str(files("mlbook"))) / "data/samples" / "mini-features-test.safetensors"
PICKLES = {"train": "train", "validation": "val", "test": "test"}


def stem(name: str) -> Path:
    """The common path of a set's files without the ending."""
    return data_folder() / "features" / name


def available(name: str) -> bool:
    """Whether all splits of a set are here."""
    return pool_files.available(stem(name))


def known() -> list[str]:
    """Names of the sets that are here."""
    folder = data_folder() / "features"
    found = {path.name.removesuffix("-test.safetensors") for path in folder.glob("*-test.safetensors")}
    return sorted(name for name in found if not name.startswith(".") and available(name))


def save(name: str, splits: dict[str, dict[str, Tensor]], about: dict) -> Path:
    """Write all splits, {split: {class: [n, D]}}, as float16. The old files give way when all new ones are complete."""
    pool_files.replace(stem(name), splits, partial(save_split, about=about))
    return stem(name)


def save_split(path: Path, split: str, classes: dict[str, Tensor], about: dict) -> None:
    """One split as one file: features [classes, largest n, D] (the rest zero) and how many each class has."""
    features, counts = pool_files.stack({name: its.half() for name, its in classes.items()})
    header = {
        "about": json.dumps(about),
        "names": json.dumps(list(classes)),
        "sha256": fingerprint(features),
        "split": split,
    }
    save_tensors(path, {"features": features, "counts": counts}, header)


def digests(name: str) -> dict[str, str]:
    """What tells the features of every split from others; empty for a set that is not here.

    Features that a backbone of ours made are known by its weights and its pictures (``from`` in their header), not by their own
    digits: the same backbone rounds differently on another device.
    """
    found = {}
    for split, header in pool_files.headers(stem(name)).items():
        try:
            made_from = json.loads(header["about"]).get("from", {})
            found[split] = str(made_from.get(split, header["sha256"]))
        except (KeyError, ValueError, AttributeError):
            raise DataError(f"the features {name} are damaged; make them again") from None
    return found


def load(name: str, split: str) -> FeaturePool:
    """The features of one split of a set; ``DataError`` if it is not here or is damaged."""
    if split not in SPLITS:
        raise UserError(f"split must be {', '.join(SPLITS)}, not {split!r}")
    if not available(name):
        how = (
            f"features import {name} --from FOLDER (train, val and test_embeddings.pkl)"
            if name in PUBLISHED
            else f"features extract CHECKPOINT --name {name} (CHECKPOINT of a trained backbone-... experiment)"
        )
        raise DataError(f"the features {name} are not there yet; run: python -m mlbook {how}")
    return load_split(split_path(stem(name), split), split)[0]


def load_split(path: Path, split: str) -> tuple[FeaturePool, dict]:
    """The pool in one file, and what its header says it is; ``DataError`` if it is damaged or another split."""
    features, counts, names, header = pool_files.read(path, split, "features", "make these features again")
    try:
        about = json.loads(header["about"])
    except (KeyError, ValueError):
        raise DataError(f"{path} is damaged (its header); make these features again") from None
    full = bool((counts == features.shape[1]).all())
    return FeaturePool(features, counts=None if full else counts, names=names, split=split), about


def sample() -> tuple[FeaturePool, dict]:
    """The features that come with the package: some pictures of every meta-test class of miniImageNet, for the chapters. What is
    measured on them is not the result in a table, which takes all pictures."""
    return load_split(SAMPLE, "test")


def import_from(name: str, source: Path) -> Path:
    """Read the published pickles of ``mini-deepmind`` or ``tiered-deepmind``, without running what they carry. All or nothing.

    source: a folder with train_embeddings.pkl, val_embeddings.pkl and test_embeddings.pkl, each with ``embeddings`` [n, 640] and
    ``keys`` that end in "-CLASS-FILE". Raises ``DataError`` on anything missing, damaged or of other classes.
    """
    if name not in PUBLISHED:
        raise UserError(f"there are no published features {name!r}; there are: {', '.join(PUBLISHED)}")
    splits = {}
    for split, short in PICKLES.items():
        path = source / f"{short}_embeddings.pkl"
        classes = defaultdict(list)
        for wordnet, vector in _from_pickle(path, PUBLISHED[name].size):
            classes[wordnet].append(vector)
        splits[split] = {wordnet: torch.stack(its) for wordnet, its in sorted(classes.items())}
        _check_classes(path, PUBLISHED[name], split, set(splits[split]))
    return save(name, splits, {"of": name, "made by": PUBLISHED[name].about})


def _check_classes(path: Path, published: Published, split: str, found: set[str]) -> None:
    if len(found) != published.classes[split]:
        raise DataError(
            f"{path} holds {len(found)} classes, not the {published.classes[split]} of the {split} split; nothing was imported"
        )
    if published.names is not None and found != set(published.names[split]):
        other = sorted(found - set(published.names[split]))[0]
        raise DataError(
            f"{path} holds class {other}, which is not in the {split} split; nothing was imported"
        )


def _from_pickle(path: Path, size: int) -> Iterator[tuple[str, Tensor]]:
    """(class, features) of every image of a pickle."""
    import numpy as np

    content = load_arrays(path)
    if not isinstance(content, dict) or not {"keys", "embeddings"} <= set(content):
        raise DataError(f"{path} has no keys and embeddings; nothing was imported")
    with expecting(path, "keys and embeddings"):
        keys, vectors = list(content["keys"]), np.asarray(content["embeddings"])
    if vectors.ndim != 2 or vectors.shape[1] != size or not np.issubdtype(vectors.dtype, np.floating):
        raise DataError(
            f"{path} holds {vectors.dtype} features of shape {vectors.shape}, not real numbers [n, {size}]; "
            "nothing was imported"
        )
    if len(keys) != len(vectors):
        raise DataError(f"{path} has {len(keys)} keys for {len(vectors)} features; nothing was imported")
    largest = np.finfo(np.float16).max  # they are kept with 16 bits
    if not (np.abs(vectors) <= largest).all():
        raise DataError(
            f"{path} holds features that are not finite, or beyond ±{largest:,.0f}; nothing was imported"
        )
    for key, vector in zip(keys, vectors, strict=True):
        with expecting(path, "keys of text"):
            text = key.decode() if isinstance(key, bytes) else str(key)
        parts = text.split("-")
        if len(parts) < 3 or not parts[-1].startswith(parts[-2]):
            raise DataError(f"{path}: key {shown(text)!r} does not end in -CLASS-FILE; nothing was imported")
        yield parts[-2], torch.from_numpy(np.array(vector, dtype=np.float32))
