"""The lab "A map of classifiers": its LEO under Node, then the lab on its page; the judge is the package's LEO."""

import re
from dataclasses import replace

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners import LEO
from mlbook.pages.labs import LatentMap, latent_map
from mlbook.tasks import BentSectors
from mlbook.tasks.plane import bumps, nearest_mean

OPENING = {"codes": [], "latent": 0, "finetuning": 0, "shots": 1, "draw": 0, "task": 0}
STATES = [
    OPENING,
    {**OPENING, "latent": 5, "finetuning": 5, "draw": 1},
    {**OPENING, "shots": 3, "latent": 4, "finetuning": 3, "draw": 4, "task": 5},
    {**OPENING, "codes": [[0.5, -1.25], [3.0, 0.0], [-6.0, 6.0]], "latent": 2, "task": 3},
    {**OPENING, "codes": [[0.0, 0.0]] * 3, "shots": 3, "latent": 1, "finetuning": 20, "draw": 2, "task": 1},
]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


class Judge:
    """What the package's LEO says of a state of the lab."""

    def __init__(self):
        learner, meta = latent_map.shipped_leo()
        self.learner = learner
        self.meta = {group: {n: t.double() for n, t in ts.items()} for group, ts in meta.items()}
        widget = LatentMap()
        self.setup, self.weights = widget.setup, list(widget.weights)
        widget.close()

    def episode(self, state):
        support = double(state["points"]).view(3, 3, 2)[:, : state["shots"]]
        query = double(self.setup["tasks"][state["task"]]["query"])
        return support, query, BentSectors(k_shot=state["shots"]).episode(support, query)

    def path(self, state, z, episode):
        """z [N, n_z] and w [N, D] after every inner step, from the code z: LEO's own inner loop, its encoder put aside."""

        class Given(LEO):
            def encode(self, params, x, uniform=None):
                return z, torch.zeros_like(z)

        steps = {"latent_steps": state["latent"], "finetuning_steps": state["finetuning"]}
        learner = Given(**{**self.learner.__dict__, **steps})
        return [{"z": s["z"], "w": s["w"].mean(1)} for s in learner.inner(self.meta, episode)]

    def accuracy(self, w, episode):
        return float(
            (self.learner.predict({"w": w}, episode.query_x).argmax(-1) == episode.query_y).double().mean()
        )

    def __call__(self, state, found, w=True):
        """All numbers that the page says."""
        support, query, episode = self.episode(state)
        mean, sigma = self.learner.encode(self.meta["params"], episode.support_x)
        assert_close(found["mean"], mean, 1e-5)
        assert_close(found["sigma"], sigma, 1e-5)
        path = self.path(state, double(state["codes"]) if state["codes"] else mean, episode)
        assert len(found["judged"]) == len(path) == 1 + state["latent"] + state["finetuning"]
        assert_close(found["z"], torch.stack([p["z"] for p in path]), 1e-5)
        if w:
            assert_close(found["w"], path[-1]["w"], 1e-5)
        for said, p in zip(found["judged"], path, strict=True):
            loss = self.learner.support_loss(p["w"][:, None], episode.support_x, episode.support_y)
            assert said["support"] == pytest.approx(float(loss), rel=1e-5, abs=1e-9)
            prediction = self.learner.predict({"w": p["w"]}, episode.query_x)
            wanted = torch.nn.functional.cross_entropy(prediction, episode.query_y)
            assert said["query"] == pytest.approx(float(wanted), rel=1e-5, abs=1e-9)
            assert said["accuracy"] == pytest.approx(self.accuracy(p["w"], episode), abs=1e-9)
        right = nearest_mean(support, query) == torch.arange(3)[:, None]
        assert found["control"] == pytest.approx(float(right.double().mean()), abs=1e-9)
        says = []
        for sample, noise in zip(
            found["samples"], self.setup["noise"][state["draw"] - 1], strict=bool(state["draw"])
        ):
            end = self.path(state, mean + sigma * double(noise), episode)[-1]
            assert_close(sample["z"], end["z"], 1e-5)
            assert sample["accuracy"] == pytest.approx(self.accuracy(end["w"], episode), abs=1e-9)
            says.append(self.learner.predict({"w": end["w"]}, episode.query_x).argmax(-1))
        assert len(says) == (latent_map.SAMPLES if state["draw"] else 0)
        split = float((torch.stack(says) != says[0]).any(0).double().mean()) if says else None
        assert found["split"] == pytest.approx(split)


@pytest.fixture(scope="module")
def judge():
    return Judge()


def with_points(state, setup):
    return {**state, "points": [p for of in setup["tasks"][state["task"]]["support"] for p in of]}


IN_NODE = """
    const { setup } = data, bytes = Uint8Array.from([7, ...data.weights]);   // not aligned to four bytes on purpose
    const flat = lab.unpack(new DataView(bytes.buffer, 1), lab.countLeoWeights(setup.network))[0];
    const net = lab.leoNet(flat, setup.network);
    console.log(JSON.stringify(data.states.map((state) => {
        const of = setup.tasks[state.task].query, places = of.flat();
        const queries = { places, x: lab.bumps(places, setup.bumps), y: of.flatMap((points, k) => points.map(() => k)) };
        const { path, samples, ...rest } = lab.followed(net, state, setup, queries);
        const right = (says) => says.filter((k, i) => k === queries.y[i]).length / says.length;
        return { ...rest, z: path.map((p) => p.z), w: path[path.length - 1].w, x: queries.x,
                 samples: samples.map(({ z, says }) => ({ z, accuracy: right(says) })) };
    })));
"""


def in_node(tmp_path, judge, states):
    widget = LatentMap()
    data = {"states": states, "setup": judge.setup, "weights": judge.weights}
    found = run_node(tmp_path, widget, IN_NODE, data)
    widget.close()
    return found


# -- the arithmetic --------------------------------------------------------------------------------------------------


def test_codes_weights_losses_and_inner_steps_equal_pytorch(tmp_path, judge):
    states = [with_points(state, judge.setup) for state in STATES]
    for state, found in zip(states, in_node(tmp_path, judge, states), strict=True):
        assert_close(
            found["x"], bumps(double(judge.setup["tasks"][state["task"]]["query"]).view(-1, 2)), 1e-9
        )
        judge(state, found)


def test_the_picture_is_cut_where_the_classes_tie(tmp_path):
    """Linear scores, which the triangles follow exactly: the regions fill the square, and the boundary lies on ties."""
    widget = LatentMap()
    weights = [[1.0, 0.3, 0.2], [-0.7, 0.9, 0.0], [-0.2, -1.1, 0.1]]
    source = """
        const corners = lab.cornersOf(-3, 3, 11), scores = corners.map(([x, y]) => data.map(([a, b, c]) => a * x + b * y + c));
        console.log(JSON.stringify(lab.partition(scores, corners, 11, ([x, y]) => `${x.toFixed(6)} ${y.toFixed(6)}`)));
    """
    found = run_node(tmp_path, widget, source, weights)
    widget.close()

    def points(line):
        return double([[float(v) for v in p.split()] for p in line.split("L")])

    w, area = double(weights), 0.0
    for k, d in enumerate(found["regions"]):
        for polygon in re.findall(r"M([^Z]+)Z", d):
            p = points(polygon)
            x, y = p.T
            area += float((x * y.roll(-1) - x.roll(-1) * y).sum()) / 2
            scores = p @ w[:, :2].T + w[:, 2]
            assert (scores[:, k] >= scores.max(1).values - 1e-5).all()
    assert area == pytest.approx(36.0, abs=1e-3)
    lines = [points(line) for line in found["boundary"].split("M")[1:]]
    assert len(lines) <= 3  # three rays, of which two may be one line
    length = 0.0
    for p in lines:
        scores = (p @ w[:, :2].T + w[:, 2]).sort(1).values
        assert (scores[:, 2] - scores[:, 1]).abs().max() < 1e-5
        length += float((p[1:] - p[:-1]).norm(dim=1).sum())
    assert 9 < length < 13


def test_what_the_chapter_may_say_of_the_lab(tmp_path, judge):
    """At the opening LEO beats the nearest mean by far, a latent step helps; codes at 0 classify nothing, and one step from there
    is enough to be far above chance; more examples, less disagreement among the samples."""
    states = [
        {**OPENING, "latent": 5, "draw": 1},
        {**OPENING, "codes": [[0.0, 0.0]] * 3, "latent": 1},
        {**OPENING, "shots": 3, "latent": 5, "draw": 1},
        {**OPENING, "draw": 1},
    ]
    opening, zero, three, before = in_node(tmp_path, judge, [with_points(s, judge.setup) for s in states])
    right = [s["accuracy"] for s in opening["judged"]]
    assert right[0] > opening["control"] + 0.15 and right[5] > right[0] + 0.05
    assert (
        zero["judged"][0]["accuracy"] == pytest.approx(1 / 3, abs=0.01)
        and zero["judged"][1]["accuracy"] > 0.7
    )
    assert three["split"] < opening["split"] < before["split"]


# -- what Python hands over ------------------------------------------------------------------------------------------


def test_it_opens_without_arguments():
    widget = LatentMap()
    assert {name: getattr(widget, name) for name in OPENING} == OPENING
    assert len(widget.points) == 9 and widget.setup["trained"] == [5, 5]
    for task in widget.setup["tasks"]:
        assert double(task["support"]).abs().max() < 3 and len(task["query"]) == 3
    assert len(widget.weights) == 4 * (2 * 49 + 16 * 4 + 16 * 16 + 4 * 16 + 98 * 2 + 2 + 49)
    widget.close()


def test_another_leo_can_be_shown():
    learner = replace(latent_map.shipped_leo()[0], relation_units=None, latent_steps=3)
    widget = LatentMap(learner, learner.init(torch.Generator().manual_seed(0)).meta, shots=3, task=2)
    assert widget.setup["network"]["units"] == 4 and widget.setup["trained"] == [3, 5] and widget.shots == 3
    widget.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 2}, "shots must be 1 or 3"),
        ({"latent": 21}, "from 0 to 20"),
        ({"finetuning": -1}, "from 0 to 20"),
        ({"task": 6}, "task must be a whole number from 0 to 5"),
        ({"draw": 5}, "draw must be a whole number from 0 to 4"),
        ({"learner": LEO()}, "or neither"),
        ({"learner": LEO(), "meta": {}}, "2 latent dimensions"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        LatentMap(**options)


# -- on the page -----------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_mouse_and_buttons(open_lab, judge):
    lab = open_lab("latent-map")
    opening = lab.state()
    assert {name: opening[name] for name in OPENING} == OPENING
    judge(opening, opening)

    lab.press("One latent step")
    lab.press("5 latent steps")
    state = lab.state()
    assert (state["latent"], state["finetuning"]) == (6, 0)
    judge(state, state)
    lab.press("One fine-tuning step")
    lab.press("Draw 12 samples")
    state = lab.state()
    assert (state["finetuning"], state["draw"]) == (1, 1)
    judge(state, state)
    lab.press("Draw 12 samples")
    assert lab.state()["draw"] == 2
    lab.press("No samples")
    assert lab.state()["samples"] == []
    lab.press("One latent step")  # decodes anew: fine-tuning is undone
    assert (lab.state()["latent"], lab.state()["finetuning"]) == (7, 0)

    before = lab.state()["z"][-1]
    x, y = (lab.show("Code of class B"), lab.centre("Code of class B"))[1]
    lab.drag("Code of class B", -70, 50)
    state = lab.state()
    assert state["codes"][1][0] < before[1][0] - 1 and state["codes"][1][1] < before[1][1] - 0.6
    assert_close([state["codes"][0], state["codes"][2]], [before[0], before[2]], 1e-9)
    assert state["latent"] == 0 and lab.centre("Code of class B") == pytest.approx((x - 70, y + 50), abs=1.5)
    judge(state, state)
    lab.press("Encode: codes at the means")
    assert lab.state()["codes"] == [] and lab.state()["z"] == opening["z"]

    lab.drag("Support point A1", -40, 30)
    state = lab.state()
    assert state["points"][0] != opening["points"][0] and state["mean"] != opening["mean"]
    judge(state, state)
    lab.root.get_by_role("radio", name="3", exact=True).check()
    lab.press("New task")
    state = lab.state()
    assert (state["shots"], state["task"]) == (3, 1)
    judge(state, state)


@pytest.mark.site
def test_the_picture_says_what_the_numbers_say(open_lab):
    lab = open_lab("latent-map")
    assert lab.root.locator(".mlb-region").count() == 3 and lab.root.locator(".mlb-boundary").count() == 1
    assert lab.root.locator(".mlb-before").count() == lab.root.locator(".mlb-move").count() == 0
    assert lab.root.locator(".mlb-spread").count() == 6
    lab.press("5 latent steps")
    lab.press("Draw 12 samples")
    assert lab.root.locator(".mlb-before").count() == 1 and lab.root.locator(".mlb-move").count() == 15
    assert lab.root.locator(".mlb-sample").count() == 12 and lab.root.locator(".mlb-drawn").count() == 36
    state = lab.state()
    assert state["words"][0] in lab.root.text_content() and state["words"][1] in lab.root.text_content()
    crosses = lab.root.locator(".mlb-wrong-queries").get_attribute("d").count("M")
    assert 1 - crosses / 45 == pytest.approx(state["judged"][-1]["accuracy"], abs=1e-9)
    visible = lab.root.locator(".mlb-point:visible")
    assert visible.count() == 6  # three support points, three codes
    lab.root.get_by_role("radio", name="3", exact=True).check()
    lab.settle()
    assert visible.count() == 12


@pytest.mark.site
def test_keyboard_alone(open_lab, judge):
    lab = open_lab("latent-map", reduced_motion=True)
    page, opening = lab.page, lab.state()
    lab.point("Support point C1").focus()
    for key in ("ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    state = lab.state()
    x, y = opening["points"][6]
    assert state["points"][6] == pytest.approx([x - 0.1, y + 0.5], abs=1e-9)
    page.keyboard.press("Tab")  # hidden points are no stops
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Code of class A"
    assert lab.point("Code of class A").get_attribute("aria-valuetext").startswith("z₁ ")
    place = lab.state()["z"][-1][0]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    state = lab.state()
    assert state["codes"][0] == pytest.approx([place[0] + 0.1, place[1] - 0.5], abs=0.011)
    judge(state, state)
    lab.control("button", "5 latent steps").focus()
    page.keyboard.press("Enter")
    assert lab.state()["latent"] == 5
    page.wait_for_function(
        f"document.querySelector('{lab.selector} [role=status]').textContent.startsWith('After 5 latent steps')"
    )


@pytest.mark.site
def test_touch_on_a_phone(open_lab, judge):
    lab = open_lab("latent-map", width=390, height=844)
    before = lab.state()
    lab.touch("Code of class C", 50, 20)
    state = lab.state()
    assert state["codes"][2][0] > before["z"][0][2][0] + 0.5
    judge(state, state)
    lab.touch("Support point B1", -25, 20)
    assert lab.state()["points"][3] != before["points"][3]
    lab.control("button", "5 latent steps").tap()
    lab.control("button", "Draw 12 samples").tap()
    state = lab.state()
    judge(state, state)
    lab.assert_fits(390)
