"""Augmentation search: DADA with one part at a time exchanged, and what it is compared with at the same budget.

Options of this family: ``image``, (channels, size, 0) of the images that a child sees.
"""

from __future__ import annotations

from dataclasses import replace

from mlbook.augmentation.search import DADA, CandidatePolicies, Child
from mlbook.experiments.experiment import Experiment, Preset
from mlbook.experiments.images import pool_of
from mlbook.experiments.optimizers import optimizee
from mlbook.meta_learners import MetaLearner
from mlbook.tasks.small_sets import SmallSets

METHODS = {"dada": DADA, "augmentations": CandidatePolicies}
STEPS = 100
"""Of a child, in search and test."""


def learner(config: dict) -> DADA | CandidatePolicies:
    options = dict(config["learner"])
    kind, rate = METHODS[options.pop("method")], options.pop("child_rate")
    return kind(Child(optimizee(config["model"]), rate), steps=config["test_steps"], **options)


def tasks(config: dict, learner: MetaLearner, split: str) -> SmallSets:
    """Images keep their orientation, in search and test: turning them is for the policy to choose."""
    pool = replace(pool_of(config, split), rotations="none")
    held = config["n_query"] if split == "train" else config["test_query"]
    return SmallSets(pool, config["n_way"], config["k_shot"], held, config["image"][1])


def protocol(config: dict) -> dict:
    """What has to be the same for two accuracies to be compared."""
    return {
        "dataset": config["dataset"],
        "split": "test",
        "n_way": config["n_way"],
        "k_shot": config["k_shot"],
        "queries": config["test_query"],
        "model": config["model"],
        "rotated": False,
        "batch_norm": "not used",
    }


def _row(name: str, method: str, dataset: str = "omniglot", **options) -> Experiment:
    channels, side, held, inputs = (3, 14, 15, 588) if dataset == "mini" else (1, 14, 10, 196)
    return Experiment(
        name=name if dataset == "omniglot" else f"{name}-{dataset}",
        family="augmentation",
        dataset=dataset,
        model=f"mlp_{inputs}-32-5_relu",
        learner={"method": method, "child_rate": 0.1, **options},
        k_shot=5,
        n_query=held,
        n_way=5,
        test_query=held,
        test_steps=STEPS,
        report_step=STEPS,
        scored_steps=(0, 20, 50, STEPS),
        options={"image": (channels, side, 0)},
        presets={
            "quick": Preset(4, 4, evaluation_tasks=50),
            "colab": Preset(15, 16),
            "paper": Preset(30, 16),
        },
    )


def rows() -> list[Experiment]:
    """``dada-search`` has the parts of the paper. A meta-step of DADA takes about as long as five trainings of its
    children, which is what the random policies and RandAugment get."""
    kinds = {
        "dada-search": ("dada", {}),
        "dada-search-exact-magnitudes": ("dada", {"magnitudes": "exact"}),
        "dada-search-gumbel": ("dada", {"magnitudes": "exact", "estimator": "gumbel"}),
        "dada-search-reinforce": ("dada", {"magnitudes": "exact", "estimator": "reinforce"}),
        "augment-none": ("augmentations", {"candidates": "none", "at_once": 1}),
        "augment-even": ("augmentations", {"candidates": "even", "at_once": 1}),
        "augment-random": ("augmentations", {"candidates": "random", "at_once": 5}),
        "augment-rand-augment": ("augmentations", {"candidates": "rand_augment", "at_once": 5}),
    }
    wanted = {
        "omniglot": kinds,
        "glyphs": ("dada-search", "augment-random"),
        "mini": ("dada-search", "dada-search-exact-magnitudes", "augment-none", "augment-random"),
    }
    found = [(name, dataset, *kinds[name]) for dataset, names in wanted.items() for name in names]
    return [_row(name, method, dataset, **options) for name, dataset, method, options in found]
