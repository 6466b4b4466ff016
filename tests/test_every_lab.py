"""What is asked of every lab alike; what each lab does is in the file of its name."""

import re

import pytest
from browser import by_night
from lab_page import PAGES

from mlbook.pages import labs

LARGE = {
    "ChoiceGradients",
    "DrawCharacters",
    "FindTheGoal",
    "LatentMap",
    "OptimizerRace",
    "RealEpisode",
    "TrainMaml",
    "TwoManifolds",
    "YouAgainstMaml",
}


@pytest.mark.parametrize("name", labs.__all__)
def test_a_lab_is_one_module_without_imports_and_addresses_and_it_is_small(name):
    source, style = getattr(labs, name)._esm, getattr(labs, name)._css
    assert not re.search(r"^\s*import\b|\bimport\(|\brequire\(", source, re.MULTILINE)
    assert set(re.findall(r"https?://[^\"'`\s]+", source + style)) == {"http://www.w3.org/2000/svg"}
    assert "export default" in source  # that no name is declared twice, Node and the browser check
    assert len(source.encode()) < (48_000 if name in LARGE else 40_000)


def hand_in(lab):
    """A flat sketch, and all curves to the end."""
    pen = lab.root.get_by_role("slider")
    for _ in range(20):
        pen.press("Shift+ArrowRight")
    lab.press("Done")
    lab.wait_for("state.shown")


# What a reader must tell apart in each picture, and what is done before it can all be seen.
LINES = {
    "you-against-maml": ".mlb-sketch, .mlb-true, .mlb-legend svg path",
    "carried-over": ".mlb-curve, .mlb-answer, .mlb-typical, .mlb-legend path",
    "draw-characters": ".mlb-chance, .mlb-now, .mlb-weight:not([hidden])",
    "four-means": ".mlb-parabola, .mlb-weight, .mlb-grid svg, .mlb-marker",
    "adapt-sinusoid": "path.mlb-now, .mlb-choice .mlb-bar, .mlb-legend > span",
    "train-maml": "path.mlb-now, path.mlb-curve, .mlb-legend svg path",
    "missing-factor": ".mlb-loss, .mlb-inner, .mlb-gradient, .mlb-meta-loss, .mlb-legend path",
    "query-batch": ".mlb-said > span",
    "find-the-goal": ".mlb-curve, .mlb-trajectory",
    "two-families": ".mlb-curve, .mlb-task, .mlb-adapted, .mlb-start",
    "latent-map": ".mlb-query, .mlb-boundary, .mlb-before, .mlb-sample, .mlb-spread, .mlb-move, .mlb-drawn",
    "real-episode": ".mlb-curve, .mlb-legend path, .mlb-chip, .mlb-answers td",
    "two-terms": ".mlb-legend svg path, .mlb-choice .mlb-bar",
    "two-manifolds": ".mlb-legend svg path",
    "which-way": ".mlb-arrow, .mlb-contour, .mlb-grid svg, .mlb-lettered",
    "optimizer-race": ".mlb-legend svg path",
    "how-far-back": ".mlb-arrow, .mlb-legend svg path",
    "choice-gradients": ".mlb-legend svg path, .mlb-plot > svg path",
    "architecture-search": ".mlb-legend svg path, .mlb-fill",
    "stopped-early": ".mlb-legend svg path, .mlb-way, .mlb-inner, .mlb-error",
    "layers-and-steps": ".mlb-line, .mlb-legend svg path",
    "drifting-clients": ".mlb-legend svg path, .mlb-contour, .mlb-averaged",
    "relabel-classes": ".mlb-order, .mlb-order-now",
}
BEFORE = {
    "you-against-maml": lambda lab: hand_in(lab),
    "carried-over": lambda lab: lab.control("radio", "by hand").click(),
    "draw-characters": lambda lab: [lab.press("Another set") for _ in range(4)],
    "four-means": lambda lab: lab.slide("inner rate α", 0.9),
    "missing-factor": lambda lab: lab.slide("inner rate α", 0.4),
    "query-batch": lambda lab: (lab.wait_for("state.ready"), lab.press("One class only")),
    "find-the-goal": lambda lab: lab.press("Gradient step ▶"),
    "latent-map": lambda lab: (lab.press("5 latent steps"), lab.press("Draw 12 samples")),
    "real-episode": lambda lab: lab.slide("latent steps", 5),
    "architecture-search": lambda lab: lab.slide("children", 40),
}


def test_every_lab_of_the_package_is_asked():
    """All but the moving figure on the front page, which test_self_study.py operates."""
    assert set(PAGES) == {re.sub("(?<=.)([A-Z])", r"-\1", name).lower() for name in labs.__all__}
    assert set(LINES) == set(PAGES) - {"two-starts"}


@pytest.mark.site
@pytest.mark.parametrize("name", LINES)
def test_a_button_does_not_make_the_browser_style_the_whole_page_again(open_lab, name):
    """One :has() in a style sheet is enough for that; on a phone each step then takes a second."""
    lab = open_lab(name)
    first = lab.root.locator("button:enabled").locator("visible=true").first
    there = lab.page.evaluate("document.querySelectorAll('*').length")
    styled = lab.styled_again(first.click)
    assert 0 < styled < there / 4, (first.inner_text(), styled, there)


@pytest.mark.site
@pytest.mark.parametrize("name", LINES)
def test_everything_in_a_lab_stands_out_by_day_and_by_night(open_lab, name):
    lab = open_lab(name)
    if name in BEFORE:
        BEFORE[name](lab)
    if name == "draw-characters":
        lab.wait_for("state.ready")
    lab.state()
    for dark in (False, True):
        if dark:
            by_night(lab.page)
        lab.assert_contrast(dark=dark, lines=LINES[name])
        if name == "draw-characters":  # paper stays white
            for box in lab.root.locator(".mlb-surface").all():
                assert box.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"
        if name == "query-batch":  # a badge with a border
            badge = lab.root.locator(".mlb-tile .mlb-wrong").first
            assert badge.evaluate("e => getComputedStyle(e).borderTopColor") != "rgba(0, 0, 0, 0)"
