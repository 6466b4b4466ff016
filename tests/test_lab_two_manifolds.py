"""The lab "Two manifolds": its JavaScript under Node and its page in a browser; PyTorch is the judge of both."""

import itertools
import math

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import inner_path
from mlbook.pages.labs import TwoManifolds
from mlbook.pages.labs.two_manifolds import CURVES, KINDS

STATE = [
    "phi", "curves", "tasks", "target", "inner_steps", "inner_lr", "outer_lr", "steepness", "random", "seed", "iteration",
]  # fmt: skip
OTHER_CURVES = [
    [[1.0, 2.0], [1.0, -2.5]],
    [[-0.4, 1.2], [-1.1, -1.4]],
    [[2.2, -1.0], [3.4, -2.6]],
]
PLACES = [[-3.2, 0.8], [0.0, 0.0], [2.5, 2.9], [-1.0, -2.7], [0.7, 0.6], [3.9, -0.1]]


def tensor(value):
    return torch.as_tensor(value, dtype=torch.float64)


def residual(kind, handles, p):
    """r(p) with steepness 1, in Cartesian coordinates: zero on the curve."""
    a, b = tensor(handles)
    if kind == "circle":
        radius = (b - a).norm()
        return (((p - a) ** 2).sum(-1) - radius**2) / (2 * radius)
    u = (b - a) / (b - a).norm()
    normal = torch.stack([-u[1], u[0]])
    if kind == "line":
        return (p - a) @ normal
    return (p - a) @ u - ((p - a) @ normal) ** 2 / (4 * (b - a).norm())


def points_of(kind, handles, t):
    """The curve as a path."""
    a, b = tensor(handles)
    length = (b - a).norm()
    u = (b - a) / length
    normal = torch.stack([-u[1], u[0]])
    if kind == "circle":
        return a + length * torch.stack([torch.cos(t), torch.sin(t)], -1)
    if kind == "line":
        return a + t[:, None] * u
    return a + (t**2 / (4 * length))[:, None] * u + t[:, None] * normal


def distance(kind, handles, p):
    """The smallest distance to a dense sampling of the curve, finer and finer around the best place."""
    centre, width = 0.0, math.pi if kind == "circle" else 12.0
    for _ in range(6):
        t = centre + width * torch.linspace(-1, 1, 801, dtype=torch.float64)
        far = (points_of(kind, handles, t) - p).norm(dim=-1)
        centre, width = float(t[far.argmin()]), width / 100
    return float(far.min())


def descend(kind, handles, steepness, p, alpha, k):
    """The package's inner loop on ½ (steepness · r)²."""

    def loss(params):
        return 0.5 * (steepness * residual(kind, handles, params["p"])) ** 2

    return [params["p"] for params in inner_path(loss, {"p": tensor(p)}, inner_lr=alpha, steps=k)]


def mulberry32(seed):
    """The lab's random numbers, by the definition of the generator."""
    mask = 0xFFFFFFFF
    while True:
        seed = (seed + 0x6D2B79F5) & mask
        z = ((seed ^ (seed >> 15)) * (seed | 1)) & mask
        z ^= (z + ((z ^ (z >> 7)) * (z | 61) & mask)) & mask
        yield ((z ^ (z >> 14)) & mask) / 2**32


def drawn_tasks(state, length):
    numbers = mulberry32(state["seed"])
    if state["random"]:
        return [int(state["tasks"] * u) for u in itertools.islice(numbers, length)]
    return [i % state["tasks"] for i in range(length)]


def judge(state, length=12):
    """The paths, distances and objectives that the lab shows, against PyTorch; `length`: iterations of the paths by
    gradient steps that are computed again."""
    curves = list(zip(KINDS, state["curves"], strict=True))[: state["tasks"]]
    steepness = [state["steepness"], 1.0, 1.0]
    drawn, epsilon = drawn_tasks(state, 401), state["outer_lr"]
    assert state["drawn"] == drawn

    phi = tensor(state["phi"])
    for i in range(length):
        assert_close(state["paths"]["steps"][i], phi, 1e-9)
        kind, handles = curves[drawn[i]]
        end = descend(kind, handles, steepness[drawn[i]], phi, state["inner_lr"], state["inner_steps"])[-1]
        phi = (1 - epsilon) * phi + epsilon * end

    # Projections: φ moves towards a point of the curve that is as close as any.
    path = tensor(state["paths"]["projection"])
    assert path.shape == (401, 2)
    for i in range(0, 400, 41):
        kind, handles = curves[drawn[i]]
        end = path[i] + (path[i + 1] - path[i]) / epsilon
        assert abs(float(residual(kind, handles, end))) < 1e-7
        assert float((end - path[i]).norm()) == pytest.approx(distance(kind, handles, path[i]), abs=1e-6)

    n, kind = state["iteration"], state["target"]
    here = tensor(state["paths"][kind][n])
    far = [distance(*curve, here) for curve in curves]
    assert_close(state["distances"], far, 1e-6)
    assert len(state["objective"][kind]) == 401
    assert state["objective"][kind][n] == pytest.approx(sum(d**2 for d in far) / 2 / len(far), abs=1e-6)
    task = drawn[n]
    if kind == "steps":
        wanted = descend(*curves[task], steepness[task], here, state["inner_lr"], state["inner_steps"])
        assert_close(state["inner_path"], torch.stack(wanted), 1e-9)
    else:
        assert_close(state["inner_path"][0], here, 1e-12)

    if state["settled"]:
        rest = tensor(state["settled"])
        ends = [
            descend(*c, s, rest, state["inner_lr"], state["inner_steps"])[-1]
            for c, s in zip(curves, steepness, strict=False)
        ]
        assert float((torch.stack(ends).mean(0) - rest).norm()) < 1e-8

    # No point near a marked one is better, and no point of a grid.
    for x, y in state["minimisers"]:
        best = objective(curves, tensor([x, y]))
        assert best == pytest.approx(state["minimum"], abs=2e-6)
        for dx, dy in itertools.product([-0.05, 0.0, 0.05], repeat=2):
            assert objective(curves, tensor([x + dx, y + dy])) >= best - 1e-9
    for x, y in itertools.product(range(-4, 5, 2), range(-3, 4, 2)):
        assert objective(curves, tensor([x, y])) >= state["minimum"] - 1e-9


def objective(curves, p):
    return sum(distance(*curve, p) ** 2 for curve in curves) / (2 * len(curves))


# -- the arithmetic --------------------------------------------------------------------------------------------------


def state_of(widget, **changes):
    return {**{name: getattr(widget, name) for name in STATE}, **changes}


@pytest.mark.parametrize("curves", [CURVES, OTHER_CURVES], ids=["opening", "other"])
def test_closest_points_and_gradient_steps(tmp_path, curves):
    source = """
        console.log(JSON.stringify(data.curves.map((handles, i) => data.places.map((p) => {
            const curve = { kind: data.kinds[i], handles, steepness: data.steepness };
            return { closest: lab.project(curve, p), path: lab.descend(curve, p, 0.05, 12) };
        }))));
    """
    data = {"curves": curves, "kinds": KINDS, "places": PLACES, "steepness": 0.7}
    found = run_node(tmp_path, TwoManifolds, source, data)
    for kind, handles, ours in zip(KINDS, curves, found, strict=True):
        for place, result in zip(PLACES, ours, strict=True):
            closest = tensor(result["closest"])
            assert abs(float(residual(kind, handles, closest))) < 1e-10
            assert float((closest - tensor(place)).norm()) == pytest.approx(
                distance(kind, handles, tensor(place)), abs=1e-7
            )
            wanted = descend(kind, handles, 0.7, place, 0.05, 12)
            assert_close(result["path"], torch.stack(wanted), 1e-10)


def test_closest_points_where_there_is_a_choice(tmp_path):
    """On the axis of the parabola, at its focal point, at the centre of the circle, and on the curve itself."""
    source = """
        const parabola = { kind: "parabola", handles: [[0, 0], [0, 1]] }, circle = { kind: "circle", handles: [[0, 0], [0, 2]] };
        console.log(JSON.stringify([[0, 5], [0, 2], [0, 1], [0, 0], [0, -3], [2, 1]].map((p) => lab.project(parabola, p))
            .concat([[0, 0], [0, 2]].map((p) => lab.project(circle, p)))));
    """
    found = run_node(tmp_path, TwoManifolds, source)
    (x, y), *others = found
    assert (abs(x), y) == pytest.approx((math.sqrt(12), 3.0))  # the two closest points to (0, 5) on y = x²/4
    for found, wanted in zip(others, [[0, 0]] * 4 + [[2, 1]], strict=False):
        assert found == pytest.approx(wanted, abs=1e-6)
    assert math.hypot(*others[5]) == pytest.approx(2) and others[6] == pytest.approx([0, 2], abs=1e-12)


RUN = """
    console.log(JSON.stringify(data.states.map((state) => {
        const { curves, drawn, ...paths } = lab.run(data.setup, state), here = paths[state.target][state.iteration];
        const best = lab.minimisers(curves, data.setup.x_range, data.setup.y_range), task = curves[drawn[state.iteration]];
        const { inner_lr, inner_steps } = state, values = (path) => path.map((p) => lab.objective(curves, p));
        return {
            drawn, paths, minimisers: best, minimum: lab.objective(curves, best[0]), distances: lab.distances(curves, here),
            inner_path: state.target === "steps"
                ? lab.descend(task, here, inner_lr, inner_steps) : [here, lab.project(task, here)],
            objective: { projection: values(paths.projection), steps: values(paths.steps) },
            settled: lab.settled(curves, state.phi, inner_lr, inner_steps),
        };
    })));
"""


def test_paths_and_minimisers_equal_pytorch(tmp_path):
    widget = TwoManifolds()
    states = [
        state_of(widget),
        state_of(widget, target="steps", iteration=77, inner_steps=9, steepness=1.3),
        state_of(widget, tasks=3, target="steps", random=True, seed=5, phi=[2.0, 2.5], inner_lr=0.1),
        state_of(
            widget, tasks=3, curves=OTHER_CURVES, random=True, seed=2**31 - 1, inner_lr=0.02, outer_lr=0.5
        ),
    ]
    results = run_node(tmp_path, TwoManifolds, RUN, {"setup": widget.setup, "states": states})
    for state, result in zip(states, results, strict=True):
        judge({**state, **result}, length=40)


def test_closest_points_end_near_the_minimiser_and_a_few_steps_do_not(tmp_path):
    """What the lab is there to show, in its opening world and from anywhere: closest points end near the minimiser, as near
    as ε lets them; k steps end near another point."""
    widget = TwoManifolds()
    rates = (0.2, 0.05)
    states = [state_of(widget, phi=phi, outer_lr=rate) for phi in PLACES for rate in rates]
    setup = {**widget.setup, "last": 4000}
    for state, result in zip(
        states, run_node(tmp_path, TwoManifolds, RUN, {"setup": setup, "states": states}), strict=True
    ):
        (best,), rest, epsilon = result["minimisers"], result["settled"], state["outer_lr"]
        assert math.dist(result["paths"]["projection"][-1], best) < epsilon / 2
        assert math.dist(result["paths"]["steps"][-1], rest) < epsilon / 2
        assert math.dist(rest, best) > 0.4


def test_sets_that_cross_have_several_minimisers(tmp_path):
    widget = TwoManifolds()
    crossing = [[[-3.0, 1.0], [3.0, 1.0]], [[0.0, -1.0], [0.0, 0.0]], CURVES[2]]
    states = [state_of(widget, curves=crossing)]
    (result,) = run_node(tmp_path, TwoManifolds, RUN, {"setup": widget.setup, "states": states})
    wanted = [-math.sqrt(8), 1.0], [math.sqrt(8), 1.0]  # y = x²/4 − 1 meets y = 1
    for found, point in zip(sorted(result["minimisers"]), wanted, strict=True):
        assert found == pytest.approx(point, abs=1e-6)
    assert result["minimum"] < 1e-12


def test_divergence_ends_a_path_and_not_the_lab(tmp_path):
    widget = TwoManifolds(target="steps", inner_steps=30, inner_lr=0.5, steepness=2.0, phi=(-3.9, 2.9))
    source = """
        const { curves, steps } = lab.run(data.setup, data.state);
        const last = steps.at(-1), rest = lab.settled(curves, data.state.phi, 0.5, 30);
        console.log(JSON.stringify([last, rest, lab.objective(curves, last)]));
    """
    found = run_node(tmp_path, TwoManifolds, source, {"setup": widget.setup, "state": state_of(widget)})
    assert found == [[None, None], None, None]


# -- what Python hands over ------------------------------------------------------------------------------------------


def test_it_opens_without_arguments_and_alive():
    widget = TwoManifolds()
    assert (widget.target, widget.tasks) == ("projection", 2) and 0 < widget.iteration < 400
    widget.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curves": CURVES[:2]}, "three pairs"),
        ({"curves": [*CURVES[:2], [[0.0, 0.0]]]}, "three pairs"),
        ({"curves": [*CURVES[:2], [[0.0, 0.0], [0.0, 0.1]]]}, "circle must lie at least 0.2 apart"),
        ({"curves": [*CURVES[:2], [[0.0, 0.0], [0.0, 3.1]]]}, "from -3 to 3"),
        ({"phi": (math.nan, 0.0)}, "from -4 to 4"),
        ({"tasks": 4}, "2 or 3"),
        ({"target": "proj"}, "one of projection, steps"),
        ({"inner_steps": 0}, "from 1 to 30"),
        ({"inner_lr": 0.6}, "inner_lr must lie between 0.01 and 0.5"),
        ({"outer_lr": 0.0}, "outer_lr must lie between 0.02 and 1"),
        ({"steepness": math.nan}, "steepness"),
        ({"iteration": 401}, "from 0 to 400"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        TwoManifolds(**options)


# -- the page --------------------------------------------------------------------------------------------------------

START, RIM = "φ at the start", "W₁, line: another point on it"


@pytest.mark.site
def test_mouse_buttons_and_choices(open_lab):
    lab = open_lab("two-manifolds")
    page = lab.page
    opening = lab.state()
    assert opening["iteration"] > 0, "the lab opens with a path"
    judge(opening)

    lab.drag(START, 60, -30)
    dragged = lab.state()
    assert dragged["phi"][0] > opening["phi"][0] + 0.4 and dragged["phi"][1] > opening["phi"][1] + 0.2
    assert dragged["minimisers"] == opening["minimisers"]
    lab.drag(RIM, -10, -40)
    bent = lab.state()
    assert bent["curves"][0][1][1] > opening["curves"][0][1][1] + 0.3
    assert bent["minimisers"] != opening["minimisers"]
    judge(bent)

    lab.control("radio", "k gradient steps on L").check()
    lab.press("One iteration")
    stepped = lab.state()
    assert stepped["target"] == "steps" and stepped["iteration"] == opening["iteration"] + 1
    judge(stepped)
    lab.press("Clear the path and start from where φ is")
    cleared = lab.state()
    assert cleared["iteration"] == 0
    assert cleared["phi"] == pytest.approx(stepped["paths"]["steps"][stepped["iteration"]], abs=1e-6)
    assert lab.control("button", "Back to iteration 0").is_disabled()
    lab.press("Run to 400")
    lab.wait_for("state.iteration > 3")
    lab.press("Pause")
    paused = lab.state()["iteration"]
    page.wait_for_timeout(300)
    assert lab.state()["iteration"] == paused < 400
    lab.press("Back to iteration 0")
    assert lab.state()["iteration"] == 0


@pytest.mark.site
def test_sliders_and_tasks(open_lab):
    lab = open_lab("two-manifolds")
    settings = {
        "iteration": 350, "inner steps k": 8, "inner rate α": 0.04, "outer step ε": 0.3, "steepness L₁": 1.5,
    }  # fmt: skip
    for name, value in settings.items():
        lab.slide(name, value)
    lab.control("radio", "k gradient steps on L").check()
    state = lab.state()
    names = ("iteration", "inner_steps", "inner_lr", "outer_lr", "steepness")
    assert [state[name] for name in names] == list(settings.values())
    judge(state)
    assert lab.control("button", "Draw anew").is_disabled()
    lab.control("radio", "at random").check()
    lab.control("checkbox", "a third task, W₃").check()
    random = lab.state()
    assert random["tasks"] == 3 and len(random["distances"]) == 3 and set(random["drawn"]) == {0, 1, 2}
    judge(random)
    lab.press("Draw anew")
    again = lab.state()
    assert again["drawn"] != random["drawn"]
    judge(again)
    lab.drag("W₃, circle: centre", 40, 20)
    moved = lab.state()
    assert moved["curves"][2][0] != again["curves"][2][0] and moved["curves"][2][1] == again["curves"][2][1]
    judge(moved)


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("two-manifolds", reduced_motion=True)
    page = lab.page
    before = lab.state()
    lab.point(START).focus()
    lab.assert_marked(lab.point(START))
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowUp")
    state = lab.state()
    assert state["phi"] == pytest.approx([before["phi"][0] + 0.2, before["phi"][1] - 0.5], abs=0.011)
    (x, y), other = before["curves"][0]
    assert state["curves"][0] == [pytest.approx([x, y + 0.1], abs=0.011), other]
    judge(state)
    for _ in range(4):  # the hidden circle's points are no stops
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "One iteration"
    page.keyboard.press("Enter")
    assert lab.state()["iteration"] == before["iteration"] + 1
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert lab.state()["iteration"] == 400, "with reduced motion nothing is animated"
    page.wait_for_function(
        "document.querySelector('[data-lab=\"two-manifolds\"] [role=status]').textContent.includes('After 400 iterations')"
    )
    assert "after 400 iterations" in lab.root.locator("svg[role=group]").get_attribute("aria-label")


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("two-manifolds", width=390, height=844)
    before = lab.state()
    lab.touch("W₂, parabola: vertex", 30, 25)
    state = lab.state()
    (x, y), focus = before["curves"][1]
    assert state["curves"][1][0][0] > x + 0.3 and state["curves"][1][0][1] < y - 0.3
    assert state["curves"][1][1] == focus
    judge(state)
    lab.control("button", "One iteration").tap()
    assert lab.state()["iteration"] == before["iteration"] + 1
