"""Prototypical networks: their gradient, their identity with a linear classifier, what they refuse, and a short training."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlbook import experiments
from mlbook.data import glyphs
from mlbook.errors import UserError
from mlbook.meta_learners import NearestMean, Prototypical
from mlbook.meta_learners.prototypical import as_linear, class_means, squared_distances
from mlbook.models import MLP, Conv4
from mlbook.tasks import Episode, FewShot
from mlbook.training import evaluate
from mlbook.training.loop import train


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**options):
    return Prototypical(Conv4(3, filters=4, size=12), n_way=3, **options)


def in_double(meta):
    return {group: {n: t.double() for n, t in tensors.items()} for group, tensors in meta.items()}


def an_episode(n_way=3, k_shot=2, queries=3, seed=1):
    x = torch.rand(n_way, k_shot + queries, 1, 12, 12, generator=rng(seed), dtype=torch.float64)
    y = torch.arange(n_way)
    return Episode(
        x[:, :k_shot].flatten(0, 1),
        y.repeat_interleave(k_shot),
        x[:, k_shot:].flatten(0, 1),
        y.repeat_interleave(queries),
    )


class Written(nn.Module):
    """The same network in plain torch modules."""

    def __init__(self, params, momentum):
        super().__init__()
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for i in range(4):
            weight = params[f"convs.{i}.weight"]
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, stride=2, padding=1, bias=False)
            norm = nn.BatchNorm2d(weight.shape[0], eps=1e-3, momentum=momentum)
            conv.weight.data, norm.bias.data = weight.clone(), params[f"norms.{i}.beta"].clone()
            norm.weight.requires_grad_(False)
            self.convs.append(conv)
            self.norms.append(norm)
        self.double()

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return x.mean((2, 3))


def test_gradient_and_running_averages_are_those_of_plain_torch():
    learner, task = small(), an_episode()
    meta = in_double(learner.init(rng()).meta)
    plain = Written(meta["params"], learner.momentum)
    f = plain(torch.cat([task.support_x, task.query_x]))
    centres = torch.stack([f[:6][task.support_y == c].mean(0) for c in range(3)])
    loss = F.cross_entropy(-torch.cdist(f[6:], centres).square(), task.query_y)
    loss.backward()
    params = {n: p.clone().requires_grad_() for n, p in meta["params"].items()}
    mine, metrics = learner.task_loss({**meta, "params": params}, task)
    assert abs(float((mine - loss).detach())) < 1e-12
    gradient = torch.autograd.grad(mine, list(params.values()))
    wanted = {
        name: p.grad
        for i in range(4)
        for name, p in (
            (f"convs.{i}.weight", plain.convs[i].weight),
            (f"norms.{i}.beta", plain.norms[i].bias),
        )
    }
    for name, g in zip(params, gradient, strict=True):
        torch.testing.assert_close(g, wanted[name], rtol=1e-10, atol=1e-12)
    for i, norm in enumerate(plain.norms):
        torch.testing.assert_close(meta["running_mean"][f"norms.{i}"], norm.running_mean)
        torch.testing.assert_close(meta["running_variance"][f"norms.{i}"], norm.running_var)
    # at meta-test every image is embedded alone, with these averages
    plain.eval()
    *_, its = learner.path(meta, task.support_x, task.support_y, 0)
    with torch.no_grad():
        found = learner.predict(its, task.query_x)
        f = plain(task.query_x)
        centres = torch.stack([plain(task.support_x)[task.support_y == c].mean(0) for c in range(3)])
    torch.testing.assert_close(found, -torch.cdist(f, centres).square())
    torch.testing.assert_close(found[2:3], learner.predict(its, task.query_x[2:3]))


def test_a_step_takes_the_mean_over_tasks_and_halves_its_rate():
    learner = small(halvings=2)
    tasks = [an_episode(seed=s).to(torch.float32) for s in (1, 2)]
    both = Episode(*(torch.stack(fields) for fields in zip(*tasks, strict=True)))
    state = learner.init(rng())
    start = copy.deepcopy(state.meta)
    gradients = []
    for task in tasks:
        params = {n: p.clone().requires_grad_() for n, p in start["params"].items()}
        loss, _ = learner.task_loss({**copy.deepcopy(start), "params": params}, task)
        gradients.append(torch.autograd.grad(loss, list(params.values())))
    new, metrics = learner.step(state, both, progress=0.6)
    adam = [p.clone().requires_grad_() for p in start["params"].values()]
    optimizer = torch.optim.Adam(adam, lr=0.0005)
    for p, a, b in zip(adam, *gradients, strict=True):
        p.grad = (a + b) / 2
    optimizer.step()
    for p, name in zip(adam, start["params"], strict=True):
        torch.testing.assert_close(new.meta["params"][name], p.detach(), rtol=1e-4, atol=1e-6)
    assert [learner.meta_lr_at(p) for p in (0.0, 0.49, 0.5, 1.0)] == [1e-3, 1e-3, 5e-4, 2.5e-4]
    assert new.meta_step == 1 and set(metrics) == {"loss", "accuracy"}


def test_prototypes_are_a_linear_classifier():
    x = torch.randn(40, 7, generator=rng(), dtype=torch.float64)
    c = torch.randn(5, 7, generator=rng(1), dtype=torch.float64)
    weight, bias = as_linear(c)
    linear, distances = F.linear(x, weight, bias), -squared_distances(x, c)
    torch.testing.assert_close(linear.log_softmax(1), distances.log_softmax(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(linear - distances, x.square().sum(1, keepdim=True).expand(-1, 5))
    wrong = F.linear(x, weight, -bias)  # the sign that one often sees
    assert (wrong.argmax(1) != distances.argmax(1)).any()


def test_with_given_features_it_is_the_nearest_mean():
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    x = torch.randn(6, 7, generator=rng(), dtype=torch.float64)
    query = torch.randn(9, 7, generator=rng(1), dtype=torch.float64)
    nearest = NearestMean(nn.Flatten())
    state = nearest.init()
    *_, params = nearest.path(state.meta, x, y, 0)
    torch.testing.assert_close(
        -squared_distances(query, class_means(x, y, 3)), nearest.predict(params, query)
    )


def test_it_learns_to_tell_new_classes_apart():
    learner = Prototypical(Conv4(5, filters=8), meta_lr=1e-2)
    state = learner.init(rng())
    untrained = copy.deepcopy(state.meta)
    run = {"meta_steps": 60, "meta_batch_size": 1, "state": state, "generator": rng(5)}
    for progress in train(learner, FewShot(glyphs.load("train"), 20, 1, 2), **run):
        state = progress.state
    test = FewShot(glyphs.load("test"), 5, 1, 3)
    before, after = (
        evaluate(learner, meta, test, n_tasks=50, steps=0).value for meta in (untrained, state.meta)
    )
    assert after > before + 0.1, (before, after)


def test_what_it_does_not_take():
    with pytest.raises(UserError, match="need a Conv4"):
        Prototypical(MLP((4, 8, 3)))
    with pytest.raises(UserError, match="need a Conv4"):
        Prototypical(Conv4(3, filters=4, bias=True))
    frozen = Conv4(3, filters=4)
    frozen.convs[0].requires_grad_(False)
    with pytest.raises(UserError, match="parts of this one are frozen"):
        Prototypical(frozen)


def test_the_experiments_train_with_more_ways_than_they_test():
    for name in ("proto-omniglot-5w1s", "proto-omniglot-20w1s", "proto-mini-5w5s"):
        config = experiments.config(name, "paper")
        learner = experiments.build_learner(config)
        assert learner.n_way == config["n_way"] < config["train_way"]
        assert experiments.protocol(config)["batch_norm"] == "running"
    setup = experiments.setup(experiments.config("proto-glyphs-5w1s", "quick"))
    train_x, test_x = (setup.tasks(split).sample(1, rng()).support_x for split in ("train", "test"))
    assert len(train_x[0]) == 60 and len(test_x[0]) == 5
    meta = setup.learner.init(rng()).meta
    assert not any(name.startswith("head") for name in meta["params"])
    # the same meta-test tasks as MAML's
    maml = experiments.build_tasks(experiments.config("maml-glyphs-5w1s", "quick"), "test")
    assert torch.equal(maml.sample(2, rng(1)).query_x, setup.tasks("test").sample(2, rng(1)).query_x)
