"""Other people's networks: the meta-gradient through their layers, with the default engine, against central differences in
float64; and what a network may hold, do and return. ``test_refused_networks.py`` has what is refused."""

import copy
import logging
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from package_fixtures import rng
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from mlbook.data.torchvision_import import torchvision
from mlbook.engines import fits
from mlbook.meta_learners import MAML, Reptile
from mlbook.meta_learners.base import leaves
from mlbook.models import MLP, Conv4, call, initial_params
from mlbook.models.conv4 import head_names
from mlbook.models.mapping import is_mapped
from mlbook.pages.checks import compare_gradient, relative_distance, worst
from mlbook.tasks import Episode
from mlbook.training.evaluation import evaluate, fixed_scores, task_scores
from mlbook.training.loop import train

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


class Forward(nn.Module):
    """A network whose forward is ``function(layers, x)``."""

    def __init__(self, function, *layers):
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x):
        return self.function(self.layers, x)


def recurrent(kind, **options):
    """The last hidden state of a recurrent layer over three steps is classified."""
    width = 2 * 5 if options.get("bidirectional") else 5
    layer = kind(6, 5, batch_first=True, **options)
    return Forward(lambda layers, x: layers[1](layers[0](x)[0][:, -1]), layer, nn.Linear(width, N))


def cell(kind):
    """A recurrent cell that a user's forward steps through."""

    def steps(layers, x):
        state = None
        for step in x.unbind(1):
            state = layers[0](step, state)
        return layers[1](state[0] if isinstance(state, tuple) else state)

    return Forward(steps, kind(6, 5), nn.Linear(5, N))


def attention(**options):
    layer = nn.MultiheadAttention(6, 2, batch_first=True, **options)
    return Forward(
        lambda layers, x: layers[1](layers[0](x, x, x, need_weights=False)[0].mean(1)), layer, nn.Linear(6, N)
    )


def plain_attention():
    return Forward(
        lambda layers, x: layers[1](F.scaled_dot_product_attention(layers[0](x), x, x).mean(1)),
        nn.Linear(6, 6),
        nn.Linear(6, N),
    )


def looks_at_values():
    """A branch that depends on the data, and a number taken out of the graph."""

    def forward(layers, x):
        h = layers[0](x).tanh()
        return layers[1](h if float(x.mean()) < 10 else -h)

    return Forward(forward, nn.Linear(6, 8), nn.Linear(8, N))


class Tanh(torch.autograd.Function):
    """Written before ``torch.func``: no ``setup_context``."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope * (1 - x.tanh() ** 2)


def own_function():
    return Forward(lambda layers, x: layers[1](Tanh.apply(layers[0](x))), nn.Linear(6, 8), nn.Linear(8, N))


class OwnNorm(nn.Module):
    """Somebody's batch norm: it collects averages in training, and takes them in eval mode."""

    def __init__(self, features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))
        self.register_buffer("running_square", torch.ones(features))

    def forward(self, x):
        if self.training:
            square = x.square().mean(0)
            with torch.no_grad():
                self.running_square.mul_(0.9).add_(square.detach(), alpha=0.1)
            return self.scale * x / (square + 0.1).sqrt()
        return self.scale * x / (self.running_square + 0.1).sqrt()


def frozen(network, *parts):
    for part in parts:
        network.get_submodule(part).requires_grad_(False)
    return network


def smooth(network):
    """Differences of a network with ReLU mean nothing."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))
    return network


def resnet():
    """torchvision's resnet18 as it comes, with running averages."""
    return smooth(torchvision().models.resnet18(num_classes=N))


NETWORKS = {
    "BatchNorm1d": (lambda: dense(nn.BatchNorm1d(8, track_running_stats=False)), (6,)),
    "BatchNorm2d": (lambda: convolutional(nn.BatchNorm2d(4, track_running_stats=False)), (2, 5, 5)),
    "LayerNorm": (lambda: dense(nn.LayerNorm(8)), (6,)),
    "InstanceNorm2d": (lambda: convolutional(nn.InstanceNorm2d(4, affine=True)), (2, 5, 5)),
    "RMSNorm": (lambda: dense(RMSNorm(8)), (6,)),
    "GroupNorm": (lambda: convolutional(nn.GroupNorm(2, 4)), (2, 5, 5)),
    "layer_norm in forward": (Functional, (6,)),
    "TransformerEncoderLayer": (Sequence, (3, 6)),
    "resnet18": (resnet, (3, 8, 8)),
    "BatchNorm1d with averages": (lambda: dense(nn.BatchNorm1d(8)), (6,)),
    "InstanceNorm2d with averages": (
        lambda: convolutional(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        (2, 5, 5),
    ),
    "BatchNorm1d in eval mode": (lambda: dense(nn.BatchNorm1d(8)).eval(), (6,)),
    "spectral_norm in eval mode": (
        lambda: nn.Sequential(spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, N)).eval(),
        (6,),
    ),
    "somebody's norm": (lambda: dense(OwnNorm(8)), (6,)),
    "LSTM": (lambda: recurrent(nn.LSTM), (3, 6)),
    "LSTM of two layers, both ways": (
        lambda: recurrent(nn.LSTM, num_layers=2, bidirectional=True),
        (3, 6),
    ),
    "GRU": (lambda: recurrent(nn.GRU), (3, 6)),
    "RNN": (lambda: recurrent(nn.RNN), (3, 6)),
    "LSTMCell": (lambda: cell(nn.LSTMCell), (3, 6)),
    "GRUCell": (lambda: cell(nn.GRUCell), (3, 6)),
    "MultiheadAttention": (attention, (3, 6)),
    "MultiheadAttention in eval mode": (lambda: attention().eval(), (3, 6)),
    "TransformerEncoderLayer in eval mode": (lambda: Sequence().eval(), (3, 6)),
    "scaled_dot_product_attention": (plain_attention, (3, 6)),
    "a forward that looks at values": (looks_at_values, (6,)),
    "an autograd.Function": (own_function, (6,)),
    "frozen first layer": (lambda: frozen(dense(nn.LayerNorm(8)), "0"), (6,)),
    "frozen norm": (lambda: frozen(convolutional(nn.BatchNorm2d(4)), "1"), (2, 5, 5)),
    "frozen LSTM": (lambda: frozen(recurrent(nn.LSTM), "layers.0"), (3, 6)),
}
ONE_BY_ONE = {
    "somebody's norm",
    "LSTM",
    "LSTM of two layers, both ways",
    "GRU",
    "RNN",
    "LSTMCell",
    "GRUCell",
    "a forward that looks at values",
    "an autograd.Function",
    "frozen LSTM",
}


def setting(name, **options):
    make, shape = NETWORKS[name]
    torch.manual_seed(3)
    network = make().double()
    g = rng(4)
    for p in network.parameters():  # scales and shifts at 1 and 0 would hide terms
        p.data += 0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    meta = {"params": initial_params(network)}
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
    assert is_mapped(learner.model, "gradient") == (name not in ONE_BY_ONE)


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


# -- what a network starts from --------------------------------------------------------------------------------------


def episodes_for(shape, *, seed=4, dtype=torch.float32):
    g = rng(seed)
    x = torch.randn(2, T, N * K, *shape, generator=g).to(dtype)
    y = torch.arange(N).repeat_interleave(K).expand(T, -1)
    return Episode(x[0], y, x[1], y)


class Tasks:
    """Tasks of a user: a class with ``sample``."""

    def __init__(self, *shape):
        self.shape = shape

    def sample(self, n_tasks, generator):
        x = torch.randn(2, n_tasks, N * K, *self.shape, generator=generator)
        y = torch.arange(N).repeat_interleave(K).expand(n_tasks, -1)
        return Episode(x[0], y, x[1], y)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(6, N),
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, N)),
        lambda: torchvision().models.resnet18(num_classes=N),
        lambda: nn.LSTM(6, N),
    ],
    ids=["Linear", "Sequential", "resnet18", "LSTM"],
)
@pytest.mark.parametrize("kind", [MAML, Reptile])
def test_a_module_starts_from_its_own_values(make, kind):
    network = make()
    state = kind(network).init(rng())
    assert state.meta["params"].keys() == dict(network.named_parameters()).keys()
    for name, p in network.named_parameters():
        assert torch.equal(state.meta["params"][name], p)
        assert state.meta["params"][name].data_ptr() != p.data_ptr()


def test_a_module_that_can_be_drawn_is_drawn_with_the_generator():
    network = Conv4(N, filters=4)
    a, b, c = (MAML(network).init(rng(seed)).meta["params"]["head.weight"] for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, network.head.weight)


# -- frozen parts ----------------------------------------------------------------------------------------------------

SOME_FROZEN = {
    "Sequential": (lambda: frozen(dense(nn.LayerNorm(8)), "0"), (6,)),
    "Conv4": (lambda: frozen(Conv4(N, filters=4, size=8), "convs.0", "norms"), (1, 8, 8)),
    "LSTM": (lambda: frozen(recurrent(nn.LSTM), "layers.0"), (3, 6)),
}
KINDS = {
    "maml": lambda network: MAML(network, inner_lr=0.1),
    "anil": lambda network: MAML(network, inner_lr=0.1, names=head_names(network)),
    "meta-sgd": lambda network: MAML(network, inner_lr=0.1, learn_inner_lr=True),
    "fomaml": lambda network: MAML(network, inner_lr=0.1, first_order=True),
    "loop": lambda network: MAML(network, inner_lr=0.1, engine="loop"),
    "reptile": lambda network: Reptile(network, inner_lr=0.1),
    "reptile with adam": lambda network: Reptile(network, inner_lr=0.1, optimizer="adam"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOME_FROZEN)
def test_frozen_parts_stay_and_the_others_learn(name, kind):
    make, shape = SOME_FROZEN[name]
    network = make()
    before = copy.deepcopy(network.state_dict())
    learner = KINDS[kind](network)
    *_, last = train(
        learner,
        Tasks(*shape),
        meta_steps=2,
        meta_batch_size=T,
        state=learner.init(rng()),
        generator=rng(1),
    )
    still = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert still and not still & last.state.meta["params"].keys()
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert not fits(learner)  # the closed forms know nothing of frozen parts
    task = episodes_for(shape).task(0)
    for params in learner.path(last.state.meta, task.support_x, task.support_y, 2):
        assert params.keys() == last.state.meta["params"].keys()


def test_tied_weights_are_one_parameter():
    network = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, N))
    network[2].weight = network[0].weight
    learner = MAML(network, inner_lr=0.1)
    state = learner.init(rng())
    assert "2.weight" not in state.meta["params"]
    gradient, _ = learner.meta_gradient(state.meta, episodes_for((6,)))
    assert gradient["params"]["0.weight"].norm() > 0


# -- what a network holds, on the device of its parameters -----------------------------------------------------------


def with_table():
    """A buffer that is no average, a frozen layer, and averages in eval mode."""
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, N)).eval()
    network[1].running_mean.normal_(generator=rng(3))
    return frozen(network, "0")


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.randn(3, 6, generator=rng(1)), persistent=False)
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("turn", torch.randn(6, 6, generator=rng(2)))
        self.head = nn.Linear(6, N)

    def forward(self, x):
        return self.head(((x + self.table)[:, self.order].cumsum(1).tanh() @ self.turn).mean(1))


HOLDERS = {"batch norm and a frozen layer": (with_table, (6,)), "positions": (Positions, (3, 6))}


def moved_together(name, *where):
    """Gradients of a network whose parameters travelled alone, and of one that travelled as a whole."""
    make, shape = HOLDERS[name]
    torch.manual_seed(0)
    network = make()
    found = []
    for module in (network, copy.deepcopy(network).to(*where)):
        learner = MAML(module, inner_lr=0.1)
        params = {n: p.detach().to(*where) for n, p in initial_params(network).items()}
        episodes = episodes_for(shape).to(*where)
        found.append(learner.meta_gradient({"params": params}, episodes)[0])
        assert task_scores(learner, {"params": params}, episodes, steps=2).isfinite().all()
    return network, *found


@pytest.mark.parametrize("name", HOLDERS)
def test_what_a_network_holds_follows_its_parameters(name):
    """By type, which every machine has: a call on float64 parameters would fail on float32 buffers."""
    network, alone, whole = moved_together(name, torch.float64)
    assert relative_distance(alone, whole) < 1e-12
    assert {t.dtype for t in network.state_dict().values() if t.is_floating_point()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", HOLDERS)
def test_what_a_network_holds_follows_its_parameters_to_a_gpu(name):
    network, alone, whole = moved_together(name, "cuda")
    assert relative_distance(alone, whole) < 1e-4
    assert {t.device.type for t in network.state_dict().values()} == {"cpu"}
    learner = MAML(network, inner_lr=0.1)
    state = learner.init(rng(), "cuda")
    assert all(t.device.type == "cuda" for t in leaves(state.meta))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_have_a_second_derivative_on_a_gpu(kind):
    torch.manual_seed(0)
    learner = MAML(recurrent(kind), inner_lr=0.1)
    meta, episodes = {"params": initial_params(learner.model)}, episodes_for((3, 6))
    expected, _ = learner.meta_gradient(meta, episodes)
    meta = {"params": {n: p.cuda() for n, p in meta["params"].items()}}
    found, _ = learner.meta_gradient(meta, episodes.to("cuda"))
    assert relative_distance({"params": {n: g.cpu() for n, g in found["params"].items()}}, expected) < 1e-3


def test_what_a_network_holds_is_read_anew_when_it_changes():
    network = with_table()
    params = {n: p.double() for n, p in initial_params(network).items()}
    learner, episodes = MAML(network), episodes_for((6,), dtype=torch.float64)
    first, _ = learner.meta_gradient({"params": params}, episodes)
    with torch.no_grad():
        network[1].running_var.mul_(4)
    assert relative_distance(learner.meta_gradient({"params": params}, episodes)[0], first) > 0.05


# -- a call leaves no trace ------------------------------------------------------------------------------------------


class Counter(nn.Module):
    """It counts its calls, in a buffer, a number and a tensor of its own, and keeps what it saw last."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, N)
        self.register_buffer("count", torch.zeros(()))
        self.calls, self.total = 0, torch.zeros(N)

    def forward(self, x):
        self.count += 1
        self.calls += 1
        self.seen = self.layer(x)
        self.total += self.seen.detach().mean(0)
        return self.seen / self.count


TRACES = {
    "BatchNorm1d": (lambda: dense(nn.BatchNorm1d(8)), (6,)),
    "BatchNorm2d without momentum": (lambda: convolutional(nn.BatchNorm2d(4, momentum=None)), (2, 5, 5)),
    "InstanceNorm2d": (lambda: convolutional(nn.InstanceNorm2d(4, track_running_stats=True)), (2, 5, 5)),
    "spectral_norm": (lambda: nn.Sequential(spectral_norm(nn.Linear(6, 8)), nn.Linear(8, N)), (6,)),
    "the old spectral_norm": (
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 8)), nn.Linear(8, N)),
        (6,),
    ),
    "counter": (Counter, (6,)),
    "somebody's norm": (lambda: dense(OwnNorm(8)), (6,)),
    "dropout": (lambda: dense(nn.Dropout(0.5)), (6,)),
    "LSTM": (lambda: recurrent(nn.LSTM), (3, 6)),
}


def everything(module):
    """All attributes of all parts of a module, tensors as numbers."""
    return [
        {
            name: value.tolist() if isinstance(value, torch.Tensor) else value
            for name, value in {**part.__dict__, **part._parameters, **part._buffers}.items()
            if not isinstance(value, (dict, list))
        }
        for part in module.modules()
    ]


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TRACES)
def test_a_call_leaves_no_trace(name, training):
    make, shape = TRACES[name]
    network = make().train(training)
    before = everything(network)
    episodes = episodes_for(shape)
    for learner in (MAML(network, inner_lr=0.1), Reptile(network, inner_steps=2)):
        meta = learner.init(rng()).meta
        gradient, _ = learner.meta_gradient(meta, episodes)
        assert all(g.isfinite().all() for g in leaves(gradient))
        scores = task_scores(learner, meta, episodes, steps=2)
        assert torch.equal(scores, task_scores(learner, meta, episodes, steps=2))
        assert everything(network) == before


@pytest.mark.parametrize("name", ["BatchNorm1d with averages", "resnet18"])
def test_batch_norm_takes_the_batch_in_training_mode_and_its_averages_in_eval_mode(name):
    make, shape = NETWORKS[name]
    network = make()
    x = torch.randn(8, *shape, generator=rng())
    params = initial_params(network)
    network(x)  # moves the averages
    expected = copy.deepcopy(network)(x)
    assert torch.allclose(call(network, params, x), expected, atol=1e-6)
    network.eval()
    assert torch.allclose(call(network, params, x), network(x), atol=1e-6)
    assert not torch.allclose(network(x), expected, atol=1e-3)


# -- dropout ---------------------------------------------------------------------------------------------------------


def functional_dropout():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 40), nn.Linear(40, N)

        def forward(self, x):
            return self.last(F.dropout(self.first(x), 0.5, training=self.training))

    return Dropped()


DROPOUT = {
    "Dropout": (lambda: nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.5), nn.Linear(40, N)), (6,)),
    "Dropout2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(72, N)),
        (2, 5, 5),
    ),
    "F.dropout": (functional_dropout, (6,)),
    "TransformerEncoderLayer": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(6, 2, 8, dropout=0.5, batch_first=True), nn.Flatten(), nn.Linear(18, N)
        ),
        (3, 6),
    ),
    "MultiheadAttention": (lambda: attention(dropout=0.5), (3, 6)),
    "LSTM": (lambda: recurrent(nn.LSTM, num_layers=2, dropout=0.5), (3, 6)),
}


def one_task_twice(shape):
    """A meta-batch of two equal tasks."""
    return Episode(*(field[:1].expand_as(field) for field in episodes_for(shape)))


@pytest.mark.parametrize("kind", ["maml", "fomaml", "loop", "reptile", "reptile with adam"])
@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_is_on_in_meta_training_and_different_for_every_task(name, kind):
    make, shape = DROPOUT[name]
    torch.manual_seed(0)
    learner = KINDS[kind](make())
    meta, episodes = learner.init(rng()).meta, one_task_twice(shape)
    once, twice = (leaves(learner.meta_gradient(meta, episodes)[0]) for _ in range(2))
    assert not all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    alone = Episode(*(field[:1] for field in episodes))
    torch.manual_seed(1)
    mean = leaves(learner.meta_gradient(meta, episodes)[0])
    torch.manual_seed(1)
    first = leaves(
        learner.meta_gradient(meta, alone)[0]
    )  # the same numbers for its one task, or the first of them
    assert not all(torch.allclose(a, b) for a, b in zip(mean, first, strict=True))


@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_is_off_in_evaluation_and_prediction(name):
    make, shape = DROPOUT[name]
    torch.manual_seed(0)
    network = make()
    learner = MAML(network, inner_lr=0.1)
    meta, task = learner.init(rng()).meta, episodes_for(shape).task(0)
    paths = [list(learner.path(meta, task.support_x, task.support_y, 2))[-1] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(paths[0].values(), paths[1].values(), strict=True))
    predicted = learner.predict(meta["params"], task.query_x)
    assert torch.allclose(predicted, copy.deepcopy(network).eval()(task.query_x), atol=1e-6)
    scores = [fixed_scores(learner, meta, Tasks(*shape), n_tasks=3, steps=2) for _ in range(2)]
    assert torch.equal(*scores)
    assert all(part.training for part in network.modules())


# -- what torch cannot map over tasks --------------------------------------------------------------------------------

ALONE = {name: NETWORKS[name] for name in sorted(ONE_BY_ONE)}


@pytest.mark.parametrize("kind", ["maml", "fomaml", "reptile", "reptile with adam"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "a forward that looks at values", "an autograd.Function"])
def test_a_network_that_cannot_be_mapped_is_computed_task_by_task_and_says_so_once(name, kind, caplog):
    make, shape = NETWORKS[name]
    learner = KINDS[kind](make())
    meta, episodes = learner.init(rng()).meta, episodes_for(shape)
    assert learner.engine_used() == ("loop" if kind == "reptile with adam" else "vmap")
    with caplog.at_level(logging.WARNING, logger="mlbook"):
        learner.meta_gradient(meta, episodes)
        learner.meta_gradient(meta, episodes)
        task_scores(learner, meta, episodes, steps=1)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("Forward is computed task by task") and "\n" not in said
    assert learner.engine_used() == "loop" and learner.engine == "vmap"


@pytest.mark.parametrize("kind", ["maml", "reptile"])
def test_a_network_may_turn_out_later_to_be_one_that_cannot_be_mapped(kind, caplog):
    """Here with longer inputs than those of the first meta-step."""

    def forward(layers, x):
        h = layers[0](x.mean(1))
        return h if x.shape[1] < 4 or float(h.mean()) < 100 else -h

    learner = KINDS[kind](Forward(forward, nn.Linear(6, N)))
    meta = learner.init(rng()).meta
    learner.meta_gradient(meta, episodes_for((3, 6)))
    assert learner.engine_used() == "vmap" and not caplog.records
    learner.meta_gradient(meta, episodes_for((5, 6)))
    assert learner.engine_used() == "loop" and len(caplog.records) == 1


LOOPED_BY_TORCH = {
    "weight_norm": (lambda: nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.Linear(8, N)), lambda x: x),
    "EmbeddingBag": (
        lambda: nn.Sequential(nn.EmbeddingBag(9, 5, mode="sum"), nn.Linear(5, N)),
        lambda x: x.abs().long().clamp_max(8),
    ),
}


@pytest.mark.parametrize("name", LOOPED_BY_TORCH)
def test_a_loop_of_torch_over_operators_is_not_taken(name, caplog):
    """``vmap`` has no rule for these and would go through the tasks operator by operator, with a warning."""
    make, inputs = LOOPED_BY_TORCH[name]
    learner = MAML(make(), first_order=True)
    episodes = episodes_for((6,))
    episodes = episodes._replace(support_x=inputs(episodes.support_x), query_x=inputs(episodes.query_x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient, _ = learner.meta_gradient(learner.init(rng()).meta, episodes)
    assert learner.engine_used() == "loop" and all(g.isfinite().all() for g in leaves(gradient))
    assert "batching rule" in caplog.text


def test_a_recurrent_second_derivative_is_right_in_float32_too():
    """oneDNN's LSTM, which torch takes for float32 on a CPU, has its own backward pass."""
    learner, meta, episodes = setting("LSTM")
    expected, _ = learner.meta_gradient(meta, episodes)
    learner = replace(learner, model=copy.deepcopy(learner.model).float())
    found, _ = learner.meta_gradient(
        {"params": {n: p.float() for n, p in meta["params"].items()}}, episodes.to(torch.float32)
    )
    assert relative_distance(found, expected) < 1e-4


@pytest.mark.parametrize("name", ["LSTM", "a forward that looks at values"])
def test_evaluation_task_by_task_gives_the_scores_of_a_hand_written_loop(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    learner = MAML(make(), inner_lr=0.5)
    meta, tasks = learner.init(rng()).meta, Tasks(*shape)
    found = evaluate(learner, meta, tasks, n_tasks=4, steps=3)
    episodes = tasks.sample(25, torch.Generator().manual_seed(1_000_003))
    right = []
    for t in range(4):
        *_, adapted = learner.path(meta, episodes.support_x[t], episodes.support_y[t], 3)
        right.append(
            (learner.predict(adapted, episodes.query_x[t]).argmax(-1) == episodes.query_y[t]).double().mean()
        )
    assert found.value == pytest.approx(float(torch.stack(right).mean()), abs=1e-6)


# -- several outputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Linear(3, 2), lambda: MLP((3, 8, 2), activation="tanh", init_std=0.5)],
    ids=["Linear", "MLP"],
)
def test_regression_with_several_outputs(make):
    network = make().double()
    x = torch.randn(2, T, 5, 3, generator=rng(), dtype=torch.float64)
    y = torch.stack([x.sin().sum(-1), x.cos().sum(-1)], -1)
    episodes = Episode(x[0], y[0], x[1], y[1])
    learner = MAML(network, loss="mse", inner_lr=0.1)
    meta = {"params": initial_params(network)}
    gradient, _ = learner.meta_gradient(meta, episodes)
    compared = compare_gradient(lambda m: learner.meta_loss(m, episodes)[0], gradient, meta, generator=rng(5))
    assert worst(compared) < 1e-6
    *_, adapted = learner.path(meta, x[0][0], y[0][0], 1)
    expected = (learner.predict(adapted, x[1][0]) - y[1][0]).square().mean()
    assert float(task_scores(learner, meta, episodes, steps=1)[0, 1]) == pytest.approx(float(expected))


def test_a_networks_own_derivative_that_differs_is_found_on_the_first_task(caplog):
    """Whatever ``torch.func`` gets wrong without a word, ordinary autograd decides."""

    class Wrong(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.tanh()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx, slope):
            (x,) = ctx.saved_tensors
            inside = type(x) is torch.Tensor and torch._C._functorch.is_functorch_wrapped_tensor(x)
            return slope * (1 - x.tanh() ** 2) * (2 if inside else 1)

    network = Forward(
        lambda layers, x: layers[1](Wrong.apply(layers[0](x))), nn.Linear(6, 8), nn.Linear(8, N)
    )
    learner = MAML(network, inner_lr=0.2)
    with caplog.at_level(logging.WARNING, logger="mlbook"):
        learner.meta_gradient(learner.init(rng()).meta, episodes_for((6,)))
    assert "another one" in caplog.text and learner.engine_used() == "loop"
