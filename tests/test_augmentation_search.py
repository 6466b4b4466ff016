"""Data augmentation as something to learn: operations, policies, the estimators of a choice's gradient, and the searches."""

import json
from dataclasses import replace

import pytest
import torch

from mlbook import experiments
from mlbook.augmentation import operations as A
from mlbook.augmentation.search import DADA, CandidatePolicies, Child, generator_of
from mlbook.data import glyphs
from mlbook.errors import UserError
from mlbook.meta_learners.relax import draw_choices, relax, soft_loss_control, surrogate
from mlbook.optimizers.optimizees import Classifier
from mlbook.pages.checks import choice_gradients as cg
from mlbook.tasks.small_sets import SmallSets
from mlbook.training.runner import run

DOUBLE = torch.float64
CHILD = Child(Classifier((196, 8, 5), "tanh"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def problems(n=4, seed=0, split="train"):
    return SmallSets(glyphs.load(split, "none")).sample(n, seeded(seed))


# -- operations ------------------------------------------------------------------------------------------------------


def pictures(n=3):
    return torch.rand(n, 2, 8, 8, generator=seeded(1), dtype=DOUBLE)


def chance(x, sign=1.0):
    drawn = A.Chance.draw(x, seeded(2))
    return drawn._replace(sign=torch.full_like(drawn.sign, sign))


def one(name, s, n=3):
    strength = torch.zeros(n, len(A.OPERATIONS), dtype=DOUBLE)
    strength[:, A.OPERATIONS.index(name)] = s
    return strength


def test_without_strength_nothing_happens():
    x = pictures()
    assert torch.allclose(A.augment(x, one("rotate", 0.0), chance(x)), x, atol=1e-12)


@pytest.mark.parametrize("name", A.OPERATIONS)
def test_every_operation_does_something_and_is_differentiable(name):
    x, its = pictures(), chance(pictures())
    strength = one(name, 0.37).requires_grad_()
    out = A.augment(x, strength, its)
    assert out.shape == x.shape and (out - x).abs().max() > 0.02
    weights = torch.randn(out.shape, generator=seeded(3), dtype=DOUBLE)
    (slope,) = torch.autograd.grad((weights * out).sum(), strength)
    i, h = A.OPERATIONS.index(name), 1e-6
    up, down = (float((weights * A.augment(x, one(name, 0.37 + e), its)).sum()) for e in (h, -h))
    assert float(slope[:, i].sum()) == pytest.approx((up - down) / (2 * h), rel=1e-4)


def test_known_results():
    x = pictures()
    assert torch.allclose(A.augment(x, one("invert", 1.0), chance(x)), 1 - x)
    flat = A.augment(x, one("contrast", 1 / 0.9), chance(x, -1.0))  # a factor of zero leaves the mean
    assert torch.allclose(flat, x.mean((1, 2, 3), keepdim=True).expand_as(x))
    # four pixels of eight are half a width, which is a shift of 1 in normalised coordinates
    moved = A.augment(x, one("shift_x", 1 / A.MOST["shift_x"]), chance(x))
    assert torch.allclose(moved[..., :4], x[..., 4:]) and moved[..., 4:].abs().max() < 1e-12
    quarter = A.augment(x, one("rotate", (torch.pi / 2) / A.MOST["rotate"]), chance(x))
    turned = [torch.rot90(x, k, (2, 3)) for k in (1, 3)]
    assert any(torch.allclose(quarter, t, atol=1e-9) for t in turned)
    hole = A.augment(x, one("cutout", 1.0), chance(x))
    assert ((hole == 0) | torch.isclose(hole, x)).double().mean() > 0.6 and (hole == 0).any()


def test_first_and_second_of_a_pair_are_applied_in_order():
    x, its = pictures(), chance(pictures())
    both = one("invert", 0.4) + one("rotate", 0.5)
    first = A.augment(x, one("rotate", 0.5), its)
    assert torch.allclose(A.augment(x, both, its), A.augment(first, one("invert", 0.4), its))


# -- policies --------------------------------------------------------------------------------------------------------


def test_pairs_and_start():
    assert len(A.PAIRS) == 45 and len(set(A.PAIRS)) == 45
    start = A.start_policy()
    assert torch.allclose(A.usage(start), torch.full((10,), 0.1)) and A.usage(start).sum() == pytest.approx(
        1.0
    )
    assert torch.allclose(A.mean_magnitude(start), torch.full((10,), 0.5))


@pytest.mark.parametrize("count", [1, 2])
def test_rand_augment_applies_so_many_operations_all_equally_often(count):
    policy = A.rand_augment(count, 0.3)
    drawn = A.draw_strengths(policy, 400, seeded())
    assert (drawn.gt(0).sum(1) == count).all() and drawn[drawn > 0].unique().tolist() == pytest.approx([0.3])
    assert torch.allclose(A.usage(policy), torch.full((10,), count / 10), atol=1e-6)


def test_draws_have_the_frequencies_of_the_policy():
    policy = A.random_policy(seeded(4))
    drawn = A.draw_strengths(policy, 20_000, seeded(5)).gt(0).float().mean(0)
    assert (drawn - A.usage(policy)).abs().max() < 0.015
    assert A.draw_strengths(A.no_augmentation(), 100, seeded()).abs().max() == 0


@pytest.mark.parametrize("count, magnitude", [(0, 0.5), (3, 0.5), (1, 1.5)])
def test_what_rand_augment_refuses(count, magnitude):
    with pytest.raises(UserError):
        A.rand_augment(count, magnitude)


# -- estimators ------------------------------------------------------------------------------------------------------

PROBLEM = cg.Options(logits=(0.4, -0.3, 0.1, -0.6))


def uniforms(n, seed=0, K=4):
    g = seeded(seed)
    return tuple(torch.rand(n, K, generator=g, dtype=DOUBLE) for _ in range(2))


def test_the_exact_gradient_is_that_of_the_expectation():
    pi = PROBLEM.pi.requires_grad_()
    expected = (pi.softmax(0) * PROBLEM.loss(torch.eye(4, dtype=DOUBLE))).sum()
    assert torch.allclose(PROBLEM.gradient(), torch.autograd.grad(expected, pi)[0])


def test_z_given_the_choice_has_the_law_of_z():
    for choice in (0, 3):
        kept, conditioned = cg.conditional_draws(PROBLEM.pi, choice, 200_000, seeded(choice))
        assert (conditioned.argmax(1) == choice).all()
        at = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.9], dtype=DOUBLE)
        assert torch.allclose(kept.quantile(at, 0), conditioned.quantile(at, 0), atol=0.08)
        assert torch.allclose(kept.T.cov(), conditioned.T.cov(), atol=0.08)


def test_choices_come_with_their_probabilities():
    drawn = draw_choices(PROBLEM.pi, *uniforms(40_000))
    assert torch.allclose(drawn.choice.mean(0), PROBLEM.pi.softmax(0), atol=0.01)
    assert torch.allclose(drawn.log_probability, (drawn.choice * PROBLEM.pi.log_softmax(0)).sum(1))


def test_relax_and_reinforce_are_unbiased_and_gumbel_softmax_is_not():
    u, v = uniforms(40_000, 1)
    truth, found = PROBLEM.gradient(), {}
    for method in cg.METHODS:
        found[method] = cg.measured(cg.estimates(PROBLEM, method, u, v, 0.5), truth)
        inside = found[method].bias.abs() <= 1.6 * found[method].interval  # 99.8 % for each of four
        assert bool(inside.all()) == (method != "Gumbel-softmax"), (method, found[method])
    variances = {
        s: cg.measured(cg.estimates(PROBLEM, "RELAX", u, v, 0.5, s), truth).variance
        for s in (0.0, 0.3, 1.0, 2.0)
    }
    assert variances[0.0] == pytest.approx(found["REINFORCE"].variance), (
        "without a control variate it is REINFORCE"
    )
    assert variances[0.3] < variances[0.0] < variances[1.0] < variances[2.0], "its size matters"
    assert found["Gumbel-softmax"].bias.abs().max() > 3 * found["Gumbel-softmax"].interval.max()


def test_the_bias_of_gumbel_softmax_falls_and_its_variance_grows_as_it_cools():
    u, v = uniforms(40_000, 2)
    warm, cold = (
        cg.measured(cg.estimates(PROBLEM, "Gumbel-softmax", u, v, t), PROBLEM.gradient()) for t in (2.0, 0.1)
    )
    assert cold.bias.norm() < 0.5 * warm.bias.norm() and cold.variance > 5 * warm.variance


def test_a_learned_control_variate_takes_variance_and_no_truth():
    control, squares = cg.learned_control(PROBLEM, *uniforms(400, 3))
    assert squares[-1] < 0.8 * squares[0]
    u, v = uniforms(20_000, 4)
    logits = PROBLEM.pi.expand_as(u).clone().requires_grad_()
    drawn = draw_choices(logits, u, v)
    found = torch.autograd.grad(surrogate(drawn, PROBLEM.loss(drawn.choice), control).sum(), logits)[
        0
    ].detach()
    its = cg.measured(found, PROBLEM.gradient())
    assert (its.bias.abs() <= 1.6 * its.interval).all()


def test_as_an_estimator_of_the_outer_loop():
    outer = {"logits": PROBLEM.pi}
    found = relax(
        "logits", PROBLEM.loss, soft_loss_control(PROBLEM.loss, 0.5), samples=20_000, generator=seeded(5)
    )(outer)
    assert torch.allclose(found.gradient["logits"], PROBLEM.gradient(), atol=0.02)
    p = PROBLEM.pi.softmax(0)
    assert float(found.value) == pytest.approx(
        float((p * PROBLEM.loss(torch.eye(4, dtype=DOUBLE))).sum()), abs=0.02
    )


def test_the_one_step_gradient_in_both_forms():
    g = seeded(6)
    A_, B = (torch.randn(5, 5, generator=g, dtype=DOUBLE) for _ in range(2))
    theta, psi = (torch.randn(5, generator=g, dtype=DOUBLE) for _ in range(2))

    def train(theta, psi):
        return torch.tanh(A_ @ theta).square().sum() + (psi * torch.sin(theta)).sum()

    def outer(theta):
        return torch.cosh(B @ theta / 5).sum()

    twice = cg.one_step_gradient(outer, train, theta, psi, 0.1)
    differences = cg.one_step_gradient(outer, train, theta, psi, 0.1, epsilon=1e-4)
    assert torch.allclose(twice, differences, rtol=1e-6, atol=1e-9)
    h, by_hand = 1e-6, []
    for k in range(5):
        values = []
        for e in (h, -h):
            moved = psi.clone()
            moved[k] += e
            values.append(float(outer(theta - 0.1 * torch.func.grad(train)(theta, moved))))
        by_hand.append((values[0] - values[1]) / (2 * h))
    assert torch.allclose(twice, torch.tensor(by_hand, dtype=DOUBLE), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("options", [{"outputs": (1.0,)}, {"logits": (0.0,)}])
def test_what_the_known_problem_refuses(options):
    with pytest.raises(UserError):
        cg.Options(**options)


# -- tasks and children ----------------------------------------------------------------------------------------------


def test_small_sets():
    p = problems(3)
    assert p.x.shape == (3, 25, 1, 14, 14) and p.held_x.shape == (3, 50, 1, 14, 14)
    assert p.labels[0].tolist() == sorted([*range(5)] * 5) and 0 <= p.x.min() and p.x.max() <= 1
    again = problems(3)
    assert all(torch.equal(a, b) for a, b in zip(p, again, strict=True))
    flat = p.x[0].flatten(1)
    assert torch.cdist(flat, p.held_x[0].flatten(1)).min() > 0, "no image is on both sides"


@pytest.mark.parametrize("options", [{"n_way": 1000}, {"n_train": 15, "n_held": 10}, {"side": 13}])
def test_small_sets_that_cannot_be_had(options):
    with pytest.raises(UserError):
        SmallSets(glyphs.load("train", "none"), **options)


def test_a_child_learns_and_is_the_same_again():
    p = problems(4)
    _, found = CHILD.train(A.no_augmentation(), p, 40, (0, 40))
    assert found[0].mean() < 0.4 < found[40].mean()
    theta, again = CHILD.train(A.no_augmentation(), p, 40, (0, 40))
    assert torch.equal(found[40], again[40])
    assert float(CHILD.losses(theta, p.x, p.labels).mean()) < 0.2


# -- searches --------------------------------------------------------------------------------------------------------


def test_the_estimate_for_magnitudes_is_the_derivative_of_the_validation_loss():
    """With chance held, dJ/dm by differences of θ is that by differentiating L_val(θ − ζ∇L_train(θ; m)) twice."""
    p = problems(2)
    p = p._replace(x=p.x.double(), held_x=p.held_x.double())
    dada = DADA(CHILD, magnitudes="exact", estimator="reinforce", epsilon=1e-4)
    theta = CHILD.start(2, seeded(1), "cpu").double()
    outer = {k: t.double() for k, t in A.start_policy().items()}
    found, _ = dada.estimate(outer, theta, p, seeded(7))

    g = seeded(7)
    u, v = torch.rand(2, 45, generator=g), torch.rand(2, 45, generator=g)
    w, q = torch.rand(2, 2, 2, generator=g), torch.rand(2, 2, 2, generator=g)
    its = A.Chance.draw(p.x.flatten(0, 1), g)
    index = draw_choices(outer["logits"], u.double(), v.double()).choice.argmax(1)
    logits = torch.stack([torch.zeros(2, 2, dtype=DOUBLE), outer["probability"][index]], -1)
    on = draw_choices(logits, w.double(), q.double()).choice[..., 1]

    def validation(m):
        strength = A.strengths(index, on, m[index]).repeat_interleave(25, 0)
        x = A.augment(p.x.flatten(0, 1), strength, its).view_as(p.x)

        def training(theta):
            return CHILD.losses(theta, x, p.labels).sum()

        return CHILD.losses(
            theta - CHILD.rate * torch.func.grad(training)(theta), p.held_x, p.held_labels
        ).mean()

    wanted, value = torch.func.grad_and_value(validation)(outer["magnitude"])
    assert wanted.abs().max() > 0
    assert torch.allclose(found.gradient["magnitude"], wanted, rtol=1e-4, atol=1e-9)
    assert float(found.value) == pytest.approx(float(value))


@pytest.mark.parametrize("estimator", ["relax", "gumbel", "reinforce"])
@pytest.mark.parametrize("magnitudes", ["straight_through", "exact"])
def test_a_search_moves_all_parts_of_the_policy_and_no_global_generator(estimator, magnitudes):
    before = torch.get_rng_state()
    dada = DADA(CHILD, steps=3, estimator=estimator, magnitudes=magnitudes)
    state = dada.init(seeded())
    start = {k: t.clone() for k, t in state.meta["params"].items()}
    state, metrics = dada.step(state, problems())
    assert state.meta_step == 1 and 0 < float(metrics["accuracy"]) <= 1 and float(metrics["loss"]) > 0
    for name, tensor in state.meta["params"].items():
        assert not torch.equal(tensor, start[name]), name
    assert state.meta["params"]["magnitude"].min() >= 0 and state.meta["params"]["magnitude"].max() <= 1
    assert ("control" in state.meta) == (estimator == "relax")
    assert torch.equal(torch.get_rng_state(), before)


def test_relax_in_the_search_has_the_mean_of_reinforce():
    """Over many draws at one θ, with control variates that are not zero."""
    p, n = problems(1), 1500
    theta = CHILD.start(1, seeded(1), "cpu")
    many = p._make(field.expand(n, *field.shape[1:]) for field in p)
    estimates = {}
    for name in ("relax", "reinforce"):
        dada = DADA(CHILD, estimator=name, magnitudes="exact", hidden=5)
        state = dada.init(seeded(2))
        outer = {
            **state.meta["params"],
            **{f"control/{k}": t for k, t in state.meta.get("control", {}).items()},
        }
        for k in ("control/pair.1", "control/on.1"):
            if k in outer:
                outer[k] = 0.01 * torch.randn(5, generator=seeded(3))
        estimates[name] = dada.estimate(outer, theta.expand(n, -1), many, seeded(4))[0].gradient
    # the whole gradient is small: what is compared is its projection on the effect of the worst operation
    pull = torch.tensor([float(7 in pair) for pair in A.PAIRS])
    a, b = (float((estimates[k]["logits"] * pull).sum()) for k in ("relax", "reinforce"))
    assert a > 0 and b > 0, "inverting the images makes the validation loss larger"
    assert a == pytest.approx(b, rel=0.5)


def test_of_candidates_the_best_is_taken():
    search = CandidatePolicies(CHILD, steps=15, candidates="random", count=4, at_once=2)
    state = search.init(seeded())
    for k in range(4):
        state, _ = search.step(state, problems(2, seed=k))
    params = state.meta["params"]
    assert params["trials"].tolist() == [2, 2, 2, 2]
    best = int((params["total"] / params["trials"]).argmax())
    assert torch.equal(search.policy(state.meta)["logits"], params["logits"][best])


def test_scores_are_accuracies_and_paired():
    p = problems(5, split="test")
    none = CandidatePolicies(CHILD, steps=10, candidates="none", at_once=1)
    even = replace(none, candidates="even")
    a, b = (s.scores(s.init(seeded()).meta, p, 10, (0, 10)) for s in (none, even))
    assert a.shape == (5, 2) and torch.equal(a[:, 0], b[:, 0]), "before training they are the same networks"
    assert int(generator_of(p).initial_seed()) == int(p.seed[0])


@pytest.mark.parametrize(
    "options", [{"estimator": "exact"}, {"magnitudes": "none"}, {"steps": 0}, {"temperature": 0.0}]
)
def test_what_the_search_refuses(options):
    with pytest.raises(UserError):
        DADA(CHILD, **options)


@pytest.mark.parametrize("options", [{"candidates": "all"}, {"count": 0}, {"at_once": 0}])
def test_what_a_trial_refuses(options):
    with pytest.raises(UserError):
        CandidatePolicies(CHILD, **options)


# -- experiments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dada-search-glyphs", "augment-random-glyphs"])
def test_a_run_resumed_ends_in_the_same_numbers(tmp_path, name):
    options = {"meta_steps": 3, "seed": 3, "device": "cpu", "evaluation_tasks": 2}
    whole = run(name, out=tmp_path / "whole", **options)
    assert run(name, out=tmp_path / "parts", time_limit=1e-9, **options) is None
    parts = run(name, out=tmp_path / "parts", resume=True, **options)
    a, b = ((tmp_path / part / "checkpoint.safetensors").read_bytes() for part in ("whole", "parts"))
    assert a == b and whole["evaluation"] == parts["evaluation"]
    assert whole["evaluation"]["metric"] == "accuracy" and whole["evaluation"]["step"] == 100
    json.dumps(whole)


def test_rows_differ_from_the_paper_s_in_one_part_each():
    names = [e.name for e in experiments.augmentation.rows()]
    assert len(names) == len(set(names))
    for name in names:
        config = experiments.config(experiments.get(name), "quick")
        learner = experiments.build_learner(config)
        assert learner.metric == "accuracy" and learner.steps == 100
    paper = experiments.build_learner(experiments.config(experiments.get("dada-search"), "colab"))
    assert paper.estimator == "relax" and paper.magnitudes == "straight_through" and paper.temperature == 0.5
