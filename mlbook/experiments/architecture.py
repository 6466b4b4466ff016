"""Architecture search: a controller, random search and a relaxation over the same 500 architectures."""

from __future__ import annotations

from mlbook.architecture import table as architecture_table
from mlbook.architecture.children import characters
from mlbook.architecture.controller import IndependentController, LSTMController
from mlbook.architecture.search import Chance, ControllerSearch, DrawnBatches, RelaxedSearch
from mlbook.experiments.experiment import Experiment, Preset
from mlbook.experiments.images import pool_of
from mlbook.meta_learners import MetaLearner

METHOD = "architecture_search"
STEPS = 300
"""Children that a search trains (of 500 there are), and outer steps of the relaxation."""
CONTROLLERS = {"lstm": LSTMController, "independent": IndependentController}
CLASSES = 50


def learner(config: dict) -> ControllerSearch | RelaxedSearch:
    options = {k: v for k, v in config["learner"].items() if k not in ("method", "search")}
    shared = {
        "table": architecture_table.load(),
        "searches": config["meta_batch_size"],
        "steps": config["meta_steps"],
    }
    if config["learner"]["search"] == "relaxed":
        return RelaxedSearch(**shared, classes=config["n_way"], **options)
    options["controller"] = CONTROLLERS[options.get("controller", "lstm")]()
    return ControllerSearch(**shared, **options)


def tasks(config: dict, learner: MetaLearner, split: str) -> Chance | DrawnBatches:
    """What chance brings to every update of the searches."""
    if config["learner"]["search"] == "relaxed":
        return DrawnBatches(characters(pool_of(config, "train"), CLASSES))
    return Chance()


def protocol(config: dict) -> dict:
    """What has to be the same for two searches to be compared."""
    return {
        "dataset": config["dataset"],
        "space": 500,
        "n_way": config["n_way"],
        "split": "test drawings",
        "children": config["report_step"],
        "batch_norm": "not used",
    }


def _row(name: str, presets: dict[str, Preset], **options) -> Experiment:
    return Experiment(
        name=name,
        family="architecture",
        dataset="omniglot",
        model="children",
        learner={"method": METHOD, **options},
        k_shot=0,
        n_query=0,
        n_way=CLASSES,
        test_steps=STEPS,
        report_step=STEPS,
        presets=presets,
    )


def rows() -> list[Experiment]:
    """The meta-batch is the number of independent searches. Full length in every preset but ``quick``: rewards are looked up."""
    looked_up = {
        "quick": Preset(STEPS, 20, evaluation_tasks=20),
        "colab": Preset(STEPS, 40, evaluation_tasks=40),
        "paper": Preset(STEPS, 40, evaluation_tasks=40),
    }
    trained = {
        "quick": Preset(30, 2, evaluation_tasks=2),
        "colab": Preset(STEPS, 10, evaluation_tasks=10),
        "paper": Preset(STEPS, 10, evaluation_tasks=10),
    }
    return [
        _row("nas-controller", looked_up, search="controller"),
        _row("nas-controller-no-baseline", looked_up, search="controller", baseline_decay=None),
        _row(
            "nas-controller-independent",
            looked_up,
            search="controller",
            controller="independent",
            meta_lr=0.05,
        ),
        _row("nas-random", looked_up, search="controller", learns=False),
        _row("nas-relaxed", trained, search="relaxed"),
    ]
