"""Where data sets live, and how files get there: verified, atomic, resumable."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from mlbook.data.tensor_file import writing
from mlbook.errors import DataError, UserError

CHUNK = 1 << 20


def data_folder() -> Path:
    """The data folder: ``MLBOOK_DATA`` where it is set, else ``mlbook`` in the user's cache folder."""
    if chosen := os.environ.get("MLBOOK_DATA"):
        try:
            folder = Path(chosen).expanduser()
            folder.exists()
            return folder
        except (OSError, RuntimeError) as error:  # may not be looked at, too long; ~somebody who is not there
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"MLBOOK_DATA is {chosen[:200]!r}, which cannot be a folder ({reason})") from None
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
    part = target.with_name(target.name + ".part")
    with writing(target):
        if target.is_file() and digest(target, algorithm) == checksum:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    missing = None
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            resumed = have and answer.status == 206
            with writing(target):
                file = open(part, "ab" if resumed else "wb")
            with file:
                while block := answer.read(CHUNK):
                    with writing(target):
                        file.write(block)
                        file.flush()
            missing = getattr(
                answer, "length", None
            )  # bytes that were announced and did not come; None where nothing was announced
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to send; the checksum below decides
            raise DataError(
                f"{url} answered {error.code}; import the data from a local file instead"
            ) from None
    except UserError:
        raise
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"cannot reach {url} ({reason}); run again to go on, or import from a local file"
        ) from None
    if missing:
        raise DataError(f"{url} broke off {missing:,} bytes before its end; run again to go on")
    with writing(target):
        if digest(part, algorithm) != checksum:
            part.unlink()
            raise DataError(f"{url} arrived damaged (wrong checksum) and was removed; run again")
        os.replace(part, target)
    return target
