"""Take a sample of a set of features into the package, for the chapters: some pictures of every meta-test class.

    python tools/ship_features.py mini-wrn-10-4

Every tenth picture of the meta-test split goes to mlbook/data/samples/. The rest is not shipped, and no picture is.
"""

import sys
from pathlib import Path

from mlbook.data import feature_sets
from mlbook.data.pool_files import split_path
from mlbook.errors import UserError

EVERY = 10


def ship(name: str, target: Path = feature_sets.SAMPLE) -> None:
    pool, about = feature_sets.load_split(split_path(feature_sets.stem(name), "test"), "test")
    classes = {c: its[::EVERY] for c, its in zip(pool.names, pool.features, strict=True)}
    feature_sets.save_split(
        target, "test", classes, {**about, "sample": f"every {EVERY}th picture of {name}"}
    )
    print(f"{target.name}: {len(classes)} classes, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        (name,) = sys.argv[1:]
        ship(name)
    except ValueError:
        sys.exit("ship_features: give the name of one set of features")
    except (UserError, OSError) as error:
        sys.exit(f"ship_features: {error}")
