"""The files in a folder or an archive, one after the other. Nothing is unpacked to disk, and nothing is left out in silence."""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from mlbook.errors import DataError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
DEEPEST = 3
"""Archives in archives in archives are read; what lies deeper is not (an archive can hold itself)."""
LINKS = 2
"""Linked folders on the way to a file. More of them are taken for folders that lead into each other."""
WIDEST = 80
"""Characters of the names that a message lists."""
CHAIN = 4
"""Links in a tar archive that lead to each other before a file comes."""
LONGEST = 1 << 30
"""Bytes of one file. More would not be a picture, but an archive that pretends."""
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information")
"""What operating systems leave behind, beside everything whose name starts with a dot."""


def shown(name: object) -> str:
    """A name for a message: on one line, and printable whatever bytes it is of."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is no user's."""
    return name.startswith(".") or name.lower() in CLUTTER


@dataclass
class PassedOver:
    """What a reading left out: names by reason. Every name is kept once."""

    names: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    followed: int = 0
    """Links to files outside the source, which were read."""

    def add(self, reason: str, name: object) -> None:
        self.names[reason][str(name)] = None

    def lines(self, most: int = 3) -> list[str]:
        """One line a reason: how many, why, and the first ones by name."""
        return [
            f"passed over {len(its):,}: {reason} ({listed(sorted(its), most)})"
            for reason, its in self.names.items()
        ]


def listed(names: list[str], most: int) -> str:
    """The first ``most`` names, fewer where they are long, and how many more there are."""
    while most > 1 and sum(len(name) for name in names[:most]) > WIDEST:
        most -= 1
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more


class File(NamedTuple):
    """A file as it is found."""

    path: tuple[str, ...]
    """Folders and name below the source. An archive counts as a folder with the archive's name."""
    archives: tuple[int, ...]
    """Which parts of ``path`` are archives."""
    read: Callable[[], bytes]
    """Its content. To be called before the next file is asked for."""

    @property
    def inner(self) -> PurePosixPath:
        """The path inside the innermost archive, or below the source where there is none."""
        return PurePosixPath(*self.path[self.archives[-1] + 1 if self.archives else 0 :])


def read_archive(
    source: Path, suffix: str | tuple[str, ...], *, archives: str | tuple[str, ...] = ".zip"
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """(path, content) of every file whose name ends in ``suffix`` (in any case), from a folder, a tar archive or a zip archive.

    archives: archives inside whose names end so are read too; paths start inside them. Hidden files (.DS_Store,
    ._picture.jpg) are passed over. Nothing is unpacked to disk. Raises ``DataError`` on a missing, truncated or corrupt source.
    """
    for file in files_in(source, PassedOver(), archives=archives):
        if file.path[-1].lower().endswith(suffix):
            yield file.inner, file.read()


def files_in(
    source: Path, passed: PassedOver, *, archives: str | tuple[str, ...] = ARCHIVES
) -> Iterator[File]:
    """Every file of a folder or archive: first those of the folders, by name, then those of archives inside.

    Links to files are followed, and links to folders that lie in the source; those that lead elsewhere or in a circle are passed
    over, like hidden files. passed: receives what was left out. Raises ``DataError`` on a missing, unreadable or corrupt source.
    """
    with plainly(source):
        if not source.exists():
            raise DataError(f"{shown(source)} does not exist")
        folder = source.is_dir()
        if not folder and not source.is_file():
            raise DataError(f"{shown(source)} is neither a folder nor a file")
    if folder:
        yield from _in_folder(source, archives, passed)
    else:
        with plainly(source):
            file = open(source, "rb")
        with file:
            yield from _in_archive(file, source, (), (), archives, passed)


@contextmanager
def plainly(source: object) -> Iterator[None]:
    """Whatever goes wrong with a file or folder becomes one sentence that names it."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"{shown(source)} cannot be read ({reason}); nothing was imported") from None


@contextmanager
def _archive_errors(source: object) -> Iterator[None]:
    """Whatever goes wrong in an archive becomes one sentence that names it. Damaged ones raise errors of many kinds."""
    try:
        yield
    except DataError:
        raise
    except NotImplementedError as error:
        raise DataError(
            f"{shown(source)} is packed in a way that Python cannot unpack ({error}); unpack it and import the folder; "
            "nothing was imported"
        ) from None
    except Exception as error:
        if "password" in str(error) or "encrypted" in str(error):
            raise DataError(
                f"{shown(source)} is encrypted; unpack it and import the folder; nothing was imported"
            ) from None
        # tarfile lists on further lines what it tried
        reason = " ".join(str(error).split(":\n")[0].split()) or type(error).__name__
        raise DataError(
            f"{shown(source)} is truncated or not an archive ({reason}); nothing was imported"
        ) from None


# -- folders --------------------------------------------------------------------------------------------------------


def _in_folder(source: Path, archives: str | tuple[str, ...], passed: PassedOver) -> Iterator[File]:
    found: list[tuple[Path, tuple[str, ...]]] = []
    with plainly(source):
        root = os.path.realpath(source)
    for path, parts in _walk(source, (), (root,), 0, passed):
        if path.name.lower().endswith(archives):
            found.append((path, parts))
        else:
            yield File(parts, (), lambda path=path: _content(path))
    for path, parts in found:
        with plainly(path):
            file = open(path, "rb")
        with file:
            yield from _in_archive(file, path, parts, (len(parts) - 1,), archives, passed)


def _walk(
    folder: Path, parts: tuple[str, ...], above: tuple[str, ...], links: int, passed: PassedOver
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Files below a folder. above: the real paths of the source and the folders down to this one; links: linked ones of them."""
    with plainly(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        path, its = folder / entry.name, (*parts, entry.name)
        name = "/".join(its)
        with plainly(path):
            if hidden(entry.name):
                passed.add("hidden files or folders", name)
                continue
            linked = entry.is_symlink()
            try:
                kind = os.stat(path).st_mode
            except FileNotFoundError:
                passed.add("links to nothing", name)
                continue
            except OSError:
                if not linked:
                    raise
                passed.add("links in a circle", name)
                continue
        if stat.S_ISREG(kind):
            passed.followed += linked and not _within(os.path.realpath(path), above[0])
            yield path, its
        elif not stat.S_ISDIR(kind):
            passed.add("neither files nor folders", name)
        else:
            real = os.path.realpath(path)
            if linked and not _within(real, above[0]):
                passed.add("links to folders outside", name)
            elif real in above or links + linked > LINKS:
                passed.add("links in a circle", name)
            else:
                yield from _walk(path, its, (*above, real), links + linked, passed)


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


def _content(path: Path) -> bytes:
    with plainly(path):
        if path.stat().st_size > LONGEST:
            raise DataError(f"{shown(path)} is larger than {LONGEST >> 30} GiB; nothing was imported")
        return path.read_bytes()


# -- archives -------------------------------------------------------------------------------------------------------


def _in_archive(
    file: IO[bytes],
    source: object,
    parts: tuple[str, ...],
    inside: tuple[int, ...],
    archives: str | tuple[str, ...],
    passed: PassedOver,
    depth: int = 1,
) -> Iterator[File]:
    """Files in an archive. parts, inside: what their paths and positions of archives start with. source: the archive's name."""
    with _archive_errors(source):
        kind = _in_zip if _is_zip(file) else _in_tar
        file.seek(0)
    for its, name, content in kind(file, source, passed):
        found = File((*parts, *its), inside, content)
        label = f"{shown(source)}: {shown(name)}"
        if not its[-1].lower().endswith(archives):
            yield found
        elif depth == DEEPEST:
            passed.add("archives too deep inside archives", "/".join(found.path))
        else:
            with tempfile.TemporaryFile() as copy:
                with _archive_errors(label):
                    copy.write(found.read())
                    copy.seek(0)
                where = (*inside, len(found.path) - 1)
                yield from _in_archive(copy, label, found.path, where, archives, passed, depth + 1)


def _is_zip(file: IO[bytes]) -> bool:
    """Whether it is a zip archive, and not a tar archive whose last member is one."""
    if file.read(4) in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return True
    file.seek(0)
    if tarfile.is_tarfile(file):
        return False
    file.seek(0)
    return zipfile.is_zipfile(file)


def _member_parts(name: str, passed: PassedOver, source: object) -> tuple[str, ...] | None:
    """The parts of a member's name, or None where it is passed over. Leading slashes say nothing: nothing is unpacked."""
    if "/" not in name:
        name = name.replace("\\", "/")  # as some programs for Windows write
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    where = f"{PurePosixPath(str(source)).name}/{name.lstrip('/')}"
    if ".." in parts or "\0" in name:
        passed.add("paths that lead out of an archive", where)
    elif any(hidden(part) for part in parts):
        passed.add("hidden files or folders", where)
    elif parts:
        return parts
    return None


Members = Iterator[tuple[tuple[str, ...], str, Callable[[], bytes]]]


def _in_zip(file: IO[bytes], source: object, passed: PassedOver) -> Members:
    with _archive_errors(source):
        archive = zipfile.ZipFile(file)
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    with archive:
        for name, info in sorted(members.items()):
            parts = _member_parts(name, passed, source)
            if parts is None:
                continue
            mode = info.external_attr >> 16
            if info.create_system == 3 and stat.S_IFMT(mode) not in (0, stat.S_IFREG):  # 3: made on Unix
                passed.add("links or devices in archives", "/".join(parts))
                continue
            yield parts, name, lambda info=info: _from_zip(archive, info, source)


def _from_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: object) -> bytes:
    with _archive_errors(source):
        _not_too_large(info.filename, info.file_size, source)
        return archive.read(info)


def _in_tar(file: IO[bytes], source: object, passed: PassedOver) -> Members:
    with _archive_errors(source):
        archive = tarfile.open(fileobj=file, mode="r:*")
    with archive:
        members = iter(archive)
        while True:
            with _archive_errors(source):
                member = next(members, None)
            if member is None:
                break
            if member.isdir():
                continue
            parts = _member_parts(member.name, passed, source)
            if parts is None:
                continue
            with _archive_errors(source):
                real = member if member.isreg() else _target(archive, member)
            if real is None:
                passed.add("links or devices in archives", "/".join(parts))
                continue
            yield parts, member.name, lambda real=real: _from_tar(archive, real, source)


def _from_tar(archive: tarfile.TarFile, member: tarfile.TarInfo, source: object) -> bytes:
    with _archive_errors(source):
        _not_too_large(member.name, member.size, source)
        with archive.extractfile(member) as file:
            content = file.read()
        if len(content) < member.size:
            raise tarfile.ReadError("unexpected end of data")
        return content


def _target(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The file that a hard or symbolic link leads to, in a few steps and within the archive; else None."""
    for _ in range(CHAIN):
        if not (member.islnk() or member.issym()):
            return None
        name = member.linkname
        if member.issym():
            name = posixpath.normpath(posixpath.join(posixpath.dirname(member.name), name))
        try:
            member = archive.getmember(name)
        except KeyError:
            return None
        if member.isreg():
            return member
    return None


def _not_too_large(name: str, size: int, source: object) -> None:
    if size > LONGEST:
        raise DataError(
            f"{shown(source)}: {shown(name)} is larger than {LONGEST >> 30} GiB; nothing was imported"
        )
