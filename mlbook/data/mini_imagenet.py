"""miniImageNet: 100 classes of ImageNet, 600 pictures each, 84×84 in colour, in the split of Ravi and Larochelle (2017).

ImageNet's terms forbid passing its pictures on, so they are imported from what a user has: class folders, archives of them, or
one of the two common pickle layouts.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from mlbook.data import pool_files
from mlbook.data.files import ARCHIVES, plainly, read_archive, shown
from mlbook.data.pickles import expecting, load_arrays
from mlbook.data.pictures import converted, open_image
from mlbook.data.pools import ClassPool, stack
from mlbook.data.storage import data_folder
from mlbook.data.tensor_file import fingerprint
from mlbook.errors import DataError, UserError

PICTURES, SIZE = 600, 84

CLASSES = {
    "train": """
        n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867 n02091831 n02101006 n02105505
        n02108089 n02108551 n02108915 n02111277 n02113712 n02120079 n02165456 n02457408 n02606052 n02687172 n02747177 n02795169
        n02823428 n02966193 n03017168 n03047690 n03062245 n03207743 n03220513 n03337140 n03347037 n03400231 n03476684 n03527444
        n03676483 n03838899 n03854065 n03888605 n03908618 n03924679 n03998194 n04067472 n04243546 n04251144 n04258138 n04275548
        n04296562 n04389033 n04435653 n04443257 n04509417 n04515003 n04596742 n04604644 n04612504 n06794110 n07584110 n07697537
        n07747607 n09246464 n13054560 n13133613""".split(),
    "validation": """
        n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370 n03417042 n03535780 n03584254
        n03770439 n03773504 n03980874 n09256479""".split(),
    "test": """
        n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484 n02871525 n03127925 n03146219
        n03272010 n03544143 n03775546 n04146614 n04149813 n04418357 n04522168 n07613480""".split(),
}
"""WordNet numbers of the 64 meta-train, 16 meta-validation and 20 meta-test classes. (The MAML paper counts 12 and 24; its code
uses this split.)"""

SPLIT_OF = {wordnet: split for split, names in CLASSES.items() for wordnet in names}
FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}

SHA256 = {
    "train": "bffca8a2bf2c9fcb4e778235fc6fb070f003f3a96f25f10ce3b9ebb0d9cf3724",
    "validation": "fbf5d1c8b18b66f6ea41829f269ebe8cd41d4513736290ff7b0ec0e27c6969aa",
    "test": "fbe00bff58e1d39b48a27df0cb49899146ca45dc7b50efbb256e9c21a7a4f015",
}
"""Pixels that the results of this book were made with. Others are accepted (there is no official set of resized pictures) and
said to be others."""


def stem() -> Path:
    """The common path of the three splits' files, without the ending."""
    return data_folder() / "mini-imagenet"


def available() -> bool:
    """Whether all three splits are there."""
    return pool_files.available(stem())


def import_from(sources: Path | Iterable[Path], on_progress: Callable[[int], None] | None = None) -> Path:
    """Read all 60,000 pictures and write one tensor per split. All or nothing.

    sources: folders that hold class folders (or archives of them), archives, or pickles; together they hold every class once.
    on_progress: called with the number of pictures read. Raises ``DataError`` on anything missing, damaged, of another size, in
    the wrong split, or not of miniImageNet.
    """
    pictures: dict[str, Tensor] = {}
    digests: dict[str, list[str]] = {}
    for source in [sources] if isinstance(sources, Path) else sources:
        before = PICTURES * len(pictures)
        report = None if on_progress is None else lambda n, before=before: on_progress(before + n)
        found = _from_pickles(source) if _pickles(source) else _from_pictures(source, report)
        for wordnet, images in found:
            if wordnet in pictures:
                raise DataError(f"{source} holds class {wordnet} a second time; nothing was imported")
            if len(images) != PICTURES:
                raise DataError(
                    f"class {wordnet} has {len(images)} pictures instead of {PICTURES} in {source}; "
                    "nothing was imported"
                )
            pictures[wordnet] = images
            digests[wordnet] = [fingerprint(image) for image in images]
    missing = [wordnet for wordnet in SPLIT_OF if wordnet not in pictures]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(
            f"{len(missing)} of the 100 classes of miniImageNet are missing ({', '.join(missing[:3])}{more}); "
            "nothing was imported"
        )
    copies = duplicates(digests)
    splits = {split: {w: pictures.pop(w) for w in names} for split, names in CLASSES.items()}
    pool_files.save(stem(), splits, {"duplicates": json.dumps(copies)})
    return stem().with_name("mini-imagenet-*.safetensors")


def duplicates(digests: dict[str, list[str]]) -> list[list[list]]:
    """Groups of pictures with the same checksum: [[class, number], [class, number], ...] each."""
    where = defaultdict(list)
    for wordnet, its in digests.items():
        for number, digest in enumerate(its):
            where[digest].append([wordnet, number])
    return [group for group in where.values() if len(group) > 1]


def load(split: str, *, as_published: bool = False) -> ClassPool:
    """The pool of ``train`` (64 classes), ``validation`` (16) or ``test`` (20): [classes, 600, 3, 84, 84], uint8.

    Eight pairs of pictures are the same to the byte: two within meta-train, six between meta-train and meta-validation, none in
    meta-test. Meta-train and meta-test are used as published; from meta-validation, whose classes should be new, the six pictures
    that meta-train holds too are left out unless ``as_published``. Raises ``DataError`` when miniImageNet is not there or is
    damaged.
    """
    if split not in CLASSES:
        raise UserError(f"split must be train, validation or test, not {split!r}")
    if not available():
        raise DataError(
            "miniImageNet is not there yet; run: python -m mlbook data import mini-imagenet --from PATH ... "
            "(class folders, archives or pickles)"
        )
    pool, header = pool_files.load(stem(), split, what="miniImageNet")
    if split == "validation" and not as_published:
        copies = _copies(header)
        seen = [
            (w, n)
            for group in copies
            for w, n in group
            if SPLIT_OF[w] == "validation" and any(SPLIT_OF[other] == "train" for other, _ in group)
        ]
        return without(pool, seen)
    return pool


def without(pool: ClassPool, pictures: list[tuple[str, int]]) -> ClassPool:
    """The pool without the named pictures (class, number); their classes have fewer from then on."""
    classes = {}
    for name, images in zip(pool.names, pool.images, strict=True):
        gone = {number for wordnet, number in pictures if wordnet == name}
        classes[name] = images[[n for n in range(len(images)) if n not in gone]] if gone else images
    images, counts = stack(classes)
    return ClassPool(images, names=pool.names, split=pool.split).with_counts(counts)


def about() -> str:
    """What was found in the imported pictures, in one sentence."""
    groups = _copies(pool_files.load(stem(), "validation", what="miniImageNet")[1])
    kinds = defaultdict(int)
    for group in groups:
        kinds[" and ".join(sorted({SPLIT_OF[w] for w, _ in group}, key=list(CLASSES).index))] += 1
    return "; ".join(f"{n} identical pairs in {kind}" for kind, n in kinds.items()) or "no identical pictures"


def _copies(header: dict[str, str]) -> list[list[list]]:
    """What ``duplicates`` found at the import."""
    try:
        return [[(str(w), int(n)) for w, n in group] for group in json.loads(header["duplicates"])]
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{stem()}-validation is damaged (its header); import miniImageNet again") from None


def verify() -> str:
    """Read every split; whether the pixels are those of the book's results. ``DataError`` if a file is damaged."""
    same = all(
        pool_files.load(stem(), split, what="miniImageNet")[1]["sha256"] == SHA256[split] for split in CLASSES
    )
    return "the pictures of this book's results" if same else "other pixels than those of this book's results"


def _place(name) -> tuple[str, str | None]:
    """WordNet number and split folder of a picture's path: by its folder, else by its own name (n0153282900000005.jpg)."""
    wordnet = name.parent.name if name.parent.name in SPLIT_OF else None
    if wordnet is None and (match := re.match(r"n\d{8}", name.name)):
        wordnet = match[0]
    if wordnet not in SPLIT_OF:
        raise DataError(f"{shown(name)} is of no class of miniImageNet; nothing was imported")
    above = name.parent.parent.name if name.parent.name == wordnet else name.parent.name
    return wordnet, FOLDERS.get(above)


def _from_pictures(source: Path, on_progress: Callable[[int], None] | None) -> Iterator[tuple[str, Tensor]]:
    import numpy as np

    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for number, (name, content) in enumerate(
        read_archive(source, (".jpg", ".jpeg", ".png"), archives=ARCHIVES), 1
    ):
        wordnet, folder = _place(name)
        if folder is not None and folder != SPLIT_OF[wordnet]:
            raise DataError(
                f"class {wordnet} lies in {name.parent.parent.name}/ but is a meta-{SPLIT_OF[wordnet]} class in the split of "
                "Ravi and Larochelle; nothing was imported"
            )
        image = open_image(content, name)
        if image.size != (SIZE, SIZE):
            raise DataError(
                f"{shown(name)} is {image.size[0]}×{image.size[1]}, not 84×84; nothing was imported"
            )
        if name.name in found[wordnet]:
            raise DataError(f"{source} holds {shown(name.name)} twice; nothing was imported")
        if on_progress is not None:
            on_progress(number)
        found[wordnet][name.name] = torch.from_numpy(np.array(converted(image, "RGB", name))).permute(2, 0, 1)
    if not found:
        raise DataError(f"{source} holds no pictures (.jpg, .png) of miniImageNet; nothing was imported")
    for wordnet, its in found.items():
        yield wordnet, torch.stack([its[name] for name in sorted(its)])


def _pickles(source: Path) -> list[Path]:
    """The pickles at ``source``, a file or a folder that holds some."""
    with plainly(source):
        if source.is_dir():
            return sorted(p for p in source.iterdir() if p.suffix in (".pkl", ".pickle"))
    return [source] if source.suffix in (".pkl", ".pickle") else []


def _from_pickles(source: Path) -> Iterator[tuple[str, Tensor]]:
    for path in _pickles(source):
        yield from _from_pickle(path)


def _from_pickle(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Layout 1: ``image_data`` [n, 84, 84, 3] and ``class_dict`` {class: numbers}; layout 2: ``data``, ``labels`` and
    ``catname2label`` {class: label}."""
    import numpy as np

    content = load_arrays(path)
    keys = set(content) if isinstance(content, dict) else set()
    with expecting(path, "a pickle of miniImageNet"):
        if {"image_data", "class_dict"} <= keys:
            images = content["image_data"]
            numbers = {str(name): its for name, its in content["class_dict"].items()}
        elif {"data", "labels", "catname2label"} <= keys:
            images, labels = content["data"], np.asarray(content["labels"])
            numbers = {
                str(name): np.flatnonzero(labels == label) for name, label in content["catname2label"].items()
            }
        else:
            raise DataError(
                f"{path} has neither image_data and class_dict nor data, labels and catname2label; nothing was imported"
            )
        images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (SIZE, SIZE, 3):
        raise DataError(
            f"{path} holds {images.dtype} images of shape {images.shape[1:]}, not uint8 84×84×3; nothing was imported"
        )
    for wordnet, its in sorted(numbers.items()):
        if wordnet not in SPLIT_OF:
            raise DataError(
                f"{path}: class {shown(wordnet)!r} is no class of miniImageNet (classes must be named by WordNet number); "
                "nothing was imported"
            )
        with expecting(path, "a pickle of miniImageNet"):
            index = np.asarray(its, dtype=np.int64).reshape(-1)
        outside = index[(index < 0) | (index >= len(images))]
        if len(outside):
            raise DataError(
                f"{path}: class {wordnet} names picture {outside[-1]} of {len(images)}; nothing was imported"
            )
        yield wordnet, torch.from_numpy(images[index]).permute(0, 3, 1, 2).contiguous()
