"""The book on one page (tools/make_print.py), as a printer would have it. `make pdf` itself is tested on a short page."""

import gzip
import io
import re

import browser as browsing
import lighter_svg
import make_print
import numpy as np
import pytest
from browser import HTML
from bs4 import BeautifulSoup
from PIL import Image

from mlbook.pages import notebook
from mlbook.pages.figures.style import figure
from mlbook.pages.labs.gallery import CARDS

COMPLETE = HTML / "book/complete.html"
SHEET = 672  # pixels between the margins of an A4 page


@pytest.fixture(scope="module")
def whole():
    return BeautifulSoup(COMPLETE.read_text(encoding="utf-8"), "html.parser")


@pytest.mark.site
def test_it_weighs_less_than_four_megabytes(whole):
    assert COMPLETE.stat().st_size < 4_000_000
    pictures = {
        HTML / "book" / img["src"] for img in whole.select("img") if not img["src"].startswith("data:")
    }
    sent = len(gzip.compress(COMPLETE.read_bytes(), 6)) + sum(path.stat().st_size for path in pictures)
    assert sent < 2_500_000, "as a host packs it, with the pictures of the labs"


@pytest.mark.site
def test_every_lab_is_there_as_a_picture_with_its_title_and_address(whole):
    stills = whole.select("figure.print-lab")
    shown = {re.search(r"labs/(.*)\.png", still.img["src"])[1] for still in stills}
    assert shown == {card.name for card in CARDS}
    titles = {card.name: card.title for card in CARDS}
    for still in stills:
        name = re.search(r"labs/(.*)\.png", still.img["src"])[1]
        assert titles[name] in still.get_text() and (HTML / "book" / still.img["src"]).is_file()
        page, _, anchor = still.a["href"].partition("/book/")[2].partition("#")
        assert not anchor or f'id="{anchor}"' in (HTML / "book" / page).read_text(encoding="utf-8")
    assert not whole.select("p.print-lab"), "a lab that the gallery does not know"


@pytest.mark.site
def test_details_stand_open_and_links_stay_within(whole):
    assert all(node.has_attr("open") for node in whole.select("details")) and whole.select("details")
    ids = {node["id"] for node in whole.select("[id]")}
    broken = [a["href"] for a in whole.select('a[href^="#"]') if a["href"][1:] not in ids]
    assert broken == []


@pytest.mark.site
def test_the_contents_name_every_chapter_and_its_sections(whole):
    lines = whole.select(".print-toc li.toc-chapter")
    assert len(lines) == len(make_print.documents())
    assert [a.get_text()[:3] for a in whole.select(".toc-chapter > a")][1:4] == ["1. ", "2. ", "3. "]
    assert len(whole.select(".print-toc li.toc-section")) > 100


@pytest.mark.site
def test_nothing_is_wider_than_the_sheet(site, browser):
    page = browsing.new_page(browser, width=SHEET)
    page.emulate_media(media="print")
    browsing.open_and_settle(page, site + "book/complete.html")
    formulas = page.locator("article .math").count()
    assert formulas > 2000 and page.locator("article .math mjx-container").count() >= formulas, (
        "formulas are set"
    )
    page.evaluate(make_print.FIT)
    wide = """(sheet) => [...document.querySelectorAll("article :is(pre, img, table, figure, div.math, .amsmath)")]
        .filter((e) => e.checkVisibility())
        .filter((e) => Math.max(e.scrollWidth, e.clientWidth) > e.clientWidth + 1 || e.getBoundingClientRect().right > sheet + 1)
        .map((e) => [e.closest("article").id, e.tagName, e.scrollWidth, e.clientWidth, e.textContent.slice(0, 60)].join(" "))"""
    assert page.evaluate(wide, SHEET) == []
    assert page.evaluate(
        "[...document.querySelectorAll('article')].every((a) => getComputedStyle(a).breakBefore === 'page')"
    )
    assert page.problems == []
    page.context.close()


def test_the_numbers_of_the_contents_are_those_of_the_pages(browser):
    page = browser.new_page()
    headings = "".join(f'<h1 id="Kapitel-{i}" style="break-before:page">{i}</h1>' for i in range(1, 13))
    links = "".join(f'<a href="#Kapitel-{i}">{i}</a>' for i in range(1, 13))
    page.set_content(f"<nav>{links}</nav>{headings}")
    assert make_print.pages_of(page.pdf()) == {f"Kapitel-{i}": i + 1 for i in range(1, 13)}
    page.close()


def test_a_lighter_figure_shows_the_same(browser):
    fig, ax = figure()
    x = np.linspace(0, 9, 300)
    ax.plot(x, np.sin(x), label="a curve & a “wave” <here>")
    ax.plot(x[::30], np.cos(x[::30]), "o--")
    ax.bar([1, 3], [0.7, 0.5], hatch="//", facecolor="0.6", edgecolor="k")
    ax.set_title("bold words", weight="bold")
    ax.set(xlabel=r"$\alpha^2$", ylabel="loss, turned by a quarter", yscale="symlog")
    ax.legend()
    kind, heavy = notebook._picture(fig)
    light = lighter_svg.lighter(heavy.decode())
    assert kind == "svg+xml" and len(light) < 0.5 * len(heavy) and '"' not in light
    assert ">a curve &amp; a “wave” &lt;here&gt;</text>" in light
    page = browser.new_page()
    seen = []
    for svg in (heavy.decode(), light):
        page.set_content(f"<body style='margin:0'>{svg[svg.index('<svg') :]}</body>")
        seen.append(np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"), dtype=float))
    page.close()
    assert seen[0].min() < 100, "nothing was drawn"
    for word in ("bold words", "loss, turned by a quarter"):
        assert f">{word}</text>" in light
    assert np.abs(seen[0] - seen[1]).mean() < 0.5 and (np.abs(seen[0] - seen[1]) > 150).mean() < 0.001
