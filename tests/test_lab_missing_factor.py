"""The lab "The missing factor": its gradients under Node, then the lab on its page; the judge is PyTorch."""

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import adapt, inner_path
from mlbook.pages.labs import MissingFactor

TRAITS = ("theta", "alpha", "steps", "curvatures", "bottoms", "quartic")
OPENING = {name: getattr(MissingFactor(), name) for name in TRAITS}
PLACES = [
    OPENING,
    {**OPENING, "alpha": 0.4},  # the steep task overshoots
    {**OPENING, "alpha": 0.4, "steps": 2},
    {**OPENING, "alpha": 0.0, "steps": 5, "quartic": 1.3},
    {**OPENING, "theta": -1.7, "alpha": 0.25, "steps": 3, "quartic": 2.0, "curvatures": [0.1, 2.2]},
    {
        "theta": 0.4,
        "alpha": 0.3,
        "steps": 5,
        "curvatures": [5.0, 3.0],
        "bottoms": [-0.5, 1.5],
        "quartic": 0.2,
    },
]


def losses(state):
    def loss(p, a, c):
        u = p["theta"] - c
        return a * u**2 / 2 + state["quartic"] * u**4 / 24

    return [
        lambda p, a=a, c=c: loss(p, a, c) for a, c in zip(state["curvatures"], state["bottoms"], strict=True)
    ]


def judge(state):
    """All numbers that the page says equal PyTorch's."""
    params = {"theta": torch.tensor(state["theta"], dtype=torch.float64)}
    options = {"inner_lr": state["alpha"], "steps": state["steps"]}

    def J(p, first_order=False):
        return sum(f(adapt(f, p, **options, first_order=first_order)) for f in losses(state)) / 2

    assert_close([state["loss"]], [J(params)])
    exact = torch.func.grad(J)(params)["theta"]
    first = torch.func.grad(lambda p: J(p, True))(params)["theta"]
    assert_close([state["maml"], state["fomaml"]], [exact, first], 1e-9)
    assert_close([state["difference"]], [exact], 1e-4)
    for f, task in zip(losses(state), state["each"], strict=True):
        path = [p["theta"] for p in inner_path(f, params, **options)]
        assert_close(task["path"], path)
        bends = [
            torch.func.grad(lambda p, f=f: torch.func.grad(f)(p)["theta"])({"theta": p})["theta"]
            for p in path[:-1]
        ]
        assert_close(task["factors"], [1 - state["alpha"] * h for h in bends])
        end = torch.func.grad(f)({"theta": path[-1]})["theta"]
        assert_close([task["query"], task["fomaml"]], [end, end])
        assert_close([task["product"]], [torch.tensor(task["factors"], dtype=torch.float64).prod()])
    assert (state["verdict"] == "against") == bool(exact * first < 0)


def in_node(tmp_path, states):
    source = """
        console.log(JSON.stringify(data.map((now) => {
            const tasks = now.curvatures.map((a, i) => ({ a, c: now.bottoms[i], q: now.quartic }));
            const found = lab.gradients(tasks, now.theta, now.alpha, now.steps);
            return { ...now, ...found, verdict: lab.verdict(found) };
        })));
    """
    return run_node(tmp_path, MissingFactor, source, states)


def test_gradients_equal_pytorch(tmp_path):
    for state in in_node(tmp_path, PLACES):
        judge(state)


def test_the_sign_turns_where_the_inner_step_overshoots(tmp_path):
    small, large = in_node(tmp_path, [OPENING, {**OPENING, "alpha": 0.4}])
    assert small["verdict"] == "along" and large["verdict"] == "against"
    assert large["each"][0]["product"] == pytest.approx(1 - 0.4 * 4) and large["each"][0]["product"] < 0
    (none,) = in_node(tmp_path, [{**OPENING, "alpha": 0.0}])
    assert none["verdict"] == "same"


def test_what_the_widget_hands_over():
    widget = MissingFactor(-1, 0.3, 2, curvatures=(1, 2), bottoms=(-1, 1), quartic=0.5)
    assert (widget.theta, widget.steps, widget.curvatures, widget.bottoms) == (-1, 2, [1, 2], [-1, 1])
    for wrong in (
        {"alpha": 1.1},
        {"steps": 0},
        {"theta": 4},
        {"curvatures": (1,)},
        {"bottoms": (0, 9)},
        {"quartic": 3},
    ):
        with pytest.raises(UserError):
            MissingFactor(**wrong)


# -- on the page -------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_alive_on_load_and_under_the_mouse(open_lab):
    lab = open_lab("missing-factor")
    state = lab.state()
    judge(state)
    assert {name: state[name] for name in TRAITS} == OPENING
    lab.slide("inner rate α", 0.4)
    against = lab.state()
    judge(against)
    assert against["verdict"] == "against" and "opposite way" in lab.root.text_content()
    assert "negative for task 1" in lab.root.text_content()
    lab.press("One outer step with FOMAML")
    up = lab.state()
    judge(up)
    assert up["theta"] > against["theta"] and up["loss"] > against["loss"]
    for _ in range(6):
        lab.press("One outer step with FOMAML")
    assert lab.state()["lost"] and "out of the picture" in lab.root.text_content()
    for _ in range(12):
        lab.press("One outer step with MAML")
    down = lab.state()
    assert down["loss"] < 0.2 and not down["lost"]
    lab.drag("The initialisation θ", -80, 0)
    judge(lab.state())
    lab.drag("Bottom of task 2", 40, 0)
    moved = lab.state()
    judge(moved)
    assert moved["bottoms"][1] > 1.2 and moved["trail"] == []
    lab.slide("inner steps N", 3)
    lab.slide("quartic q", 1)
    lab.slide("curvature a₂", 2)
    judge(lab.state())
    lab.press("Reset")
    state = lab.state()
    assert {name: state[name] for name in TRAITS} == OPENING


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("missing-factor", reduced_motion=True)
    page = lab.page
    lab.point("The initialisation θ").focus()
    for key in ("ArrowLeft", "Shift+ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    state = lab.state()
    assert state["theta"] == pytest.approx(OPENING["theta"] - 0.6)
    judge(state)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert lab.state()["theta"] < state["theta"]
    page.wait_for_function(
        f"document.querySelector('{lab.selector} [role=status]').textContent.includes('finite difference')"
    )
    assert "Losses of two tasks" in lab.root.locator("svg[role=group]").get_attribute("aria-label")


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("missing-factor", width=390, height=844)
    before = lab.state()["theta"]
    lab.touch("The initialisation θ", -50, 10)
    state = lab.state()
    assert state["theta"] < before - 0.3
    judge(state)
