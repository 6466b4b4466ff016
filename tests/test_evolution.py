"""Evolution strategies as estimators of the outer gradient: what they are in the mean, exactly, and how far they spread.

A mean over ε is exact where it is a finite sum: pairs along the axes do for a quadratic function of many numbers, three nodes of
Gauss and Hermite for a polynomial of one number.
"""

import itertools
import math

import pytest
import torch
from package_fixtures import rng

from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.meta_learners.evolution import (
    SideBySide,
    evolution,
    evolution_windows,
    gaussian,
    one_by_one,
    persistent_evolution,
    truncated_evolution,
)
from mlbook.pages.checks.five_variables import FIXED, Fit, curves, objective
from mlbook.pages.checks.influence import BEST, Influence, influence
from mlbook.pages.checks.outer_gradients import RateOfDescent

DOUBLE = torch.float64


def axes(outer, pairs):
    """√P times every unit vector: its mean of εεᵀ is the identity."""
    (name, of), *_ = outer.items()
    assert pairs == of.numel()
    return {name: of.numel() ** 0.5 * torch.eye(of.numel(), dtype=DOUBLE)}


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.fixture(scope="module")
def bowl():
    A = torch.randn(6, 6, dtype=DOUBLE, generator=rng(1))
    b, eta = torch.randn(2, 6, dtype=DOUBLE, generator=rng(2))
    return lambda outer: outer["eta"] @ A @ outer["eta"] + b @ outer["eta"], {"eta": eta}


@pytest.mark.parametrize("sigma", [1.0, 0.01])
def test_on_a_quadratic_the_mean_is_the_gradient_whatever_sigma_is(bowl, sigma):
    J, outer = bowl
    found = evolution(torch.func.vmap(J), sigma=sigma, pairs=6, noise=axes)(outer)
    wanted = bilevel.gradient_of(J, outer)
    assert relative(found.gradient["eta"], wanted.gradient["eta"]) < 1e-12


def test_one_by_one_is_the_same(bowl):
    J, outer = bowl
    options = {"sigma": 0.3, "pairs": 5}
    a, b = (
        evolution(how(J), noise=gaussian(rng(7)), **options)(outer) for how in (torch.func.vmap, one_by_one)
    )
    assert torch.allclose(a.gradient["eta"], b.gradient["eta"], rtol=1e-12)
    assert float(a.value) == pytest.approx(float(b.value))


def hermite(outer, pairs):
    """Three nodes, with weights as multiplicities 1 : 4 : 1."""
    (name, of), *_ = outer.items()
    nodes = torch.tensor([math.sqrt(3), 0, 0, 0, 0, -math.sqrt(3)], dtype=DOUBLE)
    return {name: nodes.view(-1, *[1] * of.dim()).expand(6, *of.shape)}


def test_the_error_falls_with_the_square_of_sigma():
    """On a cubic it is σ²/2 · J‴ exactly; three nodes are exact for it."""
    J, at = lambda outer: outer["eta"] ** 3 + outer["eta"], {"eta": torch.tensor(0.4, dtype=DOUBLE)}
    gradient = 3 * 0.4**2 + 1
    for sigma in (0.5, 0.1, 0.01):
        found = evolution(torch.func.vmap(J), sigma=sigma, pairs=6, noise=hermite)(at).gradient["eta"]
        assert float(found) - gradient == pytest.approx(3 * sigma**2, rel=1e-9)
    quartic, errors = lambda outer: outer["eta"] ** 4, []
    for sigma in (0.2, 0.1, 0.05):
        found = evolution(torch.func.vmap(quartic), sigma=sigma, pairs=6, noise=hermite)(at).gradient["eta"]
        errors.append(float(found) - 4 * 0.4**3)
    assert errors[0] / errors[1] == pytest.approx(4, rel=1e-6)
    assert errors[1] / errors[2] == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize("P", [2, 10, 100])
def test_a_pair_has_the_variance_p_plus_1_times_the_gradient_squared(P):
    g = torch.randn(P, dtype=DOUBLE, generator=rng(3))
    A = torch.randn(P, P, dtype=DOUBLE, generator=rng(4))
    at = {"eta": torch.zeros(P, dtype=DOUBLE)}
    J = lambda outer: g @ outer["eta"] + outer["eta"] @ A @ outer["eta"]  # noqa: E731
    for sigma in (0.01, 1.0):
        noise, losses = gaussian(rng(5)), torch.func.vmap(J)
        ten = evolution(losses, sigma=sigma, pairs=10, noise=noise)
        drawn = torch.stack([ten(at).gradient["eta"] for _ in range(400)])
        assert float(10 * drawn.var(0).sum() / g.square().sum()) == pytest.approx(P + 1, rel=0.15)


# -- windows ---------------------------------------------------------------------------------------------------------------


def every_combination(windows):
    """Noise of PES whose mean over pairs is exact: all combinations of the nodes of all windows."""
    nodes = torch.tensor([math.sqrt(3), 0, 0, 0, 0, -math.sqrt(3)], dtype=DOUBLE)
    rows = torch.tensor(list(itertools.product(nodes.tolist(), repeat=windows)), dtype=DOUBLE)
    columns = iter(rows.unbind(1))
    return len(rows), lambda outer, pairs: {name: next(columns) for name in outer}


@pytest.mark.parametrize(("steps", "window"), [(3, 1), (45, 15), (8, 3)])
def test_the_mean_of_pes_is_the_total_derivative_and_that_of_truncated_es_the_truncated_one(steps, window):
    problem, at = Influence(), {"theta": torch.tensor(0.5, dtype=DOUBLE)}
    exact, cut = bilevel.exact(problem, steps)(at), bilevel.truncated(problem, steps, window)(at)
    pairs, noise = every_combination(3)
    options = {"sigma": 0.1, "pairs": pairs}
    found = persistent_evolution(SideBySide(problem), steps, window, noise=noise, **options)(at)
    assert relative(found.gradient["theta"], exact.gradient["theta"]) < 1e-10
    pairs, noise = every_combination(3)
    found = truncated_evolution(SideBySide(problem), steps, window, noise=noise, **options)(at)
    assert relative(found.gradient["theta"], cut.gradient["theta"]) < 1e-10
    assert relative(cut.gradient["theta"], exact.gradient["theta"]) > 0.05, "they differ"
    # the run of η itself is not perturbed: the loss is larger by that of the noise only
    assert float(found.value) > float(cut.value)


def test_in_one_window_both_are_plain_evolution():
    at, inner = {"alpha": torch.tensor(0.3, dtype=DOUBLE)}, RateOfDescent(weights=[1.0] * 7)

    def J(outer):
        state, total = inner.start(), 0.0
        for t in range(6):
            state = inner.step(outer, state, t)
            total = total + inner.loss(outer, state, t + 1)
        return total

    options = {"sigma": 0.05, "pairs": 40}
    whole = evolution(torch.func.vmap(J), noise=gaussian(rng(8)), **options)(at)
    for estimate in (persistent_evolution, truncated_evolution):
        found = estimate(SideBySide(inner), 6, 6, noise=gaussian(rng(8)), **options)(at)
        assert relative(found.gradient["alpha"], whole.gradient["alpha"]) < 1e-12
        assert float(found.value) == pytest.approx(float(whole.value))


@pytest.mark.parametrize(("unlike", "ratio"), [(False, 11), (True, 41)])
def test_the_variance_of_pes_grows_with_the_windows_where_their_gradients_differ(unlike, ratio):
    """A loss at the end, Σ_τ g_τ·η_τ: (P + 1)‖g‖² for equal pieces, (windows·P + 1)‖g‖² for pieces at right angles."""
    P, windows = 10, 4
    pieces = torch.eye(windows, P, dtype=DOUBLE) if unlike else torch.ones(windows, P, dtype=DOUBLE)

    class Sum:
        def start(self):
            return torch.zeros((), dtype=DOUBLE)

        def step(self, outer, state, t):
            return state + pieces[t] @ outer["eta"]

        def loss(self, outer, state, t):
            return state * (t == windows)

    noise, at = gaussian(rng(9)), {"eta": torch.zeros(P, dtype=DOUBLE)}
    ten = persistent_evolution(SideBySide(Sum()), windows, 1, sigma=0.1, pairs=10, noise=noise)
    drawn = torch.stack([ten(at).gradient["eta"] for _ in range(300)])
    size = pieces.sum(0).square().sum()
    assert float(10 * drawn.var(0).sum() / size) == pytest.approx(ratio, rel=0.15)


def test_a_state_that_is_yet_to_be_made_and_a_tuple_are_states(tmp_path):
    """The problem with five outer variables begins with None and goes on with a tuple."""
    tasks, outer = curves(4, rng(1)), {"optimiser": FIXED["optimiser"].clone()}
    options = {"sigma": 0.02, "pairs": 3}
    whole = evolution(torch.func.vmap(lambda η: objective(tasks, η)), noise=gaussian(rng(2)), **options)(
        outer
    )
    found = persistent_evolution(SideBySide(Fit(tasks)), 10, 10, noise=gaussian(rng(2)), **options)(outer)
    assert torch.allclose(found.gradient["optimiser"], whole.gradient["optimiser"], rtol=1e-3)
    for persistent in (True, False):
        parts = evolution_windows(
            SideBySide(Fit(tasks)), 10, 4, noise=gaussian(rng(2)), persistent=persistent, **options
        )
        values = [float(part(outer).value) for part in parts]
        assert len(values) == 3 and all(math.isfinite(v) for v in values)


def test_wrong_settings_get_one_sentence():
    for wrong in ({"sigma": 0.0, "pairs": 2}, {"sigma": 0.1, "pairs": 0}):
        with pytest.raises(UserError, match="must be"):
            evolution(torch.func.vmap(lambda o: o["x"]), noise=gaussian(rng()), **wrong)
    parts = evolution_windows(
        SideBySide(Influence()), 0, 1, sigma=0.1, pairs=2, noise=gaussian(rng()), persistent=True
    )
    with pytest.raises(UserError, match="at least 1"):
        next(parts)


# -- influence balancing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 10, 20, 40, 41, 100])
def test_the_influence_in_closed_form_is_that_of_truncated_backpropagation(K):
    """In the long run all windows are alike: the gradient of the last loss is (s₀ − 1) g_K."""
    problem, theta = Influence(), {"theta": torch.tensor(0.5, dtype=DOUBLE)}
    state = problem.resting(0.5)
    point, now = bilevel.leaves_of(theta), state
    for t in range(K):
        now = problem.step(point, now, t)
    found = torch.autograd.grad(problem.loss(point, now, K), point["theta"])[0]
    assert float(found) == pytest.approx((float(state[0]) - 1) * influence(K), rel=1e-9)


def test_the_sign_flips_at_41():
    assert influence(1) == 1 and influence(10) == 10
    assert influence(20) == pytest.approx(16.46, abs=0.05) and influence(40) == pytest.approx(0.57, abs=0.01)
    assert all(influence(K) > 0 for K in range(1, 41)) and all(influence(K) < 0 for K in range(41, 120))
    assert influence(200) == pytest.approx(-6, abs=1e-9)
    assert float(Influence().resting(BEST)[0]) == pytest.approx(1)


def learn(make, steps=60, lr=1e-3):
    outer = {"theta": torch.tensor(0.5, dtype=DOUBLE)}
    optimizer = torch.optim.SGD(outer.values(), lr=lr)
    for estimate in make(steps):
        bilevel.outer_step(outer, estimate, optimizer)
    return float(outer["theta"])


def test_truncated_walks_away_by_either_estimate_and_pes_does_not():
    options = {"sigma": 0.1, "pairs": 100}
    problem = Influence(rested=0.5)
    inner = SideBySide(problem)
    backpropagation = learn(lambda n: bilevel.windows(problem, n, 1))
    es, pes = (
        learn(lambda n, k=k: evolution_windows(inner, n, 1, noise=gaussian(rng()), persistent=k, **options))
        for k in (False, True)
    )
    assert backpropagation > 0.65 and es == pytest.approx(backpropagation, abs=0.05)
    assert pes < 0.35, "it goes the other way, to −1/6"
