"""The lab "One task, 120 orders": its JavaScript under Node and its page in a browser; PyTorch is the judge of both."""

from itertools import permutations

import numpy as np
import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.data import glyphs
from mlbook.errors import UserError
from mlbook.meta_learners import MAML
from mlbook.models import MLP, Conv4
from mlbook.models.conv4 import head_names
from mlbook.pages.labs import RelabelClasses
from mlbook.tasks import FewShot
from mlbook.training.relabelling import accuracies, relabelled_logits, shared_head

WAYS, Q = 5, 5


def small(n_way=WAYS, queries=Q, k_shot=1, tasks=2):
    model = Conv4(n_way, filters=6)
    learner = MAML(model, inner_lr=0.7, names=head_names(model))
    meta = learner.init(torch.Generator().manual_seed(0)).meta
    few = FewShot(glyphs.load("test", "none"), n_way, k_shot, queries)
    return learner, meta, [few.sample(1, torch.Generator().manual_seed(s)).task(0) for s in range(tasks)]


def carried(widget):
    """What travels in the page, in double precision: the head alone as a learner, its start, and features by task."""
    setup = widget.setup
    N, D = setup["ways"], setup["features"]
    rows = torch.from_numpy(np.frombuffer(widget.head_weights, "<f4").astype("float64"))
    vectors = torch.from_numpy(np.frombuffer(widget.vectors, "<f4").astype("float64"))
    model = MLP((D, N))
    weight, bias = (name for name, _ in model.named_parameters())
    meta = {"params": {weight: rows[: N * D].view(N, D), bias: rows[N * D :]}}
    return MAML(model, inner_lr=setup["rate"]), meta, (weight, bias), vectors.view(setup["tasks"], -1, D)


def judge(state, widget):
    """Every dot of the lab and every answer follow from the package's inner loop on the features."""
    learner, meta, names, vectors = carried(widget)
    N = widget.setup["ways"]
    if state["head"] != "as trained":
        meta = shared_head(meta, names)
    support, query = vectors[state["task"]].split([N, len(vectors[0]) - N])
    y = torch.arange(N).repeat_interleave(len(query) // N)
    right = []
    for order in permutations(range(N)):
        numbers = torch.tensor([order.index(c) for c in range(N)])
        *_, adapted = learner.path(meta, support, numbers, state["step"])
        said = torch.tensor(order)[learner.predict(adapted, query).argmax(1)]
        right.append(float((said == y).double().mean()))
        if list(order) == state["order"] and "said" in state:
            assert state["said"] == said.tolist() and state["right"] == int((said == y).sum())
    assert state["all"] == pytest.approx(right, abs=1e-12)
    return right


RUN = """
    const setup = data.setup, view = (bytes) => new DataView(Uint8Array.from(bytes).buffer);
    const { head, tasks } = lab.unpackTasks(setup, view(data.weights), view(data.vectors));
    const start = data.shared ? lab.alike(head) : head, task = tasks[data.task], orders = lab.allOrders(setup.ways);
    const order = orders[37], labels = task.support.map((_, c) => order.indexOf(c));
    const adapted = lab.adaptHead(start, task.support, labels, setup.rate, data.step);
    console.log(JSON.stringify({
      all: lab.shares(start, task, orders, setup.rate, data.step), order,
      logits: task.queries.map((f) => lab.logitsOf(adapted, f)),
    }));
"""


@pytest.mark.parametrize(
    ("task", "step", "shared"), [(0, 3, False), (1, 10, False), (1, 1, True), (0, 0, False)]
)
def test_the_inner_loop_on_the_head_equals_pytorch(tmp_path, task, step, shared):
    widget = RelabelClasses(*small())
    data = {"setup": widget.setup, "weights": list(widget.head_weights), "vectors": list(widget.vectors)}
    found = run_node(tmp_path, widget, RUN, data | {"task": task, "step": step, "shared": shared})
    head = "all rows alike" if shared else "as trained"
    judge({"task": task, "step": step, "head": head, "order": found["order"], "all": found["all"]}, widget)
    learner, meta, names, vectors = carried(widget)
    meta = shared_head(meta, names) if shared else meta
    labels = torch.tensor([found["order"].index(c) for c in range(WAYS)])
    *_, adapted = learner.path(meta, vectors[task, :WAYS], labels, step)
    assert_close(found["logits"], learner.predict(adapted, vectors[task, WAYS:]), 1e-9)
    if shared:
        assert len(set(found["all"])) == 1
    widget.close()


def test_the_shipped_tasks_are_the_packages(tmp_path):
    """The 120 dots of every task are what ANIL's own inner loop gives under the support set's statistics."""
    from mlbook.pages.labs import relabel_classes

    learner, meta, tasks = relabel_classes.shipped_tasks()
    widget = RelabelClasses()
    its_learner, its_meta, _, vectors = carried(widget)
    spreads = []
    for task, f in zip(tasks, vectors, strict=True):
        logits = relabelled_logits(learner, meta, task, steps=3, batch_norm="support")
        *_, adapted = its_learner.path(its_meta, f[:WAYS], task.support_y, 3)
        torch.testing.assert_close(
            logits[0].double(), its_learner.predict(adapted, f[WAYS:]), rtol=1e-4, atol=1e-3
        )
        found = accuracies(logits, task.query_y)
        spreads.append(float(found.max() - found.min()))
    assert max(spreads) >= 0.12  # three queries of 25 and more
    widget.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, b, c: {"learner": a}, "a learner, its meta-parameters and tasks, or none"),
        (lambda a, b, c: {"learner": a, "meta": b, "tasks": c, "order": [0, 0, 1, 2, 3]}, "names each class"),
        (lambda a, b, c: {"learner": a, "meta": b, "tasks": c, "step": 11}, "step must be a whole number"),
        (lambda a, b, c: {"learner": a, "meta": b, "tasks": c, "head": "new"}, "head must be one of"),
        (lambda a, b, c: {"learner": a, "meta": b, "tasks": []}, "1 to 4 tasks"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        RelabelClasses(**change(*small()))


def test_two_shots_are_refused():
    with pytest.raises(UserError, match="one support image of each class"):
        RelabelClasses(*small(k_shot=2))


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    widget = RelabelClasses()
    yield widget
    widget.close()


@pytest.mark.site
def test_mouse(open_lab, shipped):
    lab = open_lab("relabel-classes")
    opening = lab.state()
    assert opening["order"] == [0, 1, 2, 3, 4] and opening["step"] == 3
    judge(opening, shipped)
    lab.control("button", "Row 1: class A").click()
    assert lab.state()["picked"] == 0
    lab.control("button", "Row 3: class C").click()
    swapped = lab.state()
    assert swapped["order"] == [2, 1, 0, 3, 4] and swapped["picked"] is None
    judge(swapped, shipped)
    lab.press("Worst order")
    worst = lab.state()
    assert worst["right"] == round(25 * worst["worst"])
    judge(worst, shipped)
    assert lab.root.locator(".mlb-asked > .mlb-wrong").count() == 25 - worst["right"]
    lab.press("Best order")
    best = lab.state()
    assert best["right"] == round(25 * best["best"]) >= worst["right"]
    assert lab.root.locator("circle.mlb-order").count() == 120
    lab.control("radio", "all rows alike").check()
    same = lab.state()
    assert len(set(same["all"])) == 1
    judge(same, shipped)
    lab.press("Another task")
    lab.slide("inner steps", 10)
    judge(lab.state(), shipped)


@pytest.mark.site
def test_keyboard_alone(open_lab, shipped):
    lab = open_lab("relabel-classes", reduced_motion=True)
    lab.control("button", "Row 1: class A").focus()
    lab.page.keyboard.press("ArrowRight")
    state = lab.state()
    assert state["order"] == [1, 0, 2, 3, 4]
    assert lab.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Row 2: class A"
    lab.page.keyboard.press("Enter")
    lab.page.keyboard.press("Tab")
    lab.page.keyboard.press("Space")
    assert lab.state()["order"] == [1, 2, 0, 3, 4]
    judge(lab.state(), shipped)
    lab.page.wait_for_function(
        "document.querySelector('[data-lab=\"relabel-classes\"] [role=status][aria-live]').textContent.startsWith('This order')"
    )


@pytest.mark.site
def test_touch_on_a_phone(open_lab, shipped):
    lab = open_lab("relabel-classes", width=390, height=844)
    lab.control("button", "Row 5: class E").tap()
    lab.control("button", "Row 4: class D").tap()
    assert lab.state()["order"] == [0, 1, 2, 4, 3]
    box = lab.control("button", "Row 4: class E").bounding_box()
    assert min(box["width"], box["height"]) >= 44
    lab.control("button", "Another order").tap()
    judge(lab.state(), shipped)
    lab.assert_fits(390)
