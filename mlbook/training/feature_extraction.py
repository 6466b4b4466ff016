"""From pictures to features: every picture of a data set through a trained backbone, once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from mlbook import experiments
from mlbook.data import disk, feature_sets
from mlbook.data.pool_files import SPLITS
from mlbook.data.pools import ClassPool
from mlbook.data.progress import ProgressLine
from mlbook.data.tensor_file import fingerprint
from mlbook.errors import UserError
from mlbook.experiments.images import pool_of
from mlbook.meta_learners import Backbone
from mlbook.meta_learners.base import Meta, leaves
from mlbook.training.run_folder import locked

AT_ONCE = 100


def extract(config: dict, meta: Meta, name: str) -> Path:
    """Write the features of all three splits of the backbone's own data set as the set ``name``; returns its stem.

    config, meta: a trained ``backbone-...`` experiment (``runner.load_checkpoint``). Features are the averages over the picture
    behind the last layer, as they are (they are scaled to length 1 when episodes are drawn), in float16.
    """
    learner = experiments.build_learner(config)
    if not isinstance(learner, Backbone):
        raise UserError(
            f"{config['name']} is no backbone; train one: python -m mlbook train backbone-mini-wrn-10-4"
        )
    if name in feature_sets.PUBLISHED or not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(
            f"features cannot be named {name!r}; letters, digits, - and _ make a name of their own"
        )
    pools = {split: pool_of(config, split) for split in SPLITS}
    about = {"of": config["dataset"], "made by": config["name"], "run": experiments.run_id(config)}
    about["from"] = _made_from(meta, experiments.provenance.digests(config))
    folder = feature_sets.stem(name).parent
    what = f"the folder of features {folder}"
    made = disk.make(folder, what)  # now, not after all pictures
    lock = folder / f".{name}.lock"
    try:
        with locked(lock, f"the features {name} are being made by another process; wait for its end", what):
            try:
                return _extract(learner, meta, pools, name, about)
            finally:
                lock.unlink(missing_ok=True)
    finally:
        disk.remove(made)  # where nothing was written


def _extract(learner: Backbone, meta: Meta, pools: dict[str, ClassPool], name: str, about: dict) -> Path:
    folder = feature_sets.stem(name).parent
    total = sum(len(its) for pool in pools.values() for its in _classes(pool))
    size = of_images(learner, meta, pools[SPLITS[0]].images[0, :1]).shape[1]
    disk.probe(folder, f"the folder of features {folder}", needed=2 * total * size)
    line = ProgressLine(total, name)
    done = 0
    splits: dict[str, dict[str, Tensor]] = {}
    for split, pool in pools.items():
        splits[split] = {}
        for number, images in enumerate(_classes(pool)):
            splits[split][pool.names[number]] = of_images(learner, meta, images)
            done += len(images)
            line(done)
    line.close()
    return feature_sets.save(name, splits, about)


def _made_from(meta: Meta, pictures: dict[str, str]) -> dict[str, str]:
    """{split: fingerprint} of what features are made from: the weights of a backbone and the pictures."""
    weights = [fingerprint(t.detach().cpu()) for t in leaves(meta)]
    return {
        split: hashlib.sha256("".join([*weights, its]).encode()).hexdigest()
        for split, its in pictures.items()
    }


def _classes(pool: ClassPool) -> list[Tensor]:
    """The images of every class, without padding."""
    counts = [pool.n_examples] * len(pool.images) if pool.counts is None else pool.counts.tolist()
    return [images[:count] for images, count in zip(pool.images, counts, strict=True)]


def of_images(learner: Backbone, meta: Meta, images: Tensor) -> Tensor:
    """uint8 images [n, 3, H, W] -> features [n, D], float16, on the CPU."""
    device = next(iter(meta["params"].values())).device
    parts = (part.to(device) / 255 for part in images.split(AT_ONCE))
    found = [learner.features(meta, part) for part in parts]
    return torch.cat(found).half().cpu()
