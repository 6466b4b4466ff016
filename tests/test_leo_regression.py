"""LEO on sines and lines: the tasks, the learner part by part, its gradient, and what can be known from five points."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from package_fixtures import one_line, rng

from mlbook import experiments, results
from mlbook.errors import UserError
from mlbook.meta_learners import LEORegression
from mlbook.meta_learners.base import leaves
from mlbook.meta_learners.leo import LatentEmbedding, spread
from mlbook.meta_learners.leo_regression import network
from mlbook.models import MLP
from mlbook.pages.checks.gradients import compare_gradient, worst
from mlbook.pages.checks.sines_lines import examples, posterior
from mlbook.pages.figures import leo_regression_figures as figures
from mlbook.tasks import Episode, LEONoise, NoisyEpisode, SinesAndLines
from mlbook.tasks.sines_lines import Curves, Known
from mlbook.training.evaluation import evaluate, fixed_episodes
from mlbook.training.runner import run

K, LATENT = 4, 3


def small(**options):
    sizes = {
        "latent": LATENT,
        "encoder_units": 4,
        "decoder_units": 5,
        "latent_steps": 2,
        "finetuning_steps": 2,
    }
    weights = {"kl_weight": 0.2, "penalty_weight": 0.1, "orthogonality_weight": 0.3, "l2_weight": 1e-2}
    rates = {"latent_lr": 0.05, "finetuning_lr": 0.02, "parameter_spread": 0.1}
    return LEORegression(MLP((1, 6, 1), activation="relu"), **{**sizes, **weights, **rates, **options})


def episodes(n=2, learner=None, seed=1):
    learner = learner or small()
    tasks = LEONoise(SinesAndLines(K, 6), learner.noise_shapes)
    return tasks.sample(n, rng(seed)).to(torch.float64)


def meta_of(learner, seed=0, moved=0.2):
    """Meta-parameters in float64, away from special values."""
    g = rng(seed)
    meta = learner.init(g).meta
    for tensor in leaves(meta):
        tensor += moved * torch.randn(tensor.shape, generator=g)
    return {group: {n: t.double() for n, t in ts.items()} for group, ts in meta.items()}


# -- tasks ----------------------------------------------------------------------------------------------------------


def test_half_of_the_tasks_are_lines_and_the_noise_is_0_3():
    batch = SinesAndLines(5, 15).sample_known(4_000, rng())
    assert batch.support_x.shape == (4_000, 5, 1) and batch.query_y.shape == (4_000, 15, 1)
    assert float(batch.is_line.float().mean()) == pytest.approx(0.5, abs=0.03)
    for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
        residual = y - batch.curves.at(x)
        assert float(residual.std()) == pytest.approx(0.3, abs=0.01) and abs(float(residual.mean())) < 0.01
        assert x.min() >= -5 and x.max() <= 5
    lines, sines = batch.is_line, ~batch.is_line
    for field in (batch.scale[lines], batch.shift[lines]):
        assert -3 <= field.min() < -2.9 and 2.9 < field.max() <= 3
    assert 0.1 <= batch.scale[sines].min() and 4.9 < batch.scale[sines].max() <= 5
    assert 0 <= batch.shift[sines].min() and 3.1 < batch.shift[sines].max() <= math.pi


def test_at_meta_test_queries_are_the_curve_itself_and_the_same_task_has_the_same_support_set():
    noisy, clean = SinesAndLines(5, 15), SinesAndLines(5, 15, noisy_queries=False)
    a, b = noisy.sample_known(20, rng()), clean.sample_known(20, rng())
    assert torch.equal(a.support_y, b.support_y) and not torch.equal(a.query_y, b.query_y)
    assert torch.allclose(b.query_y, b.curves.at(b.query_x))
    known = next(fixed_episodes(Known(clean), 25, 1))
    assert all(
        torch.equal(x, y) for x, y in zip(known.episode, next(fixed_episodes(clean, 25, 1)), strict=True)
    )


def test_curves_followed_by_hand():
    curves = Curves(torch.tensor([True, False]), torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.5]))
    y = curves.at(torch.tensor([[[1.5]], [[1.0]]])).flatten().tolist()
    assert y == pytest.approx([4.0, 3 * math.sin(0.5)])


def test_impossible_tasks_are_refused():
    for bad in ({"k_shot": 0}, {"n_query": 0}, {"noise": -0.1}):
        with pytest.raises(UserError) as error:
            SinesAndLines(**bad)
        assert one_line(error.value)


# -- sizes ----------------------------------------------------------------------------------------------------------


def test_the_sizes_of_the_paper():
    learner = LEORegression(MLP())
    meta = learner.init(rng()).meta
    assert learner.generated == 1_761 == meta["rates"]["finetuning"].numel()
    shapes = {name: tuple(p.shape) for name, p in meta["params"].items() if name.endswith("weight")}
    assert shapes == {
        "encoder.0.weight": (16, 2),
        "encoder.1.weight": (16, 16),
        "encoder.2.weight": (16, 16),
        "relation.0.weight": (32, 32),
        "relation.1.weight": (32, 32),
        "relation.2.weight": (32, 32),
        "decoder.0.weight": (32, 16),
        "decoder.1.weight": (32, 32),
        "decoder.2.weight": (2 * 1_761, 32),
    }
    assert meta["rates"]["latent"].tolist() == [1.0] * 16
    assert sum(t.numel() for t in leaves(meta)) < 250_000  # a checkpoint below 1 MB


def test_before_training_every_code_gives_nearly_the_same_network():
    learner = LEORegression(MLP())
    params = learner.init(rng()).meta["params"]
    w = learner.decode(params, torch.zeros(16))
    named = learner.as_params(w)
    assert {n: p.shape for n, p in named.items()} == dict(learner.shapes)
    assert torch.equal(torch.cat([p.flatten() for p in named.values()]), w)
    assert not named["layers.1.bias"].any()
    bound = math.sqrt(6 / 80)  # Xavier for 40 to 40
    assert 0.99 * bound < named["layers.1.weight"].abs().max() <= bound


# -- encoder, decoder -----------------------------------------------------------------------------------------------


def test_the_code_is_the_average_over_all_ordered_pairs():
    learner, episode = small(), episodes(1).task(0)
    params = meta_of(learner)["params"]
    mean, sigma = learner.encode(params, episode.support_x, episode.support_y)

    def mlp(name, x):
        for i in range(3):
            x = params[f"{name}.{i}.weight"] @ x + params[f"{name}.{i}.bias"]
            x = F.relu(x) if i < 2 else x
        return x

    h = [mlp("encoder", torch.cat([x, y])) for x, y in zip(episode.support_x, episode.support_y, strict=True)]
    total = sum(mlp("relation", torch.cat([a, b])) for a in h for b in h) / K**2
    assert torch.allclose(mean, total[:LATENT], atol=1e-12)
    assert torch.allclose(sigma, spread(total[LATENT:], 1.0), atol=1e-12) and (sigma > 0).all()
    assert torch.allclose(sigma, total[LATENT:].exp(), atol=1e-12)  # offset 1: σ = exp(s)
    order = torch.tensor([2, 0, 3, 1])
    again, _ = learner.encode(params, episode.support_x[order], episode.support_y[order])
    assert torch.allclose(again, mean, atol=1e-12)


def test_parameters_are_mean_plus_spread_times_noise():
    learner = small()
    params = meta_of(learner)["params"]
    z, noise = (
        torch.randn(LATENT, generator=rng()).double(),
        torch.randn(learner.generated, generator=rng(1)).double(),
    )
    parts = network(params, "decoder", z[None])[0]
    mean, s = parts.split(learner.generated)
    expected = mean + (s.exp() - 0.9).clamp_min(1e-10) * noise
    assert torch.allclose(learner.decode(params, z, noise), expected, atol=1e-12)
    assert torch.equal(learner.decode(params, z), mean)


# -- inner loops ----------------------------------------------------------------------------------------------------


def by_hand(**options):
    """A line f(x) = w·x + b whose slope w is the code (as long as it is positive) and whose level starts at 0."""
    learner = LEORegression(
        MLP((1, 1)), latent=1, encoder_units=1, decoder_units=1, latent_steps=1, finetuning_steps=1, **options
    )
    meta = learner.init(rng()).meta
    for p in meta["params"].values():
        p.zero_()
    meta["params"]["relation.2.bias"].copy_(torch.tensor([1.0, math.log(0.5)]))
    meta["params"]["decoder.0.weight"].fill_(1.0)
    meta["params"]["decoder.1.weight"].fill_(1.0)
    meta["params"]["decoder.2.weight"][0] = 1.0
    x = torch.tensor([[1.0], [-1.0]])
    return learner, meta, Episode(x, 3 * x, x, 3 * x)


def test_followed_on_paper():
    """Support points (1, 3) and (−1, −3): the loss is (w − 3)² + b², its slope 2(w − 3) by w and by z.

    Code 1, spread 0.5. With α = 0.25 the step on z leads half of the way, from 1 to 2; the step on w from 2 to 2.5.
    """
    learner, meta, episode = by_hand(latent_lr=0.25, finetuning_lr=0.25)
    states = list(learner.inner(meta, episode))
    assert [float(s["z"]) for s in states] == pytest.approx([1, 2, 2])
    assert [s["w"].tolist() for s in states] == [pytest.approx(w) for w in ([1, 0], [2, 0], [2.5, 0])]
    assert float(states[0]["sigma"]) == pytest.approx(0.5)
    paths = list(learner.path(meta, episode.support_x, episode.support_y, 2))
    assert [float(p["layers.0.weight"]) for p in paths] == pytest.approx([1, 2, 2.5])
    assert learner.predict(paths[2], torch.tensor([[2.0]])).item() == pytest.approx(5.0)
    with pytest.raises(UserError) as error:
        list(learner.path(meta, episode.support_x, episode.support_y, 3))
    assert "1 + 1 inner steps" in one_line(error.value)


def test_samples_of_the_code_followed_on_paper():
    """Noise 2 with spread 0.5 starts at z = 2: then 2.5, and w = 2.75. Zero is the curve of the mean."""
    learner, meta, episode = by_hand(latent_lr=0.25, finetuning_lr=0.25)
    x = torch.tensor([[1.0], [2.0]])
    curves = learner.sampled_curves(
        meta, episode.support_x, episode.support_y, x, torch.tensor([[0.0], [2.0]])
    )
    assert curves.shape == (2, 3, 2, 1)
    assert curves[0, :, 0, 0].tolist() == pytest.approx([1, 2, 2.5])
    assert curves[1, :, 0, 0].tolist() == pytest.approx([2, 2.5, 2.75])
    assert torch.allclose(curves[:, :, 1], 2 * curves[:, :, 0])
    with pytest.raises(UserError) as error:
        learner.sampled_curves(meta, episode.support_x, episode.support_y, x, torch.zeros(2, 5))
    assert "[samples, 1]" in one_line(error.value)


def test_a_long_inner_gradient_is_cut_and_a_short_one_is_not():
    learner, meta, episode = by_hand(latent_lr=0.25, finetuning_lr=0.25, longest_gradient=2.0)
    states = list(learner.inner(meta, episode))  # the slope at 1 is −4: cut to −2, one step of 0.5
    assert [float(s["z"]) for s in states][:2] == pytest.approx([1, 1.5])
    g = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    cut = learner.shortened(g)
    assert cut.norm(dim=1).tolist() == pytest.approx([2.0, 0.5, 0.0]) and torch.allclose(cut[1], g[1])


def test_both_loops_are_gradient_descent_with_one_rate_per_dimension():
    learner, episode = small(longest_gradient=1e9), episodes(1).task(0)
    meta = meta_of(learner)
    states = list(learner.inner(meta, episode))
    assert len(states) == 5
    x, y = episode.support_x, episode.support_y
    for n in range(4):
        name = "z" if n < 2 else "w"
        at = states[n][name].detach().clone().requires_grad_()
        w = learner.decode(meta["params"], at, episode.w_noise[n]) if n < 2 else at
        loss = F.mse_loss(learner.predict(learner.as_params(w), x), y)
        (slope,) = torch.autograd.grad(loss, at)
        rates = 0.05 * meta["rates"]["latent"] if n < 2 else 0.02 * meta["rates"]["finetuning"]
        assert torch.allclose(states[n + 1][name], at - rates * slope, atol=1e-12)
        if n < 2:  # decoded again, with fresh noise
            w = learner.decode(meta["params"], states[n + 1]["z"], episode.w_noise[n + 1])
            assert torch.allclose(states[n + 1]["w"], w, atol=1e-12)
        else:
            assert torch.equal(states[n + 1]["z"], states[n]["z"])


def test_at_meta_test_there_is_no_chance():
    learner, episode = small(), episodes(1).task(0)
    meta = meta_of(learner)
    still = episode._replace(z_noise=0 * episode.z_noise, w_noise=0 * episode.w_noise)
    *_, noisy = learner.inner(meta, still)
    *_, plain = learner.inner(meta, Episode(*episode[:4]))
    assert torch.allclose(noisy["w"], plain["w"], atol=1e-12)


# -- the outer objective and its gradient ---------------------------------------------------------------------------


def test_the_terms_of_the_objective():
    learner, episode = small(), episodes(1).task(0)
    meta = meta_of(learner)
    *_, end = learner.inner(meta, episode)
    terms = learner.task_terms(meta, episode)
    prediction = learner.predict(learner.as_params(end["w"]), episode.query_x)
    assert float(terms["query"]) == pytest.approx(float(F.mse_loss(prediction, episode.query_y)))
    q, p = torch.distributions.Normal(end["mean"], end["sigma"]), torch.distributions.Normal(0.0, 1.0)
    z = end["mean"] + end["sigma"] * episode.z_noise
    assert float(terms["kl"]) == pytest.approx(float((q.log_prob(z) - p.log_prob(z)).mean()))
    assert float(terms["penalty"]) == pytest.approx(float(F.mse_loss(end["z"], z)))
    gradient = torch.func.grad(lambda m: learner.task_terms(m, episode)["penalty"])(meta)
    assert not gradient["params"]["decoder.2.weight"].any() and not gradient["rates"]["latent"].any()
    assert gradient["params"]["encoder.0.weight"].abs().max() > 1e-9


def test_the_regulariser():
    learner = small(l2_weight=0.0, orthogonality_weight=1.0)
    params = meta_of(learner)["params"]
    columns = params["decoder.0.weight"].t()
    expected = sum(
        (columns[i] @ columns[j] / columns[i].norm() / columns[j].norm() - int(i == j)) ** 2
        for i in range(LATENT)
        for j in range(LATENT)
    )
    assert float(learner.regulariser(params)) == pytest.approx(float(expected / LATENT**2))
    lengths = replace(learner, l2_weight=2.0, orthogonality_weight=0.0).regulariser(params)
    assert float(lengths) == pytest.approx(float(sum((p**2).sum() for p in params.values())))


def test_all_tasks_at_once_are_task_by_task():
    """The gradient in one graph, the same by function transforms over ``vmap``, and the mean of single tasks."""
    learner, batch = small(), episodes(3)
    meta = meta_of(learner)
    gradient, metrics = learner.meta_gradient(meta, batch)
    transformed, same = LatentEmbedding.meta_gradient(learner, meta, batch)
    for a, b in zip(leaves(gradient), leaves(transformed), strict=True):
        assert torch.allclose(a, b, atol=1e-11)
    terms = [learner.task_terms(meta, batch.task(t)) for t in range(3)]
    for name, of_task in (("loss", "query"), ("kl", "kl"), ("penalty", "penalty")):
        mean = sum(float(t[of_task]) for t in terms) / 3
        assert float(metrics[name]) == pytest.approx(mean) == float(same[name])
        assert not metrics[name].requires_grad
    for g, p in zip(leaves(gradient), leaves(meta), strict=True):
        assert g.shape == p.shape and not p.requires_grad


@pytest.mark.parametrize("latent_steps, finetuning_steps", [(2, 2), (0, 2), (2, 0), (0, 0)])
def test_the_meta_gradient_against_finite_differences_with_frozen_noise(latent_steps, finetuning_steps):
    learner = small(penalty_weight=0.0, latent_steps=latent_steps, finetuning_steps=finetuning_steps)
    batch = episodes(2, learner)
    meta = meta_of(learner)
    gradient, _ = learner.meta_gradient(meta, batch)
    found = compare_gradient(lambda m: learner.meta_loss(m, batch)[0], gradient, meta, generator=rng(5))
    assert worst(found) < 1e-6


def test_the_penalty_in_the_meta_gradient_holds_the_adapted_code_fixed():
    learner, batch = small(penalty_weight=5.0), episodes(2)
    meta = meta_of(learner)
    adapted = [list(learner.inner(meta, batch.task(t)))[-1]["z"] for t in range(2)]
    free = replace(learner, penalty_weight=0.0)

    def held(m):
        starts = [next(learner.inner(m, batch.task(t)))["start"] for t in range(2)]
        pull = sum(((s - a) ** 2).mean() for s, a in zip(starts, adapted, strict=True)) / 2
        return free.meta_loss(m, batch)[0] + 5.0 * pull

    gradient, _ = learner.meta_gradient(meta, batch)
    assert worst(compare_gradient(held, gradient, meta, generator=rng(6))) < 1e-6


def test_the_inner_loops_are_differentiated_through():
    learner, batch = small(penalty_weight=0.0), episodes(2)
    meta = meta_of(learner)
    gradient, _ = learner.meta_gradient(meta, batch)
    assert gradient["rates"]["latent"].abs().min() > 0 and gradient["rates"]["finetuning"].abs().max() > 0


# -- the protocol ---------------------------------------------------------------------------------------------------


def test_it_learns_and_adaptation_helps():
    learner = LEORegression(MLP(), latent_steps=3, finetuning_steps=3)
    tasks = LEONoise(SinesAndLines(), learner.noise_shapes)
    test = SinesAndLines(n_query=50, noisy_queries=False)
    state, g = learner.init(rng()), rng(1)
    before = evaluate(learner, state.meta, test, n_tasks=50, steps=6).value
    for n in range(150):
        state, metrics = learner.step(state, tasks.sample(12, g), n / 150)
    assert state.meta_step == 150 and torch.isfinite(metrics["loss"])
    result = evaluate(learner, state.meta, test, n_tasks=50, steps=6)
    assert result.value < 0.6 * before and result.mean[6] < result.mean[0]


def test_bad_settings_are_refused():
    for bad in ({"latent": 0}, {"latent_steps": -1}, {"decoder_units": 0}, {"meta_lr_decay": "linear"}):
        with pytest.raises(UserError) as error:
            LEORegression(MLP(), **bad)
        assert one_line(error.value)
    with pytest.raises(UserError) as error:
        LEORegression(MLP((1, 4, 1), activation="tanh"))
    assert "ReLU" in one_line(error.value)


def test_the_experiments_share_tasks_network_and_protocol():
    rows = [experiments.get(f"{method}-sines-lines-5shot") for method in ("leo", "maml")]
    configs = [experiments.config(row, "paper") for row in rows]
    for key in ("dataset", "model", "k_shot", "n_query", "test_query", "meta_batch_size"):
        assert len({config[key] for config in configs}) == 1, key
    assert configs[0]["meta_batch_size"] == 12 and configs[0]["k_shot"] == 5
    assert all(experiments.protocol(c) == experiments.protocol(configs[0]) for c in configs)
    assert experiments.protocol(configs[0])["query_noise"] == 0.0
    noisy, plain = (experiments.build_tasks(c, "train") for c in configs[:2])
    a, b = noisy.sample(3, rng()), plain.sample(3, rng())
    assert isinstance(a, NoisyEpisode) and all(torch.equal(x, y) for x, y in zip(a[:4], b, strict=True))
    assert a.w_noise.shape == (3, 6, 1_761)
    tests = [experiments.build_tasks(c, "test") for c in configs]
    assert tests[0] == tests[1] and not tests[0].noisy_queries


def test_a_run_is_resumed_bit_for_bit_and_leaves_a_record(tmp_path):
    options = {"preset": "quick", "meta_steps": 5, "device": "cpu", "evaluation_tasks": 4}
    whole = run("leo-sines-lines-5shot", out=tmp_path / "whole", **options)
    assert run("leo-sines-lines-5shot", out=tmp_path / "parts", time_limit=1e-9, **options) is None
    again = run("leo-sines-lines-5shot", out=tmp_path / "parts", resume=True, **options)
    files = [(tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1] and len(files[0]) < 1_000_000
    assert whole["evaluation"] == again["evaluation"] and whole["evaluation"]["metric"] == "mse"
    assert len(whole["evaluation"]["mean"]) == 11
    assert whole["curve_columns"] == ["meta_step", "loss"] and {len(row) for row in whole["curve"]} == {2}


# -- what can be known ----------------------------------------------------------------------------------------------


def test_the_posterior_knows_a_clear_line_and_a_clear_sine():
    tasks = SinesAndLines()
    x = torch.tensor([[-4.0], [-2.0], [0.0], [2.0], [4.0]])
    line, sine = 2 * x + 1, 4 * torch.sin(x - 1.0)
    grid = torch.linspace(-5, 5, 20)[:, None]
    found = posterior(tasks, torch.stack([x, x]), torch.stack([line, sine]), torch.stack([grid, grid]))
    assert found.p_line[0] > 0.999 and found.p_line[1] < 0.001
    assert (found.mean[0] - (2 * grid + 1).flatten()).abs().max() < 0.2
    assert (found.mean[1] - 4 * torch.sin(grid - 1.0).flatten()).abs().max() < 0.3
    assert (found.spread < 0.5).all()


def test_the_posterior_is_calibrated():
    """The mean squared error of its mean is the mean of its variance, and its probabilities are frequencies."""
    batch = SinesAndLines(3, 10, noisy_queries=False).sample_known(200, rng(3))
    found = posterior(SinesAndLines(), batch.support_x, batch.support_y, batch.query_x, grid=50)
    error = (found.mean - batch.query_y.squeeze(-1)).square().mean(1)
    gap = error - found.spread.square().mean(1)
    assert abs(float(gap.mean())) < 3 * float(gap.std()) / 200**0.5
    wrong = found.p_line - batch.is_line.double()
    assert abs(float(wrong.mean())) < 3 * float(wrong.std()) / 200**0.5


def test_a_posterior_without_noise_is_refused():
    with pytest.raises(UserError) as error:
        posterior(SinesAndLines(noise=0.0), *torch.zeros(3, 1, 2, 1))
    assert "noise" in one_line(error.value)


def test_the_three_examples_are_what_their_names_say():
    tasks = SinesAndLines()
    found = examples(tasks, pool=150, grid=40)
    assert list(found) == ["a clear sine", "a clear line", "ambiguous"]
    assert not found["a clear sine"].is_line and found["a clear line"].is_line
    p_line, unsure = [], []
    for task in found.values():
        known = posterior(tasks, task.support_x, task.support_y, task.query_x, grid=60)
        p_line.append(float(known.p_line))
        unsure.append(float(known.spread.square().mean()))
    assert p_line[0] < 0.01 and p_line[1] > 0.99 and 0.05 < p_line[2] < 0.95
    assert max(unsure[:2]) < 0.09 < unsure[2]


# -- the shipped comparison and the figures -------------------------------------------------------------------------


def test_the_figures_of_a_learner_say_what_they_show():
    learner = LEORegression(MLP(), latent_steps=1, finetuning_steps=1)
    meta = learner.init(rng()).meta
    fig, alt = figures.sampled_fits(learner, meta, examples(SinesAndLines(), pool=40, grid=30), samples=3)
    assert len(fig.axes) == 12 and alt.count("mean spread of the curves") == 3


RECORD = results.study("sines_lines")


@pytest.mark.skipif(RECORD is None, reason="not measured yet")
def test_the_shipped_comparison_is_of_the_shipped_runs_and_adds_up():
    for method, its in RECORD["methods"].items():
        record = results.run_record(its["name"])
        assert its["name"] == f"{method}-sines-lines-5shot"
        assert (record["preset"], record["meta_steps"]) == (its["preset"], its["meta_steps"])
        everything = RECORD["groups"]["all"][method]
        # other tasks of the same distribution
        gap = 4 * (everything["ci95"] ** 2 + record["evaluation"]["ci95"] ** 2) ** 0.5 / 1.96
        assert abs(everything["mean"] - record["evaluation"]["mean"][RECORD["step"]]) < gap
    groups = RECORD["groups"]
    assert groups["all"]["tasks"] == RECORD["tasks"] == groups["sines"]["tasks"] + groups["lines"]["tasks"]
    assert min(groups[name]["tasks"] for name in ("ambiguous", "narrow")) >= 600
    for row in groups.values():
        for method in RECORD["methods"]:
            assert row[method]["mean"] == row[method]["by_step"][RECORD["step"]]["mean"]
            assert row[method]["mean"] > row["best"]["mean"]
            difference = row[method]["difference"]["mean"]
            assert difference == pytest.approx(row[method]["mean"] - row["leo"]["mean"])


@pytest.mark.skipif(RECORD is None, reason="not measured yet")
def test_the_figures_of_the_comparison():
    fig, alt = figures.error_by_step(RECORD)
    assert len(fig.axes) == 2 and alt.count("best possible") == 2
    _, alt = figures.spread_against_error(RECORD)
    assert "after all inner steps" in alt
