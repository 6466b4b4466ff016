"""The meta-gradient through other people's layers, with the default engine, against central differences in float64."""

import pytest
import torch
from package_fixtures import rng
from torch import nn

from mlbook.data.torchvision_import import torchvision
from mlbook.meta_learners import MAML
from mlbook.pages.checks import compare_gradient, relative_distance, to_float64, worst
from mlbook.tasks import Episode

T, N, K, Q = 2, 3, 2, 3


class RMSNorm(nn.Module):
    """As torch's, which torch 2.4 has too, with the function that a user would call."""

    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x):
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, 1e-5)


def dense(norm):
    return nn.Sequential(nn.Linear(6, 8), norm, nn.Tanh(), nn.Linear(8, N))


def convolutional(norm):
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm, nn.Tanh(), nn.Flatten(), nn.Linear(4 * 25, N))


class Sequence(nn.Module):
    """A layer of a transformer over three tokens; its mean is classified."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(6, N)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))


class Functional(nn.Module):
    """Normalisation as a call in ``forward``, which no list of layers would find."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, N)
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        h = nn.functional.layer_norm(self.first(x), (8,), self.weight, self.bias)
        return self.last(torch.tanh(h))


def resnet():
    """torchvision's resnet18 with batch statistics; smooth, since differences of a ReLU network mean nothing."""
    network = torchvision().models.resnet18(num_classes=N)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(child.num_features, track_running_stats=False))
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))
    return network


NETWORKS = {
    "BatchNorm1d": (lambda: dense(nn.BatchNorm1d(8, track_running_stats=False)), (6,)),
    "BatchNorm2d": (lambda: convolutional(nn.BatchNorm2d(4, track_running_stats=False)), (2, 5, 5)),
    "LayerNorm": (lambda: dense(nn.LayerNorm(8)), (6,)),
    "InstanceNorm2d": (lambda: convolutional(nn.InstanceNorm2d(4, affine=True)), (2, 5, 5)),
    "RMSNorm": (lambda: dense(RMSNorm(8)), (6,)),
    "GroupNorm": (lambda: convolutional(nn.GroupNorm(2, 4)), (2, 5, 5)),
    "layer_norm in forward": (Functional, (6,)),
    "TransformerEncoderLayer": (Sequence, (3, 6)),
    "resnet18": (resnet, (3, 16, 16)),
}


def setting(name, **options):
    make, shape = NETWORKS[name]
    torch.manual_seed(3)
    network = make().double()
    g = rng(4)
    for p in network.parameters():  # scales and shifts at 1 and 0 would hide terms
        p.data += 0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    meta = to_float64({"params": {n: p.detach().clone() for n, p in network.named_parameters()}})
    labels = torch.arange(N).repeat_interleave
    support = torch.randn(T, N * K, *shape, generator=g, dtype=torch.float64)
    query = torch.randn(T, N * Q, *shape, generator=g, dtype=torch.float64)
    episodes = Episode(support, labels(K).expand(T, -1), query, labels(Q).expand(T, -1))
    return MAML(network, inner_lr=0.2, inner_steps=2, **options), meta, episodes


@pytest.mark.parametrize("name", NETWORKS)
def test_the_default_engine_is_right_through_torchs_own_layers(name):
    learner, meta, episodes = setting(name)
    gradient, _ = learner.meta_gradient(meta, episodes)
    compared = compare_gradient(lambda m: learner.meta_loss(m, episodes)[0], gradient, meta, generator=rng(5))
    assert worst(compared) < 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_all_tasks_at_once_are_task_by_task(name):
    learner, meta, episodes = setting(name)
    one_by_one, _ = MAML(learner.model, inner_lr=0.2, inner_steps=2, engine="loop").meta_gradient(
        meta, episodes
    )
    assert relative_distance(learner.meta_gradient(meta, episodes)[0], one_by_one) < 1e-10


@pytest.mark.parametrize("name", ["BatchNorm2d", "LayerNorm"])
def test_differentiating_the_mapped_loss_would_be_wrong(name):
    """Why the gradient is taken inside the map. Where torch mends this, the sentence in ``meta_gradient`` can go."""
    learner, meta, episodes = setting(name)
    right, _ = learner.meta_gradient(meta, episodes)
    wrong, _ = torch.func.grad(learner.meta_loss, has_aux=True)(meta, episodes)
    assert 1e-3 < relative_distance(wrong, right) < 0.5
