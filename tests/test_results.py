"""The ledger: published rows, our records, and the checkpoints that belong to them."""

import json

import pytest
import torch

from mlbook import experiments, results
from mlbook.data.tensor_file import load_tensors
from mlbook.errors import CheckpointError
from mlbook.experiments import EXPERIMENTS

RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted(results.RUNS.glob("*.json"))}
PRETRAINED = sorted(results.PRETRAINED.glob("*"))


# -- published ------------------------------------------------------------------------------------------------------


def test_every_published_row_says_what_how_and_where_from():
    assert results.published()
    for key, row in results.published().items():
        assert set(row) >= {"title", "metric", "value", "ci95", "protocol", "source"}, key
        assert row["metric"] in ("accuracy", "mse", "return"), key
        assert isinstance(row["value"], int | float), key
        if row["metric"] == "accuracy":
            assert 0 < row["value"] <= 1, key
        assert row["ci95"] is None or 0 < row["ci95"] < row["value"], key
        assert len(row["protocol"]) > 10 and len(row["source"]) > 5, key
        if "by_step" in row:
            assert row["by_step"][str(row["step"])] == row["value"], key


def test_the_published_numbers_of_maml_are_those_of_the_paper():
    published = results.published()
    assert published["maml-sinusoid-5shot"]["by_step"] == {"1": 0.67, "5": 0.38, "10": 0.35}
    for key, value, ci95 in (
        ("maml-omniglot-5w1s", 0.987, 0.004),
        ("maml-omniglot-5w5s", 0.999, 0.001),
        ("maml-omniglot-20w1s", 0.958, 0.003),
        ("maml-omniglot-20w5s", 0.989, 0.002),
    ):
        assert (published[key]["value"], published[key]["ci95"]) == (value, ci95)


def test_every_published_key_of_an_experiment_exists():
    for experiment in EXPERIMENTS.values():
        if experiment.published is not None:
            row = results.published()[experiment.published]
            agent = experiment.learner.get("method") == "maml_rl"
            metric = "return" if agent else "mse" if experiment.dataset == "sinusoid" else "accuracy"
            assert row["metric"] == metric, experiment.name


def test_the_ledger_has_every_experiment_and_every_published_row_once():
    rows = results.ledger()
    names = [row["experiment"] for row in rows]
    assert len(set(names)) == len(names) and set(EXPERIMENTS) <= set(names)
    shown = [json.dumps(row["published"], sort_keys=True) for row in rows if row["published"]]
    for key, row in results.published().items():
        assert json.dumps(row, sort_keys=True) in shown, key
    for row in rows:
        assert results.status(row) in ("run", "not run yet", "quoted", "no experiment yet")
        assert (results.status(row) == "run") == (row["ours"] is not None)


# -- ours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", RECORDS)
def test_a_run_record_belongs_to_an_experiment_and_to_its_configuration(stem):
    record = RECORDS[stem]
    config, evaluation = record["config"], record["evaluation"]
    experiment = experiments.get(record["experiment"])
    assert config["name"] == record["experiment"]
    assert record["run"] == experiments.run_id(config)
    assert stem == f"{record['experiment']}-{record['preset']}-seed{config['seed']}"
    assert record["preset"] == config["preset"] in experiment.presets
    assert record["meta_steps"] == config["meta_steps"]
    assert set(record) >= {"seconds", "device", "versions", "commit", "date", "curve"}
    assert len(evaluation["mean"]) == len(evaluation["ci95_by_step"]) == config["test_steps"] + 1
    assert evaluation["step"] == config["report_step"]
    assert evaluation[evaluation["metric"]] == evaluation["mean"][evaluation["step"]]
    assert evaluation["ci95"] == evaluation["ci95_by_step"][evaluation["step"]]
    mode = config.get("test_batch_norm", "transductive")
    assert evaluation["protocol"] == {"batch_norm": mode, "seed": 1, **experiments.protocol(config)}
    if record["preset"] != "quick":
        few = evaluation["metric"] == "loss"  # a task of an optimiser is a whole training
        # a half-cheetah is simulated step by step, and its directions are two
        simulated = record["experiment"].split("-")[1] == "cheetah"
        searches = config["learner"].get("method") == "architecture_search"  # and here a whole search
        clients = config.get("clients", "personal") != "personal"  # all that there are
        least = (
            10 if searches else 100 if few else 20 if simulated else config["population"] if clients else 600
        )
        assert evaluation["tasks"] >= least


@pytest.mark.parametrize("path", PRETRAINED, ids=lambda path: path.stem)
def test_a_shipped_checkpoint_is_small_loads_and_belongs_to_its_record(path):
    assert path.suffix == ".safetensors" and path.stem in EXPERIMENTS
    assert path.stat().st_size < 1_000_000
    record = results.run_record(path.stem)
    assert record is not None, "a checkpoint without the record of its run"
    _, header = load_tensors(path)
    assert {key: header[key] for key in ("experiment", "preset", "run")} == {
        key: record[key] for key in ("experiment", "preset", "run")
    }
    config, meta = results.pretrained(path.stem)
    assert config == record["config"]
    assert all(torch.isfinite(p).all() for group in meta.values() for p in group.values())
    assert results.pretrained_path(path.stem) == path


def test_a_checkpoint_that_is_not_shipped_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "PRETRAINED", tmp_path)
    with pytest.raises(CheckpointError, match="python -m mlbook train maml-sinusoid-5shot"):
        results.pretrained("maml-sinusoid-5shot")


def record(name, preset, *, seed=0, meta_steps=None):
    config = experiments.config(experiments.get(name), preset, seed=seed, meta_steps=meta_steps)
    return {"experiment": name, "preset": preset, "config": config, "meta_steps": config["meta_steps"]}


def test_deviations_name_every_changed_option_and_nothing_else():
    assert results.deviations(record("maml-omniglot-5w1s", "paper")) == "none"
    assert results.deviations(record("maml-omniglot-5w1s", "paper", seed=5)) == "none"
    text = results.deviations(record("maml-omniglot-5w1s", "colab"))
    changes = dict(change.split(" ", 1) for change in text.split("; "))
    assert changes == {
        "meta_steps": "14000 instead of 60000",
        "meta_batch_size": "16 instead of 32",
        "n_query": "3 instead of 1",
        "inner_loss": "mean instead of class_sum",
        "meta_lr": "0.002 instead of 0.001",
        "meta_lr_decay": "cosine instead of the default",
    }
    assert results.deviations(record("maml-sinusoid-5shot", "colab")) == "meta_steps 20000 instead of 70000"
    assert "meta_steps 7 instead of 70000" in results.deviations(
        record("maml-sinusoid-5shot", "paper", meta_steps=7)
    )


def test_the_longest_run_is_shown_and_of_equals_the_smallest_seed(monkeypatch):
    name = "maml-sinusoid-5shot"
    made = [record(name, p, seed=s) for p, s in (("quick", 0), ("colab", 2), ("colab", 1), ("quick", 1))]
    monkeypatch.setattr(results, "runs", lambda: made)
    assert results.run_record(name) is made[2]
    assert results.run_record("fomaml-sinusoid-5shot") is None


def test_only_experiments_without_a_full_length_run_are_pending(monkeypatch):
    row = {"experiment": "maml-sinusoid-5shot", "published": None, "ours": None}
    assert results.is_pending(row)
    assert results.is_pending({**row, "ours": {"preset": "colab"}})
    assert not results.is_pending({**row, "ours": {"preset": "paper"}})
    assert not results.is_pending({**row, "experiment": "matching-networks"})


def test_trainings_that_differ_in_the_seed_alone_stand_beside_each_other():
    def run(seed, mean, *, meta_steps=100, tasks=600):
        evaluation = {"metric": "accuracy", "accuracy": mean, "mean": [0.2, mean], "step": 1, "tasks": tasks}
        config = {"seed": seed, "meta_steps": meta_steps}
        return {"experiment": "some", "config": config, "meta_steps": meta_steps, "evaluation": evaluation}

    records = [run(1, 0.5), run(0, 0.9), run(2, 0.7), run(3, 0.1, meta_steps=50), run(4, 0.1, tasks=100)]
    records.append({**run(5, 0.1), "experiment": "another"})
    found = results.by_seed(records[1], records)
    assert found == {0: 0.9, 1: 0.5, 2: 0.7}
    row = {"ours": {"metric": "accuracy", "by_seed": found}}
    assert results.trainings(row) == "3 trainings: 90.00, 50.00, 70.00 (standard deviation 20.00)"
    assert results.trainings({"ours": {"metric": "mse", "by_seed": {0: 0.1}}}) == ""
    assert results.trainings({"ours": {"metric": "mse", "by_seed": {0: 0.1, 1: 0.3}}}).endswith(
        "deviation 0.141)"
    )


def test_every_training_of_a_shown_recipe_is_in_the_ledger():
    rows = {row["experiment"]: row["ours"] for row in results.ledger() if row["ours"]}
    several = {name: its["by_seed"] for name, its in rows.items() if len(its["by_seed"]) > 1}
    assert len(several) > 20
    for name, its in rows.items():
        assert its["by_seed"][its["seed"]] == its["by_step"][its["step"]], name
