"""The lab "One real task": its JavaScript under Node, then the lab on its page; PyTorch on the same numbers is the judge."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners import LinearHead
from mlbook.pages.labs import RealEpisode, real_episode

TRAITS = ("classes", "shots", "draw", "latent", "finetuning", "shown")
PLACES = [
    {"classes": [1, 3, 7, 14, 18], "shots": 1, "draw": 0, "latent": 5, "finetuning": 5},
    {"classes": [19, 0, 4, 2, 11], "shots": 1, "draw": 3, "latent": 10, "finetuning": 0},
    {"classes": [2, 3, 5, 6, 8], "shots": 5, "draw": 1, "latent": 3, "finetuning": 2},
    {"classes": [4, 9, 12, 15, 17], "shots": 5, "draw": 2, "latent": 0, "finetuning": 10},
]


def judged(state):
    """Accuracies, support losses and answers in double precision, on the numbers that the page carries."""
    learner, meta = real_episode.shipped_leo()
    learner = replace(learner, latent_steps=state["latent"], finetuning_steps=state["finetuning"])
    x = F.normalize(real_episode.features_in_bytes().double(), dim=-1)[state["classes"]]
    first = state["draw"] * real_episode.PER_DRAW
    taken = range(first, first + real_episode.PER_DRAW)
    support = x[:, first : first + state["shots"]].flatten(0, 1)
    query = x[:, [i for i in range(x.shape[1]) if i not in taken]].flatten(0, 1)
    labels, truth = (torch.arange(5).repeat_interleave(len(t) // 5) for t in (support, query))
    path = [
        p["w"]
        for p in learner.path(
            real_episode.rounded(meta), support, labels, state["latent"] + state["finetuning"]
        )
    ]
    near = LinearHead(5)
    (centroid,) = near.path({"params": {"scale": torch.tensor(1.0).double()}}, support, labels, 0)

    def answers(w):
        return F.one_hot(truth).t() @ F.one_hot((query @ w.t()).argmax(1), 5)

    right = lambda w, x, y: float(((x @ w.t()).argmax(1) == y).double().mean())  # noqa: E731
    return {
        "w": path[-1],
        "query": [right(w, query, truth) for w in path],
        "support": [right(w, support, labels) for w in path],
        "loss": [float(F.cross_entropy(support @ w.t(), labels, reduction="sum")) for w in path],
        "centroid": right(centroid["w"], query, truth),
        "tables": {"leo": answers(path[-1]), "centroid": answers(centroid["w"])},
    }


def judge(state):
    wanted = judged(state)
    for name in ("w", "loss"):
        assert_close(state[name], wanted[name], 1e-5)
    for name in ("query", "support", "centroid"):
        assert state[name] == pytest.approx(wanted[name], abs=1e-9)
    for name, table in wanted["tables"].items():
        assert torch.equal(torch.tensor(state["tables"][name]), table)


def test_every_step_equals_pytorch(tmp_path):
    """From the bytes that the widget carries to the accuracies and answers that the reader sees."""
    widget = RealEpisode()
    source = """
        const bytes = (list) => { const all = Uint8Array.from([7, ...list]); return new DataView(all.buffer, 1); };
        const features = Uint8Array.from(data.features), pictures = lab.picturesOf(features, data.setup.network);
        const net = lab.netOf(bytes(data.weights), data.setup.network);
        console.log(JSON.stringify(data.states.map((now) => ({ ...now, ...lab.followed(net, pictures, now) }))));
    """
    data = {
        "setup": widget.setup,
        "states": PLACES,
        "weights": list(widget.weights),
        "features": list(widget.features),
    }
    for state in run_node(tmp_path, RealEpisode, source, data):
        judge(state)


def test_always_five_classes(tmp_path):
    source = "console.log(JSON.stringify([lab.pressed([1, 2, 3, 4, 5], 7), lab.pressed([1, 2, 3, 4, 5], 4)]))"
    assert run_node(tmp_path, RealEpisode, source) == [[2, 3, 4, 5, 7], [1, 2, 3, 4, 5]]


def test_what_the_widget_hands_over():
    widget = RealEpisode(classes=(4, 3, 2, 1, 0), shots=5, latent=2, finetuning=1, shown="centroid")
    assert (widget.classes, widget.shots, widget.latent) == ([4, 3, 2, 1, 0], 5, 2)
    assert len(widget.weights) + len(widget.features) < 300_000, "the page has to stay light"
    assert len(widget.setup["names"]) == len(set(widget.setup["names"])) == 20
    learner, meta = real_episode.shipped_leo()
    for wrong in (
        {"classes": (0, 1, 2, 3)},
        {"classes": (0, 1, 2, 3, 3)},
        {"classes": (0, 1, 2, 3, 20)},
        {"shots": 2},
        {"latent": 11},
        {"shown": "both"},
        {"learner": learner},
        {"learner": replace(learner, n_way=3), "meta": meta},
    ):
        with pytest.raises(UserError):
            RealEpisode(**wrong)


def test_rounding_moves_no_accuracy():
    """Weights and features as they are and as the page has them: the same picture of LEO over many tasks."""
    learner, meta = real_episode.shipped_leo()
    from mlbook.data import feature_sets
    from mlbook.data.pools import FeaturePool
    from mlbook.tasks import FewShotFeatures
    from mlbook.training.evaluation import fixed_scores

    pool, _ = feature_sets.sample()
    page = FeaturePool(real_episode.features_in_bytes().float())
    plain = FeaturePool(pool.features[:, : real_episode.PICTURES])
    small = {
        group: {n: p.float() for n, p in its.items()} for group, its in real_episode.rounded(meta).items()
    }
    options = {"n_tasks": 60, "steps": 10, "scored_steps": (10,)}
    before = fixed_scores(learner, meta, FewShotFeatures(plain, 5, 1, 15), **options)
    after = fixed_scores(learner, small, FewShotFeatures(page, 5, 1, 15), **options)
    assert float((before - after).mean().abs()) < 0.005


# -- on the page -------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_alive_on_load_and_under_the_mouse(open_lab):
    lab = open_lab("real-episode")
    state = lab.state()
    judge(state)
    assert state["latent"] == state["finetuning"] == 0
    lab.press("One latent step")
    stepped = lab.state()
    judge(stepped)
    assert stepped["latent"] == 1 and stepped["loss"][1] < stepped["loss"][0]
    lab.slide("latent steps", 5)
    lab.press("One fine-tuning step")
    judge(lab.state())
    lab.control("button", "lion").click()
    changed = lab.state()
    judge(changed)
    assert changed["classes"] == [*state["classes"][1:], 6] and changed["latent"] == 0
    assert lab.root.locator(".mlb-chip[aria-pressed=true]").count() == 5
    lab.press("Furry animals")
    lab.control("radio", "5").click()
    lab.slide("latent steps", 5)
    furry = lab.state()
    judge(furry)
    lab.press("Things apart")
    lab.slide("latent steps", 5)
    apart = lab.state()
    judge(apart)
    assert apart["query"][-1] > furry["query"][-1], "classes that look alike are harder"
    lab.control("radio", "the nearest centroid").click()
    centroid = lab.state()["tables"]["centroid"]  # which waits until it is drawn
    cells = lab.root.locator(".mlb-answers tbody tr:first-child td").all_text_contents()
    assert [int(c) for c in cells[:5]] == centroid[0]
    lab.press("Other support pictures")
    judge(lab.state())
    lab.press("Five at random")
    assert len(set(lab.state()["classes"])) == 5
    lab.press("Reset")
    assert {name: lab.state()[name] for name in TRAITS} == {name: state[name] for name in TRAITS}


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("real-episode", reduced_motion=True)
    page = lab.page
    lab.control("button", "One latent step").focus()
    page.keyboard.press("Space")
    assert lab.state()["latent"] == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    state = lab.state()
    assert state["finetuning"] == 1
    judge(state)
    page.wait_for_function(
        f"document.querySelector('{lab.selector} [role=status]').textContent.includes('Nearest centroid')"
    )
    assert "nearest centroid" in lab.root.locator("svg.mlb-plot").get_attribute("aria-label")


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("real-episode", width=390, height=844)
    lab.control("button", "trifle").tap()
    state = lab.state()
    assert 19 in state["classes"]
    judge(state)
