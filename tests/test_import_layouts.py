"""Folders and archives of pictures in the layouts they come in: what is a split, a class, passed over, and why."""

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from package_fixtures import files_below, one_line
from PIL import Image

from mlbook import cli
from mlbook.data import files, image_folder, own_sets, pool_files
from mlbook.data.pools import SPLITS
from mlbook.errors import DataError, UserError

SIZE = 16


def content(number, ending="png"):
    """A picture of which no other number has the pixels."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "jpeg", "tif": "tiff"}.get(ending, ending))
    return file.getvalue()


def tree(paths, first=0):
    """{path: content}: other pixels in every file."""
    return {path: content(first + i, path.rsplit(".", 1)[-1].lower()) for i, path in enumerate(paths)}


def classes(names, pictures=3, prefix="", ending="png", first=0):
    return tree([f"{prefix}{name}/{i}.{ending}" for name in names for i in range(pictures)], first)


def write(root, its):
    for path, data in its.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def zipped(path, its):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in its.items():
            archive.writestr(name, data)
    return path


def tarred(path, its):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in its.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


LETTERS = list("abcdefghijkl")
SPLIT_CLASSES = {"train": ["a", "b", "c"], "val": ["d", "e"], "test": ["f", "g"]}


def in_splits(prefix="", below="", names=None):
    its, first = {}, 0
    for split, labels in SPLIT_CLASSES.items():
        folder = (names or {}).get(split, split)
        its |= classes(labels, prefix=f"{prefix}{folder}/{below}", first=first)
        first += 100
    return its


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))
    return tmp_path


def read(source):
    return image_folder.read("birds", source, size=SIZE)


def found(pictures):
    """{split: {class: count}}"""
    return {s: {n: len(x) for n, x in its.items()} for s, its in pictures.splits.items()}


def all_classes(pictures):
    return {name: len(x) for its in pictures.splits.values() for name, x in its.items()}


def said(pictures):
    return "\n".join(pictures.lines())


def refused(source):
    with pytest.raises(UserError) as error:
        read(source)
    return one_line(error.value)


THREE = {
    "train": {"a": 3, "b": 3, "c": 3},
    "validation": {"d": 3, "e": 3},
    "test": {"f": 3, "g": 3},
}


# -- a folder that holds its own archive ----------------------------------------------------------------------------


def beside(root, its):
    write(root / "birds", its)
    zipped(root / "birds.zip", its)


def beside_with_its_folder(root, its):
    write(root / "birds", its)
    tarred(root / "birds.tar", {f"birds/{name}": data for name, data in its.items()})


def under_another_name(root, its):
    write(root / "images", its)
    zipped(root / "download.zip", {f"CUB/images/{name}": data for name, data in its.items()})


def two_archives(root, its):
    zipped(root / "birds.zip", its)
    tarred(root / "again.tar", {f"birds/{name}": data for name, data in its.items()})


def packed_twice(root, its):
    inner = zipped(root / "inner.zip", its)
    write(root, its)
    zipped(root / "outer.zip", {"inner.zip": inner.read_bytes()})
    inner.unlink()


@pytest.mark.parametrize(
    "pack", [beside, beside_with_its_folder, under_another_name, two_archives, packed_twice]
)
def test_a_picture_that_is_there_twice_is_taken_once(data, pack):
    pack(data / "set", classes(LETTERS))
    pictures = read(data / "set")
    assert all_classes(pictures) == dict.fromkeys(LETTERS, 3)
    assert "passed over 36: " in said(pictures)


def test_the_unpacked_splits_of_an_archive_are_taken_once(data):
    write(data / "set", in_splits("birds/"))
    zipped(data / "set" / "birds.zip", in_splits("birds/"))
    assert found(read(data / "set")) == THREE


def test_equal_pictures_of_a_class_are_taken_once_whatever_their_name_and_format(data):
    its = classes(LETTERS)
    its["a/copy.png"] = its["a/0.png"]
    its["b/copy.bmp"] = content(3, "bmp")  # the pixels of b/0.png
    pictures = read(write(data / "set", its))
    assert all_classes(pictures) == dict.fromkeys(LETTERS, 3)
    assert (
        "passed over 2: pictures that are the same as another one of their class (a/copy.png, b/copy.bmp)"
        in said(pictures)
    )


def test_equal_pictures_of_different_classes_are_counted(data):
    its = in_splits()
    its["train/b/0.png"] = its["train/a/0.png"]
    its["test/f/1.png"] = its["train/a/1.png"]
    pictures = read(write(data / "set", its))
    assert found(pictures) == THREE
    assert "note: pictures that are the same in different classes: 2, in different splits: 1 (a, " in said(
        pictures
    )


def test_a_class_of_copies_only_is_refused_with_the_reason(data):
    its = classes(LETTERS)
    its["a/1.png"] = its["a/2.png"] = its["a/0.png"]
    line = refused(write(data / "set", its))
    assert (
        "class a has 1 picture" in line
        and "2: pictures that are the same as another one of their class" in line
    )


def test_an_archive_that_repeats_a_part_and_adds_to_it_is_refused(data):
    its = classes(LETTERS)
    write(data / "set" / "images", its)
    zipped(
        data / "set" / "more.zip", {f"CUB/images/{n}": d for n, d in (its | tree(["a/9.png"], 900)).items()}
    )
    line = refused(data / "set")
    assert (
        "is a copy of a picture of class images/a" in line
        and "remove the archive or its unpacked folder" in line
    )


def test_another_picture_of_the_same_path_in_an_archive_gives_way_to_the_folder(data):
    write(data / "set", classes(LETTERS))
    zipped(data / "set" / "old.zip", tree(["a/0.png"], 900))
    pictures = read(data / "set")
    assert all_classes(pictures) == dict.fromkeys(LETTERS, 3)
    assert "1: other pictures of the same name in an archive" in said(pictures)


ALPHABETS = ("Greek", "Latin", "Thai", "Tamil", "Hebrew", "Korean")


def test_equal_pictures_of_equal_names_in_different_classes_of_archives_stay(data):
    its = classes(["x/_", "y/_"], first=900)
    its["y/_/1.png"] = its["x/_/1.png"]
    wanted = {**dict.fromkeys(LETTERS, 3), "x/_": 3, "y/_": 3}
    assert all_classes(read(zipped(data / "one.zip", classes(LETTERS) | its))) == wanted
    for kind in "xy":
        zipped(data / "set" / f"{kind}.zip", {n: d for n, d in its.items() if n.startswith(kind)})
    write(data / "set", classes(LETTERS))
    pictures = read(data / "set")
    assert all_classes(
        pictures
    ) == wanted and "the same in different classes: 1, in different splits" in said(pictures)


# -- splits and classes ---------------------------------------------------------------------------------------------


def zips_of_splits(root, inner=""):
    for split in SPLIT_CLASSES:
        its = {n: d for n, d in in_splits().items() if n.startswith(split + "/")}
        zipped(
            root / f"{split}.zip", {n.replace(f"{split}/", inner.format(split), 1): d for n, d in its.items()}
        )
    return root


LAYOUTS = {
    "split/class": lambda root: write(root, in_splits()),
    "deep above": lambda root: write(root, in_splits("dataset/images/")),
    "a folder between": lambda root: write(root, in_splits(below="images/")),
    "other words": lambda root: write(
        root, in_splits(names={"train": "Training", "val": "dev", "test": "TESTING"})
    ),
    "meta": lambda root: write(
        root, in_splits(names={"train": "meta-train", "val": "meta_valid", "test": "metatest"})
    ),
    "zips of splits": lambda root: zips_of_splits(root),
    "zips of splits with the split inside": lambda root: zips_of_splits(root, "{}/"),
    "zips of splits in a folder": lambda root: zips_of_splits(root / "deep" / "er"),
    "one zip": lambda root: zipped(root / "all.zip", in_splits("mini/")).parent,
    "the zip itself": lambda root: zipped(root / "all.zip", in_splits("mini/")),
    "a zip of zips": lambda root: zipped(
        root.parent / "outer.zip", {p.name: p.read_bytes() for p in zips_of_splits(root).iterdir()}
    ),
    "a tar of zips": lambda root: tarred(
        root.parent / "outer.tar", {p.name: p.read_bytes() for p in zips_of_splits(root).iterdir()}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_are_found_anywhere_in_the_path(data, layout):
    pictures = read(LAYOUTS[layout](data / "set"))
    assert found(pictures) == THREE and "the splits are the folders" in said(pictures)


def test_a_class_is_its_whole_path_below_the_split(data):
    its = {}
    for split, groups in {"train": ["Greek", "Latin"], "val": ["Thai"], "test": ["Tamil"]}.items():
        for group in groups:
            its |= classes(
                ["character01", "character02"], prefix=f"{split}/{group}/", first=10_000 * len(its)
            )
    pictures = read(write(data / "set", its))
    names = {split: list(x) for split, x in pictures.splits.items()}
    assert names["train"] == [f"{g}/character0{i}" for g in ("Greek", "Latin") for i in (1, 2)]
    assert names["test"] == ["Tamil/character01", "Tamil/character02"]
    assert all(n == 3 for n in all_classes(pictures).values())


@pytest.mark.parametrize("prefix", ["", "omniglot/", "omniglot/python/images/"])
def test_what_all_classes_share_is_no_part_of_their_names(data, prefix):
    its = {}
    for alphabet in ALPHABETS:
        its |= classes(["character01", "character02"], prefix=f"{prefix}{alphabet}/", first=10_000 * len(its))
    assert sorted(all_classes(read(write(data / "set", its)))) == sorted(
        f"{alphabet}/character0{i}" for alphabet in ALPHABETS for i in (1, 2)
    )


def test_archives_of_classes_are_classes_where_their_pictures_lie_loose(data):
    for letter in LETTERS:
        zipped(
            data / "set" / f"{letter}.zip", tree([f"{i}.png" for i in range(3)], 100 * LETTERS.index(letter))
        )
    assert all_classes(read(data / "set")) == dict.fromkeys(LETTERS, 3)


def test_a_class_in_two_archives_is_one_class(data):
    zipped(data / "set" / "part1.zip", classes(LETTERS))
    zipped(data / "set" / "part2.zip", tree([f"{letter}/9.png" for letter in LETTERS], 900))
    assert all_classes(read(data / "set")) == dict.fromkeys(LETTERS, 4)


def test_names_in_two_forms_of_unicode_are_one_class(data):
    its = classes(LETTERS) | tree(["\u00e9/0.png", "\u00e9/1.png"], 700)
    write(data / "set", its)
    zipped(data / "set" / "mac.zip", tree(["e\u0301/2.png"], 800))
    assert all_classes(read(data / "set"))["\u00e9"] == 3


def splits_by_one_more_class(root):
    write(root, classes([*LETTERS, "test"]))
    return "test/0.png was read as in the split test, a/0.png as in none; rename the folder test if it is a class"


def half_in_splits(root):
    write(root, in_splits() | classes(["x", "y"], first=900))
    return "test/f/0.png was read as in the split test, x/0.png as in none"


def both_levels(root):
    write(root, classes(LETTERS) | tree(["a/young/0.png", "a/young/1.png"], 900))
    return "a holds pictures itself (2.png) and in a folder inside (young/1.png)"


def both_levels_in_a_split(root):
    write(root, in_splits() | tree(["train/a/old/0.png"], 900))
    return "train/a holds pictures itself (2.png) and in a folder inside (old/0.png)"


def loose(root):
    write(root, classes(LETTERS) | tree(["alone.png"], 900))
    return "alone.png lies in no class folder"


def loose_in_a_split(root):
    write(root, in_splits() | tree(["val/alone.png"], 900))
    return "val/alone.png lies directly in the split val"


def splits_below_classes(root):
    write(root, classes(["train", "test"], prefix="a/") | classes(["train", "test"], prefix="b/", first=90))
    return "lies directly in the split t"


def a_split_in_a_split(root):
    write(root, in_splits() | tree(["train/a/test/0.png"], 900))
    return "train/a/test/0.png lies in the splits train and test at once"


def a_class_in_two_places(root):
    write(root, in_splits("one/") | tree(["two/train/a/7.png", "two/train/a/8.png"], 900))
    return "class a lies in one/train and in two/train"


def a_class_in_two_splits(root):
    write(root, in_splits() | classes(["a"], prefix="test/", first=900))
    return "class a lies in two splits"


AMBIGUOUS = [
    splits_by_one_more_class, half_in_splits, both_levels, both_levels_in_a_split, loose, loose_in_a_split,
    splits_below_classes, a_split_in_a_split, a_class_in_two_places, a_class_in_two_splits,
]  # fmt: skip


@pytest.mark.parametrize("layout", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_with_how_it_was_read(data, layout, capsys):
    says = layout(data / "set")
    assert cli.main(["data", "import-images", "birds", "--from", str(data / "set")]) == 2
    line = one_line(capsys.readouterr().err)
    assert says in line and "nothing was imported" in line, line
    assert not (data / "data").exists()


def test_splits_that_are_not_there_are_said(data):
    its = {name: content for name, content in in_splits().items() if name.startswith("test/")}
    line = refused(write(data / "set", its))
    assert "gives 0 meta-train classes" in line and "the splits are the folders of these names" in line


# -- what is passed over --------------------------------------------------------------------------------------------

HIDDEN = [
    ".ipynb_checkpoints/0.png",
    "__MACOSX/a/0.png",
    "a/._0.png",
    "a/@eaDir/0.png",
    ".git/x/0.png",
    "a/Thumbs.db",
]


@pytest.mark.parametrize(
    "pack",
    [write, lambda root, its: zipped(root / "x.zip", its), lambda root, its: tarred(root / "x.tar", its)],
)
def test_hidden_folders_and_files_are_no_classes(data, pack):
    pack(data / "set", classes(LETTERS) | {name: b"not a picture" for name in HIDDEN})
    pictures = read(data / "set")
    assert all_classes(pictures) == dict.fromkeys(LETTERS, 3)
    assert "passed over 6: hidden files or folders" in said(pictures)


def test_other_endings_are_counted_and_a_class_of_them_is_named(data):
    its = classes(LETTERS, ending="JPG") | {
        "heron/1.HEIC": b"",
        "heron/2.heic": b"",
        "a/notes.txt": b"",
        "LICENSE": b"",
    }
    pictures = read(write(data / "set", its))
    assert all_classes(pictures) == dict.fromkeys(LETTERS, 3)
    text = said(pictures)
    assert "2: files that are no pictures it can read, .heic (heron/1.HEIC, heron/2.heic)" in text
    assert "1: files that are no pictures it can read, .txt (a/notes.txt)" in text
    assert "1: files that are no pictures it can read, no ending (LICENSE)" in text
    assert "passed over 1: whole folders (heron (only .heic))" in text
    zipped(data / "all.zip", its)
    assert "1: whole folders (heron (only .heic))" in said(read(data / "all.zip"))


def test_nothing_but_other_endings_says_what_was_there(data):
    assert "2: files that are no pictures it can read, .avif" in refused(
        write(data / "set", {"a/1.avif": b"", "b/2.avif": b""})
    )


@pytest.mark.parametrize(
    "pack", [write, lambda root, its: tarred(root / "x.tar", dict(reversed(its.items())))]
)
def test_of_a_large_class_the_first_ones_by_name_are_taken(data, pack, monkeypatch):
    monkeypatch.setattr(image_folder, "LARGEST", 4)
    its = classes(LETTERS) | tree([f"m/{i}.png" for i in range(7)], 900)
    pack(data / "set", its)
    pictures = read(data / "set")
    assert all_classes(pictures)["m"] == 4
    assert "passed over 3: pictures beyond the first 4 of a class (m/4.png, m/5.png, m/6.png)" in said(
        pictures
    )
    kept = next(x["m"] for x in pictures.splits.values() if "m" in x)
    for i in range(4):
        pixels = np.array(Image.open(io.BytesIO(its[f"m/{i}.png"])))
        assert np.array_equal(kept[i].permute(1, 2, 0).numpy(), pixels)


# -- links ----------------------------------------------------------------------------------------------------------


def test_links_inside_the_folder_are_followed(data):
    root = write(data / "set", classes(LETTERS))
    write(root / "a", {".store/9.png": content(900)})
    (root / "z").symlink_to("b", target_is_directory=True)
    (root / "a" / "link.png").symlink_to(".store/9.png")
    pictures = read(root)
    assert all_classes(pictures) == {**dict.fromkeys(LETTERS, 3), "a": 4, "z": 3}
    assert "the same in different classes: 3, in different splits" in said(pictures)


def test_links_in_a_circle_to_nothing_and_outside_are_passed_over(data):
    root = write(data / "set", classes(LETTERS))
    write(data / "elsewhere", {"y/1.png": content(901), "y/2.png": content(902)})
    (root / "a" / "up").symlink_to("..", target_is_directory=True)
    (root / "self").symlink_to("self")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "outside").symlink_to(data / "elsewhere", target_is_directory=True)
    (root / "b" / "9.png").symlink_to(data / "elsewhere" / "y" / "1.png")
    pictures = read(root)
    assert all_classes(pictures) == {**dict.fromkeys(LETTERS, 3), "b": 4}
    text = said(pictures)
    assert "2: links in a circle (a/up, self)" in text and "1: links to nothing (gone.png)" in text
    assert "1: links to folders outside (outside)" in text and "that were followed: 1" in text


def test_folders_that_link_into_each_other_come_to_an_end(data):
    root = write(data / "set", classes(LETTERS))
    for one in LETTERS[:6]:
        for other in LETTERS[:6]:
            (root / "links" / one).mkdir(parents=True, exist_ok=True)
            (root / "links" / one / other).symlink_to(f"../../links/{other}", target_is_directory=True)
    assert "links in a circle" in said(read(root))


def test_links_in_archives(data):
    (data / "set").mkdir()
    with tarfile.open(data / "set" / "x.tar", "w") as archive:
        for name, its in classes(LETTERS).items():
            info = tarfile.TarInfo(name)
            info.size = len(its)
            archive.addfile(info, io.BytesIO(its))
        for name, kind, target in (
            ("m/0.png", tarfile.LNKTYPE, "a/0.png"), ("m/1.png", tarfile.SYMTYPE, "../b/0.png"),
            ("n/0.png", tarfile.SYMTYPE, "1.png"), ("n/1.png", tarfile.SYMTYPE, "0.png"),
            ("n/2.png", tarfile.SYMTYPE, "/etc/passwd"), ("n/3.png", tarfile.CHRTYPE, ""), ("n/4.png", tarfile.FIFOTYPE, ""),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    pictures = read(data / "set")
    assert all_classes(pictures) == {**dict.fromkeys(LETTERS, 3), "m": 2}
    assert "passed over 5: links or devices in archives" in said(pictures)
    with zipfile.ZipFile(data / "links.zip", "w") as archive:
        for name, its in classes(LETTERS).items():
            archive.writestr(name, its)
        info = zipfile.ZipInfo("a/link.png")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "0.png")
    assert "passed over 1: links or devices in archives (a/link.png)" in said(read(data / "links.zip"))


# -- files and archives that cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_odd_paths_in_archives_write_nothing_elsewhere(data, pack):
    its = classes(LETTERS, prefix="/absolute/")
    its |= {"../up/0.png": content(900), "a/../../../b.png": content(901), "./m\\0.png": content(902)}
    its |= {"m\\1.png": content(903)} | {"absolute//./a/7.png": content(904)}
    path = pack(data / "made" / ("x.zip" if pack is zipped else "x.tar"), its)
    before = files_below(data)
    if pack is tarred:
        its.pop("m\\1.png")
    line = refused(path)  # m\1.png lies in no folder of absolute/, or is a picture alone
    assert "nothing was imported" in line
    for odd in ("./m\\0.png", "m\\1.png"):
        its.pop(odd, None)
    pictures = read(pack(path, its))
    assert all_classes(pictures) == {**dict.fromkeys(LETTERS, 3), "a": 4}
    assert "passed over 2: paths that lead out of an archive" in said(pictures)
    assert files_below(data) == before


def patched(path, offset, value):
    """The zip archive with two bytes changed in the headers of its first member."""
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
        start = data.index(magic) + at
        data[start : start + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)
    return path


def deflate64(root):
    return (
        patched(zipped(root / "x.zip", classes(LETTERS)), 8, 9),
        "cannot unpack",
        "unpack it and import the folder",
    )


def unknown_method(root):
    return patched(zipped(root / "x.zip", classes(LETTERS)), 8, 4321), "cannot unpack", "x.zip"


def encrypted(root):
    return (
        patched(zipped(root / "x.zip", classes(LETTERS)), 6, 1),
        "x.zip is encrypted",
        "nothing was imported",
    )


def encrypted_inside(root):
    inner = encrypted(root / "in")[0]
    return (
        zipped(root / "outer.zip", {"x.zip": inner.read_bytes()}),
        "outer.zip: x.zip is encrypted",
        "unpack it",
    )


def pretends_to_be_huge(root):
    path = zipped(root / "x.zip", classes(LETTERS))
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") + 24
    data[start : start + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    return path, "larger than 1 GiB", "a/0.png"


def cut_in_the_middle(root):
    path = tarred(root / "x.tar", classes(LETTERS))
    path.write_bytes(path.read_bytes()[:1300])
    return path, "x.tar is truncated or not an archive", "nothing was imported"


def text_with_the_name_of_an_archive(root):
    write(root, classes(LETTERS) | {"notes.tar.gz": b"404 not found"})
    return root, "notes.tar.gz is truncated or not an archive", "nothing was imported"


def a_pipe(root):
    root.mkdir()
    os.mkfifo(root / "pipe")
    return root / "pipe", "is neither a folder nor a file", "pipe"


def too_long(root):
    return root / ("x" * 5000), "cannot be read (File name too long)", "nothing was imported"


def null_byte(root):
    return Path(str(root) + "\0"), "", ""


def missing(root):
    return root / "nowhere", "does not exist", "nowhere"


def newline_in_a_name(root):
    return (
        write(root, classes(LETTERS) | {"a/two\nlines.png": b"broken"}),
        "a/two\\nlines.png is not a readable image",
        "",
    )


DAMAGES = [
    deflate64, unknown_method, encrypted, encrypted_inside, pretends_to_be_huge, cut_in_the_middle,
    text_with_the_name_of_an_archive, a_pipe, too_long, null_byte, missing, newline_in_a_name,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_is_one_sentence(data, damage, capsys):
    source, says, also = damage(data / "set")
    assert cli.main(["data", "import-images", "birds", "--from", str(source)]) == 2
    line = one_line(capsys.readouterr().err)
    assert says in line and also in line, line
    assert not (data / "data").exists()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file or directory")]
)
@pytest.mark.parametrize("what", ["scandir", "read_bytes"])
def test_files_that_may_not_be_read_or_vanish_are_named(data, monkeypatch, error, what):
    root = write(data / "set", classes(LETTERS))
    owner = files.os if what == "scandir" else Path
    real = getattr(owner, what)

    def failing(path, *arguments):
        if Path(path).name in ("c", "1.png"):
            raise error
        return real(path, *arguments)

    monkeypatch.setattr(owner, what, failing)
    line = refused(root)
    assert f"cannot be read ({error.strerror}); nothing was imported" in line and "/set/" in line


def test_a_picture_that_vanishes_before_it_is_read_is_named(data, monkeypatch):
    root = write(data / "set", classes(LETTERS))
    real = image_folder._first_by_name

    def slow(*arguments):
        (root / "c" / "1.png").unlink()
        return real(*arguments)

    monkeypatch.setattr(image_folder, "_first_by_name", slow)
    assert "c/1.png vanished" in refused(root)


def test_an_archive_that_holds_itself_comes_to_an_end(data):
    its = classes(LETTERS)
    inner = zipped(data / "1.zip", its)
    for n in range(2, 8):
        inner = zipped(data / f"{n}.zip", {"again.zip": inner.read_bytes(), "a/0.png": its["a/0.png"]})
    assert "archives too deep inside archives" in refused(inner)


def test_a_tar_archive_whose_last_file_is_a_zip_archive_is_a_tar_archive(data):
    inner = zipped(data / "inner.zip", tree(["m/0.png", "m/1.png"], 900))
    path = tarred(data / "x.tar", classes(LETTERS) | {"inner.zip": inner.read_bytes()})
    assert all_classes(read(path)) == {**dict.fromkeys(LETTERS, 3), "m": 2}


def test_names_of_any_bytes_are_imported_and_printed(data, capfd):
    root = write(data / "set", classes(LETTERS))
    odd = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(odd)
    for i in range(2):
        with open(odd + b"/%d.png" % i, "wb") as file:
            file.write(content(900 + i))
    assert cli.main(["data", "import-images", "birds", "--from", str(root), "--size", "16"]) == 0
    names = sum((image_folder.load("birds", split).names for split in SPLITS), ())
    assert "caf\\udce9" in names


# -- saying before writing ------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_was_read_and_writes_nothing(data, capsys):
    root = write(data / "set", in_splits() | {"train/a/x.heic": b""})
    command = ["data", "import-images", "birds", "--from", str(root), "--size", "16"]
    assert cli.main([*command, "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert "birds: 21 pictures of 7 classes; the splits are the folders" in dry
    assert "train          3 classes × 3: a, b, c" in dry and ".heic" in dry and "nothing was written" in dry
    assert not (data / "data").exists()
    assert cli.main(command) == 0
    wet = capsys.readouterr().out
    assert wet.splitlines()[:-1] == dry.splitlines()[:-1]
    assert "train with: python -m mlbook train maml-birds-2w1s" in wet  # meta-test has two classes


def test_many_classes_are_not_all_named(data):
    lines = read(write(data / "set", classes([f"kind{i:03}" for i in range(60)], 2))).lines()
    assert max(map(len, lines)) < 160 and "and 33 more" in said(read(data / "set"))


@pytest.mark.parametrize("pictures", [2, 3, 7])
def test_what_is_proposed_after_an_import_can_be_trained(data, capsys, pictures):
    root = write(data / "set", classes(LETTERS, pictures))
    assert cli.main(["data", "import-images", "birds", "--from", str(root), "--size", "16"]) == 0
    command = capsys.readouterr().out.split("python -m mlbook ")[-1].split()
    options = ["--meta-steps", "1", "--tasks", "2", "--device", "cpu", "--out", str(data / "run")]
    assert cli.main([*command, *options]) == 0


def test_an_experiment_that_a_split_cannot_give_names_the_split(data, capsys):
    write(data / "set", in_splits())
    image_folder.import_from("birds", data / "set", size=SIZE)
    for name, says in (
        ("maml-birds-3w1s", "3-way episodes need 3 classes; the meta-test split has 2"),
        ("maml-birds-2w3s", "need 4 examples; a class of the meta-train split has 3"),
        ("maml-birds-0w1s", "birds has 3 classes for meta-training; a task takes 2 to 3"),
        ("metasgd-birds-1w1s", "birds has 3 classes for meta-training; a task takes 2 to 3"),
        (f"reptile-birds-{10**20}w1s", "birds has 3 classes for meta-training; a task takes 2 to 3"),
        ("nearest-birds-2w0s", "at least 1 example of each"),
        ("maml-birds-02w1s", "no experiment is named 'maml-birds-02w1s'"),
    ):
        assert cli.main(["train", name, "--device", "cpu", "--out", str(data / "run")]) == 2
        assert says in (line := one_line(capsys.readouterr().err)), line


# -- a disk that is full, a folder that may not be written ----------------------------------------------------------


def failing_at(monkeypatch, number, error):
    """os.replace fails at its ``number``-th call."""
    calls, real = [], os.replace

    def failing(*paths):
        calls.append(paths)
        if len(calls) == number:
            raise error
        return real(*paths)

    for module in ("mlbook.data.tensor_file.os.replace", "mlbook.data.pool_files.os.replace"):
        monkeypatch.setattr(module, failing)
    return calls


@pytest.mark.parametrize("number", range(1, 7))
def test_an_import_that_cannot_be_written_leaves_the_old_set_whole(data, monkeypatch, number):
    image_folder.import_from("birds", write(data / "one", classes(LETTERS)), size=SIZE)
    before = {name: (data / "data" / name).read_bytes() for name in files_below(data / "data")}
    write(data / "two", classes(LETTERS, first=5000))
    calls = failing_at(monkeypatch, number, OSError(28, "No space left on device"))
    with pytest.raises(UserError) as error:
        image_folder.import_from("birds", data / "two", size=SIZE)
    assert "cannot be written (No space left on device)" in one_line(error.value) and len(calls) >= number
    assert before == {name: (data / "data" / name).read_bytes() for name in files_below(data / "data")}


def test_a_data_folder_that_is_a_file_or_read_only_is_one_sentence(data, monkeypatch, capsys):
    root = write(data / "set", classes(LETTERS))
    (data / "data").write_text("a file")
    command = ["data", "import-images", "birds", "--from", str(root), "--size", "16"]
    assert cli.main(command) == 2
    assert "cannot be written" in one_line(capsys.readouterr().err)
    (data / "data").unlink()

    def read_only(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert cli.main(command) == 2
    assert "cannot be written (Read-only file system)" in one_line(capsys.readouterr().err)
    assert not (data / "data").exists()


def test_a_damaged_header_is_one_sentence(data, capsys):
    image_folder.import_from("birds", write(data / "set", classes(LETTERS)), size=SIZE)
    path = pool_files.split_path(own_sets.folder() / "birds", "train")
    good = path.read_bytes()
    for old, new in (
        (b'"names":"[', b'"names":"{'),
        (b'\\"fewest\\"', b'\\"fuwest\\"'),
        (b'"about":"{', b'"about":"['),
    ):
        assert old in good
        path.write_bytes(good.replace(old, new))
        assert cli.main(["data", "list"]) == 0 and "birds" in capsys.readouterr().out
        assert cli.main(["experiments"]) == 0
        capsys.readouterr()
        failed = [
            cli.main(["data", "verify", "birds"]),
            cli.main(["train", "maml-birds-2w1s", "--out", str(data / "run")]),
        ]
        assert 2 in failed
        for line in capsys.readouterr().err.splitlines():
            assert "import birds again" in line
    with pytest.raises(DataError):
        path.write_bytes(good[:200])
        image_folder.load("birds", "train")
