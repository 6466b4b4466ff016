"""LEO against the official code, detail by detail."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from package_fixtures import one_line, rng

from mlbook.data.pools import FeaturePool
from mlbook.errors import UserError
from mlbook.meta_learners.base import State, leaves
from mlbook.meta_learners.leo import LEO, dropped, gaussian, spread
from mlbook.pages.checks.gradients import compare_gradient, worst
from mlbook.tasks.episode import Episode
from mlbook.tasks.few_shot import FewShotFeatures
from mlbook.tasks.leo_noise import LEONoise, NoisyEpisode
from mlbook.training.evaluation import evaluate

N, K, Q, D, LATENT = 3, 2, 4, 10, 4


def small(**options):
    sizes = {"features": D, "n_way": N, "latent": LATENT, "latent_steps": 2, "finetuning_steps": 2}
    weights = {"kl_weight": 0.2, "penalty_weight": 0.1, "orthogonality_weight": 0.3, "l2_weight": 1e-2}
    return LEO(**{**sizes, "dropout": 0.3, **weights, **options})


def pool(classes=8, examples=12, seed=0, noise=1.0):
    g = rng(seed)
    centre = torch.randn(classes, 1, D, generator=g)
    return FeaturePool(centre + noise * torch.randn(classes, examples, D, generator=g))


def episodes(n=2, learner=None, seed=1):
    learner = learner or small()
    tasks = LEONoise(FewShotFeatures(pool(), N, K, Q), learner.noise_shapes)
    return tasks.sample(n, rng(seed)).to(torch.float64)


def meta_of(learner, seed=0, moved=0.3):
    """Meta-parameters in float64, away from special values."""
    g = rng(seed)
    meta = learner.init(g).meta
    for p in meta["params"].values():
        p += moved * torch.randn(p.shape, generator=g)
    return {group: {n: t.double() for n, t in ts.items()} for group, ts in meta.items()}


# -- sizes, first values --------------------------------------------------------------------------------------------


def test_the_official_sizes():
    meta = LEO().init(rng()).meta
    shapes = {n: tuple(t.shape) for group in meta.values() for n, t in group.items()}
    assert shapes == {
        "encoder": (64, 640),
        "relation.0": (128, 128),
        "relation.1": (128, 128),
        "relation.2": (128, 128),
        "decoder": (1280, 64),
        "latent": (64,),
        "finetuning": (640,),
    }  # no biases
    assert sum(t.numel() for t in leaves(meta)) == 172_736
    assert meta["rates"]["latent"].unique().tolist() == [1.0]
    assert torch.allclose(meta["rates"]["finetuning"].unique(), torch.tensor([1e-3]))


def test_the_spread_is_offset_and_cannot_be_negative():
    assert spread(torch.tensor([0.0]), 0.0) == 1e-10  # a network that says 0: no spread
    assert spread(torch.tensor([math.log(3.0)]), 0.0) == pytest.approx(2.0)
    assert spread(torch.tensor([0.0], dtype=torch.float64), 0.25) == pytest.approx(0.25)
    assert (
        spread(torch.tensor([-5.0]), 0.0) > 0
    )  # where the raw output as spread would be negative, and its log not a number
    assert LEO().weight_offset == pytest.approx(math.sqrt(2 / 645))
    mean, sigma = gaussian(torch.tensor([1.0, 2.0, math.log(2.0), math.log(4.0)]), 0.0)
    assert mean.tolist() == [1, 2] and torch.allclose(sigma, torch.tensor([1.0, 3.0]))


# -- encoder and relation network -----------------------------------------------------------------------------------


def test_codes_are_averages_over_all_ordered_pairs():
    """The formula of the paper, pair by pair, with itself among the partners; no activation behind the last layer."""
    learner, episode = small(), episodes(1).task(0)
    params = meta_of(learner)["params"]
    mean, sigma = learner.encode(params, episode.support_x)
    h = [params["encoder"] @ x for x in episode.support_x]
    for n in range(N):
        total = 0
        for k in range(K):
            for other in range(N * K):
                pair = torch.cat([h[n * K + k], h[other]])
                for layer in (0, 1):
                    pair = F.relu(params[f"relation.{layer}"] @ pair)
                total = total + params["relation.2"] @ pair
        expected = total / (N * K**2)
        # the sum over partners of N classes and K examples has N·K terms: the paper's 1/(N K²)
        assert torch.allclose(mean[n], expected[:LATENT], atol=1e-12)
        assert torch.allclose(sigma[n], spread(expected[LATENT:], 0.0), atol=1e-12)
    assert (mean < 0).any()  # a ReLU at the end would forbid negative means


def test_a_code_knows_the_other_classes_and_not_their_order():
    learner, episode = small(), episodes(1).task(0)
    params = meta_of(learner)["params"]
    mean, _ = learner.encode(params, episode.support_x)
    changed = episode.support_x.clone()
    changed[K:] += 1.0  # other classes, not class 0
    assert (learner.encode(params, changed)[0][0] - mean[0]).abs().max() > 1e-3
    order = torch.tensor([0, 1, 4, 5, 2, 3])  # classes 1 and 2 change places
    swapped, _ = learner.encode(params, episode.support_x[order])
    assert torch.allclose(swapped, mean[[0, 2, 1]], atol=1e-12)


# -- decoder and classifier -----------------------------------------------------------------------------------------


def test_k_copies_of_the_weights_are_sampled_and_their_logits_averaged():
    learner = small()
    params = meta_of(learner)["params"]
    z, noise = (
        torch.randn(N, LATENT, generator=rng()).double(),
        torch.randn(N, K, D, generator=rng(1)).double(),
    )
    w = learner.decode(params, z, noise, K)
    assert w.shape == (N, K, D)
    parts = z @ params["decoder"].t()
    for n in range(N):
        for k in range(K):
            sigma = (parts[n, D:].exp() - (1 - learner.weight_offset)).clamp_min(1e-10)
            assert torch.allclose(w[n, k], parts[n, :D] + sigma * noise[n, k], atol=1e-12)
    x = torch.randn(5, D, generator=rng(2)).double()
    expected = torch.stack([torch.stack([(x @ w[n, k]) for k in range(K)]).mean(0) for n in range(N)], 1)
    assert torch.allclose(learner.logits(w, x), expected, atol=1e-12)
    assert torch.equal(learner.decode(params, z, None, K), parts[:, None, :D].expand(-1, K, -1))


def test_followed_on_paper():
    """Everything replaced by identities: one feature, one latent dimension, two classes, one shot.

    Support x = ±1, encoder 1, a relation network that hands on the first of a pair: the codes are z = (1, −1). Decoder 1: w = z.
    The loss is 2 log(1 + e^{−d}) with d = w₀ − w₁ = 2, so dL/dw₀ = −2/(1 + e^d) = −dL/dw₁.
    """
    learner = LEO(
        features=1, n_way=2, latent=1, latent_steps=1, finetuning_steps=1, latent_lr=0.5, finetuning_lr=0.25
    )
    meta = {
        "params": {
            "encoder": torch.ones(1, 1),
            # (left, right) -> relu(left), relu(−left) -> the same -> left, 0
            "relation.0": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]),
            "relation.1": torch.eye(2),
            "relation.2": torch.tensor([[1.0, -1.0], [0.0, 0.0]]),
            "decoder": torch.tensor([[1.0], [0.0]]),
        },
        "rates": {"latent": torch.tensor([0.5]), "finetuning": torch.tensor([0.25])},
    }
    x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
    states = list(learner.inner(meta, Episode(x, y, x, y)))
    z = [state["z"].flatten().tolist() for state in states]
    w = [state["w"].flatten().tolist() for state in states]
    assert z[0] == w[0] == [1, -1]
    slope = 2 / (1 + math.exp(2))  # d = 2
    after = 1 + 0.5 * slope
    assert z[1] == pytest.approx([after, -after]) and w[1] == pytest.approx([after, -after])
    slope = 2 / (1 + math.exp(2 * after))
    assert z[2] == z[1] and w[2] == pytest.approx([after + 0.25 * slope, -after - 0.25 * slope])
    assert len(states) == 3


# -- inner loops ----------------------------------------------------------------------------------------------------


def test_the_inner_loss_is_a_sum_over_the_support_set():
    learner = small()
    w, x = torch.randn(N, K, D, generator=rng()).double(), torch.randn(N * K, D, generator=rng(1)).double()
    y = torch.arange(N).repeat_interleave(K)
    assert learner.support_loss(w, x, y) == pytest.approx(
        float(N * K * F.cross_entropy(learner.logits(w, x), y))
    )


def test_both_loops_are_gradient_descent_with_one_rate_per_dimension():
    learner, episode = small(), episodes(1).task(0)
    meta = meta_of(learner)
    meta["rates"] = {
        "latent": torch.rand(LATENT, generator=rng(3)).double(),
        "finetuning": 0.1 * torch.rand(D, generator=rng(4)).double(),
    }
    states = list(learner.inner(meta, episode))
    assert len(states) == 5
    for n in range(2):  # latent steps
        z = states[n]["codes"].detach().clone().requires_grad_()
        w = learner.decode(meta["params"], z, episode.w_noise[n], K)
        x = dropped(episode.support_x, episode.support_drop[n], 0.3)
        (slope,) = torch.autograd.grad(learner.support_loss(w, x, episode.support_y), z)
        assert torch.allclose(states[n + 1]["codes"], z - meta["rates"]["latent"] * slope, atol=1e-12)
        fresh = learner.decode(meta["params"], states[n + 1]["codes"], episode.w_noise[n + 1], K)
        assert torch.allclose(states[n + 1]["w"], fresh, atol=1e-12)  # decoded again, with fresh noise
    for n in range(2, 4):  # fine-tuning
        assert torch.equal(states[n + 1]["codes"], states[n]["codes"])
        w = states[n]["w"].detach().clone().requires_grad_()
        x = dropped(episode.support_x, episode.support_drop[n], 0.3)
        (slope,) = torch.autograd.grad(learner.support_loss(w, x, episode.support_y), w)
        assert torch.allclose(states[n + 1]["w"], w - meta["rates"]["finetuning"] * slope, atol=1e-12)


def test_every_class_has_k_codes_each_adapted_by_itself():
    """The official code tiles the Gaussian of a class K times, draws K codes, and decodes each to a copy of the weights. Logits
    are averaged over the copies, so that each feels a K-th of the gradient that one shared code would feel."""
    learner, episode = small(dropout=0.0), episodes(1).task(0)
    meta = meta_of(learner)
    first, second, *_ = learner.inner(meta, episode)
    assert first["start"].shape == (N, K, LATENT)
    torch.testing.assert_close(
        first["start"], first["mean"][:, None] + first["sigma"][:, None] * episode.z_noise
    )
    assert not torch.allclose(first["start"][:, 0], first["start"][:, 1])
    plain = Episode(*episode[:4])
    first, second, *_ = learner.inner(meta, plain)
    assert torch.equal(
        first["codes"][:, 0], first["codes"][:, 1]
    )  # at meta-test the copies are equal, and stay so
    assert torch.equal(second["codes"][:, 0], second["codes"][:, 1])
    slope = torch.func.grad(
        lambda z: learner.support_loss(
            learner.decode(meta["params"], z, None, K), plain.support_x, plain.support_y
        )
    )(first["z"])
    torch.testing.assert_close(second["z"], first["z"] - meta["rates"]["latent"] * slope / K)


def test_noise_is_used_once_per_code_and_anew_at_every_decoding():
    learner, episode = small(), episodes(1).task(0)
    meta = meta_of(learner)
    before = [state["w"] for state in learner.inner(meta, episode)]
    for n in range(3):
        noise = episode.w_noise.clone()
        noise[n] += 1
        after = [state["w"] for state in learner.inner(meta, episode._replace(w_noise=noise))]
        assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)][: n + 1] == [True] * n + [
            False
        ]
    starts = {id(state["start"]) for state in learner.inner(meta, episode)}
    assert len(starts) == 1


def test_at_meta_test_there_is_no_chance():
    learner, episode = small(), episodes(1).task(0)
    meta = meta_of(learner)
    plain = Episode(*episode[:4])
    first, *_, last = learner.inner(meta, plain)
    assert torch.equal(first["z"], first["mean"]) and torch.equal(first["w"][:, 0], first["w"][:, 1])
    path = list(learner.path(meta, plain.support_x, plain.support_y, 4))
    assert len(path) == 5 and torch.allclose(path[-1]["w"], last["w"].mean(1))
    assert torch.allclose(
        learner.predict(path[-1], plain.query_x), learner.logits(last["w"], plain.query_x), atol=1e-12
    )
    with pytest.raises(UserError) as error:
        list(learner.path(meta, plain.support_x, plain.support_y, 5))
    assert "2 + 2 inner steps" in one_line(error.value)


def test_dropout_is_on_the_encoder_and_on_the_classifier_for_support_and_query():
    learner, episode = small(), episodes(1).task(0)
    meta = meta_of(learner)
    base = learner.task_terms(meta, episode)["query"]
    for field in ("support_keep", "support_drop", "query_drop"):
        other = episode._replace(**{field: getattr(episode, field).flip(-1)})
        assert learner.task_terms(meta, other)["query"] != base, field
    x = torch.ones(20_000)
    kept = dropped(x, torch.rand(20_000, generator=rng()), 0.3)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.7]) and kept.mean() == pytest.approx(1, abs=0.02)


# -- the outer objective --------------------------------------------------------------------------------------------


def test_the_kl_term_is_one_sample_and_a_mean_over_dimensions():
    learner, episode = small(), episodes(1).task(0)
    meta = meta_of(learner)
    mean, sigma = learner.encode(meta["params"], episode.support_x, episode.support_keep)
    z = mean[:, None] + sigma[:, None] * episode.z_noise
    q, p = torch.distributions.Normal(mean[:, None], sigma[:, None]), torch.distributions.Normal(0.0, 1.0)
    assert learner.task_terms(meta, episode)["kl"] == pytest.approx(
        float((q.log_prob(z) - p.log_prob(z)).mean())
    )


def test_the_penalty_pulls_the_code_and_not_the_adapted_code():
    learner, episode = small(latent_steps=2), episodes(1).task(0)
    meta = meta_of(learner)
    *_, end = learner.inner(meta, episode)
    assert learner.task_terms(meta, episode)["penalty"] == pytest.approx(
        float(((end["codes"] - end["start"]) ** 2).mean())
    )
    gradient = torch.func.grad(lambda m: learner.task_terms(m, episode)["penalty"])(meta)
    # z' is a constant: nothing reaches the decoder or the rates, through which only z' depends on them
    assert not gradient["params"]["decoder"].any() and not gradient["rates"]["latent"].any()
    assert gradient["params"]["encoder"].abs().max() > 1e-6


def test_orthogonality_is_of_the_decoders_rows_one_per_latent_dimension():
    learner = small(l2_weight=0.0, orthogonality_weight=1.0)
    W = torch.randn(2 * D, LATENT, generator=rng()).double()
    params = {**meta_of(learner)["params"], "decoder": W}
    rows = W.t()
    expected = 0
    for i in range(LATENT):
        for j in range(LATENT):
            correlation = rows[i] @ rows[j] / rows[i].norm() / rows[j].norm()
            expected += (correlation - int(i == j)) ** 2
    assert learner.regulariser(params) == pytest.approx(float(expected / LATENT**2))
    orthogonal = torch.linalg.qr(W).Q * torch.arange(1, LATENT + 1)  # lengths do not matter
    assert learner.regulariser({**params, "decoder": orthogonal}) == pytest.approx(0, abs=1e-12)


def test_l2_is_half_the_squared_length_of_all_three_networks():
    learner = small(l2_weight=2.0, orthogonality_weight=0.0)
    params = meta_of(learner)["params"]
    assert learner.regulariser(params) == pytest.approx(float(sum((p**2).sum() for p in params.values())))


def test_the_objective_is_the_weighted_sum_of_its_terms():
    learner, batch = small(), episodes(3)
    meta = meta_of(learner)
    loss, metrics = learner.meta_loss(meta, batch)
    terms = [learner.task_terms(meta, batch.task(t)) for t in range(3)]
    means = {name: sum(float(t[name]) for t in terms) / 3 for name in terms[0]}
    expected = (
        means["query"]
        + 0.2 * means["kl"]
        + 0.1 * means["penalty"]
        + float(learner.regulariser(meta["params"]))
    )
    assert loss == pytest.approx(expected) and metrics["loss"] == pytest.approx(means["query"])


# -- gradients ------------------------------------------------------------------------------------------------------


def test_the_meta_gradient_against_finite_differences_with_frozen_noise():
    """The stop-gradient is no function that differences could see: there it is checked with z' held fixed by hand."""
    learner, batch = small(penalty_weight=0.0), episodes(2)
    meta = meta_of(learner, moved=0.1)
    gradient, _ = learner.meta_gradient(meta, batch)
    found = compare_gradient(lambda m: learner.meta_loss(m, batch)[0], gradient, meta, generator=rng(5))
    assert worst(found) < 1e-6
    with_penalty = small()
    adapted = [list(with_penalty.inner(meta, batch.task(t)))[-1]["codes"] for t in range(2)]

    def held(m):
        loss = learner.meta_loss(m, batch)[0]
        starts = [next(with_penalty.inner(m, batch.task(t)))["start"] for t in range(2)]
        return loss + 0.1 * sum(((s - a) ** 2).mean() for s, a in zip(starts, adapted, strict=True)) / 2

    gradient, _ = with_penalty.meta_gradient(meta, batch)
    assert worst(compare_gradient(held, gradient, meta, generator=rng(6))) < 1e-6


def test_the_inner_loops_are_differentiated_through():
    """Second order: a first-order version (slopes as constants) has another gradient."""
    learner, batch = small(penalty_weight=0.0), episodes(2)
    meta = meta_of(learner)
    gradient, _ = learner.meta_gradient(meta, batch)
    assert gradient["rates"]["latent"].abs().min() > 0 and gradient["rates"]["finetuning"].abs().max() > 0
    still = replace(learner, latent_steps=0, finetuning_steps=0)
    without, _ = still.meta_gradient(meta, batch)
    assert (gradient["params"]["encoder"] - without["params"]["encoder"]).abs().max() > 1e-4


def one_by_one(learner, meta, batch):
    """The meta-gradient without ``vmap``: the mean over single tasks, plus that of the regulariser."""
    gradients = [
        torch.func.grad(lambda m, t=t: learner.weighted(learner.task_terms(m, batch.task(t))))(meta)
        for t in range(batch.n_tasks)
    ]
    once = torch.func.grad(learner.regulariser)(meta["params"])
    return {
        group: {
            n: sum(g[group][n] for g in gradients) / len(gradients) + (once[n] if group == "params" else 0)
            for n in its
        }
        for group, its in meta.items()
    }


def relative(found, expected):
    pairs = zip(leaves(found), leaves(expected), strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def above_the_floor():
    """Meta-parameters with spreads above 1e-10, where the KL term would divide rounding errors by 1e-20."""
    meta = meta_of(small(), moved=0.1)
    meta["params"]["relation.2"][LATENT:].abs_()
    return meta


def test_the_meta_gradient_is_the_mean_over_tasks_in_either_order_of_grad_and_vmap():
    learner, batch, meta = small(), episodes(4), above_the_floor()
    gradient, metrics = learner.meta_gradient(meta, batch)
    assert relative(gradient, one_by_one(learner, meta, batch)) < 1e-12
    other, same = torch.func.grad(learner.meta_loss, has_aux=True)(meta, batch)
    assert relative(gradient, other) < 1e-12
    assert {n: float(v) for n, v in metrics.items()} == pytest.approx({n: float(v) for n, v in same.items()})


def test_a_decoder_with_batch_norm_is_differentiated_through_correctly():
    """LEO's own networks do not normalise. In one that does, ``grad`` around ``vmap`` may drop second derivatives (of
    PyTorch's batch norm with a scale that is adapted, torch 2.13: see ``test_meta_gradients``)."""

    class Normalised(LEO):
        def decode(self, params, z, noise, k_shot=1):
            w = super().decode(params, z, noise, k_shot)
            scale = 1 + z.mean((0, 1)) @ params["scale"]
            return F.batch_norm(w.flatten(0, 1), None, None, scale, training=True, eps=1e-3).view(w.shape)

    learner = Normalised(**{name: getattr(small(), name) for name in small().__dataclass_fields__})
    batch, meta = episodes(4), above_the_floor()
    meta["params"]["scale"] = 0.3 * torch.randn(LATENT, D, generator=rng(8)).double()
    gradient, _ = learner.meta_gradient(meta, batch)
    assert relative(gradient, one_by_one(learner, meta, batch)) < 1e-12
    assert gradient["params"]["scale"].abs().min() > 0


def test_clipping_is_by_value_and_then_by_length():
    learner = small()
    gradient = {"params": {"a": torch.tensor([5.0, -0.05, 0.0]), "b": torch.tensor([0.01])}, "rates": {}}
    clipped = learner.clipped(gradient)["params"]
    by_value = torch.tensor([0.1, -0.05, 0.0])
    assert torch.allclose(clipped["a"], by_value * 0.1 / by_value.norm())
    assert torch.allclose(clipped["b"], torch.tensor([0.01]))  # short enough: as it was


def test_a_gradient_that_is_not_a_number_is_replaced():
    learner = small()
    meta = learner.init(rng()).meta
    good = {group: {n: torch.ones_like(t) for n, t in ts.items()} for group, ts in meta.items()}
    assert all(
        torch.equal(a, b) for a, b in zip(leaves(learner.guarded(meta, good)), leaves(good), strict=True)
    )
    bad = {group: {n: t.clone() for n, t in ts.items()} for group, ts in good.items()}
    bad["params"]["encoder"][0, 0] = float("nan")
    guarded = learner.guarded(meta, bad)
    assert torch.equal(guarded["params"]["decoder"], 1e-4 * meta["params"]["decoder"])
    assert not guarded["rates"]["latent"].any()


# -- the ablations of the paper's table 2 ---------------------------------------------------------------------------


def test_deterministic_leo_takes_means_in_meta_training():
    learner = small(stochastic=False, dropout=0.0)
    meta, task = meta_of(learner), episodes(learner=learner)
    other = task._replace(z_noise=2 * task.z_noise, w_noise=-task.w_noise)
    loss, again = learner.meta_loss(meta, task)[0], learner.meta_loss(meta, other)[0]
    assert loss == again != small(dropout=0.0).meta_loss(meta, task)[0]
    *_, trained = learner.inner(meta, task.task(0))
    *_, tested = learner.inner(meta, Episode(*task.task(0)[:4]))
    torch.testing.assert_close(trained["w"], tested["w"])


def test_a_random_prior_knows_nothing_of_the_support_set_before_the_first_step():
    learner = small(start="prior")
    meta, task = meta_of(learner), episodes(learner=learner)
    first = next(learner.inner(meta, task.task(0)))
    torch.testing.assert_close(first["start"], task.z_noise[0])
    torch.testing.assert_close(
        next(learner.inner(meta, Episode(*task.task(0)[:4])))["start"], torch.zeros(N, K, LATENT).double()
    )
    gradient, metrics = learner.meta_gradient(meta, task)
    l2_alone = learner.l2_weight * meta["params"]["encoder"]
    torch.testing.assert_close(gradient["params"]["encoder"], l2_alone)
    assert metrics["kl"] == 0 and gradient["rates"]["latent"].abs().min() > 0


def test_a_start_that_cannot_be():
    with pytest.raises(UserError) as error:
        LEO(start="zero")
    one_line(error.value)


def test_leo_learns_and_both_loops_help():
    learner = LEO(
        features=D,
        n_way=N,
        latent=LATENT,
        latent_steps=5,
        finetuning_steps=5,
        dropout=0.1,
        kl_weight=1e-3,
        meta_lr=3e-3,
    )
    train, test = pool(40, 20, seed=0, noise=1.2), pool(20, 30, seed=9, noise=1.2)
    state, g = learner.init(rng()), rng(1)
    before = evaluate(learner, state.meta, FewShotFeatures(test, N, K, 10), n_tasks=50, steps=10).value
    tasks = LEONoise(FewShotFeatures(train, N, K, 5), learner.noise_shapes)
    for _ in range(250):
        state, metrics = learner.step(state, tasks.sample(12, g))
    assert isinstance(state, State) and torch.isfinite(metrics["loss"])
    result = evaluate(learner, state.meta, FewShotFeatures(test, N, K, 10), n_tasks=50, steps=10)
    assert result.value > before + 0.1 and result.mean[10] > result.mean[0]


# -- episodes over features -----------------------------------------------------------------------------------------


def test_feature_episodes_are_disjoint_normalised_and_in_blocks():
    features = torch.arange(1, 6 * 7 + 1).float().view(6, 7, 1).expand(-1, -1, 2).contiguous()
    features[..., 1] = 1.0
    plain = FeaturePool(features, normalise=False)
    batch = FewShotFeatures(plain, 3, 2, None).sample(50, rng())
    assert batch.support_x.shape == (50, 6, 2) and batch.query_x.shape == (50, 15, 2)  # all that remain
    number = torch.cat([batch.support_x, batch.query_x], 1)[..., 0].long() - 1
    assert all(len(set(row.tolist())) == 21 for row in number)
    classes = number // 7
    label = torch.cat([batch.support_y, batch.query_y], 1)
    for t in range(50):
        for n in range(3):
            assert len(classes[t][label[t] == n].unique()) == 1
    unit = FewShotFeatures(FeaturePool(features), 3, 2, 2).sample(5, rng())
    assert torch.allclose(unit.support_x.norm(dim=-1), torch.ones(5, 6))


def test_pools_of_different_sizes_are_joined():
    a, b = pool(4, 6), pool(3, 9, seed=2)
    both = a.joined(b)
    assert both.features.shape == (7, 9, D) and both.counts.tolist() == [6] * 4 + [9] * 3
    batch = FewShotFeatures(both, 7, 3, 3).sample(100, rng())
    assert batch.support_x.norm(dim=-1).min() > 0.99  # padding has length 0
    with pytest.raises(UserError) as error:
        FewShotFeatures(both, 7, 3, 4)
    assert "smallest class of the pool has 6" in one_line(error.value)


def test_the_same_seed_gives_the_same_noise_and_vmap_sees_a_task():
    a, b = episodes(2), episodes(2)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert (
        isinstance(a, NoisyEpisode)
        and a.z_noise.shape == (2, N, K, LATENT)
        and a.w_noise.shape == (2, 3, N, K, D)
    )
