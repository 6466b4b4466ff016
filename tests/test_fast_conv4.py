"""The closed forms of ``fast_conv4`` give the meta-gradient that automatic differentiation gives."""

from dataclasses import replace

import pytest
import torch
from package_fixtures import noise_pool, rng

from mlbook.errors import UserError
from mlbook.meta_learners import MAML, fast_conv4
from mlbook.meta_learners.protocol import leaves
from mlbook.models import Conv4
from mlbook.models.conv4 import adapted_names, head_names
from mlbook.tasks import FewShot
from mlbook.verification import relative_distance, to_float64

N, T = 3, 5


def make(*, filters=6, size=28, channels=1, k_shot=1, n_query=2, **options):
    """A learner with the vmap engine, parameters in float64 with β ≠ 0, and a meta-batch."""
    model = Conv4(N, filters=filters, size=size, channels=channels)
    learner = MAML(model, names=adapted_names(model), **{"inner_lr": 0.3, **options})
    g = rng(2)
    meta = to_float64(learner.init(g).meta)
    for p in leaves(meta):
        p.add_(0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    pool = noise_pool(size=size, channels=channels)
    return learner, meta, FewShot(pool, N, k_shot, n_query).sample(T, g).to(torch.float64)


@pytest.mark.parametrize("inner_loss", ["mean", "class_sum"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_fast_engine_equals_automatic_differentiation(steps, first_order, inner_loss):
    learner, meta, episodes = make(inner_steps=steps, first_order=first_order, inner_loss=inner_loss)
    expected, expected_metrics = learner.meta_gradient(meta, episodes)
    gradient, metrics = replace(learner, engine="fast").meta_gradient(meta, episodes)
    assert gradient.keys() == expected.keys() and gradient["params"].keys() == expected["params"].keys()
    for name, g in gradient[
        "params"
    ].items():  # per tensor: β and the head must not hide behind the convolutions
        wanted = expected["params"][name]
        assert g.shape == wanted.shape
        assert (g - wanted).norm() / wanted.norm() < 1e-8, name
    for name, value in expected_metrics.items():
        torch.testing.assert_close(metrics[name].double(), value.double(), rtol=1e-6, atol=1e-6)
    for chunk in (1, 2, 4):  # 5 tasks: a last chunk that is not full
        part, _ = fast_conv4.meta_gradient(
            meta["params"],
            *episodes,
            inner_lr=learner.inner_lr,
            steps=steps,
            inner_scale=N if inner_loss == "class_sum" else 1.0,
            first_order=first_order,
            chunk=chunk,
        )
        assert relative_distance({"params": part}, expected) < 1e-8


@pytest.mark.parametrize("shape", [{"size": 17}, {"size": 16, "channels": 3}, {"k_shot": 3, "n_query": 1}])
def test_it_holds_for_other_sizes_channels_and_shots(shape):
    learner, meta, episodes = make(inner_steps=2, **shape)
    expected, _ = learner.meta_gradient(meta, episodes)
    gradient, _ = replace(learner, engine="fast").meta_gradient(meta, episodes)
    assert relative_distance(gradient, expected) < 1e-8


def test_no_inner_step_is_plain_training():
    learner, meta, episodes = make(inner_steps=0)
    expected, _ = learner.meta_gradient(meta, episodes)
    gradient, _ = replace(learner, engine="fast").meta_gradient(meta, episodes)
    assert relative_distance(gradient, expected) < 1e-10


def test_first_order_is_not_second_order():
    learner, meta, episodes = make(inner_steps=2)
    second, _ = replace(learner, engine="fast").meta_gradient(meta, episodes)
    first, _ = replace(learner, engine="fast", first_order=True).meta_gradient(meta, episodes)
    assert relative_distance(first, second) > 1e-3


def test_matrices_and_parameters_are_two_forms_of_the_same():
    _, meta, _ = make()
    back = fast_conv4.from_matrices(fast_conv4.to_matrices(meta["params"]))
    assert back.keys() == meta["params"].keys()
    assert all(torch.equal(back[name], p) for name, p in meta["params"].items())


def test_adding_patches_is_the_transpose_of_cutting_them():
    g = rng()
    for side in (28, 7, 5):
        y = torch.randn(2, 3 * side**2, 4, generator=g, dtype=torch.float64)
        columns = fast_conv4.patches(y, side)
        other = torch.randn(columns.shape, generator=g, dtype=torch.float64)
        left, right = (columns * other).sum(), (y * fast_conv4.add_patches(other, side)).sum()
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_the_meta_parameters_are_left_as_they_are():
    learner, meta, episodes = make(inner_steps=2)
    before = [p.clone() for p in leaves(meta)]
    replace(learner, engine="fast").meta_gradient(meta, episodes)
    assert all(torch.equal(p, q) for p, q in zip(leaves(meta), before, strict=True))


UNFIT = {
    "gamma": ({"gamma": True}, {}),
    "biases": ({"bias": True}, {}),
    "max pooling": ({"downsample": "max_pool"}, {}),
    "no batch norm": ({"batch_norm": False}, {}),
    "tanh": ({"activation": "tanh"}, {}),
    "learned rates": ({}, {"learn_inner_lr": True}),
    "beta adapted too": ({}, {"names": None}),
    "head only": ({}, {"names": "head"}),
    "squared error": ({}, {"loss": "mse"}),
}


@pytest.mark.parametrize("case", UNFIT)
def test_the_fast_engine_is_refused_where_its_formulas_do_not_hold(case):
    network, options = UNFIT[case]
    model = Conv4(N, filters=4, **network)
    options = {"names": adapted_names(model), **options}
    if options["names"] == "head":
        options["names"] = head_names(model)
    assert not MAML(model, **options).fast_engine_fits
    with pytest.raises(UserError, match="engine fast"):
        MAML(model, engine="fast", **options)
