"""The search: what it knows, in which order it shows it, and that it works from a folder, on a phone, by keyboard."""

import gzip
import json
import re

import browser as browsing
import pytest
import search_page
from browser import HTML

QUERY = "search.html?q="


@pytest.mark.parametrize(
    ("tex", "letters"),
    [
        (r"\theta'_i=\theta-\alpha\nabla_\theta\mathcal{L}_i", "θ'_i=θ-α∇_θL_i"),
        (r"10^{-5}", "10⁻⁵"),
        (r"\tfrac12\,\|x\|^2", "1/2 ‖x‖²"),
        (r"\theta \leftarrow \theta - \beta g", "θ ← θ - β g"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", "…"),
    ],
)
def test_a_formula_is_written_in_letters_or_left_out(tex, letters):
    assert search_page.readable(tex) == letters


# -- what is searched --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed():
    text = (HTML / search_page.LISTING).read_text(encoding="utf-8")
    return json.loads(text[len(search_page.BEFORE) : -len(search_page.AFTER)])


@pytest.mark.site
def test_headings_prose_glossary_and_names_are_searched_and_code_is_not(listed):
    chapter = listed["book/04_maml"]["sections"]
    assert {"The derivation", "Check it"} <= {section["title"] for section in chapter}
    text = " ".join(section["text"] for page in listed.values() for section in page["sections"])
    for wanted in ("Every task gets a copy of θ", "元学习", "cross-entropy"):
        assert wanted in text, wanted
    assert not re.search(r"\\[a-z]{3}|\$\$|%pip|import torch|%matplotlib|\bdef \w+\(", text)
    kinds = [section.get("kind") for page in listed.values() for section in page["sections"]]
    assert kinds.count("term") > 80 and kinds.count("name") > 200


@pytest.mark.site
def test_every_entry_leads_to_a_place_that_exists(listed):
    for page, entry in listed.items():
        ids = set(re.findall(r'id="([^"]+)"', (HTML / f"{page}.html").read_text(encoding="utf-8")))
        for section in entry["sections"]:
            anchor = section["title"] if section.get("kind") == "name" else section.get("id")
            assert anchor is None or anchor in ids, f"{page}#{anchor}"


@pytest.mark.site
def test_the_index_is_light():
    files = [HTML / search_page.LISTING, HTML / "_static/vendor/minisearch.js", HTML / "_static/js/search.js"]
    assert sum(len(gzip.compress(file.read_bytes(), 6)) for file in files) < 300_000
    assert not (HTML / "searchindex.js").exists(), "Sphinx's own index would be carried for nothing"


# -- what is shown -----------------------------------------------------------------------------------------------------------


def chapters(page):
    page.wait_for_selector("#search-results .search-chapter, #search-results .search-terms")
    return page.locator("#search-results .search-chapter > h2").all_inner_texts()


@pytest.mark.site
@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("MAML", "4. MAML"),
        ("Reptile", "11. "),
        ("second derivative", "5. "),
        ("augmentation", "16. "),
        ("latent code", "9. "),
    ],
)
def test_the_chapter_about_it_comes_first(open_page, query, first):
    page = open_page(QUERY + query)
    assert chapters(page)[0].startswith(first)
    shown = page.locator("#search-results").inner_text()
    assert not re.search(r"\\[a-z]{3}|\$", shown), "LaTeX in a snippet"
    assert page.problems == []


@pytest.mark.site
def test_install_does_not_list_the_set_up_cells(open_page):
    page = open_page(QUERY + "install")
    shown = chapters(page)
    assert len(shown) <= 6 and sum(bool(re.match(r"\d+\. ", title)) for title in shown) <= 3, shown


@pytest.mark.site
def test_an_exact_term_stands_on_top_in_either_language(open_page):
    page = open_page(QUERY + "meta-batch")
    assert page.locator("#search-results > *").first.locator("dt").inner_text().startswith("meta-batch")
    chinese = open_page(QUERY + "消融实验")
    assert chinese.locator("#search-results dt").inner_text().startswith("ablation")
    plural = open_page(QUERY + "Query sets")
    assert plural.locator("#search-results dt").first.inner_text().startswith("query set")
    assert not open_page(QUERY + "derivative of the").locator("#search-results dt").count()


@pytest.mark.site
def test_a_misspelt_word_and_one_that_is_nowhere(open_page):
    page = open_page(QUERY + "reptle")
    assert any(title.startswith("11. ") for title in chapters(page)[:3])
    assert "do not occur" in page.locator("#book-search-count").inner_text()
    nowhere = open_page(QUERY + "zzzzqqqq")
    assert "Nothing found" in nowhere.locator("#book-search-count").inner_text()
    assert not nowhere.locator("#search-results *").count()


@pytest.mark.site
def test_typing_arrows_and_the_address(open_page):
    page = open_page("search.html")
    assert page.evaluate("document.activeElement.id") == "book-search-words"
    page.keyboard.type("leo")
    assert chapters(page)[0].startswith("9. ")
    page.wait_for_function("location.search === '?q=leo'")
    page.keyboard.press("ArrowDown")
    links = "[...document.querySelectorAll('#search-results a')]"
    assert page.evaluate(f"{links}.indexOf(document.activeElement)") == 0
    page.keyboard.press("ArrowDown")
    assert page.evaluate(f"{links}.indexOf(document.activeElement)") == 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "book-search-words"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/book/**")
    assert page.problems == []


@pytest.mark.site
def test_the_field_of_a_page_leads_to_the_results(open_page):
    page = open_page("book/glossary.html", mathematics=False)
    page.keyboard.press("Control+k")
    page.keyboard.type("Hessian")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=Hessian")
    assert chapters(page)
    assert page.problems == []


@pytest.mark.site
@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_in_light_and_dark(open_page, dark):
    page = open_page(QUERY + "MAML", width=390, height=844, dark=dark)
    assert chapters(page)[0].startswith("4. ")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert browsing.audit(page) == []
    from test_site import CONTRASTS

    assert [pair for pair in page.evaluate(CONTRASTS) if pair[0] < 1] == []


@pytest.mark.site
def test_from_a_folder(browser):
    """file:// : no server, and nothing that a browser refuses to files."""
    context = browser.new_context()
    page = context.new_page()
    problems = []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto((HTML / "search.html").as_uri() + "?q=MAML")
    assert chapters(page)[0].startswith("4. ")
    page.locator("#search-results .search-chapter li a").first.click()
    page.wait_for_url("**/book/04_maml.html*")
    assert [p for p in problems if "search" in p] == []
    context.close()
