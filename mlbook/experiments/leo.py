"""LEO in the plane and on features of images, with the backbones and the baselines on the same features.

Options of this family: ``features``, name of a set of features and their number (tasks are made of these instead of images);
``train_on`` ``train+validation`` where meta-training takes the classes of both splits; ``validate_every``: meta-steps between two
looks at meta-validation tasks, the best of these states being the result (early stopping); ``crop``: side of the squares that a
backbone is trained on, cut out of the images at random.
"""

from __future__ import annotations

from mlbook.data import feature_sets
from mlbook.data.pools import FeaturePool
from mlbook.errors import DataError
from mlbook.experiments.experiment import Experiment, Preset
from mlbook.experiments.images import pool_of
from mlbook.experiments.networks import build_model, initialisation_learner
from mlbook.meta_learners import LEO, Backbone, LinearHead, MetaLearner
from mlbook.tasks import Augmented, BentSectors, FewShot, FewShotFeatures, LabelledImages, LEONoise
from mlbook.tasks.episode import TaskDistribution


def learner(config: dict) -> MetaLearner:
    """LEO, a backbone, a classifier over fixed features, or MAML's relatives (Meta-SGD)."""
    options, features = dict(config["learner"]), config.get("features", (None, None))[1]
    method = options.pop("method", "maml")
    if method == "leo":
        size = {} if features is None else {"features": features}
        return LEO(n_way=config["n_way"], **size, **options)
    if method == "linear_head":
        return LinearHead(config["n_way"], **options)
    if method == "backbone":
        return Backbone(build_model(config["model"], 64), n_way=config["n_way"], **options)
    return initialisation_learner(build_model(config["model"], config["n_way"], features), options)


def tasks(config: dict, learner: MetaLearner, split: str) -> TaskDistribution:
    """Tasks in the plane or over features, with noise in LEO's meta-training; crops of labelled images for a backbone's."""
    test = split != "train"
    if isinstance(learner, Backbone):
        pool = pool_of(config, split)
        if test:
            return FewShot(pool, config["n_way"], config["k_shot"], config["test_query"])
        return Augmented(LabelledImages(pool), config["crop"])
    if config["dataset"] == "plane":
        k_shot = config.get("test_shot", config["k_shot"]) if test else config["k_shot"]
        n_query = config["test_query"] if test else config["n_query"]
        return with_noise(learner, BentSectors(k_shot, n_query, config["n_way"]), test=test)
    name, size = config["features"]
    pool = feature_sets.load(name, split)
    if pool.features.shape[2] != size:
        raise DataError(
            f"the features {name} here have {pool.features.shape[2]} numbers, and {config['name']} is for {size}; "
            "make them with another backbone"
        )
    if split == "train" and config.get("train_on") == "train+validation":
        pool = pool.joined(feature_sets.load(name, "validation"))
    return with_noise(learner, over_features(config, pool, test=test), test=test)


def over_features(config: dict, pool: FeaturePool, *, test: bool) -> FewShotFeatures:
    """The tasks of a configuration, over any pool of as many features."""
    n_query = config["test_query"] if test else config["n_query"]
    return FewShotFeatures(pool, config["n_way"], config["k_shot"], n_query or None)


def with_noise(learner: MetaLearner, tasks: TaskDistribution, *, test: bool) -> TaskDistribution:
    """In LEO's meta-training the tasks bring the random numbers that it wants; otherwise they stay as they are."""
    if test or not isinstance(learner, LEO):
        return tasks
    return LEONoise(tasks, learner.noise_shapes)


def protocol(config: dict) -> dict:
    """What has to be the same for two accuracies to be compared."""
    values = {
        "dataset": config["dataset"],
        "split": "test",
        "k_shot": config.get("test_shot", config["k_shot"]),
        "queries": config["test_query"] or "all others",
        "n_way": config["n_way"],
    }
    if "features" in config:
        return values | {"features": config["features"][0], "batch_norm": "not used"}
    if config["dataset"] == "plane":
        return values
    # a backbone: each image is classified alone
    return values | {"batch_norm": "running", "rotated": False}


def _plane(name: str, learner: dict, *, test_shot: int = 1, shared: tuple[str, ...] = ()) -> Experiment:
    """Three bent sectors of a plane, one example each in meta-training, one or three at meta-test. Not published."""
    steps = 10 if learner.get("method") == "leo" else 5
    return Experiment(
        name=name,
        family="leo",
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
        shares_training_with=shared,
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
        rows += [
            _plane(both[0], learner, shared=both[1:]),
            _plane(both[1], learner, test_shot=3),
        ]
    return rows


def _backbone(model: str, *, crop: int, batch: int, steps: int, **learner) -> Experiment:
    """A classifier of the 64 meta-train classes whose features LEO reads. How the published features were trained is known in
    outline only (random crops, mirror images, jittered colours, SGD with momentum); meta-test is by nearest centroid."""
    return Experiment(
        name=f"backbone-mini-{model.replace('_', '-')}",
        family="leo",
        dataset="mini",
        model=model,
        learner={"method": "backbone", **learner},
        n_way=5,
        k_shot=1,
        n_query=15,
        test_query=15,
        test_steps=0,
        report_step=0,
        options={"crop": crop},
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
        "presets": {
            "quick": Preset(40, 4, evaluation_tasks=50),
            "colab": Preset(10_000, 12, evaluation_tasks=10_000),
            "paper": Preset(100_000, 12, evaluation_tasks=10_000),
        },
    }
    options = {"features": FEATURE_SETS[features], "validate_every": 1_000, **values.pop("options", {})}
    return Experiment(
        name=name,
        family="leo",
        dataset=features.split("-")[0],
        options=options,
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
        options={"train_on": "train+validation", "validate_every": None} if both else {},
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
        options={"validate_every": None},
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


def rows() -> list[Experiment]:
    return [
        *_planes(),
        _backbone("wrn_28_10", crop=80, batch=128, steps=15_000, precision="bf16"),
        _backbone("wrn_10_4", crop=64, batch=64, steps=16_000, precision="bf16"),
        *_features(),
    ]
