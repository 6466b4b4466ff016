"""The lab "How far back?": its JavaScript under Node and its page in a browser; PyTorch and the package are the judges."""

import math

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.evolution import SideBySide, gaussian, persistent_evolution
from mlbook.pages.checks.influence import Influence, influence
from mlbook.pages.labs import HowFarBack

STATE = ["theta", "memory", "pairs", "seed"]
DRAWS, RUN = 40, 100
SOURCE = """
const g = lab.influences(data.setup, 2 * data.setup.run), numbers = lab.normals(data.seed, 2 * data.setup.draws * data.pairs);
const { es, pes } = lab.estimates(data.setup, g, data, numbers), { error, truth } = lab.atRest(data.theta);
console.log(JSON.stringify({ g, numbers: [...numbers], es, pes, truth, cut: error * g[data.memory],
  shares: lab.shares(g, data.memory, data.setup.run), summary: lab.summary(pes, truth) }));
"""


def ask(tmp_path, **options):
    widget = HowFarBack(**options)
    return run_node(
        tmp_path, widget, SOURCE, {"setup": widget.setup, **{name: getattr(widget, name) for name in STATE}}
    )


@pytest.mark.parametrize(
    ("theta", "memory", "pairs"), [(0.5, 10, 100), (-0.4, 41, 3), (1.0, 1, 10), (0.3, 100, 30), (0.2, 7, 1)]
)
def test_the_estimates_equal_pytorch(tmp_path, theta, memory, pairs):
    found = ask(tmp_path, theta=theta, memory=memory, pairs=pairs)
    assert_close(found["g"], [influence(K) for K in range(2 * RUN + 1)], 1e-9)
    error, windows = -6 * theta - 1, math.ceil(RUN / memory)
    assert found["truth"] == pytest.approx(-6 * error) and found["cut"] == pytest.approx(
        error * influence(memory)
    )
    z, other = torch.tensor(found["numbers"], dtype=torch.float64).view(DRAWS, pairs, 2).unbind(-1)
    assert_close(found["es"], error * influence(memory) * z.square().mean(1), 1e-9)
    c = torch.tensor([influence((w + 1) * memory) - influence(w * memory) for w in range(windows)])
    c = c.double()
    A = windows**0.5 * z
    rest = (c.square().sum() - c.sum() ** 2 / windows).clamp(min=0).sqrt()
    B = c.sum() / windows**0.5 * z + rest * other
    assert_close(found["pes"], error * (A * B).mean(1), 1e-7)
    assert found["summary"]["mean"] == pytest.approx(sum(found["pes"]) / DRAWS)
    assert found["summary"]["wrong"] == pytest.approx(
        sum(v * found["truth"] < 0 for v in found["pes"]) / DRAWS
    )


def test_the_numbers_are_normal(tmp_path):
    numbers = torch.tensor(ask(tmp_path, pairs=1000)["numbers"])
    assert abs(float(numbers.mean())) < 0.02 and float(numbers.std()) == pytest.approx(1, abs=0.02)
    assert float((numbers.abs() < 1).double().mean()) == pytest.approx(0.683, abs=0.01)


def test_two_numbers_stand_for_all_windows(tmp_path):
    """Mean and spread of the lab's PES are those of the package on the problem itself, with a loss at the end only."""
    found = ask(tmp_path, theta=0.5, memory=20, pairs=10)

    class AtTheEnd(Influence):
        def loss(self, outer, state, t):
            return super().loss(outer, state, t) * (t == RUN)

    problem, at = AtTheEnd(rested=0.5), {"theta": torch.tensor(0.5, dtype=torch.float64)}
    estimate = persistent_evolution(
        SideBySide(problem),
        RUN,
        20,
        sigma=0.1,
        pairs=10,
        noise=gaussian(torch.Generator().manual_seed(0)),
    )
    drawn = torch.stack([estimate(at).gradient["theta"] for _ in range(60)])
    shares = found["shares"]
    spread = 4 * ((shares["windows"] * shares["squares"] + shares["sum"] ** 2) / 10) ** 0.5
    assert float(drawn.mean()) == pytest.approx(found["truth"], abs=4 * spread / 60**0.5)
    assert float(drawn.std()) == pytest.approx(spread, rel=0.35)
    assert found["summary"]["spread"] == pytest.approx(spread, rel=0.45)


@pytest.mark.parametrize(
    "options", [{"theta": 2.0}, {"memory": 0}, {"memory": 101}, {"pairs": 2}, {"seed": 0}]
)
def test_what_the_lab_cannot_show_is_refused(options):
    with pytest.raises(UserError):
        HowFarBack(**options)


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_mouse_and_sliders(open_lab):
    lab = open_lab("how-far-back")
    opening = lab.state()
    assert opening["truth"] > 0 > opening["cut"] and opening["found"][2]["wrong"] == 1
    lab.slide("window", 60)
    wide = lab.state()
    assert wide["cut"] > 0 and wide["cut"] == pytest.approx(-4 * influence(60))
    lab.slide("pairs", 0)
    few = lab.state()
    assert few["pairs"] == 1 and few["found"][3]["spread"] > wide["found"][3]["spread"]
    lab.press("New draws")
    assert lab.state()["found"][3]["mean"] != few["found"][3]["mean"]
    lab.drag("The outer variable θ", -120, 0)
    assert lab.state()["theta"] < 0.3
    lab.press("Reset")
    assert lab.state() == opening


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("how-far-back", reduced_motion=True)
    before = lab.state()
    lab.point("The outer variable θ").focus()
    for _ in range(3):
        lab.page.keyboard.press("ArrowLeft")
    assert lab.state()["theta"] == pytest.approx(before["theta"] - 0.3, abs=0.011)


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("how-far-back", width=390, height=844)
    before = lab.state()
    lab.touch("The outer variable θ", -40, 0)
    assert lab.state()["theta"] < before["theta"] - 0.1
    lab.assert_fits(390)
