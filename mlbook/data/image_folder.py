"""Any folder of class folders as a few-shot benchmark, with the commands of the others.

python -m mlbook data import-images birds --from pictures/ --size 84
python -m mlbook train maml-birds-5w1s
python -m mlbook evaluate runs/maml-birds-5w1s-quick-seed0/checkpoint.safetensors
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.data import own_sets
from mlbook.data.files import PassedOver, files_in, listed, shown
from mlbook.data.layout import Parts, Place, places, short_names
from mlbook.data.own_sets import fewest, folder, imported, load, shape
from mlbook.data.pictures import square
from mlbook.data.pools import SPLITS, ClassPool, cut
from mlbook.data.progress import ProgressLine
from mlbook.data.tensor_file import fingerprint
from mlbook.errors import DataError, UserError

__all__ = [
    "ENDINGS",
    "LARGEST",
    "Pictures",
    "fewest",
    "folder",
    "import_from",
    "imported",
    "load",
    "read",
    "shape",
]

ENDINGS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
LARGEST = 1000
"""Pictures of a class that are kept; of more, the first ones by name."""


@dataclass
class Pictures:
    """What was read of a folder or archive, before anything is written."""

    name: str
    splits: dict[str, dict[str, Tensor]]
    """{split: {class: uint8 [n, C, size, size]}}"""
    about: dict
    """What the header will say."""
    how: str
    """Where the splits are from."""
    notes: list[str] = field(default_factory=list)
    """What was passed over, and what is odd."""

    def lines(self) -> list[str]:
        """The set in words: splits, classes, counts, and what was passed over."""
        classes = [its for split in self.splits.values() for its in split.values()]
        total = sum(len(its) for its in classes)
        first = f"{self.name}: {total:,} pictures of {len(classes):,} classes; {self.how}"
        return [first, *own_sets.described(self.splits), *(f"  {note}" for note in self.notes)]

    def pools(self) -> dict[str, ClassPool]:
        """The set in memory: {split: pool}."""
        return {split: ClassPool.of_classes(its, split) for split, its in self.splits.items()}

    def save(self) -> dict[str, int]:
        """Write the set; returns classes per split. ``UserError`` where it cannot be written, and the old one stays."""
        own_sets.save(self.name, self.splits, self.about)
        return {split: len(its) for split, its in self.splits.items()}


def import_from(name: str, source: Path, *, size: int = 84, grey: bool = False) -> dict[str, int]:
    """``read``, and write what was read; returns classes per split. All or nothing."""
    return read(name, source, size=size, grey=grey).save()


def read(name: str, source: Path, *, size: int = 84, grey: bool = False, progress: bool = False) -> Pictures:
    """Class folders of pictures (``ENDINGS``, in any case) from a folder or archive, and from archives in it. Writes nothing.

    Splits and classes are read from the paths as ``layout`` says; where no folder is called train, val or test, the
    classes are shuffled with a fixed seed and cut 64 : 16 : 20. Pictures are cut to their central square and resized to
    size × size, in colour or grey. Classes may have different numbers of pictures; of pictures of a class that are then the
    same to the pixel, one is taken. progress: draw a line with the time left. Raises ``UserError`` on a bad name or size,
    ``DataError`` on unreadable or too few pictures, or a layout that can be read in two ways.
    """
    own_sets.check_name(name)
    if not 16 <= size <= 512:
        raise UserError(f"--size must be from 16 to 512 pixels, got {size}")
    passed = PassedOver()
    found = _pictures(source, passed)
    where = dict(zip(found, places(list(found.items())), strict=True))
    if not where:
        notes = "; ".join(passed.lines())
        raise DataError(
            f"{shown(source)} holds no pictures in class folders{f' ({notes})' if notes else ''}; "
            "nothing was imported"
        )
    left = set(where)
    reading = _Reading(size, grey, passed, where)
    line = ProgressLine(len(where), name) if progress else None
    try:
        for file in files_in(source, PassedOver()):
            if file.path in where:
                left.discard(file.path)
                reading.take(
                    file.path, file.path[: file.archives[-1] + 1] if file.archives else (), file.read
                )
                if line is not None and left:  # of a short reading, nothing is drawn
                    line(len(where) - len(left))
    finally:
        if line is not None:
            line.close()
    if left:
        raise DataError(
            f"{listed(sorted('/'.join(path) for path in left), 3)} vanished from {shown(source)} while it was read; "
            "nothing was imported"
        )
    return _arranged(name, source, reading, passed)


def _pictures(source: Path, passed: PassedOver) -> dict[Parts, tuple[int, ...]]:
    """Paths of all pictures, and which parts of them are archives. A folder without any is named."""
    found: dict[Parts, tuple[int, ...]] = {}
    others: dict[Parts, set[str]] = defaultdict(set)
    for file in files_in(source, passed):
        name = file.path[-1]
        if name.lower().endswith(ENDINGS):
            found[file.path] = file.archives
        else:
            ending = "." + name.lower().rsplit(".", 1)[-1] if "." in name else "no ending"
            passed.add(f"files that are no pictures it can read, {ending}", "/".join(file.path))
            others[file.path[:-1]].add(ending)
    holding = {path[:n] for path in found for n in range(len(path))}
    for folders, endings in others.items():
        if folders and folders not in holding:
            passed.add("whole folders", f"{'/'.join(folders)} (only {', '.join(sorted(endings))})")
    return found


Key = tuple[str | None, Parts]
"""A class: its split, where the path names one, and its folders."""


class _Held(NamedTuple):
    """A picture that was taken, and the archive it lies in."""

    place: Place
    archive: Parts


class _Reading:
    """Pictures that were taken, by class, and what is known of them."""

    def __init__(self, size: int, grey: bool, passed: PassedOver, where: dict[Parts, Place]) -> None:
        self.size, self.grey, self.passed, self.where = size, grey, passed, where
        self.chosen = _first_by_name(where, passed)
        self.classes: dict[Key, dict[str, Tensor]] = defaultdict(dict)
        self.pixels: dict[bytes, tuple[str, Tensor]] = {}
        """By the digest of a file: that of its picture, and the picture, so that equal files are decoded once."""
        self.holders: dict[str, dict[Key, _Held]] = defaultdict(dict)
        """By the digest of a picture: the classes that hold it."""
        self.copies: dict[Key, dict[str, Key]] = defaultdict(dict)
        """Pictures from archives that look like files of another class, which lie elsewhere."""

    def take(self, path: Parts, archive: Parts, content: Callable[[], bytes]) -> None:
        """One picture: kept, or passed over because its class has it. archive: the one it lies in, or ()."""
        place = self.where[path]
        key = (place.split, place.label)
        if place.path not in self.chosen[key]:
            return
        digest, image = self._decoded(content(), "/".join(path))
        holders = self.holders[digest]
        if key in holders:
            self.passed.add("pictures that are the same as another one of their class", "/".join(path))
            return
        if place.path in self.classes[key]:
            self.passed.add("other pictures of the same name in an archive", "/".join(path))
            return
        for other, held in holders.items():
            same = (held.place.label[-1], held.place.name) == (place.label[-1], place.name)
            if archive and same and held.archive != archive:
                self.copies[key].setdefault(place.path, other)
        holders[key] = _Held(place, archive)
        self.classes[key][place.path] = image

    def without_copies(self) -> None:
        """Leave out classes that an archive only repeats, under another path. ``DataError`` where it repeats a part of one."""
        for key, its in self.copies.items():
            own, others = key[1], set(its.values())
            other = next(iter(others))
            if len(its) == len(self.classes[key]) and len(others) == 1:
                for path in self.classes.pop(key):
                    self.passed.add("copies in an archive of pictures that were read", path)
                for holders in self.holders.values():
                    holders.pop(key, None)
            elif own[-len(other[1]) :] == other[1] or other[1][-len(own) :] == own:
                raise DataError(
                    f"{shown(next(iter(its)))} is a copy of a picture of class {shown('/'.join(other[1]))}, but others of class "
                    f"{shown('/'.join(own))} are no copies; remove the archive or its unpacked folder; nothing was imported"
                )

    def _decoded(self, content: bytes, name: str) -> tuple[str, Tensor]:
        known = hashlib.sha256(content).digest()
        if known not in self.pixels:
            image = square(content, name, self.size, self.grey).contiguous()
            self.pixels[known] = fingerprint(image), image
        return self.pixels[known]


def _first_by_name(where: dict[Parts, Place], passed: PassedOver) -> dict[Key, set[str]]:
    """The paths of the first ``LARGEST`` pictures of every class."""
    paths: dict[Key, set[str]] = defaultdict(set)
    for place in where.values():
        paths[place.split, place.label].add(place.path)
    for key, its in paths.items():
        if len(its) > LARGEST:
            paths[key] = set(heapq.nsmallest(LARGEST, its))
            for path in its - paths[key]:
                passed.add(f"pictures beyond the first {LARGEST:,} of a class", path)
    return paths


def _arranged(name: str, source: Path, reading: _Reading, passed: PassedOver) -> Pictures:
    """The classes in their splits, checked."""
    reading.without_copies()
    classes = reading.classes
    labels = [label for _, label in classes]
    if twice := [label for label, n in Counter(labels).items() if n > 1]:
        raise DataError(
            f"class {shown('/'.join(twice[0]))} lies in two splits; meta-test classes must be new; nothing was imported"
        )
    names = short_names(labels)
    if len(set(names.values())) < len(names):
        raise DataError(f"two classes of {shown(source)} have the same name; nothing was imported")
    by_folder = any(split is not None for split, _ in classes)
    sorted_labels = sorted(labels, key=lambda label: names[label])
    split_of = {label: split for split, label in classes}
    if not by_folder:
        split_of = {label: split for split, its in cut(sorted_labels).items() for label in its}
    splits: dict[str, dict[str, Tensor]] = {split: {} for split in SPLITS}
    stacked = {label: torch.stack([its[path] for path in sorted(its)]) for (_, label), its in classes.items()}
    for label in sorted_labels:
        splits[split_of[label]][names[label]] = stacked[label]
    how = (
        "the splits are the folders of these names"
        if by_folder
        else "no folder names a split, so the classes were shuffled and cut 64 : 16 : 20"
    )
    notes = passed.lines()
    if passed.followed:
        notes.append(f"links to files outside {shown(source)} that were followed: {passed.followed}")
    notes += _shared(reading, split_of, names)
    try:
        own_sets.check_classes(splits, shown(source))
    except DataError as error:
        raise DataError(f"{error} ({'; '.join([how, *notes])})") from None
    about = {"channels": 1 if reading.grey else 3, "size": reading.size}
    return Pictures(name, splits, about, how, notes)


def _shared(reading: _Reading, split_of: dict[Parts, str], names: dict[Parts, str]) -> list[str]:
    """Pictures that are the same in different classes, in words."""
    groups = [[label for _, label in its] for its in reading.holders.values() if len(its) > 1]
    if not groups:
        return []
    apart = sum(len({split_of[label] for label in its}) > 1 for its in groups)
    example = listed(sorted(names[label] for label in groups[0]), 3)
    return [
        f"note: pictures that are the same in different classes: {len(groups)}, in different splits: {apart} ({example})"
    ]
