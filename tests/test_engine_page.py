"""The measurements that pages show: records that are whole, and figures and tables that say what stands in them."""

import json
import math
import re

import pytest
from package_fixtures import ROOT

from mlbook import results
from mlbook.pages import notebook
from mlbook.pages.figures import engine_figures

PAGES = {name: (ROOT / "book" / name).read_text() for name in ("engine.ipynb", "05_second_derivative.ipynb")}


@pytest.mark.parametrize("name", ("compare", "savings", "scale", "launches"))
def test_every_record_that_a_page_reads_is_there(name):
    assert f'results.benchmark(\\"{name}\\")' in "".join(PAGES.values())
    assert results.benchmark(name)
    assert results.benchmark("no-such-benchmark") is None


def timed_rows():
    for threads in results.benchmark("compare")["threads"].values():
        for problem, entry in threads.items():
            for contender, row in entry["contenders"].items():
                if "time" in row:
                    yield problem, contender, row


def test_nobody_was_timed_with_a_wrong_gradient():
    rows = [(p, c, r) for p, c, r in timed_rows() if not p.startswith("sampling")]
    assert len(rows) > 50
    assert all(row["distance_float64"] < 1e-8 for _, _, row in rows)


def test_medians_and_ratios_are_those_of_the_recorded_times():
    for threads in results.benchmark("compare")["threads"].values():
        for entry in threads.values():
            rows = entry["contenders"]
            own = rows["mlbook"]
            peer = rows[own["fastest_peer"]]
            ratios = sorted(a / b for a, b in zip(peer["seconds"], own["seconds"], strict=True))
            assert own["over_fastest_peer"]["min"] == pytest.approx(ratios[0])
            assert own["over_fastest_peer"]["max"] == pytest.approx(ratios[-1])
            assert own["time"]["min"] <= own["time"]["median"] <= own["time"]["max"]


def test_the_page_names_problems_that_were_measured(capsys, monkeypatch):
    """Run the page's own cells that build the tables; every entry must find its row."""
    shown, alts = [], []
    monkeypatch.setattr(notebook, "figure", lambda drawn, caption: alts.append(drawn[1]))
    monkeypatch.setattr(notebook, "table", lambda header, body, caption=None: shown.append((caption, body)))
    asked = []
    original = notebook.speed_table

    def speed_table(entries, **options):
        asked.append(len(entries))
        before = len(shown)
        original(entries, **options)
        assert len(shown[before][1]) == len(entries), options

    monkeypatch.setattr(notebook, "speed_table", speed_table)
    scope = {"notebook": notebook}
    cells = json.loads(PAGES["engine.ipynb"])["cells"]
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code" and 'threads="2"' not in text and "speed_table" in text:
            exec(text, scope)
    assert sum(asked) >= 15
    assert len(alts) == 2 and all("learn2learn" in alt and "mlbook" in alt for alt in alts)
    speeds = [body for _, body in shown if len(body[0]) == 6]
    assert len(speeds) >= 5
    assert all(re.fullmatch(r"\*\*[\d.]+\*\* \[[\d.]+ … [\d.]+\]", row[3]) for body in speeds for row in body)


@pytest.mark.parametrize("axis", ["tasks", "steps", "filters"])
def test_the_cost_figure_shows_every_point_and_tells_it(axis):
    record = results.benchmark("scale")
    fig, alt = engine_figures.cost(record, axis)
    (ax,) = fig.axes
    assert len(ax.lines) == 4 and engine_figures.AXES[axis] in alt
    for line in ax.lines:
        assert len(line.get_xdata()) >= 5 and all(math.isfinite(y) and y > 0 for y in line.get_ydata())
    first = ax.lines[0].get_ydata()
    assert f"{first[0]:.3g}" in alt and f"{first[-1]:.3g}" in alt


def test_second_order_needs_more_time_and_memory_than_first():
    record = results.benchmark("scale")
    for contender in ("plain loop", "mlbook"):
        for measure in (lambda row: row["time"]["median"], lambda row: row["memory_mib"]):
            _, second = engine_figures.series(record, "steps", contender, 2, measure)
            _, first = engine_figures.series(record, "steps", contender, 1, measure)
            assert second[-1] > first[-1]
    fig, alt = engine_figures.memory(record)
    assert len(fig.axes[0].lines) == 5 and "computed again" in alt


def test_the_savings_figures_have_a_line_per_part():
    record = results.benchmark("savings")
    assert len(record["problems"]) == 4
    for key, problem in record["problems"].items():
        fig, alt = engine_figures.savings(problem, key)
        parts = [n for n, row in problem["contenders"].items() if "slower" in row and n != "mlbook"]
        labels = [t.get_text() for t in fig.axes[0].get_yticklabels()]
        assert labels == [part.removeprefix("mlbook, ") for part in parts[::-1]]
        assert all(part in alt for part in parts)


def test_the_launch_counts_are_those_of_a_loop_that_starts_everything_and_of_two_that_batch():
    rows = {(r["experiment"], r["engine"]): r for r in results.benchmark("launches")["rows"]}
    for experiment in {e for e, _ in rows}:
        assert all(rows[experiment, engine]["devices"] == ["gpu"] for engine in ("loop", "vmap", "fast"))
        assert rows[experiment, "loop"]["launches"] > 5 * rows[experiment, "fast"]["launches"]


def test_coarser_rounding_gives_larger_errors():
    rows = {row["precision"]: row for row in results.study("precision")["rows"]}
    assert list(rows) == ["float32", "tf32", "bf16"]
    for state in ("error_random", "error_trained"):
        errors = [rows[p][state]["median"] for p in rows]
        assert errors == sorted(errors)
    assert all(len(row["accuracy"]) == len(row["ci95"]) >= 2 for row in rows.values())
    said = {"tf32": (1 / 3, 0.02), "bf16": (1 / 2, 0.1)}  # "a third", "2 %", "half of it", "a tenth"
    for precision, (at_random, at_trained) in said.items():
        assert rows[precision]["error_random"]["median"] == pytest.approx(at_random, rel=0.2)
        assert rows[precision]["error_trained"]["median"] == pytest.approx(at_trained, rel=0.2)
        for exact, found in zip(rows["float32"]["accuracy"], rows[precision]["accuracy"], strict=True):
            assert 0.004 < exact - found < 0.016  # "about a point below float32 with the same seed"
    low = max(a - c for row in rows.values() for a, c in zip(row["accuracy"], row["ci95"], strict=True))
    high = min(a + c for row in rows.values() for a, c in zip(row["accuracy"], row["ci95"], strict=True))
    assert low < high  # "the intervals overlap"


def test_what_the_engine_page_says_of_its_parts_is_what_was_measured():
    problems = results.benchmark("savings")["problems"]

    def slower(part):
        return [p["contenders"][part]["slower"]["median"] for p in problems.values()]

    def memory(key, part):
        (problem,) = (p for name, p in problems.items() if name.startswith(key))
        return problem["contenders"][part]["memory_mib"] / problem["contenders"]["mlbook"]["memory_mib"]

    assert 1.55 < min(slower("freed memory given back at once")) < 1.65
    assert 3.8 < max(slower("freed memory given back at once")) < 3.95
    assert (
        1.25 < min(slower("matrix products over patches"))
        and max(slower("matrix products over patches")) < 2.4
    )
    assert all(1.8 < value < 2.2 for value in slower("one task at a time")[:2])
    assert (
        3.5 < memory("mini", "whole meta-batch at once") < memory("pooled", "whole meta-batch at once") < 14
    )
    assert max(slower("sums over tasks in float32")) < 1.1
    step = next(name for name in problems if name.startswith("strided-1-shot-1-query"))
    without = problems[step]["contenders"]["freed memory given back at once"]["time"]["median"]
    rows = results.benchmark("compare")["threads"]["2"][step]["contenders"]
    assert without > 0.95 * rows["learn2learn"]["time"]["median"]  # "no faster than learn2learn"


def test_what_chapter_5_says_of_the_costs_is_what_was_measured():
    record = results.benchmark("scale")

    def ms(axis, contender, order, value):
        x, y = engine_figures.series(record, axis, contender, order, lambda row: 1000 * row["time"]["median"])
        return y[x.index(value)]

    def mib(contender, order, value):
        x, y = engine_figures.series(record, "steps", contender, order, lambda row: row["memory_mib"])
        return y[x.index(value)]

    for contender in ("plain loop", "mlbook"):
        for n in (1, 2, 3, 5, 10):
            counted = (3 * n + 3 + 6 * n) / (3 * n + 3)
            ratio = ms("steps", contender, 2, n) / ms("steps", contender, 1, n)
            assert abs(ratio / counted - 1) < 1 / 6, n
        assert 3 < ms("tasks", contender, 2, 64) / ms("tasks", contender, 2, 16) < 5
        assert mib(contender, 1, 10) < 1.1 * mib(contender, 1, 1)  # first order forgets
        assert mib(contender, 2, 10) > 1.5 * mib(contender, 2, 1)
    assert ms("filters", "mlbook", 2, 128) / ms("filters", "mlbook", 2, 64) > 3
    assert ms("filters", "plain loop", 2, 128) / ms("filters", "plain loop", 2, 64) < 2.5
    again = "mlbook, activations computed again"
    assert mib(again, 2, 10) - mib(again, 2, 1) < 0.5 * (mib("mlbook", 2, 10) - mib("mlbook", 2, 1))
