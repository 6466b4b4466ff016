"""In-context learning: linear attention is gradient descent, transformers read sets, posterior means are as good as it gets."""

import math

import pytest
import torch

from mlbook import experiments
from mlbook.errors import UserError
from mlbook.meta_learners.base import leaves
from mlbook.meta_learners.in_context import (
    FixedRule,
    InContext,
    clipped,
    context_mean,
    gradient_descent,
    kernel_regression,
    nearest_point,
    ridge,
)
from mlbook.meta_learners.inner_loop import adapt
from mlbook.meta_learners.posterior import lines, posterior_mean, sines, truncated_normal
from mlbook.models.attention import (
    ContextTransformer,
    LinearAttention,
    answers,
    attend,
    gradient_step_layers,
)
from mlbook.models.functional import call, initial_params
from mlbook.pages import ledger_table
from mlbook.pages.checks.sines_lines import posterior
from mlbook.tasks import SinesAndLines, Sinusoids
from mlbook.tasks.linear_functions import LinearFunctions, RandomNetworks
from mlbook.tasks.support_sets import NoisySupport, Prefixes
from mlbook.training.evaluation import evaluate
from mlbook.training.runner import run

DOUBLE = torch.float64


def episodes(tasks, n=6, seed=0):
    return tasks.sample(n, torch.Generator().manual_seed(seed)).to(DOUBLE)


# -- linear attention ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features, layers", [(1, 1), (3, 1), (10, 1), (10, 2), (4, 5)])
def test_a_layer_of_linear_attention_is_a_step_of_gradient_descent(features, layers):
    """Against the inner loop of MAML on the same loss, from w = 0, at every query; and against `gradient_descent`."""
    e = episodes(LinearFunctions(features, 7, 5, half_range=1.0))
    found = answers(gradient_step_layers(features, 0.7, layers), e.support_x, e.support_y, e.query_x)
    for t in range(e.n_tasks):
        task = e.task(t)

        def loss(p, task=task):
            return 0.5 * (task.support_x @ p["w"] - task.support_y).square().mean()

        w = adapt(loss, {"w": torch.zeros(features, 1, dtype=DOUBLE)}, inner_lr=0.7, steps=layers)["w"]
        assert (found[t] - task.query_x @ w).abs().max() < 1e-10
        by_rule = gradient_descent(0.7, layers)(*task[:3])
        assert (found[t] - by_rule).abs().max() < 1e-10


def test_a_layer_takes_the_step_out_of_the_targets_and_leaves_the_inputs():
    e = episodes(LinearFunctions(4, 6, 3))
    layers = gradient_step_layers(4, 1.3)
    context = torch.cat([e.support_x, e.support_y], -1)
    moved = attend({name: m[0] for name, m in layers.items()}, context, context)
    step = 1.3 * e.support_x.transpose(1, 2) @ e.support_y / 6
    assert torch.equal(moved[..., :4], e.support_x)
    assert (moved[..., 4:] - (e.support_y - e.support_x @ step)).abs().max() < 1e-12


def test_the_module_computes_what_the_function_says_and_has_484_parameters():
    model = LinearAttention(10)
    params = initial_params(model, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in params.values()) == 484
    e = LinearFunctions(10, 5, 4).sample(3, torch.Generator().manual_seed(1))
    found = call(model, params, e.query_x, context_x=e.support_x, context_y=e.support_y)
    assert torch.equal(found, answers(params, e.support_x, e.support_y, e.query_x))
    with pytest.raises(UserError):
        LinearAttention(0)


# -- the transformer ---------------------------------------------------------------------------------------------------


def in_double(model):
    params = initial_params(model, torch.Generator().manual_seed(0))
    return {name: p.double() for name, p in params.items()}


@pytest.mark.parametrize(
    "model", [ContextTransformer(width=16), LinearAttention(1, 2)], ids=["softmax", "linear"]
)
def test_the_context_is_a_set_and_queries_do_not_see_each_other(model):
    params = in_double(model)
    e = episodes(Sinusoids(6, 5))

    def said(cx, cy, x):
        return call(model, params, x, context_x=cx, context_y=cy)

    whole = said(*e[:3])
    assert whole.shape == (6, 5, 1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    assert (said(e.support_x[:, order], e.support_y[:, order], e.query_x) - whole).abs().max() < 1e-12
    assert (said(*e[:2], e.query_x[:, 2:3]) - whole[:, 2:3]).abs().max() < 1e-12
    assert (said(e.support_x[:, 1:], e.support_y[:, 1:], e.query_x) - whole).abs().max() > 1e-9
    alone = said(e.support_x[0], e.support_y[0], e.query_x[0])  # no tasks axis
    assert (alone - whole[0]).abs().max() < 1e-12


def test_attention_of_the_transformer_is_torchs_own():
    model = ContextTransformer(width=8, layers=1, heads=2)
    params = in_double(model)
    z = torch.randn(4, 9, 8, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    block = model.blocks[0].double()
    block.load_state_dict({n.removeprefix("blocks.0."): p for n, p in params.items() if "blocks.0" in n})
    n = block.norm(z)
    q, k, v = (
        block.apart(layer(t))
        for layer, t in ((block.query, n), (block.key, n[:, :5]), (block.value, n[:, :5]))
    )
    read = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    wanted = z + block.projection(read)
    wanted = wanted + block.narrow(torch.nn.functional.gelu(block.wide(block.second_norm(wanted))))
    assert (block(z, 5) - wanted).abs().max() < 1e-12


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="heads divide"):
        ContextTransformer(width=10, heads=3)


# -- the learner -------------------------------------------------------------------------------------------------------


def test_the_meta_gradient_is_that_of_the_mean_query_loss():
    learner = InContext(LinearAttention(2))
    meta = {"params": in_double(learner.model)}
    e = episodes(LinearFunctions(2, 4, 3))
    gradient, metrics = learner.meta_gradient(meta, e)
    params = {n: p.clone().requires_grad_() for n, p in meta["params"].items()}
    losses = [
        (answers(params, *e.task(t)[:2], e.query_x[t]) - e.query_y[t]).square().mean() for t in range(6)
    ]
    mean = torch.stack(losses).mean()
    wanted = torch.autograd.grad(mean, list(params.values()))
    assert float(metrics["loss"]) == pytest.approx(float(mean.detach()), abs=1e-12)
    for name, g in zip(params, wanted, strict=True):
        assert (gradient["params"][name] - g).abs().max() < 1e-12


def test_the_rate_rises_and_falls_and_a_long_gradient_is_cut():
    learner = InContext(LinearAttention(1), meta_lr=2.0, warm_up=0.1, meta_lr_decay="cosine")
    assert learner.meta_lr_at(0.0) == 0
    assert learner.meta_lr_at(0.05) == pytest.approx(2.0 * 0.5 * 0.5 * (1 + math.cos(0.05 * math.pi)))
    assert learner.meta_lr_at(1.0) == pytest.approx(0.0, abs=1e-12)
    g = {"params": {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}}
    assert clipped(g, None) is g
    assert [float(t) for t in leaves(clipped(g, 1.0))] == pytest.approx([0.6, 0.8])
    assert [float(t) for t in leaves(clipped(g, 10.0))] == pytest.approx([3.0, 4.0])
    with pytest.raises(UserError, match="share"):
        InContext(LinearAttention(1), warm_up=2)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda e: e._replace(support_x=e.support_x[..., 0]), "in-context learning has x"),
        (lambda e: e._replace(query_y=e.query_y.long()), "real"),
        (lambda e: e._replace(support_x=e.support_x[:, :0], support_y=e.support_y[:, :0]), "empty"),
        (lambda e: e._replace(support_x=e.support_x[..., :2]), "reads inputs of 3 numbers"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(change, words):
    learner = InContext(LinearAttention(3))
    e = change(episodes(LinearFunctions(3, 4, 2)))
    with pytest.raises(UserError, match=words):
        learner.meta_gradient({"params": in_double(learner.model)}, e)


@pytest.mark.parametrize("name", ["linear-attention-lines-2", "transformer-sinusoid-5shot"])
def test_a_run_that_was_interrupted_ends_in_the_same_parameters(name, tmp_path):
    options = {"meta_steps": 6, "evaluation_tasks": 4, "device": "cpu", "seed": 1}
    whole = run(name, out=tmp_path / "whole", **options)
    part = {**options, "checkpoint_seconds": 0.0}
    assert run(name, out=tmp_path / "part", time_limit=1e-9, **part) is None
    resumed = run(name, out=tmp_path / "part", resume=True, **part)
    assert resumed["evaluation"] == whole["evaluation"] and resumed["evaluation"]["metric"] == "mse"
    files = [(tmp_path / folder / "checkpoint.safetensors").read_bytes() for folder in ("whole", "part")]
    assert files[0] == files[1]


def test_the_recorded_networks_have_the_sizes_that_the_chapter_names():
    def size(name):
        learner = experiments.build_learner(experiments.config(name, "paper"))
        return sum(p.numel() for p in learner.model.parameters())

    assert size("linear-attention-10d") == 484
    assert [size(f"linear-attention-lines-{n}") for n in (1, 2, 3)] == [36, 72, 108]
    assert size("transformer-sinusoid-5shot") == 100_097


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_linear_functions_are_linear_and_have_the_stated_variances():
    e = episodes(LinearFunctions(1, 20, 5, half_range=1.0, level=True, noise=0.3), n=2000)
    assert e.support_x.shape == (2000, 20, 2) and bool((e.support_x[..., 0] == 1).all())
    w = torch.linalg.lstsq(e.query_x, e.query_y).solution
    assert (e.query_x @ w - e.query_y).abs().max() < 1e-4  # drawn in float32
    noise = e.support_y - e.support_x @ w
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert float(e.support_x[..., 1].var()) == pytest.approx(1 / 3, rel=0.03)
    for wrong in ({"inputs": 0}, {"half_range": 0.0}, {"noise": -1.0}, {"k_shot": 0}):
        with pytest.raises(UserError):
            LinearFunctions(**wrong)


NORMAL = {"spreads": (1.0,) * 5}


def test_uniform_inputs_are_drawn_as_before():
    """Recorded runs of linear attention stand on these draws."""
    e = LinearFunctions(3, 4, 2, noise=0.3).sample(6, torch.Generator().manual_seed(8))
    g = torch.Generator().manual_seed(8)
    x = 0.5 * (2 * torch.rand(6, 6, 3, generator=g) - 1)
    y = x @ torch.randn(6, 3, 1, generator=g)
    assert torch.equal(e.support_x, x[:, :4]) and torch.equal(e.query_y, y[:, 4:])
    assert torch.equal(e.support_y, y[:, :4] + 0.3 * torch.randn(6, 4, 1, generator=g))


def test_normal_inputs_have_the_spreads_that_are_asked_for():
    e = LinearFunctions(5, 10, 10, spreads=(2.0, 1.0, 0.5, 1.0, 0.0)).sample(
        3000, torch.Generator().manual_seed(0)
    )
    x = torch.cat([e.support_x, e.query_x], 1).flatten(0, 1)
    assert x.std(0).tolist() == pytest.approx([2.0, 1.0, 0.5, 1.0, 0.0], rel=0.02, abs=1e-9)
    assert float(x[:, 1].pow(4).mean()) == pytest.approx(3.0, rel=0.05)  # normal: 1.8 if uniform
    for wrong in ((1.0,), (1.0,) * 4 + (-1.0,)):
        with pytest.raises(UserError, match="5 numbers"):
            LinearFunctions(5, spreads=wrong)


def test_larger_weights_and_inputs_are_the_same_tasks_scaled():
    plain, weights, inputs = (
        LinearFunctions(5, 4, 3, **options).sample(5, torch.Generator().manual_seed(3))
        for options in (NORMAL, {**NORMAL, "weight_std": 2.0}, {"spreads": (2.0,) * 5})
    )
    assert torch.equal(weights.support_x, plain.support_x)
    assert torch.allclose(weights.support_y, 2 * plain.support_y)
    assert torch.equal(inputs.query_x, 2 * plain.query_x)
    assert torch.allclose(inputs.query_y, 2 * plain.query_y)
    with pytest.raises(UserError):
        LinearFunctions(5, weight_std=-1.0)


def test_random_networks_have_the_mean_square_of_linear_functions_and_half_of_it_is_linear():
    e = RandomNetworks(5, 400, 5).sample(500, torch.Generator().manual_seed(0)).to(DOUBLE)
    assert e.support_x.shape == (500, 400, 5) and e.query_y.shape == (500, 5, 1)
    assert float(e.support_y.square().mean()) == pytest.approx(5.0, rel=0.05)
    left = ridge(0.0)(*e[:2], e.support_x) - e.support_y
    assert float(left.square().mean()) == pytest.approx(2.5, rel=0.1)
    with pytest.raises(UserError):
        RandomNetworks(5, hidden=0)


def test_the_experiments_on_five_inputs_meet_the_same_tasks():
    names = ("transformer-linear-5d", "maml-linear-5d", "maml-linear-5d-mlp", "reptile-linear-5d")
    setups = [experiments.setup(experiments.config(name, "paper")) for name in names]
    assert all(s.tasks("test") == LinearFunctions(5, 10, 50, **NORMAL) for s in setups)
    assert all(s.protocol == setups[0].protocol for s in setups)
    assert setups[0].tasks("train") == Prefixes(LinearFunctions(5, 20, 5, **NORMAL), 1)
    sizes = [sum(p.numel() for p in s.learner.model.parameters()) for s in setups]
    assert sizes == [100_353, 5, 1_921, 5]
    assert [ledger_table.method(name) for name in names] == ["transformer", "maml", "maml", "reptile"]
    assert {ledger_table.data_set(name) for name in names} == {"linear functions"}


def test_prefixes_shorten_the_support_sets_and_nothing_else():
    g = torch.Generator().manual_seed(0)
    seen = {Prefixes(Sinusoids(4, 3), 2).sample(2, g).support_x.shape[1] for _ in range(40)}
    assert seen == {2, 3, 4}
    whole = Sinusoids(4, 3).sample(2, torch.Generator().manual_seed(5))
    short = Prefixes(Sinusoids(4, 3), 1).sample(2, torch.Generator().manual_seed(5))
    k = short.support_x.shape[1]
    assert torch.equal(short.support_x, whole.support_x[:, :k]) and torch.equal(short.query_y, whole.query_y)
    with pytest.raises(UserError, match="from 1 to 4"):
        Prefixes(Sinusoids(4, 3), 5).sample(1, g)


def test_noise_is_on_the_support_targets_alone():
    whole = Sinusoids(50, 3).sample(40, torch.Generator().manual_seed(5))
    noisy = NoisySupport(Sinusoids(50, 3), 0.5).sample(40, torch.Generator().manual_seed(5))
    assert torch.equal(whole.support_x, noisy.support_x) and torch.equal(whole.query_y, noisy.query_y)
    assert float((noisy.support_y - whole.support_y).std()) == pytest.approx(0.5, rel=0.05)
    with pytest.raises(UserError):
        NoisySupport(Sinusoids(), -1.0)


# -- rules -------------------------------------------------------------------------------------------------------------


def test_simple_rules_by_hand():
    cx, cy = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    x = torch.tensor([[0.4], [1.9], [1.0]])
    assert context_mean(cx, cy, x).tolist() == [[3.0]] * 3
    assert nearest_point(cx, cy, x)[:2].tolist() == [[1.0], [5.0]]
    found = kernel_regression(0.5)(cx, cy, x)
    a, b = math.exp(-(0.4**2) / 0.5), math.exp(-(1.6**2) / 0.5)
    assert float(found[0]) == pytest.approx((a + 5 * b) / (a + b)) and float(found[2]) == pytest.approx(3.0)
    for wrong in (lambda: kernel_regression(0), lambda: ridge(-1), lambda: posterior_mean([sines()], 0.0)):
        with pytest.raises(UserError):
            wrong()
    rule = FixedRule(context_mean)
    with pytest.raises(UserError, match="not meta-trained"):
        rule.step(None, None)
    its = evaluate(rule, rule.init().meta, Sinusoids(5, 10), n_tasks=30, steps=0)
    e = Sinusoids(5, 10).sample(25, torch.Generator().manual_seed(1_000_003))
    first = (e.support_y.mean(1, keepdim=True) - e.query_y).square().mean()
    assert its.metric == "mse" and its.value == pytest.approx(float(first), rel=0.3)


def test_ridge_is_the_posterior_mean_and_many_gradient_steps_are_least_squares():
    e = episodes(LinearFunctions(3, 6, 4, half_range=1.0))
    joint = e.support_x @ e.support_x.transpose(1, 2) + 0.25 * torch.eye(6, dtype=DOUBLE)
    wanted = (
        e.query_x @ e.support_x.transpose(1, 2) @ torch.linalg.solve(joint, e.support_y)
    )  # a Gaussian process
    assert (ridge(0.25)(*e[:3]) - wanted).abs().max() < 1e-10
    assert (gradient_descent(2.0, 3000)(*e[:3]) - ridge(0.0)(*e[:3])).abs().max() < 1e-6


def test_ridge_and_least_squares_by_hand():
    """One point x = (1, 2), y = 5. Least squares of least norm: w = xy/|x|² = (1, 2). Penalty 5: w = xy/(|x|² + 5) = (½, 1)."""
    x, y, query = (torch.tensor(v, dtype=DOUBLE) for v in ([[1.0, 2.0]], [[5.0]], [[3.0, 1.0], [2.0, -1.0]]))
    assert ridge(0.0)(x, y, query).flatten().tolist() == pytest.approx([5.0, 0.0], abs=1e-12)
    assert ridge(5.0)(x, y, query).flatten().tolist() == pytest.approx([2.5, 0.0], abs=1e-12)
    # two points along the axes: each weight for itself, w = x·y/(x² + λ)
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=DOUBLE), torch.tensor([[4.0], [3.0]], dtype=DOUBLE)
    eye = torch.eye(2, dtype=DOUBLE)
    assert ridge(1.0)(x, y, eye).flatten().tolist() == pytest.approx([8 / 5, 3 / 2])
    assert gradient_descent(1.0, 1)(x, y, eye).flatten().tolist() == pytest.approx([4.0, 1.5])


@pytest.mark.parametrize("k", [1, 3, 5, 8])
def test_without_noise_least_squares_misses_the_directions_that_it_has_not_seen(k):
    """Its mean error is D − K before D points and 0 from there on; the best single step's is D(D + 1)/(K + D + 1)."""
    e = episodes(LinearFunctions(5, k, 10, **NORMAL), n=4000)

    def error(rule):
        squares = (rule(*e[:3]) - e.query_y).square().mean((1, 2))
        return float(squares.mean()), 2 * 1.96 * float(squares.std()) / len(squares) ** 0.5

    mean, twice = error(ridge(0.0))
    assert abs(mean - (5 - k)) < twice if k < 5 else mean < 1e-4  # y was rounded to float32
    mean, twice = error(gradient_descent(k / (k + 6), 1))
    assert abs(mean - 30 / (k + 6)) < twice


def test_with_noise_the_penalty_that_is_its_variance_is_best_and_has_the_error_of_the_formula():
    """σ² x(XᵀX + σ²I)⁻¹x, averaged over the inputs."""
    e = episodes(NoisySupport(LinearFunctions(5, 10, 10, **NORMAL), 0.5), n=4000)
    found = {p: float((ridge(p)(*e[:3]) - e.query_y).square().mean()) for p in (0.0, 0.1, 0.25, 0.6, 1.0)}
    assert min(found, key=found.get) == 0.25
    inner = torch.linalg.inv(e.support_x.mT @ e.support_x + 0.25 * torch.eye(5, dtype=DOUBLE))
    formula = 0.25 * (e.query_x @ inner * e.query_x).sum(-1).mean()
    assert found[0.25] == pytest.approx(float(formula), rel=0.03)


def test_a_truncated_normal_has_the_mean_and_the_share_that_integration_gives():
    at = torch.linspace(-1.0, 2.0, 200_001, dtype=DOUBLE)
    for mean, spread in ((0.5, 0.3), (-4.0, 0.4), (6.0, 0.5), (0.0, 50.0), (1.9, 0.01)):
        weight = torch.exp(-0.5 * ((at - mean) / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
        share, centre = torch.trapezoid(weight, at), torch.trapezoid(weight * at, at)
        found, middle = truncated_normal(
            torch.tensor(mean, dtype=DOUBLE), torch.tensor(spread, dtype=DOUBLE), -1.0, 2.0
        )
        assert float(found) == pytest.approx(float(share.log()), abs=1e-5)
        assert float(middle) == pytest.approx(float(centre / share), abs=1e-5)


def test_the_posterior_mean_is_that_of_a_grid_over_both_parameters():
    """Amplitude and phase (and slope and level) on a grid each, weighted by the likelihood, without any closed form."""
    e = episodes(SinesAndLines(3, 4), n=3)
    noise, n = 0.3, 600
    part = (torch.arange(n, dtype=DOUBLE) + 0.5) / n
    A, phase = 0.1 + 4.9 * part[:, None], math.pi * part[None]
    level, slope = -3 + 6 * part[:, None], -3 + 6 * part[None]
    rule = posterior_mean([sines(), lines()], noise)
    for t in range(3):
        total, sum_of = 0.0, torch.zeros(4, dtype=DOUBLE)
        for curve in (lambda x: A * torch.sin(x - phase), lambda x: slope * x + level):
            misfit = sum((curve(x) - y).square() for x, y in zip(e.support_x[t], e.support_y[t], strict=True))
            weight = torch.exp(-misfit / (2 * noise**2))
            total = total + weight.sum()
            sum_of = sum_of + torch.stack([(weight * curve(x)).sum() for x in e.query_x[t]])
        found = rule(*e.task(t)[:3])[:, 0]
        assert (found - sum_of / total).abs().max() < 2e-3


def test_the_posterior_mean_is_that_of_chapter_9():
    """There both parameters lie on a grid, and noise is needed."""
    tasks = SinesAndLines(4, 10)
    e = episodes(tasks, n=4)
    wanted = posterior(tasks, *e[:3], grid=400).mean
    found = posterior_mean([sines(), lines()], tasks.noise)(*e[:3])[..., 0]
    assert (found - wanted).abs().max() < 0.01


def test_without_noise_three_points_tell_the_wave():
    rule = FixedRule(posterior_mean([sines()], 0.02))
    errors = [
        evaluate(rule, rule.init().meta, Sinusoids(k, 20), n_tasks=100, steps=0).value for k in (1, 3, 5)
    ]
    assert errors[0] > 0.5 and max(errors[1:]) < 1e-3
