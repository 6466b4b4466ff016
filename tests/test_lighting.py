"""Linked lighting: a step in a lab lights the line of the algorithm's box, the line of code and the term of the formula."""

import re
import sys

import lab_page
import pytest
from browser import by_night
from package_fixtures import ROOT
from test_line_tags import NOTEBOOKS, markdown_of, tags_of_boxes

from mlbook.pages.labs import adapt_sinusoid, latent_map

sys.path.insert(0, str(ROOT / "book/_ext"))
import lighting  # noqa: E402

SITE = pytest.mark.site
STEPS = {
    "book/04_maml.html": (
        "adapt-sinusoid",
        "One inner step",
        ["MAML 5", "MAML 6", "MAML 7"],
        ["MAML 5", "MAML 6", "MAML 7"],
    ),
    "book/11_reptile.html": ("adapt-sinusoid", "One inner step back", ["REPTILE 3"], ["REPTILE 3"]),
    "book/09_leo.html": (
        "latent-map",
        "One latent step",
        ["LEO 7", "LEO 8", "LEO 9", "LEO 10"],
        ["LEO 9", "LEO 10"],
    ),
}
"""Page: lab, button, the lines that it runs, and those of them that stand in a formula."""


def lines_of(actions):
    return {tag for lines in actions.values() for tag, _ in lines}


def test_a_tagged_line_of_a_formula_becomes_a_class():
    tex = "x = y % [AB 1]\n  \\nabla L % [CD-EF 12]\n+ z % a comment\n"
    assert (
        lighting.lit(tex) == "\\class{line-ab-1}{x = y}\n\\class{line-cd-ef-12}{\\nabla L}\n+ z % a comment\n"
    )
    assert lighting.lit("50\\% [AB 1]") != lighting.lit("50") == "50"


def test_tags_of_labs_and_formulas_stand_in_a_box():
    boxes = {
        f"{prefix} {n}"
        for prefix, numbers in tags_of_boxes(map(markdown_of, NOTEBOOKS)).items()
        for n in numbers
    }
    labs = [*adapt_sinusoid.LINES.values(), latent_map.LINES]
    assert set().union(*map(lines_of, labs)) <= boxes
    formulas = {found["tag"] for path in NOTEBOOKS for found in lighting.TAGGED.finditer(markdown_of(path))}
    assert {"MAML 5", "LEO 9", "REPTILE 3"} <= formulas <= boxes


def test_what_a_plain_reader_sees_is_no_class_and_no_broken_paragraph():
    r"""To Jupyter, Colab and GitHub the tag is a comment: no \class, and no line that Markdown takes for its own."""
    for path in NOTEBOOKS:
        text = markdown_of(path)
        assert "\\class" not in text, path.name
        for block in re.findall(r"^\$\$$(.*?)^\$\$", text, re.MULTILINE | re.DOTALL):
            if lighting.TAGGED.search(block):
                assert not re.search(r"^\s*([-+*]|=+|\d+[.)])(\s|$)", block, re.MULTILINE), block


# What is lit: [place, text] of every element that bears the look, in the order of the page.
LIT = """() => [...document.querySelectorAll("[class*='line-']")]
    .filter(e => !e.closest("mjx-assistive-mml"))
    .filter(e => { const s = getComputedStyle(e); return s.outlineStyle === "solid" && parseFloat(s.outlineWidth) >= 2; })
    .map(e => [e.closest("pre") ? "code" : e.closest("mjx-container") ? "formula" : "box",
               [...e.classList].filter(c => c.startsWith("line-"))])"""


@SITE
@pytest.mark.parametrize("address", STEPS)
def test_a_step_lights_box_code_and_formula(open_page, address):
    name, button, lines, in_formulas = STEPS[address]
    page = open_page(address, reduced_motion=True)
    assert page.evaluate(LIT) == [], "nothing is lit before the reader has done anything"
    lab = lab_page.Lab(page, name)
    lab.press(button)
    wanted = {lighting.name_of(tag) for tag in lines}
    lit = page.evaluate(LIT)
    for place, expected in (
        ("box", wanted),
        ("code", wanted),
        ("formula", set(map(lighting.name_of, in_formulas))),
    ):
        assert {c for where, classes in lit if where == place for c in classes} & wanted == expected, place
    for _, classes in lit:
        assert wanted & set(classes), "and nothing else"

    place = lab.root.locator(".mlb-lines")
    assert place.locator("li code").all_inner_texts() == [f"[{tag}]" for tag in lines]
    for link in place.locator("a").all():
        assert page.locator(f"[id='{link.get_attribute('href')[1:]}']").count() == 1
    kinds = {tuple(item.locator("a").all_inner_texts()) for item in place.locator("li").all()}
    assert {kind for of in kinds for kind in of} == {"box", "formula", "code"}
    page.wait_for_function(f"document.querySelector('.lit-said').textContent.includes('{lines[0]}: ')")
    assert page.locator(".lit-said").get_attribute("role") == "status"
    assert page.problems == []


@SITE
def test_links_lead_there_and_the_steps_go_along(open_page):
    page = open_page("book/04_maml.html", reduced_motion=True)  # a smooth scroll may be broken off
    lab = lab_page.Lab(page, "adapt-sinusoid")
    lab.slide("inner step", 0)
    assert page.evaluate("document.documentElement.dataset.lit") == "MAML 4"
    lab.press("One inner step")
    for kind, inside in (("box", "div.algorithm"), ("formula", "div.math"), ("code", "pre")):
        link = lab.root.get_by_role("link", name=f"{kind} of MAML 5")
        link.focus()
        page.keyboard.press("Enter")
        target = page.locator(f"[id='{link.get_attribute('href')[1:]}']")
        page.wait_for_function(
            "e => { const b = e.getBoundingClientRect(); return b.top >= 40 && b.bottom <= innerHeight; }",
            arg=target.element_handle(),
        )
        assert target.evaluate(f"e => !!e.closest('{inside}')")
    bar = page.get_by_role("region", name="The lab's steps")
    before = lab.state()["step"]
    bar.get_by_role("button", name="Step").click()
    assert lab.state()["step"] == before + 1
    bar.get_by_role("link", name="back to the lab").click()
    assert bar.count() == 0
    page.wait_for_function("document.querySelector('[data-lab]').getBoundingClientRect().top < innerHeight")
    assert page.problems == []


@SITE
def test_other_actions_light_other_lines(open_page):
    page = open_page("book/04_maml.html", mathematics=False)
    lab = lab_page.Lab(page, "adapt-sinusoid")

    def lit():
        lab.settle()
        return page.evaluate("document.documentElement.dataset.lit")

    lab.press("New random task")
    assert lit() == "MAML 3"
    lab.root.get_by_role("radio", name="random", exact=True).check()
    assert lit() == "MAML 4"
    lab.slide("inner rate α", 0.01)
    assert lit() == "MAML 6, MAML 7"
    page.set_viewport_size({"width": 900, "height": 900})
    assert lit() == "MAML 6, MAML 7", "drawing anew is no action"

    page = open_page("book/09_leo.html", mathematics=False)
    lab = lab_page.Lab(page, "latent-map")
    for button, lines in (
        ("One fine-tuning step", "LEO 11"),
        ("Draw 12 samples", "LEO 4, LEO 5"),
        ("Encode: codes at the means", "LEO 1, LEO 2, LEO 3, LEO 5"),
    ):
        lab.press(button)
        assert lit() == lines
    lab.point("Code of class A").press("ArrowUp")
    assert lit() == "LEO 5"


# Contrasts of what is lit: of the edge with its surroundings, and of each piece of text with the lit ground.
CONTRASTS = """() => {
    const rgb = s => s.match(/[\\d.]+/g).map(Number);
    const light = c => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
                         return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
    const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                          if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
    const texts = e => [e, ...e.querySelectorAll("*")].filter(n => n.textContent.trim());
    return [...document.querySelectorAll(".line-maml-5, .line-maml-6, .line-maml-7")]
        .filter(e => !e.closest("mjx-assistive-mml"))
        .map(e => [ratio(rgb(getComputedStyle(e).outlineColor), ground(e.parentElement)),
                   Math.min(...texts(e).map(n => ratio(rgb(getComputedStyle(n).color), ground(n))))]);
}"""


@SITE
def test_what_is_lit_stands_out_and_can_be_read_by_day_and_by_night(open_page):
    page = open_page("book/04_maml.html", reduced_motion=True)
    lab_page.Lab(page, "adapt-sinusoid").press("One inner step")
    for dark in (False, True):
        if dark:
            by_night(page)
        found = page.evaluate(CONTRASTS)
        assert len(found) >= 10
        assert min(edge for edge, _ in found) >= 3, found
        assert min(text for _, text in found) >= 4.5, found


@SITE
@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("book/04_maml.html", "adapt-sinusoid"),
        ("book/09_leo.html", "latent-map"),
        ("book/12_expansion.html", "two-terms"),
    ],
)
def test_on_a_phone_the_plot_stays_in_view_while_the_controls_scroll(open_page, address, name):
    page = open_page(address, width=390, mathematics=False)
    page.set_viewport_size({"width": 390, "height": 844})
    lab = lab_page.Lab(page, name)
    lab.assert_fits(390)
    plot = lab.root.locator(".mlb-plot").first
    controls = lab.root.locator(".mlb-columns").locator("button:enabled, input").all()
    assert len(controls) >= 4
    bar = page.locator(".bd-header-article")
    for control in controls:
        control.evaluate("e => e.scrollIntoView({block: 'end', behavior: 'instant'})")
        box, picture, over = control.bounding_box(), plot.bounding_box(), bar.bounding_box()
        seen = min(picture["y"] + picture["height"], 844) - max(picture["y"], over["y"] + over["height"])
        assert seen >= 0.9 * picture["height"], control.evaluate("e => e.outerHTML")
        assert box["y"] >= picture["y"] + picture["height"] - 1, "and does not cover the control"
    # Past the lab the plot goes away with it.
    lab.root.evaluate(
        "e => scrollTo({top: e.getBoundingClientRect().bottom + scrollY + 50, behavior: 'instant'})"
    )
    assert plot.bounding_box()["y"] + plot.bounding_box()["height"] <= 0
