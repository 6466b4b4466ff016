"""The lab "Train MAML": its JavaScript under Node against PyTorch, its record against the page, its page in a browser."""

import math

import numpy as np
import pytest
import torch
from lab_page import assert_close, run_node
from torch.func import grad, jvp

from mlbook import results
from mlbook.errors import UserError
from mlbook.meta_learners import MAML
from mlbook.models import MLP, call
from mlbook.pages.checks import inner_step
from mlbook.pages.labs import TrainMaml, coded_path
from mlbook.tasks import Sinusoids

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")
SHAPES = [tuple(p.shape) for p in MLP().parameters()]
POINTS = [[x, 1.3 * math.sin(x - 0.4) + 0.1] for x in (-4.5, -3, -2.2, -1, -0.3, 0.4, 1.5, 2.5, 3, 4.9)]
SOURCE = """
const path = lab.unpackPath(new DataView(readFileSync(data.weights).buffer.slice(0)), data.setup.sizes);
const truth = (x) => data.amplitude * Math.sin(x - data.phase);
const steps = data.checkpoints.map((i) => lab.oneStep(data.setup, path[i], data.points, data.length, truth));
console.log(JSON.stringify({ path: path.map((p) => [...p]), steps }));
"""


@pytest.fixture(scope="module")
def widget():
    return TrainMaml()


@pytest.fixture(scope="module")
def kept(widget):
    return coded_path.unpack(widget.weights, SHAPES)


def params_of(flat):
    parts = torch.as_tensor(flat).double().split([math.prod(s) for s in SHAPES])
    return {n: v.view(s) for n, v, s in zip(inner_step.NAMES, parts, SHAPES, strict=True)}


def truth_of(params, setup, points, length, amplitude, phase):
    """Curves before, after and linearised (torch.func.jvp) at the query inputs, and their errors, by PyTorch."""
    network = MLP()
    x, y = torch.tensor(points, dtype=torch.float64).T[..., None]
    grid = torch.tensor(setup["query_x"], dtype=torch.float64)[:, None]
    loss = lambda p: (call(network, p, x) - y).square().mean()  # noqa: E731
    move = {n: -length * setup["inner_lr"] * g for n, g in grad(loss)(params).items()}
    before, change = jvp(lambda p: call(network, p, grid), (params,), (move,))
    after = call(network, {n: p + move[n] for n, p in params.items()}, grid)
    curves = {"before": before, "actual": after, "linearised": before + change}
    wanted = amplitude * torch.sin(grid - phase)
    return {n: (c[:, 0], float((c - wanted).square().mean())) for n, c in curves.items()}


def judge(found, params, setup, points, length, amplitude, phase):
    for name, (curve, error) in truth_of(params, setup, points, length, amplitude, phase).items():
        if "curves" in found:
            assert_close(found["curves"][name], curve, 1e-9)
        assert found["errors"][name] == pytest.approx(error, rel=1e-7)


def test_the_lab_takes_the_step_and_its_linearisation_of_pytorch(tmp_path, widget, kept):
    (tmp_path / "weights.bin").write_bytes(widget.weights)
    steps = widget.setup["meta_steps"]
    chosen = [0, steps.index(2_600), steps.index(6_000), len(steps) - 1]
    data = {"setup": widget.setup, "weights": str(tmp_path / "weights.bin"), "checkpoints": chosen}
    data |= {"points": POINTS, "length": 1.4, "amplitude": 1.3, "phase": 0.4}
    found = run_node(tmp_path, widget, SOURCE, data)
    assert np.array_equal(np.array(found["path"], dtype=np.float32), kept)  # bit for bit
    parted = []
    for i, step in zip(chosen, found["steps"], strict=True):
        judge(step, params_of(kept[i]), widget.setup, POINTS, 1.4, 1.3, 0.4)
        parted.append(step["errors"]["linearised"] - step["errors"]["actual"])
        first = params_of(kept[i])
        assert_close(step["kinks"][0], -first["layers.0.bias"] / first["layers.0.weight"][:, 0], 1e-9)
    assert (
        abs(parted[0]) < 1e-3 < 0.05 < abs(parted[-1])
    )  # the test would see a linearisation that is the step itself


def test_the_code_keeps_what_it_can(kept):
    """Errors of a rounding do not add up; a matrix is rounded row by row, a vector 256 times finer."""
    generator = np.random.default_rng(0)
    path = np.cumsum(generator.normal(0, 0.1, (12, len(kept[0]))), 0).astype("f4")
    again = coded_path.unpack(coded_path.pack(path, SHAPES), SHAPES)
    assert np.array_equal(again[0], path[0])
    differences = np.abs(np.diff(path, axis=0)).max()
    off = np.abs(again - path)
    assert (
        0 < off[-1].max() <= 0.6 * differences / coded_path.COARSE and off[-1, :80].max() < off[-1].max() / 50
    )
    with pytest.raises(UserError, match="finite"):
        coded_path.pack(np.full((2, len(kept[0])), np.inf), SHAPES)


# -- the parts of a step ------------------------------------------------------------------------------------------------


def test_a_step_taken_apart(kept, widget):
    """Against the definitions, with other tools: the package's MAML, an explicit Jacobian, a network without switching."""
    tasks = Sinusoids(10, 20).sample(6, torch.Generator().manual_seed(2)).to(torch.float64)
    steps = widget.setup["meta_steps"]
    params, late = (params_of(kept[steps.index(t)]) for t in (2_600, 6_000))
    found, factor = inner_step.taken_apart(params, tasks, 0.001)
    learner = MAML(MLP(), loss="mse", inner_lr=0.001)
    for i in range(6):
        x, y, query_x, query_y = (field[i] for field in tasks)
        before, after = list(learner.path({"params": params}, x, y, 1))
        error = lambda p: float((call(MLP(), p, query_x) - query_y).square().mean())  # noqa: E731, B023
        assert float(found["before"][i]) == pytest.approx(error(before))
        assert float(found["actual"][i]) == pytest.approx(error(after))
        J = lambda at: torch.cat(  # noqa: E731
            [j.flatten(1) for j in torch.func.jacrev(lambda p: inner_step.answers(p, at))(params).values()], 1
        )
        kernel = J(query_x) @ J(x).T
        residual = inner_step.answers(params, x) - y[:, 0]
        linear = inner_step.answers(params, query_x) - 0.001 * 2 / 10 * kernel @ residual
        assert float(found["linearised"][i]) == pytest.approx(float((linear - query_y[:, 0]).square().mean()))
    for name in ("actual", "linearised", "best length"):
        assert (found[name].mean() < found["before"].mean()) and found[name].isfinite().all()
    assert found["best length"].mean() <= found["linearised"].mean() and 0 < factor < 2
    own = inner_step.crossed(params, params, tasks, 0.001)
    assert torch.allclose(own, found["linearised"])
    assert not torch.allclose(inner_step.crossed(params, late, tasks, 0.001), own)


def test_without_switching_the_step_is_nearly_linear_and_with_it_not():
    start = {
        n: torch.randn(s, generator=torch.Generator().manual_seed(3)).double()
        for n, s in zip(inner_step.NAMES, SHAPES, strict=True)
    }
    x = torch.linspace(-5, 5, 40, dtype=torch.float64)[:, None]
    move = {
        n: 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(4)).double()
        for n, p in start.items()
    }
    end = {n: p + move[n] for n, p in start.items()}
    held = inner_step.held(start, end, x)
    open_or_shut = inner_step.switched(start, end, x)
    assert (
        torch.allclose(inner_step.held(start, start, x), inner_step.answers(start, x))
        and 0 < open_or_shut < 0.2
    )
    assert inner_step.switched(start, start, x) == 0
    # small enough that nothing switches: both are the network itself
    tiny = {n: p + 1e-10 * move[n] for n, p in start.items()}
    assert torch.allclose(inner_step.held(start, tiny, x), inner_step.answers(tiny, x), atol=0, rtol=1e-12)
    assert not torch.allclose(held, inner_step.answers(end, x), rtol=1e-9)


# -- the record ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    return results.study("train_maml")


def test_the_rounded_checkpoints_have_the_errors_of_the_record(record, kept, widget):
    """To the digits that the page shows: less than half a unit of the second one."""
    assert max(record["coded"]["largest change of a mean"].values()) < 0.005
    assert len(widget.weights) == record["coded"]["bytes"] < 90_000
    assert widget.setup["meta_steps"] == record["runs"]["0"]["meta_steps"]


def test_the_sentences_on_where_the_loss_falls(record):
    """The list below the table of "Where the loss falls", the sentences above it, and chapter 4's."""
    setup, fall, runs = record["setup"], record["fall"], record["runs"]
    assert len(runs) == setup["seeds"] == 5 and setup["tasks"] >= 600
    after = setup["after"]
    assert (setup["begin"], after[-1], setup["inner_lr"]) == (2_000, 6_000, 0.001)

    def value(run, name, meta_step):
        return run["mean"][name][run["meta_steps"].index(meta_step)]

    ahead = [run["ahead from"] for run in runs.values()]
    for run in runs.values():
        falls = {name: v["mean"] for name, v in run["fall"].items()}
        assert value(run, "actual", 6_000) < value(run, "actual", 2_000) / 3
        # the function before the step, and the kernel
        assert falls["before"] < 0.07 * falls["actual"]
        (both_old, kernel_new), (function_new, both_new) = run["crossed"]
        assert 0 < both_old - function_new < 0.15 * (both_old - both_new)
        assert kernel_new - both_new < 0.15 * (both_old - both_new)
        assert 0.5 < falls["linearised"] / falls["actual"] < 1
        # too short at first, with the right direction
        factor = run["factor"][run["meta_steps"].index(2_000)]
        assert 3.5 < factor < 47.5 and value(run, "best length", 2_000) < 0.8 * value(run, "actual", 2_000)
        # then not linear
        later = [i for i, t in enumerate(run["meta_steps"]) if t >= run["ahead from"]]
        assert all(run["mean"]["actual"][i] < run["mean"]["linearised"][i] for i in later)
        assert run["factor"][run["meta_steps"].index(10_000)] < 0.8
        assert 1.05 < value(run, "linearised", 10_000) < 1.35
        assert 0.4 < value(run, "actual", 10_000) / value(run, "linearised", 10_000) < 0.55
        last = [i for i, t in enumerate(run["meta_steps"]) if t >= 4_600]
        assert all(run["mean"]["actual"][i] < run["mean"]["best length"][i] for i in last)
        # and what is not linear is the switching, most of it in the first layer
        pairs = zip(run["mean"]["held"], run["mean"]["linearised"], strict=True)
        assert max(abs(a - b) for a, b in pairs) < 0.005
        pairs = zip(run["mean"]["first layer"], run["mean"]["actual"], strict=True)
        assert max(a - b for a, b in pairs) < 0.01
    assert round(min(r["factor"][r["meta_steps"].index(2_000)] for r in runs.values())) == 4
    assert round(max(r["factor"][r["meta_steps"].index(2_000)] for r in runs.values())) == 47
    # seed 1 is the latest
    assert max(ahead) == runs["1"]["ahead from"]
    assert value(runs["1"], "before", 2_000) - value(runs["1"], "actual", 2_000) < 0.05
    still = {seed: value(r, "actual", 6_000) - value(r, "actual", 10_000) for seed, r in runs.items()}
    assert still["1"] > 0.2 and max(v for seed, v in still.items() if seed != "1") < still["1"]
    # the shares differ by more than the intervals over tasks
    shares = [r["fall"]["switching"]["mean"] for r in runs.values()]
    assert max(shares) - min(shares) > 2 * max(r["fall"]["switching"]["ci95"] for r in runs.values())
    assert fall["share of linearised"]["mean"] + fall["share of switching"]["mean"] == pytest.approx(1)
    assert fall["share of linearised"]["mean"] - fall["share of linearised"]["ci95"] > 0.5


# -- the page -----------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_sliding_through_the_training(open_lab, kept, widget):
    lab = open_lab("train-maml")
    steps = widget.setup["meta_steps"]

    def is_right():
        now = lab.state()
        where = [now[name] for name in ("points", "length", "amplitude", "phase")]
        judge(now, params_of(kept[steps.index(now["meta_step"])]), widget.setup, *where)
        return now

    opening = is_right()
    assert opening["meta_step"] == widget.meta_step
    lab.slide("meta-steps", len(steps) - 1)
    assert is_right()["meta_step"] == steps[-1]
    assert lab.control("button", "Next checkpoint").is_disabled()
    lab.press("Checkpoint before")
    assert is_right()["meta_step"] == steps[-2]
    lab.drag("Support point 5 of 10", 0, -60)
    dragged = is_right()
    assert dragged["points"][4][1] > opening["points"][4][1] + 0.5
    assert dragged["points"][:4] == opening["points"][:4]
    lab.point("Support point 5 of 10").press("ArrowLeft")
    assert is_right()["points"][4][0] == pytest.approx(dragged["points"][4][0] - 0.1)
    lab.press("Another wave")
    other = is_right()
    assert other["amplitude"] != dragged["amplitude"] and other["points"] != dragged["points"]
    lab.slide("amplitude", 2)
    moved = is_right()  # the points come along
    assert all(abs(y - 2 * math.sin(x - moved["phase"])) < 0.006 for x, y in moved["points"])
    lab.slide("step length", 0.05)
    short = is_right()["errors"]  # a short step is a linear one
    assert abs(short["actual"] - short["linearised"]) < 0.05 * abs(short["actual"] - short["before"])
    lab.press("At the end")
    assert lab.state() == {**opening, "meta_step": 70_000, "errors": lab.state()["errors"]}
    lab.press("Reset")
    assert lab.state() == opening
    # the curves of the errors: a click near their left edge is the first checkpoint
    box = lab.root.locator("svg.mlb-plot").nth(1).bounding_box()
    lab.page.mouse.click(box["x"] + 41, box["y"] + 60)
    assert lab.state()["meta_step"] == 0
    lab.press("Play the training")
    lab.wait_for("state.meta_step >= 1000")
    lab.press("Pause")
    stopped = is_right()["meta_step"]
    lab.page.wait_for_timeout(450)
    assert lab.state()["meta_step"] == stopped and not lab.state()["playing"]
    assert lab.page.problems == []


@pytest.mark.site
def test_on_a_phone(open_lab):
    lab = open_lab("train-maml", width=390)
    lab.assert_fits(390)
    lab.touch("Support point 6 of 10", 0, 40)
    assert lab.state()["points"][5] != [0.5, lab.state()["amplitude"]]
    slider = lab.control("slider", "meta-steps")
    before = lab.state()["meta_step"]
    slider.focus()
    lab.page.keyboard.press("ArrowRight")
    assert lab.state()["meta_step"] > before
