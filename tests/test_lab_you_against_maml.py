"""The lab "You against MAML": its errors against PyTorch, the sketch by mouse, finger and keyboard, the picture to save."""

import io
import math

import pytest
import torch
import yaml
from browser import ROOT
from lab_page import assert_close, run_node
from PIL import Image

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import adapt
from mlbook.models import MLP, call
from mlbook.pages.labs import YouAgainstMaml
from mlbook.pages.labs.coded_weights import rounded
from mlbook.pages.labs.two_starts import SHIPPED, STEPS
from mlbook.results import pretrained

LOAD = """
import { readFileSync as read } from "node:fs";
const bytes = read(data.weights), numbers = lab.unpackHalf(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength));
const count = lab.countParameters(data.setup.sizes), starts = [numbers.slice(0, count), numbers.slice(count)];
"""


@pytest.fixture
def data(tmp_path):
    widget = YouAgainstMaml(sketch=[(-5, 1), (0, -2.5), (5, 3)])
    (tmp_path / "weights.bin").write_bytes(widget.weights)
    return widget, {"setup": widget.setup, "sketch": widget.sketch, "weights": str(tmp_path / "weights.bin")}


def test_the_three_errors_are_those_of_pytorch(tmp_path, data):
    widget, values = data
    task = [2.7, 2.1, -4.3, -1.7, 0.2, 2.4, 4.6]
    source = LOAD + "console.log(JSON.stringify(lab.errorsOf(data.setup, starts, data.task, data.sketch)));"
    found = run_node(tmp_path, widget, source, {**values, "task": task})
    grid, x = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (widget.setup["query_x"], task[2:]))
    truth = lambda x: task[0] * torch.sin(x - task[1])  # noqa: E731
    network, wanted = MLP(), {}
    for key, (_, experiment, _) in zip(("pre_trained", "maml"), SHIPPED, strict=True):
        config, meta = pretrained(experiment)
        if key == "maml":
            assert widget.setup["inner_lr"] == config["learner"]["inner_lr"]
        loss = lambda p: (call(network, p, x) - truth(x)).square().mean()  # noqa: E731
        adapted = adapt(loss, rounded(meta["params"]), inner_lr=widget.setup["inner_lr"], steps=STEPS)
        wanted[key] = float((call(network, adapted, grid) - truth(grid)).square().mean())
    hand = torch.tensor(widget.sketch, dtype=torch.float64)[:, None]
    wanted["you"] = float((hand - truth(grid)).square().mean())
    assert found == pytest.approx(wanted, rel=1e-9)


def test_sixteen_bits_change_nothing_that_is_seen(tmp_path, data):
    """MAML's curve with the weights as the page has them, and with all 32 bits: closer than a line is thick."""
    widget, values = data
    source = LOAD + "console.log(JSON.stringify(lab.meet(data.setup, starts, data.task)[0].curves.at(-1)));"
    found = torch.tensor(run_node(tmp_path, widget, source, {**values, "task": widget.task}))
    amplitude, phase, *xs = widget.task
    x, grid = torch.tensor(xs)[:, None], torch.tensor(widget.setup["query_x"])[:, None]
    loss = lambda p: (call(MLP(), p, x) - amplitude * torch.sin(x - phase)).square().mean()  # noqa: E731
    theta = pretrained(SHIPPED[1][1])[1]["params"]
    adapted = adapt(loss, theta, inner_lr=widget.setup["inner_lr"], steps=STEPS)
    assert (found - call(MLP(), adapted, grid)[:, 0].detach()).abs().max() < 0.02


def test_the_pen(tmp_path):
    source = """
    const grid = [0, 1, 2, 3, 4, 5], empty = grid.map(() => null), out = {};
    out.one = lab.penned(grid, empty, [2, 7], [2, 7]);
    out.line = lab.penned(grid, empty, [1, 0], [3, 4]);
    out.back = lab.penned(grid, out.line, [4, 1], [2, 5]);
    out.covered = lab.covered(out.line);
    out.whole = lab.whole([null, 1, null, null, 4, null]);
    out.parts = lab.parts(grid, [null, 1, 2, null, 4, null]);
    out.score = lab.counting(lab.counting({ waves: 0, nearer: 0, you: 0, maml: 0 }, { you: 1, maml: 2 }), { you: 5, maml: 0.5 });
    console.log(JSON.stringify(out));
    """
    found = run_node(tmp_path, YouAgainstMaml(), source)
    assert found["one"] == [None, None, 7, None, None, None]
    assert found["line"] == [None, 0, 2, 4, None, None]
    assert found["back"] == [None, 0, 5, 3, 1, None]
    assert found["covered"] == 0.5
    assert found["whole"] == [1, 1, 2, 3, 4, 4]
    assert found["parts"] == [[[1, 2], [1, 2]], [[4], [4]]]
    assert found["score"] == {"waves": 2, "nearer": 1, "you": 6, "maml": 2.5}


def test_a_sketch_goes_into_an_address_in_two_letters_a_height(tmp_path):
    source = """
    const kind = lab.keptSketch(4, [-5.5, 5.5]), text = kind.write(data), nothing = [null, null, null, null];
    const torn = [text + "00", text.slice(1), text.replace("_", "-"), "uluk0000"].map((t) => kind.read(t) ?? null);
    console.log(JSON.stringify({ text, back: kind.read(text), torn, empty: [kind.write(nothing), kind.read("")] }));
    """
    sketch = [-5.5, 0.07, None, 5.5]
    found = run_node(tmp_path, YouAgainstMaml(), source, sketch)
    assert found["back"] == sketch and found["torn"] == [None] * 4
    assert found["text"] == "00fh__uk" and found["empty"] == ["", [None] * 4]


def test_another_wave_is_one_of_the_family(tmp_path, data):
    widget, values = data
    source = "console.log(JSON.stringify(Array.from({ length: 200 }, () => lab.anotherTask(data.setup, 5))));"
    tasks = torch.tensor(run_node(tmp_path, widget, source, values))
    setup = widget.setup
    assert tasks.shape == (200, 7)
    assert tasks[:, 0].min() >= 2 and tasks[:, 0].max() <= setup["amplitude_range"][1]
    assert (
        tasks[:, 1].min() >= setup["phase_range"][0] and tasks[:, 1].max() <= setup["phase_range"][1] + 0.005
    )
    assert (tasks[:, 2:].diff() > 0.5).all() and tasks[:, 2:].abs().max() <= 5
    assert len(tasks[:, 1].unique()) > 100


def test_arguments():
    widget = YouAgainstMaml(sketch=[(-5, 0), (5, 2)], done=True)
    assert_close(widget.sketch, [round(0.02 * i, 2) for i in range(101)])
    for wrong in (
        {"sketch": [(0, 0)]},
        {"sketch": [(1, 0), (0, 0)]},
        {"sketch": [(-5, 9), (5, 0)]},
        {"done": True},
    ):
        with pytest.raises(UserError):
            YouAgainstMaml(**wrong)


def test_the_picture_names_this_book():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert YouAgainstMaml().setup["book"] == config["title"]


# -- on the page -------------------------------------------------------------------------------------------------------


def centre_of(lab, x, y):
    """Of a place in the units of the axes, in pixels of the window."""
    box = lab.root.locator(".mlb-plot").first.bounding_box()
    left, right, top, bottom = 40, 12, 22, 22  # the plot's margins
    across, down = box["width"] - left - right, box["height"] - top - bottom
    return box["x"] + left + (x + 5) / 10 * across, box["y"] + top + (5.5 - y) / 11 * down


def truth(task, x):
    return task[0] * math.sin(x - task[1])


def sketch_by_mouse(lab, off=0.0):
    lab.root.locator(".mlb-plot").first.evaluate(
        "e => e.scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    task, mouse = lab.state()["task"], lab.page.mouse
    mouse.move(*centre_of(lab, -5, truth(task, -5) + off))
    mouse.down()
    for i in range(1, 51):
        mouse.move(*centre_of(lab, -5 + i / 5, truth(task, -5 + i / 5) + off))
    mouse.up()
    return task


@pytest.mark.site
def test_a_wave_from_sketch_to_score(open_lab):
    lab = open_lab("you-against-maml")
    lab.page.evaluate("sessionStorage.clear()")
    lab.page.reload()
    lab.wait_for("state.covered === 0")
    done = lab.root.get_by_role("button", name="Done", exact=True)
    assert done.get_attribute("aria-disabled") == "true", "nothing is drawn yet"
    sketch_by_mouse(lab)
    state = lab.state()
    assert state["covered"] > 0.95 and state["errors"] is None
    assert lab.root.locator(".mlb-true").count() == 0, "the truth waits"
    lab.press("Done")
    assert lab.state()["done"] and not lab.state()["shown"], "MAML comes first"
    assert lab.root.locator(".mlb-true").count() == 0
    lab.wait_for("state.shown")
    state = lab.state()
    assert lab.root.locator(".mlb-true").count() == 1
    assert state["errors"]["you"] < 0.01 < state["errors"]["maml"] < state["errors"]["pre_trained"]
    assert state["score"] == {
        "waves": 1,
        "nearer": 1,
        "you": state["errors"]["you"],
        "maml": state["errors"]["maml"],
    }
    assert "You are nearer to the truth than MAML." in lab.root.locator(".mlb-sentence").inner_text()
    clear = lab.root.get_by_role("button", name="Clear", exact=True)
    assert clear.get_attribute("aria-disabled") == "true", "a sketch that is handed in stays"

    lab.press("Another wave")
    second = lab.state()
    assert second["task"] != state["task"] and not second["done"] and second["covered"] == 0
    sketch_by_mouse(lab, off=2)
    lab.press("Done")
    lab.wait_for("state.shown")
    score = lab.state()["score"]
    assert score["waves"] == 2 and score["nearer"] == 1 and score["you"] > 3
    lab.page.reload()
    lab.wait_for("state.score.waves === 2")


@pytest.mark.site
def test_the_keyboard_draws_straight_lines(open_lab):
    lab = open_lab("you-against-maml", reduced_motion=True)
    pen = lab.root.get_by_role("slider")
    for key in ["ArrowUp"] * 3 + ["Shift+ArrowRight"] * 2 + ["ArrowUp"] * 10 + ["Shift+ArrowRight"] * 18:
        pen.press(key)
    sketch = lab.state()["sketch"]
    assert sketch[:11] == pytest.approx([1.3 + 0.1 * i for i in range(11)], abs=0.011)
    assert sketch[11:] == pytest.approx([2.3] * 90)
    assert "x 5.00, y 2.30" in pen.get_attribute("aria-valuetext")
    lab.control("button", "Done").press("Enter")
    assert lab.state()["shown"], "at once, where motion is unwanted"


@pytest.mark.site
def test_a_finger_draws_and_the_page_stays(open_lab):
    lab = open_lab("you-against-maml", width=390, height=844, reduced_motion=True)
    lab.root.locator(".mlb-plot").first.evaluate(
        "e => e.scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    top = lab.page.evaluate("scrollY")
    session = lab.page.context.new_cdp_session(lab.page)

    def finger(kind, *places):
        points = [dict(zip("xy", centre_of(lab, *place), strict=True)) for place in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    finger("touchStart", (-4.9, 4))
    for i in range(1, 15):
        finger("touchMove", (-4.9 + 0.7 * i, 4 - 0.5 * i))
    finger("touchEnd")
    state = lab.state()
    assert state["covered"] > 0.9 and lab.page.evaluate("scrollY") == top
    assert state["sketch"][50] == pytest.approx(0.5, abs=0.4)


@pytest.mark.site
@pytest.mark.parametrize("dark", [False, True])
def test_the_picture(open_lab, dark):
    lab = open_lab("you-against-maml", reduced_motion=True)
    if dark:
        lab.page.emulate_media(color_scheme="dark")
        lab.page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    sketch_by_mouse(lab)
    assert lab.control("button", "Save as picture").is_disabled()
    lab.press("Done")
    with lab.page.expect_download() as download:
        lab.press("Save as picture")
    assert download.value.suggested_filename == "you-against-maml.png"
    with open(download.value.path(), "rb") as file:
        picture = Image.open(io.BytesIO(file.read())).convert("RGB")
    assert picture.size == (1200, 630)
    assert picture.getpixel((5, 5)) == ((21, 25, 30) if dark else (255, 255, 255))
    colours = dict((c, n) for n, c in picture.getcolors(1 << 20))
    for name in ("truth", "maml", "other-1"):
        hex_code = lab.root.evaluate(f"e => getComputedStyle(e).getPropertyValue('--mlb-{name}').trim()")
        assert colours.get(tuple(bytes.fromhex(hex_code[1:])), 0) > 400, name
