"""Where data sets live, and how files get there: verified, atomic, resumable."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from mlbook.errors import DataError

CHUNK = 1 << 20


def data_folder() -> Path:
    """The data folder: ``MLBOOK_DATA`` where it is set, else ``mlbook`` in the user's cache folder."""
    if chosen := os.environ.get("MLBOOK_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "mlbook"


def digest(path: Path, algorithm: str) -> str:
    """Hexadecimal checksum of a file."""
    total = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            total.update(block)
    return total.hexdigest()


def fetch(url: str, target: Path, *, checksum: str, algorithm: str = "sha256", timeout: float = 30.0) -> Path:
    """Download ``url`` to ``target``: goes on where an earlier try stopped, verifies, and only then gives the file
    its name. A file that is there with the right checksum is not fetched again.

    Raises ``DataError`` when the address cannot be reached or the checksum is wrong (what was fetched is then removed).
    """
    if target.is_file() and digest(target, algorithm) == checksum:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    missing = None
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            resumed = have and answer.status == 206
            with open(part, "ab" if resumed else "wb") as file:
                while block := answer.read(CHUNK):
                    file.write(block)
            missing = getattr(
                answer, "length", None
            )  # bytes that were announced and did not come; None where nothing was announced
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to send; the checksum below decides
            raise DataError(
                f"{url} answered {error.code}; import the data from a local file instead"
            ) from None
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"cannot reach {url} ({reason}); run again to go on, or import from a local file"
        ) from None
    if missing:
        raise DataError(f"{url} broke off {missing:,} bytes before its end; run again to go on")
    if digest(part, algorithm) != checksum:
        part.unlink()
        raise DataError(f"{url} arrived damaged (wrong checksum) and was removed; run again")
    os.replace(part, target)
    return target


ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


def read_archive(
    source: Path, suffix: str | tuple[str, ...], *, archives: str | tuple[str, ...] = ".zip"
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """(path, content) of every file whose name ends in ``suffix`` (in any case), from a folder, a tar archive or a zip archive.

    archives: archives inside a folder whose names end so are read too. Hidden files (.DS_Store, ._picture.jpg) are passed over.
    Nothing is unpacked to disk. Raises ``DataError`` on a missing, truncated or corrupt source.
    """

    def wanted(name: str) -> bool:
        return name.lower().endswith(suffix) and not PurePosixPath(name).name.startswith(".")

    if not source.exists():
        raise DataError(f"{source} does not exist")
    try:
        if source.is_dir():
            for path in sorted(source.rglob("*")):
                if wanted(path.name) and path.is_file():
                    yield PurePosixPath(path.relative_to(source).as_posix()), path.read_bytes()
                elif path.name.endswith(archives) and path.is_file():
                    yield from read_archive(path, suffix)
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                for name in sorted(archive.namelist()):
                    if wanted(name):
                        yield PurePosixPath(name), archive.read(name)
        else:
            with tarfile.open(source, "r:*") as archive:
                for member in archive:
                    if member.isfile() and wanted(member.name):
                        file = archive.extractfile(member)
                        yield PurePosixPath(member.name), file.read()
    except (tarfile.TarError, zipfile.BadZipFile, LZMAError, EOFError, zlib.error, OSError) as error:
        reason = str(error).split(":\n")[0]  # tarfile lists on further lines what it tried
        raise DataError(f"{source} is truncated or not an archive ({reason}); nothing was imported") from None


def open_image(content: bytes, name: object):
    """A PIL image from bytes; ``DataError`` if they are not an image."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(content))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name} is not a readable image ({error}); nothing was imported") from None
    return image
