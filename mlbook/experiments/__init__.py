"""Named experiments: one per published row. Tasks + model + meta-learner + presets, all plain values that hash to a run id."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, replace

import torch
from torch import nn

from mlbook.data import ClassPool, FeaturePool, feature_sets, glyphs, image_folder, mini_imagenet, omniglot
from mlbook.errors import UserError
from mlbook.experiments import (
    architecture,
    augmentation,
    images,
    leo,
    optimizers,
    regression,
    reinforcement,
    reptile,
)
from mlbook.experiments.experiment import Experiment, Preset
from mlbook.meta_learners import (
    LEO,
    MAML,
    Backbone,
    Classifier,
    LEORegression,
    LinearHead,
    Reptile,
    joint_training,
)
from mlbook.meta_learners.base import MetaLearner
from mlbook.models import MLP, Conv4, WideResNet
from mlbook.models.conv4 import adapted_names, head_names
from mlbook.reinforcement import MAMLRL, Environment, GaussianPolicy, Goals, HalfCheetah, Navigation
from mlbook.tasks import (
    Augmented,
    BentSectors,
    FewShot,
    FewShotFeatures,
    GridSinusoids,
    LabelledImages,
    LEONoise,
    MiniBatches,
    SinesAndLines,
    Sinusoids,
)
from mlbook.tasks.episode import TaskDistribution
from mlbook.tasks.optimization_problems import ImageProblems
from mlbook.tasks.small_sets import SmallSets

PRESETS = ("quick", "colab", "paper")


def get(name: str) -> Experiment:
    """The experiment of that name; ``UserError`` with the nearest names if there is none."""
    if name not in EXPERIMENTS and (own := of_imported_images(name)):
        return own
    if name not in EXPERIMENTS:
        import difflib

        near = difflib.get_close_matches(name, EXPERIMENTS, n=2, cutoff=0.3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"no experiment is named {name!r}{hint} (python -m mlbook experiments lists them)")
    return EXPERIMENTS[name]


METHODS = ("maml", "fomaml", "anil", "metasgd", "reptile", "nearest", "finetuning")


def of_imported_images(name: str) -> Experiment | None:
    """METHOD-SET-NwKs for a set of pictures that was imported (``image_folder``), or None where there is no such set."""
    match = re.fullmatch(rf"({'|'.join(METHODS)})-(.+)-(\d+)w(\d+)s(-transductive)?", name)
    if match is None or match[2] not in image_folder.imported():
        return None
    method, dataset, n_way, k_shot = match[1], match[2], int(match[3]), int(match[4])
    if method != "reptile" and match[5]:
        return None
    image = image_folder.shape(dataset)
    if method == "reptile":
        own = reptile.images(dataset, n_way, k_shot, match[5] is not None, image)
    elif method in ("nearest", "finetuning"):
        own = images.transfer(method, n_way, k_shot, dataset=dataset, image=image)
    else:
        own = images.mini(method, n_way, k_shot, dataset=dataset, image=image)
    # with few pictures per class: fewer queries (or shots) in meta-training
    fewest = image_folder.fewest(dataset)
    if method == "reptile":
        return replace(own, shares_training_with=(), k_shot=min(own.k_shot, fewest))
    n_query = max(1, min(15, fewest - k_shot))
    presets = {
        name: replace(p, n_query=None if p.n_query is None else min(p.n_query, n_query))
        for name, p in own.presets.items()
    }
    return replace(
        own,
        shares_training_with=(),
        n_query=n_query,
        test_query=min(own.test_query, n_query),
        presets=presets,
    )


def trained_by(name: str) -> str:
    """The experiment whose meta-training serves ``name``: its own, or one that trains for others ``shares_training_with``."""
    return next((other.name for other in EXPERIMENTS.values() if name in other.shares_training_with), name)


def get_preset(experiment: Experiment, preset: str) -> Preset:
    if preset not in experiment.presets:
        raise UserError(f"{experiment.name} has the presets {', '.join(experiment.presets)}, not {preset!r}")
    return experiment.presets[preset]


def config(experiment: Experiment, preset: str, *, meta_steps: int | None = None, seed: int = 0) -> dict:
    """All values that determine a run, as plain JSON types."""
    chosen = get_preset(experiment, preset)
    values = {
        k: v
        for k, v in asdict(experiment).items()
        if k not in ("presets", "published", "shares_training_with") and v is not None
    }
    values["learner"] = {**experiment.learner, **chosen.options}
    steps = chosen.meta_steps if meta_steps is None else meta_steps
    if chosen.n_query is not None:
        values["n_query"] = chosen.n_query
    values |= {"preset": preset, "meta_steps": steps, "meta_batch_size": chosen.meta_batch_size, "seed": seed}
    return json.loads(json.dumps(values))


def run_id(config: dict) -> str:
    """Twelve hexadecimal digits that change with any value of the configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def build_model(model: str, n_way: int, size: int | None = None, channels: int | None = None) -> nn.Module:
    """A network by its name in the experiments; ``UserError`` for an unknown one.

    size, channels: of the images, where they are not those of Omniglot (28, 1) or miniImageNet (84, 3); for ``linear``, size is
    the number of features.
    """
    small, large = (
        {"size": size or 28, "channels": channels or 1},
        {"size": size or 84, "channels": channels or 3},
    )
    if model == "mlp":
        return MLP((1, 40, 40, 1))
    if model == "mlp_oracle":
        return MLP((3, 40, 40, 1))
    if model == "mlp_images":
        inputs = small["channels"] * small["size"] ** 2
        return MLP((inputs, 256, 128, 64, 64, n_way), batch_norm=True)
    if model == "conv4_strided":
        return Conv4(n_way, **small)
    if model == "conv4_pooled":
        return Conv4(n_way, filters=32, downsample="max_pool", **large)
    if model == "mlp_reptile":
        return MLP((1, 64, 64, 1), activation="tanh", init_std=None)
    if model == "conv4_reptile":
        return Conv4(n_way, gamma=True, spatial_mean=False, **small)
    if model == "conv4_pooled_reptile":
        return Conv4(n_way, filters=32, gamma=True, downsample="max_pool_same", **large)
    if model == "linear":
        return MLP((size, n_way))
    if model == "wrn_28_10":
        return WideResNet(n_way, depth=28, width=10)
    if model == "wrn_10_4":
        return WideResNet(n_way, depth=10, width=4, stride=2)
    if model == "linear_plane":
        return MLP((BentSectors().features, n_way))
    raise UserError(f"no model is named {model!r}")


def build_learner(config: dict) -> MetaLearner:
    """The meta-learner that a configuration describes."""
    options = dict(config["learner"])
    method = options.pop("method", "maml")
    if method == optimizers.METHOD:
        return optimizers.learner(config)
    if method in augmentation.METHODS:
        return augmentation.learner(config)
    if method == architecture.METHOD:
        return architecture.learner(config)
    if method == "leo":
        size = {"features": config["features"][1]} if "features" in config else {}
        return LEO(n_way=config["n_way"], **size, **options)
    if method == "linear_head":
        return LinearHead(config["n_way"], **options)
    if method == "maml_rl":
        world = build_world(config)
        for name in WORLD_OPTIONS:
            options.pop(name, None)
        return MAMLRL(world, GaussianPolicy(world.observation_size, world.action_size), **options)
    channels, size, classes = config.get("image") or (None, None, 64)
    outputs = classes if method in ("classifier", "backbone") else config["n_way"]
    # modules draw initial values from the CPU's global generator; leave it as it was
    with torch.random.fork_rng(devices=[]):
        model = build_model(
            config["model"], outputs, config["features"][1] if "features" in config else size, channels
        )
    if method == "reptile":
        return Reptile(model, **options)
    if method == "classifier":
        return Classifier(model, n_way=config["n_way"], **options)
    if method == "backbone":
        return Backbone(model, n_way=config["n_way"], **options)
    if method == "leo_regression":
        return LEORegression(model, **options)
    joint, adapt = options.pop("joint", False), options.pop("adapt", "all")
    names = {"all": None, "no_beta": adapted_names(model), "head": head_names(model)}[adapt]
    return joint_training(model, names=names, **options) if joint else MAML(model, names=names, **options)


WORLD_OPTIONS = ("horizon", "trajectories")
"""What a preset may change about rollouts; they stand among the learner's options, where deviations are looked for."""


def build_world(config: dict) -> Environment:
    """The environment of a row of reinforcement learning. ``UserError`` where its simulator is not installed."""
    options = dict(config.get("world") or {})
    if "horizon" in config["learner"]:
        options["horizon"] = config["learner"]["horizon"]
    if config["dataset"] == "navigation":
        return Navigation(**options)
    return HalfCheetah(task=config["dataset"].removeprefix("cheetah_"), **options)


def build_goals(config: dict, *, test: bool) -> Goals:
    """Goals with noise for all rounds of rollouts that meta-training or meta-test needs."""
    trajectories = config["learner"].get("trajectories")
    if test:
        return Goals(build_world(config), trajectories or config["test_shot"], config["test_steps"] + 1)
    return Goals(build_world(config), trajectories or config["k_shot"], config["learner"]["inner_steps"] + 1)


def build_tasks(config: dict, split: str) -> TaskDistribution:
    """Meta-train, meta-validation or meta-test tasks on the CPU; ``DataError`` when the data set is not there."""
    test = split != "train"
    if config["learner"].get("method") == optimizers.METHOD:
        return optimizers.tasks(config, split, pool_of)
    if config["learner"].get("method") in augmentation.METHODS:
        return augmentation.tasks(config, split, pool_of)
    if config["learner"].get("method") == "maml_rl":
        return build_goals(config, test=test)
    if config["learner"].get("method") == architecture.METHOD:
        return architecture.tasks(config, pool_of)
    if "features" in config:
        return _feature_tasks(config, split)
    n_query = config["test_query"] if test else config["n_query"]
    k_shot = config.get("test_shot", config["k_shot"]) if test else config["k_shot"]
    if config["dataset"] == "sinusoid":
        return Sinusoids(k_shot, n_query, oracle=config["model"] == "mlp_oracle")
    if config["dataset"] == "plane":
        return _with_noise(config, BentSectors(k_shot, n_query, config["n_way"]), test=test)
    if config["dataset"] == "sinusoid_or_line":
        return _with_noise(config, SinesAndLines(k_shot, n_query, noisy_queries=not test), test=test)
    if config["dataset"] == "sinusoid_grid":
        tasks = GridSinusoids(k_shot)
    else:
        pool = pool_of(config, split)
        if not test and config["learner"].get("method") in ("classifier", "backbone"):
            images = LabelledImages(pool)
            return images if config.get("crop") is None else Augmented(images, config["crop"])
        tasks = FewShot(pool, config["n_way"], k_shot, n_query)
    batch = config.get("test_batch" if test else "inner_batch")
    if batch is None:
        return tasks
    return MiniBatches(tasks, batch, config["test_steps"] if test else config["learner"]["inner_steps"])


def _feature_tasks(config: dict, split: str) -> FewShotFeatures | LEONoise:
    """Tasks over a set of features, in meta-training with the noise that LEO wants."""
    pool = feature_sets.load(config["features"][0], split)
    if split == "train" and config.get("train_on") == "train+validation":
        pool = pool.joined(feature_sets.load(config["features"][0], "validation"))
    return feature_tasks_of(config, pool, test=split != "train")


def feature_tasks_of(config: dict, pool: FeaturePool, *, test: bool) -> FewShotFeatures | LEONoise:
    """The tasks of a configuration, over any pool of as many features."""
    n_query = config["test_query"] if test else config["n_query"]
    return _with_noise(
        config, FewShotFeatures(pool, config["n_way"], config["k_shot"], n_query or None), test=test
    )


def _with_noise(config: dict, tasks: TaskDistribution, *, test: bool) -> TaskDistribution:
    """In LEO's meta-training the tasks bring the random numbers that it wants; otherwise they stay as they are."""
    learner = None if test else build_learner(config)
    if isinstance(learner, (LEO, LEORegression)):
        return LEONoise(tasks, learner.noise_shapes)
    return tasks


def pool_of(config: dict, split: str) -> ClassPool:
    """The classes of one split of a data set."""
    reptile = config.get("preparation") == "reptile"
    if source := {"omniglot": omniglot, "glyphs": glyphs}.get(config["dataset"]):
        return source.load_as_reptile(split) if reptile else source.load(split)
    if config["dataset"] == "mini":
        return mini_imagenet.load(split)
    return image_folder.load(config["dataset"], split)


def to_device(tasks, device: torch.device):
    """Task distribution whose samples are born on ``device``."""
    if isinstance(tasks, (Augmented, ImageProblems, SmallSets)):
        return tasks.on(device)
    if isinstance(tasks, (MiniBatches, LEONoise)):
        return replace(tasks, tasks=to_device(tasks.tasks, device))
    return (
        replace(tasks, pool=tasks.pool.to(device))
        if isinstance(tasks, (FewShot, FewShotFeatures, LabelledImages))
        else tasks
    )


def protocol(config: dict) -> dict:
    """What has to be the same for two results to be compared."""
    if config["learner"].get("method") == optimizers.METHOD:
        return optimizers.protocol(config)
    if config["learner"].get("method") in augmentation.METHODS:
        return augmentation.protocol(config)
    if config["learner"].get("method") == "maml_rl":
        world = build_world(config)
        return {
            "dataset": config["dataset"],
            "split": "test",
            "trajectories": build_goals(config, test=True).trajectories,
            "horizon": world.horizon,
            "reward": world.reward,
            "batch_norm": "not used",
        }
    if config["learner"].get("method") == architecture.METHOD:
        return architecture.protocol(config)
    values = {
        "dataset": config["dataset"],
        "split": "test",
        "k_shot": config.get("test_shot", config["k_shot"]),
        "queries": config["test_query"] or "all others",
    }
    if "features" in config:
        return values | {
            "n_way": config["n_way"],
            "features": config["features"][0],
            "batch_norm": "not used",
        }
    if config["dataset"] == "sinusoid_or_line":
        values["query_noise"] = 0.0
    if config["dataset"].startswith("sinusoid"):
        return values
    values["n_way"] = config["n_way"]
    if config["dataset"] == "plane":
        return values
    if config["learner"].get("method") in ("classifier", "backbone"):
        values["batch_norm"] = "running"  # whatever the mode, each image is classified alone
    if config.get("preparation") == "reptile":
        return values | {"rotated": False, "preparation": "reptile"}
    return values | {"rotated": config["dataset"] in ("omniglot", "glyphs")}


EXPERIMENTS = {
    row.name: row
    for part in (regression, images, reptile, leo, reinforcement, optimizers, augmentation, architecture)
    for row in part.rows()
}
