"""What a learner of an initialisation refuses, in one sentence: networks, names, targets, numbers that are not finite."""

import re

import pytest
import torch
from package_fixtures import rng
from test_any_network import Forward, Tasks, episodes_for
from torch import nn
from torch.utils.checkpoint import checkpoint

from mlbook.data.tensor_file import load_tensors, save_tensors
from mlbook.engines import fast
from mlbook.errors import CheckpointError, UserError
from mlbook.meta_learners import MAML, Backbone, Classifier, NearestMean, Reptile
from mlbook.meta_learners.losses import LOSSES
from mlbook.models import MLP, Conv4, WideResNet, call, initial_params
from mlbook.tasks import Episode, Sinusoids
from mlbook.training import evaluation, finite, runner
from mlbook.training.evaluation import evaluate, task_scores
from mlbook.training.finite import STEPS_BETWEEN_LOOKS, not_finite
from mlbook.training.loop import train

N = 3
LEARNERS = {"maml": MAML, "reptile": Reptile}


def refuses(match):
    """One sentence: no line break in it."""
    return pytest.raises(UserError, match=r"\A(?=[^\n]*\Z).*" + match)


def small():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, N))


def unbounded():
    """With layers that multiply what they get: too long a step leaves the range of float32 on any version of torch."""
    return nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(), nn.Linear(8, N))


# -- networks --------------------------------------------------------------------------------------------------------

RETURNS = {
    "a tuple": lambda layers, x: (layers[0](x), x),
    "a dict": lambda layers, x: {"logits": layers[0](x)},
    "a list": lambda layers, x: [layers[0](x)],
    "a NoneType": lambda layers, x: None,
    "a torch.sparse_coo tensor": lambda layers, x: layers[0](x).to_sparse(),
}


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("what", RETURNS)
def test_a_forward_must_return_one_dense_tensor(what, kind):
    network = Forward(RETURNS[what], nn.Linear(6, N))
    learner = LEARNERS[kind](network)
    with refuses(f"returns {what}; wrap"):
        learner.meta_gradient(learner.init(rng()).meta, episodes_for((6,)))
    with refuses(f"returns {what}; wrap"):
        task_scores(learner, learner.init(rng()).meta, episodes_for((6,)), steps=1)


def all_frozen():
    return small().requires_grad_(False)


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (all_frozen, "nothing to learn in Sequential: all its parameters are frozen"),
        (nn.Flatten, "nothing to learn in Flatten: it has no parameters"),
        (lambda: nn.LazyLinear(N), "lazy parameters.*call it once"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(N)), "lazy parameters"),
        (lambda: torch.sin, "must be a torch.nn.Module, not builtin_function"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_network_must_have_something_to_learn(make, match, kind):
    with refuses(match):
        LEARNERS[kind](make())


def test_a_network_frozen_later_is_refused_when_values_are_drawn():
    network = small()
    learner = MAML(network)
    network.requires_grad_(False)
    with refuses("nothing to learn"):
        learner.init(rng())
    with refuses("nothing to learn"):
        initial_params(network)


def test_ordinary_training_of_a_conv4_refuses_frozen_parts():
    network = Conv4(N, filters=4)
    network.convs[0].requires_grad_(False)
    with refuses("frozen"):
        Classifier(network)


@pytest.mark.parametrize("name", ["weights", "biases"])
def test_a_forward_must_not_change_its_parameters(name):
    class Clipped(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                (self.weight if name == "weights" else self.bias).clamp_(-0.01, 0.01)
            return super().forward(x)

    learner = MAML(Clipped(6, N))
    with refuses("changes its parameters in place"):
        learner.meta_gradient(learner.init(rng()).meta, episodes_for((6,)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", LEARNERS)
def test_activation_checkpointing_is_refused(reentrant, kind):
    """A checkpointed layer runs again in the backward pass, with the network's own parameters in place of the adapted ones."""

    def forward(layers, x):
        return layers[1](checkpoint(layers[2], layers[0](x), use_reentrant=reentrant))

    learner = LEARNERS[kind](Forward(forward, nn.Linear(6, 8), nn.Linear(8, N), nn.Linear(8, 8)))
    with refuses("checkpointing.*switch it off"):
        learner.meta_gradient(learner.init(rng()).meta, episodes_for((6,)))


class OldOnce(torch.autograd.Function):
    """Tanh with one derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope * (1 - x.tanh() ** 2)


class NewOnce(torch.autograd.Function):
    """The same as ``torch.func`` wants it: there the second derivative is zero without a word."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.tanh()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    backward = OldOnce.backward


ONCE = {
    "cdist": lambda: Forward(
        lambda layers, x: -torch.cdist(layers[0](x), layers[1].weight),
        nn.Linear(6, 8),
        nn.Linear(8, N, bias=False),
    ),
    "an old Function": lambda: Forward(
        lambda layers, x: layers[1](OldOnce.apply(layers[0](x))), nn.Linear(6, 8), nn.Linear(8, N)
    ),
    "a new Function": lambda: Forward(
        lambda layers, x: layers[1](NewOnce.apply(layers[0](x))), nn.Linear(6, 8), nn.Linear(8, N)
    ),
}


def differentiates_twice(network):
    """Whether this torch has the network's second derivative; ``cdist`` has had one since 2.14."""
    x, weights = torch.randn(4, 6), list(network.parameters())
    first = torch.autograd.grad(network(x).square().sum(), weights, create_graph=True)
    try:
        torch.autograd.grad(sum(g.square().sum() for g in first), weights)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("engine", ["vmap", "loop"])
@pytest.mark.parametrize("name", ONCE)
def test_a_network_without_a_second_derivative_is_told_to_take_the_first_order(name, engine):
    network, episodes = ONCE[name](), episodes_for((6,))
    if name == "cdist" and differentiates_twice(network):
        pytest.skip("this torch has the second derivative")
    learner = MAML(network, engine=engine)
    meta = learner.init(rng()).meta
    with refuses("no second derivative .*first_order=True"):
        learner.meta_gradient(meta, episodes)
    gradient, _ = MAML(network, engine=engine, first_order=True).meta_gradient(meta, episodes)
    assert not_finite(gradient) is None
    assert not_finite(Reptile(network).meta_gradient(meta, episodes)[0]) is None


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize(
    ("network", "match"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(7, N)), "6x8 and 7x3"),
        (lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv2d(3, 4, 1)), "expected input|channels"),
        (
            lambda: Forward(lambda layers, x: layers[0](x[:, x.shape[9]]), nn.Linear(6, N)),
            "index out of range",
        ),
        (
            lambda: Forward(lambda layers, x: layers[0](x).missing(), nn.Linear(6, N)),
            "no attribute 'missing'",
        ),
    ],
)
def test_an_error_of_the_users_forward_is_what_it_is(network, match, kind, caplog):
    """In the shapes of one task, and not as something that vmap cannot do."""
    learner = LEARNERS[kind](network())
    with pytest.raises((RuntimeError, IndexError, AttributeError), match=match) as raised:
        learner.meta_gradient(learner.init(rng()).meta, episodes_for((6,)))
    assert not isinstance(raised.value, UserError) and raised.value.__context__ is None
    assert not caplog.records and learner.engine_used() == "vmap"


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("2.weigth",), "no parameter '2.weigth' .*2.weight"),
        (("2.weight", "head"), "no parameter 'head'"),
        ((), "at least one name"),
        ("2.weight", "tuple"),
        (("0.weight",), "0.weight in names is frozen"),
    ],
)
def test_names_are_looked_at_when_the_learner_is_made(names, match):
    network = small()
    network[0].requires_grad_(False)
    with refuses(match):
        MAML(network, names=names)


# -- targets ---------------------------------------------------------------------------------------------------------


def regression(support=(2, 5, 1), query=(2, 4, 1), dtype=torch.float32):
    x = torch.randn(2, 5, 1, generator=rng()), torch.randn(2, 4, 1, generator=rng())
    return Episode(x[0], torch.ones(support, dtype=dtype), x[1], torch.ones(query, dtype=dtype))


def classes(labels, query=None, dtype=torch.int64):
    x = torch.randn(2, len(labels), 6, generator=rng())
    y = torch.tensor(labels, dtype=dtype).expand(2, -1)
    return Episode(x, y, x, y if query is None else torch.tensor(query, dtype=dtype).expand(2, -1))


FLAT = (r"\[5, 1\] and targets of shape \[5\]", regression(support=(2, 5), query=(2, 4)))
TARGETS = {
    "flat targets": ("mse", *FLAT),
    "flat query targets": ("mse", r"\[4, 1\] and targets of shape \[4\]", regression(query=(2, 4))),
    "two values": ("mse", r"\[5, 1\] and targets of shape \[5, 2\]", regression(support=(2, 5, 2))),
    "integers": ("mse", "real targets, not torch.int64", regression(dtype=torch.int64)),
    "real labels": (
        "cross_entropy",
        "torch.int64, not torch.float32",
        classes([0, 1, 2], dtype=torch.float32),
    ),
    "int32 labels": ("cross_entropy", "torch.int64, not torch.int32", classes([0, 1, 2], dtype=torch.int32)),
    "a label too large": ("cross_entropy", "from 0 to 2.*from 0 to 3", classes([0, 1, 3])),
    "a query label too large": ("cross_entropy", "from 0 to 2.*from 1 to 9", classes([0, 1, 2], [1, 2, 9])),
    "a negative label": ("cross_entropy", "from 0 to 2.*from -1 to 1", classes([0, 1, -1])),
    "the label that torch passes by": ("cross_entropy", "from -100 to 1", classes([0, 1, -100])),
    "one-hot labels": (
        "cross_entropy",
        r"logits \[B, N\]",
        Episode(
            torch.rand(2, 3, 6), torch.ones(2, 3, N).long(), torch.rand(2, 3, 6), torch.ones(2, 3, N).long()
        ),
    ),
}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name, (loss, *_) in TARGETS.items()
        for kind in ("maml", "loop", "reptile", "evaluation", *(["fast"] if loss == "mse" else []))
    ],
)
def test_targets_must_fit_the_network(name, kind, later):
    """On the first meta-step and after one that fitted."""
    loss, match, episodes = TARGETS[name]
    if loss == "mse":
        network, right = MLP((1, 8, 1)), regression()
    else:
        network, right = small(), classes([0, 1, 2])
    learner = Reptile(network, loss=loss) if kind == "reptile" else MAML(network, loss=loss)
    learner = fast(learner) if kind == "fast" else learner
    learner = MAML(network, loss=loss, engine="loop") if kind == "loop" else learner
    meta = learner.init(rng()).meta
    with_scores = kind == "evaluation"
    if later:
        learner.meta_gradient(meta, right)
    with refuses(match):
        if with_scores:
            task_scores(learner, meta, episodes, steps=1)
        learner.meta_gradient(meta, episodes)


@pytest.mark.parametrize("labels", [[0, 1, 3], [0, 1, -100]])
def test_labels_must_fit_the_closed_forms_too(labels):
    x = torch.rand(2, 3, 1, 8, 8, generator=rng())
    y = torch.tensor(labels).expand(2, -1)
    for learner in (MAML(Conv4(N, filters=4, size=8)), Reptile(Conv4(N, filters=4, size=8))):
        learner = fast(learner)
        with refuses("labels must be from 0 to 2"):
            learner.meta_gradient(learner.init(rng()).meta, Episode(x, y, x, y))


def test_losses_compare_shapes_wherever_they_are_taken():
    with refuses("equal shapes"):
        LOSSES["mse"](torch.rand(5, 1), torch.rand(5))
    with refuses("equal shapes"):
        score_of_flat_targets()
    with refuses("torch.int64"):
        LOSSES["cross_entropy"](torch.rand(5, 3), torch.rand(5))


@pytest.mark.parametrize(
    ("support", "query", "sentence"),
    [
        ((2, 0, 6), (2, 3, 6), r"support_x has the shape \[2, 0, 6\]"),
        ((0, 3, 6), (0, 3, 6), r"support_x has the shape \[0, 3, 6\]"),
        ((2, 3, 6), (1, 3, 6), "equally many tasks; query_x has 1, support_x 2"),
    ],
    ids=["no examples", "no tasks", "other tasks"],
)
@pytest.mark.parametrize("kind", LEARNERS)
def test_sets_must_belong_together_at_every_step(kind, support, query, sentence):
    learner = LEARNERS[kind](small())
    state = learner.init(rng())
    learner.step(state, classes([0, 1, 2]))  # the network has been seen
    sets = [part for shape in (support, query) for part in (torch.rand(shape), torch.zeros(shape[:2]).long())]
    with refuses(sentence):
        learner.step(state, Episode(*sets))
    with refuses(sentence):
        task_scores(learner, state.meta, Episode(*sets), steps=1)


@pytest.mark.parametrize("kind", LEARNERS)
def test_every_example_has_a_label_at_every_step(kind):
    learner = LEARNERS[kind](small())
    state = learner.init(rng())
    right = classes([0, 1, 2])
    learner.step(state, right)
    with refuses("logits .* for labels of shape"):
        learner.step(state, right._replace(support_y=right.support_y[:, :-1]))
    with refuses("logits .* for labels of shape"):
        task_scores(learner, state.meta, right._replace(query_y=right.query_y[:, :-1]), steps=1)


@pytest.mark.parametrize("kind", LEARNERS)
def test_the_meta_parameters_of_another_network_are_refused(kind):
    learner = LEARNERS[kind](small())
    other = LEARNERS[kind](nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, N))).init(rng())
    renamed = LEARNERS[kind](nn.ModuleDict({"layers": small()})["layers"]).init(rng()).meta
    renamed = {"params": {f"layers.{name}": p for name, p in renamed["params"].items()}}
    for _ in range(2):  # before the network was seen, and after
        with refuses(r"of another network: 0.weight has the shape \[4, 6\], and here \[8, 6\]"):
            learner.step(other, classes([0, 1, 2]))
        with refuses(r"of another network: 0.weight"):
            task_scores(learner, other.meta, classes([0, 1, 2]), steps=1)
        with refuses(r"of another network: layers.0.weight .* and here no such parameter"):
            task_scores(learner, renamed, classes([0, 1, 2]), steps=1)
        learner.step(learner.init(rng()), classes([0, 1, 2]))


def test_the_nearest_mean_asks_for_the_labels_of_classes():
    learner = NearestMean(nn.Flatten())
    meta, right = learner.init().meta, classes([0, 1, 2])
    task_scores(learner, meta, right, steps=0)
    for wrong, sentence in (
        (
            right._replace(support_y=right.support_y[..., None]),
            r"support labels must be .* of \[\d+, \d+, 1\]",
        ),
        (right._replace(query_y=right.query_y[:, :-1]), "query labels must be"),
        (right._replace(query_y=right.query_y.float()), "query labels must be torch.int64"),
        (right._replace(query_y=right.query_y + 5), "here 0 to 2; these are from 5 to 7"),
        (right._replace(support_y=right.support_y - 1), "here 0 to 1; these are from -1 to 1"),
    ):
        with refuses(sentence):
            task_scores(learner, meta, wrong, steps=0)


@pytest.mark.parametrize("kind", LEARNERS)
def test_networks_whose_parameters_cannot_be_adapted(kind):
    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = nn.Parameter(torch.ones(N, dtype=torch.complex64))

        def forward(self, x):
            return (x[:, :N] * self.turn).abs()

    with refuses("parameter turn is complex"):
        LEARNERS[kind](Turning())
    for layer in (nn.Embedding, nn.EmbeddingBag):
        with refuses("0 has a max_norm: its forward changes the parameters"):
            LEARNERS[kind](nn.Sequential(layer(5, 4, max_norm=1.0), nn.Flatten(), nn.Linear(4, N)))


@pytest.mark.parametrize(
    ("learner", "options", "sentence"),
    [
        (MAML, {"inner_loss": "sum"}, "inner_loss must be one of mean, class_sum, not 'sum'"),
        (MAML, {"meta_lr_decay": "linear"}, "meta_lr_decay must be one of constant, cosine"),
        (MAML, {"inner_lr": -0.1}, "inner_lr must be a finite rate from 0 on, got -0.1"),
        (MAML, {"meta_lr": float("nan")}, "meta_lr must be a finite rate"),
        (Reptile, {"meta_lr_final": float("inf")}, "meta_lr_final must be a finite rate"),
        (Reptile, {"tail": "both"}, "tail must be one of support, query"),
    ],
)
def test_arguments_that_a_learner_cannot_mean(learner, options, sentence):
    with refuses(re.escape(sentence)):
        learner(small(), **options)


def score_of_flat_targets():
    learner = MAML(MLP(), loss="mse")
    task = regression(query=(2, 4)).task(0)
    return evaluation.score(learner, learner.init(rng()).meta["params"], task, "transductive", None)


def test_a_head_that_was_replaced_is_looked_at_again():
    network = small()
    learner = MAML(network)
    learner.meta_gradient(learner.init(rng()).meta, classes([0, 1, 2]))
    network[2] = nn.Linear(8, 5)
    learner.meta_gradient(learner.init(rng()).meta, classes([0, 3, 4]))


# -- numbers that are not finite --------------------------------------------------------------------------------------


def training(learner, tasks, steps=50, state=None):
    state = learner.init(rng()) if state is None else state
    return list(train(learner, tasks, meta_steps=steps, meta_batch_size=2, state=state, generator=rng(1)))


@pytest.mark.parametrize(
    ("learner", "tasks"),
    [
        (MAML(MLP(), loss="mse", inner_lr=1e30), Sinusoids(5)),
        (Reptile(MLP(), loss="mse", inner_lr=1e30), Sinusoids(5)),
        (MAML(small(), inner_lr=1e38, inner_steps=3), Tasks(6)),
    ],
    ids=["maml", "reptile", "classes"],
)
def test_training_stops_at_the_meta_step_where_a_number_is_not_finite(learner, tasks):
    with refuses(r"(the loss became|parameter \S+ became).* at meta-step \d+; lower the rates"):
        training(learner, tasks)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_training_names_the_parameter_that_is_not_finite(value):
    class Ruined(MAML):
        def step(self, state, *args):
            state, metrics = super().step(state, *args)
            if state.meta_step == 3:
                state.meta["params"]["layers.1.weight"][2, 1] = value
            return state, metrics

    with refuses("parameter layers.1.weight became NaN or infinite at meta-step 3"):
        training(Ruined(MLP(), loss="mse"), Sinusoids(5))


def test_a_gpu_is_asked_now_and_then(monkeypatch):
    """Here the machine is a stand-in: what counts is when numbers are read."""

    class OnGPU(torch.Tensor):
        device = torch.device("cuda")

    read = []
    monkeypatch.setattr(finite, "leaves", lambda meta: [torch.ones(1).as_subclass(OnGPU)])
    state = type("State", (), {"meta": {}})()
    loss = type("Loss", (), {"__float__": lambda self: read.append(state.meta_step) or 1.0})()
    for step in range(1, 2 * STEPS_BETWEEN_LOOKS + 51):
        state.meta_step = step
        finite.check_step(state, {"loss": loss}, 2 * STEPS_BETWEEN_LOOKS + 50)
    assert read == [STEPS_BETWEEN_LOOKS, 2 * STEPS_BETWEEN_LOOKS, 2 * STEPS_BETWEEN_LOOKS + 50]


def test_large_and_finite_numbers_are_no_reason_to_stop():
    learner = MAML(MLP(), loss="mse")
    state = learner.init(rng())
    state.meta["params"]["layers.0.bias"].fill_(3e38)  # their sum overflows
    assert not_finite(state.meta) is None
    finite.check_step(state, {"loss": torch.tensor(1.0)}, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("group", ["params", "inner_lr"])
def test_evaluation_refuses_parameters_that_are_not_finite(value, group):
    learner = MAML(MLP(), loss="mse", learn_inner_lr=True)
    meta = learner.init(rng()).meta
    meta[group]["layers.1.bias"][3] = value
    with refuses("parameter .*layers.1.bias holds NaN or infinity"):
        evaluate(learner, meta, Sinusoids(5), n_tasks=2, steps=1)


def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path):
    runner.run("maml-sinusoid-5shot", meta_steps=1, device="cpu", out=tmp_path, evaluation_tasks=2)
    path = tmp_path / "checkpoint.safetensors"
    tensors, header = load_tensors(path)
    runner.load_checkpoint(path)
    tensors["params/layers.0.weight"][1] = float("nan")
    save_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match=re.escape(str(path)) + ".*layers.0.weight.*NaN"):
        runner.load_checkpoint(path)


@pytest.mark.parametrize(
    ("learner", "tasks", "steps"),
    [
        (MAML(unbounded(), inner_lr=1e30), Tasks(6), 4),
        (Reptile(unbounded(), inner_lr=1e30), Tasks(6), 4),
        (MAML(MLP(), loss="mse", inner_lr=1e20), Sinusoids(5), 4),
    ],
    ids=["maml", "reptile", "regression"],
)
def test_an_adaptation_that_diverges_has_no_score(learner, tasks, steps):
    meta = learner.init(rng()).meta
    with refuses(r"diverges: on \d+ of 3 tasks .* inner step 4 .*the first at inner step \d"):
        evaluate(learner, meta, tasks, n_tasks=3, steps=steps)
    found = evaluate(learner, meta, tasks, n_tasks=3, steps=steps, report_step=0)
    assert found.mean[0] is not None and found.mean[steps] is None and found.ci95_by_step[steps] is None


def test_the_engine_that_computed_stands_in_the_record_and_the_progress_line(tmp_path, capsys, monkeypatch):
    options = {"meta_steps": 2, "device": "cpu", "evaluation_tasks": 2}
    record = runner.run("maml-sinusoid-5shot", out=tmp_path / "a", **options)
    assert record["engine"] == "fast" and "maml-sinusoid-5shot (fast) 2/2" in capsys.readouterr().err
    monkeypatch.setattr(runner, "fastest", lambda learner, *_: learner)
    record = runner.run("maml-sinusoid-5shot", out=tmp_path / "b", **options)
    assert record["engine"] == "vmap" and "(vmap) 2/2" in capsys.readouterr().err
    forward = MLP.forward

    def looking(self, x, *rest):
        return forward(self, x * (1 if float(x.sum()) else 2), *rest)

    monkeypatch.setattr(MLP, "forward", looking)
    record = runner.run("maml-sinusoid-5shot", out=tmp_path / "c", **options)
    said = capsys.readouterr().err
    assert record["engine"] == "loop" and "(loop) 2/2" in said


def test_batch_statistics_can_be_chosen_for_the_packages_own_norm_only():
    learner = MAML(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, N)))
    with refuses("no batch norm whose statistics can be chosen"):
        evaluate(learner, learner.init(rng()).meta, Tasks(6), n_tasks=2, steps=1, batch_norm="support")


def test_a_backbone_keeps_its_frozen_parts():
    network = WideResNet(4, depth=10, width=1)
    network.stem.requires_grad_(False)
    learner = Backbone(network, n_way=2)
    state = learner.init(rng())
    assert "stem.weight" not in state.meta["params"]
    x, y = torch.rand(4, 1, 3, 8, 8, generator=rng()), torch.arange(4).view(4, 1)
    before = network.stem.weight.clone()
    state, _ = learner.step(state, Episode(x, y, x[:, :0], y[:, :0]))
    assert torch.equal(network.stem.weight, before)
    assert call(network, state.meta["params"], x[:, 0]).shape == (4, 4)


# -- what a forward does to its own and to what it is given -----------------------------------------------------------------


def twelve_points():
    x = torch.randn(2, 12, 6, generator=torch.Generator().manual_seed(1))
    y = (x.sum(-1) > 0).long()
    return Episode(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])


@pytest.mark.parametrize("learner", [MAML, Reptile])
def test_a_module_that_is_there_twice_stays_the_user_s(learner):
    shared = nn.Linear(6, 6)
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 2))
    before = [p.clone() for p in net.parameters()]
    made = learner(net, inner_lr=0.1)
    made.step(made.init(torch.Generator().manual_seed(0)), twelve_points())
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert len(list(net.parameters())) == 4 == len(MAML(net).init(torch.Generator()).meta["params"])


class Shifts(nn.Module):
    """Centres its input, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place, self.layer = in_place, nn.Linear(6, 2)

    def forward(self, x):
        if self.in_place:
            x -= 2.0
            return self.layer(x)
        return self.layer(x - 2.0)


@pytest.mark.parametrize("first_order", [True, False])
def test_an_input_that_is_changed_in_place_is_a_copy(first_order):
    episodes = twelve_points()
    kept = episodes.support_x.clone()
    gradients = []
    for in_place in (True, False):
        made = MAML(Shifts(in_place), inner_lr=0.1, inner_steps=3, first_order=first_order)
        meta = {"params": {"layer.weight": torch.ones(2, 6) / 6, "layer.bias": torch.zeros(2)}}
        gradients.append(made.meta_gradient(meta, episodes)[0]["params"])
    assert torch.equal(episodes.support_x, kept)
    assert all(torch.allclose(gradients[0][n], g) for n, g in gradients[1].items())
    dropping = MAML(nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(6, 2)), first_order=first_order)
    dropping.step(dropping.init(torch.Generator().manual_seed(0)), episodes)
    assert torch.equal(episodes.support_x, kept)


class ByList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)
        self.weights = [self.layer.weight]

    def forward(self, x):
        return x @ self.weights[0].t()


def test_a_weight_that_the_forward_takes_from_a_list_is_refused():
    made = MAML(ByList())
    with pytest.raises(UserError, match="does not take layer.weight from its attribute"):
        made.step(made.init(torch.Generator().manual_seed(0)), twelve_points())


def test_the_nearest_mean_does_not_cancel():
    means = 1e4 + torch.eye(5)
    labels = torch.arange(5).repeat(8)
    found = NearestMean(nn.Flatten()).predict({"means": means}, means[labels])
    assert torch.equal(found.argmax(1), labels)


def test_a_distribution_that_gives_too_few_tasks_is_refused():
    class Four:
        def sample(self, n_tasks, generator):
            return twelve_points()

    made = MAML(nn.Linear(6, 2))
    with pytest.raises(UserError, match="sample gave 2 tasks; 25 were asked for"):
        evaluate(made, made.init(torch.Generator()).meta, Four(), n_tasks=30, steps=1)


@pytest.mark.parametrize("given", [{"k": "v"}, {}])
@pytest.mark.parametrize("at", [-1, -300])
def test_a_changed_byte_of_a_file_is_found(tmp_path, at, given):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"w": torch.randn(200)}, given)
    tensors, header = load_tensors(path)
    assert header == given and len(tensors["w"]) == 200
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_tensors(path)
