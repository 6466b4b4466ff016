"""Named experiments: one per published row. Tasks + model + meta-learner + presets, all plain values that hash to a run id.

One module a family, each with the same four functions: ``rows() -> experiments``, ``learner(config)``, ``tasks(config, learner,
split)`` and ``protocol(config)``. ``setup`` asks the right one and puts the answers together.
"""

from __future__ import annotations

from mlbook.errors import UserError
from mlbook.experiments import (
    architecture,
    augmentation,
    federated,
    images,
    imported,
    in_context,
    leo,
    optimizers,
    regression,
    reinforcement,
    reptile,
)
from mlbook.experiments.experiment import Experiment, Preset, Setup, run_id
from mlbook.experiments.networks import build_model
from mlbook.meta_learners.base import MetaLearner
from mlbook.tasks.episode import TaskDistribution

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Preset",
    "Setup",
    "build_learner",
    "build_model",
    "build_tasks",
    "config",
    "get",
    "protocol",
    "run_id",
    "setup",
    "trained_by",
]

FAMILIES = {
    "regression": regression,
    "images": images,
    "reptile": reptile,
    "leo": leo,
    "reinforcement": reinforcement,
    "optimizers": optimizers,
    "augmentation": augmentation,
    "architecture": architecture,
    "in_context": in_context,
    "federated": federated,
}
EXPERIMENTS: dict[str, Experiment] = {e.name: e for family in FAMILIES.values() for e in family.rows()}


def get(name: str) -> Experiment:
    """The experiment of that name; ``UserError`` with the nearest names if there is none."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    if own := imported.experiment(name):
        return own
    import difflib

    near = difflib.get_close_matches(name, EXPERIMENTS, n=2, cutoff=0.3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if dataset := imported.missing(name):
        hint += f" For a set of your own named {dataset}: python -m mlbook data import-images {dataset} --from FOLDER"
    raise UserError(f"no experiment is named {name!r}{hint} (python -m mlbook experiments lists them)")


def trained_by(name: str) -> str:
    """The experiment whose meta-training serves ``name``: its own, or one that shares its training with it."""
    return next((e.name for e in EXPERIMENTS.values() if name in e.shares_training_with), name)


def config(
    experiment: Experiment | str, preset: str, *, meta_steps: int | None = None, seed: int = 0
) -> dict:
    """All values that determine a run of an experiment, as plain JSON types."""
    experiment = get(experiment) if isinstance(experiment, str) else experiment
    return experiment.config(preset, meta_steps=meta_steps, seed=seed)


def setup(config: dict) -> Setup:
    """Learner, tasks and protocol of a configuration. The learner needs no data set to be here; the tasks do."""
    family = FAMILIES[imported.family(config) or get(config["name"]).family]
    return Setup(config, family, family.learner(config))


def build_learner(config: dict) -> MetaLearner:
    """The meta-learner that a configuration describes."""
    return setup(config).learner


def build_tasks(config: dict, split: str) -> TaskDistribution:
    """Its tasks of one split (``train``, ``validation``, ``test``), on the CPU."""
    return setup(config).tasks(split)


def protocol(config: dict) -> dict:
    """What has to be the same for two results to be compared."""
    return setup(config).protocol
