"""The lab "Adapt a sinusoid" on its chapter page, operated in a browser without a network; PyTorch is the judge."""

import math

import lab_page
import pytest
import torch
from torch import nn

from mlbook.meta_learners.inner_loop import inner_path
from mlbook.models import MLP, call
from mlbook.pages.labs.adapt_sinusoid import AdaptSinusoid, shipped_initialisations

pytestmark = pytest.mark.site

LAB = '[data-lab="adapt-sinusoid"]'
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def starts():
    return shipped_initialisations()[0]


@pytest.fixture(scope="module")
def query_x():
    return torch.tensor(AdaptSinusoid().setup["query_x"], dtype=torch.float64)[:, None]


class Lab(lab_page.Lab):
    def __init__(self, page):
        super().__init__(page, "adapt-sinusoid")

    def choose(self, name):
        self.root.get_by_role("radio", name=name, exact=True).check()

    def points(self):
        return self.root.locator(".mlb-point")

    def drawn(self):
        """The strong curve's path, as it stands in the picture."""
        return self.root.locator("path.mlb-now").get_attribute("d")


def close(found, wanted):
    """Equal relative to the largest entry; what overflowed (null on the page) did so in PyTorch too."""
    found = torch.tensor([math.nan if value is None else value for value in found], dtype=torch.float64)
    finite = wanted.isfinite()
    if found.shape != wanted.shape or not torch.equal(found.isfinite(), finite):
        return False
    difference = (found - wanted)[finite].abs().max()
    return bool(difference <= TOLERANCE * wanted[finite].abs().max())


def judge(state, starts, query_x):
    """All numbers on the page equal PyTorch's for the same points, rate and number of steps."""
    model = MLP()
    x, y = torch.tensor(state["points"], dtype=torch.float64).T[..., None]
    truth = state["amplitude"] * torch.sin(query_x - state["phase"])
    paths = {}
    for name, params in starts.items():
        path = inner_path(
            lambda p: nn.functional.mse_loss(call(model, p, x), y),
            {n: p.double() for n, p in params.items()},
            inner_lr=state["inner_lr"],
            steps=10,
        )
        paths[name] = list(path)
    path = paths[state["initialisation"]]

    def query_loss(params):
        return nn.functional.mse_loss(call(model, params, query_x), truth)

    assert close(state["prediction"], call(model, path[state["step"]], query_x)[:, 0])
    assert close(state["query_loss"], torch.stack([query_loss(p) for p in path]))
    assert close(
        state["support_loss"], torch.stack([nn.functional.mse_loss(call(model, p, x), y) for p in path])
    )
    assert list(state["comparison"]) == list(paths)
    assert close(list(state["comparison"].values()), torch.stack([query_loss(p[-1]) for p in paths.values()]))


def test_mouse_and_buttons(open_lab, starts, query_x):
    page = open_lab("adapt-sinusoid").page
    lab = Lab(page)
    opening = lab.state()
    assert opening["step"] >= 1 and len(opening["points"]) == 5, "the lab opens adapted"
    judge(opening, starts, query_x)

    curve = lab.drawn()
    x, y = lab.centre("Support point 3 of 5")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y - 30, steps=3)
    page.mouse.move(x + 40, y - 60, steps=3)
    page.mouse.up()
    dragged = lab.state()
    before, after = opening["points"][2], dragged["points"][2]
    assert after[0] > before[0] + 0.3 and after[1] > before[1] + 0.5
    assert lab.centre("Support point 3 of 5") == pytest.approx((x + 40, y - 60), abs=1.0)
    assert lab.drawn() != curve
    judge(dragged, starts, query_x)

    page.mouse.move(x, y)  # the button is up: the point stays
    assert lab.state() == dragged

    lab.press("One inner step")
    stepped = lab.state()
    assert stepped["step"] == dragged["step"] + 1 and stepped["points"] == dragged["points"]
    judge(stepped, starts, query_x)
    lab.press("One inner step back")
    assert lab.state() == dragged

    for name in starts:
        lab.choose(name)
        chosen = lab.state()
        assert chosen["initialisation"] == name
        judge(chosen, starts, query_x)
    lab.slide("inner step", 0)
    assert lab.state()["step"] == 0
    lab.press("Play to 10")
    lab.wait_for("state.step === 10")


def test_sliders_and_points(open_lab, starts, query_x):
    page = open_lab("adapt-sinusoid").page
    lab = Lab(page)

    def on_the_sine(state):
        return [abs(y - state["amplitude"] * math.sin(x - state["phase"])) < 1e-9 for x, y in state["points"]]

    lab.points().first.press("ArrowUp")
    assert on_the_sine(lab.state()) == [False, True, True, True, True]
    lab.slide("amplitude", 2.0)
    lab.slide("phase", 0.5)
    lab.slide("inner rate α", 0.02)
    lab.slide("inner step", 7)
    state = lab.state()
    assert [state[k] for k in ("amplitude", "phase", "inner_lr", "step")] == [2.0, 0.5, 0.02, 7]
    assert on_the_sine(state) == [False, True, True, True, True], "points on the sine follow it, others stay"
    judge(state, starts, query_x)

    lab.press("Points onto the sine")
    assert all(on_the_sine(lab.state()))
    for count in range(6, 11):
        lab.press("Add point")
        assert len(lab.state()["points"]) == count
    assert lab.root.get_by_role("button", name="Add point").is_disabled()
    judge(lab.state(), starts, query_x)
    for count in range(9, 0, -1):
        lab.press("Remove point")
        assert len(lab.state()["points"]) == count
    assert lab.root.get_by_role("button", name="Remove point").is_disabled()
    judge(lab.state(), starts, query_x)

    before = lab.state()
    lab.press("New random task")
    assert lab.state()["amplitude"] != before["amplitude"] or lab.state()["phase"] != before["phase"]
    assert all(on_the_sine(lab.state()))


def test_keyboard_alone(open_lab, starts, query_x):
    """From the first point to the last button without a mouse, every stop visible, the state told in words."""
    page = open_lab("adapt-sinusoid", reduced_motion=True).page
    lab = Lab(page)
    before = lab.state()["points"]
    lab.points().first.focus()
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("Tab")
    page.keyboard.press("Delete")
    state = lab.state()
    x, y = before[0]
    assert state["points"][0] == pytest.approx([x + 0.2, y - 0.5], abs=0.011)
    assert state["points"][1:] == before[2:]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Support point 2 of 4"
    judge(state, starts, query_x)

    lab.assert_marked(lab.points().nth(1))
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "One inner step"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert lab.state()["step"] == state["step"] + 1
    lab.press("Play to 10")
    assert lab.state()["step"] == 10, "with reduced motion nothing is animated"

    page.wait_for_function(
        f"document.querySelector('{LAB} [role=status]').textContent.includes('After 10 inner steps')"
    )
    label = lab.root.locator("svg[role=group]").get_attribute("aria-label")
    assert "after inner step 10 from MAML predicts" in label


def test_touch_on_a_phone(open_lab, starts, query_x):
    page = open_lab("adapt-sinusoid", width=390, height=844).page
    lab = Lab(page)
    before = lab.state()["points"]

    def in_plot():  # which sticks to the window's edge: its own place changes with scrolling
        plot = lab.root.locator("svg[role=group]").bounding_box()
        x, y = lab.centre("Support point 4 of 5")
        return x - plot["x"], y - plot["y"]

    x, y = in_plot()
    lab.touch("Support point 4 of 5", -20, 40)
    state = lab.state()
    assert state["points"][3][0] < before[3][0] - 0.3 and state["points"][3][1] < before[3][1] - 0.5
    assert in_plot() == pytest.approx((x - 20, y + 40), abs=1.5)
    judge(state, starts, query_x)
    lab.root.get_by_role("button", name="One inner step", exact=True).tap()
    assert lab.state()["step"] == state["step"] + 1


def test_the_same_lab_in_chapter_11_opens_with_reptile(open_lab, query_x):
    starts, _ = shipped_initialisations(("Reptile", "MAML", "pre-trained"))
    lab = Lab(open_lab("adapt-sinusoid", "book/11_reptile.html").page)
    state = lab.state()
    assert (state["initialisation"], state["step"], state["inner_lr"]) == ("Reptile", 10, 0.01)
    judge(state, starts, query_x)
    lab.choose("MAML")
    lab.slide("inner rate α", 0.001)
    state = lab.state()
    assert state["initialisation"] == "MAML"
    judge(state, starts, query_x)
