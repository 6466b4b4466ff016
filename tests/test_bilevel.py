"""The outer loop on a problem whose outer gradient is known by hand: the rate of gradient descent on a parabola.

Inner loop: θ ← θ − αaθ, N times, judged by ½aθ². As a number, α is differentiated through the loop; as one of two rates, chosen
with the probability p = sigmoid, it is relaxed or sampled.
"""

import math

import pytest
import torch
from package_fixtures import rng

from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.pages.checks.outer_gradients import OneOfTwoRates, RateOfDescent

DESCENT = RateOfDescent()
A, START, N = DESCENT.a, DESCENT.start_at, DESCENT.steps
CHOICE = OneOfTwoRates(DESCENT)
RATES = torch.tensor(CHOICE.rates, dtype=torch.float64)
final, by_hand, loss_of_choice = DESCENT.final, DESCENT.by_hand, CHOICE.loss


def descent(weights):
    return RateOfDescent(weights=weights)


def outer(alpha=0.3):
    return {"alpha": torch.tensor(alpha, dtype=torch.float64)}


def test_exact_is_the_derivative_by_hand():
    for alpha in (0.1, 0.3, 1.9):
        found = bilevel.exact(DESCENT, N)(outer(alpha))
        assert float(found.gradient["alpha"]) == pytest.approx(by_hand(alpha), rel=1e-12)
        assert float(found.value) == pytest.approx(float(final(alpha)), rel=1e-12)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_truncated_has_the_share_of_the_last_window_only(window):
    found = bilevel.truncated(DESCENT, N, window)(outer())
    assert float(found.gradient["alpha"]) == pytest.approx(by_hand(0.3, window), rel=1e-12)
    assert abs(by_hand(0.3, window)) < abs(by_hand(0.3)) / 1.9, "it is biased"
    assert float(found.value) == pytest.approx(float(final(0.3)), rel=1e-12), "its value is not"


def test_truncated_may_have_the_wrong_sign():
    """Just before the end of each window the loss is forgiven: what follows is paid by the next one, which does not look back."""
    weights = [0.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0]
    exact = bilevel.exact(descent(weights), N)(outer(0.05)).gradient["alpha"]
    cut = bilevel.truncated(descent(weights), N, 1)(outer(0.05)).gradient["alpha"]
    assert float(exact) * float(cut) < 0


def test_windows_carry_the_state_on_and_let_the_outer_variable_move():
    point, values = outer(), []
    for estimate in bilevel.windows(descent([0.0, *[1.0] * N]), N, 2):
        values.append(float(estimate(point).value))
        point["alpha"].zero_()  # from here on nothing moves
    still = A * ((1 - 0.3 * A) ** 2 * START) ** 2
    assert values[1:] == [pytest.approx(still), pytest.approx(still)]


def test_an_uneven_last_window():
    parts = list(bilevel.windows(DESCENT, N, 4))
    assert len(parts) == 2
    first, last = (part(outer()) for part in parts)
    assert float(first.gradient["alpha"]) == 0
    assert float(last.gradient["alpha"]) == pytest.approx(by_hand(0.3, 2), rel=1e-12)
    with pytest.raises(UserError, match="at least 1"):
        next(bilevel.windows(DESCENT, N, 0))


def test_a_window_starts_where_it_is_told_and_sees_nothing_before():
    """The same state in, the same estimate and state out; and only its own steps have a share in the gradient."""
    state = DESCENT.start()
    for t in range(N - 2):
        state = DESCENT.step(outer(), state, t)
    (a, end), (b, again) = (bilevel.through_window(DESCENT, outer(), state, N - 2, N) for _ in range(2))
    assert torch.equal(a.gradient["alpha"], b.gradient["alpha"]) and torch.equal(end, again)
    assert float(a.gradient["alpha"]) == pytest.approx(by_hand(0.3, 2), rel=1e-12)
    assert not end.requires_grad


def test_only_the_tensors_of_the_estimate_move():
    point = {"a": torch.tensor(1.0), "b": torch.tensor(1.0)}
    optimizer = torch.optim.SGD(point.values(), lr=0.5)
    value = bilevel.move(
        {"a": point["a"]}, bilevel.Estimate(torch.tensor(3.0), {"a": torch.tensor(1.0)}), optimizer
    )
    assert float(value) == 3 and float(point["a"]) == 0.5 and float(point["b"]) == 1


# -- one of two rates ----------------------------------------------------------------------------------------------------


def logits(value=0.4):
    return {"choice": torch.tensor([0.0, value], dtype=torch.float64)}


def expected_gradient():
    return CHOICE.by_hand(logits()["choice"])


def estimates(estimator, repeats):
    return torch.stack([estimator(logits()).gradient["choice"] for _ in range(repeats)])


def test_the_score_function_is_unbiased_and_a_baseline_calms_it():
    drawn = {}
    for baseline in (0.0, float(final(RATES).mean())):
        estimator = bilevel.score_function(
            bilevel.categorical("choice"), loss_of_choice, samples=1, generator=rng(), baseline=baseline
        )
        drawn[baseline] = estimates(estimator, 4_000)
        mean, error = drawn[baseline].mean(0), drawn[baseline].std(0) / 4_000**0.5
        assert ((mean - expected_gradient()).abs() < 4 * error).all()
    plain, calm = (found.std(0) for found in drawn.values())
    assert (calm < 0.8 * plain).all()


def relaxed_mean(temperature, n=200_001):
    """The mean of the relaxed gradient of the second logit, by quadrature over the logistic difference of two Gumbel numbers."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    value = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    soft = torch.sigmoid((value + u.log() - (1 - u).log()) / temperature)
    J = final(RATES[0] + soft * (RATES[1] - RATES[0])).mean()
    return float(torch.autograd.grad(J, value)[0])


def test_relaxed_has_the_bias_that_quadrature_says_and_less_of_it_when_cold():
    wanted = float(expected_gradient()[1])
    for temperature in (1.0, 0.5):
        estimator = bilevel.relaxed(
            bilevel.gumbel_softmax("choice", temperature), loss_of_choice, samples=1, generator=rng()
        )
        found = estimates(estimator, 4_000)[:, 1]
        error = float(found.std()) / 4_000**0.5
        assert abs(float(found.mean()) - relaxed_mean(temperature)) < 4 * error
        assert abs(float(found.mean()) - wanted) > 8 * error, "it is biased"
    gaps = [abs(relaxed_mean(temperature) - wanted) for temperature in (1.0, 0.5, 0.1)]
    assert gaps[0] > gaps[1] > gaps[2]


def test_relaxed_is_unbiased_for_a_linear_loss_only_of_its_own_mean():
    """Even there the mean of a soft choice at temperature 1 is not the probability."""
    estimator = bilevel.relaxed(
        bilevel.gumbel_softmax("choice", 0.1), lambda _, c: c[1], samples=4_000, generator=rng()
    )
    assert float(estimator(logits()).value) == pytest.approx(1 / (1 + math.exp(-0.4)), abs=0.03)
    with pytest.raises(UserError, match="temperature"):
        bilevel.gumbel_softmax("choice", 0.0)


# -- the outer loop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "truncated", "relaxed", "score function"])
def test_the_same_outer_loop_with_each_estimate(kind):
    """All four find a good rate: 1/a is the best, and the second of the two is the better."""
    if kind in ("exact", "truncated"):
        point = outer(0.3)
        estimator = bilevel.exact(DESCENT, N) if kind == "exact" else bilevel.truncated(DESCENT, N, 2)
    else:
        point = logits(0.0)
        draw = bilevel.categorical("choice") if kind != "relaxed" else bilevel.gumbel_softmax("choice", 0.5)
        make = bilevel.score_function if kind != "relaxed" else bilevel.relaxed
        estimator = make(draw, loss_of_choice, samples=4, generator=rng())
    optimizer = torch.optim.SGD(list(point.values()), lr=2.0)
    values = [float(bilevel.outer_step(point, estimator, optimizer)) for _ in range(200)]
    assert sum(values[-20:]) < 0.5 * sum(values[:20])
    assert all(tensor.grad is None for tensor in point.values())
    if "choice" in point:
        assert point["choice"][1] > point["choice"][0] + 0.5
    else:
        assert abs(float(point["alpha"]) - 1 / A) < 0.7


def test_combine_sees_the_estimate_before_it_is_used():
    point = outer(0.3)
    optimizer = torch.optim.SGD([point["alpha"]], lr=1.0)

    def instead(found):
        return bilevel.Estimate(found.value, {"alpha": torch.tensor(0.25)})

    bilevel.outer_step(point, bilevel.exact(DESCENT, N), optimizer, instead)
    assert float(point["alpha"]) == pytest.approx(0.05)


def test_several_choices_at_once_have_one_log_probability():
    point = {"choice": torch.randn(3, 4, generator=rng(), dtype=torch.float64)}
    choice, log_p = bilevel.categorical("choice")(point, rng())
    assert (choice.sum(-1) == 1).all() and choice.shape == (3, 4)
    picked = point["choice"].softmax(-1)[choice.bool()]
    assert float(log_p) == pytest.approx(float(picked.log().sum()))
