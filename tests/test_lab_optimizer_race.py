"""The lab "The optimiser race": its JavaScript under Node and its page in a browser; PyTorch is the judge of both."""

import math

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.optimizers import HAND_DESIGNED, LearnedOptimizer, Quadratic, losses, tuned
from mlbook.pages.labs import OptimizerRace
from mlbook.pages.labs.optimizer_race import RATES, flat, shipped_network
from mlbook.tasks.optimization_problems import Bowls

STATE = ["surface", "curvatures", "angle", "steepness", "start", "rates", "step"]
START = "the start"


class Surface:
    """The lab's surface as a function to be minimised."""

    def __init__(self, state):
        self.state = state

    def loss(self, theta, problem=None, t=0):
        x, y = theta.unbind(-1)
        if self.state["surface"] == "valley":
            return 0.1 * ((1 - x) ** 2 + self.state["steepness"] * (y - x * x) ** 2)
        turn = math.radians(self.state["angle"])
        u, v = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
        first, second = self.state["curvatures"]
        return 0.5 * (first * u**2 + second * v**2)

    judged = loss


class Start:
    def __init__(self, place):
        self.start = torch.tensor([place], dtype=torch.float64)


def judged(state, network, steps=100):
    """{name: losses of the whole race} by the package, in double precision."""
    learner, phi = network
    rules = {name: HAND_DESIGNED[name](rate) for name, rate in state["rates"].items()}
    rules["LSTM"] = learner.rule({name: p.float().double() for name, p in phi.items()})
    problem, surface = Start(state["start"]), Surface(state)
    return {name: losses(rule, surface, problem, steps)[0] for name, rule in rules.items()}


def judge(state, network=None, tolerance=1e-5):
    # RMSprop ends in a cycle around the bottom whose turns hang on the last digits: it is held against PyTorch until it is there
    wanted = judged(state, shipped_network() if network is None else network)
    assert set(state["race"]) == set(wanted)
    for name, curve in wanted.items():
        found = state["race"][name]["losses"]
        assert len(found) == len(curve) == 101
        there = next((i for i, v in enumerate(curve.tolist()) if v < 1e-7), 60)
        last = min(60, there) if name == "RMSprop" else 100
        finite = [i for i, v in enumerate(curve.tolist()) if i <= last and math.isfinite(v) and v < 1e12]
        for i in finite:
            assert found[i] == pytest.approx(float(curve[i]), rel=tolerance, abs=1e-9), (name, i)


RACES = [
    {},
    {"curvatures": (0.2, 20.0), "angle": 133, "start": (2.5, -2.0)},
    {"surface": "valley", "start": (-1.5, 1.8)},
    {"surface": "valley", "steepness": 30.0, "start": (2.0, -1.0)},
    {"rates": {"SGD": 1.0, "Adam": 0.01, "momentum": 0.3, "RMSprop": 0.001}},
]


@pytest.mark.parametrize("options", RACES)
@pytest.mark.parametrize("p", [None, 10.0, "shipped"])
def test_the_race_equals_pytorch(tmp_path, options, p):
    if p == "shipped":
        network = shipped_network()
    else:
        learner = LearnedOptimizer(Quadratic(), units=7, scale=0.05, p=p)
        network = learner, learner.init(torch.Generator().manual_seed(3)).meta["params"]
    widget = OptimizerRace(network, **options)
    source = """
        const bytes = new DataView(Uint8Array.from(data.bytes).buffer);
        const [weights] = lab.unpack(bytes, lab.countWeights(data.setup.network));
        console.log(JSON.stringify(lab.race(data.setup, weights, data.state, data.setup.last)));
    """
    state = {name: getattr(widget, name) for name in STATE}
    data = {"setup": widget.setup, "state": state, "bytes": list(widget.weights)}
    judge({**state, "race": run_node(tmp_path, widget, source, data)}, network)


def test_preprocessing_equals_pytorch(tmp_path):
    from mlbook.optimizers.learned_optimizer import log_and_sign

    values = [3.0, -0.2, 1e-4, -1e-5, 0.0, 1e6]
    found = run_node(
        tmp_path,
        OptimizerRace(),
        "console.log(JSON.stringify(data.map((g) => lab.preprocess(g, 10))))",
        values,
    )
    assert_close(found, log_and_sign(torch.tensor(values, dtype=torch.float64), 10.0).tolist())


def test_the_gradients_are_those_of_the_surfaces(tmp_path):
    source = """
        console.log(JSON.stringify(data.map(([state, place]) => lab.SURFACES[state.surface](state, place))));
    """
    states = [
        {"surface": "bowl", "curvatures": [3.0, 0.4], "angle": 40},
        {"surface": "valley", "steepness": 7.0},
    ]
    data = [[state, place] for state in states for place in ([0.3, -1.2], [2.0, 1.5])]
    found_by_lab = run_node(tmp_path, OptimizerRace(), source, data)
    for (state, place), found in zip(data, found_by_lab, strict=True):
        at = torch.tensor(place, dtype=torch.float64)
        gradient, value = torch.func.grad_and_value(Surface(state).loss)(at)
        assert_close([found["f"], *found["g"]], [float(value), *gradient.tolist()])


def test_the_rates_are_the_best_of_the_grid():
    problems = Bowls().sample(256, torch.Generator().manual_seed(6))
    found = {name: tuned(HAND_DESIGNED[name], Quadratic(), problems, 60)[0] for name in RATES}
    assert found == RATES


def test_the_weights_travel_in_the_order_of_the_page():
    learner, phi = shipped_network()
    widget = OptimizerRace()
    assert len(widget.weights) == 4 * sum(p.numel() for p in phi.values()) == 4 * flat(phi).numel()
    assert widget.setup["network"] == {"units": 20, "layers": 2, "scale": learner.scale, "p": learner.p}


@pytest.mark.parametrize(
    "options",
    [
        {"surface": "hill"},
        {"curvatures": (1.0,)},
        {"curvatures": (0.0, 1.0)},
        {"angle": 200},
        {"steepness": math.nan},
        {"start": (4.0, 0.0)},
        {"rates": {"SGD": 5.0}},
        {"rates": {"Lion": 0.1}},
        {"step": 101},
    ],
)
def test_what_the_lab_cannot_show_is_refused(options):
    with pytest.raises(UserError):
        OptimizerRace(**options)


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_mouse_sliders_and_surfaces(open_lab):
    lab = open_lab("optimizer-race")
    opening = lab.state()
    assert opening["step"] > 0, "the lab opens with a race"
    judge(opening)
    lab.drag(START, 60, -30)
    dragged = lab.state()
    assert dragged["start"][0] > opening["start"][0] + 0.3 and dragged["start"][1] > opening["start"][1] + 0.1
    judge(dragged)
    lab.slide("curvature 1", math.log10(2.0))
    lab.slide("turned by", 100)
    lab.slide("rate of Adam", math.log10(0.05))
    shaped = lab.state()
    assert shaped["curvatures"][0] == pytest.approx(2.0, rel=0.03) and shaped["angle"] == 100
    assert shaped["rates"]["Adam"] == pytest.approx(0.05, rel=0.03)
    judge(shaped)
    assert not lab.control("slider", "steepness").is_visible()
    lab.control("radio", "bent valley").check()
    lab.slide("steepness", math.log10(20.0))
    valley = lab.state()
    assert valley["surface"] == "valley" and valley["steepness"] == pytest.approx(20, rel=0.03)
    assert not lab.control("slider", "curvature 1").is_visible()
    judge(valley)


@pytest.mark.site
def test_play_pause_and_step(open_lab):
    lab = open_lab("optimizer-race")
    page = lab.page
    lab.press("Back to the start")
    assert lab.state()["step"] == 0 and lab.control("button", "Back to the start").is_disabled()
    lab.press("One step")
    assert lab.state()["step"] == 1
    lab.press("Run to 100")
    lab.wait_for("state.step > 3")
    lab.press("Pause")
    paused = lab.state()["step"]
    page.wait_for_timeout(300)
    assert lab.state()["step"] == paused < 100
    lab.slide("step", 100)
    assert lab.state()["step"] == 100 and lab.control("button", "One step").is_disabled()
    assert "After 100 steps" in lab.root.locator(".mlb-sentence").text_content()


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("optimizer-race", reduced_motion=True)
    page = lab.page
    before = lab.state()
    lab.point(START).focus()
    lab.assert_marked(lab.point(START))
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    state = lab.state()
    assert state["start"] == pytest.approx([before["start"][0] + 0.2, before["start"][1] - 0.5], abs=0.011)
    judge(state)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "One step"
    page.keyboard.press("Enter")
    assert lab.state()["step"] == before["step"] + 1
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert lab.state()["step"] == 100, "with reduced motion nothing is animated"
    page.wait_for_function(
        "document.querySelector('[data-lab=\"optimizer-race\"] [role=status]').textContent.includes('After 100 steps')"
    )
    assert "bowl" in lab.root.locator("svg[role=group]").get_attribute("aria-label")


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("optimizer-race", width=390, height=844)
    before = lab.state()
    lab.touch(START, 30, 25)
    state = lab.state()
    assert state["start"][0] > before["start"][0] + 0.2 and state["start"][1] < before["start"][1] - 0.2
    judge(state)
    lab.control("button", "One step").tap()
    assert lab.state()["step"] == before["step"] + 1
