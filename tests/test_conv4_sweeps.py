"""The closed forms of ``conv4_sweeps`` give the meta-gradient that automatic differentiation gives."""

from dataclasses import replace

import pytest
import torch
from package_fixtures import check_fast_engine, noise_pool, rng

from mlbook.engines import conv4_sweeps, convolutions, fast, fits
from mlbook.errors import UserError
from mlbook.meta_learners import MAML
from mlbook.meta_learners.base import leaves
from mlbook.models import Conv4
from mlbook.models.conv4 import adapted_names, head_names
from mlbook.pages.checks import relative_distance, to_float64
from mlbook.tasks import FewShot

N, T = 3, 5


NAMES = {"all but beta": adapted_names, "all": lambda model: None, "head": head_names}
KINDS = ["stride", "max_pool"]


def make(
    *,
    filters=6,
    size=28,
    channels=1,
    k_shot=1,
    n_query=2,
    downsample="stride",
    adapt="all but beta",
    **options,
):
    """A learner with the vmap engine, parameters in float64 with β ≠ 0, and a meta-batch."""
    model = Conv4(N, filters=filters, size=size, channels=channels, downsample=downsample)
    learner = MAML(model, names=NAMES[adapt](model), **{"inner_lr": 0.3, **options})
    g = rng(2)
    meta = to_float64(learner.init(g).meta)
    for p in leaves(meta):
        p.add_(0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    pool = noise_pool(size=size, channels=channels)
    return learner, meta, FewShot(pool, N, k_shot, n_query).sample(T, g).to(torch.float64)


@pytest.mark.parametrize("downsample", KINDS)
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_the_fast_engine_equals_automatic_differentiation(steps, first_order, downsample):
    check_fast_engine(*make(inner_steps=steps, first_order=first_order, downsample=downsample))


@pytest.mark.parametrize("downsample", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"inner_loss": "class_sum"},
        {"adapt": "all"},
        {"adapt": "head"},
        {"learn_inner_lr": True},
        {"learn_inner_lr": True, "adapt": "all", "first_order": True},
        {"size": 20, "channels": 3},
        {"size": 21},
        {"k_shot": 3, "n_query": 1},
    ],
    ids=str,
)
def test_it_holds_for_every_relative_and_shape(options, downsample):
    check_fast_engine(*make(inner_steps=2, downsample=downsample, **options))


@pytest.mark.parametrize("downsample", KINDS)
def test_activations_may_be_computed_again(downsample):
    check_fast_engine(*make(inner_steps=2, downsample=downsample), recompute=True)


@pytest.mark.parametrize("downsample", KINDS)
def test_both_kinds_of_convolution_give_the_same_on_any_device(downsample, monkeypatch):
    learner, meta, episodes = make(inner_steps=2, downsample=downsample)
    used = []
    for kind in (convolutions.Grouped(), convolutions.Patches()):
        monkeypatch.setattr(convolutions, "choose", lambda *_, kind=kind: used.append(kind) or kind)
        check_fast_engine(learner, meta, episodes)
    assert len({type(kind) for kind in used}) == 2


@pytest.mark.parametrize("chunks", [(1, 1), (2, 1), (4, 3), (5, 5)])
def test_cutting_the_meta_batch_changes_nothing(chunks):
    learner, meta, episodes = make(inner_steps=2)
    expected, _ = learner.meta_gradient(meta, episodes)
    gradient, _, _ = conv4_sweeps.meta_gradient(
        learner.model,
        meta["params"],
        episodes,
        names=learner.names,
        inner_lr=learner.inner_lr,
        steps=2,
        chunks=chunks,
    )
    assert relative_distance({"params": gradient}, expected) < 1e-8


def test_a_chunk_fits_the_cache_and_holds_one_task_at_least():
    learner, _, episodes = make(filters=64)
    forms = conv4_sweeps.network(learner.model, learner.names)
    support, query = conv4_sweeps.chunk_sizes(forms, episodes.to(torch.float32))
    assert support >= query >= 1
    one = 4 * 64 * 14 * 14 * episodes.support_x.shape[1]
    assert support * one <= conv4_sweeps.CHUNK_BYTES < (support + 1) * one
    wide = Conv4(N, filters=512, size=84, downsample="max_pool", channels=3)
    big = FewShot(noise_pool(size=84, channels=3), N, 1, 2).sample(1, rng())
    assert conv4_sweeps.chunk_sizes(conv4_sweeps.network(wide, None), big) == (1, 1)


def test_no_inner_step_is_plain_training():
    learner, meta, episodes = make(inner_steps=0)
    expected, _ = learner.meta_gradient(meta, episodes)
    gradient, _ = fast(learner).meta_gradient(meta, episodes)
    assert relative_distance(gradient, expected) < 1e-10


def test_first_order_is_not_second_order():
    learner, meta, episodes = make(inner_steps=2)
    second, _ = fast(learner).meta_gradient(meta, episodes)
    first, _ = fast(replace(learner, first_order=True)).meta_gradient(meta, episodes)
    assert relative_distance(first, second) > 1e-3


@pytest.mark.parametrize("downsample", KINDS)
def test_weights_and_parameters_are_two_forms_of_the_same(downsample):
    learner, meta, _ = make(downsample=downsample, size=32)
    features = learner.model.head.in_features // 6
    assert features == (1 if downsample == "stride" else 4)
    back = conv4_sweeps.from_weights(conv4_sweeps.to_weights(meta["params"], features), features)
    assert back.keys() == meta["params"].keys()
    assert all(torch.equal(back[name], p) for name, p in meta["params"].items())


def test_the_meta_parameters_are_left_as_they_are():
    learner, meta, episodes = make(inner_steps=2)
    before = [p.clone() for p in leaves(meta)]
    fast(learner).meta_gradient(meta, episodes)
    assert all(torch.equal(p, q) for p, q in zip(leaves(meta), before, strict=True))


UNFIT = {
    "gamma": ({"gamma": True}, {}),
    "biases": ({"bias": True}, {}),
    "average pooling": ({"downsample": "average_pool"}, {}),
    "no batch norm": ({"batch_norm": False}, {}),
    "tanh": ({"activation": "tanh"}, {}),
    "squared error": ({}, {"loss": "mse"}),
}


@pytest.mark.parametrize("case", UNFIT)
def test_the_fast_engine_is_refused_where_its_formulas_do_not_hold(case):
    network, options = UNFIT[case]
    model = Conv4(N, filters=4, **network)
    options = {"names": adapted_names(model), **options}
    assert not fits(MAML(model, **options))
    with pytest.raises(UserError, match="engine fast"):
        fast(MAML(model, **options))
