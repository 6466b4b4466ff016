"""Reinforcement learning: 2-D navigation and the half-cheetah.

Options of this family: ``world``, those of the environment where they are not its defaults. A preset may change the ``horizon``
and the ``trajectories`` of rollouts; they stand among the learner's options, where deviations are looked for.
"""

from __future__ import annotations

from dataclasses import replace

from mlbook.experiments.experiment import Experiment, Preset
from mlbook.meta_learners import MetaLearner
from mlbook.reinforcement import (
    MAMLRL,
    Environment,
    GaussianPolicy,
    Goals,
    HalfCheetah,
    Navigation,
    official_goals,
)


def environment(config: dict) -> Environment:
    """The environment of a configuration. ``UserError`` where its simulator is not installed."""
    options = dict(config.get("world") or {})
    if "horizon" in config["learner"]:
        options["horizon"] = config["learner"]["horizon"]
    if config["dataset"] == "navigation":
        return Navigation(**options)
    return HalfCheetah(task=config["dataset"].removeprefix("cheetah_"), **options)


def learner(config: dict) -> MAMLRL:
    apart = ("method", "horizon", "trajectories")
    options = {name: value for name, value in config["learner"].items() if name not in apart}
    place = environment(config)
    return MAMLRL(place, GaussianPolicy(place.observation_size, place.action_size), **options)


def tasks(config: dict, learner: MetaLearner, split: str) -> Goals:
    """Goals with noise for all rounds of rollouts that meta-training or meta-test needs."""
    test = split != "train"
    trajectories = config["learner"].get("trajectories") or config["test_shot" if test else "k_shot"]
    steps = config["test_steps"] if test else config["learner"]["inner_steps"]
    return Goals(environment(config), trajectories, steps + 1)


def listed_tasks(config: dict, learner: MetaLearner) -> dict[str, Goals]:
    """Navigation: the goals of the official code."""
    if config["dataset"] != "navigation":
        return {}
    return {"official_goals": replace(tasks(config, learner, "test"), fixed=official_goals())}


def protocol(config: dict) -> dict:
    """What has to be the same for two returns to be compared."""
    place = environment(config)
    return {
        "dataset": config["dataset"],
        "split": "test",
        "trajectories": config["learner"].get("trajectories") or config["test_shot"],
        "horizon": place.horizon,
        "reward": place.reward,
        "batch_norm": "not used",
    }


METHODS = {
    "maml": {"inner_steps": 1},
    "fomaml": {"inner_steps": 1, "first_order": True},
    "pretrained": {"inner_steps": 0},
    "oracle": {"inner_steps": 0},
    "random": {"inner_steps": 0},
}
"""MAML and its first-order version; one policy for all goals, trained without inner steps; the same where the observation
holds the goal; no training at all."""


def _navigation(method: str, *, suffix: str = "", world: dict | None = None, **learner) -> Experiment:
    """Section 5.3.1 of the paper: 20 goals in a meta-batch, 20 trajectories of 100 steps per gradient, 40 at meta-test. The inner
    rate 0.5, halved after the first step, is that of the official code (the paper's text says 0.1, then 0.05). The paper trains
    for 500 meta-steps at most and keeps the best policy; these keep the last one."""
    steps = 0 if method == "oracle" else 3
    visible = {"goal_visible": True} if method == "oracle" else None
    trained = method != "random"
    published = "maml-navigation-2d" if method == "maml" and not suffix else None
    return Experiment(
        name=f"{method}-navigation-2d{suffix}",
        family="reinforcement",
        dataset="navigation",
        model="gaussian_policy",
        learner={"method": "maml_rl", "inner_lr": 0.5, **METHODS[method], **learner},
        k_shot=20,
        n_query=20,
        test_shot=40,
        test_steps=steps,
        report_step=steps,
        published=published,
        options={"reported_steps": tuple(range(steps + 1)), "world": visible or world},
        presets={
            "quick": Preset(8 * trained, 10, evaluation_tasks=20),
            "colab": Preset(100 * trained, 20),
            "paper": Preset(500 * trained, 20),
        },
    )


def _cheetah(what: str, method: str = "maml") -> Experiment:
    """Section 5.3.2: horizon 200, inner rate 0.1 (in training and, halved after the first step, at meta-test), 40 tasks in a
    meta-batch, 20 trajectories per gradient."""
    return Experiment(
        name=f"{method}-cheetah-{what}",
        family="reinforcement",
        dataset=f"cheetah_{what}",
        model="gaussian_policy",
        learner={"method": "maml_rl", "inner_lr": 0.1, **METHODS[method]},
        k_shot=20,
        n_query=20,
        test_shot=40,
        test_steps=3,
        report_step=3,
        options={"reported_steps": (0, 1, 2, 3)},
        published="maml-cheetah-direction" if (what, method) == ("direction", "maml") else None,
        presets={
            "quick": Preset(2, 2, evaluation_tasks=2, options={"horizon": 20, "trajectories": 4}),
            "colab": Preset(200, 10, evaluation_tasks=20, options={"horizon": 100, "trajectories": 10}),
            "paper": Preset(500, 40, evaluation_tasks=40),
        },
    )


def rows() -> list[Experiment]:
    return [
        *(_navigation(method) for method in METHODS),
        _navigation("maml", suffix="-squared", world={"reward": "squared"}),
        _cheetah("direction"),
        _cheetah("velocity"),
    ]
