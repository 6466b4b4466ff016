"""The closed forms of ``mlp_sweeps`` give the meta-gradient that automatic differentiation gives."""

from dataclasses import replace

import pytest
import torch
from package_fixtures import check_fast_engine, rng

from mlbook.engines import fast, fits, mlp_sweeps, recursion
from mlbook.errors import UserError
from mlbook.meta_learners import MAML
from mlbook.meta_learners.base import leaves
from mlbook.models import MLP
from mlbook.models.conv4 import head_names
from mlbook.pages.checks import relative_distance, to_float64
from mlbook.tasks import Episode, Sinusoids

T = 5


def make(sizes=(1, 12, 12, 1), **options):
    """A learner with the vmap engine, parameters in float64 with no special value, and a meta-batch."""
    learner = MAML(MLP(sizes, init_std=0.5), loss="mse", **{"inner_lr": 0.05, **options})
    g = rng(2)
    meta = to_float64(learner.init(g).meta)
    for p in leaves(meta):
        p.add_(0.02 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    episodes = Sinusoids(k_shot=4, n_query=7, oracle=sizes[0] == 3).sample(T, g).to(torch.float64)
    if sizes[-1] > 1:
        episodes = Episode(*(f.expand(-1, -1, sizes[-1]) if i % 2 else f for i, f in enumerate(episodes)))
    return learner, meta, episodes


@pytest.mark.parametrize("learn_inner_lr", [False, True], ids=["fixed rate", "meta-sgd"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_the_fast_engine_equals_automatic_differentiation(steps, first_order, learn_inner_lr):
    if steps == 0 and learn_inner_lr:
        pytest.skip("without an inner step the rates have no gradient")
    check_fast_engine(*make(inner_steps=steps, first_order=first_order, learn_inner_lr=learn_inner_lr))


@pytest.mark.parametrize("sizes", [(1, 6, 1), (3, 8, 8, 1), (1, 6, 6, 6, 1), (1, 8, 2)])
@pytest.mark.parametrize("inner_loss", ["mean", "class_sum"])
@pytest.mark.parametrize("learn_inner_lr", [False, True], ids=["fixed rate", "meta-sgd"])
def test_it_holds_for_other_depths_widths_and_outputs(sizes, inner_loss, learn_inner_lr):
    options = {"inner_loss": inner_loss, "learn_inner_lr": learn_inner_lr}
    check_fast_engine(*make(sizes, inner_steps=2, **options))


@pytest.mark.parametrize("chunk", [1, 2, 5, 8])
def test_chunks_of_tasks_add_up_to_the_mean(chunk):
    learner, meta, episodes = make(inner_steps=2, learn_inner_lr=True)
    expected, metrics = learner.meta_gradient(meta, episodes)
    gradient, rates, found = recursion.meta_gradient(
        mlp_sweeps.ReLUNetwork(3),
        mlp_sweeps.to_matrices(meta["params"]),
        episodes,
        inner_lr=mlp_sweeps.to_matrices(meta["inner_lr"]),
        steps=2,
        chunks=(chunk, 2),
    )
    gradient = {"params": mlp_sweeps.from_matrices(gradient), "inner_lr": mlp_sweeps.from_matrices(rates)}
    assert relative_distance(gradient, expected) < 1e-10
    torch.testing.assert_close(found["loss"], metrics["loss"], rtol=1e-10, atol=1e-10)


def test_first_order_is_not_second_order():
    learner, meta, episodes = make(inner_steps=2)
    second, _ = fast(learner).meta_gradient(meta, episodes)
    first, _ = fast(replace(learner, first_order=True)).meta_gradient(meta, episodes)
    assert relative_distance(first, second) > 1e-3


def test_matrices_and_parameters_are_two_forms_of_the_same():
    _, meta, _ = make()
    back = mlp_sweeps.from_matrices(mlp_sweeps.to_matrices(meta["params"]))
    assert back.keys() == meta["params"].keys()
    assert all(torch.equal(back[name], p) for name, p in meta["params"].items())


def test_the_fast_engine_is_refused_where_its_formulas_do_not_hold():
    module = MLP()
    for model, options in (
        (MLP(activation="tanh"), {"loss": "mse"}),
        (module, {"loss": "mse", "names": head_names(module)}),
        (module, {"loss": "cross_entropy"}),
    ):
        assert not fits(MAML(model, **options))
        with pytest.raises(UserError, match="engine fast"):
            fast(MAML(model, **options))
