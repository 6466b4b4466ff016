"""Pickles of arrays, read without running what they carry.

A pickle is a program for building objects; Python's own reader runs whatever it names. This one knows numpy arrays, numbers,
text, lists and dictionaries, and refuses everything else by name.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlbook.errors import DataError

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),  # bytes in a pickle of Python 2's protocol
    ("collections", "OrderedDict"),
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")
        return super().find_class(module, name)


def load_arrays(path: Path) -> object:
    """What the pickle at ``path`` holds, if that is nothing but arrays, numbers, text, lists and dictionaries.

    Pickles of Python 2 are read too (text as Latin-1). Raises ``DataError`` if the file is missing, truncated, no pickle, or
    asks for anything else; code that it names is never run.
    """
    try:
        with open(path, "rb") as file:
            return _Restricted(file, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (
        Exception
    ) as error:  # damaged pickles, and arrays that do not fit together, raise errors of many kinds
        raise _refused(path, "a pickle of plain arrays", error) from None


@contextmanager
def expecting(path: Path, what: str) -> Iterator[None]:
    """Around code that takes apart what a pickle held: where that is of other types or shapes than it should be (ragged, say),
    the error becomes a ``DataError``. what: what should be there, in words."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise _refused(path, what, error) from None


def _refused(path: Path, what: str, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} is not {what} ({reason}); nothing was imported")
