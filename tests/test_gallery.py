"""The gallery of labs: complete, true, and light."""

import json

import pytest
from browser import HTML, ROOT

from mlbook.pages import labs
from mlbook.pages.labs.gallery import CARDS

LABS = [name for name in labs.__all__ if name[:1].isupper()]
PAGES = [page for card in CARDS for page in (card.page, *card.other_pages)]


def test_every_lab_is_in_the_gallery_and_nothing_else():
    assert sorted(card.widget for card in CARDS) == sorted(LABS)
    assert len({card.title for card in CARDS}) == len(CARDS)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.widget)
def test_card(card):
    """Its picture is there and small, it opens as the picture shows it, and its pages do show it."""
    picture = ROOT / f"book/_static/labs/{card.name}.png"
    assert picture.stat().st_size < 60_000, "run tools/lab_pictures.py"
    assert card.sentence[-1] in ".?" and len(card.sentence) < 140
    getattr(labs, card.widget)(**card.opens)
    for page in (card.page, *card.other_pages):
        text = (ROOT / f"book/{page.partition('#')[0]}.ipynb").read_text(encoding="utf-8")
        cells = ["".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        assert any(f"{card.widget}(" in cell for cell in cells), page


def test_no_picture_is_left_over():
    there = {path.stem for path in (ROOT / "book/_static/labs").glob("*.png")}
    assert there == {card.name for card in CARDS}


# -- on the page -------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_cards_lead_to_their_labs(open_page):
    """As many cards as labs, each with a picture that loads, words, and a link to a heading that exists, above the lab."""
    page = open_page("book/labs.html")
    cards = page.locator(".lab-card")
    assert cards.count() == len(CARDS)
    assert page.evaluate(
        "[...document.querySelectorAll('.lab-card img')].every((e) => e.naturalWidth > 300 && e.alt)"
    )
    for i, card in enumerate(CARDS):
        words = cards.nth(i).text_content().replace("’", "'")
        assert card.title in words and card.sentence in words
        target = cards.nth(i).locator("a").first.get_attribute("href")
        document, _, heading = target.partition("#")
        text = (HTML / "book" / document).read_text(encoding="utf-8")
        assert f'id="{heading}"' in text, target
    assert page.problems == []


@pytest.mark.site
def test_the_page_is_light():
    """The page with all its pictures, without what all pages share."""
    pictures = sum(path.stat().st_size for path in (ROOT / "book/_static/labs").glob("*.png"))
    assert (HTML / "book/labs.html").stat().st_size + pictures < 1_500_000


@pytest.mark.site
@pytest.mark.parametrize("page", sorted({page.partition("#")[0] for page in PAGES}))
def test_pages_with_labs_stay_below_five_megabytes(page):
    assert (HTML / f"book/{page}.html").stat().st_size < 5_000_000
