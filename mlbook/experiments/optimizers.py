"""Learned optimisers: 10-dimensional quadratics, a small classifier of images, bowls of the plane.

Options of this family: ``preparation`` ``one_set``: the same images for all problems (``one_set`` below).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mlbook.augmentation.operations import distorted
from mlbook.data.pools import ClassPool
from mlbook.errors import UserError
from mlbook.experiments.experiment import Experiment, Preset
from mlbook.experiments.images import pool_of
from mlbook.meta_learners import MetaLearner
from mlbook.optimizers.evolved import EvolvedOptimizer
from mlbook.optimizers.learned_optimizer import LearnedOptimizer
from mlbook.optimizers.optimizees import Classifier, Optimizee, Quadratic
from mlbook.tasks.episode import TaskDistribution
from mlbook.tasks.optimization_problems import Bowls, ImageProblems, Perturbed, Quadratics

METHOD, EVOLVED = "learned_optimizer", "evolved_optimizer"
ONE_SET, COPIES, STRENGTH = "one_set", 30, 0.3
"""A preparation of images, and its distortions: a tuned Adam ends near 0.4, so nothing is gained by large weights alone."""


def optimizee(model: str) -> Optimizee:
    """The function that a model's name stands for: ``quadratic``, or ``mlp_784-20-10_sigmoid`` and its like."""
    if model == "quadratic":
        return Quadratic()
    try:
        kind, sizes, activation = model.split("_")
        if kind != "mlp":
            raise ValueError
        return Classifier(tuple(map(int, sizes.split("-"))), activation)
    except ValueError:
        raise UserError(f"no function to be minimised is named {model!r}") from None


def learner(config: dict) -> LearnedOptimizer:
    options = {k: v for k, v in config["learner"].items() if k != "method"}
    kind = EvolvedOptimizer if config["learner"]["method"] == EVOLVED else LearnedOptimizer
    return kind(optimizee(config["model"]), **options)


def tasks(config: dict, learner: MetaLearner, split: str) -> TaskDistribution:
    """The problems of a configuration. Quadratics have no splits: they are drawn anew, from another seed."""
    if config["dataset"] == "quadratic":
        perturbed = split == "train" and isinstance(learner, EvolvedOptimizer)
        return Perturbed(Quadratics(), learner.windows, learner.weights) if perturbed else Quadratics()
    if config["dataset"] == "bowl":
        return Bowls()
    steps = config["learner"].get("steps", 100) if split == "train" else config["test_steps"]
    coordinates = optimizee(config["model"]).coordinates
    pool = one_set(config, split) if config.get("preparation") == ONE_SET else pool_of(config, split)
    return ImageProblems(pool, coordinates, steps, config["n_way"])


def one_set(config: dict, split: str) -> ClassPool:
    """One set of images for all problems, as MNIST is in the paper: always the same ten meta-train characters, 30 distortions of
    each drawing (6,000 images). The splits have other distortions of the same drawings."""
    generator = torch.Generator().manual_seed(1 + ("train", "validation", "test").index(split))
    return distorted(pool_of(config, "train"), config["n_way"], COPIES, STRENGTH, generator)


def protocol(config: dict) -> dict:
    """What has to be the same for two losses to be compared."""
    images = {"n_way": config["n_way"], "split": "test"} if config["n_way"] > 1 else {}
    images |= {"preparation": ONE_SET} if config.get("preparation") == ONE_SET else {}
    values = {"dataset": config["dataset"], "model": config["model"], "steps": config["report_step"]}
    return {**values, **images, "batch_norm": "not used"}


def _row(name: str, dataset: str, model: str, presets: dict[str, Preset], **learner) -> Experiment:
    n_way = learner.pop("n_way", 1)
    test_steps = learner.pop("test_steps", 100)
    return Experiment(
        name=name,
        family="optimizers",
        dataset=dataset,
        model=model,
        learner={"method": learner.pop("method", METHOD), **learner},
        k_shot=0,
        n_query=0,
        n_way=n_way,
        test_steps=test_steps,
        report_step=test_steps,
        presets=presets,
    )


def _quadratic(name: str = "", **learner) -> Experiment:
    """The official code's recipe for quadratics, but for the output's scale (0.1, not 1) and a rate for φ of 0.003 that falls to
    zero along a cosine (not a constant 0.001), both by short trials on other problems."""
    values = {"scale": 0.1, "meta_lr": 3e-3, "meta_lr_decay": "cosine", **learner}
    presets = {
        "quick": Preset(100, 128, evaluation_tasks=1_000),
        "colab": Preset(1_000, 128, evaluation_tasks=2_000),
        "paper": Preset(10_000, 128, evaluation_tasks=2_000),
    }
    return _row("learned-optimizer-quadratic" + name, "quadratic", "quadratic", presets, **values)


def _bowl() -> Experiment:
    """Ours: the optimiser of the race on a surface of the plane, 60 steps."""
    presets = {
        "quick": Preset(100, 128, evaluation_tasks=1_000),
        "colab": Preset(600, 128, evaluation_tasks=2_000),
        "paper": Preset(600, 128, evaluation_tasks=2_000),
    }
    learner = {"scale": 0.1, "meta_lr": 3e-3, "meta_lr_decay": "cosine", "steps": 60, "test_steps": 60}
    return _row("learned-optimizer-bowl", "bowl", "quadratic", presets, **learner)


def _without_backpropagation(name: str, problems: int, **learner) -> Experiment:
    """Ours: a small network behind the logarithm and sign, on which backpropagation through a whole run explodes. A derivative
    kept twice over costs about four runs of a problem, a pair of particles two: hence ``problems`` of a meta-batch."""
    values = {
        "units": 6,
        "layers": 1,
        "p": 10.0,
        "scale": 0.1,
        "meta_lr": 1e-2,
        "meta_lr_decay": "cosine",
        **learner,
    }
    presets = {
        "quick": Preset(20, problems, evaluation_tasks=1_000),
        "colab": Preset(200, problems, evaluation_tasks=2_000),
        "paper": Preset(2_000, problems, evaluation_tasks=2_000),
    }
    return _row(name, "quadratic", "quadratic", presets, **values)


def _evolved() -> list[Experiment]:
    """The same rule trained by PES, by truncated ES, and by backpropagation through windows and through the whole run."""
    evolved = {"method": EVOLVED, "sigma": 0.1}
    return [
        _without_backpropagation("pes-optimizer-quadratic", 128, persistent=True, **evolved),
        _without_backpropagation("es-optimizer-quadratic", 128, persistent=False, **evolved),
        _without_backpropagation("small-optimizer-quadratic-unroll-20", 64, second_derivatives=True),
        _without_backpropagation(
            "small-optimizer-quadratic-unroll-100", 64, second_derivatives=True, unroll=100
        ),
    ]


def _images(dataset: str, name: str, preparation: str | None = None) -> Experiment:
    """The official recipe for MNIST (784-20-10, sigmoid, batch 128, scale 0.01), with ten drawn characters in place of ten digits
    and the rate of φ as in ``_quadratic``. Without ``preparation`` every problem draws its characters anew."""
    learner = {"p": 10.0, "scale": 0.01, "meta_lr": 3e-3, "meta_lr_decay": "cosine"}
    presets = {
        "quick": Preset(20, 1, evaluation_tasks=10),
        "colab": Preset(150 if preparation is None else 1_000, 1, evaluation_tasks=100),
        "paper": Preset(10_000, 1, evaluation_tasks=100),
    }
    row = _row(name, dataset, "mlp_784-20-10_sigmoid", presets, n_way=10, **learner)
    return replace(row, options={"preparation": preparation})


def rows() -> list[Experiment]:
    """The published recipes (official code), shorter in the presets quick and colab; and what becomes of the first without, or
    with, one part at a time."""
    return [
        _quadratic(),
        _quadratic("-log-sign", p=10.0),
        _quadratic("-unroll-5", unroll=5),
        _quadratic("-unroll-100", unroll=100),
        _quadratic("-second-derivatives", second_derivatives=True),
        _bowl(),
        _images("omniglot", "learned-optimizer-mlp"),
        _images("glyphs", "learned-optimizer-mlp-glyphs"),
        _images("omniglot", "learned-optimizer-mlp-one-set", ONE_SET),
        *_evolved(),
    ]
