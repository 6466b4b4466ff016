"""Batched Reptile: its direction by hand, by an ordinary loop, and by the closed forms; its step and its decay."""

import copy

import pytest
import torch
from package_fixtures import noise_pool, rng, with_engine
from torch import nn

from mlbook.engines import fast
from mlbook.errors import UserError
from mlbook.meta_learners import Reptile
from mlbook.meta_learners.base import leaves
from mlbook.meta_learners.losses import LOSSES
from mlbook.models import MLP, Conv4
from mlbook.pages.checks import relative_distance, to_float64
from mlbook.tasks import Episode, FewShot, Sinusoids

SETTINGS = {
    "mlp": lambda: (MLP(init_std=0.3), "mse", Sinusoids(10, 5)),
    "strided": lambda: (Conv4(3, filters=4, size=20), "cross_entropy", FewShot(noise_pool(size=20), 3, 2, 1)),
    "pooled": lambda: (
        Conv4(3, filters=4, downsample="max_pool"),
        "cross_entropy",
        FewShot(noise_pool(size=28), 3, 2, 1),
    ),
}


def make(setting, **options):
    model, loss, tasks = SETTINGS[setting]()
    learner = Reptile(model, loss=loss, **{"inner_lr": 0.05, "inner_steps": 3, **options})
    return learner, to_float64(learner.init(rng()).meta), tasks.sample(4, rng(1)).to(torch.float64)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_direction_is_that_of_an_ordinary_loop(setting):
    learner, meta, episodes = make(setting)
    expected = {name: torch.zeros_like(p) for name, p in meta["params"].items()}
    for t in range(4):
        model = copy.deepcopy(learner.model).double()
        model.load_state_dict(meta["params"])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            LOSSES[learner.loss](model(episodes.support_x[t]), episodes.support_y[t]).backward()
            optimizer.step()
        for name, p in model.named_parameters():
            expected[name] += (meta["params"][name] - p.detach()) / 4
    for engine in ("vmap", "fast"):
        gradient, metrics = with_engine(learner, engine).meta_gradient(meta, episodes)
        assert relative_distance(gradient, {"params": expected}) < 1e-8
        assert metrics["loss"].dim() == 0


class Scalar(nn.Module):
    """L(θ) = ½(θ − c)², with the centre c as the target."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(1))

    def reset_parameters(self, generator):
        nn.init.constant_(self.theta, 2.0)

    def forward(self, x):
        return self.theta.expand_as(x)


def test_on_a_parabola_every_step_goes_the_same_share_of_the_way():
    """With L = (θ − c)², φ − c = (1 − 2α)ᵏ(θ − c)."""
    learner = Reptile(Scalar(), loss="mse", inner_lr=0.1, inner_steps=4, meta_lr=0.5)
    centres = torch.tensor([-1.0, 3.0])
    episodes = Episode(*(torch.zeros(2, 1, 1), centres.view(2, 1, 1)) * 2)
    state = learner.init(rng())
    towards = (2 - centres).mean() * (1 - 0.8**4)
    gradient, _ = learner.meta_gradient(state.meta, episodes)
    torch.testing.assert_close(gradient["params"]["theta"], towards.view(1))
    state, _ = learner.step(state, episodes, progress=0.2)
    torch.testing.assert_close(state.meta["params"]["theta"], 2 - 0.5 * 0.8 * towards.view(1))
    assert state.meta_step == 1


def test_the_outer_rate_falls_linearly_to_zero():
    learner, _, _ = make("mlp", meta_lr=0.8)
    assert [learner.meta_lr_at(p) for p in (0, 0.25, 1)] == pytest.approx([0.8, 0.6, 0])


def test_the_path_starts_at_theta_and_ends_at_phi():
    learner, meta, episodes = make("mlp")
    path = list(learner.path(meta, episodes.support_x[0], episodes.support_y[0], 3))
    adapted = learner.task(meta["params"], None, episodes.task(0))
    for name, start in meta["params"].items():
        assert torch.equal(path[0][name], start)
        torch.testing.assert_close(path[3][name] - start, adapted.towards[name])


def test_query_sets_do_not_count_and_theta_is_left_alone():
    learner, meta, episodes = make("mlp")
    before = [p.clone() for p in leaves(meta)]
    first, _ = learner.meta_gradient(meta, episodes)
    second, _ = learner.meta_gradient(meta, episodes._replace(query_y=episodes.query_y + 5))
    assert relative_distance(first, second) == 0
    assert all(torch.equal(a, b) for a, b in zip(leaves(meta), before, strict=True))


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="inner_steps must be at least 1"):
        Reptile(MLP(), loss="mse", inner_steps=0)
    with pytest.raises(UserError, match="loss must be one of"):
        Reptile(MLP(), loss="hinge")
    with pytest.raises(UserError, match="engine fast"):
        fast(Reptile(MLP(activation="tanh"), loss="mse"))
