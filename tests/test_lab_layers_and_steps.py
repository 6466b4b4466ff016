"""The lab "Layers and steps": its attention and its gradient steps against PyTorch, under Node, then on its page."""

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.in_context import gradient_descent, ridge
from mlbook.models.attention import MATRICES, answers, gradient_step_layers
from mlbook.pages.labs import LayersAndSteps
from mlbook.pages.labs.layers_and_steps import PENALTY, POINTS

DOUBLE = torch.float64
OPENING = {
    name: getattr(LayersAndSteps(), name)
    for name in ("points", "shots", "kind", "layers", "seed", "steps", "rate")
}
OTHER = [[0.2 * i - 0.8, (-1) ** i * 0.5 + 0.3 * i] for i in range(8)]
PLACES = [
    OPENING,
    {**OPENING, "kind": "built", "layers": 3, "steps": 3, "rate": 0.7},
    {**OPENING, "layers": 3, "seed": 4, "points": OTHER, "shots": 8},
    {**OPENING, "layers": 2, "seed": 0, "points": OTHER, "shots": 1, "steps": 20, "rate": 1.6},
]
ENDS = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=DOUBLE)


def line_of(values):
    """Level and slope of answers at x = 0 and x = 1."""
    return [float(values[0]), float(values[1] - values[0])]


def judge(state, points):
    """All that the page says of these context points, by the package."""
    setup = LayersAndSteps().setup
    xy = torch.tensor(points[: state["shots"]], dtype=DOUBLE)
    x, y = torch.stack([torch.ones(len(xy), dtype=DOUBLE), xy[:, 0]], 1), xy[:, 1:]
    if state["kind"] == "built":
        params = gradient_step_layers(2, state["rate"], state["layers"])
    else:
        chosen = setup["learned"][state["layers"] - 1][state["seed"]]
        params = {m: torch.tensor([layer[m] for layer in chosen], dtype=DOUBLE) for m in MATRICES}
    assert_close(state["attention"], line_of(answers(params, x, y, ENDS)))
    steps = [line_of(gradient_descent(state["rate"], n)(x, y, ENDS)) for n in range(setup["most"] + 1)]
    assert_close(state["path"], steps)
    assert_close(state["ridge"], line_of(ridge(PENALTY)(x, y, ENDS)))
    grid = torch.stack([torch.ones(2001, dtype=DOUBLE), torch.linspace(-1, 1, 2001, dtype=DOUBLE)], 1)
    gap = (
        grid @ torch.tensor(state["attention"], dtype=DOUBLE)
        - grid @ torch.tensor(steps, dtype=DOUBLE).T[:, 2]
    )
    assert state["distances"][2] == pytest.approx(float(gap.square().mean().sqrt()), rel=1e-3, abs=1e-6)
    assert state["distances"][state["nearest"]] == min(state["distances"])


def in_node(tmp_path, states):
    source = (
        "console.log(JSON.stringify(data.states.map((now) => ({ ...now, ...lab.beside(data.setup, now) }))))"
    )
    return run_node(tmp_path, LayersAndSteps, source, {"setup": LayersAndSteps().setup, "states": states})


def test_lines_and_distances_equal_pytorch(tmp_path):
    for place, state in zip(PLACES, in_node(tmp_path, PLACES), strict=True):
        judge(state, place["points"])


def test_layers_that_are_built_are_steps_and_learned_ones_are_more(tmp_path):
    """At the opening points: what the presets show."""
    built = [{**OPENING, "kind": "built", "layers": n} for n in (1, 2, 3)]
    learned = [{**OPENING, "layers": n} for n in (1, 3)]
    stuck = {**OPENING, "seed": 0}
    *by_hand, one, three, other = in_node(tmp_path, [*built, *learned, stuck])
    assert [s["nearest"] for s in by_hand] == [1, 2, 3]
    assert all(s["distances"][n] < 1e-12 for n, s in enumerate(by_hand, 1))
    assert one["nearest"] in (1, 2) and three["nearest"] > 5
    assert three["fromRidge"]["attention"] < one["fromRidge"]["attention"]
    assert other["fromRidge"]["attention"] > one["fromRidge"]["attention"]


def test_what_the_widget_refuses():
    widget = LayersAndSteps("built", layers=2, seed=3, steps=4, rate=0.5, shots=3)
    assert (widget.kind, widget.layers, widget.seed, widget.steps) == ("built", 2, 3, 4)
    for wrong in (
        {"layers": 4},
        {"seed": 9},
        {"steps": 21},
        {"rate": 9.0},
        {"shots": 0},
        {"points": POINTS[:3]},
        {"points": [*POINTS[:7], (5, 0)]},
    ):
        with pytest.raises(UserError):
            LayersAndSteps(**wrong)
    with pytest.raises(UserError):
        LayersAndSteps("other")


# -- on the page -------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_alive_on_load_and_under_the_mouse(open_lab):
    lab = open_lab("layers-and-steps")
    state = lab.state()
    judge(state, state["all"])
    lab.press("Built, three layers")
    state = lab.state()
    judge(state, state["all"])
    assert state["nearest"] == 3 and state["distances"][3] < 1e-9
    lab.drag("Context point 3", 0, -50)
    moved = lab.state()
    judge(moved, moved["all"])
    assert moved["all"][2][1] > state["all"][2][1] + 0.2 and moved["nearest"] == 3
    lab.slide("context points", 8)
    assert lab.point("Context point 8").is_visible()
    lab.slide("gradient steps", 12)
    assert lab.state()["steps"] == 12
    lab.press("Reset")
    assert lab.state()["kind"] == OPENING["kind"]


@pytest.mark.site
def test_keyboard_and_touch(open_lab):
    lab = open_lab("layers-and-steps", width=390, height=844)
    before = lab.state()["all"]
    lab.point("Context point 1").focus()
    lab.page.keyboard.press("ArrowUp")
    assert lab.state()["all"][0][1] == pytest.approx(before[0][1] + 0.1)
    lab.touch("Context point 2", 0, -30)
    state = lab.state()
    assert state["all"][1][1] > before[1][1]
    judge(state, state["all"])
    lab.control("radio", "by hand").click()
    assert lab.state()["nearest"] == 1
    lab.assert_fits(390)
