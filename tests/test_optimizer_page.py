"""Chapter 15: its figures, and what its text says of recorded trainings."""

import json
import re
from dataclasses import replace

import pytest
import torch
from chapter_cells import executed, source
from package_fixtures import ROOT, rng

from mlbook import experiments, results
from mlbook.data import glyphs
from mlbook.data.tensor_file import load_tensors
from mlbook.meta_learners import bilevel
from mlbook.optimizers import SGD, Adam, LearnedOptimizer, Quadratic, losses, tuned
from mlbook.optimizers.rules import HAND_DESIGNED
from mlbook.pages import checks
from mlbook.pages.figures import optimizer_figures
from mlbook.tasks.optimization_problems import QuadraticProblem, Quadratics
from mlbook.training.evaluation import fixed_episodes
from studies import optimizers as study

QUADRATIC = "learned-optimizer-quadratic"


@pytest.fixture(scope="module")
def trained():
    config, meta = results.pretrained(QUADRATIC)
    return experiments.build_learner(config), meta


def test_the_trained_rule_ends_below_tuned_rivals(trained):
    """The comparison of the page, on problems of other seeds."""
    learner, meta = trained
    tuning, fresh = (Quadratics().sample(200, torch.Generator().manual_seed(seed)) for seed in (31, 32))
    mine = learner.scores(meta, fresh, 100, range(101))
    differences = {}
    for name in ("Adam", "momentum"):
        rate, _ = tuned(HAND_DESIGNED[name], Quadratic(), tuning, 100)
        theirs = losses(HAND_DESIGNED[name](rate), Quadratic(), fresh, 100)
        differences[name] = theirs[:, 100] - mine[:, 100]
        assert mine[:, 1:].mean() < theirs[:, 1:].mean(), (
            "in the mean over all steps, for which it was trained"
        )
    for name, least in (("Adam", 2.0), ("momentum", 1.0)):
        interval = 1.96 * differences[name].std() / len(fresh.start) ** 0.5
        assert differences[name].mean() > least * interval


def test_the_ablation_has_all_its_rows_with_equal_length():
    names = ["", "-log-sign", "-unroll-5", "-unroll-100", "-second-derivatives"]
    found = {r["experiment"]: r for r in results.runs() if r["preset"] == "quick"}
    rows = [found[QUADRATIC + name] for name in names]
    assert len({(r["meta_steps"], r["evaluation"]["tasks"], r["config"]["seed"]) for r in rows}) == 1
    as_above, log_sign, short, whole, kept = (r["evaluation"]["loss"] for r in rows)
    assert kept < short < as_above < log_sign < whole, "the order that the page names"
    assert kept < as_above / 2 and results.run_record(QUADRATIC)["evaluation"]["loss"] < kept + 0.005


# -- from an empty cell, and by hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_rule_from_an_empty_cell_ends_below_tuned_rivals(seed, capsys):
    executed(
        "15",
        "code-100",
        "code-101",
        "code-102",
        replacing={"manual_seed(0)": f"manual_seed({seed})"},
    )
    printed = capsys.readouterr().out
    after_20, after_100 = re.search(r"learned: after 20 steps ([\d.]+), after 100 ([\d.]+)", printed).groups()
    rivals = re.findall(r"^(\w+), rate [\d.]+: ([\d.]+) and ([\d.]+);.* by (\S+) ± ([\d.]+)$", printed, re.M)
    assert [name for name, *_ in rivals] == ["SGD", "Adam"]
    for _, theirs_20, theirs_100, apart, half in rivals:
        assert float(apart) > float(half) and float(theirs_20) > float(after_20)
        assert float(theirs_100) > float(after_100)


def test_the_two_steps_by_hand_are_those_of_the_recursion(capsys):
    its = executed("15", "code-103", given={"torch": torch})
    capsys.readouterr()
    text = source("15", "md-012")
    for kept, wanted in ((True, -0.872), (False, -0.936)):
        assert its["by_recursion"](0.4, kept) == pytest.approx(wanted, abs=1e-12)
        assert its["by_autograd"](0.4, kept) == pytest.approx(wanted, abs=1e-12)
        assert f"{wanted}$" in text
    assert its["by_autograd"](0.4, True, window=1) == pytest.approx(-0.696, abs=1e-12)
    assert "=-0.696$" in source("15", "md-016")


# -- what it says of truncation and of other functions -----------------------------------------------------------------


def test_at_the_trained_weights_the_truncated_estimate_is_mostly_noise(trained):
    learner, meta = trained
    keeping, found = replace(learner, second_derivatives=True), {"true": [], "kept": [], "dropped": []}
    for seed in (21, 22, 23):
        functions = Quadratics().sample(32, rng(seed))
        for name, its, window in (("true", keeping, 100), ("kept", keeping, 20), ("dropped", learner, 20)):
            estimate = bilevel.truncated(its.unrolled(functions), 100, window)
            found[name].append({"": estimate(meta["params"]).gradient})
    for true, kept, dropped in zip(*found.values(), strict=True):
        assert checks.cosine(kept, true) > 0.7 and checks.cosine(dropped, true) < 0.3
    for i, j in ((0, 1), (0, 2), (1, 2)):
        true, followed = (checks.cosine(found[name][i], found[name][j]) for name in ("true", "dropped"))
        assert true > followed and true > 0.4


def test_where_it_fails(trained):
    learner, meta = trained

    def ends(make_problems, rates_per=1.0):
        fresh, tuning = make_problems(13), make_problems(14)
        mine = learner.scores(meta, fresh, 100, [100]).mean()
        theirs = []
        for name, unit in (("momentum", rates_per), ("Adam", 1.0)):
            rates = [r * unit for r in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)]
            rate, _ = tuned(HAND_DESIGNED[name], Quadratic(), tuning, 100, rates)
            theirs.append(losses(HAND_DESIGNED[name](rate), Quadratic(), fresh, 100, only_last=True).mean())
        return float(mine), float(min(theirs))

    def scaled(c):
        def make(seed):
            W, y, start = Quadratics().sample(100, rng(seed))
            return QuadraticProblem(W * c**0.5, y * c**0.5, start)

        return make

    as_trained, _ = ends(scaled(1.0))
    for c in (100.0, 0.01):
        mine, theirs = ends(scaled(c), 1 / c)
        assert mine / c > 5 * as_trained and mine > theirs
    mine, theirs = ends(lambda seed: Quadratics(20).sample(100, rng(seed)))
    assert mine > 5 * theirs
    mine, theirs = ends(lambda seed: Quadratics(5).sample(100, rng(seed)))
    assert mine < 1.5 * theirs


def test_the_figures_say_what_they_show():
    rule = LearnedOptimizer(Quadratic()).rule(
        LearnedOptimizer(Quadratic()).init(torch.Generator().manual_seed(0)).meta["params"]
    )
    drawn = [
        optimizer_figures.unrolled_graph(),
        optimizer_figures.preprocessing(),
        optimizer_figures.loss_curves({"Adam": [1.0, 0.5, None], "learned": [1.0, 0.2, 0.1]}, trained=1),
        optimizer_figures.steps_of(
            rule, torch.linspace(-1, 1, 11), others={"Adam": Adam(0.1), "SGD": SGD(0.1)}
        ),
    ]
    for fig, alt in drawn:
        assert fig.axes and len(alt) > 60 and alt.endswith(".")
    assert "Adam diverged" in drawn[2][1] and "learned 0.1" in drawn[2][1]


# -- the study -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", study.NAMES.values(), ids=lambda path: path.stem)
def test_the_record_is_of_the_shipped_weights(path):
    record = results.study(path.stem)
    _, header = load_tensors(results.pretrained_path(record["experiment"]))
    assert record["run"] == header["run"]
    assert "as trained" in record["conditions"] and set(record["conditions"]) <= set(study.CONDITIONS)
    for row in record["conditions"].values():
        assert set(row["rules"]) == {"learned", *study.RIVALS}
        for rule, its in row["rules"].items():
            assert len(its["by_step"]) == row["steps"] + 1
            if rule != "learned":
                grid = row["rates"][rule]["grid"]
                finite = {float(rate): value for rate, value in grid.items() if value is not None}
                assert row["rates"][rule]["rate"] == min(finite, key=finite.get)


def test_on_one_set_the_learned_rule_wins_as_trained_and_fails_with_relu():
    """What chapter 15 says of the second family, with the paper's failure among it."""
    conditions = results.study("optimizers_one_set")["conditions"]

    def apart(name, rule):
        """A rival's final loss minus the learned rule's, paired, in widths of its 95 % interval."""
        its = conditions[name]["rules"][rule]["minus_learned"]
        return its["mean"] / its["ci95"]

    for rule in study.RIVALS:
        assert apart("as trained", rule) > 1 and apart("40 units", rule) > 1
        assert apart("ReLU", rule) < -1, "the published failure"
    learned, adam = (conditions["ReLU"]["rules"][rule]["mean"] for rule in ("learned", "Adam"))
    assert learned > 2 * adam
    assert apart("two hidden layers", "RMSprop") < -1
    assert all(apart("200 steps", rule) < -1 for rule in study.RIVALS if rule != "SGD")
    # and the rivals find ReLU easier: with rates tuned on it the best of them ends lower
    best = [
        min(c["rules"][r]["mean"] for r in study.RIVALS)
        for c in (conditions["as trained"], conditions["ReLU"])
    ]
    assert best[1] < best[0]


def test_with_characters_of_its_own_it_wins_on_all_problems_and_with_relu_on_most():
    conditions = results.study("optimizers")["conditions"]
    for rule in study.RIVALS:
        assert conditions["as trained"]["rules"][rule]["worse"] == 1
        assert conditions["40 units"]["rules"][rule]["worse"] == 1
        its = conditions["ReLU"]["rules"][rule]
        assert 0.5 < its["worse"] < 1
        assert its["minus_learned"]["mean"] < its["minus_learned"]["ci95"], (
            "in the mean no better than this rival"
        )
    assert conditions["two hidden layers"]["rules"]["RMSprop"]["worse"] < 0.1


def test_a_small_study(tmp_path, monkeypatch):
    name = "learned-optimizer-mlp-glyphs"
    config = experiments.config(experiments.get(name), "quick")
    learner = experiments.build_learner(config)
    meta = learner.init(torch.Generator().manual_seed(0)).meta
    monkeypatch.setattr(study, "RATES", dict.fromkeys(study.RIVALS, (0.1, 1.0)))
    found = study.condition(config, meta, {"steps": 3, "model": "mlp_784-4-10_relu"}, 3, 2)
    assert found["steps"] == 3 and found["model"] == "mlp_784-4-10_relu"
    its = found["rules"]["learned"]
    assert its["minus_learned"]["mean"] == 0 and its["by_step"][0] == pytest.approx(2.303, abs=0.05)
    # the same three problems for every rule
    problems = next(iter(fixed_episodes(experiments.build_tasks(config, "test"), 3, study.SEED)))
    assert problems.n_tasks == 3 and glyphs.load("test").n_examples * 10 == problems.x.shape[1]


def test_the_study_takes_no_weights_of_another_experiment(capsys):
    path = results.pretrained_path(QUADRATIC)
    with pytest.raises(SystemExit) as stop:
        study.main(["learned-optimizer-mlp-one-set", "--checkpoint", str(path)])
    assert stop.value.code == 2
    assert (
        "is of learned-optimizer-quadratic, not of learned-optimizer-mlp-one-set" in capsys.readouterr().err
    )


def test_the_page_quotes_the_issue_and_not_from_memory():
    rows = {row["problem"]: row["log10_final_loss"] for row in results.reproductions_of_learned_optimizers()}
    assert rows["quadratic"] == {"learned": -0.70, "Adam": -0.06}
    assert rows["mnist"] == {"learned": 0.18, "Adam": -0.31}
    text = (ROOT / "book" / "15_learned_optimizers.ipynb").read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    prose = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert "issue 31" in prose and "0.18" not in prose
