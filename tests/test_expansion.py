"""The Taylor expansion of chapter 12: its coefficients, its remainder, and what its second term is made of."""

import pytest
import torch
from package_fixtures import rng
from torch.func import grad

from mlbook import results
from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import inner_path
from mlbook.pages.checks import compare_gradient, hessian_vector, worst
from mlbook.pages.checks import expansion as ex
from mlbook.pages.figures import expansion_figures

# The first forward-mode derivative of a process makes torch 2.13 compile something in a way that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")

# A rate at which the remainder is far below the second term, and far above rounding; the network's curvature is larger.
PROBLEMS = {
    "polynomials": (lambda: ex.polynomial_problem(rng(1)), 1e-5),
    "network": (lambda: ex.network_problem(rng(1)), 1e-6),
}


def make(name):
    problem, rate = PROBLEMS[name]
    return problem(), rate


def distance(a, b):
    """‖a − b‖ / ‖b‖."""
    return float((ex.flat(a) - ex.flat(b)).norm() / ex.flat(b).norm())


def terms_of(problem, plan="independent", k=2):
    found = ex.average_terms(problem, ex.sequences(problem.m, k, plan))
    return [found["AvgGrad"], found["half the slope of g1.g2"]]


# -- the coefficients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_coefficients_come_out_of_a_regression(name, k):
    problem, alpha = make(name)
    terms = terms_of(problem)
    exact = ex.expected_meta_gradients(problem, ex.sequences(problem.m, k, "independent"), alpha)
    for method in ex.METHODS:
        (a, minus_b_alpha), left = ex.fit(exact[method], terms)
        expected_a, expected_b = ex.coefficients(method, k)
        assert a == pytest.approx(expected_a, rel=1e-3)
        assert -minus_b_alpha / alpha == pytest.approx(expected_b, rel=1e-3)
        assert left < 1e-6  # nothing else is in the meta-gradient; the second term itself is larger by far
        second = expected_b * alpha * ex.flat(terms[1]).norm() / ex.flat(exact[method]).norm()
        assert left < 1e-2 * second


def test_the_coefficients_are_those_of_the_paper():
    table = {
        (2, "maml"): (1, 2),
        (2, "fomaml"): (1, 1),
        (2, "reptile"): (2, 1),
        (5, "maml"): (1, 8),
        (5, "fomaml"): (1, 4),
        (5, "reptile"): (5, 10),
    }
    for (k, method), pair in table.items():
        assert ex.coefficients(method, k) == pair


@pytest.mark.parametrize("method", ex.METHODS)
def test_a_wrong_coefficient_is_rejected(method):
    """With the right second coefficient the remainder is of order two, with one that is 5 % off of order one."""
    problem, alpha = make("polynomials")
    terms, k = terms_of(problem), 3
    draws = ex.sequences(problem.m, k, "independent")
    rates = [alpha * 2**i for i in range(4)]
    a, b = ex.coefficients(method, k)
    right, wrong, first = [], [], []
    for rate in rates:
        exact = ex.expected_meta_gradients(problem, draws, rate)[method]
        right.append(ex.remainder(exact, terms, [a, -b * rate]))
        wrong.append(ex.remainder(exact, terms, [a, -1.05 * b * rate]))
        first.append(ex.remainder(exact, terms[:1], [a]))
    assert ex.slope(rates, right) == pytest.approx(2, abs=0.02)
    assert ex.slope(rates, wrong) == pytest.approx(1, abs=0.02)
    assert ex.slope(rates, first) == pytest.approx(1, abs=0.02)
    c, _ = ex.fit(exact, terms)
    assert -c[1] / rates[-1] != pytest.approx(1.05 * b, rel=1e-2)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_remainder_falls_as_alpha_squared(name, k):
    problem, alpha = make(name)
    terms, draws = terms_of(problem), ex.sequences(problem.m, k, "independent")
    rates = [alpha * 4**i for i in range(3)]
    left = {method: [] for method in ex.METHODS}
    for rate in rates:
        exact = ex.expected_meta_gradients(problem, draws, rate)
        for method in ex.METHODS:
            a, b = ex.coefficients(method, k)
            left[method].append(ex.remainder(exact[method], terms, [a, -b * rate]))
    for method in ex.METHODS:
        assert ex.slope(rates, left[method]) == pytest.approx(2, abs=0.02), method


@pytest.mark.parametrize("name", PROBLEMS)
def test_before_any_expectation_the_expansion_holds_for_every_sequence(name):
    problem, alpha = make(name)
    batches = {n: t[0, [0, 2, 1, 2]] for n, t in problem.batches.items()}
    rates = [alpha * 4**i for i in range(3)]
    for order in (0, 1):
        left = {method: [] for method in ex.METHODS}
        for rate in rates:
            exact = ex.meta_gradients(problem.loss, problem.params, batches, rate)
            close = ex.expanded(problem.loss, problem.params, batches, rate, order)
            for method in ex.METHODS:
                left[method].append(float((ex.flat(exact[method]) - ex.flat(close[method])).norm()))
        for method in ex.METHODS:
            assert ex.slope(rates, left[method]) == pytest.approx(order + 1, abs=0.02), (method, order)


def test_one_mini_batch_is_joint_training_for_all_three():
    problem, _ = make("network")
    batches = {n: t[1, :1] for n, t in problem.batches.items()}
    gradient = grad(problem.loss)(problem.params, ex.pick(batches, 0))
    for found in (
        ex.meta_gradients(problem.loss, problem.params, batches, 0.3),
        ex.expanded(problem.loss, problem.params, batches, 0.3),
    ):
        assert all(distance(found[method], gradient) < 1e-14 for method in ex.METHODS)


# -- the exact meta-gradients -----------------------------------------------------------------------------------------


def test_the_maml_gradient_over_different_losses_against_finite_differences():
    problem, _ = make("network")
    batches, rate = {n: t[0, [0, 1, 2, 0]] for n, t in problem.batches.items()}, 0.02

    def last_loss(meta):
        points, _ = ex.inner_sgd(problem.loss, meta["params"], batches, rate)
        return problem.loss(points[3], ex.pick(batches, 3))

    gradients = ex.meta_gradients(problem.loss, problem.params, batches, rate)
    meta = {"params": problem.params}
    errors = {
        method: worst(
            compare_gradient(last_loss, {"params": gradients[method]}, meta, generator=rng(2), directions=3)
        )
        for method in ex.METHODS
    }
    assert errors["maml"] < 1e-6
    assert errors["fomaml"] > 1e-2 and errors["reptile"] > 1e-2


def test_the_maml_gradient_is_the_product_of_the_operators_derivatives():
    problem, _ = make("network")
    batches, rate = {n: t[2, [2, 0, 1]] for n, t in problem.batches.items()}, 0.02
    points, g = ex.inner_sgd(problem.loss, problem.params, batches, rate)
    v = g[-1]
    for i in (1, 0):  # U₁′ U₂′ L₃′(φ₃), from the right
        Hv = hessian_vector(lambda p, i=i: problem.loss(p, ex.pick(batches, i)), points[i], v)
        v = ex.add(v, Hv, -rate)
    found = ex.meta_gradients(problem.loss, problem.params, batches, rate)
    assert distance(found["maml"], v) < 1e-12
    reptile = {n: (p - points[-1][n]) / rate for n, p in problem.params.items()}
    assert distance(found["reptile"], reptile) < 1e-10


def test_the_same_loss_at_every_step_is_the_inner_loop_of_the_package():
    problem, _ = make("network")
    batches = {n: t[0, [1, 1, 1]] for n, t in problem.batches.items()}
    points, _ = ex.inner_sgd(problem.loss, problem.params, batches, 0.02)
    loss = lambda p: problem.loss(p, ex.pick(batches, 0))  # noqa: E731
    path = list(inner_path(loss, problem.params, inner_lr=0.02, steps=3))
    assert len(points) == len(path) == 4
    assert all(distance(a, b) == 0 for a, b in zip(points, path, strict=True))


def test_one_parabola_by_hand():
    """L = ½a(φ − c)²: MAML a(1 − αa)^{2(k−1)}, FOMAML a(1 − αa)^{k−1}, Reptile (1 − (1 − αa)^k)/α, each times φ − c."""
    a, c, phi, alpha, k = 1.3, 0.4, -0.7, 0.2, 4

    def loss(params, batch):
        return 0.5 * batch["a"] * (params["phi"] - c) ** 2

    params = {"phi": torch.tensor(phi, dtype=torch.float64)}
    batches = {"a": torch.full((k,), a, dtype=torch.float64)}
    found = ex.meta_gradients(loss, params, batches, alpha)
    shrink = 1 - alpha * a
    by_hand = {
        "maml": a * shrink ** (2 * (k - 1)),
        "fomaml": a * shrink ** (k - 1),
        "reptile": (1 - shrink**k) / alpha,
    }
    for method, weight in by_hand.items():
        assert float(found[method]["phi"]) == pytest.approx(weight * (phi - c), rel=1e-12)


# -- the symmetry argument --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["independent", "distinct"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_three_forms_of_the_second_term_agree_in_expectation(name, plan):
    problem, _ = make(name)
    terms = ex.average_terms(problem, ex.sequences(problem.m, 2, plan))
    for form in ("H1 g2", "half the slope of g1.g2"):
        assert distance(terms[form], terms["H2 g1"]) < 1e-12


def test_without_the_expectation_over_both_orders_they_differ():
    problem, _ = make("network")
    terms = ex.average_terms(problem, torch.tensor([[0, 1]]))  # always mini-batch 0 first
    assert distance(terms["H1 g2"], terms["H2 g1"]) > 0.1
    half = {n: 0.5 * (terms["H1 g2"][n] + terms["H2 g1"][n]) for n in terms["H1 g2"]}
    assert distance(half, terms["half the slope of g1.g2"]) < 1e-12


# -- what the second term is made of ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
def test_with_independent_mini_batches_it_is_the_slope_of_the_size_of_the_task_gradient(name):
    problem, _ = make(name)
    assert distance(terms_of(problem)[1], ex.moment_slopes(problem)["size"]) < 1e-12


def test_noise_between_mini_batches_leaves_it_alone():
    quiet, noisy = (ex.network_problem(rng(1), noise=noise) for noise in (0.0, 2.0))
    before, after = (ex.gradient_moments(problem) for problem in (quiet, noisy))
    assert float(after["size"]) == pytest.approx(float(before["size"]), rel=1e-12)
    assert after["variance"] > 1.3 * before["variance"]
    assert distance(terms_of(noisy)[1], terms_of(quiet)[1]) < 1e-12
    assert distance(terms_of(noisy, "same")[1], terms_of(quiet, "same")[1]) > 0.05


@pytest.mark.parametrize("name", PROBLEMS)
def test_with_the_same_mini_batch_the_variance_is_added(name):
    problem, _ = make(name)
    slopes = ex.moment_slopes(problem)
    both = ex.add(slopes["size"], slopes["variance"], 1)
    assert distance(terms_of(problem, "same")[1], both) < 1e-12
    assert distance(terms_of(problem, "same")[1], slopes["size"]) > 0.05


@pytest.mark.parametrize("plan", ["independent", "distinct", "same", "separate tail"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_weights_of_size_and_variance_under_every_plan(name, plan):
    problem, alpha = make(name)
    draws = ex.sequences(problem.m, 3, plan)
    slopes = ex.moment_slopes(problem)
    terms = [terms_of(problem)[0], slopes["size"], slopes["variance"]]
    exact = ex.expected_meta_gradients(problem, draws, alpha)
    for method in ex.METHODS:
        (a, *rest), _ = ex.fit(exact[method], terms)
        found = (a, *(-c / alpha for c in rest))
        assert found == pytest.approx(ex.plan_weights(method, draws, problem.m), rel=2e-3, abs=2e-3), method


def test_reptile_on_a_repeated_mini_batch_moves_to_more_variance():
    """The sign: the second term changes the variance between mini-batches upwards if the mini-batch is the same at every step."""
    problem = ex.network_problem(rng(1), noise=2.0)
    alpha, k, step = 1e-4, 3, 1e-5
    first = {n: k * t for n, t in terms_of(problem)[0].items()}
    change = {}
    for plan in ("same", "distinct"):
        exact = ex.expected_meta_gradients(problem, ex.sequences(problem.m, k, plan), alpha)["reptile"]
        second = ex.add(exact, first, -1)  # what is added to joint training
        moved = ex.add(problem.params, second, -step / float(ex.flat(second).norm()))
        change[plan] = float(ex.gradient_moments(problem, moved)["variance"]) - float(
            ex.gradient_moments(problem)["variance"]
        )
    slope = ex.flat(ex.moment_slopes(problem)["variance"])
    assert change["same"] > 0
    assert change["same"] > change["distinct"]
    assert change["same"] < 2.1 * step * float(
        slope.norm()
    )  # it cannot rise faster than along its own gradient


def test_a_last_mini_batch_of_its_own_keeps_the_coefficients_of_maml_and_fomaml():
    problem, alpha = make("network")
    terms = terms_of(problem)
    exact = ex.expected_meta_gradients(problem, ex.sequences(problem.m, 3, "separate tail"), alpha)
    for method in ("maml", "fomaml"):
        a, b = ex.coefficients(method, 3)
        (found_a, found_b), _ = ex.fit(exact[method], terms)
        assert (found_a, -found_b / alpha) == pytest.approx((a, b), rel=2e-3)
    shared = ex.expected_meta_gradients(problem, ex.sequences(problem.m, 3, "same"), alpha)["fomaml"]
    (_, found_b), left = ex.fit(shared, terms)
    assert left > 100 * ex.fit(exact["fomaml"], terms)[1]  # a term that AvgGrad and AvgGradInner do not hold


def test_epochs_over_a_few_mini_batches_weigh_the_variance_by_the_pairs_that_meet_again():
    m, epochs = 3, 2
    orders = ex.sequences(m, m, "distinct")
    draws = torch.stack([torch.cat([a, b]) for a in orders for b in orders])  # reshuffled every epoch
    _, size, variance = ex.plan_weights("reptile", draws, m)
    k = m * epochs
    assert size == k * (k - 1) / 2
    assert variance == pytest.approx(-k / 2)  # within the pool all m mini-batches count alike: Σ(ḡᵢ − G) = 0


# -- small things ---------------------------------------------------------------------------------------------------------


def test_sampling_plans():
    assert ex.sequences(3, 2, "independent").shape == (9, 2)
    assert ex.sequences(3, 3, "distinct").shape == (6, 3)
    assert ex.sequences(3, 4, "same").tolist() == [[0] * 4, [1] * 4, [2] * 4]
    assert ex.sequences(2, 3, "separate tail").tolist() == [[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]]
    for m, k, plan in ((2, 3, "distinct"), (2, 2, "alphabetical")):
        with pytest.raises(UserError, match="no plan"):
            ex.sequences(m, k, plan)


def test_wrong_requests_are_refused():
    problem, _ = make("polynomials")
    with pytest.raises(UserError, match="order must be 0 or 1"):
        ex.expanded(problem.loss, problem.params, ex.pick(problem.batches, 0), 0.1, order=2)
    for method, k in (("anil", 2), ("maml", 0)):
        with pytest.raises(UserError, match="method must be one of"):
            ex.coefficients(method, k)


def test_a_fit_and_a_slope_that_are_known():
    a, b = ({"x": torch.tensor(v, dtype=torch.float64)} for v in ([1.0, 0, 2], [0, 1.0, 1]))
    c, left = ex.fit(ex.add({n: 3 * t for n, t in a.items()}, b, -1e-7), [a, b])
    assert c == pytest.approx([3, -1e-7], rel=1e-6) and left < 1e-12
    assert ex.slope([1, 2, 4], [3, 24, 192]) == pytest.approx(3)


def test_the_figures_say_what_they_show():
    figures = [
        expansion_figures.two_steps(),
        expansion_figures.remainders(
            {"net": ([1e-3, 1e-2], {("maml", 2): [1e-6, 1e-4], ("other", 2): [1, 2]})}
        ),
        expansion_figures.breakdown({"reptile": [(0.01, 0.1, 0.99), (0.1, 2.0, 0.3)]}, marked=0.02),
        expansion_figures.one_parabola(
            [0.0, 1.0], {"exact": [0, 1], "two terms": [0, -2]}, 5, {"exact": [(1, 0.2), (9, 0.4)]}
        ),
        expansion_figures.tails({"shared": [(2, 1.0), (9, 0.1)]}, {"shared": "fomaml"}),
    ]
    for fig, alt in figures:
        assert len(fig.axes) >= 1 and len(alt) > 80
    assert "1.0e-04" in figures[1][1] and "0.30" in figures[2][1]


def test_the_sentences_on_ten_seeds():
    """Chapter 12, recorded by `studies.two_terms`: what Reptile and its two terms gain over joint training."""
    record = results.study("two_terms")
    seeds = record["setup"]["seeds"]
    for row in record["rates"].values():
        two, all_terms = (row["difference"][name] for name in ("two terms", "Reptile"))
        for gain in (two, all_terms):
            assert abs(gain["mean"][1]) < gain["ci95"][1]  # after one step nothing is decided
            assert (
                gain["mean"][10] < -gain["ci95"][10] and gain["better"][10] == seeds
            )  # after ten both are ahead
            assert 0.01 < -gain["mean"][10] / row["error"]["joint training"][10] < 0.1  # "a few hundredths"
        assert two["mean"][10] / all_terms["mean"][10] == pytest.approx(1, abs=0.2)
