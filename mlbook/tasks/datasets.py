"""The data sets that the command line knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlbook.errors import DataError, UserError
from mlbook.tasks import omniglot


@dataclass(frozen=True)
class Dataset:
    name: str
    about: str
    path: Callable[[], Path]
    available: Callable[[], bool]
    download: Callable[[], Path]
    import_from: Callable[[Path], Path]
    verify: Callable[[], Path]


def _verify_omniglot() -> Path:
    if not omniglot.available():
        raise DataError("Omniglot is not there; get or import it first")
    omniglot.verified()
    return omniglot.path()


DATASETS = {
    "omniglot": Dataset(
        "omniglot",
        "1,623 handwritten characters × 20 (MIT licence)",
        omniglot.path,
        omniglot.available,
        omniglot.download,
        omniglot.import_from,
        _verify_omniglot,
    )
}


def get(name: str) -> Dataset:
    if name not in DATASETS:
        raise UserError(f"no data set is named {name!r}; there are: {', '.join(DATASETS)}")
    return DATASETS[name]
