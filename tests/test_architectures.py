"""Architecture search: the space and its children, the controller against the full enumeration, searches as experiments."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from package_fixtures import ROOT, rng
from torch.func import vmap

from mlbook import experiments
from mlbook.architecture import children
from mlbook.architecture import table as architecture_table
from mlbook.architecture.controller import (
    IndependentController,
    LSTMController,
    distribution,
    draw,
    log_probability,
    moving_average,
    reinforce,
)
from mlbook.architecture.search import (
    Chance,
    ControllerSearch,
    DrawnBatches,
    RelaxedSearch,
    first_best,
    row_numbers,
)
from mlbook.architecture.table import ArchitectureTable
from mlbook.cli import main
from mlbook.data import glyphs, omniglot
from mlbook.data.pools import ClassPool
from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.pages import checks
from mlbook.training.runner import run

SMALL = (3, 2, 4)
CONTROLLERS = [LSTMController(SMALL, units=5), IndependentController(SMALL)]
CONTROLLER_IDS = ["lstm", "independent"]


def space_of(sizes):
    return torch.tensor(list(itertools.product(*map(range, sizes))))


def one(controller, seed=0, scale=10.0):
    """θ_c of one search in double precision, far from uniform."""
    noise = rng(seed)
    return {
        k: scale * (torch.rand(v[0].shape, generator=noise, dtype=torch.float64) - 0.5) / 4 + v[0].double()
        for k, v in controller.init(noise, 1).items()
    }


@pytest.fixture(scope="module")
def data():
    images = torch.randint(0, 256, (6, 20, 1, 28, 28), generator=rng(), dtype=torch.uint8)
    return children.characters(ClassPool(images), 6)


# -- the space and its children ------------------------------------------------------------------------------------------


def test_the_space_is_enumerated_in_the_order_of_its_numbers():
    space = children.enumerate_space()
    assert len(space) == 500 == math.prod(children.SIZES)
    assert [children.number(a) for a in space] == list(range(500))
    assert torch.equal(row_numbers(torch.tensor(space), children.SIZES), torch.arange(500))
    assert children.name(space[-1]) == "conv3 · conv3 · conv3, tanh, shortcut"
    with pytest.raises(UserError, match="between 0 and 4"):
        children.number((5, 0, 0, 0, 0))


def test_the_parts_share_characters_and_no_drawing():
    images = torch.arange(3 * 20, dtype=torch.uint8).view(3, 20, 1, 1, 1).expand(3, 20, 1, 28, 28)
    parts = children.characters(ClassPool(images.contiguous()), 3)
    seen = [set(x[:, 0, 0, 0].tolist()) for x in (parts.train_x, parts.validation_x, parts.test_x)]
    assert list(map(len, seen)) == [30, 15, 15] and len(set.union(*seen)) == 60
    assert parts.classes == 3 and parts.test_y.bincount().tolist() == [5, 5, 5]
    with pytest.raises(UserError, match="are needed"):
        children.characters(ClassPool(images.contiguous()), 4)


@pytest.mark.parametrize("choice", [(0, 1, 2, 0, 1), (3, 4, 4, 1, 0)])
def test_a_one_hot_mixture_is_the_child_itself(choice, data):
    """Of the network that has every option, with the weights that the child uses."""
    everything = children.initial(None, 6, rng())
    own = {k: everything[k] for k in children.initial(choice, 6, rng())}
    soft = [
        torch.nn.functional.one_hot(torch.tensor(i), n).float()
        for i, n in zip(choice, children.SIZES, strict=True)
    ]
    x = data.test_x[:5]
    assert torch.allclose(children.forward(everything, soft, x), children.forward(own, choice, x), atol=1e-6)


def test_a_child_is_the_network_that_torchs_layers_make(data):
    choice = (4, 3, 1, 1, 1)  # conv3, depthwise3, max_pool, tanh, shortcut
    w = children.initial(choice, 6, rng())
    x = data.test_x[:4]
    conv = torch.nn.functional.conv2d
    first = torch.tanh(conv(x, w["stem.weight"], w["stem.bias"], stride=2, padding=1))
    h = torch.tanh(conv(first, w["0.conv3.weight"], w["0.conv3.bias"], padding=1))
    h = torch.tanh(conv(h, w["1.depthwise3.weight"], w["1.depthwise3.bias"], padding=1, groups=8))
    h = torch.nn.functional.max_pool2d(h, 3, 1, 1) + first
    pooled = torch.nn.functional.avg_pool2d(h, 3, 2)
    assert first.shape == (4, 8, 7, 7) and pooled.shape == (4, 8, 3, 3)
    wanted = pooled.flatten(1) @ w["head.weight"].T + w["head.bias"]
    assert torch.allclose(children.forward(w, choice, x), wanted, atol=1e-6)


def test_children_trained_together_are_those_trained_alone(data):
    choice, training = (2, 0, 4, 0, 0), children.Training(steps=8, batch=20)
    together = children.train_children(choice, data, [3, 5], training)
    for i, seed in enumerate((3, 5)):
        alone = children.train_children(choice, data, [seed], training)
        for key, value in alone.items():
            assert torch.allclose(together[key][i], value[0], atol=1e-5), key
    found = children.accuracies(together, choice, data)
    assert found.shape == (2, 2) and 0 <= found.min() and found.max() <= 1


# -- the table -----------------------------------------------------------------------------------------------------------


def test_the_shipped_table_is_whole_and_says_where_it_comes_from():
    table = architecture_table.load()
    assert table.validation.shape == table.test.shape == (500, 4)
    assert 0 < table.test.min() and table.test.max() < 1
    wanted = {"dataset", "classes", "drawings", "training", "seeds", "versions", "made_by", "machine", "date"}
    assert wanted <= set(table.about)
    assert (ROOT / "mlbook" / "results" / "architectures.json").stat().st_size < 200_000


def test_a_search_is_judged_by_seeds_that_it_has_not_seen():
    test = torch.tensor([[0.1, 0.5, 0.6], [0.9, 0.2, 0.1]], dtype=torch.float64)
    table = ArchitectureTable(test + 0.01, test, {})
    assert table.rewards(0).tolist() == pytest.approx([0.11, 0.91])
    assert table.worth(0).tolist() == pytest.approx([0.55, 0.15])
    both = table.worth(torch.tensor([0, 2]))
    assert both.shape == (2, 2) and both[1].tolist() == pytest.approx([0.3, 0.55])
    assert table.best(torch.tensor([0, 2]), 0.5).tolist() == [[True, False], [False, True]]
    with pytest.raises(UserError, match="fraction"):
        table.best(0, 0.0)


@pytest.mark.skipif(not omniglot.available(), reason="the table was made with Omniglot")
def test_a_row_of_the_table_is_what_training_gives():
    table, data = architecture_table.load(), children.characters(omniglot.load("train"))
    choice = (4, 0, 0, 0, 1)
    found = children.accuracies(children.train_children(choice, data, range(2)), choice, data).double()
    row = children.number(choice)
    # other machines round otherwise, and 150 steps let that grow
    assert (found[:, 0] - table.validation[row, :2]).abs().max() < 0.08
    assert (found[:, 1] - table.test[row, :2]).abs().max() < 0.08


# -- the controller ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("controller", CONTROLLERS, ids=CONTROLLER_IDS)
def test_the_probabilities_of_all_sequences_sum_to_one_and_draws_follow_them(controller):
    theta, space = one(controller), space_of(SMALL)
    p = distribution(controller, theta, space)
    assert float(p.sum()) == pytest.approx(1, abs=1e-12) and p.max() > 3 * p.min()
    uniform = torch.rand(20_000, 3, generator=rng(3), dtype=torch.float64)
    rows = row_numbers(draw(controller, theta, uniform), SMALL)
    found = rows.bincount(minlength=len(space)) / len(uniform)
    assert torch.allclose(found.double(), p, atol=0.012)


def test_a_later_decision_depends_on_an_earlier_one_in_the_lstm_only():
    space = space_of(SMALL)
    for controller, depends in zip(CONTROLLERS, (True, False), strict=True):
        joint = distribution(controller, one(controller), space).view(SMALL)
        given_first = joint.sum(2) / joint.sum((1, 2))[:, None]
        assert (float(given_first.std(0).max()) > 1e-3) is depends


def test_the_recurrent_network_is_torchs_lstm():
    controller = LSTMController(SMALL, units=5)
    theta, choices = one(controller), space_of(SMALL)[:4]
    theirs = torch.nn.LSTM(5, 5, 2, batch_first=True).double()
    order = torch.tensor([0, 1, 3, 2])  # torch has the candidate before the output gate
    with torch.no_grad():
        for k in range(2):
            weight = theta[f"lstm.{k}.weight"].unflatten(0, (4, 5))[order].flatten(0, 1)
            getattr(theirs, f"weight_ih_l{k}").copy_(weight[:, :5])
            getattr(theirs, f"weight_hh_l{k}").copy_(weight[:, 5:])
            bias = theta[f"lstm.{k}.bias"].view(4, 5)[order].flatten()
            getattr(theirs, f"bias_ih_l{k}").copy_(bias)
            getattr(theirs, f"bias_hh_l{k}").zero_()
    reads = [theta["start"].expand(4, -1)] + [theta[f"embedding.{t}"][choices[:, t]] for t in range(2)]
    out, _ = theirs(torch.stack(reads, 1))
    total = 0
    for t in range(3):
        logits = out[:, t] @ theta[f"output.{t}.weight"].T + theta[f"output.{t}.bias"]
        total = total + logits.log_softmax(-1).gather(1, choices[:, t : t + 1])[:, 0]
    assert torch.allclose(log_probability(controller, theta, choices)[0], total, atol=1e-12)


def exact_gradient(controller, theta, rewards):
    """dJ/dθ_c of J = Σ_a P(a) R(a), by the whole space."""
    space = space_of(SMALL)
    return bilevel.gradient_of(
        lambda point: (log_probability(controller, point, space)[0].exp() * rewards).sum(), theta
    )


@pytest.mark.parametrize("baseline", [0.0, 0.7])
@pytest.mark.parametrize("controller", CONTROLLERS, ids=CONTROLLER_IDS)
def test_the_estimates_mean_is_the_gradient_whatever_the_baseline(controller, baseline):
    """Weighted by P(a), the estimates from all single sequences add up to it exactly."""
    theta, space = one(controller), space_of(SMALL)
    rewards = torch.rand(len(space), generator=rng(5), dtype=torch.float64)
    p = distribution(controller, theta, space)
    stacked = {k: v[None] for k, v in theta.items()}
    total = {k: torch.zeros_like(v) for k, v in theta.items()}
    for a, r, weight in zip(space, rewards, p, strict=True):
        estimate = reinforce(
            controller, a[None, None], r.view(1, 1), torch.tensor([baseline], dtype=torch.float64)
        )
        for k, g in estimate(stacked).gradient.items():
            total[k] -= weight * g[0]  # −dJ/dθ_c is what descends
    wanted = exact_gradient(controller, theta, rewards).gradient
    assert checks.relative_distance({"": total}, {"": wanted}) < 1e-12


def test_it_is_the_score_function_of_the_common_outer_loop():
    controller = IndependentController(SMALL)
    theta = {k: v[None] for k, v in one(controller).items()}
    uniform = torch.rand(6, 3, generator=rng(8), dtype=torch.float64)
    choices = draw(controller, {k: v[0] for k, v in theta.items()}, uniform)
    rewards = row_numbers(choices, SMALL).double() / 24
    rows = iter(range(6))

    def next_one(outer, generator):
        a = choices[next(rows)]
        return a, log_probability(controller, {k: v[0] for k, v in outer.items()}, a[None])[0][0]

    common = bilevel.score_function(
        next_one,
        lambda outer, a: -row_numbers(a, SMALL).double() / 24,
        samples=6,
        generator=rng(),
        baseline=-0.3,
    )(theta)
    own = reinforce(controller, choices[None], rewards[None], torch.tensor([0.3], dtype=torch.float64))(theta)
    assert checks.relative_distance({"": own.gradient}, {"": common.gradient}) < 1e-12


def test_one_search_does_not_see_another():
    controller = LSTMController(SMALL, units=5)
    theta = {k: torch.stack([one(controller, s)[k] for s in range(3)]) for k in one(controller)}
    choices = space_of(SMALL)[:6].view(3, 2, 3)
    rewards = torch.rand(3, 2, generator=rng(), dtype=torch.float64)
    together = reinforce(controller, choices, rewards, torch.zeros(3, dtype=torch.float64), 0.1)(theta)
    for s in range(3):
        alone = reinforce(
            controller, choices[s : s + 1], rewards[s : s + 1], torch.zeros(1, dtype=torch.float64), 0.1
        )({k: v[s : s + 1] for k, v in theta.items()})
        mine = {k: v[s : s + 1] for k, v in together.gradient.items()}
        assert checks.relative_distance({"": mine}, {"": alone.gradient}) < 1e-12


def test_the_baseline_is_a_moving_average():
    b = torch.zeros(2)
    rewards = torch.tensor([[0.2, 0.4], [1.0, 0.0]])
    b = moving_average(b, rewards, 0.9, first=True)
    assert b.tolist() == pytest.approx([0.3, 0.5])
    b = moving_average(b, torch.ones(2, 2), 0.9, first=False)
    assert b.tolist() == pytest.approx([0.37, 0.55])
    with pytest.raises(UserError, match="decay"):
        moving_average(b, rewards, 1.0, first=False)


# -- searches ------------------------------------------------------------------------------------------------------------


def toy_table(seeds=2):
    """500 architectures; conv3 (option 4) is worth 0.1 in every place, tanh 0.2."""
    space = torch.tensor(children.enumerate_space())
    worth = 0.3 + 0.1 * (space[:, :3] == 4).sum(1) + 0.2 * (space[:, 3] == 1)
    both = worth.double()[:, None].expand(-1, seeds)
    return ArchitectureTable(both, both, {})


def searched(search, steps, seed=0):
    state, generator = search.init(rng(seed)), rng(seed + 1)
    for _ in range(steps):
        state, metrics = search.step(
            state, Chance(getattr(search, "children", 1)).sample(search.searches, generator)
        )
    return state, metrics


def test_the_pick_is_the_first_of_the_best():
    rewards = torch.tensor([[0.1, 0.5, 0.5, 0.2, 0.6], [0.3, 0.2, 0.1, 0.3, 0.2]])
    assert first_best(rewards).tolist() == [[0, 1, 1, 1, 4], [0, 0, 0, 0, 0]]


def test_random_search_draws_uniformly_and_never_moves():
    search = ControllerSearch(toy_table(), 400, 20, learns=False)
    before = search.init(rng()).meta["params"]
    state, _ = searched(search, 20)
    assert all(torch.equal(before[k], v) for k, v in state.meta["params"].items())
    drawn = state.meta["memory"]["drawn"]
    counts = drawn.flatten().bincount(minlength=500)
    assert drawn.min() >= 0 and counts.sum() == 8_000 and counts.max() < 40
    curve = search.trials(state.meta, 25).mean(0)
    assert len(curve) == 26 and (curve.diff() >= -1e-12).all() and curve[20] == curve[25]
    assert float(curve[0]) == pytest.approx(float(search.table.worth(0).mean()))


@pytest.mark.parametrize("controller", [LSTMController(), IndependentController()], ids=CONTROLLER_IDS)
def test_a_controller_learns_which_decisions_pay(controller):
    table = toy_table()
    rate = 0.02 if isinstance(controller, LSTMController) else 0.2
    search = ControllerSearch(table, 6, 120, controller=controller, meta_lr=rate, children=4)
    state, metrics = searched(search, 120)
    assert float(metrics["accuracy"]) > float(table.validation.mean()) + 0.12
    assert search.trials(state.meta, 120)[:, -1].mean() > 0.7


def test_the_relaxation_follows_its_two_steps(data):
    """One outer step of α and one of w, each with the gradient of its own loss, and nothing else moves."""
    search = RelaxedSearch(toy_table(), 2, 3, classes=6)
    state = search.init(rng())
    batches = DrawnBatches(data, 10).sample(2, rng(1))
    alpha, w = ({k: v.clone() for k, v in state.meta[g].items()} for g in ("params", "weights"))
    point = {k: v.clone().requires_grad_() for k, v in alpha.items()}
    soft = [v.softmax(-1) for v in point.values()]
    logits = vmap(children.forward)(w, soft, batches.validation_x)
    loss = sum(torch.nn.functional.cross_entropy(logits[s], batches.validation_y[s]) for s in range(2))
    wanted = torch.autograd.grad(loss, list(point.values()))
    state, metrics = search.step(state, batches)
    assert float(metrics["loss"]) == pytest.approx(float(loss.detach()) / 2, rel=1e-5)
    for (key, before), g in zip(alpha.items(), wanted, strict=True):
        moved = state.meta["params"][key] - before
        large = g.abs() > 1e-6  # Adam's first step is the rate against the sign
        assert torch.allclose(moved[large], -search.meta_lr * g[large].sign(), rtol=1e-2), key
    assert any(not torch.equal(w[k], v) for k, v in state.meta["weights"].items())
    assert state.meta["memory"]["drawn"][:, 0].tolist() == search.discrete(state.meta["params"]).tolist()


def test_the_unrolled_gradient_agrees_with_finite_differences(data):
    """d/dα of the validation loss at w − ξ∇_w L_train(w, α)."""
    search = RelaxedSearch(toy_table(), 2, 1, classes=6, unrolled=0.1)
    state = search.init(rng())
    double = {g: {k: v.double() for k, v in state.meta[g].items()} for g in ("params", "weights")}
    batches = DrawnBatches(data, 10).sample(2, rng(1))
    batches = batches._make(f.double() if f.is_floating_point() else f for f in batches)

    def estimate(alpha):
        return search.alpha_estimate(alpha, double["weights"], batches)[0]

    found = checks.compare_gradient(
        lambda meta: estimate(meta[""]).value,
        {"": estimate(double["params"]).gradient},
        {"": double["params"]},
        generator=rng(2),
    )
    assert max(c.relative_error for c in found) < 1e-5


@pytest.mark.parametrize("options", [{"searches": 1}, {"steps": 0}])
def test_bad_settings_are_refused(options):
    with pytest.raises(UserError):
        ControllerSearch(toy_table(), **options)


# -- as an experiment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nas-controller", "nas-relaxed"])
def test_a_stopped_run_ends_in_the_same_weights(name, tmp_path, monkeypatch):
    if name == "nas-relaxed":
        experiment = replace(experiments.get(name), dataset="glyphs", n_way=50)
        monkeypatch.setattr(glyphs, "load", lambda split: FAKE)
    else:
        experiment = experiments.get(name)
    tiny = {"quick": replace(experiment.presets["quick"], meta_batch_size=2, evaluation_tasks=2)}
    monkeypatch.setitem(experiments.EXPERIMENTS, name, replace(experiment, presets=tiny))
    options = {"device": "cpu", "meta_steps": 4, "checkpoint_seconds": 0}
    run(name, out=tmp_path / "whole", **options)
    assert run(name, out=tmp_path / "parts", time_limit=1e-9, **options) is None
    run(name, out=tmp_path / "parts", resume=True, **options)
    whole, parts = ((tmp_path / n / "checkpoint.safetensors").read_bytes() for n in ("whole", "parts"))
    assert whole == parts


FAKE = ClassPool(torch.randint(0, 256, (50, 20, 1, 28, 28), generator=rng(), dtype=torch.uint8))


def test_the_command_line_evaluates_a_checkpoint(tmp_path, capsys):
    arguments = ["train", "nas-random", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    checkpoint = str(tmp_path / "run" / "checkpoint.safetensors")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", checkpoint, "--tasks", "20", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "accuracy" and found["tasks"] == 20 and found["step"] == 300
    assert found["mean"] == record["evaluation"]["mean"]
    assert main(["evaluate", checkpoint, "--tasks", "30", "--device", "cpu"]) == 2
    assert "20 searches" in capsys.readouterr().err
