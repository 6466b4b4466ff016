"""Files that come from elsewhere: downloads, archives, Omniglot. Verified, all or nothing, one line when they are wrong."""

import hashlib
import io
import re
import shutil
import tarfile
import threading
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from package_fixtures import SmallOmniglot, files_below, one_line
from PIL import Image

from mlbook.data import datasets, omniglot, pictures, storage
from mlbook.data.tensor_file import load_tensors, save_tensors, write_atomically
from mlbook.errors import DataError, StorageError, UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A web server on this machine. ``server.files``: what it has; ``server.ranges``: whether it knows Range;
    ``server.cut``: break off the next answer after so many bytes; ``server.asked``: the Range headers it saw."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server = self.server
            server.asked.append(self.headers.get("Range"))
            content = server.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = 0
            if server.ranges and self.headers.get("Range"):
                start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + server.cut] if server.cut else content[start:])
            server.cut = None

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.ranges, server.cut, server.asked = {"/data.bin": CONTENT}, True, None, []
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server, target, checksum=SHA256, name="/data.bin"):
    return storage.fetch(server.address + name, target, checksum=checksum, timeout=5)


# -- downloads ------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_whole_and_not_twice(server, tmp_path):
    target = tmp_path / "deep" / "data.bin"
    assert fetch(server, target) == target
    assert target.read_bytes() == CONTENT and files_below(tmp_path) == ["deep/data.bin"]
    fetch(server, target)
    assert len(server.asked) == 1


def test_a_broken_download_says_so_and_goes_on_where_it_stopped(server, tmp_path):
    target, server.cut = tmp_path / "data.bin", 100_000
    with pytest.raises(DataError, match="again") as refused:
        fetch(server, target)
    one_line(refused.value)
    assert files_below(tmp_path) == ["data.bin.part"]
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]
    assert files_below(tmp_path) == ["data.bin"]


def test_a_server_that_does_not_know_ranges_starts_again(server, tmp_path):
    target, server.cut, server.ranges = tmp_path / "data.bin", 100_000, False
    with pytest.raises(DataError):
        fetch(server, target)
    assert fetch(server, target).read_bytes() == CONTENT
    assert files_below(tmp_path) == ["data.bin"]


def test_a_download_that_only_lacked_its_name_gets_it(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)  # killed between the last byte and the renaming
    assert fetch(server, tmp_path / "data.bin").read_bytes() == CONTENT
    assert files_below(tmp_path) == ["data.bin"]


def test_a_file_with_the_wrong_checksum_is_removed(server, tmp_path):
    with pytest.raises(DataError, match="wrong checksum") as refused:
        fetch(server, tmp_path / "data.bin", checksum="0" * 64)
    one_line(refused.value)
    assert files_below(tmp_path) == []


def test_the_start_of_another_file_is_found_out_and_removed(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"something else")
    with pytest.raises(DataError, match="wrong checksum"):
        fetch(server, tmp_path / "data.bin")
    assert files_below(tmp_path) == []
    assert fetch(server, tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    target = tmp_path / "data.bin"
    target.write_bytes(CONTENT[:-1])
    assert fetch(server, target).read_bytes() == CONTENT


def test_what_the_server_does_not_have(server, tmp_path):
    with pytest.raises(DataError, match="answered 404") as refused:
        fetch(server, tmp_path / "data.bin", name="/nothing")
    one_line(refused.value)
    assert files_below(tmp_path) == []


def test_no_server_at_all(server, tmp_path):
    server.server_close()  # the port is free now: nobody answers
    with pytest.raises(DataError, match="cannot reach") as refused:
        fetch(server, tmp_path / "data.bin")
    one_line(refused.value)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("full", ["mkdir", "open", "replace"])
def test_a_disk_that_is_full_is_no_fault_of_the_server(server, tmp_path, monkeypatch, full):
    def failing(*arguments, **options):
        raise OSError(28, "No space left on device")

    if full == "open":
        monkeypatch.setattr(storage, "open", failing, raising=False)
    else:
        monkeypatch.setattr(Path if full == "mkdir" else storage.os, full, failing)
    with pytest.raises(UserError, match="data.bin cannot be written .No space left on device") as refused:
        fetch(server, tmp_path / "deep" / "data.bin")
    one_line(refused.value)


@pytest.mark.parametrize("what", ["a file", "read-only"])
def test_a_data_folder_that_cannot_be_written_is_one_sentence(small, monkeypatch, what):
    if what == "a file":
        small.data.write_text("not a folder")
    else:

        def read_only(*arguments, **options):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(UserError, match="cannot be written") as refused:
        omniglot.import_from(small.folder)
    one_line(refused.value)
    assert not small.data.is_dir()


@pytest.mark.parametrize("place", ["~nobody-of-this-name/data", "/" + "x" * 5000])
def test_a_data_folder_that_cannot_be_one_is_refused(monkeypatch, place):
    monkeypatch.setenv("MLBOOK_DATA", place)
    with pytest.raises(UserError, match="MLBOOK_DATA is") as refused:
        storage.data_folder()
    one_line(refused.value)


# -- files and archives ---------------------------------------------------------------------------------------------


def test_writing_is_atomic(tmp_path, monkeypatch):
    target = tmp_path / "x.bin"
    write_atomically(target, b"old")

    def power_cut(*paths):
        raise OSError("power cut")

    monkeypatch.setattr("mlbook.data.tensor_file.os.replace", power_cut)
    with pytest.raises(StorageError, match="x.bin cannot be written .power cut."):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old" and files_below(tmp_path) == ["x.bin"]


def test_the_data_folder_is_the_variables_or_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path))
    assert storage.data_folder() == tmp_path
    monkeypatch.delenv("MLBOOK_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage.sys, "platform", "linux")
    assert storage.data_folder() == tmp_path / "cache" / "mlbook"


def zipped(folder, target, prefix):
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, f"{prefix}/{path.relative_to(folder).as_posix()}")
    return target


def as_folder(source, place):
    return source


def as_tar_xz(source, place):
    with tarfile.open(place / "omniglot.tar.xz", "w:xz", preset=0) as archive:
        archive.add(source, "omniglot/python")
    return place / "omniglot.tar.xz"


def as_zip(source, place):
    return zipped(source, place / "omniglot.zip", "somewhere/deep")


def as_two_zips(source, place):
    """The way the data set is published."""
    (place / "zips").mkdir()
    for half in ("images_background", "images_evaluation"):
        zipped(source / half, place / "zips" / f"{half}.zip", half)
    return place / "zips"


def as_folders_and_zips(source, place):
    """The way torchvision leaves it: every drawing is there twice."""
    as_two_zips(source, place)
    shutil.copytree(source, place / "zips", dirs_exist_ok=True)
    return place / "zips"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small Omniglot; the data folder is ``tmp_path/data``."""
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))
    small = SmallOmniglot(tmp_path / "source", monkeypatch)
    (tmp_path / "made").mkdir()
    small.made, small.data = tmp_path / "made", tmp_path / "data"
    return small


@pytest.mark.parametrize("pack", [as_folder, as_tar_xz, as_zip, as_two_zips, as_folders_and_zips])
def test_omniglot_is_read_from_every_form_it_comes_in(small, pack):
    assert not omniglot.available()
    path = omniglot.import_from(pack(small.folder, small.made))
    assert omniglot.available() and path == omniglot.path()
    assert files_below(small.data) == ["omniglot.safetensors"]
    images, names = omniglot.verified()
    assert np.array_equal(images.numpy(), small.images)  # as Pillow makes them small
    assert names == ["/".join(parts) for parts in small.CHARACTERS]
    assert datasets.get("omniglot").verify() == f"verified at {path}"


def test_a_pool_keeps_name_and_drawing_together(small):
    omniglot.import_from(small.folder)
    pool = omniglot.load("all", "none")
    assert pool.images.shape == (5, 3, 1, 28, 28) and len(set(pool.names)) == 5
    for name, images in zip(pool.names, pool.images, strict=True):
        index = ["/".join(parts) for parts in small.CHARACTERS].index(name)
        assert np.array_equal(images[:, 0].numpy(), small.images[index])
    with pytest.raises(UserError, match="split must be"):
        omniglot.load("dev")


def truncated_tar(small):
    archive = as_tar_xz(small.folder, small.made)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    return archive


def truncated_zip(small):
    archive = as_zip(small.folder, small.made)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    return archive


def flipped_zip(small):
    """One bit of one drawing is wrong: the archive's own checksum tells."""
    archive = as_zip(small.folder, small.made)
    content = bytearray(archive.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    archive.write_bytes(content)
    return archive


def text_file(small):
    path = small.made / "omniglot.tar.xz"
    path.write_text("404: Not Found\n" * 100)
    return path


def empty_file(small):
    path = small.made / "omniglot.zip"
    path.touch()
    return path


def nothing(small):
    return small.made / "missing.tar.xz"


def first_drawing(small):
    return min(small.folder.rglob("*.png"))


def wrong_size(small):
    Image.new("1", (28, 28)).save(first_drawing(small))
    return small.folder


def not_an_image(small):
    first_drawing(small).write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 10)
    return small.folder


def missing_drawing(small):
    first_drawing(small).unlink()
    return small.folder


def missing_character(small):
    shutil.rmtree(first_drawing(small).parent)
    return small.folder


def other_pixels(small):
    image = Image.open(first_drawing(small))
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(first_drawing(small))
    return small.folder


def encrypted_zip(small):
    archive = as_zip(small.folder, small.made)
    content = bytearray(archive.read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + at] |= 1
    archive.write_bytes(content)
    return archive


def deflate64_zip(small):
    archive = as_zip(small.folder, small.made)
    content = bytearray(archive.read_bytes())
    for magic, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(magic) + at] = 9
    archive.write_bytes(content)
    return archive


def too_large(small):
    path = first_drawing(small)
    header = bytearray(path.read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    path.write_bytes(header)
    return small.folder


def too_long(small):
    return small.made / ("x" * 5000)


def other_pictures(small):
    folder = small.made / "holiday"
    folder.mkdir()
    Image.new("RGB", (105, 105)).save(folder / "beach.png")
    return folder


DAMAGE = {
    truncated_tar: "truncated or not an archive",
    truncated_zip: "truncated or not an archive",
    flipped_zip: "not an archive|not a readable image|other pixels",
    text_file: "truncated or not an archive",
    empty_file: "truncated or not an archive",
    nothing: "does not exist",
    encrypted_zip: "omniglot.zip is encrypted",
    deflate64_zip: "packed in a way that Python cannot unpack",
    too_large: "has too many pixels",
    too_long: "File name too long",
    wrong_size: "28×28, not 105×105",
    not_an_image: "not a readable image",
    missing_drawing: "2 drawings instead of 3",
    missing_character: "4 of the 5 Omniglot characters",
    other_pixels: "other pixels than Omniglot",
    other_pictures: "0 of the 5 Omniglot characters",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_omniglot_is_refused_with_one_line_and_leaves_nothing(small, damage):
    source = damage(small)
    with pytest.raises(DataError, match=DAMAGE[damage]) as refused:
        omniglot.import_from(source)
    one_line(refused.value)
    assert not small.data.exists() or files_below(small.data) == []


def test_a_failed_import_leaves_the_good_data_as_it_was(small):
    path = omniglot.import_from(small.folder)
    before = path.read_bytes()
    with pytest.raises(DataError):
        omniglot.import_from(text_file(small))
    assert path.read_bytes() == before and files_below(small.data) == ["omniglot.safetensors"]


def test_a_damaged_cached_tensor_is_refused(small):
    path = omniglot.import_from(small.folder)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 255
    for content in (whole[:-100], bytes(flipped), b"", b"not a tensor file"):
        path.write_bytes(content)
        for use in (lambda: omniglot.load("train"), datasets.get("omniglot").verify):
            with pytest.raises(DataError, match="import Omniglot again") as refused:
                use()
            one_line(refused.value)
    save_tensors(path, {"something": torch.zeros(2)}, {})
    with pytest.raises(DataError, match="damaged"):
        omniglot.load("train")
    for header in ({}, {"names": "one\ntwo"}):
        save_tensors(path, {"images": torch.from_numpy(small.images)}, header)
        with pytest.raises(DataError, match="damaged .its header"):
            omniglot.load("train")


def test_omniglot_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))
    for use in (lambda: omniglot.load("train"), datasets.get("omniglot").verify):
        with pytest.raises(DataError, match="get") as refused:
            use()
        one_line(refused.value)
    assert files_below(tmp_path) == []


def test_omniglot_is_downloaded_from_where_torchvision_has_it(small, server, monkeypatch):
    from mlbook.data.torchvision_import import torchvision

    zips = as_two_zips(small.folder, small.made)
    contents = {path.stem: path.read_bytes() for path in zips.iterdir()}
    dataset = torchvision().datasets.Omniglot
    monkeypatch.setattr(dataset, "download_url_prefix", server.address + "/python")
    monkeypatch.setattr(dataset, "zips_md5", {n: hashlib.md5(c).hexdigest() for n, c in contents.items()})
    with pytest.raises(DataError, match="404") as refused:  # not there yet
        omniglot.download()
    one_line(refused.value)
    assert not omniglot.available()

    server.files.update({f"/python/{name}.zip": content for name, content in contents.items()})
    omniglot.download()
    images, _ = omniglot.verified()
    assert np.array_equal(images.numpy(), small.images)
    asked = len(server.asked)
    omniglot.download()  # the files are there: only the tensor is made again
    assert len(server.asked) == asked


# -- preprocessing --------------------------------------------------------------------------------------------------


def test_28_pixels_by_nearest_neighbour_are_pillows():
    g = np.random.default_rng(1)
    for share in (0.1, 0.5, 0.9):
        for _ in range(5):
            bits = g.random((105, 105)) < share
            paper = Image.fromarray(bits)
            ours = omniglot.nearest_28(torch.from_numpy(bits)).numpy()
            assert paper.mode == "1"
            assert np.array_equal(ours, np.array(paper.resize((28, 28), Image.NEAREST)))
            # the smooth filter that the official code asks for is not applied to 1-bit images
            assert np.array_equal(ours, np.array(paper.resize((28, 28), Image.LANCZOS)))


def test_an_unreadable_image_is_one_line():
    good = io.BytesIO()
    Image.new("1", (4, 4)).save(good, "PNG")
    assert pictures.open_image(good.getvalue(), "x.png").size == (4, 4)
    for content in (b"", b"text", good.getvalue()[:30], good.getvalue()[:45]):
        with pytest.raises(DataError, match="x.png is not a readable image") as refused:
            pictures.open_image(content, "x.png")
        one_line(refused.value)


# -- the real one ---------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(not omniglot.available(), reason="Omniglot is not on this machine")


@real
def test_the_real_omniglot_has_1623_characters_of_20_drawings():
    images, names = omniglot.verified()
    assert images.shape == (1623, 20, 28, 28) and images.dtype == torch.uint8
    assert set(images.unique().tolist()) == {0, 255}
    assert len(set(names)) == 1623
    assert len({name.rsplit("/", 1)[0] for name in names}) == 50  # alphabets
    assert sum(name.startswith("images_background/") for name in names) == 964
    assert 0.02 < (images == 255).double().mean() < 0.2  # ink is 255, not paper


@real
def test_the_real_splits_are_the_official_sizes_disjoint_and_mixed():
    splits = {split: set(omniglot.load(split).names) for split in ("train", "validation", "test")}
    assert {split: len(names) for split, names in splits.items()} == {
        "train": 1100,
        "validation": 100,
        "test": 423,
    }
    assert len(set.union(*splits.values())) == 1623
    background = sum(name.startswith("images_background/") for name in splits["test"])
    assert 0.4 < background / 423 < 0.8  # shuffled irrespective of alphabet
    assert [omniglot.load("test").names[i] for i in (0, -1)] == [
        omniglot.load("all").names[i] for i in (1200, -1)
    ]


@real
def test_the_real_cached_file_carries_its_checksum():
    _, header = load_tensors(omniglot.path())
    assert header["sha256"] == omniglot.PIXELS_SHA256
