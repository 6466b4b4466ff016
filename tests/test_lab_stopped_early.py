"""The lab "Stopped early": its gradients under Node, then the lab on its page; the judge is PyTorch."""

from functools import partial

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.implicit import conjugate_gradient
from mlbook.meta_learners.inner_loop import inner_path
from mlbook.pages.labs.stopped_early import ANGLE, BOTTOM, RATE, STEEP, StoppedEarly

TRAITS = ("theta", "query", "strength", "steps", "solver", "window", "flat")
OPENING = {name: getattr(StoppedEarly(), name) for name in TRAITS}
PLACES = [
    OPENING,
    {**OPENING, "steps": 40, "window": 40, "solver": 1},
    {**OPENING, "steps": 7, "window": 7, "solver": 0},
    {**OPENING, "steps": 12, "window": 3, "strength": 2.0, "flat": 2.5, "theta": [1.5, -2.0]},
    {**OPENING, "steps": 5, "flat": -1.0, "solver": 3},  # no minimum
]
F64 = torch.float64


def judge(state):
    """All numbers that the page says equal PyTorch's."""
    c, s = (f(torch.tensor(ANGLE, dtype=F64)) for f in (torch.cos, torch.sin))
    turn = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
    H = turn @ torch.diag(torch.tensor([STEEP, state["flat"]], dtype=F64)) @ turn.T
    bottom, theta, query = (torch.tensor(v, dtype=F64) for v in (BOTTOM, state["theta"], state["query"]))
    strength, steps = state["strength"], state["steps"]

    def run(theta, window=None):
        def loss(p):
            u, away = p["phi"] - bottom, p["phi"] - theta
            return u @ H @ u / 2 + strength / 2 * away @ away

        path = [p["phi"] for p in inner_path(loss, {"phi": theta}, inner_lr=RATE, steps=steps)]
        if window is not None and window < steps:
            start = {"phi": path[steps - window].detach()}
            *_, last = inner_path(loss, start, inner_lr=RATE, steps=window)
            return last["phi"]
        return torch.stack(path) if window is None else path[-1]

    judged = lambda phi: (phi - query).square().sum() / 2  # noqa: E731
    assert_close(state["path"], run(theta), 1e-9)
    unrolled = torch.func.grad(lambda t: judged(run(t)[-1]))(theta)
    assert_close(state["unrolled"], unrolled, 1e-9)
    assert_close(state["slope"], unrolled, 1e-5)
    assert_close(state["truncated"], torch.func.grad(lambda t: judged(run(t, state["window"])))(theta), 1e-9)
    end = run(theta)[-1]
    matrix = H + strength * torch.eye(2, dtype=F64)
    fixed = torch.linalg.solve(matrix, H @ bottom + strength * theta)
    assert_close(state["minimum"], fixed, 1e-9)
    assert_close(state["limit"], strength * torch.linalg.solve(matrix, fixed - query), 1e-9)
    assert_close([state["loss"]], [judged(end)], 1e-9)
    product = lambda v: {"phi": v["phi"] + H @ v["phi"] / strength}  # noqa: E731
    v = {"phi": end - query}
    solve = partial(conjugate_gradient, product, v, state["solver"], start=v)
    assert_close(state["implicit"], solve(tolerance=1e-28 * float(v["phi"] @ v["phi"]))["phi"], 1e-7)
    if state["solver"] >= 2:
        assert_close(state["implicit"], torch.linalg.solve(matrix / strength, v["phi"]), 1e-7)
    least = torch.linalg.eigvalsh(matrix)[0]
    assert state["valid"] or least < 0


def in_node(tmp_path, states):
    source = """
        console.log(JSON.stringify(data.states.map((now) => {
            const { steep, angle } = data.setup, H = lab.hessianOf([steep, now.flat], angle);
            const problem = { ...now, H, bottom: data.setup.bottom, rate: data.setup.rate };
            const found = lab.everything(problem), off = {};
            for (const key of ["limit", "unrolled", "truncated", "implicit"])
                off[key] = [lab.apart(found[key], found.slope), lab.apart(found[key], found.limit)];
            return { ...now, ...found, off };
        })));
    """
    return run_node(tmp_path, StoppedEarly, source, {"states": states, "setup": StoppedEarly().setup})


def test_gradients_equal_pytorch(tmp_path):
    for state in in_node(tmp_path, PLACES):
        judge(state)


def test_what_the_page_says_of_the_opening(tmp_path):
    """Stopped early, only the unrolled gradient is the slope of what the loop gives; run to the end, the implicit one is right,
    too, and the truncated one needs a long window."""
    early, late, wide = in_node(
        tmp_path, [OPENING, {**OPENING, "steps": 40}, {**OPENING, "steps": 40, "window": 39}]
    )
    assert early["off"]["unrolled"][0] < 1e-6
    assert min(early["off"][way][0] for way in ("truncated", "implicit")) > 0.2
    assert late["off"]["implicit"][1] < 0.05 and late["off"]["unrolled"][1] < 0.05
    assert late["off"]["truncated"][1] > 0.3 and wide["off"]["truncated"][1] < 0.05
    (first_order,) = in_node(tmp_path, [{**OPENING, "solver": 0}])
    assert_close(
        first_order["implicit"],
        [a - b for a, b in zip(first_order["path"][-1], OPENING["query"], strict=True)],
    )
    (saddle,) = in_node(tmp_path, [{**OPENING, "flat": -1.0}])
    assert not saddle["valid"]


def test_what_the_widget_hands_over():
    widget = StoppedEarly((1, -1), (0, 0.5), strength=1, steps=9, solver=0, window=4, flat=-0.5)
    assert (widget.theta, widget.query, widget.steps, widget.solver) == ([1, -1], [0, 0.5], 9, 0)
    for wrong in (
        {"theta": (3, 0)},
        {"query": (0,)},
        {"strength": 0},
        {"steps": 0},
        {"solver": 4},
        {"window": 41},
        {"flat": -2},
    ):
        with pytest.raises(UserError):
            StoppedEarly(**wrong)


# -- on the page -------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_alive_on_load_and_under_the_mouse(open_lab):
    lab = open_lab("stopped-early")
    state = lab.state()
    judge(state)
    assert {name: state[name] for name in TRAITS} == OPENING
    lab.slide("inner steps T", 40)
    late = lab.state()
    judge(late)
    assert late["off"]["implicit"][1] < state["off"]["implicit"][1] / 3
    lab.slide("CG steps k", 0)
    lab.slide("window J", 20)
    judge(lab.state())
    lab.drag("The initialisation θ", 60, 20)
    judge(lab.state())
    lab.drag("The goal q of the query loss", -30, 40)
    moved = lab.state()
    judge(moved)
    assert moved["query"] != OPENING["query"] and moved["theta"] != OPENING["theta"]
    lab.slide("pull λ", 0.5)
    lab.slide("flat curvature", -0.9)
    saddle = lab.state()
    judge(saddle)
    assert not saddle["minimumExists"] and "no minimum" in lab.root.text_content()
    lab.press("Reset")
    state = lab.state()
    assert {name: state[name] for name in TRAITS} == OPENING


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("stopped-early", reduced_motion=True)
    lab.point("The initialisation θ").focus()
    for key in ("ArrowRight", "Shift+ArrowDown"):
        lab.page.keyboard.press(key)
    state = lab.state()
    assert state["theta"] == [
        pytest.approx(x) for x in (OPENING["theta"][0] + 0.1, OPENING["theta"][1] - 0.5)
    ]
    judge(state)
    lab.page.wait_for_function(
        f"document.querySelector('{lab.selector} [role=status]').textContent.includes('from the minimum')"
    )


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("stopped-early", width=390, height=844)
    before = lab.state()["theta"]
    lab.touch("The initialisation θ", 40, 10)
    state = lab.state()
    assert state["theta"][0] > before[0] + 0.2
    judge(state)
