"""The lab "A controller sharpens": its JavaScript under Node against the package, and its page in a browser."""

import math

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.architecture import table as architecture_table
from mlbook.architecture.children import SIZES, enumerate_space
from mlbook.architecture.controller import (
    IndependentController,
    distribution,
    draw,
    moving_average,
    reinforce,
)
from mlbook.architecture.search import first_best, row_numbers
from mlbook.errors import UserError
from mlbook.pages.labs import ArchitectureSearch

CONTROLLER = IndependentController()


def uniforms(seed, count):
    """Mulberry32, written again from its definition."""
    a, found, word = seed, [], 0xFFFFFFFF
    for _ in range(count):
        a = (a + 0x6D2B79F5) & word
        t = ((a ^ (a >> 15)) * (a | 1)) & word
        t ^= (t + (((t ^ (t >> 7)) * (t | 61)) & word)) & word
        found.append(((t ^ (t >> 14)) & word) / 2**32)
    return found


def truth(state, steps):
    """The same search by the package's own controller and estimate, with plain gradient steps."""
    rewards = torch.tensor(ArchitectureSearch().setup["rewards"], dtype=torch.float64)
    theta = {k: v.double() for k, v in CONTROLLER.init(torch.Generator(), 1).items()}
    u = torch.tensor(uniforms(state["seed"], 300 * len(SIZES)), dtype=torch.float64).view(300, 1, -1)
    rows, baselines, b = [], [], torch.zeros(1, dtype=torch.float64)
    for n in range(steps):
        choices = draw(CONTROLLER, {k: v[0] for k, v in theta.items()}, u[n])[None]
        row = row_numbers(choices, SIZES)
        reward = rewards[row]
        if state["baseline"] and n == 0:
            b = moving_average(b, reward, 0.9, first=True)
        gradient = reinforce(CONTROLLER, choices, reward, b, state["entropy"])(theta).gradient
        theta = {k: v - state["rate"] * gradient[k] for k, v in theta.items()}
        rows.append(int(row))
        baselines.append(float(b))
        if state["baseline"]:
            b = moving_average(b, reward, 0.9, first=False)
    probabilities = [theta[f"{t}"][0].softmax(-1) for t in range(len(SIZES))]
    space = torch.tensor(enumerate_space())
    p = distribution(CONTROLLER, {k: v[0] for k, v in theta.items()}, space)
    mass = float(p[torch.tensor(ArchitectureSearch().setup["best"])].sum())
    return {"rows": rows, "baselines": baselines, "probabilities": probabilities, "mass": mass}


def judge(state):
    """All numbers that the lab shows follow from the package's."""
    n = state["step"]
    wanted = truth(state, n)
    assert state["rows"] == wanted["rows"]
    assert state["baselines"] == pytest.approx(wanted["baselines"], abs=1e-9)
    for found, p in zip(state["probabilities"], wanted["probabilities"], strict=True):
        assert_close(found, p, 1e-8)
    assert state["mass"] == pytest.approx(wanted["mass"], abs=1e-9)
    setup = ArchitectureSearch().setup
    rewards, worth = torch.tensor(setup["rewards"]), torch.tensor(setup["worth"])
    if n == 0:
        assert state["pick"] is None
        return
    for name, rows in (
        ("pick", state["rows"]),
        ("random", [math.floor(v * 500) for v in uniforms(state["seed"] + 7919, n)]),
    ):
        assert state[name] == rows[int(first_best(rewards[torch.tensor(rows)][None])[0, -1])]
    assert state["place"] == 1 + int((worth > worth[state["pick"]]).sum())


# -- the arithmetic --------------------------------------------------------------------------------------------------

SEARCH = """
    console.log(JSON.stringify(data.cases.map((c) => {
        const found = lab.search({ sizes: data.sizes, rewards: data.rewards }, c, c.step);
        return { ...c, rows: found.rows, baselines: found.baselines, probabilities: found.probabilities[c.step],
                 joint: lab.joint(found.probabilities[c.step]) };
    })));
"""


def test_searches_are_those_of_the_package(tmp_path):
    options = {"rate": 3.0, "baseline": True, "entropy": 0.0, "seed": 1, "step": 120}
    changes = (
        {},
        {"baseline": False},
        {"entropy": 0.03, "seed": 12},
        {"rate": 25.0, "seed": 999, "step": 300},
        {"step": 0},
    )
    cases = [{**options, **change} for change in changes]
    data = {"cases": cases, "sizes": list(SIZES), "rewards": ArchitectureSearch().setup["rewards"]}
    for found in run_node(tmp_path, ArchitectureSearch, SEARCH, data):
        wanted = truth(found, found["step"])
        assert found["rows"] == wanted["rows"]
        assert found["baselines"] == pytest.approx(wanted["baselines"], abs=1e-9)
        for p, q in zip(found["probabilities"], wanted["probabilities"], strict=True):
            assert_close(p, q, 1e-8)
        assert sum(found["joint"]) == pytest.approx(1)
        space = enumerate_space()
        for row in (0, 77, 499):
            product = math.prod(found["probabilities"][t][a] for t, a in enumerate(space[row]))
            assert found["joint"][row] == pytest.approx(product)


def test_numbers_at_random_are_the_same_everywhere_and_even(tmp_path):
    found = run_node(tmp_path, ArchitectureSearch, "console.log(JSON.stringify(lab.uniforms(5, 2000)))")
    assert found == uniforms(5, 2000)
    assert abs(sum(found) / 2000 - 0.5) < 0.03 and 0 <= min(found) and max(found) < 1


def test_picks_and_edges(tmp_path):
    source = """
        console.log(JSON.stringify([lab.picks([3, 1, 2, 1], [0, 0.5, 0.5, 0.2]), lab.take([0.5, 0.5], 0.5),
            lab.take([0.2, 0.8], 0.99999), lab.softmax([800, 0]), lab.slope([1, 0], 0, 1, 0.1)]));
    """
    picks, half, high, sharp, slope = run_node(tmp_path, ArchitectureSearch, source)
    assert picks == [3, 1, 1, 1] and half == 1 and high == 1
    assert sharp == [1, 0] and slope == pytest.approx([0, 0])


# -- what Python hands over ------------------------------------------------------------------------------------------


def test_it_opens_without_arguments_on_the_shipped_table():
    widget = ArchitectureSearch()
    table = architecture_table.load()
    assert (
        len(widget.setup["rewards"]) == len(widget.setup["worth"]) == 500 and sum(widget.setup["best"]) == 25
    )
    assert widget.setup["rewards"][7] == pytest.approx(float(table.validation[7, 0]), abs=1e-6)
    assert widget.setup["worth"][7] == pytest.approx(float(table.test[7, 1:].mean()), abs=1e-6)
    widget.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate must lie"),
        ({"rate": math.nan}, "rate must lie"),
        ({"entropy": 1.0}, "entropy must lie"),
        ({"seed": 0}, "seed must lie"),
        ({"step": 301}, "from 0 to 300"),
        ({"reward_seed": 99}, "the table has the seeds"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        ArchitectureSearch(**options)


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_mouse_sliders_and_choices(open_lab):
    lab = open_lab("architecture-search")
    opening = lab.state()
    judge(opening)
    for _ in range(3):
        lab.press("Train one child")
    state = lab.state()
    assert state["step"] == opening["step"] + 3
    judge(state)
    lab.slide("children", 150)
    judge(lab.state())
    lab.slide("rate", 1.0)
    lab.slide("entropy bonus", 0.02)
    state = lab.state()
    assert (state["rate"], state["entropy"]) == (10, 0.02)
    judge(state)
    lab.control("checkbox", "baseline: subtract the moving average of rewards").uncheck()
    state = lab.state()
    assert not state["baseline"] and set(state["baselines"]) == {0}
    judge(state)
    lab.press("Another seed of the draws")
    other = lab.state()
    assert other["seed"] == state["seed"] + 1 and other["rows"] != state["rows"]
    judge(other)
    lab.press("Back to no child")
    assert lab.state()["step"] == 0
    lab.press("Run to 300")
    lab.wait_for("state.step > 20")
    lab.press("Pause")
    stopped = lab.state()
    assert not stopped["playing"]
    judge(stopped)


@pytest.mark.site
def test_keyboard_alone_and_stillness(open_lab):
    lab = open_lab("architecture-search", reduced_motion=True)
    page = lab.page
    before = lab.state()["step"]
    lab.control("button", "Train one child").focus()
    page.keyboard.press("Enter")
    assert lab.state()["step"] == before + 1
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # no film for who wants stillness: the end at once
    assert lab.state()["step"] == 300
    lab.control("slider", "rate").focus()
    page.keyboard.press("ArrowLeft")
    judge(lab.state())
    page.wait_for_function(
        "document.querySelector('[data-lab=\"architecture-search\"] [role=status]').textContent.includes('After 300 children')"
    )
    labels = [e.get_attribute("aria-label") for e in lab.root.locator("svg[role=img]").all()]
    assert "best of the controller" in labels[0] and "Random search stays at 5" in labels[1]


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("architecture-search", width=390, height=844)
    before = lab.state()["step"]
    lab.control("button", "Train one child").tap()
    state = lab.state()
    assert state["step"] == before + 1
    judge(state)
    lab.assert_fits(390)
