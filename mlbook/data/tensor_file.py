"""Files of named tensors (safetensors, which cannot execute code), written atomically. Data caches and checkpoints use them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mlbook.data.disk import reason
from mlbook.errors import CheckpointError, StorageError

DIGEST = "digest"
"""Metadata: SHA-256 of a file's header (without this entry) and tensors."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An operating system's error while ``path`` is written becomes one sentence (a full disk, a read-only folder, ...)."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({reason(error)}); what was there is as it was"
        ) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write next to ``path``, flush to disk, then rename: a reader sees the old file or the new one, never a part.

    Raises ``StorageError`` where that cannot be done; the old file is then as it was, and nothing else is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # what went wrong is said already
            temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    """One safetensors file of ``tensors`` with ``header`` as its metadata, written atomically."""
    flat = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_atomically(path, _with_digest(save(flat, metadata=header)))


def _with_digest(data: bytes) -> bytes:
    """The same file with its JSON header in alphabetical order, and with the digest of all that it holds in the metadata.

    The library writes ``header`` in an order that changes from call to call; equal contents shall be equal files.
    """
    length = int.from_bytes(data[:8], "little")
    entries = {"__metadata__": {}, **json.loads(data[8 : 8 + length])}
    digest = hashlib.sha256(_as_text(entries))
    digest.update(memoryview(data)[8 + length :])
    entries["__metadata__"][DIGEST] = digest.hexdigest()
    text = _as_text(entries)
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _as_text(entries: dict) -> bytes:
    return json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()


def _is_whole(path: Path) -> bool:
    """Whether the file holds what its digest says; True where it has none, as files of earlier versions."""
    with open(path, "rb") as file:
        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        said = entries.get("__metadata__", {}).pop(DIGEST, None)
        if said is None:
            return True
        digest = hashlib.sha256(_as_text(entries))
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest() == said


def fingerprint(tensor: torch.Tensor) -> str:
    """SHA-256 of the numbers of a tensor in their order, 64 hexadecimal digits."""
    return hashlib.sha256(tensor.contiguous().numpy()).hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file; ``CheckpointError`` if it is missing or damaged."""
    with _opened(path) as file:
        if not _is_whole(path):
            raise CheckpointError(f"{path} is damaged: it does not hold what was written")
        return {name: file.get_tensor(name) for name in file.keys()}, _own(file.metadata())  # noqa: SIM118


def _own(metadata: dict[str, str] | None) -> dict[str, str]:
    """The metadata that the writer gave."""
    return {key: value for key, value in (metadata or {}).items() if key != DIGEST}


def load_header(path: Path) -> dict[str, str]:
    """The header alone, without reading the tensors; ``CheckpointError`` as of ``load_tensors``."""
    with _opened(path) as file:
        return _own(file.metadata())


@contextmanager
def _opened(path: Path) -> Iterator:
    try:
        if path.is_dir():
            raise CheckpointError(f"no checkpoint at {path}, which is a folder; name the file in it")
        if not path.is_file():
            raise CheckpointError(f"no checkpoint at {path}")
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {_line(error)}") from None


def _line(error: Exception) -> str:
    """The message of a library on one line."""
    return " ".join(str(error).split())
