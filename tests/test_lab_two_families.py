"""The lab "One start or two": its closed forms under Node, then the lab on its page; the judge is PyTorch's real inner loop."""

import math

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import adapt
from mlbook.pages.checks import two_families
from mlbook.pages.labs import TwoFamilies

OPENING = {"centres": [[-2.0, -0.5], [2.0, 0.5]], "spread": 0.5, "shots": 6, "steps": 3, "starts": "one"}
STATES = [
    OPENING,
    {**OPENING, "starts": "known", "steps": 0},
    {**OPENING, "starts": "chosen", "centres": [[-0.4, 0.3], [0.3, -0.2]], "shots": 2, "steps": 8},
    {
        **OPENING,
        "starts": "chosen",
        "centres": [[4.0, 3.0], [-4.0, -3.0]],
        "spread": 0.05,
        "shots": 40,
        "steps": 30,
    },
    {**OPENING, "starts": "chosen", "centres": [[1.0, 1.0], [1.0, 1.0]], "spread": 1.5},
]


def distance(state):
    a, b = state["centres"]
    return math.dist(a, b)


def judged_errors(state, setup, steps):
    values = (distance(state) / 2, state["spread"], setup["sigma"] / state["shots"] ** 0.5)
    r = two_families.kept(setup["alpha"], steps)
    found = {name: two_families.expected_error(name, *values, r) for name in two_families.STARTS}
    return {**found, "wrong": two_families.wrong_share(*values)}


def judged_ends(state, setup, tasks):
    """The lines after the inner steps, by the book's inner loop on real support points whose least-squares line is ``estimate``.

    Points at x = ±1 with residuals that the line cannot follow stand for the noise around the estimate.
    """
    half, ends = state["shots"] // 2, []
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(half)
    odd = torch.linspace(-1, 1, half, dtype=torch.float64).repeat_interleave(2)
    odd = odd - odd.mean()  # two points follow any line
    for task in tasks:
        y = task["estimate"][0] + task["estimate"][1] * x + odd

        def loss(p, y=y):
            return (p["line"][0] + p["line"][1] * x - y).square().mean()

        start = {"line": torch.tensor(task["start"], dtype=torch.float64)}
        ends.append(adapt(loss, start, inner_lr=setup["alpha"], steps=state["steps"])["line"].tolist())
    return ends


def judge(state, setup):
    """All numbers that the page says."""
    wanted = judged_errors(state, setup, state["steps"])
    assert_close([state["errors"][k] for k in wanted], list(wanted.values()), 1e-9)
    assert state["distance"] == pytest.approx(distance(state), abs=1e-12)
    for name in two_families.STARTS:
        by_steps = [judged_errors(state, setup, n)[name] for n in range(setup["steps"] + 1)]
        assert by_steps[state["best"][name]] == pytest.approx(min(by_steps), abs=1e-12)
    judge_tasks(state, setup, state["tasks"])


def judge_tasks(state, setup, tasks):
    sigma = setup["sigma"] / state["shots"] ** 0.5
    mean = [(a + b) / 2 for a, b in zip(*state["centres"], strict=True)]
    for t, task in enumerate(tasks):
        family = int(t >= len(tasks) / 2)
        truth = [
            c + state["spread"] * z for c, z in zip(state["centres"][family], setup["tasks"][t], strict=True)
        ]
        assert_close(task["truth"], truth)
        assert_close(task["estimate"], [c + sigma * e for c, e in zip(truth, setup["noise"][t], strict=True)])
        nearer = min((0, 1), key=lambda i: math.dist(state["centres"][i], task["estimate"]))
        start = {"one": mean, "known": state["centres"][family], "chosen": state["centres"][nearer]}[
            state["starts"]
        ]
        assert_close(task["start"], start)
    assert_close([t["end"] for t in tasks], judged_ends(state, setup, tasks))


def in_node(tmp_path, expression, states=STATES):
    widget = TwoFamilies()
    data = {"states": states, "setup": widget.setup}
    source = f"console.log(JSON.stringify(data.states.map((state) => {{ const setup = data.setup; return {expression}; }})));"
    found = run_node(tmp_path, widget, source, data)
    setup = widget.setup
    widget.close()
    return found, setup


# -- the arithmetic --------------------------------------------------------------------------------------------------


def test_the_normal_tail(tmp_path):
    xs = [0.0, 1e-9, 0.1, 0.7, 1.0, 2.0, 3.0, 3.999, 4.001, 5.0, 8.0, 20.0, 37.0]
    found, _ = in_node(tmp_path, "lab.normalTail(state)", xs)
    for x, value in zip(xs, found, strict=True):
        assert value == pytest.approx(0.5 * math.erfc(x / 2**0.5), rel=1e-9), x


def test_expected_errors_equal_the_package(tmp_path):
    found, setup = in_node(tmp_path, "[0, 1, 7, 30].map((n) => lab.expectedErrors(state, setup, n))")
    for state, by_steps in zip(STATES, found, strict=True):
        for n, errors in zip((0, 1, 7, 30), by_steps, strict=True):
            wanted = judged_errors(state, setup, n)
            for name, value in wanted.items():
                assert errors[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (state, n, name)


def test_tasks_are_adapted_as_by_the_inner_loop(tmp_path):
    found, setup = in_node(tmp_path, "lab.adaptTasks(state, setup)")
    for state, tasks in zip(STATES, found, strict=True):
        judge_tasks(state, setup, tasks)
    assert any(t["wrong"] for t in found[2]) and not any(t["wrong"] for t in found[3])


def test_what_the_chapter_says_of_the_lab(tmp_path):
    """At the opening, several times the error even at the best number of steps; close families: choosing is worse; much data:
    all meet."""
    close = {**OPENING, "centres": [[-0.4, 0.0], [0.4, 0.0]], "shots": 2}
    rich = {**OPENING, "shots": 40, "steps": 30}
    (opening, near, much), setup = in_node(tmp_path, "lab.overSteps(state, setup)", [OPENING, close, rich])

    def at_best(found, name):
        return found["all"][found["best"][name]][name]

    assert at_best(opening, "one") > 1.7 * at_best(opening, "chosen")
    assert at_best(near, "chosen") > 1.02 * at_best(near, "one")
    last = much["all"][-1]
    assert max(last[k] for k in two_families.STARTS) < 1.1 * min(last[k] for k in two_families.STARTS)


def test_moving_apart_keeps_middle_and_direction(tmp_path):
    found, _ = in_node(
        tmp_path, "[0, 2, 6].map((d) => lab.apart(state.centres, d, setup))", [OPENING, STATES[-1]]
    )
    for state, triple in zip((OPENING, STATES[-1]), found, strict=True):
        for d, (a, b) in zip((0, 2, 6), triple, strict=True):
            assert [(p + q) / 2 for p, q in zip(a, b, strict=True)] == pytest.approx(
                [(p + q) / 2 for p, q in zip(*state["centres"], strict=True)], abs=1.0 if d == 6 else 1e-9
            )
            if d < 6 or state is OPENING:
                assert math.dist(a, b) == pytest.approx(d, abs=1e-9)


# -- what Python hands over ------------------------------------------------------------------------------------------


def test_it_opens_without_arguments():
    widget = TwoFamilies()
    assert {name: getattr(widget, name) for name in OPENING} == OPENING
    draws = torch.tensor([widget.setup["tasks"], widget.setup["noise"]]).view(2, 2, -1, 2)
    assert draws.mean(2).abs().max() < 1e-6 and torch.allclose(draws.square().mean((2, 3)), torch.ones(2, 2))
    widget.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centres": ((0, 0),)}, "two points"),
        ({"centres": ((0, 0), (0, 3.5))}, "y from -3 to 3"),
        ({"spread": 0.0}, "spread"),
        ({"shots": 5}, "even number"),
        ({"steps": 31}, "from 0 to 30"),
        ({"starts": "two"}, "starts must be one of"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        TwoFamilies(**options)


# -- on the page -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setup():
    widget = TwoFamilies()
    yield widget.setup
    widget.close()


@pytest.mark.site
def test_mouse_sliders_and_buttons(open_lab, setup):
    lab = open_lab("two-families")
    opening = lab.state()
    assert {name: opening[name] for name in OPENING} == OPENING
    judge(opening, setup)
    x, y = (lab.show("Centre of family B"), lab.centre("Centre of family B"))[1]
    lab.drag("Centre of family B", -60, 40)
    state = lab.state()
    assert state["centres"][1][0] < 2.0 - 0.3 and state["centres"][1][1] < 0.5 - 0.2
    assert lab.centre("Centre of family B") == pytest.approx((x - 60, y + 40), abs=1.5)
    assert state["centres"][0] == opening["centres"][0]
    judge(state, setup)

    lab.slide("distance", 3.0)
    lab.slide("spread", 0.8)
    lab.slide("support points", 12)
    lab.slide("inner steps", 9)
    lab.root.get_by_role("radio", name="two, chosen").check()
    state = lab.state()
    assert state["distance"] == pytest.approx(3.0, abs=1e-9)
    assert (state["spread"], state["shots"], state["steps"], state["starts"]) == (0.8, 12, 9, "chosen")
    judge(state, setup)
    lab.root.get_by_role("radio", name="two, known").check()
    judge(lab.state(), setup)

    lab.press("One family")
    state = lab.state()
    assert (state["spread"], state["starts"]) == (opening["spread"], "one")  # a preset sets everything
    assert state["distance"] == pytest.approx(0.0, abs=1e-12)
    assert state["errors"]["one"] == pytest.approx(state["errors"]["known"], rel=1e-12)
    lab.slide("distance", 2.0)  # and apart again, in the direction from before
    assert lab.state()["distance"] == pytest.approx(2.0, abs=1e-9)
    lab.press("Reset")
    assert lab.state() == opening


@pytest.mark.site
def test_the_picture_says_what_the_numbers_say(open_lab):
    """The star stands halfway between the centres; every task has its mark and its adapted line."""
    lab = open_lab("two-families")
    a, b = (lab.centre(f"Centre of family {name}") for name in "AB")
    box = lab.root.locator(".mlb-start").bounding_box()
    assert box["x"] + box["width"] / 2 == pytest.approx((a[0] + b[0]) / 2, abs=1.5)
    assert box["y"] + box["height"] / 2 == pytest.approx((a[1] + b[1]) / 2, abs=2.5)
    assert lab.root.locator(".mlb-task").count() == lab.root.locator(".mlb-adapted").count() == 24
    assert lab.root.locator(".mlb-curve").count() == 3
    lab.root.get_by_role("radio", name="two, known").check()
    lab.settle()
    assert lab.root.locator(".mlb-start").count() == 0
    assert lab.state()["said"][0] in lab.root.text_content()


@pytest.mark.site
def test_keyboard_alone(open_lab, setup):
    lab = open_lab("two-families", reduced_motion=True)
    page = lab.page
    lab.point("Centre of family A").focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowRight"):
        page.keyboard.press(key)
    state = lab.state()
    assert state["centres"][0] == pytest.approx([-1.4, -0.4], abs=0.011)
    judge(state, setup)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert lab.state()["centres"][1] == pytest.approx([2.0, 0.4], abs=0.011)
    lab.control("slider", "inner steps").focus()
    page.keyboard.press("ArrowRight")
    assert lab.state()["steps"] == 4
    page.wait_for_function(
        f"document.querySelector('{lab.selector} [role=status]').textContent.includes('After 4 inner steps')"
    )


@pytest.mark.site
def test_touch_on_a_phone(open_lab, setup):
    lab = open_lab("two-families", width=390, height=844)
    before = lab.state()["centres"]
    lab.touch("Centre of family A", 50, 15)
    state = lab.state()
    assert state["centres"][0][0] > before[0][0] + 0.5
    judge(state, setup)
    lab.control("button", "Reset").tap()
    assert lab.state()["centres"] == before
