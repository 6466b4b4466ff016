"""The lab "The estimator playground": its JavaScript under Node and its page in a browser; PyTorch is the judge of both."""

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.pages.checks import choice_gradients as cg
from mlbook.pages.labs import ChoiceGradients

STATE = ["outputs", "target", "logits", "temperature", "scale", "seed"]
DRAWS, K = 1000, 4


def uniforms(seed, n):
    """mulberry32, as on the page."""
    a, found, mask = seed, [], 2**32 - 1
    for _ in range(n):
        a = (a + 0x6D2B79F5) & mask
        t = ((a ^ (a >> 15)) * (a | 1)) & mask
        t ^= (t + (((t ^ (t >> 7)) * (t | 61)) & mask)) & mask
        found.append(((t ^ (t >> 14)) + 0.5) / 2**32)
    return torch.tensor(found, dtype=torch.float64)


def judge(state):
    problem = cg.Options(state["outputs"], state["target"], state["logits"])
    assert_close(state["truth"], problem.gradient().tolist())
    u, v = uniforms(state["seed"], 2 * K * DRAWS).view(DRAWS, 2, K).unbind(1)
    for method, found in zip(cg.METHODS, state["found"], strict=True):
        its = cg.estimates(problem, method, u, v, state["temperature"], state["scale"])
        wanted = cg.measured(its, problem.gradient())
        assert_close(found["mean"], its.mean(0).tolist(), 1e-7)
        assert found["spread"] == pytest.approx(wanted.variance**0.5, rel=1e-6)
        assert found["off"] == pytest.approx(float(wanted.bias.norm()), rel=1e-5, abs=1e-8)
        assert found["noise"] == pytest.approx(1.96 * found["spread"] / DRAWS**0.5, rel=1e-9)


CASES = [
    {},
    {"outputs": (2.0, -2.0, 0.3, 0.0), "target": -0.5, "logits": (3.0, -3.0, 0.5, 0.0), "temperature": 0.1},
    {"temperature": 2.0, "scale": 2.0, "seed": 77},
    {"scale": 0.0, "logits": (1.0, 0.0, -1.0, 0.4)},
]


@pytest.mark.parametrize("options", CASES)
def test_the_estimates_equal_pytorch(tmp_path, options):
    widget = ChoiceGradients(**options)
    source = f"""
        const numbers = lab.uniforms(data.seed, {2 * K * DRAWS});
        const found = lab.measure(data, numbers, {DRAWS}, data.temperature, data.scale);
        console.log(JSON.stringify({{ ...data, truth: lab.truth(data), found }}));
    """
    judge(run_node(tmp_path, widget, source, {name: getattr(widget, name) for name in STATE}))


def test_without_control_relax_is_reinforce(tmp_path):
    widget = ChoiceGradients(scale=0.0)
    source = f"""
        const numbers = lab.uniforms(1, {2 * K * DRAWS});
        console.log(JSON.stringify(lab.measure(data, numbers, {DRAWS}, 0.7, 0)));
    """
    found = run_node(tmp_path, widget, source, {name: getattr(widget, name) for name in STATE})
    assert_close(found[1]["mean"], found[2]["mean"])


@pytest.mark.parametrize(
    "options",
    [
        {"outputs": (1.0, 2.0)},
        {"outputs": (3.0, 0.0, 0.0, 0.0)},
        {"target": 5.0},
        {"logits": (0.0, 0.0, 0.0, 9.0)},
        {"temperature": 0.0},
        {"scale": -1.0},
        {"seed": 0},
    ],
)
def test_what_the_lab_cannot_show_is_refused(options):
    with pytest.raises(UserError):
        ChoiceGradients(**options)


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_mouse_and_sliders(open_lab):
    lab = open_lab("choice-gradients")
    opening = lab.state()
    judge(opening)
    lab.drag("Output of option 2", 0, 40)
    dragged = lab.state()
    assert (
        dragged["outputs"][1] < opening["outputs"][1] - 0.3 and dragged["outputs"][0] == opening["outputs"][0]
    )
    judge(dragged)
    lab.slide("temperature", 1.5)
    lab.slide("logit of 3", 1.2)
    lab.slide("wanted t", -0.5)
    lab.slide("control scale", 1.0)
    shaped = lab.state()
    assert (shaped["temperature"], shaped["logits"][2], shaped["target"], shaped["scale"]) == (
        1.5,
        1.2,
        -0.5,
        1.0,
    )
    judge(shaped)
    lab.press("New draws")
    again = lab.state()
    assert again["seed"] != shaped["seed"] and again["found"] != shaped["found"]
    judge(again)
    lab.press("Reset")
    assert lab.state() == opening


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("choice-gradients", reduced_motion=True)
    page = lab.page
    before = lab.state()
    lab.point("Output of option 1").focus()
    for key in ("ArrowUp", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    state = lab.state()
    assert state["outputs"][0] == pytest.approx(before["outputs"][0] + 0.7, abs=0.011)
    judge(state)
    page.wait_for_function(
        "document.querySelector('[data-lab=\"choice-gradients\"] [role=status]').textContent.includes('variance')"
    )


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("choice-gradients", width=390, height=844)
    before = lab.state()
    lab.touch("Output of option 4", 0, 30)
    state = lab.state()
    assert state["outputs"][3] < before["outputs"][3] - 0.2
    judge(state)
