"""What a reader who studies alone uses: quizzes, progress, definitions, times, the print edition."""

import functools
import json
import re
from html.parser import HTMLParser

import pytest
import reading_time
import yaml
from browser import HTML, ROOT
from bs4 import BeautifulSoup

BOOK = ROOT / "book"
CHAPTERS = sorted(path.stem for path in BOOK.glob("[0-9][0-9]_*.ipynb"))
ANSWERED = "book/05_second_derivative.html"
STORE = "JSON.parse(localStorage.getItem('mlbook-progress'))"


@functools.cache
def soup(page):
    return BeautifulSoup((HTML / f"book/{page}.html").read_text(encoding="utf-8"), "html.parser")


# -- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAPTERS)
def test_minutes_are_measured(name):
    """`make format` writes them; a text that has grown since makes this fail."""
    notebook = json.loads((BOOK / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert reading_time.stated(notebook) == reading_time.minutes(notebook)


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_main_path_of_a_chapter_fits_one_sitting(name):
    notebook = json.loads((BOOK / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert 15 <= reading_time.minutes(notebook) <= 25
    assert reading_time.words(notebook) <= 3500


def test_reading_time_counts_what_is_read():
    def chapter(*cells):
        return {
            "cells": [
                {"cell_type": kind, "source": [text], "metadata": {"tags": tags}}
                for kind, text, *tags in cells
            ]
        }

    words = ("markdown", "word " * 1600)
    assert reading_time.minutes(chapter(words)) == 10
    assert reading_time.minutes(chapter(words, ("markdown", "$$x$$\n\n" * 20))) == 15
    assert reading_time.minutes(chapter(words, ("code", "x = 1\n" * 1400))) == 15
    assert reading_time.minutes(chapter(words, ("code", "x = 1\n" * 1400, "hide-input"))) == 10
    assert reading_time.minutes(chapter(words, ("markdown", "## Exercises\n" + "word " * 9000))) == 10
    assert reading_time.minutes(chapter(words, ("code", "notebook.figure(1)\n" * 200, "hide-cell"))) == 10


def test_reading_time_leaves_out_what_unfolds():
    notebook = {
        "cells": [
            {"cell_type": kind, "source": [text], "metadata": {}}
            for kind, text in [
                ("markdown", "one two\n\n:::{dropdown} Title\nhidden\n\nhidden\n:::\n\nthree"),
                ("markdown", "four\n:::{admonition} Why\n:class: dropdown\nhidden\n:::\n"),
                ("markdown", "five\n\n```{unfold-start} Title\n```\nhidden $$x$$"),
                ("code", "notebook.show(f)"),
                ("markdown", "hidden\n```{unfold-end}\n```\nsix\n\n## Exercises\n\nseven"),
                ("markdown", "eight"),
            ]
        ]
    }
    assert reading_time.words(notebook) == 6
    assert [kind for kind, _, _ in reading_time.main_path(notebook)] == ["markdown"] * 4


# -- what unfolds ---------------------------------------------------------------------------------------------------


@pytest.mark.site
@pytest.mark.parametrize("name", CHAPTERS)
def test_what_unfolds_is_closed_and_holds_no_lab(name):
    notebook = json.loads((BOOK / f"{name}.ipynb").read_text(encoding="utf-8"))
    written = sum("".join(cell["source"]).count("{unfold-start}") for cell in notebook["cells"])
    boxes = soup(name).select("details.unfold")
    assert len(boxes) == written
    for box in boxes:
        assert not box.has_attr("open")
        assert not box.select("script[type='application/vnd.jupyter.widget-view+json']"), (
            "a lab is on the main path"
        )


@pytest.mark.parametrize(
    "text, problem",
    [
        ("```{unfold-start} A\n```\n\nx\n", "without an unfold-end"),
        ("x\n\n```{unfold-end}\n```\n", "without an unfold-start"),
        ("```{unfold-start} A\n```\n\n# B\n\n```{unfold-end}\n```\n", "same section"),
        ("```{unfold-start} A $x$\n```\n\nx\n\n```{unfold-end}\n```\n\ny\n", None),
    ],
)
def test_unfold_directives(tmp_path, text, problem):
    from io import StringIO

    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    (tmp_path / "index.md").write_text(f"# Title\n\n{text}", encoding="utf-8")
    warnings = StringIO()
    extensions = ["myst_parser", "sphinx_design", "unfold"]
    settings = {"extensions": extensions, "myst_enable_extensions": ["dollarmath"]}
    with docutils_namespace():
        folders = tmp_path, None, tmp_path / "out", tmp_path / "trees"
        Sphinx(*folders, "html", settings, status=None, warning=warnings).build()
    if problem:
        assert problem in warnings.getvalue()
        return
    assert warnings.getvalue() == ""
    page = BeautifulSoup((tmp_path / "out/index.html").read_text(encoding="utf-8"), "html.parser")
    box = page.select_one("details.unfold")
    assert box.select_one("summary").get_text(strip=True).startswith("A")
    assert box.select("p")[0].get_text() == "x"
    assert "y" not in box.get_text()


@pytest.mark.site
@pytest.mark.parametrize("name", CHAPTERS)
def test_seconds_are_those_of_the_build(name):
    line = soup(name).select_one("p.chapter-cost").get_text()
    run = r"To run \d+ seconds on \d+ CPU cores(, beside [\w ]+)?"
    assert re.fullmatch(rf"To read about \d+ minutes · {run} · Needs .+", line), line


# -- the front page -------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_the_map_shows_every_chapter_and_its_needs():
    index = soup("index")
    links = index.select(".book-map a")
    assert [link["data-chapter"] for link in links] == CHAPTERS
    rows = index.select("table.book-costs tbody tr")
    assert len(rows) == len(CHAPTERS) + 1
    minutes = [int(row.select("td")[1].get_text().split()[0]) for row in rows[:-1]]
    hours, rest = map(int, re.findall(r"\d+", rows[-1].select("td")[1].get_text()))
    assert sum(minutes) == 60 * hours + rest


@pytest.mark.site
def test_arrows_of_the_map():
    from book_map import reduced, rows_of

    wanted = {1: [], 2: [1], 3: [1, 2], 4: [1, 2], 5: [4], 6: [2, 4, 5]}
    assert reduced(wanted) == {1: [], 2: [1], 3: [2], 4: [2], 5: [4], 6: [5]}
    assert rows_of([[1, 2, 3], [4, 5, 6]], wanted) == {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 4}


@pytest.mark.site
def test_the_live_figure_moves_and_can_be_stopped(open_page):
    page = open_page("book/index.html")
    figure = page.locator('[data-lab="two-starts"]')
    state = lambda: json.loads(figure.get_attribute("data-state"))  # noqa: E731
    figure.scroll_into_view_if_needed()  # it plays where it is seen
    page.wait_for_function(
        "JSON.parse(document.querySelector('[data-lab=two-starts]').dataset.state ?? '{}').step > 0"
    )
    figure.get_by_role("button", name="Pause").press("Enter")
    assert not state()["playing"]
    step = state()["step"]
    page.wait_for_timeout(1500)
    assert state()["step"] == step
    figure.get_by_role("button", name="One step").click()
    assert state()["step"] == (step + 1 if step < 5 else 0)
    task = state()["task"]
    figure.get_by_role("button", name="Another task").click()
    assert state()["task"] != task
    assert page.problems == []


@pytest.mark.site
def test_the_live_figure_rests_where_motion_is_unwanted(open_page):
    page = open_page("book/index.html", reduced_motion=True, width=390, height=844)
    figure = page.locator('[data-lab="two-starts"]')
    page.wait_for_timeout(1500)
    state = json.loads(figure.get_attribute("data-state"))
    assert not state["playing"] and state["step"] == 0
    figure.get_by_role("button", name="One step").tap()
    assert json.loads(figure.get_attribute("data-state"))["step"] == 1


# -- quizzes --------------------------------------------------------------------------------------------------------


@pytest.mark.site
@pytest.mark.parametrize("name", CHAPTERS)
def test_every_option_of_every_quiz_is_explained(name):
    questions = soup(name).select(".quiz-question")
    assert len(questions) >= 4
    for question in questions:
        options = question.select(".quiz-options > li")
        assert len(options) >= 3
        assert sum("quiz-right" in option["class"] for option in options) == 1
        for option in options:
            least = 9 if "quiz-wrong" in option["class"] else 6  # "by (2.4)." will do for the right one
            assert len(option.select_one(".quiz-why").get_text(strip=True)) >= least, option.get_text()
            assert len(re.findall(r"\([a-e]\)", option.select_one(".quiz-option").get_text())) == 1


@pytest.mark.site
def test_answering_a_quiz(open_page):
    page = open_page(ANSWERED)
    question = page.locator(".quiz-question").first
    wrong, right = question.locator("li.quiz-wrong").first, question.locator("li.quiz-right")
    assert question.locator(".quiz-why").count() == 0, "nothing is told before an answer"
    assert not page.locator(".quiz-answers").is_visible()
    wrong.get_by_role("button").click()
    assert wrong.locator(".quiz-told").inner_text().startswith("No. ")
    assert right.locator(".quiz-why").count() == 0
    assert page.evaluate(STORE) is None
    right.get_by_role("button").press("Enter")
    assert right.locator(".quiz-told").inner_text().startswith("Right. ")
    assert page.evaluate(STORE)["quiz"] == {"05_second_derivative": [1]}
    assert page.problems == []


@pytest.mark.site
def test_answers_are_there_without_javascript(site, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site + ANSWERED)
    assert page.locator(".quiz-answers").is_visible()
    assert not page.locator(".quiz-why").first.is_visible()
    context.close()


# -- progress -------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_progress_is_kept_shown_and_carried(open_page, site, tmp_path):
    page = open_page(ANSWERED, mathematics=False)
    exercise = page.locator("div.exercise").first
    exercise.get_by_label("Done").check()
    page.get_by_label("I have finished this chapter").press("Space")
    assert "1 of" in page.locator(".study-summary").inner_text()
    assert page.locator(".bd-sidebar-primary .study-tick").count() == 1
    page.reload()
    assert page.get_by_label("I have finished this chapter").is_checked()

    page.goto(site + "book/progress.html")
    table = page.locator(".study-table")
    assert table.locator("tbody tr").count() == len(CHAPTERS)
    row = table.locator("tr", has_text="5. ").first
    assert row.get_by_role("checkbox").is_checked() and "1 of" in row.inner_text()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save to a file").click()
    file = tmp_path / "progress.json"
    saved.value.save_as(file)
    assert list(json.loads(file.read_text())["chapters"]) == ["05_second_derivative"]

    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Forget everything").click()
    assert page.evaluate(STORE)["chapters"] == {}
    table.get_by_label("Chapter 1 finished").check()
    page.locator("#study-file").set_input_files(file)
    page.get_by_text("are both kept").wait_for()
    assert sorted(page.evaluate(STORE)["chapters"]) == ["01_learning_to_learn", "05_second_derivative"]
    assert page.problems == []


@pytest.mark.site
@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[1]",
        '{"version": 2}',
        '{"version": 1, "chapters": {"<b>": "2026-01-01", "04_maml": "soon"}}',
    ],
)
def test_a_file_that_is_no_progress(open_page, tmp_path, text):
    page = open_page("book/progress.html")
    file = tmp_path / "other.json"
    file.write_text(text)
    page.locator("#study-file").set_input_files(file)
    page.locator(".study-message:not(:empty)").wait_for()
    kept = page.evaluate(STORE)
    assert kept is None or kept == {"version": 1, "chapters": {}, "exercises": {}, "quiz": {}}
    assert page.problems == []


@pytest.mark.site
def test_all_exercises_are_on_the_list():
    listed = json.loads(soup("progress").select_one("#study-list").string)
    assert [chapter["page"] for chapter in listed] == CHAPTERS
    for chapter in listed:
        page = soup(chapter["page"])
        assert [e["id"] for e in chapter["exercises"]] == [e["id"] for e in page.select("div.exercise")]
        assert chapter["quiz"] == len(page.select(".quiz-question"))
        assert len(chapter["exercises"]) >= 4


# -- definitions ----------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_definitions_beside_the_words(open_page):
    page = open_page("book/04_maml.html", mathematics=False)
    links = page.locator("a.glossary-term")
    assert links.count() > 10
    tip = page.locator("#glossary-tip")
    assert not tip.is_visible()
    links.nth(2).hover()
    tip.wait_for()
    assert "简" in tip.inner_text() and "繁" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    links.nth(3).focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    tip.wait_for()
    assert links.nth(3).get_attribute("aria-describedby") == "glossary-tip"
    assert page.problems == []


@pytest.mark.site
def test_definitions_on_a_phone(open_page):
    page = open_page("book/04_maml.html", width=390, height=844, mathematics=False)
    link, tip = page.locator("a.glossary-term").nth(1), page.locator("#glossary-tip")
    link.tap()
    tip.wait_for()
    assert page.url.endswith("04_maml.html"), "the first touch shows, the second follows"
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.locator(".bd-article h1").tap()
    assert not tip.is_visible()


@pytest.mark.site
@pytest.mark.parametrize("name", CHAPTERS)
def test_definitions_lead_to_entries(name):
    page = soup(name)
    entries = json.loads(page.select_one("#glossary-entries").string)
    anchors = [link["href"].split("#")[1] for link in page.select("a.glossary-term")]
    assert set(anchors) == set(entries) and len(anchors) == len(set(anchors)), "the first mention only"
    glossary = {term["id"] for term in soup("glossary").select("dt[id]")}
    assert set(anchors) <= glossary


def test_words_are_found_as_words():
    from glossary_terms import pattern_of

    assert pattern_of("task").search("All Tasks are") and not pattern_of("task").search(
        "multitask or task-level"
    )
    assert pattern_of("support set").search("two support\nsets")
    assert not pattern_of("MAML").search("FOMAML") and not pattern_of("Adam").search("adam")


# -- the print edition ----------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags of a page with their attributes, and whether they stand in an article: a tree of this page takes long."""

    def __init__(self):
        super().__init__()
        self.found, self.articles = [], 0

    def handle_starttag(self, tag, attributes):
        self.articles += tag == "article"
        self.found.append((tag, dict(attributes), self.articles > 0))

    def handle_endtag(self, tag):
        self.articles -= tag == "article"

    def tags(self, name):
        return [attributes for tag, attributes, inside in self.found if tag == name and inside]


@pytest.mark.site
def test_the_whole_book_on_one_page():
    text = (HTML / "book/complete.html").read_text(encoding="utf-8")
    assert "widget-view" not in text
    whole = Tags()
    whole.feed(text)
    of_chapters = [tag["id"] for tag in whole.tags("article") if "bd-article" in tag.get("class", "").split()]
    assert [name for name in of_chapters if re.match(r"\d\d_", name)] == CHAPTERS
    ids = [tag["id"] for _, tag, _ in whole.found if "id" in tag]
    assert len(ids) == len(set(ids))
    ids = set(ids)
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    elsewhere = {chapter["file"].split("/")[1] for part in toc["parts"] for chapter in part["chapters"]}
    for link in whole.tags("a"):
        if "href" not in link:
            continue
        target, _, anchor = link["href"].partition("#")
        if target in {"results.csv", "results.json"}:  # files beside the page
            continue
        if not target:
            assert not anchor or anchor in ids, link["href"]
        else:
            assert re.match(r"\w+:", target) or target.removesuffix(".html") in elsewhere, link["href"]
    assert all("open" in tag for tag in whole.tags("details"))
