"""Any folder of class folders as a few-shot benchmark, with the commands of the others.

python -m mlbook data import-images birds --from pictures/ --size 84
python -m mlbook train maml-birds-5w1s
python -m mlbook evaluate runs/maml-birds-5w1s-quick-seed0/checkpoint.safetensors
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from mlbook.data import pool_files
from mlbook.data.pools import ClassPool
from mlbook.data.storage import ARCHIVES, data_folder, open_image, read_archive
from mlbook.errors import DataError, UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
SHARES = (0.64, 0.16, 0.20)
"""Parts of the classes that become meta-train, meta-validation and meta-test where the folder does not say."""
LARGEST = 1000
"""Pictures of a class that are kept; of more, the first ones by name."""
RESERVED = ("omniglot", "mini", "mini-imagenet", "glyphs")


def folder() -> Path:
    """Where imported sets lie, three files each."""
    return data_folder() / "images"


def imported() -> list[str]:
    """Names of the sets that are there."""
    ending = "-train.safetensors"
    names = sorted(path.name.removesuffix(ending) for path in folder().glob(f"*{ending}"))
    return [name for name in names if pool_files.available(folder() / name)]


def shape(name: str) -> tuple[int, int, int]:
    """(channels, size, meta-train classes) of a set."""
    about = pool_files.about(folder() / name)
    return about["channels"], about["size"], about["train_classes"]


def fewest(name: str) -> int:
    """Pictures in the smallest class of a set."""
    return pool_files.about(folder() / name)["fewest"]


def load(name: str, split: str) -> ClassPool:
    """The pool of ``train``, ``validation`` or ``test``; ``DataError`` if there is no such set or its file is damaged."""
    if split not in pool_files.SPLITS:
        raise UserError(f"split must be train, validation or test, not {split!r}")
    if name not in imported():
        raise DataError(
            f"there are no images named {name!r}; run: python -m mlbook data import-images {name} --from FOLDER"
        )
    return pool_files.load(folder() / name, split, what=name)[0]


def import_from(name: str, source: Path, *, size: int = 84, grey: bool = False) -> dict[str, int]:
    """Read class folders (any picture format) from a folder or archive; returns classes per split. All or nothing.

    Where the folders lie in ``train``, ``val`` and ``test``, these are the splits; else the classes are shuffled with a fixed
    seed and cut 64 : 16 : 20. Pictures are cut to their central square and resized to size × size, in colour or grey. Classes
    may have different numbers of pictures. Raises ``UserError`` on a bad name or size, ``DataError`` on unreadable or too few
    pictures.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED or name.startswith("sinusoid"):
        raise UserError(
            "the name must be small letters, digits and _, starting with a letter, and not "
            f"{', '.join(RESERVED)} or sinusoid…; got {name!r}"
        )
    if not 16 <= size <= 512:
        raise UserError(f"--size must be from 16 to 512 pixels, got {size}")
    classes: dict[tuple[str | None, str], dict[str, Tensor]] = defaultdict(dict)
    for path, content in read_archive(source, ENDINGS, archives=ARCHIVES):
        if len(path.parts) < 2:
            raise DataError(
                f"{path} lies in no class folder; the layout is CLASS/PICTURE or train|val|test/CLASS/PICTURE; "
                "nothing was imported"
            )
        split = FOLDERS.get(path.parts[-3].lower()) if len(path.parts) > 2 else None
        pictures = classes[split, path.parts[-2]]
        if len(pictures) < LARGEST:
            pictures[path.as_posix()] = square(content, path, size, grey)
    if not classes:
        raise DataError(f"{source} holds no pictures in class folders; nothing was imported")
    splits = _split({key: torch.stack([its[p] for p in sorted(its)]) for key, its in classes.items()})
    for split, its in splits.items():
        for label, images in its.items():
            if len(images) < 2:
                raise DataError(
                    f"class {label} has 1 picture; an episode needs at least 2 of each class; nothing was imported"
                )
        if len(its) < 2:
            raise DataError(
                f"{source} gives {len(its)} meta-{split} classes; each split needs at least 2; nothing was imported"
            )
    about = {
        "channels": 1 if grey else 3,
        "size": size,
        "train_classes": len(splits["train"]),
        "fewest": min(len(images) for its in splits.values() for images in its.values()),
    }
    pool_files.save(folder() / name, splits, {"about": json.dumps(about)})
    return {split: len(its) for split, its in splits.items()}


def square(content: bytes, name: object, size: int, grey: bool) -> Tensor:
    """A picture's central square at size × size: uint8 [1 or 3, size, size]. White lies under transparent parts."""
    import numpy as np
    from PIL import Image

    image = open_image(content, name)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if grey else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (size, size):
        image = image.crop((left, top, left + side, top + side)).resize(
            (size, size), Image.Resampling.LANCZOS
        )
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if grey else pixels.permute(2, 0, 1)


def _split(classes: dict[tuple[str | None, str], Tensor]) -> dict[str, dict[str, Tensor]]:
    """{split: {class: images}} from {(split folder or None, class): images}."""
    splits: dict[str, dict[str, Tensor]] = {split: {} for split in pool_files.SPLITS}
    placed = [split for split, _ in classes if split is not None]
    if placed and len(placed) < len(classes):
        loose = next(label for split, label in classes if split is None)
        raise DataError(
            f"some class folders lie in train, val or test and {loose} does not; nothing was imported"
        )
    labels = sorted(label for _, label in classes)
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise DataError(
            f"class {twice[0]} lies in two splits; meta-test classes must be new; nothing was imported"
        )
    if not placed:
        random.Random(0).shuffle(labels)
        first, second = round(SHARES[0] * len(labels)), round((SHARES[0] + SHARES[1]) * len(labels))
        parts = zip(pool_files.SPLITS, (labels[:first], labels[first:second], labels[second:]), strict=True)
        where = {label: split for split, part in parts for label in part}
    for (split, label), images in sorted(classes.items(), key=lambda item: item[0][1]):
        splits[split or where[label]][label] = images
    return splits
