"""Experiments are plain values: their run ids stay, and every family answers the same four questions."""

import inspect
import json

import pytest
from package_fixtures import ROOT

from mlbook import experiments
from mlbook.meta_learners.base import MetaLearner
from mlbook.tasks.episode import TaskDistribution
from mlbook.training import runner

RUN_IDS = json.loads((ROOT / "tests/run_ids.json").read_text())
"""Written before the families had one interface. Shipped records and begun trainings name these."""


def test_run_ids_stay_as_they_are():
    """A new experiment or preset is added to the list; an entry that changes orphans the runs that carry it."""
    found = {
        name: {preset: experiments.run_id(experiment.config(preset)) for preset in experiment.presets}
        for name, experiment in experiments.EXPERIMENTS.items()
    }
    assert found == RUN_IDS


def test_a_run_id_changes_with_any_value():
    config = experiments.config("maml-omniglot-5w1s", "quick")
    ids = {experiments.run_id({**config, key: "other"}) for key in config} | {experiments.run_id(config)}
    assert len(ids) == len(config) + 1


@pytest.mark.parametrize("name", experiments.FAMILIES)
def test_every_family_has_the_same_four_functions(name):
    family = experiments.FAMILIES[name]
    wanted = {
        "rows": [],
        "learner": ["config"],
        "tasks": ["config", "learner", "split"],
        "protocol": ["config"],
    }
    found = {f: list(inspect.signature(getattr(family, f)).parameters) for f in wanted}
    assert found == wanted
    assert {experiment.family for experiment in family.rows()} == {name}


@pytest.mark.parametrize("name", ["maml-sinusoid-5shot", "maml-glyphs-5w1s", "leo-plane-3w1s"])
def test_a_configuration_is_made_into_learner_tasks_and_protocol(name, monkeypatch):
    experiment = experiments.get(name)
    family, made = experiments.FAMILIES[experiment.family], []
    monkeypatch.setattr(
        family, "learner", lambda config, build=family.learner: made.append(1) or build(config)
    )
    setup = experiments.setup(experiment.config("quick"))
    for split in ("train", "validation", "test"):
        assert isinstance(setup.tasks(split), TaskDistribution)
    assert isinstance(setup.learner, MetaLearner) and setup.protocol["dataset"] == experiment.dataset
    assert len(made) == 1  # whatever is asked for


def test_values_of_the_configuration_may_be_others_for_some_tasks():
    setup = experiments.setup(experiments.config("maml-glyphs-5w1s", "quick"))
    assert (setup.tasks("test").n_query, setup.tasks("test", test_query=7).n_query) == (1, 7)


def test_a_run_builds_its_learner_once_and_asks_its_experiment_twice(tmp_path, monkeypatch):
    """Once for the plain values, once for what they are made into; training and evaluation share that."""
    made, asked = [], []
    family = experiments.FAMILIES["leo"]
    monkeypatch.setattr(
        family, "learner", lambda config, build=family.learner: made.append(1) or build(config)
    )
    for name in ("get", "config", "setup", "build_learner", "build_tasks", "protocol", "trained_by"):
        own = getattr(experiments, name)

        def noted(*arguments, name=name, own=own, **options):
            asked.append(name)
            return own(*arguments, **options)

        monkeypatch.setattr(runner.experiments, name, noted)
    runner.run("leo-plane-3w3s", meta_steps=2, evaluation_tasks=2, device="cpu", out=tmp_path / "run")
    assert len(made) == 1
    assert asked == ["get", "setup", "get"]  # the last one from within setup: which family it is
