"""What a reader chooses: to guess before looking (a lab is covered until then), and to read without the cells' code."""

import re

import pytest
from browser import HTML, ROOT
from bs4 import BeautifulSoup

pytestmark = pytest.mark.site
PAGE = "book/04_maml.html"
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
LAB = ".cell_output:has(.widget-subarea)"


def test_a_lab_is_covered_until_a_guess_is_made_and_the_guess_stays(open_page):
    page = open_page(PAGE, mathematics=False, guess=True)
    lab = page.locator(LAB).first
    assert "guess-covered" in lab.get_attribute("class") and lab.evaluate("(e) => e.inert")
    show = page.get_by_role("button", name="Show the lab")
    assert show.is_disabled()
    page.get_by_label("Your guess for question 1").fill("by half")
    page.get_by_label("Your guess for question 1").press("Enter")
    assert "guess-covered" not in lab.get_attribute("class") and not lab.evaluate("(e) => e.inert")
    assert page.get_by_text("Your guess: by half").is_visible()
    lab.get_by_role("button").first.click()
    page.reload()
    page.get_by_text("Your guess: by half").wait_for()
    assert page.locator(".guess-covered").count() == 0
    assert page.problems == []


def test_whoever_wants_no_guess_is_asked_once(open_page, site):
    page = open_page(PAGE, width=390, height=844, mathematics=False, guess=True)
    page.get_by_label("always show labs at once").check()
    page.get_by_role("button", name="without guessing").tap()
    assert page.locator(".guess-covered").count() == 0
    page.goto(site + "book/05_second_derivative.html")
    page.wait_for_load_state()
    assert page.locator(".guess-covered, .guess-bar").count() == 0
    assert page.problems == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_box_of_questions_has_its_lab(name):
    """In the same section and after the box, as guess.js looks for it."""
    page = BeautifulSoup((HTML / f"book/{name}.html").read_text(encoding="utf-8"), "html.parser")
    boxes = [
        box
        for box in page.select(".bd-article .admonition:has(> .admonition-title)")
        if re.fullmatch(r"Before you (press|look|draw)", box.select_one(".admonition-title").get_text())
    ]
    assert boxes
    for box in boxes:
        assert box.get_text().count("?") >= 1
        following = box.find_all_next("script", type="application/vnd.jupyter.widget-view+json")
        assert any(box.find_parent("section") in lab.parents for lab in following)


def test_the_lab_is_on_the_first_screen(open_page):
    page = open_page(PAGE, width=1440, height=900, mathematics=False, guess=True)
    top = page.evaluate(f"document.querySelector('{LAB}').getBoundingClientRect().top + scrollY")
    assert top <= 700


def test_a_page_without_the_code_of_its_cells(open_page, site):
    page = open_page(PAGE, mathematics=False)
    code, shown = page.locator(".cell_input").nth(3), page.locator(".cell_output pre").first
    assert code.is_visible()
    page.get_by_role("button", name="Hide code").click()
    assert page.locator(".cell_input:visible").count() == 0
    assert shown.is_visible() and page.locator("figure.mlbook-figure").first.is_visible()
    page.goto(site + "book/05_second_derivative.html")
    page.get_by_role("button", name="Show code").wait_for()
    assert page.locator(".cell_input:visible").count() == 0, "the choice holds for all pages"
    page.get_by_role("button", name="Show code").press("Enter")
    assert page.locator(".cell_input:visible").count() > 3
    assert page.problems == []
