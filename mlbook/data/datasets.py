"""The data sets that the command line knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlbook.data import mini_imagenet, omniglot, own_sets, pool_files
from mlbook.data.progress import ProgressLine
from mlbook.errors import DataError, UserError


@dataclass(frozen=True)
class Dataset:
    """A data set as the command line sees it: where it lies, and how it gets there."""

    name: str
    about: str
    path: Callable[[], Path]
    available: Callable[[], bool]
    download: Callable[[], Path]
    import_from: Callable[[list[Path]], Path]
    """From one folder or archive, or from several where the data set comes in parts."""
    verify: Callable[[], str]
    """What was found, or ``DataError``."""


def _verify_omniglot() -> str:
    if not omniglot.available():
        raise DataError("Omniglot is not there; get or import it first")
    omniglot.verified()
    return f"verified at {omniglot.path()}"


def _import_omniglot(sources: list[Path]) -> Path:
    if len(sources) != 1:
        raise UserError("Omniglot is imported from one folder or archive")
    return omniglot.import_from(sources[0])


def _import_mini_imagenet(sources: list[Path]) -> Path:
    line = ProgressLine(100 * mini_imagenet.PICTURES, "mini-imagenet")
    try:
        return mini_imagenet.import_from(sources, line)
    finally:
        line.close()


def _no_download() -> Path:
    raise UserError(
        "miniImageNet cannot be downloaded (ImageNet's terms forbid passing it on); "
        "import it: python -m mlbook data import mini-imagenet --from PATH ..."
    )


def _verify_mini_imagenet() -> str:
    if not mini_imagenet.available():
        raise DataError("miniImageNet is not there; import it first")
    return f"verified: {mini_imagenet.verify()}; {mini_imagenet.about()}"


def _verify_own(name: str) -> str:
    sizes = {split: len(own_sets.load(name, split).images) for split in pool_files.SPLITS}
    return "verified: classes " + ", ".join(f"{split} {n}" for split, n in sizes.items())


def _own(name: str) -> Dataset:
    stem = own_sets.folder() / name

    def no_way(*_) -> Path:
        raise UserError(
            f"{name} is a set of your own; run: python -m mlbook data import-images {name} --from FOLDER "
            "(or import-tensors)"
        )

    return Dataset(
        name,
        _about_own(name),
        lambda: stem,
        lambda: pool_files.available(stem),
        no_way,
        no_way,
        lambda: _verify_own(name),
    )


def _about_own(name: str) -> str:
    try:
        shape = own_sets.array_shape(name)
    except DataError:  # the list shows the others all the same, and verify says what is wrong
        return "damaged"
    return "imported images" if shape is None else f"imported arrays of shape {list(shape)}"


DATASETS = {
    "omniglot": Dataset(
        "omniglot",
        "1,623 handwritten characters × 20 (MIT licence)",
        omniglot.path,
        omniglot.available,
        omniglot.download,
        _import_omniglot,
        _verify_omniglot,
    ),
    "mini-imagenet": Dataset(
        "mini-imagenet",
        "100 classes of ImageNet × 600, 84×84 (not to be passed on)",
        mini_imagenet.stem,
        mini_imagenet.available,
        _no_download,
        _import_mini_imagenet,
        _verify_mini_imagenet,
    ),
}


def known() -> dict[str, Dataset]:
    """The book's data sets and the images that were imported here."""
    return DATASETS | {name: _own(name) for name in own_sets.imported()}


def get(name: str) -> Dataset:
    """The data set of that name, or ``UserError``."""
    if name not in known():
        raise UserError(f"no data set is named {name!r}; there are: {', '.join(known())}")
    return known()[name]
