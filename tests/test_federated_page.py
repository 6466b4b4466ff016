"""Chapter 20: what its page says of the study, of the recorded runs and of the training in two processes."""

import json

import pytest
from chapter_cells import source
from package_fixtures import ROOT

from mlbook import results
from mlbook.errors import UserError
from mlbook.pages.checks import client_drift as drift
from mlbook.pages.figures import federated_figures
from mlbook.training.evaluation import mean_and_t95
from studies import client_drift

STUDY, RUNS = results.study("client_drift"), results.runs()
NESTEROV = client_drift.NESTEROV


def difference(a, b):
    """Mean and half-width of the 95 % interval of a − b within seeds, in points."""
    mean, half = mean_and_t95([100 * (x - y) for x, y in zip(a, b, strict=True)])
    return mean, half


def at_end(how, u, **options):
    return drift.at_end(STUDY, how, u, **options)


def ten_steps(name, step=10):
    return [e["mean"][step] for e in drift.seeds(name, RUNS)]


def test_the_study_is_that_of_the_program():
    assert STUDY["seeds"] == list(client_drift.SEEDS) and STUDY["steps"] == client_drift.STEPS
    assert [{k: v for k, v in row.items() if k != "curves"} for row in STUDY["rows"]] == client_drift.VARIANTS
    with pytest.raises(UserError, match="no training"):
        drift.curves(STUDY, "random", 7)


@pytest.mark.parametrize(
    "name", ["fedavg-omniglot-alphabets", "nesterov-omniglot-random", "scaffold-omniglot-alphabets"]
)
def test_the_recorded_runs_are_those_of_the_study(name):
    options = {"nesterov": NESTEROV, "scaffold": {"control_variates": 15}}.get(name.split("-")[0], {})
    assert [round(e["mean"][0], 5) for e in drift.seeds(name, RUNS)] == at_end(
        name.split("-")[2], 20, **options
    )


def test_what_the_page_says_of_drift():
    for u in (1, 5, 20):
        mean, half = difference(at_end("drawers", u), at_end("random", u))
        assert abs(mean) < half
    mean, half = difference(at_end("drawers", 100), at_end("random", 100))
    assert f"dealing by drawer is ahead by {mean:.1f} ± {half:.1f} points" in whole_text()
    for u, least in ((20, 10), (100, 25)):
        mean, half = difference(at_end("alphabets", u), at_end("random", u))
        assert mean + half < 0 and mean < -least
    back, half = difference(at_end("alphabets", 20, control_variates=15), at_end("alphabets", 20))
    lost, _ = difference(at_end("random", 20), at_end("alphabets", 20))
    assert back - half > 0 and back > 0.8 * lost
    back, half = difference(at_end("alphabets", 100, control_variates=15), at_end("alphabets", 100))
    lost, _ = difference(at_end("random", 100), at_end("alphabets", 100))
    assert back - half > 0 and 0.2 * lost < back < 0.6 * lost
    mean, half = difference(at_end("random", 100), at_end("random", 20))
    assert mean + half < 0
    mean, half = difference(at_end("alphabets", 20, **NESTEROV), at_end("alphabets", 20))
    assert mean - half > 0
    mean, half = difference(at_end("random", 20, **NESTEROV), at_end("random", 20))
    assert abs(mean) < half


def test_what_the_page_says_of_the_rate():
    for rate in (0.03, 0.3):
        mean, half = difference(at_end("alphabets", 20, inner_lr=rate), at_end("alphabets", 20))
        assert abs(mean) < half


def test_what_the_page_says_of_rounds_and_bytes():
    def rounds(how, u, **options):
        return sum(drift.rounds_to(STUDY, 0.35, how, u, **options)) / 3

    assert 15 < rounds("random", 1) / rounds("random", 20) < 25
    assert rounds("random", 100) > 0.4 * rounds("random", 20)
    assert rounds("alphabets", 20) < rounds("alphabets", 1) / 4
    assert rounds("alphabets", 20, control_variates=15) < 0.6 * rounds("alphabets", 20)
    for how in ("random", "alphabets"):
        assert rounds(how, 20, **NESTEROV) < rounds(how, 20)
    assert drift.round_bytes() == 4 * 27_275 and "27,275" in json.dumps(whole_text())


def whole_text():
    return (ROOT / "book" / "20_federated.ipynb").read_text(encoding="utf-8")


def test_two_processes_hand_over_one_model_a_round_and_arrive_where_one_does():
    rows = results.study("communication")["rows"]
    assert [row["local_steps"] for row in rows] == [1, 5, 20, 100]
    for row in rows:
        assert row["processes"] == 2 and row["rounds"] == row["averages"] == 400 // row["local_steps"]
        assert row["bytes"] == row["averages"] * (drift.round_bytes() + 8)  # and two metrics
        assert row["accuracy"] == pytest.approx(at_end("random", row["local_steps"])[0], abs=1e-3)
    assert "communication 1 5 20 100 --steps 400" in whole_text()


def test_what_the_page_says_of_new_clients():
    untrained, few = ten_steps("untrained-omniglot-new-clients"), ten_steps("fedavg-omniglot-60-clients")
    mean, half = difference(few, untrained)
    assert mean + half < 0
    for n in (600, 3000):
        mean, half = difference(ten_steps(f"fedavg-omniglot-{n}-clients"), untrained)
        assert mean - half > 0
        assert (
            0
            < difference(
                ten_steps("reptile-omniglot-new-clients"), ten_steps(f"fedavg-omniglot-{n}-clients")
            )[0]
            < 4
        )
    one_step = ten_steps("fedsgd-omniglot-3000-clients")
    assert max(one_step) < min(few)
    first = ten_steps("untrained-omniglot-new-clients", 1)
    for name in (
        "fedavg-omniglot-60-clients",
        "fedavg-omniglot-3000-clients",
        "reptile-omniglot-new-clients",
    ):
        assert min(ten_steps(name, 1)) > max(first)
    mean, half = difference(
        ten_steps("reptile-omniglot-new-clients", 50), ten_steps("untrained-omniglot-new-clients", 50)
    )
    assert mean - half > 0 and mean < 6
    for n, low, high in ((60, 0.4, 0.6), (600, 0.2, 0.3), (3000, 0.15, 0.25)):
        its = [r for r in RUNS if r["experiment"] == f"fedavg-omniglot-{n}-clients"]
        before = [sum(row[2] for row in r["curve"][-20:]) / 20 for r in its]
        assert all(low < value < high for value in before)


def test_intervals_over_seeds():
    mean, half = mean_and_t95([0.4, 0.5, 0.6])
    assert mean == pytest.approx(0.5) and half == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert (
        drift.in_points([0.4, 0.5, 0.6]) == "50.0 ± 24.8"
        and drift.in_points([-0.01, -0.01], sign=True) == "−1.0 ± 0.0"
    )
    with pytest.raises(UserError, match="2 to 10 numbers, not for 1"):
        mean_and_t95([0.5])


def test_the_figures_say_what_they_show():
    for drawn in (federated_figures.one_round(), federated_figures.drift(STUDY)):
        fig, text = drawn
        assert len(text) > 80 and fig.axes


def test_the_lab_is_guessed_at_first():
    assert "Before you press" in source("20", "text-001")
