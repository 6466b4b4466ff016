"""Experiments on sets that were imported: METHOD-SET-NwKs for any set, method, N and K."""

from __future__ import annotations

import re
from dataclasses import replace

from mlbook.data import own_sets
from mlbook.errors import DataError, UserError
from mlbook.experiments import images, provenance, reptile
from mlbook.experiments.experiment import Experiment

METHODS = ("maml", "fomaml", "anil", "metasgd", "reptile", "nearest", "finetuning")
OF_ARRAYS = METHODS[:5]
"""The last two train a classifier of pictures first."""
NAME = re.compile(rf"({'|'.join(METHODS)})-(.+)-(0|[1-9]\d*)w(0|[1-9]\d*)s(-transductive)?")
NETWORKS = {1: "mlp_table", 2: "conv1d", 3: None}
"""By the number of dimensions of an array: tables, signals, and images, which have the networks of pictures."""


def methods(dataset: str) -> tuple[str, ...]:
    """What can be trained on an imported set; nothing where its header is damaged."""
    try:
        return METHODS if own_sets.array_shape(dataset) is None else OF_ARRAYS
    except DataError:
        return ()


def experiment(name: str) -> Experiment | None:
    """The experiment of that name, or None where the name is of another kind or there is no such set.

    ``UserError`` for tasks that the set cannot give.
    """
    match = NAME.fullmatch(name)
    if match is None or match[2] not in own_sets.imported():
        return None
    method, dataset, n_way, k_shot = match[1], match[2], int(match[3]), int(match[4])
    classes = own_sets.about(dataset)["train_classes"]
    if not 2 <= n_way <= classes or k_shot < 1:
        raise UserError(
            f"{name}: {dataset} has {classes} classes for meta-training; a task takes 2 to {classes} of them, and at least 1 "
            "example of each"
        )
    array, fewest = own_sets.array_shape(dataset), own_sets.fewest(dataset)
    shape = own_sets.shape(dataset) if array is None else None
    if array is not None and method not in OF_ARRAYS:
        return None
    if method == "reptile":
        own = reptile.images(dataset, n_way, k_shot, match[5] is not None, shape)
        # with few examples per class: fewer shots in meta-training
        own = replace(own, shares_training_with=(), k_shot=min(own.k_shot, fewest))
        return own if array is None else _of_arrays(own, array)
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
    own = replace(own, shares_training_with=(), n_query=n_query, test_query=test_query, presets=presets)
    return own if array is None else _of_arrays(own, array)


def missing(name: str) -> str | None:
    """The set that an experiment of that name would need, if it could be one of a user's own and is not here."""
    match = NAME.fullmatch(name)
    return None if match is None or match[2] in (*own_sets.RESERVED, *own_sets.imported()) else match[2]


def _of_arrays(own: Experiment, shape: tuple[int, ...]) -> Experiment:
    """The same experiment with a network that fits examples of this shape."""
    model = NETWORKS[len(shape)] or own.model
    return replace(own, model=model, options={**own.options, "shape": shape})


def family(config: dict) -> str | None:
    """The family of a configuration of imported pictures, which need not be here; None for a configuration of another kind."""
    match = NAME.fullmatch(config["name"])
    if match is None or match[2] != config.get("dataset") or not provenance.is_imported(config):
        return None
    return "reptile" if match[1] == "reptile" else "images"
