"""Chapter 1: after how many tasks meta-training has paid, from the record of `studies.break_even`."""

import torch

from mlbook import results
from mlbook.pages.checks import comparison
from mlbook.tasks import Sinusoids
from studies import break_even

RECORD = results.study("break_even")


def test_the_costs_are_those_of_the_shipped_run():
    run = results.run_record(break_even.META_TRAINED)
    config, before = run["config"], RECORD["meta_training"]
    per_task = comparison.cost("MAML", config["learner"]["inner_steps"], config["k_shot"], config["n_query"])
    assert before["tasks"] == config["meta_steps"] * config["meta_batch_size"]
    assert before["cost"] == per_task.example_gradients * before["tasks"]
    assert RECORD["aim"] == run["evaluation"]["mean"][break_even.ADAPTED]
    assert RECORD["adaptation"]["cost"] == RECORD["adaptation"]["steps"] * config["test_shot"]


def test_the_sentences_of_the_page():
    scratch, adapted = RECORD["scratch"], RECORD["adaptation"]
    few = scratch[str(adapted["points"])]
    assert not few["reached"] and few["mean"] > 5 * RECORD["aim"]  # "does not get there at any cost"
    for points, row in scratch.items():
        if int(points) > adapted["points"]:
            assert (
                row["reached"] and row["mean"] <= RECORD["aim"] and row["cost"] == row["steps"] * int(points)
            )
            after = RECORD["meta_training"]["cost"] / (row["cost"] - adapted["cost"])
            assert 9_000 < after < 30_000  # "some ten thousand tasks of one kind or more"


def test_training_from_scratch_learns(monkeypatch):
    monkeypatch.setattr(break_even, "STEPS", 50)
    episodes = Sinusoids(20, 10).sample(3, torch.Generator().manual_seed(0))
    errors = break_even.trained_from_scratch(episodes, 0.01)
    assert errors.shape == (2, 3) and errors[1].mean() < errors[0].mean()
