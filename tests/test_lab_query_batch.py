"""The lab "Who is in the batch?": its JavaScript under Node and its page in a browser; PyTorch is the judge of both."""

import base64

import numpy as np
import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.models import Conv4, call
from mlbook.models.batch_norm import Statistics, batch_statistics
from mlbook.pages.labs import QueryBatch
from mlbook.tasks import Episode

TOLERANCE = 1e-5


def network_of(widget):
    """The network that the lab computes, in double precision: module, parameters, support images, queries."""
    shape = widget.setup["network"]
    options = {k: shape[k] for k in ("filters", "size", "channels", "gamma")}
    model = Conv4(shape["ways"], spatial_mean=shape["spatialMean"], **options)
    flat = torch.from_numpy(np.frombuffer(widget.weights, "<f2").astype("float64"))
    params, end = {}, 0
    for name, p in model.named_parameters():
        params[name] = flat[end : end + p.numel()].view(p.shape)
        end += p.numel()
    assert end == len(flat)
    images = torch.from_numpy(np.frombuffer(widget.images, "u1").astype("float64")) / 255
    images = images.view(-1, 1, shape["size"], shape["size"])
    n = len(widget.setup["support_y"])
    return model, params, images[:n], images[n:]


@pytest.fixture(scope="module")
def shipped():
    widget = QueryBatch()
    yield network_of(widget)
    widget.close()


def judge(state, shipped):
    """All numbers that the lab shows follow from PyTorch's."""
    model, params, support, queries = shipped
    batch = state["batch"]
    if batch:
        assert_close(state["by_batch"], call(model, params, queries[batch]).softmax(1), TOLERANCE)
    statistics = []
    call(model, params, support, collect=statistics)
    assert_close(
        state["by_support"], call(model, params, queries, statistics=statistics).softmax(1), TOLERANCE
    )
    alone = [call(model, params, torch.cat([support, x[None]]))[-1].softmax(0) for x in queries]
    assert state["ready"]
    assert_close(state["with_support"], torch.stack(alone), TOLERANCE)
    Q, ways = 5, 5
    rows = {i: row for i, row in zip(batch, state["by_batch"], strict=True)}
    for m, of in enumerate((rows.get, state["by_support"].__getitem__, state["with_support"].__getitem__)):
        called = [int(np.argmax(of(i))) for i in batch]
        assert state["right"][m] == sum(c == i // Q for c, i in zip(called, batch, strict=True))
        assert state["counts"][m] == [called.count(k) for k in range(ways)]


# -- the arithmetic ----------------------------------------------------------------------------------------------------

FORWARD = """
    const { network, parameters, images, given } = data;
    const found = lab.conv4(network, Float64Array.from(parameters), images, given);
    const plain = (s) => ({ mean: [...s.mean], variance: [...s.variance] });
    console.log(JSON.stringify({ logits: found.logits, statistics: found.statistics.map(plain) }));
"""
SHAPES = [
    {"filters": 4, "size": 12, "channels": 1},
    {"filters": 5, "size": 13, "channels": 2, "gamma": True},
    {"filters": 3, "size": 28, "channels": 1, "gamma": True, "spatialMean": False},
    {"filters": 6, "size": 9, "channels": 3, "spatialMean": False},
]


def problem(shape, images=4, ways=3):
    options = {k: v for k, v in shape.items() if k != "spatialMean"}
    model = Conv4(ways, spatial_mean=shape.get("spatialMean", True), **options)
    generator = torch.Generator().manual_seed(1)
    params = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in model.named_parameters()
    }
    x = torch.rand(
        images, shape["channels"], shape["size"], shape["size"], generator=generator, dtype=torch.float64
    )
    data = {
        "network": {"ways": ways, "eps": 1e-3, **shape},
        "parameters": torch.cat([p.flatten() for p in params.values()]).tolist(),
        "images": x.flatten(1).tolist(),
        "given": None,
    }
    return model, params, x, data


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s['filters']}-{s['size']}")
def test_the_forward_pass_with_statistics_of_the_batch(tmp_path, shape):
    model, params, x, data = problem(shape)
    found = run_node(tmp_path, QueryBatch, FORWARD, data)
    statistics = []
    assert_close(found["logits"], call(model, params, x, collect=statistics), 1e-10)
    for ours, theirs in zip(found["statistics"], statistics, strict=True):
        assert_close(ours["mean"], theirs.mean, 1e-10)
        assert_close(ours["variance"], theirs.variance, 1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s['filters']}-{s['size']}")
def test_the_forward_pass_with_statistics_handed_in(tmp_path, shape):
    model, params, x, data = problem(shape)
    generator = torch.Generator().manual_seed(2)
    given = [
        Statistics(
            *(torch.rand(2, shape["filters"], generator=generator, dtype=torch.float64) + 0.1).unbind()
        )
        for _ in range(4)
    ]
    data["given"] = [{"mean": s.mean.tolist(), "variance": s.variance.tolist()} for s in given]
    found = run_node(tmp_path, QueryBatch, FORWARD, data)
    logits = call(model, params, x, statistics=given)
    assert_close(found["logits"], logits, 1e-10)
    assert (logits - call(model, params, x)).abs().max() > 0.01  # the statistics make a difference
    data["images"] = data["images"][:1]  # and then an image does not depend on the others
    assert_close(run_node(tmp_path, QueryBatch, FORWARD, data)["logits"], logits[:1], 1e-10)


def test_weights_arrive_as_they_were_rounded(tmp_path):
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, -6.1e-5, 1 / 3, 1e-3]).half()
    data = base64.b64encode(values.numpy().astype("<f2").tobytes()).decode()
    source = """
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        console.log(JSON.stringify([...lab.unpackHalf(new DataView(bytes.buffer))]));
    """
    assert run_node(tmp_path, QueryBatch, source, data) == values.double().tolist()


def test_the_lab_s_network_equals_pytorch(tmp_path, shipped):
    """The whole path: bytes as they travel, unpacked, in all three modes, a batch of 25 in well under a second."""
    widget = QueryBatch()
    data = {
        "weights": base64.b64encode(widget.weights).decode(),
        "images": list(widget.images),
        "setup": widget.setup,
    }
    widget.close()
    source = """
        const bytes = Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0));
        const { network, support_y } = data.setup, area = network.size ** 2;
        const all = Array.from({ length: data.images.length / area },
            (_, n) => data.images.slice(n * area, (n + 1) * area).map((v) => v / 255));
        const queries = all.slice(support_y.length), parameters = lab.unpackHalf(new DataView(bytes.buffer));
        const judged = lab.judgements(network, parameters, all.slice(0, support_y.length), queries);
        while (judged.next());
        const states = data.batches.map((batch) => {
            const by_batch = judged.byBatch(batch);
            const kinds = [(i) => by_batch[batch.indexOf(i)], (i) => judged.bySupport[i], (i) => judged.withSupport[i]];
            const called = kinds.map((of) => batch.map((i) => lab.best(of(i))));
            return { batch, ready: true, by_batch, by_support: judged.bySupport, with_support: judged.withSupport,
                     right: called.map((c) => c.filter((k, n) => k === Math.floor(batch[n] / 5)).length),
                     counts: called.map((c) => [0, 1, 2, 3, 4].map((k) => c.filter((v) => v === k).length)) };
        });
        const before = process.cpuUsage();
        lab.conv4(network, parameters, queries);
        console.log(JSON.stringify({ states, ms: process.cpuUsage(before).user / 1000 }));
    """
    batches = [[0, 5, 10, 15, 20], list(range(25)), [0, 1, 2, 3, 4], [7], [], [3, 4, 11]]
    found = run_node(tmp_path, QueryBatch, source, {**data, "batches": batches})
    for state in found["states"]:
        judge(state, shipped)
    assert found["ms"] < 1000  # about 70 where this was written


def test_a_draw_has_different_numbers_in_order(tmp_path):
    source = (
        "console.log(JSON.stringify([...Array(50)].map(() => lab.drawn(5, 7)).concat([lab.drawn(3, 3)])))"
    )
    *draws, all_of_three = run_node(tmp_path, QueryBatch, source)
    assert all(d == sorted(set(d)) and len(d) == 5 and d[0] >= 0 and d[-1] < 7 for d in draws)
    assert len({tuple(d) for d in draws}) > 5 and all_of_three == [0, 1, 2]


# -- what Python hands over --------------------------------------------------------------------------------------------


def test_it_opens_without_arguments_and_what_it_opens_with_makes_its_point(shipped):
    widget = QueryBatch()
    assert widget.batch == [0, 5, 10, 15, 20] and widget.watched == 0
    assert len(widget.weights) < 250_000 and len(widget.images) == 30 * 28 * 28
    widget.close()
    model, params, support, queries = shipped
    y = torch.arange(5).repeat_interleave(5)

    def right(index):
        return int((call(model, params, queries[index]).argmax(1) == y[index]).sum())

    assert all(right(list(range(r, 25, 5))) == 5 for r in range(5))  # one of each class
    assert sum(right(list(range(5 * k, 5 * k + 5))) for k in range(5)) <= 8  # one class only
    norm = batch_statistics(torch.nn.functional.conv2d(support, params["convs.0.weight"], stride=2))
    assert norm.mean.shape == (64,)


def small(ways=3, queries=2, channels=1, size=16, **options):
    model = Conv4(ways, filters=4, size=size, channels=channels, **options)
    params = {name: p.detach() for name, p in model.named_parameters()}
    x = torch.rand(ways * (1 + queries), channels, size, size)
    y = torch.arange(ways)
    return model, params, Episode(x[:ways], y, x[ways:], y.repeat_interleave(queries))


def test_any_strided_network_and_any_small_episode():
    model, params, episode = small(gamma=True, spatial_mean=False)
    widget = QueryBatch(model, params, episode, batch=[5, 1, 1], watched=4)
    assert widget.batch == [1, 5] and widget.watched == 4
    assert widget.setup["network"]["gamma"] and not widget.setup["network"]["spatialMean"]
    widget.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, p, e: {"model": m}, "or none of them"),
        (lambda m, p, e: {"model": m, "params": p, "episode": e, "batch": [6]}, "from 0 to 5"),
        (lambda m, p, e: {"model": m, "params": p, "episode": e, "watched": -1}, "from 0 to 5"),
        (lambda m, p, e: {"model": m, "params": {**p, "x": p["head.bias"]}, "episode": e}, "not those of"),
        (
            lambda m, p, e: {
                "model": m,
                "params": {**p, "head.bias": 1e6 + p["head.bias"]},
                "episode": e,
            },
            "not all finite",
        ),
        (
            lambda m, p, e: {
                "model": m,
                "params": p,
                "episode": e._replace(query_y=e.query_y.flip(0)),
            },
            "sorted by class",
        ),
    ],
)
def test_what_the_lab_cannot_show_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        QueryBatch(**change(*small()))


@pytest.mark.parametrize(
    "options",
    [{"downsample": "max_pool"}, {"batch_norm": False}, {"bias": True}, {"ways": 6}, {"channels": 3}],
    ids=str,
)
def test_networks_and_episodes_that_the_lab_does_not_compute_are_refused(options):
    with pytest.raises(UserError, match="the lab (computes|shows)"):
        QueryBatch(*small(**options))


# -- the page ----------------------------------------------------------------------------------------------------------


def opened(open_lab, **options):
    lab = open_lab("query-batch", **options)
    lab.wait_for("state.ready")
    return lab.page, lab


def tile(lab, drawing, letter):
    return lab.control("button", f"drawing {drawing} of {letter} in the batch")


@pytest.mark.site
def test_mouse(open_lab, shipped):
    page, lab = opened(open_lab)
    opening = lab.state()
    assert opening["batch"] == [0, 5, 10, 15, 20] and opening["right"][0] == 5
    judge(opening, shipped)

    tile(lab, 1, "C").click()
    without = lab.state()
    assert without["batch"] == [0, 5, 15, 20] and without["watched"] == 10
    judge(without, shipped)
    tile(lab, 2, "A").click()
    assert lab.state()["batch"] == [0, 1, 5, 15, 20]

    lab.press("One class only")
    one = lab.state()
    assert one["batch"] == [0, 1, 2, 3, 4] and one["right"][0] < one["right"][1]
    judge(one, shipped)
    words = lab.root.locator(".mlb-sentence").inner_text()
    assert words.startswith(
        f"5 drawings are in the batch. Right with statistics of the batch: {one['right'][0]};"
    )

    for name, batch in (
        ("All 25", list(range(25))),
        ("This one alone", [1]),
        ("One of each class", [1, 6, 11, 16, 21]),
        ("Empty", []),
    ):
        lab.press(name)
        assert lab.state()["batch"] == batch
        judge(lab.state(), shipped)
    assert "empty" in lab.root.locator(".mlb-sentence").inner_text()
    lab.press("5 at random")
    drawn = lab.state()
    assert len(drawn["batch"]) == 5
    judge(drawn, shipped)
    # what is drawn is what the state says
    pressed = lab.root.locator('.mlb-tile[aria-pressed="true"]')
    assert pressed.count() == 5
    wrong = lab.root.locator(".mlb-tile .mlb-said > span:first-child.mlb-wrong")
    assert wrong.count() == 5 - drawn["right"][0]


@pytest.mark.site
def test_keyboard_alone(open_lab, shipped):
    page, lab = opened(open_lab, reduced_motion=True)
    tile(lab, 1, "A").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    state = lab.state()
    assert state["watched"] == 6 and state["batch"] == [0, 5, 10, 15, 20]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "drawing 2 of B in the batch"
    page.keyboard.press("Space")
    state = lab.state()
    assert state["batch"] == [0, 5, 6, 10, 15, 20]
    judge(state, shipped)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # the first row is the end
    page.keyboard.press("Enter")
    assert lab.state()["batch"] == [0, 6, 10, 15, 20]
    page.keyboard.press("Tab")  # one stop for all queries
    assert page.evaluate("document.activeElement.textContent") == "One of each class"
    page.keyboard.press("Space")
    assert lab.state()["batch"] == [0, 5, 10, 15, 20]
    page.wait_for_function(
        "document.querySelector('[data-lab=\"query-batch\"] [role=status]').textContent.startsWith('5 drawings are')"
    )
    assert tile(lab, 1, "B").get_attribute("aria-description").startswith("with statistics of the batch: B")


@pytest.mark.site
def test_touch_on_a_phone(open_lab, shipped):
    page, lab = opened(open_lab, width=390, height=844)
    tile(lab, 3, "E").tap()
    state = lab.state()
    assert state["batch"] == [0, 5, 10, 15, 20, 22]
    judge(state, shipped)
    box = tile(lab, 3, "E").bounding_box()
    assert min(box["width"], box["height"]) >= 44  # a finger's width
    lab.control("button", "One class only").tap()
    assert lab.state()["batch"] == [20, 21, 22, 23, 24]
    lab.assert_fits(390)
