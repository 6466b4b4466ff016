"""Small repairs to the built pages."""

import executed_copies
import site_repairs
from docutils.core import publish_doctree


def test_a_full_stop_stays_with_its_formula():
    formula = '<span class="math notranslate nohighlight">\\(x_1\\)</span>'
    text = f"<p>{formula}. And {formula} is, {formula}),</p>"
    assert site_repairs.FORMULA.sub(r"[\1]", text) == f"<p>[{formula}.] And {formula} is, [{formula}),]</p>"


def test_a_number_and_its_per_cent_sign_stand_on_one_line():
    doctree = publish_doctree("Best 5 % of *67 %*, not ``5 % 3``, nor a % b.")
    site_repairs._percent_stays(None, doctree, "page")
    assert doctree.astext() == "Best 5\u00a0% of 67\u00a0%, not 5 % 3, nor a % b."


def test_the_table_of_runs_has_titles():
    row = (
        '<td><p><a href="04_maml.html"><span class="doc">book/04_maml</span></a></p></td>\n<td><p>2026</p></td>\n'
        "<td><p>nbmake</p></td>\n<td><p>7.5</p></td>\n<td><p>{}</p></td>"
    )
    head = '<th class="head"><p>Method</p></th>\n<th class="head"><p>Status</p></th>'
    text = site_repairs._table_of_runs(
        head + row.format("✅") + row.format("❌"), {"book/04_maml": "MAML & co"}
    )
    assert text.count(">4. MAML &amp; co</span>") == 2 and "nbmake" not in text and "Method" not in text
    assert "<p>went through</p>" in text and text.index("<p>yes</p>") < text.index("<p>no</p>")


def test_what_a_cell_prints_in_parts_is_one_output():
    printed = [{"output_type": "stream", "name": "stdout", "text": [f"{n}\n"]} for n in (1, 2, 3)]
    figure = {"output_type": "display_data", "data": {}}
    warned = {"output_type": "stream", "name": "stderr", "text": ["w\n"]}
    joined = executed_copies.in_one([printed[0], printed[1], figure, printed[2], warned])
    assert [o.get("text") for o in joined] == [["1\n", "2\n"], None, ["3\n"], ["w\n"]]
    assert printed[0]["text"] == ["1\n"], "what came in is as it was"
