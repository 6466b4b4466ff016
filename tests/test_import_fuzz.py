"""Imports of pictures, fuzzed: layouts, modes, formats, archives, links and damage, in every combination Hypothesis thinks of.

An import gives what an independent reading by Pillow and numpy gives, or one sentence and nothing on disk.
"""

import io
import os
import posixpath
import tarfile
import tempfile
import unicodedata
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from package_fixtures import files_below, one_line
from PIL import Image, ImageOps

from mlbook.data import image_folder
from mlbook.data.layout import split_name
from mlbook.data.pools import SPLITS
from mlbook.errors import UserError

# -- pictures, and what they are ------------------------------------------------------------------------------------

KINDS = {  # the modes that each format can hold
    "png": ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"),
    "tif": ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F"),
    "jpg": ("L", "RGB", "CMYK"),
    "bmp": ("1", "L", "P", "RGB"),
    "gif": ("L", "P"),
    "webp": ("RGB", "RGBA"),
    "ppm": ("1", "L", "RGB", "I;16"),
}
FORMATS = {"jpg": "jpeg", "tif": "tiff"}
TURNED = ("png", "tif", "jpg", "webp")


@st.composite
def pictures(draw):
    """(ending, bytes) of a picture of any mode and format."""
    ending = draw(st.sampled_from(sorted(KINDS)))
    mode = draw(st.sampled_from(KINDS[ending]))
    width, height = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    g = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if mode == "1":
        image = Image.fromarray(g.random((height, width)) < 0.5)
    elif mode == "I;16":
        image = Image.fromarray(g.integers(0, 65536, (height, width), dtype=np.uint16))
    elif mode == "F":
        image = Image.fromarray(g.random((height, width), dtype=np.float32))
    elif mode == "P":
        image = Image.fromarray(g.integers(0, 256, (height, width, 3), dtype=np.uint8)).quantize(16)
    else:
        bands = [
            Image.fromarray(g.integers(0, 256, (height, width), dtype=np.uint8)) for _ in mode.strip("A")
        ]
        if mode.endswith("A"):  # of half-transparent pixels the rounding is Pillow's own
            bands.append(Image.fromarray(g.choice(np.array([0, 255], np.uint8), (height, width))))
        image = Image.merge(mode, bands)
    options = {"lossless": True} if ending == "webp" else {}
    if ending in TURNED and draw(st.booleans()):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(1, 8))
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, FORMATS.get(ending, ending), **options)
    return ending, file.getvalue()


def reading(content, size, grey):
    """What the picture is, read in another way than the package does: uint8 [C, size, size]."""
    with Image.open(io.BytesIO(content)) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            pixels = np.floor(np.array(image).astype(np.int64) * 255 / 65535 + 0.5)
        elif image.mode == "F":
            pixels = np.floor(np.array(image).astype(np.float64) * 255 + 0.5)
        elif image.mode in ("RGBA", "LA"):
            *colours, alpha = (np.array(band) for band in image.split())
            pixels = np.stack([np.where(alpha == 0, 255, band) for band in colours], -1).squeeze()
        else:
            pixels = np.array(image.convert("RGB"))
    height, width = np.array(image).shape[:2]
    pixels = pixels.astype(np.uint8).reshape(height, width, -1)
    image = Image.fromarray(pixels[..., 0]) if pixels.shape[2] == 1 else Image.fromarray(pixels)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    image = image.convert("L" if grey else "RGB")
    cut = Image.fromarray(np.array(image)[top : top + side, left : left + side])
    if (width, height) != (size, size):
        cut = cut.resize((size, size), Image.LANCZOS)
    return np.array(cut)[None] if grey else np.moveaxis(np.array(cut), 2, 0)


# -- layouts --------------------------------------------------------------------------------------------------------

LETTERS = st.sampled_from("abcXYZ019 _-.éß漢'\"\\")
NAMES = st.text(LETTERS, min_size=1, max_size=6).filter(
    lambda name: (
        not name.startswith(".")
        and not split_name(name)
        and not name.lower().endswith((".zip", ".tar", ".tgz"))
        and name.strip() == name
    )
)
WORDS = {
    "train": ["train", "Train", "training", "meta-train"],
    "validation": ["val", "valid", "VALIDATION", "dev", "metaval"],
    "test": ["test", "Testing", "meta_test"],
}
CLUTTER = [
    ".DS_Store",
    ".ipynb_checkpoints/0.png",
    "__MACOSX/a/0.png",
    "notes.txt",
    "photo.HEIC",
    "Thumbs.db",
    "README",
]


@dataclass
class Layout:
    """Files, where they are packed, and what is expected of them."""

    files: dict[str, bytes]
    classes: dict[tuple[str, str], list[bytes]]
    """{(split or "", class as it is below the split): contents}"""
    packing: str
    clutter: dict[str, bytes] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    damage: list[tuple[float, int]] = field(default_factory=list)
    """Bytes to change: where in the file, from 0 to 1, and to what."""
    cut: float = 1.0


def rarely(draw, value, most):
    """Whether a number from 0 to ``most`` is ``value``: one in so many, and not where Hypothesis makes an example simple."""
    return draw(st.integers(0, most)) == value


@st.composite
def layouts(draw):
    above = draw(st.lists(NAMES, max_size=2))
    own_splits = draw(st.booleans())
    depth = draw(st.integers(1, 2))
    n = {s: draw(st.integers(2, 3)) for s in SPLITS} if own_splits else {"": draw(st.integers(10, 11))}
    labels = draw(
        st.lists(
            st.lists(NAMES, min_size=depth, max_size=depth).map(lambda parts: "/".join(map(nfc, parts))),
            min_size=sum(n.values()),
            max_size=sum(n.values()),
            unique=True,
        )  # fmt: skip
    )
    words = {split: draw(st.sampled_from(its)) for split, its in WORDS.items()}
    pool = draw(st.lists(pictures(), min_size=4, max_size=8, unique=True))
    files, classes = {}, {}
    remaining = iter(labels)
    for split, count in n.items():
        for _ in range(count):
            label = next(remaining)
            folder = posixpath.join(*above, words.get(split, ""), label)
            its = draw(st.lists(st.sampled_from(pool), min_size=2, max_size=4, unique=not rarely(draw, 3, 3)))
            for i, (ending, content) in enumerate(its):
                ending = draw(st.sampled_from([ending, ending.upper()]))
                files[f"{folder}/{i}.{ending}"] = content
            classes[split, label] = [content for _, content in its]
    packings = [
        "folder",
        "zip",
        "tar",
        "tar.gz",
        "zip in folder",
        "zip in zip",
        "folder and its zip",
        "twice",
    ]
    clutter = {}
    for name in draw(st.lists(st.sampled_from(CLUTTER), max_size=3, unique=True)):
        folder = draw(st.sampled_from(["", *(posixpath.dirname(path) for path in files)]))
        clutter[posixpath.join(folder, name)] = b"nothing"
    damaged = rarely(draw, 1, 3)
    bytes_changed = st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4)
    damage = draw(bytes_changed) if damaged else []
    cut = draw(st.floats(0, 1)) if rarely(draw, 7, 7) else 1.0
    links = draw(st.lists(st.sampled_from(["up", "self", "nowhere"]), max_size=2, unique=True))
    return Layout(
        files, classes, draw(st.sampled_from(packings)), clutter, links, damage, cut
    )  # fmt: skip


def nfc(text):
    return unicodedata.normalize("NFC", text)


def packed(files, kind):
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=file, mode="w:gz" if kind == "tar.gz" else "w") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def write(root, layout):
    """Write the layout below ``root``; returns what is to be imported."""
    files = layout.files | layout.clutter
    kind = layout.packing
    if kind in ("zip", "tar", "tar.gz"):
        found = {f"set.{kind}": packed(files, kind)}
    elif kind == "zip in folder":
        found = {"deep/set.zip": packed(files, "zip")}
    elif kind == "zip in zip":
        found = {"set.zip": packed({"inner.zip": packed(files, "zip")}, "zip")}
    elif kind == "folder and its zip":
        found = {f"set/{name}": content for name, content in files.items()}
        found["set.zip"] = packed(layout.files, "zip")
    elif kind == "twice":
        found = {**files, "again.tar": packed(layout.files, "tar")}
    else:
        found = files
    hurt = sorted(found)[-1]  # an archive where there is one, beside a folder of small letters at least
    content = bytearray(found[hurt][: max(1, round(layout.cut * len(found[hurt])))])
    for where, value in layout.damage:
        content[int(where * len(content))] = value
    found[hurt] = bytes(content)
    for name, data in found.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for name in layout.links:
        (root / name).symlink_to({"up": "..", "self": "self", "nowhere": "nowhere.png"}[name])
    return root / next(iter(found)) if kind in ("zip", "tar", "tar.gz", "zip in zip") else root


def expected(layout, size, grey):
    """{split or "": {class: its pictures}}, where a picture that is twice in a class is one."""
    found = defaultdict(dict)
    for (split, label), contents in layout.classes.items():
        found[split][label] = {reading(content, size, grey).tobytes() for content in contents}
    return found


def without_what_all_share(labels):
    parts = [label.split("/") for label in labels]
    shared = len(parts[0]) > 1 and len({its[0] for its in parts}) == 1
    return {"/".join(its): "/".join(its[1:] if shared else its) for its in parts}


@fuzzed
@given(layout=layouts(), size=st.integers(16, 20), grey=st.booleans())
def test_an_import_is_what_the_pictures_are_or_one_sentence(layout, size, grey):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = write(root / "set", layout)
        with mock.patch.dict(os.environ, {"MLBOOK_DATA": str(root / "data")}):
            try:
                image_folder.import_from("fuzzed", source, size=size, grey=grey)
            except UserError as error:
                one_line(error)
                assert not files_below(root / "data")
                assert layout.damage or layout.cut < 1 or impossible(layout, size, grey), error
                return
            pools = {split: image_folder.load("fuzzed", split) for split in SPLITS}
    if layout.damage or layout.cut < 1:  # what a damaged picture looks like, nobody knows
        return
    wanted = expected(layout, size, grey)
    short = without_what_all_share([label for its in wanted.values() for label in its])
    for split in SPLITS if "" not in wanted else [""]:
        found = {}
        for pool in pools.values() if split == "" else [pools[split]]:
            counts = pool.counts if pool.counts is not None else [pool.n_examples] * len(pool.images)
            for name, images, n in zip(pool.names, pool.images, counts, strict=True):
                assert name not in found
                found[name] = [image.numpy().tobytes() for image in images[:n]]
        assert found.keys() == {short[label] for label in wanted[split]}
        for label, its in wanted[split].items():
            assert len(found[short[label]]) == len(its) and set(found[short[label]]) == its


def impossible(layout, size, grey):
    """Whether a class has but one picture, so that the set must be refused."""
    return any(len(its) < 2 for classes in expected(layout, size, grey).values() for its in classes.values())
