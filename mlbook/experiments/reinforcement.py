"""Rows of reinforcement learning: 2-D navigation and the half-cheetah."""

from __future__ import annotations

from mlbook.experiments.experiment import Experiment, Preset

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
        dataset="navigation",
        model="gaussian_policy",
        learner={"method": "maml_rl", "inner_lr": 0.5, **METHODS[method], **learner},
        k_shot=20,
        n_query=20,
        test_shot=40,
        test_steps=steps,
        report_step=steps,
        reported_steps=tuple(range(steps + 1)),
        published=published,
        world=visible or world,
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
        dataset=f"cheetah_{what}",
        model="gaussian_policy",
        learner={"method": "maml_rl", "inner_lr": 0.1, **METHODS[method]},
        k_shot=20,
        n_query=20,
        test_shot=40,
        test_steps=3,
        report_step=3,
        reported_steps=(0, 1, 2, 3),
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
