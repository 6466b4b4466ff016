"""Experiments on pictures that were imported: METHOD-SET-NwKs for any set, method, N and K."""

from __future__ import annotations

import re
from dataclasses import replace

from mlbook.data import image_folder
from mlbook.experiments import images, provenance, reptile
from mlbook.experiments.experiment import Experiment

METHODS = ("maml", "fomaml", "anil", "metasgd", "reptile", "nearest", "finetuning")
NAME = re.compile(rf"({'|'.join(METHODS)})-(.+)-(\d+)w(\d+)s(-transductive)?")


def experiment(name: str) -> Experiment | None:
    """The experiment of that name, or None where the name is of another kind or there is no such set of pictures."""
    match = NAME.fullmatch(name)
    if match is None or match[2] not in image_folder.imported():
        return None
    method, dataset, n_way, k_shot = match[1], match[2], int(match[3]), int(match[4])
    shape, fewest = image_folder.shape(dataset), image_folder.fewest(dataset)
    if method == "reptile":
        own = reptile.images(dataset, n_way, k_shot, match[5] is not None, shape)
        # with few pictures per class: fewer shots in meta-training
        return replace(own, shares_training_with=(), k_shot=min(own.k_shot, fewest))
    if match[5]:
        return None
    rows = images.transfer if method in ("nearest", "finetuning") else images.mini
    own = rows(method, n_way, k_shot, dataset=dataset, image=shape)
    n_query = max(1, min(15, fewest - k_shot))  # fewer queries
    presets = {
        preset: replace(p, n_query=None if p.n_query is None else min(p.n_query, n_query))
        for preset, p in own.presets.items()
    }
    test_query = min(own.test_query, n_query)
    return replace(own, shares_training_with=(), n_query=n_query, test_query=test_query, presets=presets)


def family(config: dict) -> str | None:
    """The family of a configuration of imported pictures, which need not be here; None for a configuration of another kind."""
    match = NAME.fullmatch(config["name"])
    if match is None or match[2] != config.get("dataset") or not provenance.is_imported(config):
        return None
    return "reptile" if match[1] == "reptile" else "images"
