"""Reptile as published for images: Adam whose moments live on, mini-batches, the last step alone, against plain loops."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from package_fixtures import noise_pool, rng, with_engine

from mlbook import experiments
from mlbook.data import glyphs
from mlbook.engines import fast
from mlbook.errors import UserError
from mlbook.meta_learners import Reptile
from mlbook.models import Conv4
from mlbook.pages.checks import relative_distance, to_float64
from mlbook.tasks import FewShot, GridSinusoids, MiniBatches
from mlbook.tasks.mini_batches import cycled
from mlbook.training.evaluation import evaluate, score
from mlbook.training.runner import run


def network():
    return Conv4(3, filters=4, size=20, gamma=True, spatial_mean=False)


def make(size=4, steps=3, engine="vmap", **options):
    learner = Reptile(network(), **{"inner_lr": 0.01, "inner_steps": steps, "optimizer": "adam", **options})
    learner = with_engine(learner, engine)
    tasks = MiniBatches(FewShot(noise_pool(size=20), 3, 3, 1), size, steps)
    return learner, to_float64(learner.init(rng()).meta), tasks


def plain_loop(learner, meta, episodes, optimizer_per_task):
    """Torch's own Adam on copies of the network: the mean way θ − φ, and the optimiser that did the last task."""
    theta, total, optimizer = meta["params"], None, None
    for t in range(episodes.n_tasks):
        model = copy.deepcopy(learner.model).double()
        model.load_state_dict(theta)
        fresh = torch.optim.Adam(model.parameters(), lr=learner.inner_lr, betas=(0.0, 0.999), eps=1e-12)
        if optimizer is not None and not optimizer_per_task:
            fresh.load_state_dict(optimizer.state_dict())
        optimizer = fresh
        for index in episodes.order[t]:
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            optimizer.zero_grad()
            F.cross_entropy(model(episodes.support_x[t][index]), episodes.support_y[t][index]).backward()
            optimizer.step()
        start = theta if learner.follow == "displacement" else before
        way = {n: (start[n] - p.detach()) / episodes.n_tasks for n, p in model.named_parameters()}
        total = way if total is None else {n: total[n] + way[n] for n in total}
    return total, optimizer


@pytest.fixture(autouse=True)
def small_epsilon(monkeypatch):
    """TensorFlow adds ε at another place than PyTorch; a tiny one makes the two the same."""
    for module in ("mlbook.meta_learners.inner_loop", "mlbook.engines.descent"):
        monkeypatch.setattr(f"{module}.EPSILON", 1e-12)


@pytest.mark.parametrize("engine", ["vmap", "fast"])
@pytest.mark.parametrize("follow", ["displacement", "last_step"])
@pytest.mark.parametrize("moments", ["carried", "fresh"])
def test_the_direction_is_that_of_an_ordinary_loop(engine, follow, moments):
    learner, meta, tasks = make(engine=engine, follow=follow, moments=moments)
    episodes = tasks.sample(3, rng(1)).to(torch.float64)
    expected, _ = plain_loop(learner, meta, episodes, optimizer_per_task=moments == "fresh")
    gradient, metrics = learner.meta_gradient(meta, episodes)
    assert relative_distance({"params": gradient["params"]}, {"params": expected}) < 1e-8
    assert set(metrics) == {"loss", "accuracy"}
    assert set(gradient) == ({"params"} if moments == "fresh" else set(meta))


def test_cycled():
    order = cycled(2, 5, 2, 5, rng())
    assert order.shape == (2, 5, 2)
    passes = order.reshape(2, 2, 5)
    assert (passes.sort(2).values == torch.arange(5)).all()
    assert replace(make()[0], moments="shared").serial is False


@pytest.mark.parametrize("engine", ["vmap", "fast"])
def test_with_one_task_shared_moments_are_carried_ones(engine):
    learner, meta, tasks = make(engine=engine)
    one = tasks.sample(1, rng(1)).to(torch.float64)
    carried, _ = learner.meta_gradient(meta, one)
    shared, _ = replace(learner, moments="shared").meta_gradient(meta, one)
    assert relative_distance(shared, carried) < 1e-12
    three = tasks.sample(3, rng(1)).to(torch.float64)
    carried, _ = learner.meta_gradient(meta, three)
    shared, _ = replace(learner, moments="shared").meta_gradient(meta, three)
    assert relative_distance(shared, carried) > 1e-3


def test_shared_moments_are_the_mean_of_those_that_the_tasks_left():
    learner, meta, tasks = make(moments="shared", engine="vmap")
    episodes = tasks.sample(2, rng(1)).to(torch.float64)
    both, _ = learner.meta_gradient(meta, episodes)
    alone = [learner.task(meta["params"], learner.moments_of(meta), episodes.task(t)).moments for t in (0, 1)]
    for name, v in both["second_moment"].items():
        torch.testing.assert_close(v, (alone[0].v[name] + alone[1].v[name]) / 2)
    quick, _ = fast(learner).meta_gradient(meta, episodes)
    assert relative_distance(quick, both) < 1e-8


def test_the_first_step_of_a_fresh_adam_is_the_sign_of_the_gradient():
    learner, meta, tasks = make(steps=1, moments="fresh")
    episode = tasks.sample(1, rng(1)).to(torch.float64)
    gradient, _ = learner.meta_gradient(meta, episode)
    sizes = torch.cat([g.abs().flatten() for g in gradient["params"].values()])
    torch.testing.assert_close(sizes[sizes > 0], torch.full_like(sizes[sizes > 0], learner.inner_lr))


def test_a_meta_step_moves_theta_and_hands_on_the_moments():
    learner, _, tasks = make(meta_lr=0.5)
    state = learner.init(rng())
    assert set(state.meta) == {"params", "second_moment", "moment_weight"}
    episodes = tasks.sample(2, rng(1))
    gradient, _ = learner.meta_gradient(state.meta, episodes)
    expected = {n: p - 0.5 * 0.75 * gradient["params"][n] for n, p in state.meta["params"].items()}
    state, _ = learner.step(state, episodes, progress=0.25)
    assert relative_distance({"p": state.meta["params"]}, {"p": expected}) < 1e-6
    assert relative_distance({"v": state.meta["second_moment"]}, {"v": gradient["second_moment"]}) == 0
    assert float(state.meta["moment_weight"]["weight"]) == pytest.approx(1 - 0.999**6, rel=1e-4)


@pytest.mark.parametrize("engine", ["vmap", "fast"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_last_step_with_a_separate_tail_is_fomaml(engine, optimizer):
    """With gradient descent the last step on the query set is α times FOMAML's gradient."""
    learner, meta, tasks = make(steps=3, optimizer=optimizer, follow="last_step", tail="query", engine=engine)
    episodes = tasks.sample(2, rng(1)).to(torch.float64)
    found, _ = learner.meta_gradient(meta, episodes)
    for t in range(2):
        assert len(episodes.task(t).query_y) == 3
    other, _ = learner.meta_gradient(meta, episodes._replace(query_y=episodes.query_y.flip(1)))
    assert relative_distance({"p": found["params"]}, {"p": other["params"]}) > 1e-3
    if optimizer == "sgd":
        expected = {n: torch.zeros_like(p) for n, p in meta["params"].items()}
        for t in range(2):
            task = episodes.task(t)
            path = list(learner.path(meta, task.support_x, task.support_y, 2, task.order))
            loss = lambda p, task=task: F.cross_entropy(learner.predict(p, task.query_x), task.query_y)  # noqa: E731
            g = torch.func.grad(loss)(path[-1])
            expected = {n: e + learner.inner_lr * g[n] / 2 for n, e in expected.items()}
        assert relative_distance(found, {"params": expected}) < 1e-8


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_path_by_kernels_is_that_of_automatic_differentiation(optimizer):
    learner, meta, tasks = make(optimizer=optimizer)
    task = tasks.sample(1, rng(1)).to(torch.float64).task(0)
    slow = list(learner.path(meta, task.support_x, task.support_y, 3, task.order))
    quick = list(fast(learner).path(meta, task.support_x, task.support_y, 3, task.order))
    assert len(slow) == len(quick) == 4
    for a, b in zip(slow, quick, strict=True):
        assert relative_distance({"p": b}, {"p": a}) < 1e-8
    with pytest.raises(UserError, match="4 inner steps need as many mini-batches; these episodes have 3"):
        list(learner.path(meta, task.support_x, task.support_y, 4, task.order))


def test_max_pooled_networks_by_kernels():
    model = Conv4(3, filters=4, size=32, downsample="max_pool", gamma=True)
    learner = Reptile(model, optimizer="adam", inner_steps=2)
    meta = to_float64(learner.init(rng()).meta)
    tasks = MiniBatches(FewShot(noise_pool(size=32), 3, 2, 0), 3, 2)
    episodes = tasks.sample(2, rng(1)).to(torch.float64)
    slow, _ = learner.meta_gradient(meta, episodes)
    quick, _ = fast(learner).meta_gradient(meta, episodes)
    assert relative_distance(quick, slow) < 1e-8


def test_queries_tested_with_the_support_set_do_not_see_each_other():
    learner, meta, tasks = make()
    episode = tasks.sample(1, rng(1)).to(torch.float64).task(0)
    alone = []
    for x, y in zip(episode.query_x, episode.query_y, strict=True):
        logits = learner.predict(meta["params"], torch.cat([episode.support_x, x[None]]))
        alone.append(float(logits[-1].argmax() == y))
    found = score(learner, meta["params"], episode, "support_and_query", None)
    assert float(found) == pytest.approx(sum(alone) / 3)


def test_steps_that_are_not_scored_are_left_out():
    learner, meta, tasks = make()
    meta = {group: {n: p.float() for n, p in ps.items()} for group, ps in meta.items()}
    settings = {"n_tasks": 4, "steps": 3}
    all_steps = evaluate(learner, meta, tasks, **settings)
    some = evaluate(learner, meta, tasks, **settings, scored_steps=(0, 3))
    assert some.mean == (all_steps.mean[0], None, None, all_steps.mean[3])
    assert some.value == all_steps.value
    with pytest.raises(UserError, match="contain 3, the step that counts"):
        evaluate(learner, meta, tasks, **settings, scored_steps=(0, 1))


def test_wrong_settings_are_refused():
    for name, value in (("optimizer", "lion"), ("moments", "lost"), ("follow", "me"), ("tail", "none")):
        with pytest.raises(UserError, match=f"{name} must be one of"):
            Reptile(network(), **{name: value})
    with pytest.raises(UserError, match="size must be at least 1"):
        MiniBatches(FewShot(noise_pool(size=20), 3, 3, 1), 0, 2)
    with pytest.raises(UserError, match="k_shot must be from 1 to 50"):
        GridSinusoids(51)


def test_reptiles_own_sine_waves():
    episodes = GridSinusoids(10).sample(200, rng())
    assert episodes.support_x.shape == (200, 10, 1) and episodes.query_x.shape == (200, 50, 1)
    assert (episodes.support_x[0, :, 0].unique().numel()) == 10  # without replacement
    assert torch.isin(episodes.support_x, episodes.query_x).all()
    amplitude = episodes.query_y.abs().amax((1, 2))
    assert 4.5 < float(amplitude.max()) <= 5.0
    # every phase: the mean wave is zero, unlike MAML's
    assert float(episodes.query_y.mean(0).abs().max()) < 0.7
    whole = GridSinusoids(50).sample(1, rng())
    assert torch.equal(whole.support_x.sort(1).values, whole.query_x)


def test_glyphs_prepared_as_reptile_has_its_characters():
    train, test = glyphs.load_as_reptile("train"), glyphs.load_as_reptile("test")
    assert train.n_classes == 4 * len(train.images) and test.n_classes == len(test.images)
    assert int(train.images[0, 0, 0, 0, 0]) == 255  # a white ground
    with pytest.raises(UserError, match="split must be train or test"):
        glyphs.load_as_reptile("validation")


def test_one_training_leaves_the_records_of_all_its_protocols(tmp_path):
    record = run("reptile-glyphs-5w1s", meta_steps=1, out=tmp_path, device="cpu", evaluation_tasks=2)
    assert record["evaluation"]["protocol"]["batch_norm"] == "support_and_query"
    others = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("record-*.json")}
    assert set(others) == {
        f"record-{name}.json" for name in experiments.get("reptile-glyphs-5w1s").shares_training_with
    }
    transductive = others["record-reptile-glyphs-5w5s-transductive.json"]
    assert transductive["trained_as"] == "reptile-glyphs-5w1s"
    assert transductive["evaluation"]["protocol"]["batch_norm"] == "transductive"
    assert transductive["evaluation"]["protocol"]["k_shot"] == 5
    assert transductive["run"] == experiments.run_id(transductive["config"])
    assert [n for n, v in enumerate(record["evaluation"]["mean"]) if v is not None] == [
        0,
        1,
        2,
        5,
        10,
        20,
        50,
    ]


def test_experiments_that_share_a_training_have_the_same_training():
    for experiment in experiments.EXPERIMENTS.values():
        for other in map(experiments.get, experiment.shares_training_with):
            assert experiments.trained_by(other.name) == experiment.name
            for field in ("family", "dataset", "model"):
                assert getattr(other, field) == getattr(experiment, field)
            ways = [
                e.options.get("train_way", e.n_way) for e in (experiment, other)
            ]  # a prototypical network has its own
            assert ways[0] == ways[1]
            for option in ("inner_batch", "preparation", "image"):
                assert other.options.get(option) == experiment.options.get(option)
            if experiment.learner.get("method") == "classifier":
                # its training knows neither shots nor adaptation
                assert other.learner["meta_lr"] == experiment.learner["meta_lr"]
            else:
                for field in ("learner", "k_shot", "n_query"):
                    assert getattr(other, field) == getattr(experiment, field)
            assert other.presets == experiment.presets


def test_moments_that_live_on_are_not_shared_out_to_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one after the other .* train it in one process"):
        run("reptile-glyphs-5w1s", meta_steps=1, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
