"""Which data a configuration stands on: a fingerprint of every split, and what is said where they are others now.

Generated tasks have no fingerprints, and neither have files from before there were any: nothing is compared then. The pictures
of miniImageNet exist in several resizings; their classes and splits are the same (the import sees to that), so a checkpoint is
evaluated on another resizing with a note, but one training does not go on from one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlbook.data import feature_sets, mini_imagenet, omniglot, own_sets, pool_files
from mlbook.errors import DataError


def is_imported(config: dict) -> bool:
    """Whether a configuration is of pictures or arrays that a user imported."""
    own = config.get("dataset") not in (*own_sets.RESERVED, None)
    return own and (config.get("image") or config.get("shape")) is not None and "features" not in config


def digests(config: dict) -> dict[str, str]:
    """{split: fingerprint} of the data that is here; empty for generated tasks, and where the data set is not here.

    They are read from the headers of files whose contents are compared with them whenever they are loaded.
    """
    if "features" in config:
        return feature_sets.digests(config["features"][0])
    if config["dataset"] == "omniglot":  # one file, one checksum, and a fixed split
        return {split: omniglot.PIXELS_SHA256 for split in omniglot.SPLITS} if omniglot.available() else {}
    if config["dataset"] == "mini":
        return pool_files.digests(mini_imagenet.stem())
    return pool_files.digests(own_sets.folder() / config["dataset"]) if is_imported(config) else {}


def check(config: dict, expected: dict[str, str], what: str, *, go_on: bool = False) -> str | None:
    """``DataError`` where the data here is not that of ``expected``, the fingerprints that ``what`` carries.

    Returns a note where it is another, but close enough to be used. go_on: whether a training is to go on with it.
    """
    if not expected:
        return None
    here = digests(config)
    if not here:
        if is_imported(config):
            raise DataError(f"{what} was trained on {_missing(config)}")
        return None  # whoever loads the data says how it gets here
    other = [split for split, digest in expected.items() if here.get(split) != digest]
    if not other:
        return None
    splits = " and ".join(f"meta-{split}" for split in other)
    if "features" in config:
        raise DataError(
            f"{what} was trained on other features {config['features'][0]} than those that are here ({splits} differ); "
            "make them again with the backbone of that time, or train anew with another --out"
        )
    if config["dataset"] == "mini" and not go_on:
        return (
            f"the pictures of miniImageNet here are of another resizing than those {what} was trained on "
            "(the classes and splits are the same)"
        )
    again = "import the pictures of that time again, or train anew with another --out"
    danger = (
        ""
        if config["dataset"] == "mini"
        else "; meta-test classes of now may have been meta-train classes then"
    )
    raise DataError(
        f"{what} was trained on other pictures named {config['dataset']} than those that are here ({splits} differ)"
        f"{danger}; {again}"
    )


def check_shape(config: dict) -> None:
    """``DataError`` unless the imported pictures of a configuration are here, with the size and channels that it was made for."""
    if not is_imported(config):
        return
    name = config["dataset"]
    if name not in own_sets.imported():
        raise DataError(f"{config['name']} needs {_missing(config)}")
    array = own_sets.array_shape(name)
    wanted = _described(config.get("image"), config.get("shape"))
    found = _described(own_sets.shape(name) if array is None else None, array)
    if found != wanted:
        raise DataError(
            f"{config['name']} is for {wanted}, and the set named {name} here has {found}; "
            f"import the others again ({_import(config)}), or train anew with another --out"
        )


def _missing(config: dict) -> str:
    what = "pictures" if config.get("image") else "arrays"
    return f"the {what} named {config['dataset']}, which are not here; import them again: {_import(config)}"


def _import(config: dict) -> str:
    name = config["dataset"]
    if not config.get("image"):
        return f"python -m mlbook data import-tensors {name} --from FILE"
    channels, size, _ = config["image"]
    grey = " --grey" if channels == 1 else ""
    return f"python -m mlbook data import-images {name} --from FOLDER --size {size}{grey}"


def _described(image: Sequence[int] | None, array: Sequence[int] | None) -> str:
    """What a set holds: pictures (channels, size, meta-train classes), or arrays of a shape."""
    if image is None:
        return f"arrays of shape {list(array)}"
    channels, size, classes = image
    colours = "grey" if channels == 1 else "coloured"
    return f"{colours} pictures of {size}×{size} with {classes} meta-train classes"
