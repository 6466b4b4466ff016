"""The lab "Four means": its closed forms under Node, then the lab on its page; the judge is PyTorch's real inner loop."""

import math

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import adapt
from mlbook.pages.labs import FourMeans

METHODS = ("pretraining", "fomaml", "maml", "reptile")
OPENING = {"curvatures": [3.0, 1.2, 0.4], "bottoms": [-2.5, -0.5, 2.5], "alpha": 0.2, "steps": 3}
PLACES = [
    OPENING,
    {**OPENING, "steps": 1},
    {**OPENING, "steps": 30, "alpha": 0.05},
    {**OPENING, "alpha": 0.5, "steps": 5},  # task 1 overshoots: 1 − αa = −0.5
    {**OPENING, "alpha": 0.72, "steps": 4},  # and leaves the stable range
    {"curvatures": [0.1, 4.0, 2.3], "bottoms": [3.9, 0.0, -1.7], "alpha": 0.11, "steps": 8},
]


def updates(state, theta):
    """Each task's outer update under each method, [method][task], positive uphill, at θ: through the real inner loop."""
    params, options = (
        {"theta": torch.tensor(theta, dtype=torch.float64)},
        {"inner_lr": state["alpha"], "steps": state["steps"]},
    )
    found = {name: [] for name in METHODS}
    for a, c in zip(state["curvatures"], state["bottoms"], strict=True):

        def loss(p, a=a, c=c):
            return 0.5 * a * (p["theta"] - c) ** 2

        def after(p, first_order, loss=loss):
            return loss(adapt(loss, p, **options, first_order=first_order))

        end = adapt(loss, params, **options)["theta"]
        found["pretraining"].append(torch.func.grad(loss)(params)["theta"])
        found["fomaml"].append(torch.func.grad(after)(params, True)["theta"])
        found["maml"].append(torch.func.grad(after)(params, False)["theta"])
        found["reptile"].append(params["theta"] - end)
    return {name: torch.stack(values) for name, values in found.items()}


def judged(state):
    """Weights and fixed point of each method: slope and root of the update, which is a straight line in θ."""
    at0, at1 = updates(state, 0.0), updates(state, 1.0)
    answer = {}
    for name in METHODS:
        weights = at1[name] - at0[name]
        answer[name] = {"weights": weights, "point": float(-at0[name].sum() / weights.sum())}
    return answer


def judge(state):
    """All numbers that the page says equal PyTorch's, also over k."""
    for name, wanted in judged(state).items():
        found = state["means"][name]
        assert_close(found["weights"], wanted["weights"], 1e-7)
        assert_close(found["shares"], wanted["weights"] / wanted["weights"].sum().abs(), 1e-7)
        assert_close(
            [found["point"], state["over_steps"][name][state["steps"] - 1]], [wanted["point"]] * 2, 1e-7
        )
        assert (found["status"] == "runs away") == bool(wanted["weights"].sum() < 0)


def in_node(tmp_path, states, expression):
    """The value of a JavaScript expression in each state."""
    source = f"""console.log(JSON.stringify(data.map((state) => {{
        const {{ curvatures, bottoms, alpha, steps }} = state;
        return {expression};
    }})));"""
    return run_node(tmp_path, FourMeans, source, states)


ALL = "lab.fourMeans(curvatures, bottoms, alpha, steps)"


# -- the arithmetic --------------------------------------------------------------------------------------------------


def test_weights_and_fixed_points_equal_pytorch(tmp_path):
    for state, found in zip(PLACES, in_node(tmp_path, PLACES, ALL), strict=True):
        assert list(found) == list(METHODS)
        for name, wanted in judged(state).items():
            assert_close(found[name]["weights"], wanted["weights"])
            assert_close([found[name]["point"]], [wanted["point"]])


def test_the_outer_loop_comes_to_the_fixed_point(tmp_path):
    """Not only a root: outer steps from elsewhere end there."""
    [found] = in_node(tmp_path, [OPENING], ALL)
    thetas = dict.fromkeys(METHODS, 3.0)
    for _ in range(90):
        for name in METHODS:
            thetas[name] -= 0.35 * float(updates(OPENING, thetas[name])[name].sum())
    assert_close(list(thetas.values()), [found[name]["point"] for name in METHODS], 1e-5)


def test_the_limits_in_k(tmp_path):
    """k = 1: Reptile is pre-training. Many steps: Reptile is the plain mean, MAML is at the slowest task's bottom."""
    changes = [{"steps": 1}, {"steps": 2000}, {"curvatures": [1, 1, 1]}]
    one, many, equal = in_node(tmp_path, [{**OPENING, **change} for change in changes], ALL)
    assert_close(one["reptile"]["shares"], one["pretraining"]["shares"])
    assert_close(many["reptile"]["shares"], [1 / 3] * 3)
    assert_close([many["maml"]["point"]], [2.5])
    for name in METHODS:
        assert_close([equal[name]["point"]], [-0.5 / 3])


def test_what_is_no_minimum_is_called_so(tmp_path):
    """MAML's weights never become negative; FOMAML's do for an odd k and Reptile's for an even one."""
    wanted = [
        ({}, ["mean", "mean", "mean", "mean"]),
        ({"alpha": 0.5, "steps": 5}, ["mean", "beyond", "mean", "mean"]),
        ({"alpha": 0.72, "steps": 3}, ["mean", "runs away", "mean", "mean"]),
        ({"alpha": 0.9, "steps": 3}, ["mean", "runs away", "mean", "mean"]),
        ({"alpha": 0.9, "steps": 4}, ["mean", "mean", "mean", "runs away"]),
        ({"curvatures": [2, 2, 2], "alpha": 0.5}, ["mean", "flat", "flat", "mean"]),
        ({"curvatures": [2, 2, 2], "alpha": 1.0, "steps": 2}, ["mean", "mean", "mean", "flat"]),
    ]
    found = in_node(tmp_path, [{**OPENING, **change} for change, _ in wanted], ALL)
    for (change, status), means in zip(wanted, found, strict=True):
        assert [means[name]["status"] for name in METHODS] == status, change
        assert min(means["maml"]["weights"]) >= 0


def test_remarks(tmp_path):
    changes = [
        {},
        {"steps": 1},
        {"alpha": 0.72},
        {"alpha": 1.0, "curvatures": [3.0, 2.4, 0.4]},
        {"alpha": 0.5, "steps": 5},
        {"curvatures": [1, 1, 1]},
    ]
    states = [{**OPENING, **change} for change in changes]
    opening, one, away, two, beyond, equal = map(
        " ".join, in_node(tmp_path, states, f"lab.remarks(state, {ALL})")
    )
    assert "plain mean of the bottoms, −0.17" in opening and "bottom of task 3" in opening
    assert "the same resting point" in one
    assert "Task 1 (α·a = 2.16) leaves the stable range" in away and "FOMAML: the weights do not sum" in away
    assert "plain mean" not in away
    assert "Tasks 1 (α·a = 3.00) and 2 (α·a = 2.40) leave" in two
    assert "the weight of task 1 is negative" in beyond
    assert "slowest" not in equal


# -- what Python hands over ------------------------------------------------------------------------------------------


def test_it_opens_without_arguments():
    widget = FourMeans()
    assert {name: getattr(widget, name) for name in OPENING} == OPENING
    widget.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"steps": 31}, "from 1 to 30"),
        ({"bottoms": (0, 1)}, "bottoms are 3"),
        ({"bottoms": (0, 1, 5)}, "bottoms are 3"),
        ({"curvatures": (0, 1, 1)}, "curvatures are 3 numbers from 0.1 to 4"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        FourMeans(**options)


# -- on the page -----------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_mouse_sliders_and_buttons(open_lab):
    lab = open_lab("four-means")
    opening = lab.state()
    judge(opening)
    lab.show("Bottom of task 2")
    x, y = lab.centre("Bottom of task 2")
    lab.drag("Bottom of task 2", 60, -50)
    state = lab.state()
    assert state["bottoms"][1] > opening["bottoms"][1] + 0.3
    assert lab.centre("Bottom of task 2") == pytest.approx((x + 60, y), abs=1.0), "it stays on the axis"
    assert [state["bottoms"][i] for i in (0, 2)] == [opening["bottoms"][i] for i in (0, 2)]
    judge(state)

    lab.slide("inner rate α", 0.45)
    lab.slide("inner steps k", 12)
    lab.slide("curvature a₃", 2.0)
    state = lab.state()
    assert (state["alpha"], state["steps"], state["curvatures"][2]) == (0.45, 12, 2.0)
    judge(state)
    for name in METHODS:
        for k in (1, 2, 6):  # far along, θᵏ − c is rounding in the judge itself
            wanted = judged({**state, "steps": k})[name]["point"]
            assert_close([state["over_steps"][name][k - 1]], [wanted], 1e-7)

    lab.press("Equal curvatures")
    state = lab.state()
    points = [state["means"][name]["point"] for name in METHODS]
    assert max(points) - min(points) < 1e-9
    lab.press("Reset")
    assert lab.state() == opening


@pytest.mark.site
def test_the_picture_says_what_the_numbers_say(open_lab):
    """Markers stand at the fixed points, in a lane each; bars are as long as the weights."""
    lab = open_lab("four-means")
    state = lab.state()
    left, right = lab.centre("Bottom of task 1")[0], lab.centre("Bottom of task 3")[0]
    (c1, _, c3) = state["bottoms"]
    markers = lab.root.locator("svg[role=group] .mlb-marker")
    boxes = [markers.nth(i).bounding_box() for i in range(markers.count())]
    assert len(boxes) == 4
    for name, box in zip(METHODS, boxes, strict=True):
        theta = c1 + (box["x"] + box["width"] / 2 - left) * (c3 - c1) / (right - left)
        assert theta == pytest.approx(state["means"][name]["point"], abs=0.03)
    assert len({round(box["y"] / 10) for box in boxes}) == 4
    widths = lab.root.locator(".mlb-weight").evaluate_all("es => es.map(e => parseFloat(e.style.width))")
    shares = [share for name in METHODS for share in state["means"][name]["shares"]]
    assert widths == pytest.approx([100 * share for share in shares], abs=0.01)


@pytest.mark.site
def test_leaving_the_stable_range_is_said(open_lab):
    lab = open_lab("four-means")
    notes = lab.root.locator(".mlb-remarks")
    assert "stable range" not in notes.text_content()
    lab.slide("inner rate α", 0.72)
    state = lab.state()
    judge(state)
    assert state["means"]["fomaml"]["status"] == "runs away"
    assert "Task 1" in notes.text_content() and "runs away" in notes.text_content()
    lab.slide("inner rate α", 1)
    lab.slide("curvature a₁", 4)
    lab.slide("inner steps k", 30)  # (1 − 4)^60
    judge(lab.state())
    lab.slide("inner rate α", 0.3)
    lab.slide("inner steps k", 1)
    assert "the same resting point" in notes.text_content()


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("four-means", reduced_motion=True)
    page, before = lab.page, lab.state()["bottoms"]
    lab.point("Bottom of task 1").focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowRight"):
        page.keyboard.press(key)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    state = lab.state()
    assert state["bottoms"] == pytest.approx([before[0] + 0.6, before[1] - 0.1, before[2]], abs=0.011)
    judge(state)
    focused = lab.point("Bottom of task 2")
    assert focused.evaluate("e => e === document.activeElement")
    assert focused.get_attribute("aria-valuenow") == f"{state['bottoms'][1]:.2f}"
    lab.assert_marked(focused)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "inner rate α"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    assert lab.state()["alpha"] == pytest.approx(0.21)
    page.wait_for_function(
        f"document.querySelector('{lab.selector} [role=status]').textContent.includes('the resting points are')"
    )
    assert "Parabolas with bottoms" in lab.root.locator("svg[role=group]").get_attribute("aria-label")


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("four-means", width=390, height=844)
    before = lab.state()["bottoms"]
    lab.touch("Bottom of task 3", -60, 20)
    state = lab.state()
    assert state["bottoms"][2] < before[2] - 0.5
    judge(state)
    lab.control("button", "Reset").tap()
    assert lab.state()["bottoms"] == before
