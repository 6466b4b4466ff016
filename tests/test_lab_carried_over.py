"""The lab "What is carried over?": its closed forms under Node, then the lab on its page; the judge is the real inner loop."""

import itertools

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import adapt
from mlbook.pages.labs import CarriedOver

LEARNERS = ("nothing", "mean", "both", "hand")
OPENING = {
    name: getattr(CarriedOver(), name)
    for name in ("learner", "start", "rate", "tasks", "shots", "spread", "away", "lines", "line")
}
PLACES = [
    OPENING,
    {**OPENING, "tasks": 1, "learner": "both"},
    {**OPENING, "tasks": 3, "shots": 1, "spread": 0.0, "lines": 2},
    {**OPENING, "tasks": 20, "shots": 3, "spread": 3.0, "learner": "mean", "line": 5},
    {**OPENING, "start": 7.25, "rate": 0.3, "learner": "hand", "away": True, "lines": 4},
]


def days(state):
    """Days [T, 12] of the training lines, from the numbers that the page carries."""
    setup = CarriedOver().setup
    normal = torch.tensor(setup["lines"], dtype=torch.float64)[state["lines"], : state["tasks"]]
    return setup["cities"][0] + state["spread"] * normal[:, :1] + setup["sigma"] * normal[:, 1:]


def after(start, rate, support):
    """θ [T] of the real inner loop: one step on ½ mean (w − x)² from the same start on each row of support [T, K]."""

    def loss(p):
        return 0.5 * (p["w"][:, None] - support).square().mean(1).sum()

    return adapt(loss, {"w": start.expand(len(support))}, inner_lr=rate, steps=1)["w"]


def split_loss(start, rate, lines, K):
    """Mean over lines, over all support sets of K of their days, and over the days left."""
    total = []
    for support in itertools.combinations(range(lines.shape[1]), K):
        query = [j for j in range(lines.shape[1]) if j not in support]
        theta = after(start, rate, lines[:, list(support)])
        total.append((theta[:, None] - lines[:, query]).square().mean())
    return torch.stack(total).mean()


def expected(start, rate, city, spread, K, sigma=2.0):
    """The chapter's closed form."""
    return (1 - rate) ** 2 * ((start - city) ** 2 + spread**2) + rate**2 * sigma**2 / K + sigma**2


def judge(state):
    """What the page says of all learners equals what the inner loop gives on all splits."""
    lines, K = days(state), state["shots"]
    city = CarriedOver().setup["cities"][int(state["away"])]
    assert_close([line["days"] for line in state["lines_shown"]], lines)
    for name in LEARNERS:
        start, rate = (
            torch.tensor(state["omegas"][name][part], dtype=torch.float64) for part in ("start", "rate")
        )
        assert_close([state["training"][name]], [split_loss(start, rate, lines, K)], 1e-8)
        assert_close([state["fresh"][name]], [expected(start, rate, city, state["spread"], K)])
    omega = state["omegas"]["both"]
    start, rate = (torch.tensor(omega[part], dtype=torch.float64) for part in ("start", "rate"))
    slopes = torch.func.grad(split_loss, argnums=(0, 1))(start, rate, lines, K)
    assert abs(slopes[0]) < 1e-8
    assert abs(slopes[1]) < 1e-8 if 0 < rate < 1 else (slopes[1] > -1e-8 if rate == 0 else slopes[1] < 1e-8)
    start, rate = (torch.tensor(state["omega"][part], dtype=torch.float64) for part in ("start", "rate"))
    assert_close(
        [state["theta"]], [after(start, rate, torch.tensor([state["support"]], dtype=torch.float64))[0]]
    )
    assert_close(state["inner"], after(start, rate, lines[:, :K]))
    assert state["training"]["both"] <= min(state["training"][name] for name in LEARNERS) + 1e-9


def in_node(tmp_path, states):
    source = (
        "console.log(JSON.stringify(data.states.map((now) => ({ ...now, ...lab.judged(data.setup, now) }))))"
    )
    found = run_node(tmp_path, CarriedOver, source, {"setup": CarriedOver().setup, "states": states})
    return [
        {**now, **answer, "lines": now["lines"], "lines_shown": answer["lines"]}
        for now, answer in zip(states, found, strict=True)
    ]


def test_losses_equal_the_inner_loop_on_all_splits(tmp_path):
    for state in in_node(tmp_path, PLACES):
        judge(state)


def test_new_lines_in_the_long_run(tmp_path):
    """The closed form is what new lines lose on average: a million of them."""
    (state,) = in_node(tmp_path, [{**OPENING, "learner": "both"}])
    g = torch.Generator().manual_seed(0)
    typical = 3 + state["spread"] * torch.randn(1_000_000, generator=g, dtype=torch.float64)
    mean = typical + 2 / 2**0.5 * torch.randn(1_000_000, generator=g, dtype=torch.float64)
    query = typical + 2 * torch.randn(1_000_000, generator=g, dtype=torch.float64)
    for name in ("nothing", "mean", "both"):
        omega = state["omegas"][name]
        theta = omega["start"] - omega["rate"] * (omega["start"] - mean)
        assert float((theta - query).square().mean()) == pytest.approx(state["fresh"][name], rel=0.01)
        assert state["curves"][name][1] == pytest.approx(state["fresh"][name])


def test_one_line_says_nothing_about_lines(tmp_path):
    """From a single training line the best rate is 0: nothing shows that lines differ. That is worse on new lines than on it."""
    one, many = in_node(tmp_path, [{**OPENING, "tasks": 1}, {**OPENING, "tasks": 20}])
    assert one["omegas"]["both"] == one["omegas"]["mean"] and one["omegas"]["both"]["rate"] == 0
    assert one["fresh"]["both"] > many["fresh"]["both"]
    assert many["omegas"]["both"]["rate"] == pytest.approx(1.44 / (1.44 + 2), abs=0.1)
    assert many["fresh"]["both"] < min(many["fresh"]["nothing"], many["fresh"]["mean"])


def test_what_the_widget_hands_over():
    widget = CarriedOver("hand", start=2, rate=0.5, tasks=4, shots=3, spread=2, away=True)
    assert (widget.learner, widget.start, widget.rate, widget.tasks, widget.shots) == ("hand", 2, 0.5, 4, 3)
    for wrong in (
        {"learner": "all"},
        {"tasks": 0},
        {"shots": 11},
        {"spread": -1},
        {"rate": 1.5},
        {"start": 99},
    ):
        with pytest.raises(UserError):
            CarriedOver(**wrong)


# -- on the page -------------------------------------------------------------------------------------------------------


def seen(lab):
    """The state on the page; the key ``lines`` is both a trait and what is shown, and the page says what is shown."""
    state = lab.state()
    return {**state, "lines_shown": state["lines"], "lines": state["draw"]}


@pytest.mark.site
def test_alive_on_load_and_under_the_mouse(open_lab):
    lab = open_lab("carried-over")
    state = seen(lab)
    judge(state)
    assert state["learner"] == "nothing"
    lab.control("radio", "start and rate").click()
    chosen = seen(lab)
    judge(chosen)
    assert chosen["fresh"]["both"] < chosen["fresh"]["nothing"]
    lab.drag("The start of the learner", 0, -60)
    moved = seen(lab)
    judge(moved)
    assert moved["learner"] == "hand" and moved["omega"]["start"] > chosen["omega"]["start"] + 1
    assert moved["omega"]["rate"] == pytest.approx(chosen["omega"]["rate"])
    lab.slide("training lines", 1)
    lab.control("radio", "start and rate").click()
    assert seen(lab)["omega"]["rate"] == 0
    assert "the one that counts" in lab.root.text_content()
    before = seen(lab)["line"]
    lab.press("Another new line")
    assert seen(lab)["line"] != before
    lab.press("Other training lines")
    judge(seen(lab))
    lab.press("Reset")
    assert seen(lab)["omega"] == state["omega"]


@pytest.mark.site
def test_another_city_is_said(open_lab):
    lab = open_lab("carried-over")
    lab.control("radio", "start and rate").click()
    at_home = seen(lab)["fresh"]["both"]
    lab.control("radio", "another city").click()
    state = seen(lab)
    judge(state)
    assert state["fresh"]["both"] > 2 * at_home and state["best"] == "nothing"
    assert "another city" in lab.root.locator(".mlb-note").first.text_content()


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("carried-over", reduced_motion=True)
    page = lab.page
    lab.point("The start of the learner").focus()
    for key in ("ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    state = seen(lab)
    assert state["learner"] == "hand" and state["start"] == pytest.approx(0.6)
    judge(state)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "training lines"
    page.keyboard.press("ArrowRight")
    assert seen(lab)["tasks"] == state["tasks"] + 1
    lab.control("slider", "rate α").focus()
    page.keyboard.press("ArrowLeft")
    assert seen(lab)["rate"] == pytest.approx(0.99)
    page.wait_for_function(
        f"document.querySelector('{lab.selector} [role=status]').textContent.includes('Carried over')"
    )


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("carried-over", width=390, height=844)
    lab.touch("The start of the learner", 0, -50)
    state = seen(lab)
    assert state["learner"] == "hand" and state["start"] > 1
    judge(state)
