"""Named experiments: one per published row. Tasks + model + meta-learner + presets, all plain values that hash to a run id."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import nn

from mlbook.errors import UserError
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
from mlbook.meta_learners.protocol import MetaLearner
from mlbook.models import MLP, Conv4, WideResNet
from mlbook.models.conv4 import adapted_names, head_names
from mlbook.tasks import (
    Augmented,
    BentSectors,
    ClassPool,
    FeaturePool,
    FewShot,
    FewShotFeatures,
    GridSinusoids,
    LabelledImages,
    MiniBatches,
    Noisy,
    SinesAndLines,
    Sinusoids,
    WithNoise,
    feature_sets,
    glyphs,
    image_folder,
    mini_imagenet,
    omniglot,
)
from mlbook.training import TaskDistribution

PRESETS = ("quick", "colab", "paper")


@dataclass(frozen=True)
class Preset:
    """How long and in which variant an experiment is trained."""

    meta_steps: int
    meta_batch_size: int
    evaluation_tasks: int = 600
    options: dict = field(default_factory=dict)
    """Changes to the experiment's learner options; whatever differs from the published recipe stands here."""
    n_query: int | None = None
    """Queries per class in meta-training, where they differ from the experiment's."""


@dataclass(frozen=True)
class Experiment:
    """One row of a results table. Everything but ``presets`` is the same in every preset."""

    name: str
    dataset: str
    """``sinusoid``, ``sinusoid_grid``, ``sinusoid_or_line``, ``plane``, ``omniglot``, ``glyphs``, ``mini``
    (miniImageNet) or the name of imported images."""
    model: str
    """A name that ``build_model`` knows."""
    learner: dict
    """Arguments of MAML, or of the class that ``method`` names (``reptile``, ``classifier``, ``backbone``, ``leo``, ``leo_regression``,
    ``linear_head``); MAML's ``adapt`` is ``all``, ``no_beta`` (all but batch norm's β) or ``head``."""
    k_shot: int
    """Support examples per class (or points) in meta-training."""
    n_query: int
    """Queries per class (or points) in meta-training."""
    presets: dict[str, Preset]
    n_way: int = 1
    test_shot: int | None = None
    """Support examples per class (or points) at meta-test, where they differ from ``k_shot``."""
    test_query: int = 1
    """Queries per class (or points) at meta-test; 0 for all examples that are not in the support set."""
    test_steps: int = 10
    """Inner steps at meta-test; all are recorded."""
    report_step: int = 10
    """The inner step whose score is the result."""
    reported_steps: tuple[int, ...] = ()
    """Inner steps that the published row names, where they are several."""
    published: str | None = None
    """Key of the row in ``results/published.json``."""
    preparation: str | None = None
    """``reptile``: classes, rotations and colours as in the official Reptile code (``omniglot.load_as_reptile``)."""
    image: tuple[int, int, int] | None = None
    """(channels, size, meta-train classes) of imported images, where the model's name does not say them."""
    inner_batch: int | None = None
    """Support examples per inner step in meta-training, where they are not all of them."""
    test_batch: int | None = None
    """The same at meta-test."""
    test_batch_norm: str | None = None
    """Batch-norm mode at meta-test, where it is not ``transductive``."""
    scored_steps: tuple[int, ...] | None = None
    """Inner steps at meta-test whose score is recorded, where they are not all of them."""
    features: tuple[str, int] | None = None
    """Name of a set of features (``tasks.feature_sets``) and their number; tasks are made of these instead of images."""
    train_on: str | None = None
    """``train+validation`` where meta-training takes the classes of both splits."""
    validate_every: int | None = None
    """Meta-steps between two looks at meta-validation tasks; the best of these states is the result (early stopping)."""
    crop: int | None = None
    """Side of the squares that a backbone is trained on, cut out of the images at random."""
    also: tuple[str, ...] = ()
    """Experiments with the very same meta-training and another protocol: one training gives the records of all."""


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
        own = _reptile_images(dataset, n_way, k_shot, match[5] is not None, image)
    elif method in ("nearest", "finetuning"):
        own = _transfer(method, n_way, k_shot, dataset=dataset, image=image)
    else:
        own = _mini(method, n_way, k_shot, dataset=dataset, image=image)
    # with few pictures per class: fewer queries (or shots) in meta-training
    fewest = image_folder.fewest(dataset)
    if method == "reptile":
        return replace(own, also=(), k_shot=min(own.k_shot, fewest))
    n_query = max(1, min(15, fewest - k_shot))
    presets = {
        name: replace(p, n_query=None if p.n_query is None else min(p.n_query, n_query))
        for name, p in own.presets.items()
    }
    return replace(own, also=(), n_query=n_query, test_query=min(own.test_query, n_query), presets=presets)


def trained_by(name: str) -> str:
    """The experiment whose meta-training serves ``name``: its own, or one that trains for others ``also``."""
    return next((other.name for other in EXPERIMENTS.values() if name in other.also), name)


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
        if k not in ("presets", "published", "also") and v is not None
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
    if method == "leo":
        size = {"features": config["features"][1]} if "features" in config else {}
        return LEO(n_way=config["n_way"], **size, **options)
    if method == "linear_head":
        return LinearHead(config["n_way"], **options)
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


def build_tasks(config: dict, split: str) -> TaskDistribution:
    """Meta-train, meta-validation or meta-test tasks on the CPU; ``DataError`` when the data set is not there."""
    test = split != "train"
    if "features" in config:
        return _feature_tasks(config, split)
    n_query = config["test_query"] if test else config["n_query"]
    k_shot = config.get("test_shot", config["k_shot"]) if test else config["k_shot"]
    if config["dataset"] == "sinusoid":
        return Sinusoids(k_shot, n_query, oracle=config["model"] == "mlp_oracle")
    if config["dataset"] == "plane":
        tasks = BentSectors(k_shot, n_query, config["n_way"])
        learner = build_learner(config)
        if test or not isinstance(learner, LEO):
            return tasks
        return Noisy(tasks, learner.latent, learner.latent_steps, learner.finetuning_steps)
    if config["dataset"] == "sinusoid_or_line":
        tasks = SinesAndLines(k_shot, n_query, noisy_queries=not test)
        learner = None if test else build_learner(config)
        if not isinstance(learner, LEORegression):
            return tasks
        return WithNoise(tasks, learner.latent, learner.generated, learner.latent_steps)
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


def _feature_tasks(config: dict, split: str) -> FewShotFeatures | Noisy:
    """Tasks over a set of features, in meta-training with the noise that LEO wants."""
    pool = feature_sets.load(config["features"][0], split)
    if split == "train" and config.get("train_on") == "train+validation":
        pool = pool.joined(feature_sets.load(config["features"][0], "validation"))
    return feature_tasks_of(config, pool, test=split != "train")


def feature_tasks_of(config: dict, pool: FeaturePool, *, test: bool) -> FewShotFeatures | Noisy:
    """The tasks of a configuration, over any pool of as many features."""
    n_query = config["test_query"] if test else config["n_query"]
    tasks = FewShotFeatures(pool, config["n_way"], config["k_shot"], n_query or None)
    learner = build_learner(config)
    if test or not isinstance(learner, LEO):
        return tasks
    return Noisy(tasks, learner.latent, learner.latent_steps, learner.finetuning_steps)


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
    if isinstance(tasks, Augmented):
        return tasks.on(device)
    if isinstance(tasks, (MiniBatches, Noisy)):
        return replace(tasks, tasks=to_device(tasks.tasks, device))
    return (
        replace(tasks, pool=tasks.pool.to(device))
        if isinstance(tasks, (FewShot, FewShotFeatures, LabelledImages))
        else tasks
    )


def protocol(config: dict) -> dict:
    """What has to be the same for two results to be compared."""
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


def _sinusoid(
    name: str,
    test_shot: int,
    published: str | None = None,
    model: str = "mlp",
    test_steps: int = 10,
    **learner,
) -> Experiment:
    """Section 5.1 of the paper: trained with ten examples and one step, then fine-tuned on fewer or as many.

    The inner rate is that of the published command, 0.001; the paper's text says 0.01. With 0.01 the error after one step
    is about the same, but ten steps on five points diverge on some tasks (``maml-sinusoid-5shot-text-rate``).
    """
    return Experiment(
        name=name,
        dataset="sinusoid",
        model=model,
        learner={"loss": "mse", "inner_lr": 0.001, "inner_steps": 1, "meta_lr": 1e-3, **learner},
        k_shot=10,
        n_query=10,
        test_shot=test_shot,
        test_query=50,
        test_steps=test_steps,
        report_step=test_steps,
        reported_steps=tuple(s for s in (1, 5, 10) if s <= test_steps),
        published=published,
        presets={
            "quick": Preset(2_000, 25),
            "colab": Preset(20_000, 25),
            "paper": Preset(70_000, 25),
        },
    )


def _sines_and_lines(
    name: str, meta_steps: int, *, test_steps: int = 10, report_step: int, **learner
) -> Experiment:
    """Section 4.1 of the LEO paper: half sines, half lines, noise of 0.3 on the targets, five shots, 12 tasks in a meta-batch,
    the same network 1-40-40-1. Everything else is ours: 15 queries, whose targets are noisy in meta-training and the curve
    itself at meta-test; MAML's α (of 0.0003, 0.001, 0.003 and 0.01), its number of steps and LEO's rates by short trials on
    other tasks than those of meta-test.
    """
    return Experiment(
        name=name,
        dataset="sinusoid_or_line",
        model="mlp",
        learner={"meta_lr": 1e-3, "meta_lr_decay": "cosine", **learner},
        k_shot=5,
        n_query=15,
        test_query=50,
        test_steps=test_steps,
        report_step=report_step,
        presets={
            "quick": Preset(200, 12, evaluation_tasks=100),
            "colab": Preset(meta_steps // 4, 12),
            "paper": Preset(meta_steps, 12, evaluation_tasks=2_000),
        },
    )


def _images(
    name: str,
    dataset: str,
    n_way: int,
    k_shot: int,
    *,
    published: str | None = None,
    five: bool,
    model: str = "conv4_strided",
    **learner,
) -> Experiment:
    """Official Omniglot settings (appendix A.1): 5-way α 0.4, one step, 32 tasks; 20-way α 0.1, five steps, 16 tasks.

    The paper preset reads α as the official code does, on a loss summed over classes. The shorter presets spend less: α on the
    mean loss, which learns faster at first; one inner step in meta-training; fewer tasks with more queries each; β from 0.002 to
    zero along a cosine.
    """
    official = {"inner_lr": 0.4, "inner_steps": 1} if five else {"inner_lr": 0.1, "inner_steps": 5}
    batch = 32 if five else 16
    short = {"inner_loss": "mean", "meta_lr": 2e-3, "meta_lr_decay": "cosine", "inner_lr": 0.4}
    if not five:
        short["inner_steps"] = 1
    return Experiment(
        name=name,
        dataset=dataset,
        model=model,
        learner={"inner_loss": "class_sum", "meta_lr": 1e-3, "adapt": "no_beta", **official, **learner},
        n_way=n_way,
        k_shot=k_shot,
        n_query=k_shot,
        test_query=k_shot,
        report_step=3 if five else 5,
        published=published,
        presets={
            "quick": Preset(
                60 if five else 40,
                8 if five else 2,
                evaluation_tasks=100,
                options=short,
                n_query=max(3, k_shot),
            ),
            "colab": Preset(14_000, 16 if five else 8, options=short, n_query=max(3, k_shot)),
            "paper": Preset(60_000, batch),
        },
    )


def _mini(
    method: str, n_way: int, k_shot: int, *, dataset: str = "mini", image: tuple[int, int, int] | None = None
) -> Experiment:
    """Official miniImageNet settings: α 0.01 on the summed loss, five steps, four tasks, 15 queries per class in meta-training;
    at meta-test ten steps and K queries per class.

    The official code clips the gradient of its query loss to ±10. That loss is a sum over N·Q queries divided by K, so on the
    mean the bound is 10·K/(N·Q). Pictures of one's own are trained in the same way.
    """
    kinds = {
        "maml": {},
        "fomaml": {"first_order": True},
        "anil": {"adapt": "head"},
        "metasgd": {"learn_inner_lr": True},
    }
    name = f"{method}-{dataset}-{n_way}w{k_shot}s"
    learner = {
        "inner_loss": "class_sum",
        "meta_lr": 1e-3,
        "adapt": "no_beta",
        "inner_lr": 0.01,
        "inner_steps": 5,
        "clip_value": 10 * k_shot / (n_way * 15),
        **kinds[method],
    }
    short = {"inner_steps": 2, "meta_lr_decay": "cosine"}
    return Experiment(
        name=name,
        dataset=dataset,
        image=image,
        model="conv4_pooled",
        learner=learner,
        n_way=n_way,
        k_shot=k_shot,
        n_query=15,
        test_query=k_shot,
        # rates learned for a few steps are meant for as many
        test_steps=5 if method == "metasgd" else 10,
        report_step=5 if method == "metasgd" else 10,
        published=name if dataset == "mini" and method in ("maml", "fomaml") else None,
        presets={
            "quick": Preset(20, 2, evaluation_tasks=20, options=short, n_query=5),
            "colab": Preset(20_000, 4, options={"meta_lr_decay": "cosine"}),
            "paper": Preset(60_000, 4),
        },
    )


def _transfer(
    method: str, n_way: int, k_shot: int, *, dataset: str = "mini", image: tuple[int, int, int] | None = None
) -> Experiment:
    """The baselines of Ravi and Larochelle: one classifier of all meta-train classes, then its features, or fine-tuning.

    How they trained and tuned theirs is not published in detail; this is a plain recipe (64 images per step, Adam 0.001). What
    fine-tuning moves (a new head; moving the whole network did worse), its rate and its steps were chosen on meta-validation.
    """
    names = [f"{m}-{dataset}-{n_way}w{k}s" for k in (1, 5) for m in ("nearest", "finetuning")]
    name = f"{method}-{dataset}-{n_way}w{k_shot}s"
    steps = 0 if method == "nearest" else 10
    own = {"adapt": "nearest"} if method == "nearest" else {"adapt": "head", "inner_lr": 0.01}
    return Experiment(
        name=name,
        dataset=dataset,
        image=image,
        model="conv4_pooled",
        learner={"method": "classifier", "meta_lr": 1e-3, **own},
        n_way=n_way,
        k_shot=k_shot,
        n_query=15,
        test_query=15,
        test_steps=steps,
        report_step=steps,
        scored_steps=None if method == "nearest" else (0, steps),
        also=tuple(other for other in names if other != name) if name == names[0] else (),
        published=name if dataset == "mini" else None,
        presets={
            "quick": Preset(60, 32, evaluation_tasks=50),
            "colab": Preset(6_000, 64),
            "paper": Preset(30_000, 64),
        },
    )


def _backbone(model: str, *, crop: int, batch: int, steps: int, **learner) -> Experiment:
    """A classifier of the 64 meta-train classes whose features LEO reads. How the published features were trained is known in
    outline only (random crops, mirror images, jittered colours, SGD with momentum); meta-test is by nearest centroid."""
    return Experiment(
        name=f"backbone-mini-{model.replace('_', '-')}",
        dataset="mini",
        model=model,
        learner={"method": "backbone", **learner},
        n_way=5,
        k_shot=1,
        n_query=15,
        test_query=15,
        test_steps=0,
        report_step=0,
        crop=crop,
        presets={
            "quick": Preset(20, 8, evaluation_tasks=10),
            "colab": Preset(steps // 2, batch),
            "paper": Preset(steps, batch),
        },
    )


FEATURE_SETS = {
    "mini": ("mini-deepmind", 640),
    "mini-wrn-28-10": ("mini-wrn-28-10", 640),
    "mini-wrn-10-4": ("mini-wrn-10-4", 256),
    "tiered": ("tiered-deepmind", 640),
}
"""Sets of features by their name in experiments: the published ones, and those of our backbones."""

LEO_TUNED = {
    ("mini", 1): (2.739071e-4, 3.623413e-10, 0.188103, 0.307651, 0.756143, 5.756821e-6),
    ("mini", 5): (4.102361e-4, 8.540338e-9, 1.523998e-3, 0.300299, 0.466387, 2.661608e-7),
    ("tiered", 1): (8.659053e-4, 4.148858e-10, 5.451078e-3, 0.475126, 2.034189e-3, 8.302962e-5),
    ("tiered", 5): (6.110314e-4, 1.690399e-10, 2.481216e-2, 0.415158, 1.622811, 2.672450e-5),
}
"""The published values of β (the outer rate), λ₁, λ₂, dropout, KL weight and penalty weight, found by random search."""

LEO_VARIANTS = {
    "": {},
    "trainval": {},
    "generator": {"latent_steps": 0, "finetuning_steps": 0},
    "generator-finetuning": {"latent_steps": 0},
    "random-prior": {"start": "prior"},
    "deterministic": {"stochastic": False, "kl_weight": 0.0},
    "no-finetuning": {"finetuning_steps": 0},
}
"""LEO, LEO with the meta-validation classes in meta-training, and the ablations of the paper's table 2."""


def _over_features(name: str, features: str, k_shot: int, steps: int, **values) -> Experiment:
    """5-way tasks over features. As published: 15 queries per class in meta-training, all other examples of the five classes at
    meta-test, 12 tasks, early stopping by 2,000 meta-validation tasks every 1,000 meta-steps (ours have 15 queries per class)."""
    defaults = {
        "n_query": 15,
        "test_query": 0,
        "validate_every": 1_000,
        "presets": {
            "quick": Preset(40, 4, evaluation_tasks=50),
            "colab": Preset(10_000, 12, evaluation_tasks=10_000),
            "paper": Preset(100_000, 12, evaluation_tasks=10_000),
        },
    }
    return Experiment(
        name=name,
        dataset=features.split("-")[0],
        features=FEATURE_SETS[features],
        n_way=5,
        k_shot=k_shot,
        test_steps=steps,
        report_step=steps,
        **{**defaults, **values},
    )


def _leo(features: str, k_shot: int, variant: str = "") -> Experiment:
    """LEO with the values that its authors published for the data set, on any features of it."""
    dataset = features.split("-")[0]
    names = ("meta_lr", "l2_weight", "orthogonality_weight", "dropout", "kl_weight", "penalty_weight")
    tuned = dict(zip(names, LEO_TUNED[dataset, k_shot], strict=True))
    learner = {"method": "leo", "latent_steps": 5, "finetuning_steps": 5, **tuned, **LEO_VARIANTS[variant]}
    suffix = f"-{variant}" if variant else ""
    row = f"leo-{dataset}-5w{k_shot}s"
    both = variant == "trainval"
    return _over_features(
        f"leo-{features}-5w{k_shot}s{suffix}",
        features,
        k_shot,
        learner["latent_steps"] + learner["finetuning_steps"],
        model="linear",
        learner=learner,
        published=row if both else row + suffix,
        # without classes to validate on, the last state is the result
        **({"train_on": "train+validation", "validate_every": None} if both else {}),
    )


def _beside_leo(method: str, features: str, k_shot: int) -> Experiment:
    """On the same features: Meta-SGD (a linear classifier and a rate for each of its weights), the nearest centroid, and a linear
    classifier that is fitted to the support set alone. The last two have no meta-training; rates and steps of all three were
    chosen on meta-validation tasks."""
    name = f"{method}-features-{features}-5w{k_shot}s"
    if method == "metasgd":
        learner = {"inner_lr": 1.0, "inner_steps": 5, "learn_inner_lr": True, "meta_lr": 1e-3}
        published = f"metasgd-features-{features.split('-')[0]}-5w{k_shot}s"
        return _over_features(name, features, k_shot, 5, model="linear", learner=learner, published=published)
    learner = {"method": "linear_head", "start": "centroids" if method == "centroid" else "zero"}
    no_training = {
        p: Preset(0, 1, evaluation_tasks=n) for p, n in (("quick", 50), ("colab", 10_000), ("paper", 10_000))
    }
    return _over_features(
        name,
        features,
        k_shot,
        0 if method == "centroid" else 20,
        model="linear",
        learner=learner if method == "centroid" else {**learner, "inner_lr": 10.0},
        validate_every=None,
        presets=no_training,
    )


def _features() -> list[Experiment]:
    """All rows over features: every variant where the paper has one and where we could train it."""
    rows = []
    for features in FEATURE_SETS:
        for k in (1, 5):
            variants = list(LEO_VARIANTS) if features != "mini-wrn-28-10" else ["", "trainval"]
            rows += [_leo(features, k, variant) for variant in variants]
            others = ("metasgd",) if features in ("mini", "tiered") else ("metasgd", "centroid", "finetuning")
            rows += [_beside_leo(method, features, k) for method in others]
    return rows


def _reptile_images(
    dataset: str, n_way: int, k_shot: int, transductive: bool, image: tuple[int, int, int] | None = None
) -> Experiment:
    """The official commands: Adam with β₁ = 0 whose second moments live on; ten examples per class in meta-training on Omniglot,
    15 on miniImageNet (and on pictures of one's own), whatever K.

    The experiments of one ``n_way`` have the same meta-training, so the 1-shot one brings the records of all.
    """
    drawings = dataset in ("omniglot", "glyphs")
    cell = f"{dataset}-{n_way}w{{}}s"
    names = [f"reptile-{cell.format(k)}{t}" for k in (1, 5) for t in ("", "-transductive")]
    name = f"reptile-{cell.format(k_shot)}" + ("-transductive" if transductive else "")
    if not drawings:
        rate, steps, batch, test_batch, length = 1e-3, 8, 10, 5 if k_shot == 1 else 15, 100_000
    elif n_way == 5:
        rate, steps, batch, test_batch, length = 1e-3, 5, 10, 5, 100_000
    else:
        rate, steps, batch, test_batch, length = 5e-4, 10, 20, 10, 200_000
    short = 10_000 if drawings and n_way == 5 else 5_000
    return Experiment(
        name=name,
        dataset=dataset,
        image=image,
        preparation="reptile" if drawings else None,
        model="conv4_reptile" if drawings else "conv4_pooled_reptile",
        learner={
            "method": "reptile",
            "optimizer": "adam",
            "meta_lr": 1.0,
            "inner_lr": rate,
            "inner_steps": steps,
        },
        n_way=n_way,
        k_shot=10 if drawings else 15,
        n_query=0,
        inner_batch=batch,
        test_shot=k_shot,
        test_query=1,
        test_batch=test_batch,
        test_steps=50,
        report_step=50,
        scored_steps=(0, 1, 2, 5, 10, 20, 50),
        test_batch_norm=None if transductive else "support_and_query",
        also=tuple(other for other in names if other != name) if name == names[0] else (),
        published=name if dataset in ("omniglot", "mini") else None,
        presets={
            "quick": Preset(40 if drawings else 10, 5, evaluation_tasks=100 if drawings else 20),
            "colab": Preset(short, 5, evaluation_tasks=1_000),
            "paper": Preset(length, 5, evaluation_tasks=10_000),
        },
    )


def _reptile_sinusoid() -> Experiment:
    """Section 3 of the paper and its published script: serial, gradient descent, mini-batches of ten of a wave's fifty points."""
    return Experiment(
        name="reptile-sinusoid-grid",
        dataset="sinusoid_grid",
        model="mlp_reptile",
        learner={
            "method": "reptile",
            "loss": "mse",
            "inner_lr": 0.02,
            "inner_steps": 5,
            "meta_lr": 0.1,
        },
        k_shot=50,
        n_query=50,
        inner_batch=10,
        test_shot=10,
        test_query=50,
        test_steps=32,
        report_step=32,
        presets={"quick": Preset(2_000, 1), "colab": Preset(30_000, 1), "paper": Preset(30_000, 1)},
    )


def _reptile_on_maml_sinusoids(test_shot: int) -> Experiment:
    """Reptile on MAML's own waves and network, ten steps on all ten points; for these there is no published recipe."""
    like = _sinusoid(f"reptile-sinusoid-{test_shot}shot", test_shot)
    learner = {"method": "reptile", "loss": "mse", "inner_lr": 0.01, "inner_steps": 10, "meta_lr": 1.0}
    return replace(like, learner=learner)


def _harness(
    name: str, *, k: int, meta_lr: float = 0.25, shots: int, n_query: int = 0, **learner
) -> Experiment:
    """Sections 6.2 and 6.3 of the Reptile paper: Omniglot 5-way 5-shot, plain gradient descent on mini-batches of 25.

    The published rate, 0.003, is for the sum over a mini-batch; on its mean it is 25 times that.
    """
    return Experiment(
        name=name,
        dataset="omniglot",
        preparation="reptile",
        model="conv4_reptile",
        learner={"method": "reptile", "inner_lr": 0.075, "inner_steps": k, "meta_lr": meta_lr, **learner},
        n_way=5,
        k_shot=shots,
        n_query=n_query,
        inner_batch=25,
        test_shot=5,
        test_query=1,
        test_batch=25,
        test_steps=5,
        report_step=5,
        test_batch_norm="support_and_query",
        presets={
            "quick": Preset(40, 5, evaluation_tasks=100),
            "colab": Preset(1_000, 5, evaluation_tasks=1_000),
            "paper": Preset(40_000, 5, evaluation_tasks=10_000),
        },
    )


def _gradient_combinations() -> list[Experiment]:
    """Which of the inner gradients g₁ … g₄ θ moves along: one of them, their sum, or their sum with a step k times smaller."""
    rows = [_harness("reptile-gradients-g1", k=1, shots=5)]
    for k, smaller in ((2, 0.125), (3, 0.08325), (4, 0.0625)):
        rows += [
            _harness(f"reptile-gradients-g{k}", k=k, shots=5 * k, follow="last_step"),
            _harness(f"reptile-gradients-sum{k}", k=k, shots=5 * k),
            _harness(f"reptile-gradients-mean{k}", k=k, shots=5 * k, meta_lr=smaller),
        ]
    return rows


def _tails() -> list[Experiment]:
    """Whether the last mini-batch, whose gradient FOMAML follows, was seen before: eight steps on the same 25 examples (shared),
    or seven, and the eighth on 25 others (separate). Reptile takes eight on the same."""
    return [
        _harness("fomaml-tail-shared", k=8, shots=5, follow="last_step"),
        _harness("fomaml-tail-separate", k=8, shots=5, n_query=5, follow="last_step", tail="query"),
        _harness("reptile-tail-shared", k=8, shots=5),
    ]


def _rates() -> list[Experiment]:
    """The inner rate of Omniglot 5-way 1-shot, on the mean loss, with everything else as in the official code, whose own 0.4 on a
    loss summed over the five classes is 2 on their mean."""
    rows = []
    for rate in (0.1, 0.4, 1.0, 2.0, 4.0):
        name = f"maml-omniglot-5w1s-rate-{rate:g}"
        like = _images(name, "omniglot", 5, 1, five=True, inner_loss="mean", inner_lr=rate)
        presets = {
            "quick": Preset(60, 32, evaluation_tasks=100),
            "colab": Preset(2_000, 32),
            "paper": Preset(60_000, 32),
        }
        rows.append(replace(like, presets=presets))
    return rows


def _plane(name: str, learner: dict, *, test_shot: int = 1, also: tuple[str, ...] = ()) -> Experiment:
    """Three bent sectors of a plane, one example each in meta-training, one or three at meta-test. Not published."""
    steps = 10 if learner.get("method") == "leo" else 5
    return Experiment(
        name=name,
        dataset="plane",
        model="linear_plane",
        learner=learner,
        n_way=3,
        k_shot=1,
        n_query=10,
        test_shot=None if test_shot == 1 else test_shot,
        test_query=30,
        test_steps=steps,
        report_step=steps,
        presets={
            "quick": Preset(100, 8, evaluation_tasks=100),
            "colab": Preset(1_000, 16, evaluation_tasks=1_000),
            "paper": Preset(2_000, 16, evaluation_tasks=1_000),
        },
        also=also,
    )


def _planes() -> list[Experiment]:
    """LEO with a latent plane, the same without the penalty that ties the code to the adapted code, and Meta-SGD on the same
    features."""
    leo = {
        "method": "leo",
        "features": BentSectors().features,
        "latent": 2,
        "relation_units": 16,
        "dropout": 0.0,
        "finetuning_lr": 0.5,
        "kl_weight": 0.05,
        "penalty_weight": 0.1,
        "l2_weight": 1e-6,
        "orthogonality_weight": 0.1,
        "meta_lr": 3e-3,
        "clip_value": 10.0,
        "clip_norm": 1.0,
    }
    sgd = {"inner_lr": 5.0, "inner_steps": 5, "meta_lr": 1e-2, "learn_inner_lr": True}
    kinds = {"leo-plane": leo, "leo-plane-unpenalised": {**leo, "penalty_weight": 0.0}, "metasgd-plane": sgd}
    rows = []
    for name, learner in kinds.items():
        both = f"{name}-3w1s", f"{name}-3w3s"
        rows += [_plane(both[0], learner, also=both[1:]), _plane(both[1], learner, test_shot=3)]
    return rows


def _all() -> dict[str, Experiment]:
    rows = []
    for k in (5, 10):
        published = "maml-sinusoid-5shot" if k == 5 else None
        rows += [
            _sinusoid(f"maml-sinusoid-{k}shot", k, published),
            _sinusoid(f"fomaml-sinusoid-{k}shot", k, first_order=True),
            _sinusoid(
                f"pretraining-sinusoid-{k}shot",
                k,
                "pretraining-sinusoid-5shot" if k == 5 else None,
                joint=True,
            ),
            _sinusoid(f"oracle-sinusoid-{k}shot", k, model="mlp_oracle", joint=True),
            # rates learned for one step are meant for one step; ten such steps may diverge
            _sinusoid(f"metasgd-sinusoid-{k}shot", k, test_steps=1, learn_inner_lr=True),
        ]
    five = {"loss": "mse", "inner_lr": 0.001, "inner_steps": 5, "report_step": 5}
    rows += [
        _sines_and_lines(
            "leo-sines-lines-5shot",
            10_000,
            report_step=10,
            method="leo_regression",
            latent_steps=5,
            latent_lr=0.03,
            finetuning_steps=5,
            finetuning_lr=1e-3,
            kl_weight=0.03,
        ),
        _sines_and_lines("maml-sines-lines-5shot", 30_000, **five),
        # rates learned for five steps are meant for five
        _sines_and_lines("metasgd-sines-lines-5shot", 30_000, test_steps=5, learn_inner_lr=True, **five),
    ]
    rows.append(_sinusoid("maml-sinusoid-5shot-text-rate", 5, test_steps=3, inner_lr=0.01))
    for n_way in (5, 20):
        for k in (1, 5):
            cell, five = f"omniglot-{n_way}w{k}s", n_way == 5
            rows += [
                _images(f"maml-{cell}", "omniglot", n_way, k, published=f"maml-{cell}", five=five),
                _images(
                    f"fomaml-{cell}",
                    "omniglot",
                    n_way,
                    k,
                    published=f"fomaml-{cell}",
                    five=five,
                    first_order=True,
                ),
            ]
    rows += [
        _images("anil-omniglot-5w1s", "omniglot", 5, 1, five=True, adapt="head"),
        _images("metasgd-omniglot-5w1s", "omniglot", 5, 1, five=True, learn_inner_lr=True),
        _images("maml-glyphs-5w1s", "glyphs", 5, 1, five=True),
    ]
    for k in (1, 5):
        name = f"maml-omniglot-mlp-5w{k}s"
        rows.append(_images(name, "omniglot", 5, k, published=name, five=True, model="mlp_images"))
    rows += [_mini(method, 5, k) for method in ("maml", "fomaml", "anil", "metasgd") for k in (1, 5)]
    rows += [_transfer(method, 5, k) for method in ("nearest", "finetuning") for k in (1, 5)]
    for dataset, n_way in (("omniglot", 5), ("omniglot", 20), ("mini", 5), ("glyphs", 5)):
        rows += [_reptile_images(dataset, n_way, k, t) for k in (1, 5) for t in (False, True)]
    rows += [_reptile_on_maml_sinusoids(k) for k in (5, 10)]
    rows += [_reptile_sinusoid(), *_gradient_combinations(), *_tails()]
    rows += [*_rates(), *_planes()]
    rows += [
        _backbone("wrn_28_10", crop=80, batch=128, steps=15_000, precision="bf16"),
        _backbone("wrn_10_4", crop=64, batch=64, steps=16_000, precision="bf16"),
    ]
    rows += _features()
    return {row.name: row for row in rows}


EXPERIMENTS = _all()
