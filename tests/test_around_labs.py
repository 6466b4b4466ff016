"""What stands around every lab: a link to its state, reset, presets, the large view, a plot that stays in view on a phone.

The labs stand on a page of their own here, made of what their widgets carry, beside the site's own script that draws them.
"""

import base64
import json
import re
import string

import pytest
from browser import HTML, new_page, serve_site
from lab_page import Lab, run_node

from mlbook.pages import labs
from mlbook.pages.labs import DrawCharacters, TwoStarts

VIEW = '<script type="application/vnd.jupyter.widget-view+json">{"model_id": "m%d"}</script>'


def described(widget):
    """A widget as the state of a built page has it."""
    traits = {
        name: value
        for name, value in widget.get_state().items()
        if name[0] != "_" or name in ("_esm", "_css")
    }
    data = {name: traits.pop(name) for name, value in list(traits.items()) if isinstance(value, bytes)}
    buffers = [
        {"data": base64.b64encode(value).decode(), "encoding": "base64", "path": [name]}
        for name, value in data.items()
    ]
    traits = {name: value for name, value in traits.items() if name not in ("layout", "tabbable", "tooltip")}
    return {"model_module": "anywidget", "model_name": "AnyModel", "state": traits, "buffers": buffers}


def page_of(widgets, *, built=True):
    """Text, then the labs one below another; `built`: as Sphinx makes a page, which a notebook is not."""
    states = {f"m{i}": described(widget) for i, widget in enumerate(widgets)}
    state = json.dumps({"state": states}).replace("</", "<\\/")
    views = "".join(f'<div class="place">{VIEW % i}</div>' for i in range(len(widgets)))
    return (
        f'<!DOCTYPE html><html lang="en"{" data-content_root=./" if built else ""} data-theme="light"><head>'
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Labs</title>'
        '<script defer src="_static/js/labs.js"></script></head><body>'
        f'<div style="height: 1500px"><a href="#end">to the end</a></div>{views}<p id="end" style="height: 1500px">The end.</p>'
        f'<script type="application/vnd.jupyter.widget-state+json">{state}</script></body></html>'
    )


@pytest.fixture
def show(browser, tmp_path):
    """show(widgets, "#lab=…"): the page with these labs; what a lab copies lies in the page's `copied`."""
    (tmp_path / "_static").symlink_to(HTML / "_static")
    pages = []
    with serve_site(tmp_path) as address:

        def one(widgets, end="", *, built=True, **settings):
            (tmp_path / "page.html").write_text(page_of(widgets, built=built), encoding="utf-8")
            page = new_page(browser, **{"reduced_motion": True, **settings})
            page.add_init_script(
                "navigator.clipboard.writeText = async (text) => void (window.copied = text)"
            )
            pages.append(page)
            page.goto(address + "page.html" + end)
            page.wait_for_function(
                f"document.querySelectorAll('[data-state]').length === {len(widgets)}", timeout=15_000
            )
            page.wait_for_timeout(60)
            return page

        yield one
        found = [page.problems for page in pages if page.problems]
        for page in pages:
            page.context.close()
    assert found == []


def copied(lab):
    lab.press("Copy link")
    return lab.page.evaluate("window.copied.slice(window.copied.indexOf('#'))")


def in_view(lab):
    return lab.root.evaluate("e => Math.abs(e.getBoundingClientRect().top) < 120")


# -- the words of an address ------------------------------------------------------------------------------------------------


FIELDS = """
const fields = {
  alpha: lab.kept.number(3, [0, 1]), steps: lab.kept.whole(1, 9), place: lab.kept.numbers(2, [-4, 4], [-3, 3]), on: lab.kept.flag,
  way: lab.kept.choice(["one start", "a&b=c#", 5]), points: lab.kept.list(lab.kept.numbers(1, [-9, 9], [-9, 9]), 0, 3, ";"),
};
const start = { alpha: 0.1, steps: 1, place: [0, 0], on: false, way: 5, points: [] };
"""


def test_a_state_goes_into_an_address_and_comes_back(tmp_path):
    states = [
        {
            "alpha": 0.1,
            "steps": 9,
            "place": [-1.25, 3],
            "on": True,
            "way": "a&b=c#",
            "points": [[-0.5, 2], [3, -9]],
        },
        {"alpha": 0, "steps": 1, "place": [0, 0], "on": False, "way": "one start", "points": [[1.5, 1.5]]},
    ]
    source = FIELDS + """
    const texts = data.map((state) => lab.written(fields, state, start));
    console.log(JSON.stringify({ texts, back: texts.map((t) => lab.saidTo("x", "#lab=x" + t, fields)),
      same: lab.written(fields, start, start),
      close: lab.written(fields, { ...start, alpha: 0.10004, place: [-0.001, 0] }, start),
    }));
    """  # fmt: skip
    found = run_node(tmp_path, TwoStarts(), source, states)
    assert [said["values"] for said in found["back"]] == states
    assert found["texts"][1] == "&alpha=0&steps=1&place=0,0&on=0&way=one+start&points=1.5,1.5"
    assert found["same"] == found["close"] == ""  # what the lab cannot show is no difference


TORN = [
    "alpha=2", "alpha=", "alpha=0x1", "steps=1.5", "place=1", "place=1,2,3", "on=yes", "way=%E0%A4%A", "points=1,2;3",
    "points=1,1;1,1;1,1;1,1", "beta=1", "toString=1", "alpha", "",
]  # fmt: skip


def test_a_torn_address_is_refused_as_a_whole(tmp_path):
    source = (
        FIELDS
        + 'console.log(JSON.stringify(data.map((t) => lab.saidTo("x", `#lab=x&steps=3&${t}`, fields))));'
    )
    for torn, said in zip(TORN, run_node(tmp_path, TwoStarts(), source, TORN), strict=True):
        assert said["values"] == {} and said["problem"] == torn


def test_an_address_about_something_else_says_nothing(tmp_path):
    source = FIELDS + 'console.log(JSON.stringify(data.map((hash) => lab.saidTo("x", hash, fields))));'
    ends = ["", "#", "#x", "#section-2", "#lab=y&steps=3", "#lab=x.2&steps=3", "#alpha=1"]
    assert run_node(tmp_path, TwoStarts(), source, ends) == [None] * len(ends)


def test_a_drawing_goes_into_an_address_in_few_letters(tmp_path):
    drawings = [[[10, 20.5, 12.5, 20.4, 105, 0], [0, 105]], [], [[52.1, 52.2]]]
    source = """
    const kind = lab.kept.list(lab.keptDrawing, 3, 3, ";"), text = kind.write(data);
    const torn = ["A", "A;B;C;D", text + "A", text.replace(".", "!"), text.replace(/;.*/, ";;ggg9")];
    console.log(JSON.stringify({ text, back: kind.read(text), torn: torn.map((t) => kind.read(t) ?? null) }));
    """
    found = run_node(tmp_path, DrawCharacters(), source, drawings)
    assert found["back"] == drawings and found["torn"] == [None] * 5
    assert len(found["text"]) <= 32 and set(found["text"]) <= set(
        string.ascii_letters + string.digits + "-_.;"
    )


# -- on the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_a_link_shows_its_state_again_and_only_in_its_lab(show):
    page = show([TwoStarts(), TwoStarts()])
    second = Lab(page, "two-starts")
    second.root = page.locator('[data-lab="two-starts"]').nth(1)
    assert copied(second) == "#lab=two-starts.2"  # nothing was changed
    second.press("Another task")
    second.press("One step")
    kept, link = second.state(), copied(second)
    assert link.startswith("#lab=two-starts.2&task=") and link.endswith("&step=1")

    page = show([TwoStarts(), TwoStarts()], link, width=390, height=800)
    first = Lab.__new__(Lab)
    first.page, first.root = page, page.locator('[data-lab="two-starts"]').first
    second.page, second.root = page, page.locator('[data-lab="two-starts"]').nth(1)
    assert second.state() == kept and first.state()["step"] == 0
    assert in_view(second) and not in_view(first)
    page.evaluate("location.hash = '#end'")
    assert page.locator("#end").evaluate("e => Math.abs(e.getBoundingClientRect().top) < 5")
    assert second.state() == kept
    page.evaluate("location.hash = '#lab=two-starts&step=4'")  # a link in the text of an open page
    page.wait_for_timeout(60)
    assert first.state()["step"] == 4 and second.state() == kept and in_view(first)


@pytest.mark.site
def test_a_bad_link_is_told_in_one_line_and_the_lab_starts_as_usual(show):
    lab = Lab(show([TwoStarts()], "#lab=two-starts&step=2&rate=0.1"), "two-starts")
    assert lab.state()["step"] == 0
    assert "does not fit this lab as it is now (“rate=0.1”)" in lab.root.get_by_role("alert").inner_text()
    assert in_view(lab)


@pytest.mark.site
def test_reset_is_there_when_there_is_something_to_reset(show):
    lab = Lab(show([TwoStarts()]), "two-starts")
    before, reset = lab.state(), lab.control("button", "Reset")
    assert not reset.is_visible()
    lab.press("Another task")
    assert reset.is_visible()
    reset.press("Enter")
    assert lab.state() == before and not reset.is_visible()
    assert lab.page.evaluate("document.activeElement.textContent") == "Large view"  # the focus is not lost


@pytest.mark.site
def test_a_notebook_has_no_address_to_copy_and_heeds_none(show):
    lab = Lab(show([TwoStarts()], "#lab=two-starts&step=3", built=False), "two-starts")
    assert lab.state()["step"] == 0
    assert (
        lab.control("button", "Copy link").count() == 0 and lab.control("button", "Large view").is_visible()
    )


@pytest.mark.site
@pytest.mark.parametrize("width", [1440, 390])
def test_the_large_view(show, width):
    lab = Lab(show([TwoStarts()], width=width, height=850), "two-starts")
    page, height = lab.page, lab.page.evaluate("document.body.scrollHeight")
    lab.press("One step")
    before = lab.state()
    lab.control("button", "Large view").focus()
    page.keyboard.press("Enter")
    box = lab.root.bounding_box()
    assert box["x"] == 0 and box["y"] == 0 and box["width"] >= width - 20 and box["height"] >= 849
    assert lab.state() == before
    assert (
        abs(page.evaluate("document.body.scrollHeight") - height) < 10
    )  # the page behind it keeps its length
    for _ in range(12):  # round and round: the focus stays inside, or in the browser's own bars
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    assert copied(lab).endswith("&view=lab")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    assert page.evaluate("document.activeElement.textContent") == "Large view"
    assert lab.root.bounding_box()["width"] < width

    lab = Lab(show([TwoStarts()], "#lab=two-starts&step=2&view=lab", width=width), "two-starts")
    lab.page.locator("dialog").wait_for()
    assert lab.state()["step"] == 2
    lab.press("Close")
    lab.page.locator("dialog").wait_for(state="detached")


@pytest.mark.site
def test_where_a_page_may_not_copy_the_link_stands_there(show):
    lab = Lab(show([TwoStarts()]), "two-starts")
    lab.page.evaluate(
        "void (navigator.clipboard.writeText = async () => { throw new Error('not allowed'); })"
    )
    lab.press("Copy link")
    assert (
        lab.control("textbox", "The link, to copy by hand")
        .input_value()
        .endswith("/page.html#lab=two-starts")
    )


# -- every lab -----------------------------------------------------------------------------------------------------------

# What leads to a state that no preset has.
ACTS = {
    "AdaptSinusoid": lambda lab: lab.press("New random task"),
    "ArchitectureSearch": lambda lab: lab.slide("children", 40),
    "CarriedOver": lambda lab: lab.press("Another new line"),
    "ChoiceGradients": lambda lab: lab.press("New draws"),
    "DrawCharacters": lambda lab: lab.press("Another set"),
    "FindTheGoal": lambda lab: lab.press("New goal"),
    "FourMeans": lambda lab: lab.slide("inner rate α", 0.31),
    "LatentMap": lambda lab: (lab.press("New task"), lab.press("One latent step")),
    "MissingFactor": lambda lab: lab.press("One outer step with MAML"),
    "OptimizerRace": lambda lab: lab.slide("step", 40),
    "RealEpisode": lambda lab: lab.press("Five at random"),
    "TwoFamilies": lambda lab: lab.slide("distance", 2.3),
    "TwoManifolds": lambda lab: lab.press("Clear the path and start from where φ is"),
    "TwoTerms": lambda lab: lab.slide("losses k", 5),
    "WhichWay": lambda lab: lab.press("One outer step"),
    "YouAgainstMaml": lambda lab: (
        lab.press("Another wave"),
        lab.root.get_by_role("slider").press("Shift+ArrowRight"),
    ),
}


def traits_of(lab, widget):
    """What a reader changes, as the lab has it; carried-over's own `lines` are what it drew with them."""
    names = [n for n in widget.traits(sync=True) if n[0] != "_" and n not in {"setup", "weights", "features"}]
    state = lab.state()
    state["lines"] = state.get("draw") if "rate" in names else state.get("lines")
    return {name: state[name] for name in names if name in state}


def same(a, b):
    """Equal up to what an address leaves out: half of the third digit after the point."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b if a is None or b is None or isinstance(a, (bool, str)) else abs(a - b) < 6e-4


@pytest.mark.site
def test_every_lab_gives_its_state_away_and_takes_it_back(show):
    """On a phone, all on one page: presets, a link, reset, the link again; and the plot stays above the controls."""
    widgets = {name: getattr(labs, name)() for name in ACTS}
    page = show(list(widgets.values()), width=390, height=844)
    for (name, act), widget in zip(ACTS.items(), widgets.values(), strict=True):
        lab = Lab(page, re.sub("(?<=.)([A-Z])", r"-\1", name).lower())
        assert lab.root.locator(".mlb-goal").inner_text().strip()
        opening = traits_of(lab, widget)
        presets = lab.root.get_by_role("group", name="Presets").get_by_role("button").all()
        assert 2 <= len(presets) <= 3 or name == "YouAgainstMaml", name
        for preset in presets:
            preset.click()
            lab.settle()
            assert preset.get_attribute("aria-pressed") == "true", (name, preset.inner_text())
        act(lab)
        kept, link = traits_of(lab, widget), copied(lab)
        assert not same(kept, opening) and len(link) < 1000
        lab.press("Reset")
        assert traits_of(lab, widget) == opening, name
        page.evaluate("link => { location.hash = link }", link)
        page.wait_for_timeout(60)
        assert same(traits_of(lab, widget), kept), (name, link)
        assert lab.root.locator(".mlb-said-once").text_content() == ""
        if name == "YouAgainstMaml":
            continue  # a finger on its plot draws: it must not follow the page
        plot = lab.root.locator(".mlb-stay .mlb-plot")
        last = lab.root.locator(".mlb-columns").locator("button:enabled, input").locator("visible=true").last
        last.evaluate("e => e.scrollIntoView({ block: 'end', behavior: 'instant' })")
        seen, control = plot.bounding_box(), last.bounding_box()
        assert seen["height"] <= 0.45 * 844 + 1 and seen["y"] >= -1, name
        assert control["y"] >= seen["y"] + seen["height"], name


@pytest.mark.site
def test_a_point_follows_the_hand_in_the_large_view(show):
    """The view is enlarged, and so is what a hand moves."""
    lab = Lab(show([labs.TwoFamilies()], "#lab=two-families&view=lab", width=1440), "two-families")
    lab.page.locator("dialog").wait_for()
    assert lab.root.evaluate("e => Number(getComputedStyle(e).zoom)") > 1
    x, y = lab.centre("Centre of family B")
    lab.drag("Centre of family B", 60, -40)
    assert lab.centre("Centre of family B") == pytest.approx((x + 60, y - 40), abs=2)
