"""Distances to solution sets, closest points, and Reptile's end points: against brute force, differences and closed forms."""

import math

import pytest
import torch
from package_fixtures import rng

from mlbook.errors import UserError
from mlbook.pages.checks.manifolds import (
    Affine,
    draw,
    ellipse,
    flow,
    gradient_steps,
    graph,
    half_squared_distance,
    hyperbola,
    line,
    nearby_solution,
    reptile_batched,
    reptile_by_projection,
    reptile_by_steps,
)
from mlbook.pages.figures import manifold_figures

CURVES = {
    "line": line((1, 2), 1.0),
    "ellipse": ellipse((0.5, -0.3), (2.0, 1.0)),
    "circle": ellipse((0.2, 0.1), (1.5, 1.5)),
    "parabola": graph(torch.square),
    "wave": graph(lambda x: torch.sin(2 * x)),
    "hyperbola": hyperbola(1.5),
}


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def points(n, seed=0):
    return 0.5 + 1.2 * torch.randn(n, 2, generator=rng(seed), dtype=torch.float64)


def curve_points(task, n=200_001):
    return task.point(torch.linspace(*task.span, n, dtype=torch.float64))


def separated(task, phi, margin=0.05):
    """The rows of phi that are not near the medial axis: no far-away point of the curve is nearly as close."""
    p, closest = curve_points(task, 4001), task.project(phi)
    far = (p - closest[:, None]).norm(dim=-1) > 0.5
    other = torch.where(far, (p - phi[:, None]).norm(dim=-1), torch.inf).amin(-1)
    return phi[other > (phi - closest).norm(dim=-1) + margin]


# -- closest points ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURVES)
def test_the_two_descriptions_of_a_curve_agree(name):
    assert float(CURVES[name].residual(curve_points(CURVES[name], 1001)).abs().max()) < 1e-8


@pytest.mark.parametrize("name", CURVES)
def test_no_point_of_a_grid_is_closer_than_the_projection(name):
    task, phi = CURVES[name], points(60)
    distance = (phi - task.project(phi)).norm(dim=-1)
    brute = torch.stack([(curve_points(task) - row).norm(dim=-1).min() for row in phi])
    assert float((distance - brute).max()) < 1e-12, "a point of the grid is closer"
    assert float((brute - distance).max()) < 1e-4


@pytest.mark.parametrize("name", CURVES)
def test_the_way_to_the_closest_point_is_normal_to_the_curve(name):
    task, phi = CURVES[name], points(60)
    p = task.project(phi)
    normal = torch.func.vmap(torch.func.grad(task.residual))(p)
    gap = phi - p
    across = gap[:, 0] * normal[:, 1] - gap[:, 1] * normal[:, 0]
    assert float((across / normal.norm(dim=-1)).abs().max()) < 1e-9
    assert float(task.residual(p).abs().max()) < 1e-9


def test_a_circle_and_a_line_have_their_closed_forms():
    phi, centre = points(30), vector(0.2, 0.1)
    out = phi - centre
    torch.testing.assert_close(
        CURVES["circle"].project(phi), centre + 1.5 * out / out.norm(dim=-1, keepdim=True)
    )
    normal = vector(1, 2) / 5**0.5
    torch.testing.assert_close(
        CURVES["line"].project(phi), phi - (phi @ normal - 1.0)[:, None] * normal, atol=1e-12, rtol=0
    )


def test_one_point_or_a_grid_of_points():
    phi = points(6)
    task = CURVES["ellipse"]
    torch.testing.assert_close(task.project(phi[2]), task.project(phi)[2])
    torch.testing.assert_close(task.project(phi.view(2, 3, 2)), task.project(phi).view(2, 3, 2))


# -- the gradient -----------------------------------------------------------------------------------------------------


def differences(task, phi, h=1e-5):
    columns = [
        (half_squared_distance(task, phi + h * e) - half_squared_distance(task, phi - h * e)) / (2 * h)
        for e in torch.eye(2, dtype=torch.float64)
    ]
    return torch.stack(columns, -1)


@pytest.mark.parametrize("name", CURVES)
def test_the_gradient_of_half_the_squared_distance(name):
    task = CURVES[name]
    phi = separated(task, points(80))
    assert len(phi) > 30
    measured = differences(task, phi)
    assert float((phi - task.project(phi) - measured).norm(dim=-1).max()) < 1e-6
    # The end of gradient flow is a minimiser, too, but not the closest: φ minus it is not the gradient.
    if name in ("ellipse", "wave"):
        end = flow(task, phi[:20])[-1]
        assert float(task.residual(end).abs().max()) < 1e-4
        assert float((phi[:20] - end - measured[:20]).norm(dim=-1).max()) > 0.01


def test_on_the_medial_axis_every_direction_goes_by_the_best_closest_point():
    """Parabola y = x², φ = (0, s) with s > ½: closest points (±√(s − ½), s − ½), D² = s − ¼."""
    task, s, h = CURVES["parabola"], 1.5, 1e-6
    phi, reach = vector(0, s), math.sqrt(s - 0.5)
    assert float(2 * half_squared_distance(task, phi)) == pytest.approx(s - 0.25, abs=1e-12)
    closest = torch.stack([vector(sign * reach, s - 0.5) for sign in (-1, 1)])
    for angle in torch.linspace(0, 2 * math.pi, 9):
        u = vector(math.cos(angle), math.sin(angle))
        measured = (half_squared_distance(task, phi + h * u) - half_squared_distance(task, phi)) / h
        assert float(measured) == pytest.approx(float(((phi - closest) @ u).min()), abs=1e-5)


def test_half_of_phi_squared_minus_the_objective_is_convex():
    """Hence ridges, never valleys, where the closest point is not unique."""
    for task in CURVES.values():
        a, b = points(200, 1), points(200, 2)

        def hidden(phi, task=task):
            return 0.5 * phi.square().sum(-1) - half_squared_distance(task, phi)

        assert float((hidden((a + b) / 2) - (hidden(a) + hidden(b)) / 2).max()) < 1e-9


# -- Reptile with exact projections -----------------------------------------------------------------------------------

TASKS = [
    ellipse((-1.4, -0.2), (1.5, 0.8)),
    graph(lambda x: 0.9 * torch.sin(1.3 * x) + 1.6),
    line((1, -0.35), 1.6),
]


def mean_objective(phi):
    return torch.stack([half_squared_distance(task, phi) for task in TASKS]).mean(0)


def all_projections(phi):
    return torch.stack([task.project(phi) for task in TASKS])


def test_batched_reptile_ends_at_the_least_mean_squared_distance():
    path = reptile_batched(vector(-3.2, 2.8), all_projections, meta_steps=80)
    end = path[-1]
    assert float((end - all_projections(end)).mean(0).norm()) < 1e-9, "the mean gap does not vanish"
    grid = manifold_figures.grid((-4, 4, -2.4, 3.2), 81)
    assert float(mean_objective(end)) < float(mean_objective(grid).min()) + 1e-12


@pytest.mark.parametrize("rate", [0.3, 1.0, 1.9])
def test_a_batched_step_lowers_the_objective_by_what_was_derived(rate):
    path = reptile_batched(vector(-3.2, 2.8), all_projections, rate=rate, meta_steps=15)
    value = mean_objective(path)
    gradient = path - torch.stack([all_projections(phi) for phi in path]).mean(1)
    promised = rate * (1 - rate / 2) * gradient.square().sum(-1)
    assert float((value[1:] - (value[:-1] - promised[:-1])).max()) < 1e-12


def test_the_serial_form_is_the_step_of_the_book():
    tasks = draw(TASKS, 5, rng(3))
    rates = [0.5, 0.4, 0.3, 0.2, 0.1]
    exact = reptile_by_projection(vector(1, -1), tasks, rates)
    several = reptile_by_steps(vector(1, -1), tasks, rates, inner_lr=0.02, steps=3)
    for n, (task, rate) in enumerate(zip(tasks, rates, strict=True)):
        torch.testing.assert_close(exact[n + 1], (1 - rate) * exact[n] + rate * task.project(exact[n]))
        end = several[n].clone().requires_grad_()
        for _ in range(3):
            end = end - 0.02 * torch.autograd.grad(task.loss(end), end, create_graph=True)[0]
        torch.testing.assert_close(several[n + 1], (1 - rate) * several[n] + rate * end.detach())
    with pytest.raises(ValueError):
        reptile_by_projection(vector(1, -1), tasks, rates[:4])


def test_alternating_projections_end_at_the_common_point_closest_to_the_start():
    A = torch.randn(4, 2, 10, generator=rng(4), dtype=torch.float64)
    b = (A @ torch.randn(10, generator=rng(5), dtype=torch.float64)[:, None])[..., 0]
    tasks = [Affine(A[i], b[i]) for i in range(4)]
    start = torch.randn(10, generator=rng(6), dtype=torch.float64)
    together = Affine(A.reshape(8, 10), b.reshape(8)).project(start)
    for rate in (0.6, 1.0, 1.5):
        path = reptile_by_projection(start, tasks * 400, [rate] * 1600)
        torch.testing.assert_close(path[-1], together, atol=1e-8, rtol=0)


# -- k gradient steps -------------------------------------------------------------------------------------------------


def family(T=12, m=3, d=9, seed=7):
    """Regressions with more unknowns than equations; the second half of the tasks has a loss four times as steep."""
    A = torch.randn(T, m, d, generator=rng(seed), dtype=torch.float64) / d**0.5
    A[T // 2 :] *= 2
    return Affine(A, torch.randn(T, m, generator=rng(seed + 1), dtype=torch.float64))


def ends_after(tasks, rate, k):
    T = len(tasks.A)
    return lambda phi: gradient_steps(tasks, phi.expand(T, -1), inner_lr=rate, steps=k)


def largest_rate(tasks):
    return 1 / float(torch.linalg.matrix_norm(tasks.A, 2).square().max())


def test_gradient_descent_on_least_squares_ends_at_the_projection():
    tasks = family()
    phi = torch.randn(9, generator=rng(9), dtype=torch.float64)
    end = ends_after(tasks, largest_rate(tasks), 2500)(phi)
    torch.testing.assert_close(end, tasks.project(phi), atol=1e-8, rtol=0)
    # Weights on the equations change the way, not the end. The distance is least: any other solution is further.
    w = vector(1.0, 0.8, 0.7)[:, None]
    weighted = Affine(w * tasks.A, w[:, 0] * tasks.b)
    torch.testing.assert_close(
        ends_after(weighted, largest_rate(weighted), 2500)(phi), end, atol=1e-6, rtol=0
    )
    other = tasks.project(torch.zeros(9, dtype=torch.float64))
    assert bool(((phi - other).norm(dim=-1) > (phi - end).norm(dim=-1)).all())


def test_the_share_of_k_steps_is_what_k_steps_do():
    tasks = family()
    phi = torch.randn(9, generator=rng(9), dtype=torch.float64)
    rate = largest_rate(tasks)
    for k in (1, 2, 7):
        gap = (tasks.share(rate, k) @ (phi - tasks.project(phi))[..., None])[..., 0]
        torch.testing.assert_close(ends_after(tasks, rate, k)(phi), phi - gap)
    torch.testing.assert_close(tasks.share(rate, 1), rate * tasks.A.mT @ tasks.A)
    torch.testing.assert_close(tasks.share(rate, 20000), tasks.share(rate, None), atol=1e-8, rtol=0)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_reptile_with_k_steps_ends_at_the_weighted_mean(k):
    """½a(φ − c)²: weights 1 − (1 − αa)ᵏ."""
    a, c, alpha = vector(4.0, 0.5, 1.0), vector(0.0, 1.0, 3.0), 0.3
    tasks = Affine(a.sqrt()[:, None, None], (a.sqrt() * c)[:, None])
    weights = 1 - (1 - alpha * a) ** k
    expected = (weights * c).sum() / weights.sum()
    path = reptile_batched(vector(2.0), ends_after(tasks, alpha, k), meta_steps=100)
    assert float(path[-1]) == pytest.approx(float(expected), abs=1e-10)
    solved = tasks.fixed_point(vector(2.0), inner_lr=alpha, steps=k)
    assert float(solved) == pytest.approx(float(expected), abs=1e-12)
    joint, nearest = (a * c).sum() / a.sum(), c.mean()
    if k == 1:
        assert float(expected) == pytest.approx(float(joint), abs=1e-12)
    assert abs(float(expected - nearest)) <= abs(float(joint - nearest)) + 1e-12
    assert float(tasks.fixed_point(vector(2.0))) == pytest.approx(float(nearest), abs=1e-12)


@pytest.mark.parametrize("k", [1, 4, 30, None])
def test_the_fixed_point_of_a_family_of_regressions(k):
    tasks, start = family(), torch.zeros(9, dtype=torch.float64)
    rate = largest_rate(tasks)
    ends = tasks.project if k is None else ends_after(tasks, rate, k)
    slowest = float(torch.linalg.eigvalsh(tasks.share(rate, k).mean(0))[0])
    path = reptile_batched(start, ends, meta_steps=math.ceil(20 / slowest))
    solved = tasks.fixed_point(start, inner_lr=rate, steps=k)
    torch.testing.assert_close(path[-1], solved, atol=1e-7, rtol=0)
    distance = [float(half_squared_distance(tasks, phi).mean()) for phi in (solved, tasks.fixed_point(start))]
    assert distance[0] >= distance[1] - 1e-12
    if k == 1:
        normal = torch.linalg.lstsq(tasks.A.reshape(-1, 9), tasks.b.reshape(-1)).solution
        torch.testing.assert_close(solved, normal)


def test_directions_that_no_task_moves_stay_at_the_start():
    tasks = family(T=2)  # 6 equations for 9 unknowns
    start = torch.randn(9, generator=rng(1), dtype=torch.float64)
    end = tasks.fixed_point(start)
    torch.testing.assert_close(reptile_batched(start, tasks.project, meta_steps=3000)[-1], end)
    assert float(half_squared_distance(tasks, end).max()) < 1e-12


# -- curved sets ------------------------------------------------------------------------------------------------------


def test_the_flow_of_two_weights_conserves_the_difference_of_their_squares():
    task = hyperbola(1.5)
    phi = torch.tensor([[2.5, 1.5], [0.4, 0.2], [0.3, 2.0]], dtype=torch.float64)
    path = flow(task, phi)
    kept = path[..., 0] ** 2 - path[..., 1] ** 2
    torch.testing.assert_close(kept[-1], kept[0], atol=1e-6, rtol=0)
    assert float(task.residual(path[-1]).abs().max()) < 1e-6
    descent = gradient_steps(task, phi, inner_lr=0.002, steps=4000)
    torch.testing.assert_close(path[-1], descent, atol=5e-3, rtol=0)


def test_for_a_squared_distance_the_flow_ends_at_the_closest_point():
    task = line((1, 2), 1.0, steepness=3.0)
    phi = points(10)
    torch.testing.assert_close(flow(task, phi)[-1], task.project(phi), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "task, p", [(hyperbola(1.0), (2.0, 0.5)), (ellipse((0, 0), (2, 1)), (2**0.5, 0.5**0.5))]
)
def test_the_two_ends_part_with_the_square_of_the_distance(task, p):
    """½δ²·|tᵀ(∇²r)n| / ‖∇r‖ to leading order."""
    p = vector(*p)
    g, H = torch.func.grad(task.residual)(p), torch.func.jacrev(torch.func.grad(task.residual))(p)
    n = g / g.norm()
    t = torch.stack([-n[1], n[0]])
    factor = 0.5 * float((t @ H @ n).abs() / g.norm())
    ratios = []
    for delta in (0.002, 0.004):
        start = p + delta * n
        gap = float((flow(task, start)[-1] - task.project(start)).norm())
        ratios.append(gap / (factor * delta**2))
    assert ratios == pytest.approx([1, 1], abs=0.01)


def test_only_one_step_and_the_projection_follow_a_gradient_field():
    """The derivative of the displacement φ − end is symmetric for k = 1 and for the projection, and for nothing between."""
    task, phi = hyperbola(1.0), vector(2.0, 1.2)

    def asymmetry(displacement):
        h = 1e-5
        columns = [
            (displacement(phi + h * e) - displacement(phi - h * e)) / (2 * h)
            for e in torch.eye(2, dtype=torch.float64)
        ]
        J = torch.stack(columns, -1)
        return abs(float((J[0, 1] - J[1, 0]) / J.norm()))

    assert asymmetry(lambda x: x - task.project(x)) < 1e-8
    assert asymmetry(lambda x: x - gradient_steps(task, x, inner_lr=0.05, steps=1)) < 1e-8
    assert asymmetry(lambda x: x - gradient_steps(task, x, inner_lr=0.05, steps=5)) > 0.03
    assert asymmetry(lambda x: x - flow(task, x)[-1]) > 0.1


# -- more parameters --------------------------------------------------------------------------------------------------


def test_a_nearby_solution_meets_the_condition_of_the_closest():
    A = torch.randn(3, 8, generator=rng(2), dtype=torch.float64)
    b = torch.randn(3, generator=rng(3), dtype=torch.float64)
    phi = torch.randn(8, generator=rng(4), dtype=torch.float64)
    p, residual, tangential = nearby_solution(lambda v: A @ v - b, phi)
    torch.testing.assert_close(p, Affine(A, b).project(phi), atol=1e-8, rtol=0)
    assert float(residual) < 1e-8 and float(tangential) < 1e-6
    for task in (CURVES["ellipse"], CURVES["hyperbola"]):
        phi = separated(task, points(40), 0.3)[:8]
        p, residual, tangential = torch.func.vmap(
            lambda phi, task=task: nearby_solution(lambda v: task.residual(v)[None], phi)
        )(phi)
        assert float(residual.max()) < 1e-7 and float(tangential.max()) < 1e-4
        torch.testing.assert_close(p, task.project(phi), atol=1e-4, rtol=0)


def test_other_units_of_a_parameter_have_another_closest_point():
    task, phi, units = CURVES["line"], vector(1.0, -1.0), vector(3.0, 1.0)
    scaled = Affine(vector(1, 2)[None] / 5**0.5 / units, vector(1.0))  # q = units · p
    again = scaled.project(units * phi) / units
    assert float(task.residual(again).abs()) < 1e-12
    assert float((again - task.project(phi)).norm()) > 0.1


def test_wrong_input_is_refused():
    with pytest.raises(UserError, match="must be positive"):
        hyperbola(0.0)


def test_the_figures_have_alt_texts_with_numbers():
    tasks = {f"task {i + 1}": task for i, task in enumerate(TASKS)}
    window, start = (-4, 4, -2.4, 3.2), vector(1.2, -0.3)
    path = reptile_batched(start, all_projections, meta_steps=3)
    drawn = [
        manifold_figures.projections(tasks, start, window, rate=0.4),
        manifold_figures.objective(tasks, window, path[-1]),
        manifold_figures.ridge(TASKS[0], (-3.5, 0.7, -1.6, 1.2), vector(-2.4, -0.9), vector(-0.8, 0.7)),
        manifold_figures.paths(tasks, {"batched": {"exact": path}}, window, path[-1]),
        manifold_figures.share([1, 5]),
        manifold_figures.flow_ends(
            hyperbola(1.0), points(2).abs(), (0, 3, 0, 3), {"curve": [(0.1, 0.01), (0.2, 0.04)]}
        ),
    ]
    for fig, alt in drawn:
        assert fig.axes and len(alt) > 80
    assert "(" in drawn[1][1] and "0.40" not in drawn[0][1] and "40 per cent" in drawn[0][1]
