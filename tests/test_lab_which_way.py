"""The lab "Which way does φ move?": its arithmetic under Node, then the lab on its page; PyTorch is the judge of both."""

import math

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import adapt, inner_path
from mlbook.pages.labs import WhichWay
from mlbook.pages.labs.which_way import METHODS, SURFACES

PLACES = [
    {"surface": surface, "phi": phi, "alpha": alpha, "steps": steps}
    for surface in SURFACES
    for phi, alpha, steps in [((-0.9, -1.6), 0.15, 3), ((2.1, 1.3), 0.05, 1), ((-3.7, 2.9), 0.22, 10)]
]
CENTRES = [[-1.6, 0.8], [2.3, 0.7]]


def losses_of(state):
    """The losses of the two tasks as functions of {"phi": [2]}."""
    valleys = SURFACES[state["surface"]]
    return [valley.loss(centre) for valley, centre in zip(valleys, state["centres"], strict=True)]


def judged(state):
    """Inner paths [2, N+1, 2] and the four updates, through the inner loop that trains."""
    params = {"phi": torch.tensor(state["phi"], dtype=torch.float64)}
    options = {"inner_lr": state["alpha"], "steps": state["steps"]}
    updates, paths = {name: torch.zeros(2, dtype=torch.float64) for name in METHODS}, []
    for loss in losses_of(state):
        end = adapt(loss, params, **options)
        paths.append(torch.stack([p["phi"] for p in inner_path(loss, params, **options)]))
        for name, first_order in (("maml", False), ("fomaml", True)):
            gradient = torch.func.grad(
                lambda p, loss=loss, f=first_order: loss(adapt(loss, p, **options, first_order=f))
            )
            updates[name] -= gradient(params)["phi"] / 2
        updates["pretraining"] -= torch.func.grad(loss)(params)["phi"] / 2
        updates["reptile"] += (end["phi"] - params["phi"]) / state["alpha"] / 2
    return torch.stack(paths), updates


def judge(state):
    """All numbers that the page says of the updates equal PyTorch's."""
    paths, updates = judged(state)
    assert_close(state["paths"], paths, 1e-7)
    assert list(state["directions"]) == list(METHODS)
    for name, wanted in updates.items():
        assert_close(state["directions"][name], wanted, 1e-7)
        angle = torch.atan2(wanted[1], wanted[0]) - torch.atan2(
            updates["pretraining"][1], updates["pretraining"][0]
        )
        off = math.remainder(math.radians(state["angles"][name]) - float(angle), 2 * math.pi)
        assert abs(off) < 1e-6


# -- the arithmetic --------------------------------------------------------------------------------------------------


def in_node(tmp_path, places, expression):
    """The value of a JavaScript expression at each place."""
    source = f"""const limits = [[-4, 4], [-3, 3]];
    console.log(JSON.stringify(data.places.map(({{ surface, phi, alpha, steps }}) => {{
        const tasks = data.surfaces[surface].map((shape, i) => ({{ ...shape, centre: data.centres[i] }}));
        return {expression};
    }})));"""
    data = {"surfaces": WhichWay().setup["surfaces"], "places": places, "centres": CENTRES}
    return run_node(tmp_path, WhichWay, source, data)


def test_loss_gradient_and_hessian_equal_pytorch(tmp_path):
    found = in_node(tmp_path, PLACES, "tasks.map((task) => lab.lossAt(task, phi))")
    for place, both in zip(PLACES, found, strict=True):
        phi = torch.tensor(place["phi"], dtype=torch.float64)
        for ours, task_loss in zip(both, losses_of({**place, "centres": CENTRES}), strict=True):

            def loss(phi, task_loss=task_loss):
                return task_loss({"phi": phi})

            assert_close([ours["loss"]], [float(loss(phi))])
            assert_close(ours["gradient"], torch.func.grad(loss)(phi))
            xx, xy, yy = ours["hessian"]
            assert_close([[xx, xy], [xy, yy]], torch.func.jacrev(torch.func.grad(loss))(phi))


def test_inner_paths_and_the_four_updates_equal_pytorch(tmp_path):
    found = in_node(tmp_path, PLACES, "lab.directions(tasks, phi, alpha, steps)")
    for place, ours in zip(PLACES, found, strict=True):
        paths, updates = judged({**place, "centres": CENTRES})
        assert_close(ours["paths"], paths)
        for name, wanted in updates.items():
            assert_close(ours[name], wanted)


WALKS = f"{list(METHODS)}.map((method) => lab.outerPath(tasks, phi, alpha, steps, method, limits, most))"


def test_a_walk_equals_outer_steps_in_pytorch(tmp_path):
    place = PLACES[3]
    [walks] = in_node(tmp_path, [place], WALKS.replace("most", "8"))
    for method, found in zip(METHODS, walks, strict=True):
        state, walk = {**place, "centres": CENTRES}, [list(place["phi"])]
        for _ in range(8):
            update = 0.2 * judged(state)[1][method] / (state["steps"] if method == "reptile" else 1)
            state = {**state, "phi": (torch.tensor(state["phi"], dtype=torch.float64) + update).tolist()}
            walk.append(state["phi"])
        assert_close(found, walk)


def test_on_bowls_a_walk_ends_where_the_mean_update_vanishes(tmp_path):
    """On quadratic tasks that point solves a linear system, found here from the updates at three places."""
    state = {**PLACES[0], "centres": CENTRES}
    [walks] = in_node(tmp_path, [PLACES[0]], WALKS.replace(", most", ""))
    at0, at1, at2 = (judged({**state, "phi": phi})[1] for phi in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    for method, walk in zip(METHODS, walks, strict=True):
        matrix = torch.stack([at1[method] - at0[method], at2[method] - at0[method]], 1)
        assert_close(
            walk[-1], torch.linalg.solve(matrix, -at0[method]), 1e-3
        )  # it stops when a step is below 1e-6


def test_one_inner_step_of_reptile_is_pre_training(tmp_path):
    [found] = in_node(tmp_path, [{**PLACES[4], "steps": 1}], "lab.directions(tasks, phi, alpha, steps)")
    assert_close(found["reptile"], found["pretraining"])


def test_contours_lie_on_their_level_and_a_walk_stays_in_the_picture(tmp_path):
    places = [PLACES[0], PLACES[3]]
    found = in_node(tmp_path, places, "tasks.map((task) => lab.contour(task, 1.5))")
    for place, lines in zip(places, found, strict=True):
        for loss, points in zip(losses_of({**place, "centres": CENTRES}), lines, strict=True):
            assert_close(loss_of(loss, points), [1.5] * len(points))
    expression = "lab.outerPath(tasks, [3.9, -2.9], 2.0, 3, 'fomaml', limits)"  # an α far too large
    [walk] = in_node(tmp_path, [PLACES[0]], expression)
    assert all(abs(x) <= 4 and abs(y) <= 3 for x, y in walk)


def loss_of(loss, points):
    return [float(loss({"phi": torch.tensor(point, dtype=torch.float64)})) for point in points]


# -- what Python hands over ------------------------------------------------------------------------------------------


def test_it_opens_without_arguments():
    widget = WhichWay()
    assert (widget.alpha, widget.steps, widget.surface) == (0.15, 3, "bowls")
    widget.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.9}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"steps": 0}, "from 1 to 10"),
        ({"phi": (0, 5)}, "phi"),
        ({"phi": (0, 0, 0)}, "phi"),
        ({"centres": ((0, 0),)}, "two"),
        ({"centres": ((0, 0), (9, 0))}, "centre"),
        ({"surface": "hills"}, "bowls"),
        ({"method": "MAML"}, "one of pretraining"),
        ({"hidden": ["sgd"]}, "one of pretraining"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        WhichWay(**options)


# -- on the page -----------------------------------------------------------------------------------------------------

PHI = "The initialisation φ"


@pytest.mark.site
def test_mouse_sliders_and_toggles(open_lab):
    lab = open_lab("which-way")
    opening = lab.state()
    judge(opening)
    assert lab.root.locator(".mlb-arrow").count() == 4

    lab.show(PHI)
    x, y = lab.centre(PHI)
    lab.drag(PHI, 60, -40)
    dragged = lab.state()
    assert dragged["phi"][0] > opening["phi"][0] + 0.3 and dragged["phi"][1] > opening["phi"][1] + 0.3
    assert lab.centre(PHI) == pytest.approx((x + 60, y - 40), abs=1.0)
    judge(dragged)

    lab.drag("Bottom of task B", -50, 30)
    moved = lab.state()
    assert moved["centres"][0] == opening["centres"][0] and moved["centres"][1] != opening["centres"][1]
    assert moved["phi"] == dragged["phi"]
    judge(moved)

    lab.slide("inner rate α", 0.3)
    lab.slide("inner steps N", 7)
    lab.control("radio", "bent valleys").check()
    changed = lab.state()
    assert (changed["alpha"], changed["steps"], changed["surface"]) == (0.3, 7, "bent valleys")

    lab.slide("inner rate α", 0.1)
    judge(lab.state())
    lab.control("checkbox", "Show FOMAML").uncheck()
    assert lab.state()["hidden"] == ["fomaml"]
    assert lab.root.locator(".mlb-arrow").count() == 3
    lab.control("checkbox", "Show FOMAML").check()
    assert lab.state()["hidden"] == []

    lab.press("Reset")
    assert (lab.state()["phi"], lab.state()["centres"]) == (opening["phi"], opening["centres"])


@pytest.mark.site
def test_arrow_lengths(open_lab):
    """The same length for all, or in proportion to the vectors; heads point where PyTorch says."""
    lab = open_lab("which-way")

    def arrows():
        script = """es => Object.fromEntries(es.map(e => {
            const [x0, y0, x1, y1] = [e.children[0], e.children[1]].flatMap(p =>
                p.getAttribute('d').match(/-?[\\d.]+/g).slice(0, 2).map(Number));
            return [e.dataset.method, [x1 - x0, y0 - y1]]; }))"""
        return lab.root.locator(".mlb-arrow").evaluate_all(script)

    for same in (True, False):
        lab.control("checkbox", "all arrows the same length").set_checked(same)
        state, drawn = lab.state(), arrows()
        assert state["same_length"] is same
        for name, vector in state["directions"].items():
            off = math.atan2(*drawn[name]) - math.atan2(*vector)
            assert abs(math.remainder(off, 2 * math.pi)) < 0.02
        ratio = math.hypot(*drawn["maml"]) / math.hypot(*drawn["reptile"])
        true = math.hypot(*state["directions"]["maml"]) / math.hypot(*state["directions"]["reptile"])
        assert ratio == pytest.approx(1.0 if same else true, abs=0.02)


@pytest.mark.site
def test_walks(open_lab):
    lab = open_lab("which-way", reduced_motion=True)
    lab.slide("inner rate α", 0.15)
    lab.slide("inner steps N", 3)  # with the one that the page opens with, Reptile is pre-training
    opening = lab.state()
    assert opening["ends"] == {} and lab.control("button", "Back to start").is_disabled()
    lab.press("One outer step")
    stepped = lab.state()
    update = judged(opening)[1]["maml"]
    assert_close(stepped["phi"], torch.tensor(opening["phi"], dtype=torch.float64) + 0.2 * update)
    judge(stepped)

    places = {}
    for method, name in zip(METHODS, ("pre-training", "FOMAML", "MAML", "Reptile"), strict=True):
        lab.press("Back to start")
        assert lab.state()["phi"] == opening["phi"]
        lab.control("radio", f"Walk with {name}").check()
        lab.press("Run")
        state = lab.state()
        assert state["running"] is False, "with reduced motion nothing is animated"
        places[method] = state["phi"]
        assert state["walked"][method] > 20
        assert judged(state)[1][method].norm() < 1e-2 * judged(opening)[1][method].norm()
    assert len(lab.state()["walked"]) == 4 and lab.root.locator(".mlb-trail").count() == 4

    lab.control("checkbox", "trace all four walks from here").check()
    for method, end in lab.state()["ends"].items():
        assert_close(end, places[method], 1e-6)
    far = [math.dist(places[a], places[b]) for a in METHODS for b in METHODS if a < b]
    assert min(far) > 0.3, "four methods, four places"

    lab.press("Back to start")
    lab.drag(PHI, 20, -20)
    assert lab.state()["walked"] == {} and lab.root.locator(".mlb-trail").count() == 0


@pytest.mark.site
def test_run_is_animated_and_can_be_paused(open_lab):
    lab = open_lab("which-way")
    lab.press("Run")
    lab.wait_for("state.running && state.walked.maml > 10")
    lab.press("Pause")
    state = lab.state()
    assert not state["running"] and 10 < state["walked"]["maml"] < 400
    lab.press("Run")
    lab.wait_for("!state.running")
    assert lab.state()["walked"]["maml"] > state["walked"]["maml"]


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("which-way", reduced_motion=True)
    page, before = lab.page, lab.state()
    lab.point("Bottom of task A").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == PHI
    lab.assert_marked(lab.point(PHI))
    for key in ("ArrowUp", "ArrowUp", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    state = lab.state()
    (x, y), (ax, ay) = before["phi"], before["centres"][0]
    assert state["phi"] == pytest.approx([x - 0.5, y + 0.2], abs=0.011)
    assert state["centres"][0] == pytest.approx([ax + 0.1, ay], abs=0.011)
    judge(state)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "One outer step"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert lab.state()["walked"] == {"maml": 1}
    page.wait_for_function(
        f"document.querySelector('{lab.selector} [role=status]').textContent.includes('the update of Reptile is turned')"
    )
    label = lab.root.locator("svg[role=group]").get_attribute("aria-label")
    assert "bottoms at" in label and "MAML" in label


@pytest.mark.site
def test_divergence_is_said(open_lab):
    """With α above 2 divided by the largest curvature, 2.6 and 3 here, inner steps lead away; the losses tell."""
    lab = open_lab("which-way")
    sentence = lab.root.locator(".mlb-sentence")
    assert "too large" not in sentence.text_content()
    lab.slide("inner rate α", 0.8)
    lab.slide("inner steps N", 10)
    state = lab.state()
    judge(state)
    raised = []
    for name, loss, path in zip("AB", losses_of(state), judged(state)[0], strict=True):
        if loss({"phi": path[-1]}) > loss({"phi": path[0]}):
            raised.append(f"task {name}")
    assert raised
    assert f"raise the loss of {' and of '.join(raised)}: α is too large there" in sentence.text_content()


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("which-way", width=390, height=844)
    before = lab.state()["phi"]
    lab.touch(PHI, 40, -40)
    state = lab.state()
    assert state["phi"][0] > before[0] + 0.3 and state["phi"][1] > before[1] + 0.3
    judge(state)
    lab.control("button", "One outer step").tap()
    assert lab.state()["walked"] == {"maml": 1}
