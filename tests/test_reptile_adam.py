"""Reptile as published for images: Adam whose moments live on, mini-batches, the last step alone, against plain loops."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from package_fixtures import noise_pool, rng

from mlbook.meta_learners import Reptile
from mlbook.models import Conv4
from mlbook.tasks import FewShot, MiniBatches
from mlbook.tasks.mini_batches import cycled
from mlbook.verification import relative_distance, to_float64


def network():
    return Conv4(3, filters=4, size=20, gamma=True, spatial_mean=False)


def make(size=4, steps=3, **options):
    learner = Reptile(network(), **{"inner_lr": 0.01, "inner_steps": steps, "optimizer": "adam", **options})
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
    for module in ("mlbook.inner_loop", "mlbook.meta_learners.conv4_kernels"):
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
