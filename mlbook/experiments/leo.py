"""Rows of LEO: in the plane, and on features of images, with the backbones and the baselines on the same features."""

from __future__ import annotations

from mlbook.experiments.experiment import Experiment, Preset
from mlbook.tasks import BentSectors


def _plane(name: str, learner: dict, *, test_shot: int = 1, shared: tuple[str, ...] = ()) -> Experiment:
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


def rows() -> list[Experiment]:
    return [
        *_planes(),
        _backbone("wrn_28_10", crop=80, batch=128, steps=15_000, precision="bf16"),
        _backbone("wrn_10_4", crop=64, batch=64, steps=16_000, precision="bf16"),
        *_features(),
    ]
