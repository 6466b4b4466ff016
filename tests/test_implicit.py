"""Implicit gradients against closed forms, backpropagation and finite differences, in float64."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from package_fixtures import rng
from torch import nn

from mlbook.errors import UserError
from mlbook.meta_learners import IMAML, MAML, bilevel
from mlbook.meta_learners.implicit import (
    conjugate_gradient,
    dot,
    hessian_product,
    hypergradient,
    implicit,
    neumann_series,
    plus,
)
from mlbook.models import MLP
from mlbook.models.functional import call
from mlbook.pages.checks import relative_distance, to_float64
from mlbook.pages.checks.ridge import ProximalRidge
from mlbook.tasks import Episode, Sinusoids

F64 = torch.float64
RIDGE = ProximalRidge.drawn(0, strength=0.1)
THETA = {"theta": torch.randn(6, generator=rng(1), dtype=F64)}


def off(found, wanted):
    """Relative distance."""
    return float((found - wanted).norm() / wanted.norm())


def system(seed=0, size=8, rank=3):
    """A = I + a matrix of that rank, as a product; A itself; b."""
    g = rng(seed)
    root = torch.randn(size, rank, generator=g, dtype=F64)
    matrix = torch.eye(size, dtype=F64) + root @ root.T
    b = {"x": torch.randn(size, generator=g, dtype=F64)}
    return (lambda v: {"x": matrix @ v["x"]}), matrix, b


# -- linear systems ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_conjugate_gradients_are_exact_after_one_step_more_than_the_rank(rank):
    product, matrix, b = system(rank=rank)
    wanted = torch.linalg.solve(matrix, b["x"])
    errors = [off(conjugate_gradient(product, b, k, 0.0)["x"], wanted) for k in range(rank + 2)]
    assert errors[rank + 1] < 1e-12 < 1e-3 < errors[rank]
    # from b itself the part without curvature is right at once
    from_b = [off(conjugate_gradient(product, b, k, 0.0, start=b)["x"], wanted) for k in range(rank + 1)]
    assert from_b[rank] < 1e-12 and from_b[0] == pytest.approx(off(b["x"], wanted))


def test_conjugate_gradients_stay_where_they_have_arrived():
    """Also under vmap, where one task may have arrived before another."""
    matrices = torch.stack([torch.eye(3, dtype=F64), torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=F64))])
    b = torch.ones(2, 3, dtype=F64)

    def solved(matrix, b):
        return conjugate_gradient(lambda v: {"x": matrix @ v["x"]}, {"x": b}, 8, 0.0)["x"]

    found = torch.func.vmap(solved)(matrices, b)
    assert torch.allclose(found, torch.linalg.solve(matrices, b[..., None])[..., 0], rtol=1e-12)
    zero = conjugate_gradient(lambda v: v, {"x": torch.zeros(3)}, 3)
    assert torch.equal(zero["x"], torch.zeros(3))


def test_the_neumann_series_is_its_sum_and_tends_to_the_solution():
    product, matrix, b = system()
    rate = 1 / float(torch.linalg.eigvalsh(matrix)[-1])
    shrink, power, total = torch.eye(8, dtype=F64) - rate * matrix, b["x"], 0.0
    for terms in range(1, 6):
        total = total + rate * power
        assert off(neumann_series(product, b, terms, rate=rate)["x"], total) < 1e-14
        power = shrink @ power
    assert off(neumann_series(product, b, 3_000, rate=rate)["x"], torch.linalg.solve(matrix, b["x"])) < 1e-10
    for wrong in ({"steps": 0, "rate": 0.1}, {"steps": 3, "rate": 0.0}, {"steps": 3, "rate": float("nan")}):
        with pytest.raises(UserError, match="at least 1"):
            neumann_series(product, b, **wrong)


def test_hessian_products_are_those_of_the_whole_matrix():
    x, y = torch.randn(2, 7, 3, generator=rng(2), dtype=F64)

    def loss(p):
        return (torch.tanh(x @ p["a"])[:, None] * p["b"] - y).square().mean()

    params = {n: torch.randn(3, generator=rng(i), dtype=F64) for i, n in enumerate("ab")}
    v = {n: torch.randn(3, generator=rng(5 + i), dtype=F64) for i, n in enumerate("ab")}
    whole = torch.func.jacrev(torch.func.grad(loss))(params)
    found = hessian_product(loss, params)(v)
    for n in "ab":
        assert off(found[n], whole[n]["a"] @ v["a"] + whole[n]["b"] @ v["b"]) < 1e-12
    assert float(dot(v, plus(v, 2.0, v))) == pytest.approx(3 * float(dot(v, v)))


# -- ridge regression: closed form -----------------------------------------------------------------------------------


def test_the_implicit_gradient_is_the_closed_form_on_ridge_regression():
    for strength in (0.01, 0.1, 1.0, 100.0):
        ridge = replace(RIDGE, strength=strength)
        solve = partial(conjugate_gradient, steps=12, tolerance=0.0)
        found = implicit(ridge.minimum, ridge.inner_loss, ridge.outer_loss, solve)(THETA)
        assert off(found.gradient["theta"], ridge.gradient(THETA)) < 1e-8
        assert float(found.value) == pytest.approx(
            float(ridge.outer_loss(THETA, ridge.minimum(THETA))), rel=1e-12
        )


def test_a_neumann_series_is_backpropagation_through_the_last_steps_from_the_fixed_point():
    fixed = RIDGE.minimum(THETA)["phi"]
    for terms in (1, 2, 5, 12):
        solve = partial(neumann_series, steps=terms, rate=RIDGE.rate)
        series = hypergradient(RIDGE.inner_loss, RIDGE.outer_loss, THETA, {"phi": fixed}, solve)
        last = bilevel.through_window(RIDGE, THETA, fixed, RIDGE.steps - terms, RIDGE.steps)[0]
        assert off(series.gradient["theta"], last.gradient["theta"]) < 1e-12
        exact = RIDGE.gradient(THETA)
        smallest = float(torch.linalg.eigvalsh(RIDGE.matrix)[0])
        bound = (1 - RIDGE.rate * smallest) ** terms
        assert off(series.gradient["theta"], exact) <= bound * (1 + 1e-9)


def test_unrolling_is_exact_for_its_path_and_tends_to_the_implicit_gradient():
    def value(theta, steps):
        ridge = replace(RIDGE, steps=steps)
        return float(ridge.outer_loss({}, ridge.end({"theta": theta})))

    direction = torch.randn(6, generator=rng(3), dtype=F64)
    for steps in (1, 5, 20):
        found = bilevel.exact(replace(RIDGE, steps=steps), steps)(THETA).gradient["theta"]
        measured = (
            value(THETA["theta"] + 1e-5 * direction, steps) - value(THETA["theta"] - 1e-5 * direction, steps)
        ) / 2e-5
        assert float(found @ direction) == pytest.approx(measured, rel=1e-7)
    far = bilevel.exact(replace(RIDGE, steps=2_000), 2_000)(THETA).gradient["theta"]
    assert off(far, RIDGE.gradient(THETA)) < 1e-10


def test_where_the_inner_loop_has_not_converged_the_implicit_gradient_is_wrong_in_proportion():
    """It answers for the gradient of the query loss at another point, with an exact solve."""
    solve = partial(conjugate_gradient, steps=12, tolerance=0.0)
    exact, away = RIDGE.gradient(THETA), []
    for steps in (2, 10, 50):
        params = RIDGE.end(THETA, steps)
        found = hypergradient(RIDGE.inner_loss, RIDGE.outer_loss, THETA, params, solve).gradient["theta"]
        distance = float((params["phi"] - RIDGE.minimum(THETA)["phi"]).norm())
        away.append(float((found - exact).norm()) / distance)
    assert max(away) < 4 * min(away)  # first order: the quotient stays of one size
    unrolled = bilevel.exact(replace(RIDGE, steps=2), 2)(THETA).gradient["theta"]
    assert off(unrolled, exact) > 0.05


def test_the_two_ends_of_the_strength():
    """λ → ∞: the gradient of pre-training. λ → 0: none along curved directions, all of it along flat ones."""
    slope = RIDGE.slope({"phi": THETA["theta"]})
    assert off(replace(RIDGE, strength=1e8).gradient(THETA), slope) < 1e-6
    loose = replace(RIDGE, strength=1e-9)
    found, values = loose.gradient(THETA), torch.linalg.eigh(RIDGE.hessian)
    curved = values.eigenvectors[:, values.eigenvalues > 1e-9]
    assert float((curved.T @ found).norm()) < 1e-6 * float(found.norm())


# -- hyperparameters -------------------------------------------------------------------------------------------------


def test_a_weight_decay_as_the_outer_variable():
    """L_T = ½‖Xw − y‖² + ½e^ρ‖w‖²: dw*/dρ = −e^ρ (XᵀX + e^ρ I)⁻¹ w* (derived by hand)."""
    X, y, query_X, query_y = RIDGE.X, RIDGE.y, RIDGE.query_X, RIDGE.query_y

    def inner_loss(outer, p):
        return (X @ p["w"] - y).square().sum() / 2 + outer["rho"].exp() * p["w"].square().sum() / 2

    def outer_loss(outer, p):
        return (query_X @ p["w"] - query_y).square().sum() / 2

    def solution(outer):
        return {"w": torch.linalg.solve(X.T @ X + outer["rho"].exp() * torch.eye(6, dtype=F64), X.T @ y)}

    outer = {"rho": torch.tensor(-0.7, dtype=F64)}
    solve = partial(conjugate_gradient, steps=12, tolerance=0.0)
    found = implicit(solution, inner_loss, outer_loss, solve)(outer)
    w, penalty = solution(outer)["w"], outer["rho"].exp()
    change = -penalty * torch.linalg.solve(X.T @ X + penalty * torch.eye(6, dtype=F64), w)
    assert float(found.gradient["rho"]) == pytest.approx(
        float(query_X.T @ (query_X @ w - query_y) @ change), rel=1e-9
    )
    moved = [float(outer_loss({}, solution({"rho": outer["rho"] + e}))) for e in (1e-5, -1e-5)]
    assert float(found.gradient["rho"]) == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-7)


def test_an_outer_loss_that_sees_the_outer_variable_itself():
    """∂L_V/∂η is part of the gradient; and an outer step moves by the whole."""
    inner = lambda o, p: (p["w"] - 2 * o["a"]).square().sum()  # noqa: E731
    outer = {"a": torch.tensor([0.3, -1.0], dtype=F64)}
    judged = lambda o, p: (p["w"] ** 2).sum() + (o["a"] ** 3).sum()  # noqa: E731
    estimate = implicit(lambda o: {"w": 2 * o["a"]}, inner, judged)
    found = estimate(outer)
    assert torch.allclose(found.gradient["a"], 8 * outer["a"] + 3 * outer["a"] ** 2, rtol=1e-10)
    before = outer["a"].clone()
    bilevel.outer_step(outer, estimate, torch.optim.SGD(list(outer.values()), lr=0.1))
    assert torch.allclose(outer["a"], before - 0.1 * found.gradient["a"])


# -- iMAML ---------------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """The model of ``ProximalRidge`` for the meta-learner."""

    def __init__(self):
        super().__init__()
        self.phi = nn.Parameter(torch.zeros(6, dtype=F64))

    def forward(self, x):
        return (x @ self.phi)[:, None]


def of_ridge(ridges, **options):
    """IMAML on these problems; ``mse`` is twice their loss, so λ is twice theirs and the gradient, too."""
    first = ridges[0]
    learner = IMAML(Linear(), loss="mse", strength=2 * first.strength, **options)
    episodes = Episode(
        *(
            torch.stack(t)
            for t in zip(*((r.X, r.y[:, None], r.query_X, r.query_y[:, None]) for r in ridges), strict=True)
        )
    )
    return learner, {"params": {"phi": THETA["theta"]}}, episodes


RIDGES = [ProximalRidge.drawn(seed, strength=0.5) for seed in (0, 1, 2)]


def test_imaml_is_the_closed_form_when_its_inner_loop_has_converged():
    learner, meta, episodes = of_ridge(RIDGES, inner_lr=0.1, inner_steps=220, solver_steps=8)
    found, metrics = learner.meta_gradient(meta, episodes)
    wanted = 2 * sum(r.gradient(THETA) for r in RIDGES) / 3
    assert off(found["params"]["phi"], wanted) < 1e-8
    loss = sum(float(r.outer_loss({}, r.minimum(THETA))) for r in RIDGES) / 3
    assert float(metrics["loss"]) == pytest.approx(2 * loss, rel=1e-8)
    series = replace(learner, solver="neumann", solver_steps=220)
    unrolled = replace(learner, solver="unrolled")
    for other in (series, unrolled):
        assert off(other.meta_gradient(meta, episodes)[0]["params"]["phi"], wanted) < 1e-8


def waves(T=3, **options):
    learner = IMAML(MLP((1, 12, 12, 1), activation="tanh"), loss="mse", **{"strength": 2.0, **options})
    meta = to_float64(learner.init(rng(0)).meta)
    return learner, meta, Sinusoids(5, 7).sample(T, rng(1)).to(F64)


def test_imaml_on_a_network_is_the_slope_of_what_its_inner_problem_gives():
    """Finite differences of the query loss at the (nearly) exact minimum, along a random direction."""
    learner, meta, episodes = waves(1, inner_lr=0.05, inner_steps=220, solver_steps=40)
    g = rng(2)
    direction = {n: torch.randn(p.shape, generator=g, dtype=F64) for n, p in meta["params"].items()}

    def value(e):
        theta = plus(meta["params"], e, direction)
        *_, adapted = learner.path(
            {"params": theta}, episodes.support_x[0], episodes.support_y[0], learner.inner_steps
        )
        return float(
            (call(learner.model, adapted, episodes.query_x[0]) - episodes.query_y[0]).square().mean()
        )

    found = learner.meta_gradient(meta, episodes)[0]["params"]
    assert float(dot(found, direction)) == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-5)


def test_without_a_step_of_the_solver_it_is_first_order():
    """The gradient of FOMAML on the same inner loop; and for λ → ∞ that of pre-training."""
    learner, meta, episodes = waves(solver_steps=0, inner_lr=0.05)
    found = learner.meta_gradient(meta, episodes)[0]["params"]

    def first_order(task):
        *_, adapted = learner.path(meta, task.support_x, task.support_y, learner.inner_steps)
        adapted = {n: p.detach() for n, p in adapted.items()}
        judged = lambda p: (call(learner.model, p, task.query_x) - task.query_y).square().mean()  # noqa: E731
        return torch.func.grad(judged)(adapted)

    each = [first_order(episodes.task(t)) for t in range(3)]
    mean = {n: sum(g[n] for g in each) / 3 for n in found}
    assert relative_distance({"params": found}, {"params": mean}) < 1e-12
    stiff = replace(learner, strength=1e7, inner_lr=5e-8, solver_steps=5)
    joint = MAML(learner.model, loss="mse", inner_steps=0)
    assert (
        relative_distance(stiff.meta_gradient(meta, episodes)[0], joint.meta_gradient(meta, episodes)[0])
        < 1e-4
    )


def test_tasks_at_once_and_one_by_one_are_the_same():
    for solver in ("cg", "neumann", "unrolled"):
        learner, meta, episodes = waves(solver=solver, inner_lr=0.05)
        one_by_one = replace(learner, engine="loop").meta_gradient(meta, episodes)
        at_once = learner.meta_gradient(meta, episodes)
        assert relative_distance(one_by_one[0], at_once[0]) < 1e-10
        assert float(one_by_one[1]["loss"]) == pytest.approx(float(at_once[1]["loss"]), rel=1e-10)


def test_unrolled_keeps_the_derivative_of_every_step():
    learner, meta, episodes = waves(1, solver="unrolled", inner_steps=4, inner_lr=0.05)
    g = rng(2)
    direction = {n: torch.randn(p.shape, generator=g, dtype=F64) for n, p in meta["params"].items()}
    value = lambda e: float(  # noqa: E731
        learner.meta_loss({"params": plus(meta["params"], e, direction)}, episodes)[0]
    )
    found = learner.meta_gradient(meta, episodes)[0]["params"]
    assert float(dot(found, direction)) == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-6)


def test_one_step_of_training_and_bad_input():
    learner, _, _ = waves(inner_lr=0.05, inner_steps=4)
    state = learner.init(rng(0))
    before = {n: p.clone() for n, p in state.meta["params"].items()}
    state, metrics = learner.step(state, Sinusoids(5, 7).sample(3, rng(1)))
    assert state.meta_step == 1 and metrics["loss"] > 0
    assert any(not torch.equal(before[n], p) for n, p in state.meta["params"].items())
    for wrong, words in (
        ({"strength": 0.0}, "strength must be positive"),
        ({"strength": float("nan")}, "strength must be positive"),
        ({"solver": "newton"}, "solver must be one of"),
        ({"solver_steps": -1}, "at least 0"),
        ({"solver": "neumann", "solver_steps": 0}, "at least 1"),
        ({"first_order": True}, "one rate"),
        ({"learn_inner_lr": True}, "one rate"),
    ):
        with pytest.raises(UserError, match=words):
            waves(**wrong)


# -- wrong labels and decays as outer variables ----------------------------------------------------------------------------


def test_example_weights_and_decays_have_the_slopes_of_finite_differences():
    from mlbook.data import glyphs
    from mlbook.pages.checks.cleaning import Cleaning

    problem = Cleaning.drawn(glyphs.load("train"), 0, n_way=3, copies=1)
    assert problem.x.shape == (30, 197) and int(problem.wrong.sum()) == 15
    truth = torch.arange(3).repeat_interleave(10)
    assert torch.equal(problem.y != truth, problem.wrong)
    outer = {
        "weight": torch.randn(30, generator=rng(1), dtype=F64),
        "log_decay": 0.3 * torch.randn(197, 3, generator=rng(2), dtype=F64) - 2,
    }
    found = problem.estimator(steps=600, cg_steps=60)(outer).gradient

    def value(name, e):
        g = torch.randn(outer[name].shape, generator=rng(3), dtype=F64)
        moved = {**outer, name: outer[name] + e * g}
        return float(problem.outer_loss(moved, problem.solver(600)(moved))), g

    for name in outer:
        (ahead, g), (behind, _) = value(name, 1e-4), value(name, -1e-4)
        assert float((found[name] * g).sum()) == pytest.approx((ahead - behind) / 2e-4, rel=1e-4)
