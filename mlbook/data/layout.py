"""Splits and classes from the paths of pictures: which folder is a split, which is a class, and which only holds the others."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from mlbook.data.files import ARCHIVES, shown
from mlbook.errors import DataError

NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Folders (in any case, also with "meta" before it: meta-train) that are read as splits."""
HOW = "the layout is CLASS/PICTURE, or train|val|test/CLASS/PICTURE, where CLASS may be several folders; nothing was imported"

Parts = tuple[str, ...]


class Place(NamedTuple):
    """Where a picture belongs."""

    split: str | None
    """``train``, ``validation`` or ``test``; None where the path names none."""
    label: Parts
    """The folders of its class, below the split."""
    name: str
    above: Parts
    """The folders above the class, with the split's."""

    @property
    def path(self) -> str:
        """The whole path, with archives read as folders or left out."""
        return "/".join((*self.above, *self.label, self.name))


def split_name(folder: str) -> str | None:
    """The split that a folder's name stands for, or None."""
    return NAMES.get(re.sub(r"^meta[-_ ]?", "", folder.casefold()))


def stem(archive: str) -> str:
    """An archive's name without its ending."""
    ending = max((its for its in ARCHIVES if archive.lower().endswith(its)), key=len, default="")
    return archive[: len(archive) - len(ending)]


@dataclass(frozen=True)
class _Archive:
    """What lies in one archive: the first folders, and whether there are pictures beside them."""

    tops: set[str]
    loose: list[bool]


def places(paths: list[tuple[Parts, tuple[int, ...]]]) -> list[Place]:
    """The place of every picture, from its path and the positions of archives in it.

    An archive is read like a folder of its name where that is a split's, where a folder of that name lies beside it (its content,
    unpacked), or where pictures lie in it without a folder; otherwise as if its content lay beside it. Raises ``DataError`` where
    the layout can be read in two ways, with a sentence that shows one picture of each.
    """
    folders = {parts[:n] for parts, archives in paths if not archives for n in range(1, len(parts))}
    found = defaultdict(lambda: _Archive(set(), [False]))
    for parts, archives in paths:
        for i in archives:
            its = found[parts[: i + 1]]
            its.tops.add(parts[i + 1])
            its.loose[0] |= i + 2 == len(parts)
    result = []
    for parts, archives in paths:
        plain: list[str] = []
        skip = -1
        for i, part in enumerate(parts):
            if i == skip:
                continue
            if i not in archives:
                plain.append(part)
                continue
            own, its = stem(part), found[parts[: i + 1]]
            if split_name(own) or (*parts[:i], own) in folders or its.loose[0]:
                plain.append(own)
                if its.tops == {own} and not its.loose[0]:
                    skip = i + 1  # birds.zip holds birds/, and nothing else
        result.append(_place(tuple(unicodedata.normalize("NFC", part) for part in plain)))
    _check(result)
    return result


def _place(parts: Parts) -> Place:
    folders, name = parts[:-1], parts[-1]
    named = [i for i, folder in enumerate(folders) if split_name(folder)]
    splits = {split_name(folders[i]) for i in named}
    if len(splits) > 1:
        both = " and ".join(shown(folders[i]) for i in named)
        raise DataError(f"{shown('/'.join(parts))} lies in the splits {both} at once; {HOW}")
    below = named[-1] + 1 if named else 0
    return Place(splits.pop() if named else None, folders[below:], name, folders[:below])


def _check(found: list[Place]) -> None:
    placed = [place for place in found if place.split is not None]
    loose = [place for place in found if place.split is None]
    if placed and loose:
        folder = placed[0].above[-1]
        raise DataError(
            f"some class folders lie in train, val or test and others do not: {shown(placed[0].path)} was read as in the split "
            f"{shown(folder)}, {shown(loose[0].path)} as in none; rename the folder {shown(folder)} if it is a class; {HOW}"
        )
    for place in found:
        if not place.label:
            where = f"directly in the split {shown(place.above[-1])}" if place.above else "in no class folder"
            raise DataError(f"{shown(place.path)} lies {where}; {HOW}")
    example = {(*place.above, *place.label): place for place in found}
    for folders, place in example.items():
        for n in range(len(place.above) + 1, len(folders)):
            if other := example.get(folders[:n]):
                raise DataError(
                    f"{shown('/'.join(folders[:n]))} holds pictures itself ({shown(other.name)}) and in a folder inside "
                    f"({shown('/'.join(folders[n:]))}/{shown(place.name)}), so it cannot be told which is the class; {HOW}"
                )
    of_class: dict[tuple[str | None, Parts], Place] = {}
    for place in found:
        other = of_class.setdefault((place.split, place.label), place)
        if other.above != place.above:
            raise DataError(
                f"class {shown('/'.join(place.label))} lies in {shown('/'.join(other.above))} and in "
                f"{shown('/'.join(place.above))}; {HOW}"
            )


def short_names(labels: list[Parts]) -> dict[Parts, str]:
    """A name per class: its folders, without those that all classes share."""
    shared = 0
    while labels and all(len(its) > shared + 1 and its[shared] == labels[0][shared] for its in labels):
        shared += 1
    return {its: shown("/".join(its[shared:])) for its in labels}
