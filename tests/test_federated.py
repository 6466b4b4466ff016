"""Federated averaging is batched Reptile under other names; where its clients pull it; and what is counted as communication."""

import json
from dataclasses import replace

import pytest
import torch

from mlbook import experiments
from mlbook.data import alphabets
from mlbook.errors import UserError
from mlbook.meta_learners import FederatedAveraging, Reptile
from mlbook.meta_learners.federated import corrected, federated_round, pseudo_gradient
from mlbook.meta_learners.inner_loop import inner_path
from mlbook.models import MLP
from mlbook.tasks import BatchedEpisode, Clients
from mlbook.tasks.clients import DEALS, as_numbers, chosen, deal
from mlbook.training import communication
from mlbook.training.distributed import ALONE
from mlbook.training.runner import run

NETWORK = MLP((6, 8, 4), activation="tanh", init_std=None)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def clients(sizes=(7, 7, 7), batch=3, steps=4, seed=0):
    """Clients with random data in float64."""
    g, room = rng(seed), max(sizes)
    x = torch.randn(len(sizes), room, 6, generator=g, dtype=torch.float64)
    y = torch.randint(4, (len(sizes), room), generator=g)
    return Clients(x, y, batch, steps, torch.tensor(sizes) if len(set(sizes)) > 1 else None)


def started(learner):
    """The state of a learner in float64."""
    state = learner.init(rng(1))
    double = {name: p.double() for name, p in state.meta["params"].items()}
    meta = {"params": double}
    optimizer = torch.optim.SGD([double[n] for n in sorted(double)], lr=learner.meta_lr)
    if isinstance(learner, FederatedAveraging):
        for group in state.optimizer.param_groups:
            optimizer.param_groups[0] |= {k: group[k] for k in ("momentum", "nesterov")}
        if learner.control_variates:
            meta["controls"] = {n: p.double() for n, p in state.meta["controls"].items()}
    return replace(state, meta=meta, optimizer=optimizer)


def rounds(learner, sample, count=10):
    """Parameters after ``count`` meta-steps on what ``sample(generator)`` gives."""
    state, g = started(learner), rng(2)
    for n in range(count):
        state, _ = learner.step(state, sample(g), n / count)
    return state.meta["params"]


def assert_equal(one, other, tolerance=1e-12):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == torch.float64
        assert (value - other[name]).abs().max() <= tolerance, name


def losses_of(learner, client):
    return [learner.loss_on(client.support_x[i], client.support_y[i]) for i in client.order]


# -- one update, four names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_federated_averaging_is_batched_reptile(rate):
    theirs = Reptile(NETWORK, inner_lr=0.2, inner_steps=4, meta_lr=rate, meta_lr_final=rate)
    ours = FederatedAveraging(NETWORK, inner_lr=0.2, inner_steps=4, meta_lr=rate)
    its = clients()
    as_tasks = rounds(theirs, lambda g: BatchedEpisode(*its.sample(3, g)[:5]))
    assert_equal(rounds(ours, lambda g: its.sample(3, g)), as_tasks)


def test_a_client_with_n_times_the_data_is_n_equal_tasks_of_reptile():
    sizes = (4, 12, 8)
    its, again = clients(sizes), torch.tensor([0, 1, 1, 1, 2, 2])
    ours = FederatedAveraging(NETWORK, inner_lr=0.2, inner_steps=4)
    theirs = Reptile(NETWORK, inner_lr=0.2, inner_steps=4, meta_lr_final=1.0)

    def repeated(g):
        return BatchedEpisode(*(field[again] for field in its.sample(3, g)[:5]))

    found = rounds(ours, lambda g: its.sample(3, g))
    assert_equal(found, rounds(theirs, repeated))
    plain = rounds(ours, lambda g: its.sample(3, g)._replace(weight=torch.ones(3)))
    assert max((found[n] - plain[n]).abs().max() for n in found) > 1e-3  # the weights count


def test_a_round_is_the_one_of_the_paper_also_with_unequal_numbers_of_steps():
    ours = FederatedAveraging(NETWORK, inner_lr=0.2, inner_steps=4)
    its, sizes = clients((4, 12, 8)), (4, 12, 8)
    its_round, theta = its.sample(3, rng()), started(ours).meta["params"]
    lists = [losses_of(ours, its_round.task(k)) for k in range(3)]
    paper = federated_round(lists, sizes, theta, inner_lr=0.2)
    assert_equal(rounds(ours, lambda g: its_round, 1), paper)
    lists = [lists[0][:1], lists[1][:3], lists[2][:2]]  # an epoch of each
    by_hand = {name: torch.zeros_like(p) for name, p in theta.items()}
    for losses, n_k in zip(lists, sizes, strict=True):
        params = {n: p.clone().requires_grad_() for n, p in theta.items()}
        for loss in losses:
            slopes = torch.autograd.grad(loss(params), list(params.values()))
            params = {
                n: (p - 0.2 * g).detach().requires_grad_()
                for (n, p), g in zip(params.items(), slopes, strict=True)
            }
        by_hand = {n: v + n_k / 24 * params[n].detach() for n, v in by_hand.items()}
    assert_equal(federated_round(lists, sizes, theta, inner_lr=0.2), by_hand)


def test_one_local_step_is_one_step_on_the_mean_loss():
    """Synchronous SGD, pre-training, Reptile with k = 1: all the same."""
    ours, its = FederatedAveraging(NETWORK, inner_lr=0.2, inner_steps=1), clients(steps=1)
    its_round, theta = its.sample(3, rng()), started(ours).meta["params"]

    def mean_loss(params):
        return torch.stack([losses_of(ours, its_round.task(k))[0](params) for k in range(3)]).mean()

    slope = torch.func.grad(mean_loss)(theta)
    expected = {n: theta[n] - 0.2 * slope[n] for n in theta}
    assert_equal(rounds(ours, lambda g: its_round, 1), expected)


def test_the_outer_loop_of_diloco_is_nesterov_momentum_on_the_displacement():
    ours = FederatedAveraging(NETWORK, inner_lr=0.2, inner_steps=4, meta_lr=0.7, momentum=0.9)
    its, g = clients(), rng(2)
    theta = started(ours).meta["params"]
    velocity = {n: torch.zeros_like(p) for n, p in theta.items()}
    for _ in range(5):
        its_round = its.sample(3, g)
        ends = [
            federated_round([losses_of(ours, its_round.task(k))], [1], theta, inner_lr=0.2) for k in range(3)
        ]
        delta = {n: sum(theta[n] - end[n] for end in ends) / 3 for n in theta}
        velocity = {n: 0.9 * velocity[n] + delta[n] for n in theta}
        theta = {n: theta[n] - 0.7 * (delta[n] + 0.9 * velocity[n]) for n in theta}
    assert_equal(rounds(ours, lambda g: its.sample(3, g), 5), theta)


def test_one_by_one_is_all_at_once():
    ours = FederatedAveraging(NETWORK, inner_lr=0.2, inner_steps=4, control_variates=3)
    its_round, theta = clients().sample(3, rng()), started(ours).meta["params"]
    shifts = {n: torch.randn(3, *p.shape, dtype=torch.float64) for n, p in theta.items()}
    models = ours.local_models(theta, its_round, shifts)
    for k in range(3):
        shift = {n: s[k] for n, s in shifts.items()}
        assert_equal({n: m[k] for n, m in models.items()}, ours.local_model(theta, its_round.task(k), shift))


# -- where the clients pull ------------------------------------------------------------------------------------------


def quadratic(h, centre):
    return lambda params: 0.5 * h * (params["w"] - centre) ** 2


@pytest.mark.parametrize("steps", [1, 5, 20, 200])
def test_the_resting_point_of_two_bowls_follows_the_formula(steps):
    """A round leaves it where it is, and brings every other point nearer by the same factor."""
    h, c, rate = (1.0, 10.0), (0.0, 1.0), 0.05
    share = [1 - (1 - rate * a) ** steps for a in h]
    rest = sum(r * centre for r, centre in zip(share, c, strict=True)) / sum(share)
    lists = [[quadratic(a, centre)] * steps for a, centre in zip(h, c, strict=True)]
    for distance in (0.0, 1.0):
        theta = {"w": torch.tensor(rest + distance, dtype=torch.float64)}
        after = federated_round(lists, [1, 1], theta, inner_lr=rate)["w"] - rest
        assert float(after) == pytest.approx((1 - sum(share) / 2) * distance, abs=1e-12)
    printed = {1: 0.909, 5: 0.811, 20: 0.609, 200: 0.500}
    assert round(rest, 3) == printed[steps]


def test_control_variates_bring_the_resting_point_to_the_joint_minimum():
    """SCAFFOLD on two bowls, as its paper writes it (option II)."""
    h, centres, rate, steps = (1.0, 10.0), (0.0, 1.0), 0.05, 20
    theta = torch.tensor(3.0, dtype=torch.float64)
    controls = torch.zeros(2, dtype=torch.float64)
    for _ in range(50):
        ends, mean = [], controls.mean()
        for k in range(2):
            loss = corrected(quadratic(h[k], centres[k]), {"w": mean - controls[k]})
            *_, end = inner_path(loss, {"w": theta}, inner_lr=rate, steps=steps)
            ends.append(end["w"])
        ends = torch.stack(ends)
        controls = controls - mean + (theta - ends) / (steps * rate)
        theta = ends.mean()
    assert float(theta) == pytest.approx(10 / 11, abs=1e-12)


def test_the_learner_carries_control_variates_as_the_paper_writes_them():
    ours = FederatedAveraging(NETWORK, inner_lr=0.2, inner_steps=4, control_variates=3)
    its, g = clients(), rng(2)
    theta = started(ours).meta["params"]
    controls = [{n: torch.zeros_like(p) for n, p in theta.items()} for _ in range(3)]
    for _ in range(4):
        its_round = its.sample(3, g)
        c = {n: sum(control[n] for control in controls) / 3 for n in theta}
        ends, fresh = [], []
        for k in range(3):
            y = theta
            for loss in losses_of(ours, its_round.task(k)):
                slope = torch.func.grad(loss)(y)
                y = {n: y[n] - 0.2 * (slope[n] - controls[k][n] + c[n]) for n in y}
            ends.append(y)
            fresh.append({n: controls[k][n] - c[n] + (theta[n] - y[n]) / (4 * 0.2) for n in theta})
        controls = fresh
        theta = {n: sum(end[n] for end in ends) / 3 for n in theta}
    assert_equal(rounds(ours, lambda g: its.sample(3, g), 4), theta)


def test_the_sum_of_local_gradients_is_fedsgd_and_the_fomamls():
    """Σ(θ − w_k)/η = Σ_j g_j: the first gradient is that of synchronous SGD, the later ones those of FOMAML(j − 1)."""
    ours, its = FederatedAveraging(NETWORK, inner_lr=0.2, inner_steps=4), clients()
    client, theta = its.sample(3, rng()).task(0), started(ours).meta["params"]
    losses = losses_of(ours, client)
    points = list(inner_path(losses, theta, inner_lr=0.2, steps=4))
    gradients = [torch.func.grad(loss)(at) for loss, at in zip(losses, points[:-1], strict=True)]
    for name in theta:
        total = sum(g[name] for g in gradients)
        assert ((theta[name] - points[-1][name]) / 0.2 - total).abs().max() < 1e-12
    fomaml = Reptile(NETWORK, inner_lr=0.2, inner_steps=3, follow="last_step")
    order = client.order[None, :3]
    episode = BatchedEpisode(*(f[None] for f in client[:4]), order)
    gradient, _ = fomaml.meta_gradient({"params": theta}, episode)
    assert_equal({n: g / 0.2 for n, g in gradient["params"].items()}, gradients[2])


# -- data and experiments ---------------------------------------------------------------------------------------------


def test_the_same_drawings_are_dealt_in_three_ways():
    known = list(alphabets.load("glyphs").values())
    drawings = chosen(known, 15, 5, rng())
    assert drawings.shape == (75, 20, 28, 28) and as_numbers(drawings).shape == (75, 20, 196)
    numbers = torch.arange(75 * 15).view(75, 15, 1)
    for how in DEALS:
        x, y = deal(numbers, 15, how, rng())
        assert x.shape == (15, 75, 1) and y.shape == (15, 75)
        assert sorted(x.flatten().tolist()) == list(range(75 * 15))
        assert torch.equal(x[..., 0] // 15, y)  # the label is the character
        classes = {len(set(row)) for row in y.tolist()}
        assert classes == {"alphabets": {5}, "drawers": {75}}.get(how, classes)
        if how == "drawers":
            assert all(len(set((row % 15).flatten().tolist())) == 1 for row in x)


def test_parts_of_a_population_take_part_without_repetition():
    its = clients((3, 9, 5, 7), batch=2, steps=6)
    for seed in range(5):
        found = its.sample(3, rng(seed))
        assert len(set(found.number.tolist())) == 3 and float(found.weight.mean()) == pytest.approx(1)
        sizes = its.sizes[found.number]
        assert bool((found.order < sizes[:, None, None]).all())  # padding is never looked at
        assert found.order.shape == (3, 6, 2)


def test_wrong_settings_are_one_sentence():
    its = clients()
    with pytest.raises(UserError, match="there are 3"):
        its.sample(4, rng())
    with pytest.raises(UserError, match="alphabets, drawers, random"):
        deal(torch.zeros(4, 2), 2, "country", rng())
    with pytest.raises(UserError, match="at least 1"):
        FederatedAveraging(NETWORK, inner_steps=0)
    with pytest.raises(UserError, match="momentum"):
        FederatedAveraging(NETWORK, momentum=1.0)
    scaffold = FederatedAveraging(NETWORK, inner_steps=4, control_variates=3)
    with pytest.raises(UserError, match="all 3 clients take part in every round, not 2"):
        scaffold.step(started(scaffold), its.sample(2, rng()))
    with pytest.raises(UserError, match="whole number of rounds"):
        communication.compare(10, [3], "random", 0, ALONE)


def test_the_average_of_weights_has_mean_one():
    theta = {"w": torch.zeros(2, dtype=torch.float64)}
    models = {"w": torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=torch.float64)}
    delta = pseudo_gradient(theta, models, torch.tensor([0.5, 1.5], dtype=torch.float64))
    assert delta["w"].tolist() == [-2.5, -3.0]


@pytest.mark.parametrize("name", ["fedavg-glyphs-alphabets", "scaffold-glyphs-alphabets"])
def test_an_experiment_trains_and_is_tested_on_its_clients(name, tmp_path):
    from mlbook.training import run

    record = run(name, device="cpu", meta_steps=2, out=tmp_path / "x")
    evaluation = record["evaluation"]
    assert evaluation["tasks"] == 15 and evaluation["step"] == 0
    assert evaluation["mean"][10] > evaluation["mean"][0]  # fine-tuning on a client's own characters
    assert json.loads((tmp_path / "x/record.json").read_text())["config"]["population"] == 15


def test_the_seed_chooses_the_characters_for_training_and_test_alike():
    config = experiments.config("fedavg-glyphs-alphabets", "quick", seed=3)
    setup = experiments.setup(config)
    train, test = setup.tasks("train"), setup.tasks("test").sample(15, rng())
    assert torch.equal(train.x, test.support_x) and torch.equal(train.y, test.support_y)
    assert test.query_y.shape == (15, 25) and int(test.query_y.max()) == 74
    other = experiments.setup({**config, "seed": 4}).tasks("train")
    assert not torch.equal(train.x, other.x)


# -- lists of clients -------------------------------------------------------------------------------------------------------


def test_a_client_is_not_counted_twice(tmp_path):
    with pytest.raises(UserError, match="there are 15 test tasks; 600 were asked for"):
        run("fedavg-glyphs-alphabets", preset="quick", evaluation_tasks=600, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    setup = experiments.setup(experiments.config(experiments.get("fedavg-glyphs-alphabets"), "quick"))
    tasks = setup.tasks("test")
    assert tasks.n_listed == 15
    one, two = tasks.at(0, 15, None), tasks.at(10, 5, None)
    assert torch.equal(one.query_x[10:], two.query_x)


def test_fewer_mini_batches_than_local_steps_are_refused():
    x, y = torch.randn(3, 8, 4), torch.zeros(3, 8, dtype=torch.long)
    learner = FederatedAveraging(MLP((4, 8, 2)), inner_lr=0.1, inner_steps=5)
    state = learner.init(torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="5 local steps need as many mini-batches, not 2"):
        learner.step(state, Clients(x, y, batch=4, steps=2).sample(3, torch.Generator().manual_seed(1)))
