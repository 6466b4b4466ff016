"""The networks and learners that only the image tables need: pooling with padding, no convolutions, the classifier."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from package_fixtures import noise_pool, one_line, rng, with_engine

from mlbook import experiments
from mlbook.engines import fast, mlp_sweeps
from mlbook.errors import UserError
from mlbook.meta_learners import MAML, Classifier, Reptile
from mlbook.models import MLP, Conv4, conv4_kernels
from mlbook.models.batch_norm import Statistics
from mlbook.models.conv4 import adapted_names, count, head_names
from mlbook.models.functional import call, initial_params
from mlbook.tasks import FewShot, LabelledImages
from mlbook.training.evaluation import evaluate, task_scores
from mlbook.training.runner import evaluate_config


def torch_network(params, x, ceil):
    """The pooled network in the official order of Reptile: convolution, batch norm, pooling, then ReLU."""
    for i in range(4):
        x = F.conv2d(x, params[f"convs.{i}.weight"], padding=1)
        x = F.batch_norm(
            x, None, None, params.get(f"norms.{i}.gamma"), params[f"norms.{i}.beta"], True, eps=1e-3
        )
        if ceil and x.shape[-1] % 2:  # TensorFlow's 'same' pads with what no maximum can be
            x = F.pad(x, (0, 1, 0, 1), value=float("-inf"))
        x = F.max_pool2d(x, 2).relu()
    return F.linear(x.flatten(1), params["head.weight"], params["head.bias"])


@pytest.mark.parametrize(
    ("downsample", "size", "features"),
    [("max_pool", 84, 800), ("max_pool_same", 84, 1152), ("max_pool_same", 20, 128)],
)
def test_pooled_networks_against_torch(downsample, size, features):
    module = Conv4(5, channels=3, filters=32, size=size, downsample=downsample, gamma=True)
    assert module.head.in_features == features
    params = {n: p.double() for n, p in initial_params(module, rng()).items()}
    x = torch.rand(3, 3, size, size, generator=rng(1), dtype=torch.float64)
    expected = torch_network(params, x, downsample == "max_pool_same")
    assert (call(module, params, x) - expected).abs().max() < 1e-12
    cut = conv4_kernels.patches(module, x)
    assert (conv4_kernels.logits(module, params, cut) - expected).abs().max() < 1e-12


def test_reptiles_mini_network_has_the_official_size():
    module = experiments.build_model("conv4_pooled_reptile", 5)
    with_biases = count(module) + 4 * 32
    assert with_biases == 34_661


def test_reptile_on_the_pooled_network_by_kernels_and_by_autograd():
    module = Conv4(3, channels=3, filters=8, size=20, downsample="max_pool_same", gamma=True)
    tasks = FewShot(noise_pool(size=20, channels=3), 3, 4, 2)
    episodes = tasks.sample(2, rng()).to(torch.float64)
    ends = []
    for engine in ("vmap", "fast"):
        learner = Reptile(module, optimizer="adam", inner_lr=1e-3, inner_steps=3)
        learner = with_engine(learner, engine)
        state = learner.init(rng())
        state.meta = {g: {n: t.double() for n, t in ts.items()} for g, ts in state.meta.items()}
        state.optimizer = torch.optim.SGD([t for ts in state.meta.values() for t in ts.values()], lr=1.0)
        ends.append(learner.step(state, episodes)[0].meta["params"])
    assert all((ends[0][n] - ends[1][n]).abs().max() < 1e-8 for n in ends[0])


# -- the network without convolutions -------------------------------------------------------------------------------


def test_the_mlp_without_convolutions_is_the_official_one():
    module = experiments.build_model("mlp_images", 5)
    assert count(module, adapted_names(module)) == 246_597
    assert not set(adapted_names(module)) & {f"norms.{i}.beta" for i in range(4)}
    params = {n: p.double() for n, p in initial_params(module, rng()).items()}
    x = torch.rand(6, 1, 28, 28, generator=rng(1), dtype=torch.float64)
    h = x.flatten(1)
    for i in range(4):
        h = F.linear(h, params[f"layers.{i}.weight"], params[f"layers.{i}.bias"])
        h = F.batch_norm(h, None, None, None, params[f"norms.{i}.beta"], True, eps=1e-3).relu()
    expected = F.linear(h, params["layers.4.weight"], params["layers.4.bias"])
    assert (call(module, params, x) - expected).abs().max() < 1e-10
    collected = []
    call(module, params, x, collect=collected)
    again = torch.cat([call(module, params, one[None], statistics=collected) for one in x])
    assert (again - expected).abs().max() < 1e-10


def test_its_meta_gradient_against_finite_differences():
    module = MLP((16, 8, 8, 3), activation="tanh", init_std=None, batch_norm=True)
    learner = MAML(module, names=adapted_names(module), inner_lr=0.4, inner_steps=2, inner_loss="class_sum")
    episodes = FewShot(noise_pool(size=4), 3, 2, 2).sample(2, rng()).to(torch.float64)
    meta = {"params": {n: p.double() for n, p in initial_params(module, rng(3)).items()}}
    gradient, _ = learner.meta_gradient(meta, episodes)
    step = 1e-6
    for seed in range(3):
        direction = {
            n: torch.randn(p.shape, generator=rng(seed), dtype=p.dtype) for n, p in meta["params"].items()
        }

        def at(t, direction=direction):
            return learner.meta_loss(
                {"params": {n: p + t * direction[n] for n, p in meta["params"].items()}}, episodes
            )[0]

        numeric = (at(step) - at(-step)) / (2 * step)
        exact = sum((gradient["params"][n] * direction[n]).sum() for n in direction)
        assert abs(numeric - exact) < 1e-6 * max(1, abs(exact))


def test_the_closed_form_of_the_sinusoid_network_does_not_take_it():
    assert mlp_sweeps.fits(MLP()) and not mlp_sweeps.fits(MLP((4, 8, 1), batch_norm=True))
    with pytest.raises(UserError, match="engine fast needs"):
        fast(MAML(MLP((4, 8, 1), batch_norm=True), loss="mse"))


# -- the classifier -------------------------------------------------------------------------------------------------


def small_classifier(adapt="nearest", classes=12, **options):
    return Classifier(Conv4(classes, filters=8, size=20), n_way=3, adapt=adapt, **options)


def trained(learner, pool, steps=150, batch=24):
    state, g, tasks = learner.init(rng()), rng(1), LabelledImages(pool)
    for n in range(steps):
        state, metrics = learner.step(state, tasks.sample(batch, g), n / steps)
    return state, metrics


def test_one_step_of_the_classifier_is_ordinary_supervised_learning():
    learner = small_classifier(meta_lr=1e-2)
    batch = LabelledImages(noise_pool(size=20)).sample(16, rng(2))
    state = learner.init(rng())
    module = learner.model
    expected = {n: p.clone().requires_grad_() for n, p in state.meta["params"].items()}
    optimizer = torch.optim.Adam(expected.values(), lr=1e-2)
    collected = []
    loss = F.cross_entropy(
        call(module, expected, batch.support_x[:, 0], collect=collected), batch.support_y[:, 0]
    )
    loss.backward()
    optimizer.step()
    state, metrics = learner.step(state, batch)
    assert abs(metrics["loss"] - loss) < 1e-4
    # Adam's first step is a sign times the rate: compare where the gradient is not a rounding error
    for name, p in expected.items():
        clear = p.grad.abs() > 1e-4
        assert clear.any() and (state.meta["params"][name] - p)[clear].abs().max() < 1e-4
    for i, found in enumerate(collected):
        n = 16 * (10, 5, 3, 2)[i] ** 2
        mean = 0.01 * found.mean
        variance = 0.99 + 0.01 * found.variance * n / (n - 1)  # torch keeps the unbiased one
        assert (state.meta["running_mean"][f"norms.{i}"] - mean).abs().max() < 1e-5
        assert (state.meta["running_variance"][f"norms.{i}"] - variance).abs().max() < 1e-4


@pytest.fixture(scope="module")
def well_trained():
    """A state, and classes that it has not seen. What becomes of support sets is no part of the training."""
    pool = noise_pool(n_classes=18, n_examples=10, size=20)
    state, metrics = trained(small_classifier(meta_lr=1e-2), pool.subset(slice(0, 12)), steps=400)
    assert metrics["accuracy"] > 0.9
    return state, pool


@pytest.mark.parametrize("adapt", ["nearest", "head", "all"])
def test_features_of_the_classifier_serve_new_classes(adapt, well_trained):
    state, pool = well_trained
    learner = small_classifier(adapt, inner_lr=0.1)
    tasks = FewShot(pool.subset(slice(12, 18)), 3, 2, 4)
    result = evaluate(learner, state.meta, tasks, n_tasks=50, steps=10)
    assert result.value > 0.5  # chance is one third
    assert adapt == "nearest" or abs(result.mean[0] - 1 / 3) < 0.01  # a head of zeros says the first class


def test_nearest_neighbour_is_the_largest_cosine():
    learner = small_classifier()
    state, _ = trained(learner, noise_pool(size=20), steps=5)
    episode = FewShot(noise_pool(size=20), 3, 2, 4).sample(1, rng(5)).task(0)
    params = next(learner.path(state.meta, episode.support_x, episode.support_y, 0))
    module, meta = learner.model, state.meta
    statistics = [
        Statistics(meta["running_mean"][f"norms.{i}"], meta["running_variance"][f"norms.{i}"])
        for i in range(4)
    ]

    def features(x):
        for i in range(4):
            x = F.conv2d(x, meta["params"][f"convs.{i}.weight"], stride=2, padding=1)
            mean, variance = statistics[i]
            x = F.batch_norm(
                x, mean, variance, None, meta["params"][f"norms.{i}.beta"], False, eps=1e-3
            ).relu()
        return x.mean((2, 3)).numpy()

    support, query = features(episode.support_x), features(episode.query_x)
    for q, logits in zip(query, learner.predict(params, episode.query_x), strict=True):
        cosine = support @ q / np.linalg.norm(support, axis=1) / np.linalg.norm(q)
        assert episode.support_y[int(cosine.argmax())] == logits.argmax()
        best = [cosine[(episode.support_y == c).numpy()].max() for c in range(3)]
        assert np.abs(np.array(best) - logits.numpy()).max() < 1e-5
    assert module.head.out_features == 12


def test_queries_do_not_see_each_other():
    learner = small_classifier()
    state, _ = trained(learner, noise_pool(size=20), steps=5)
    episode = FewShot(noise_pool(size=20), 3, 2, 4).sample(1, rng(5)).task(0)
    params = next(learner.path(state.meta, episode.support_x, episode.support_y, 0))
    together = learner.predict(params, episode.query_x)
    alone = torch.cat([learner.predict(params, x[None]) for x in episode.query_x])
    assert (together - alone).abs().max() < 1e-5


def test_scores_are_mapped_over_tasks():
    learner = small_classifier("all", inner_lr=0.1)
    state, _ = trained(learner, noise_pool(size=20), steps=5)
    episodes = FewShot(noise_pool(size=20), 3, 2, 4).sample(3, rng(5))
    together = task_scores(learner, state.meta, episodes, steps=2)
    for t in range(3):
        one = type(episodes)(*(field[t : t + 1] for field in episodes))
        assert torch.equal(together[t : t + 1], task_scores(learner, state.meta, one, steps=2))


def test_a_batch_norm_mode_that_a_classifier_does_not_have_is_refused():
    """Its protocol says running whatever is asked, so nothing else may be asked."""
    config = experiments.config(experiments.get("nearest-mini-5w1s"), "quick")
    meta = experiments.build_learner(config).init(rng()).meta
    tasks = FewShot(noise_pool(size=84, channels=3), 5, 1, 1)
    with pytest.raises(UserError, match="batch-norm mode support is not for it"):
        evaluate_config(config, meta, tasks, n_tasks=2, batch_norm="support")
    results = [evaluate_config(config, meta, tasks, n_tasks=2, batch_norm=mode) for mode in (None, "running")]
    assert results[0] == results[1] and results[0].protocol["batch_norm"] == "running"


def test_a_classifier_that_cannot_be():
    for options in ({"adapt": "tail"}, {"model": Conv4(5, batch_norm=False)}):
        with pytest.raises(UserError) as error:
            Classifier(**{"model": Conv4(5), **options})
        one_line(error.value)


# -- the experiments ------------------------------------------------------------------------------------------------


def test_every_cell_of_the_tables_has_an_experiment():
    cells = [f"omniglot-{n}w{k}s" for n in (5, 20) for k in (1, 5)] + ["mini-5w1s", "mini-5w5s"]
    for cell in cells:
        names = [f"{m}-{cell}" for m in ("maml", "fomaml", "reptile")] + [f"reptile-{cell}-transductive"]
        for name in names:
            experiment = experiments.get(name)
            assert experiment.published == name
    for name in (
        "maml-omniglot-mlp-5w1s",
        "maml-omniglot-mlp-5w5s",
        "nearest-mini-5w1s",
        "finetuning-mini-5w5s",
    ):
        assert experiments.get(name).published == name
    for name in ("anil-mini-5w1s", "metasgd-mini-5w5s"):
        assert experiments.get(name).published is None


def test_the_mini_recipe_is_the_official_one():
    config = experiments.config(experiments.get("maml-mini-5w5s"), "paper")
    learner = experiments.build_learner(config)
    assert (config["meta_steps"], config["meta_batch_size"], config["n_query"], config["test_query"]) == (
        60_000,
        4,
        15,
        5,
    )
    assert (learner.inner_lr, learner.inner_steps, learner.inner_loss, learner.meta_lr) == (
        0.01,
        5,
        "class_sum",
        1e-3,
    )
    assert (config["test_steps"], config["report_step"]) == (10, 10)
    assert learner.clip_value == pytest.approx(10 * 5 / 75)
    reptile = experiments.config(experiments.get("reptile-mini-5w5s"), "paper")
    assert (reptile["inner_batch"], reptile["k_shot"], reptile["test_batch"], reptile["test_steps"]) == (
        10,
        15,
        15,
        50,
    )
    assert reptile["learner"]["inner_steps"] == 8 and reptile["meta_steps"] == 100_000
    assert experiments.get("reptile-mini-5w1s").shares_training_with == (
        "reptile-mini-5w1s-transductive",
        "reptile-mini-5w5s",
        "reptile-mini-5w5s-transductive",
    )


# -- MAML at meta-test ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("downsample", ["stride", "max_pool"])
@pytest.mark.parametrize(
    "options", [{}, {"learn_inner_lr": True}, {"head": True}, {"inner_loss": "class_sum"}]
)
def test_the_inner_loop_by_kernels_is_the_inner_loop(downsample, options):
    module = Conv4(3, channels=3, filters=8, size=20, downsample=downsample)
    options = dict(options)
    names = head_names(module) if options.pop("head", False) else adapted_names(module)
    learner = MAML(module, names=names, inner_lr=0.3, **options)
    meta = learner.init(rng()).meta
    if "inner_lr" in meta:
        meta["inner_lr"] = {n: r * torch.rand(r.shape, generator=rng(7)) for n, r in meta["inner_lr"].items()}
    meta = {group: {n: t.double() for n, t in ts.items()} for group, ts in meta.items()}
    episode = FewShot(noise_pool(size=20, channels=3), 3, 2, 4).sample(1, rng(5)).to(torch.float64).task(0)
    by_kernels = fast(learner)
    assert learner.vmappable and not by_kernels.vmappable
    before = {n: t.clone() for n, t in meta["params"].items()}
    paths = [list(own.path(meta, episode.support_x, episode.support_y, 4)) for own in (learner, by_kernels)]
    assert len(paths[0]) == len(paths[1]) == 5
    for a, b in zip(*paths, strict=True):
        assert max((a[n] - b[n]).abs().max() for n in a) < 1e-10
    moved = {n for n in before if not torch.equal(paths[1][0][n], paths[1][-1][n])}
    assert moved == set(names) and all(torch.equal(before[n], meta["params"][n]) for n in before)


@pytest.mark.parametrize("network", [lambda: MLP(activation="gelu"), lambda: Conv4(5, activation="gelu")])
def test_an_unknown_activation_is_refused(network):
    with pytest.raises(UserError, match="activation must be one of relu, tanh, not 'gelu'"):
        network()
