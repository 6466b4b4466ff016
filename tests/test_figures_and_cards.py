"""Figures that can be cited, saved and read in the dark; what a shared link shows; addresses that do not exist."""

import re
from xml.dom import minidom

import numpy as np
import pytest
from browser import HTML, ROOT
from bs4 import BeautifulSoup
from figure_numbers import numbered

from mlbook.pages import notebook
from mlbook.pages.figures.style import figure

PAGES = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
CHAPTERS = [name for name in PAGES if re.match(r"\d\d_", name)]


def line():
    fig, ax = figure()
    ax.plot([0, 1], [0, 1])
    return fig


def test_a_figure_of_lines_is_svg_the_same_in_every_build():
    kind, drawn = notebook._picture(line())
    assert kind == "svg+xml" and drawn == notebook._picture(line())[1]
    address = notebook._address(kind, drawn)
    assert '"' not in address and "#" not in address and "<" not in address
    from urllib.parse import unquote

    svg = minidom.parseString(unquote(address.split(",", 1)[1])).documentElement
    assert svg.tagName == "svg" and svg.getElementsByTagName("path")


def test_a_figure_with_pixels_is_not():
    fig, ax = figure()
    ax.imshow(np.zeros((28, 28)))
    assert notebook._picture(fig)[0] in {"webp", "png"}


def test_figures_are_numbered_in_the_order_of_the_page():
    figures = '<figure class="mlbook-figure"><img alt="a" style="width:660px;max-width:100%"></figure>'
    figures += '<figure class="mlbook-figure"><img alt="b"><figcaption>Words.</figcaption></figure>'
    page = BeautifulSoup(numbered(figures, 4), "html.parser")
    assert [f["id"] for f in page.select("figure")] == ["figure-4.1", "figure-4.2"]
    assert [f.get_text() for f in page.select("figcaption")] == ["Figure 4.1", "Figure 4.2 Words."]
    assert page.img["style"] == "--drawn:660px;width:660px;max-width:100%"
    assert 'id="figure-1"' in numbered(figures, None)


@pytest.mark.site
@pytest.mark.parametrize("name", CHAPTERS)
def test_every_figure_of_a_chapter_has_a_number(name):
    page = BeautifulSoup((HTML / f"book/{name}.html").read_text(encoding="utf-8"), "html.parser")
    figures = page.select("figure.mlbook-figure")
    assert [f["id"] for f in figures] == [f"figure-{int(name[:2])}.{i + 1}" for i in range(len(figures))]
    assert len(figures) >= 1 and sum("svg" in f.img["src"][:20] for f in figures) >= len(figures) / 2


@pytest.mark.site
def test_a_figure_in_the_dark_and_saved(open_page, tmp_path):
    page = open_page("book/04_maml.html", dark=True, mathematics=False)
    picture = page.locator("figure.mlbook-figure img.figure-vector").first
    style = "(img) => [getComputedStyle(img).filter, getComputedStyle(img).backgroundColor]"
    assert picture.evaluate(style) == ["invert(1) hue-rotate(180deg)", "rgba(0, 0, 0, 0)"]
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save figure 4.1").click()
    assert saved.value.suggested_filename == "figure-4.1.svg"
    saved.value.save_as(tmp_path / "figure.svg")
    assert minidom.parse(str(tmp_path / "figure.svg")).documentElement.tagName == "svg"
    assert page.problems == []


@pytest.mark.site
def test_what_is_wide_can_be_scrolled_on_a_phone(open_page):
    page = open_page("book/12_expansion.html", width=390, height=844)
    cut = """() => [...document.querySelectorAll('.bd-article :is(div.math, .amsmath, pre, figure.mlbook-figure)')]
        .filter((e) => e.offsetParent && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'auto').length"""
    assert page.evaluate(cut) == 0
    faded = """() => [...document.querySelectorAll('.bd-article figure.mlbook-figure')]
        .filter((f) => f.checkVisibility()).map((f) => f.classList.contains('has-more') === f.scrollWidth > f.clientWidth + 2)"""
    assert all(page.evaluate(faded)), "what goes on at the right fades there"
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.site
@pytest.mark.parametrize("name", PAGES)
def test_a_shared_link_shows_a_card(name):
    page = BeautifulSoup((HTML / f"book/{name}.html").read_text(encoding="utf-8"), "html.parser")
    tags = {
        tag.get("property") or tag.get("name"): tag["content"] for tag in page.select("head meta[content]")
    }
    canonical = page.select_one('link[rel="canonical"]')["href"]
    assert tags["og:url"] == canonical and canonical.endswith(f"/book/{name}.html")
    assert tags["og:site_name"] == "Learning to Learn" and len(tags["og:title"]) > 3
    assert 60 < len(tags["og:description"]) <= 210 and tags["description"] == tags["og:description"]
    picture = tags["og:image"].split("/_static/")[1]
    assert (HTML / "_static" / picture).is_file() and len(tags["og:image:alt"]) > 20
    assert tags["og:description"].count("to read") == 0, "the table of costs is no description"


@pytest.mark.site
def test_the_sitemap_lists_the_pages():
    text = (HTML / "sitemap.xml").read_text(encoding="utf-8")
    listed = {address.rsplit("/", 1)[-1] for address in re.findall(r"<loc>(.*?)</loc>", text)}
    assert {f"{name}.html" for name in PAGES} <= listed
    assert "404.html" not in listed and "complete.html" not in listed


@pytest.mark.site
def test_the_page_for_addresses_that_do_not_exist():
    page = BeautifulSoup((HTML / "404.html").read_text(encoding="utf-8"), "html.parser")
    assert page.select_one("article h1").get_text() == "There is no such page"
    leads_to = [a["href"].split("/", 2)[2] for a in page.select("article p a")]
    assert leads_to == ["book/index.html", "search.html"] and all(
        (HTML / name).is_file() for name in leads_to
    )
    styles = [link["href"] for link in page.select('link[rel="stylesheet"]')]
    assert styles and all(href.startswith("/") for href in styles), "it is served at any depth"
