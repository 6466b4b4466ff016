"""The results page: one line a row, provenance that unfolds, filters, files."""

import csv
import io
import json
import re

import pytest
from browser import HTML
from bs4 import BeautifulSoup

from mlbook import results
from mlbook.pages import ledger_table

PAGE = "book/results.html"
ACCURACY = {
    "experiment": "maml-omniglot-5w1s",
    "published": {
        "metric": "accuracy", "value": 0.987, "ci95": 0.004, "title": "T <1>", "protocol": "P", "source": "S",
    },
    "ours": {
        "metric": "accuracy", "by_step": [0.2, 0.99], "step": 1, "ci95": 0.003, "tasks": 600, "preset": "paper", "seed": 0,
        "protocol": {"way": 5}, "meta_steps": 10, "seconds": 30.0, "device": "CPU",
    },
    "deviation": "none",
}  # fmt: skip


def test_difference_in_points_with_both_intervals():
    shift, half = ledger_table.difference(ACCURACY)
    assert shift == pytest.approx(0.3) and half == pytest.approx(0.5)
    assert ledger_table.difference({**ACCURACY, "ours": None}) is None
    other = {**ACCURACY, "published": {**ACCURACY["published"], "metric": "mse"}}
    assert ledger_table.difference(other) is None


def test_a_row_claims_the_papers_recipe_only_where_there_is_a_paper():
    assert ledger_table.recipe(ACCURACY) == "paper's recipe"
    assert ledger_table.recipe({**ACCURACY, "deviation": "alpha 1 instead of 2"}) == "shorter recipe"
    assert ledger_table.recipe({**ACCURACY, "published": None}) == "not in a paper"
    other = {**ACCURACY, "experiment": "leo-mini-wrn-10-4-5w1s"}
    assert ledger_table.recipe(other) == "other features" and ledger_table.difference(other) is None
    assert ledger_table.picture(other) == ""


def test_picture_places_ours_on_the_axis():
    def at(value):
        row = {**ACCURACY, "ours": {**ACCURACY["ours"], "by_step": [0.2, value]}}
        return BeautifulSoup(ledger_table.picture(row), "html.parser")

    x = float(at(0.987).select_one("circle")["cx"])
    assert x == ledger_table.WIDTH / 2
    assert float(at(0.997).select_one("circle")["cx"]) - x == pytest.approx(
        x - float(at(0.977).select_one("circle")["cx"])
    )
    far = at(0.5)
    assert far.select_one("path") and not far.select_one("circle")
    assert "48.70 points below" in far.svg["aria-label"]


def test_a_row_tells_how_it_was_made_and_escapes_what_it_quotes():
    table = BeautifulSoup(ledger_table.html_table([ACCURACY]), "html.parser")
    row = table.select_one("tbody tr")
    assert (
        row["id"] == "maml-omniglot-5w1s" and row["data-set"] == "Omniglot" and row["data-method"] == "maml"
    )
    told = row.select_one("dl").get_text(" ")
    assert "T <1>: P; S" in told and "600 tasks, after 1 inner steps; way 5" in told
    assert "python -m mlbook train maml-omniglot-5w1s --preset paper --seed 0" in told
    assert [td.get_text() for td in row.select("td")][:3] == [
        "98.70\u00a0±\u00a00.40",
        "99.00\u00a0±\u00a00.30",
        "+0.30",
    ]


def test_the_file_holds_the_whole_ledger_unrounded():
    rows = results.ledger()
    read = list(csv.DictReader(io.StringIO(ledger_table.as_csv(rows))))
    assert [line["experiment"] for line in read] == [row["experiment"] for row in rows]
    for line, row in zip(read, rows, strict=True):
        if row["ours"]:
            assert float(line["ours"]) == row["ours"]["by_step"][row["ours"]["step"]]
            assert line["deviation"] == row["deviation"]


@pytest.mark.site
def test_the_page_lists_every_row_once_and_has_the_files():
    page = BeautifulSoup((HTML / PAGE).read_text(encoding="utf-8"), "html.parser")
    names = [row["id"] for row in page.select("#ledger tbody tr")]
    assert names == [row["experiment"] for row in results.ledger()]
    assert json.loads((HTML / "book/results.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(results.ledger())
    )
    assert (HTML / "book/results.csv").read_text(encoding="utf-8") == ledger_table.as_csv(results.ledger())
    assert {link["href"] for link in page.select("a[download][href^=results]")} == {
        "results.csv",
        "results.json",
    }


@pytest.mark.site
def test_filters_sorting_and_the_file_of_what_is_shown(open_page, tmp_path):
    page = open_page(PAGE, mathematics=False)
    assert page.evaluate("document.documentElement.scrollHeight") <= 6000
    count = page.locator(".ledger-count")
    ours = sum(row["ours"] is not None for row in results.ledger())
    assert count.inner_text() == f"{ours} of {len(results.ledger())} rows"
    page.get_by_label("Rows").select_option("")
    page.get_by_label("Data").select_option("Omniglot")
    page.get_by_role("searchbox", name="Search", exact=True).fill("reptile 20w1s")
    assert count.inner_text().startswith("2 of ")
    assert "set=Omniglot" in page.url and "text=reptile" in page.url
    page.reload()
    assert count.inner_text().startswith("2 of "), "the address keeps the choice"
    page.get_by_role("searchbox", name="Search", exact=True).fill("")
    published = page.locator("#ledger thead th", has_text="published")
    published.click()
    page.locator("#ledger thead th[aria-sort='ascending']", has_text="published").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    saved.value.save_as(tmp_path / "shown.csv")
    lines = list(csv.DictReader((tmp_path / "shown.csv").open(encoding="utf-8")))
    assert len(lines) == int(re.match(r"\d+", count.inner_text()).group())
    values = [float(line["published"].split()[0]) for line in lines if line["published"] != "–"]
    assert values == sorted(values) and len(values) > 20
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as JSON").click()
    saved.value.save_as(tmp_path / "shown.json")
    assert [row["experiment"] for row in json.loads((tmp_path / "shown.json").read_text())] == [
        line["experiment"] for line in lines
    ]
    assert page.problems == []


@pytest.mark.site
def test_a_link_to_a_row_opens_it_even_if_the_filter_hides_it(open_page):
    page = open_page(f"{PAGE}#siamese-omniglot-5w1s", mathematics=False)
    row = page.locator("#siamese-omniglot-5w1s")
    assert row.locator("dl").is_visible() and "quoted" in row.inner_text()
    assert page.problems == []


@pytest.mark.site
def test_the_table_is_there_without_javascript(site, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site + PAGE)
    assert page.locator("#ledger tbody tr").count() == len(results.ledger())
    page.locator("#maml-omniglot-5w1s summary").click()
    assert page.locator("#maml-omniglot-5w1s dl").is_visible()
    context.close()
