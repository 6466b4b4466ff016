"""MAML and its relatives on images, and the baselines without meta-learning.

Options of this family: ``image`` (channels, size, meta-train classes) of imported images, where the model's name does not say
them; ``shape`` of an example, for imported arrays; ``preparation`` ``reptile``: classes, rotations and colours as in the
official Reptile code; ``inner_batch`` and
``test_batch``: support examples per inner step, where they are not all of them, in meta-training and at meta-test;
``test_batch_norm``: the batch-norm mode at meta-test, where it is not ``transductive``; ``train_way``: classes of a meta-training
task, where they are not those of a meta-test task.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mlbook.data import glyphs, mini_imagenet, omniglot, own_sets
from mlbook.data.pictures import square
from mlbook.data.pools import ClassPool
from mlbook.experiments import provenance
from mlbook.experiments.experiment import Experiment, Preset
from mlbook.experiments.networks import build_model, channels_and_size, initialisation_learner
from mlbook.meta_learners import Classifier, MetaLearner, Prototypical
from mlbook.tasks import FewShot, LabelledImages, MiniBatches
from mlbook.tasks.episode import TaskDistribution


def learner(config: dict) -> MetaLearner:
    """MAML and its relatives, Reptile, prototypical networks (method ``prototypical``), or a classifier of all meta-train classes
    (``classifier``)."""
    options = dict(config["learner"])
    channels, size, classes = config.get("image") or (None, None, 64)
    if shape := config.get("shape"):
        channels, size = channels_and_size(shape)
    if options.get("method") == "prototypical":
        options.pop("method")
        model = build_model(config["model"], config["n_way"], size, channels)
        return Prototypical(model, n_way=config["n_way"], **options)
    if options.get("method") != "classifier":
        model = build_model(config["model"], config["n_way"], size, channels)
        return initialisation_learner(model, options)
    options.pop("method")
    return Classifier(build_model(config["model"], classes, size, channels), n_way=config["n_way"], **options)


def tasks(config: dict, learner: MetaLearner, split: str) -> TaskDistribution:
    """Few-shot tasks, on mini-batches where the configuration has them; labelled images for a classifier's training."""
    pool, test = pool_of(config, split), split != "train"
    if isinstance(learner, Classifier) and not test:
        return LabelledImages(pool)
    k_shot = config.get("test_shot", config["k_shot"]) if test else config["k_shot"]
    n_way = config["n_way"] if test else config.get("train_way", config["n_way"])
    few = FewShot(pool, n_way, k_shot, config["test_query"] if test else config["n_query"])
    return in_mini_batches(config, few, test=test)


def in_mini_batches(config: dict, tasks: TaskDistribution, *, test: bool) -> TaskDistribution:
    """The same tasks, with an order of mini-batches where the configuration names their size."""
    batch = config.get("test_batch" if test else "inner_batch")
    if batch is None:
        return tasks
    return MiniBatches(tasks, batch, config["test_steps"] if test else config["learner"]["inner_steps"])


def pool_of(config: dict, split: str) -> ClassPool:
    """The classes of one split of a data set."""
    if source := {"omniglot": omniglot, "glyphs": glyphs}.get(config["dataset"]):
        reptile = config.get("preparation") == "reptile"
        return source.load_as_reptile(split) if reptile else source.load(split)
    if config["dataset"] == "mini":
        return mini_imagenet.load(split)
    provenance.check_shape(config)
    return own_sets.load(config["dataset"], split)


def read_picture(config: dict, content: bytes, name: object) -> Tensor:
    """One picture file, prepared as the pictures of the configuration's data set were: float32 [C, size, size] from 0 to 1."""
    if config["dataset"] in ("omniglot", "glyphs"):
        paper = square(content, name, omniglot.ORIGINAL, True)[0]
        ink = omniglot.nearest_28(paper < 128)[None].float()
        return 1 - ink if config.get("preparation") == "reptile" else ink
    channels, size, _ = config.get("image") or (3, mini_imagenet.SIZE, None)
    return square(content, name, size, channels == 1) / 255


def protocol(config: dict) -> dict:
    """What has to be the same for two accuracies to be compared."""
    values = {
        "dataset": config["dataset"],
        "split": "test",
        "k_shot": config.get("test_shot", config["k_shot"]),
        "queries": config["test_query"],
        "n_way": config["n_way"],
    }
    if config["learner"].get("method") in ("classifier", "prototypical"):
        values["batch_norm"] = "running"  # whatever the mode, each image is classified alone
    if config.get("preparation") == "reptile":
        return values | {"rotated": False, "preparation": "reptile"}
    return values | {"rotated": config["dataset"] in ("omniglot", "glyphs")}


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
    zero along a cosine. For 20 ways the colab preset has twice that β and 30,000 meta-steps: a run
    with 0.002 and 14,000 underfitted.
    """
    official = {"inner_lr": 0.4, "inner_steps": 1} if five else {"inner_lr": 0.1, "inner_steps": 5}
    batch = 32 if five else 16
    short = {"inner_loss": "mean", "meta_lr": 2e-3, "meta_lr_decay": "cosine", "inner_lr": 0.4}
    if not five:
        short["inner_steps"] = 1
    return Experiment(
        name=name,
        family="images",
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
            "colab": Preset(
                14_000 if five else 30_000,
                16 if five else 8,
                options=short if five else {**short, "meta_lr": 4e-3},
                n_query=max(3, k_shot),
            ),
            "paper": Preset(60_000, batch),
        },
    )


def mini(
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
        family="images",
        dataset=dataset,
        options={"image": image},
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


def transfer(
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
        family="images",
        dataset=dataset,
        options={"image": image},
        model="conv4_pooled",
        learner={"method": "classifier", "meta_lr": 1e-3, **own},
        n_way=n_way,
        k_shot=k_shot,
        n_query=15,
        test_query=15,
        test_steps=steps,
        report_step=steps,
        scored_steps=None if method == "nearest" else (0, steps),
        shares_training_with=tuple(other for other in names if other != name) if name == names[0] else (),
        published=name if dataset == "mini" else None,
        presets={
            "quick": Preset(60, 32, evaluation_tasks=50),
            "colab": Preset(6_000, 64),
            "paper": Preset(30_000, 64),
        },
    )


def _embedding() -> Experiment:
    """A good embedding without meta-learning, on the meta-test tasks of MAML's Omniglot table: one classifier of all 1,100
    meta-train characters, turned at random, then the support image with the nearest feature (by cosine).

    Tian et al. 2020 do this on miniImageNet with a larger network, augmentation and logistic regression; nobody published it on
    Omniglot that we know of. Adam 0.001 falling to zero, 64 images per step.
    """
    name = "nearest-omniglot-5w1s"
    return Experiment(
        name=name,
        family="images",
        dataset="omniglot",
        options={"image": (1, 28, 1100)},
        model="conv4_strided",
        learner={"method": "classifier", "meta_lr": 1e-3, "adapt": "nearest"},
        n_way=5,
        k_shot=1,
        n_query=1,
        test_query=1,
        test_steps=0,
        report_step=0,
        presets={
            "quick": Preset(60, 32, evaluation_tasks=100),
            "colab": Preset(5_000, 64),
            "paper": Preset(30_000, 64),
        },
    )


def prototypical(dataset: str, n_way: int, k_shot: int) -> Experiment:
    """Prototypical networks on the meta-test tasks of MAML's tables, with MAML's networks.

    Published: Omniglot 60-way with 5 queries, miniImageNet 30-way (1-shot) or 20-way (5-shot) with 15 queries, one task per step,
    Adam 0.001 halved every 2,000 tasks; how many tasks was decided by validation, here it is fixed. One training serves 5 and 20
    ways. The published networks have 64 filters and pooling in both cases.
    """
    mini = dataset == "mini"
    cells = (5, 20) if dataset == "omniglot" else (5,)
    names = [f"proto-{dataset}-{n}w{k_shot}s" for n in cells]
    name = f"proto-{dataset}-{n_way}w{k_shot}s"
    return Experiment(
        name=name,
        family="images",
        dataset=dataset,
        options={"train_way": (30 if k_shot == 1 else 20) if mini else 60},
        model="conv4_pooled" if mini else "conv4_strided",
        learner={"method": "prototypical", "meta_lr": 1e-3},
        n_way=n_way,
        k_shot=k_shot,
        n_query=15 if mini else 5,
        test_query=k_shot,
        test_steps=0,
        report_step=0,
        shares_training_with=tuple(other for other in names if other != name) if name == names[0] else (),
        published=None if dataset == "glyphs" else name,
        presets={
            "quick": Preset(
                20 if mini else 60, 1, evaluation_tasks=20 if mini else 100, options={"halvings": 3}
            ),
            "colab": Preset(1_500, 1, options={"halvings": 5}),
            "paper": Preset(20_000, 1),
        },
    )


def _implicit(name: str, dataset: str, published: str | None = None, **learner) -> Experiment:
    """iMAML with gradient descent as its inner solver: λ 2, 16 steps, 5 CG steps (Rajeswaran et al. 2019), with
    the proximal term in every inner step and in the matrix as the paper has them (the released code does neither). The network is
    the released one but for its initial values: batch norm with scale and shift, all parameters adapted. The quick preset is a
    short run for a CPU."""
    short = {"meta_lr": 2e-3, "meta_lr_decay": "cosine"}
    values = {"inner_lr": 0.1, "inner_steps": 16, "strength": 2.0, "solver_steps": 5, "meta_lr": 1e-3}
    return Experiment(
        name=name,
        family="images",
        dataset=dataset,
        model="conv4_reptile",
        learner={"method": "imaml", **values, **learner},
        n_way=5,
        k_shot=1,
        n_query=1,
        test_query=1,
        test_steps=16,
        report_step=16,
        published=published,
        presets={
            "quick": Preset(200, 4, evaluation_tasks=200, options=short, n_query=3),
            "colab": Preset(5_000, 16, options=short, n_query=3),
            "paper": Preset(20_000, 32),
        },
    )


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


def rows() -> list[Experiment]:
    found = []
    for n_way in (5, 20):
        for k in (1, 5):
            cell, five = f"omniglot-{n_way}w{k}s", n_way == 5
            for method, options in (("maml", {}), ("fomaml", {"first_order": True})):
                name = f"{method}-{cell}"
                found.append(_images(name, "omniglot", n_way, k, published=name, five=five, **options))
    found += [
        _images("anil-omniglot-5w1s", "omniglot", 5, 1, five=True, adapt="head"),
        _images("metasgd-omniglot-5w1s", "omniglot", 5, 1, five=True, learn_inner_lr=True),
        _images("maml-glyphs-5w1s", "glyphs", 5, 1, five=True),
        _images("boil-omniglot-5w1s", "omniglot", 5, 1, five=True, adapt="body"),
    ]
    found += [prototypical("omniglot", n_way, k) for k in (1, 5) for n_way in (5, 20)]
    found += [_embedding(), prototypical("glyphs", 5, 1), *(prototypical("mini", 5, k) for k in (1, 5))]
    for k in (1, 5):
        name = f"maml-omniglot-mlp-5w{k}s"
        found.append(_images(name, "omniglot", 5, k, published=name, five=True, model="mlp_images"))
    found += [mini(method, 5, k) for method in ("maml", "fomaml", "anil", "metasgd") for k in (1, 5)]
    found += [transfer(method, 5, k) for method in ("nearest", "finetuning") for k in (1, 5)]
    name = "imaml-omniglot-5w1s"
    found += [
        _implicit(name, "omniglot", published=name),
        _implicit(f"{name}-first-order", "omniglot", solver_steps=0),
        _implicit("imaml-glyphs-5w1s", "glyphs"),
    ]
    return found + _rates()
