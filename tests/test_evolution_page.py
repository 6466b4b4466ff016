"""The page on evolution strategies and its section in chapter 15: what they say of records is so."""

import json

import pytest
import torch
from package_fixtures import ROOT, rng

from mlbook import results
from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.optimizers import LearnedOptimizer, Quadratic
from mlbook.pages.checks import equal_cost
from mlbook.pages.figures import evolution_figures
from mlbook.tasks.optimization_problems import Quadratics


def records(name):
    found = [r for r in results.runs() if r["experiment"] == name and r["preset"] == "colab"]
    return sorted(found, key=lambda r: r["config"]["seed"])


def on_the_way(record):
    return sum(record["evaluation"]["mean"][1:]) / 100


def test_evolution_trains_the_rule_that_backpropagation_trains_badly():
    pes, es = records("pes-optimizer-quadratic"), records("es-optimizer-quadratic")
    assert len(pes) == len(es) == 3 and {r["meta_steps"] for r in pes + es} == {200}
    cut, whole = (records(f"small-optimizer-quadratic-unroll-{unroll}") for unroll in (20, 100))
    assert len(cut) == len(whole) == 3
    assert max(map(on_the_way, pes + es)) < 0.8 * min(map(on_the_way, cut + whole))
    assert sum(map(on_the_way, whole)) > sum(map(on_the_way, cut))
    # on the way the two evolution strategies cannot be told apart; at the end PES is lower in all seeds
    assert (
        min(map(on_the_way, pes))
        < min(map(on_the_way, es))
        <= max(map(on_the_way, es))
        < max(map(on_the_way, pes))
    )
    ends = [[r["evaluation"]["loss"] for r in its] for its in (pes, es)]
    assert max(ends[0]) < min(ends[1]) - 0.01


def test_the_outer_gradient_explodes_while_the_loss_falls():
    _, trained = results.pretrained("pes-optimizer-quadratic")
    phi = {name: p.double() for name, p in trained["params"].items()}
    keeping = LearnedOptimizer(Quadratic(), units=6, layers=1, p=10.0, scale=0.1, second_derivatives=True)
    problems = Quadratics().sample(16, torch.Generator().manual_seed(3)).to(torch.float64)
    sizes, losses = [], []
    for steps in (10, 50, 100):
        found = bilevel.exact(keeping.unrolled(problems), steps)(phi)
        sizes.append(float(sum(g.square().sum() for g in found.gradient.values()).sqrt()))
        losses.append(float(found.value) / steps)
    assert sizes[0] < 100 < sizes[1] and sizes[2] > 1e6 * sizes[0]
    assert losses[0] > losses[1] > losses[2]


def test_what_is_said_of_the_five_variables():
    record = results.study("equal_cost")
    assert (record["runs"], record["steps"], record["seeds"]) == (12, 40, 6)
    variables = record["variables"]

    def apart(variable, way):
        its = variables[variable][way]["minus_first"]
        return its["mean"] / its["ci95"]

    for way in ("evolution", "persistent_evolution"):
        assert apart("initialisation", way) > 1
    for variable in ("rate", "optimiser"):
        assert all(apart(variable, way) < 1 for way in variables[variable] if way != "exact")
        row = variables[variable]["truncated"]
        assert row["off"] > 2 * row["noise"] and row["off"] > 0.85
    for variable in ("initialisation", "rate", "optimiser"):
        for way in ("evolution", "persistent_evolution"):
            row = variables[variable][way]
            assert row["off"] < row["noise"]
    for variable in ("augmentation", "architecture"):
        ends = {way: row["J"]["mean"] for way, row in variables[variable].items()}
        assert min(ends, key=ends.get) == "relaxed"
        assert variables[variable]["relaxed"]["off"] > variables[variable]["relaxed"]["noise"]
    score, evolution = (
        variables["augmentation"][way]["minus_first"] for way in ("score_function", "evolution")
    )
    assert score["mean"] - score["ci95"] > evolution["mean"] + evolution["ci95"]
    row = variables["architecture"]
    assert row["relaxed"]["J"]["mean"] < row["score_function"]["J"]["mean"] < row["evolution"]["J"]["mean"]
    assert row["evolution"]["off"] > row["evolution"]["noise"]


def test_estimates_at_equal_cost_are_what_they_are_called():
    for variable in ("rate", "architecture"):
        for way in equal_cost.ways(variable):
            found = equal_cost.estimator(variable, way, 6, rng(1))(equal_cost.start(variable))
            assert torch.isfinite(found.gradient[variable]).all() and float(found.value) > 0
    path = list(equal_cost.learn("architecture", "evolution", 6, 2))
    assert len(path) == 3
    with pytest.raises(UserError, match="has the estimates"):
        equal_cost.estimator("rate", "relaxed", 6, rng())
    with pytest.raises(UserError, match="multiple of 6"):
        equal_cost.estimator("rate", "exact", 7, rng())


def test_figures_say_what_they_show():
    _, words = evolution_figures.reach_of_memory()
    assert "negative from 41 steps on" in words
    for _, alt in (
        evolution_figures.a_pair(),
        evolution_figures.errors_by_dimension((1, 3), {0.1: (2.0, 4.0)}),
        evolution_figures.walks({"PES, window 1": [0.5, 0.4]}),
        evolution_figures.growing_gradients((1, 2), {"a": (1.0, 2.0)}),
    ):
        assert len(alt) > 40


def test_chapter_15_has_the_section_and_leads_to_the_page():
    text = (ROOT / "book" / "15_learned_optimizers.ipynb").read_text(encoding="utf-8")
    prose = "".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    assert "## When nothing can be differentiated" in prose and "<reproducing_evolution>" in prose
