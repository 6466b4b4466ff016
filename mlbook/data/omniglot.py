"""Omniglot: 1,623 handwritten characters, 20 drawings each (Lake et al. 2015).

The drawings are read once, at import, into one compact tensor; every later run loads that.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from mlbook.data.files import read_archive, shown
from mlbook.data.pictures import converted, open_image
from mlbook.data.pools import ClassPool, Rotations
from mlbook.data.storage import data_folder, fetch
from mlbook.data.tensor_file import fingerprint, load_tensors, save_tensors
from mlbook.errors import CheckpointError, DataError, UserError

CHARACTERS, DRAWINGS, ORIGINAL, SIZE = 1623, 20, 105, 28
SPLITS = {"train": (0, 1100), "validation": (1100, 1200), "test": (1200, 1623)}
"""Official MAML: 1,200 characters for meta-training, of which 100 for meta-validation, and 423 for meta-test."""
SPLIT_SEED = 1
PIXELS_SHA256 = "a2e0d63df06c22433fe5bda98ec395d3a2ff22af7e53e8f647d5ff568d7dd45a"


def path() -> Path:
    """The cached tensor."""
    return data_folder() / "omniglot.safetensors"


def available() -> bool:
    """Whether the cached tensor is there."""
    return path().is_file()


def nearest_28(bitmap: Tensor) -> Tensor:
    """[105, 105] -> [28, 28] by nearest neighbour: pixel i reads row floor((i + ½)·105/28).

    The official code asks its image library for a smooth filter, but the files are 1-bit images, for which that
    library falls back to nearest neighbour without a word: the networks were trained on binary pictures.
    """
    index = ((torch.arange(SIZE, dtype=torch.float64) + 0.5) * ORIGINAL / SIZE).floor().long()
    return bitmap[index][:, index]


def import_from(source: Path) -> Path:
    """Read the drawings from a folder or archive that holds ``images_background`` and ``images_evaluation`` (as folders or zip
    files) and write the cached tensor. All or nothing."""
    import numpy as np

    # by file name: where a zip file lies beside the folder that was unpacked from it, every drawing comes twice
    drawings: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, content in read_archive(source, ".png"):
        if len(name.parts) < 4 or name.parts[-4] not in ("images_background", "images_evaluation"):
            continue
        image = open_image(content, name)
        if image.size != (ORIGINAL, ORIGINAL):
            raise DataError(
                f"{shown(name)} is {image.size[0]}×{image.size[1]}, not 105×105; nothing was imported"
            )
        ink = torch.from_numpy(np.array(converted(image, "1", name), dtype=bool)).logical_not()
        drawings["/".join(name.parts[-4:-1])][name.name] = nearest_28(ink)
    if len(drawings) != CHARACTERS:
        raise DataError(
            f"{source} holds {len(drawings)} of the {CHARACTERS} Omniglot characters; nothing was imported"
        )
    names = sorted(drawings)
    for character in names:
        if len(drawings[character]) != DRAWINGS:
            n = len(drawings[character])
            raise DataError(f"{character} has {n} drawings instead of {DRAWINGS}; nothing was imported")
    images = torch.stack([torch.stack([drawings[c][name] for name in sorted(drawings[c])]) for c in names])
    images = images.to(torch.uint8) * 255  # [1623, 20, 28, 28], ink = 255
    found = fingerprint(images)
    if found != PIXELS_SHA256:
        raise DataError(
            f"{source} has other pixels than Omniglot (sha256 {found[:12]}…); nothing was imported"
        )
    save_tensors(path(), {"images": images}, {"names": "\n".join(names), "sha256": found})
    return path()


def download() -> Path:
    """Fetch the two official zip files from where torchvision knows them to where it keeps them, verify them, and import."""
    from mlbook.data.torchvision_import import torchvision

    dataset = torchvision().datasets.Omniglot
    root = data_folder() / "downloads"
    for name, md5 in dataset.zips_md5.items():
        url = f"{dataset.download_url_prefix}/{name}.zip"
        fetch(url, root / dataset.folder / f"{name}.zip", checksum=md5, algorithm="md5")
    return import_from(root / dataset.folder)


def load(split: str, rotations: Rotations = "per_task") -> ClassPool:
    """The pool of one split: ``train``, ``validation``, ``test`` or ``all``. [classes, 20, 1, 28, 28], ink = 255.

    Characters of all alphabets are shuffled once with a fixed seed, irrespective of alphabet, then cut (official code).
    Raises ``DataError`` when Omniglot is not there.
    """
    if split not in SPLITS and split != "all":
        raise UserError(f"split must be train, validation, test or all, not {split!r}")
    if not available():
        raise DataError(
            "Omniglot is not there yet; run: python -m mlbook data get omniglot  (or data import omniglot --from PATH)"
        )
    images, names = verified()
    order = list(range(CHARACTERS))
    random.Random(SPLIT_SEED).shuffle(order)
    if split != "all":
        order = order[slice(*SPLITS[split])]
    names = tuple(names[i] for i in order)
    return ClassPool(images[order][:, :, None], rotations, names, split="" if split == "all" else split)


def load_as_reptile(split: str) -> ClassPool:
    """The pool of the official Reptile code: ``train`` (1,200 characters × 4 rotations, each a class of its own) or ``test``
    (423, upright). Dark strokes on a white ground: stroke = 0. Its split is drawn at random too; here it is that of ``load``.
    """
    if split not in ("train", "test"):
        raise UserError(f"split must be train or test (Reptile has no validation classes), not {split!r}")
    if split == "test":
        return load("test", "none").inverted()
    return load("all", "as_classes").subset(slice(0, SPLITS["test"][0])).inverted()


def verified() -> tuple[Tensor, list[str]]:
    """The cached tensor [1623, 20, 28, 28] and the characters' names, or ``DataError`` if the file is damaged."""
    try:
        tensors, header = load_tensors(path())
    except CheckpointError as error:
        raise DataError(f"{error}; delete it and import Omniglot again") from None
    images = tensors.get("images")
    if images is None or fingerprint(images) != PIXELS_SHA256:
        raise DataError(f"{path()} is damaged (wrong checksum); delete it and import Omniglot again")
    names = header.get("names", "").split("\n")
    if len(names) != len(images):
        raise DataError(f"{path()} is damaged (its header); delete it and import Omniglot again")
    return images, names
