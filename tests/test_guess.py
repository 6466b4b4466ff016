"""Guess first, then look: a lab is covered until its reader has guessed or wants no guess."""

import re

import pytest
from browser import HTML, ROOT

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
def test_every_chapter_asks_before_its_lab(open_page, name):
    page = open_page(f"book/{name}.html", mathematics=False, guess=True)
    assert page.locator(".guess-bar").count() >= 1
    boxes = len(
        re.findall(r'admonition-title">Before you', (HTML / f"book/{name}.html").read_text(encoding="utf-8"))
    )
    assert page.locator(".guess-bar").count() == boxes, "each box of questions belongs to a lab"
    top = page.evaluate(f"document.querySelector('{LAB}').getBoundingClientRect().top + scrollY")
    assert top < 1100
    assert page.problems == []
