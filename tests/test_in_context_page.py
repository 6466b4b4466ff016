"""Chapter 19: what its sentences say of the record of `studies.in_context`, and its figures."""

import json

import pytest
import torch

from mlbook import experiments, results
from mlbook.meta_learners.in_context import gradient_descent
from mlbook.models.attention import MATRICES, answers
from mlbook.pages.figures import in_context_figures as figures
from mlbook.tasks import Episode
from mlbook.tasks.linear_functions import LinearFunctions
from mlbook.training.evaluation import fixed_episodes

STUDY = results.study("in_context")
WAVES = STUDY["sine_waves"]
LINEAR = STUDY["linear_functions"]


def means(row):
    return {key: its["mean"] for key, its in row.items()}


def records(name):
    return {
        r["config"]["seed"]: r for r in results.runs() if r["experiment"] == name and r["preset"] != "quick"
    }


@pytest.mark.parametrize(
    "name, part", [("transformer-sinusoid-5shot", "waves"), ("transformer-sines-lines-5shot", "both")]
)
def test_the_record_is_of_the_runs_in_the_ledger(name, part):
    row = WAVES["shots"]["5"] if part == "waves" else STUDY["sines_and_lines"]
    its = records(name)
    assert sorted(its) == [0, 1, 2] and STUDY["tasks"] >= 600
    for seed, error in enumerate(row["transformer"]["seeds"]):
        e = its[seed]["evaluation"]  # of the same tasks, or of more of them
        assert error == pytest.approx(e["mse"], abs=1e-4 if e["tasks"] == STUDY["tasks"] else 2 * e["ci95"])
    assert sorted(records("linear-attention-10d")) == [0, 1, 2, 3, 4]


def test_the_record_of_linear_functions_is_of_the_runs_in_the_ledger():
    row, its = LINEAR["shots"]["10"], records("transformer-linear-5d")
    assert sorted(its) == [0, 1, 2] and LINEAR["tasks"] >= 600 and LINEAR["k_shot"] == 10
    assert row == LINEAR["noise"]["0"] == LINEAR["families"]["as trained"]
    for seed, error in enumerate(row["transformer"]["seeds"]):
        e = its[seed]["evaluation"]
        assert error == pytest.approx(e["mse"], abs=2 * e["ci95"])
    for key, name in (
        ("maml", "maml-linear-5d"),
        ("network", "maml-linear-5d-mlp"),
        ("reptile", "reptile-linear-5d"),
    ):
        e = results.run_record(name)["evaluation"]
        assert row[f"{key}-10"]["mean"] == pytest.approx(e["mse"], abs=2 * e["ci95"])


def test_the_errors_of_maml_are_those_of_its_record():
    e = results.run_record("maml-sinusoid-5shot")["evaluation"]
    for step in (0, 1, 10):
        assert WAVES["shots"]["5"][f"maml-{step}"]["mean"] == pytest.approx(e["mean"][step], rel=1e-3)


def test_five_points():
    row = means(WAVES["shots"]["5"])
    assert max(WAVES["shots"]["5"]["transformer"]["seeds"]) < row["maml-10"] / 4
    assert row["posterior"] < 0.005 < row["transformer"]
    assert row["maml-10"] < row["maml-1"] < row["kernel"] < row["nearest"] < row["mean"]


def test_shots_and_noise():
    shots = {int(k): means(row) for k, row in WAVES["shots"].items()}
    assert all(row["transformer"] < row["maml-10"] for row in shots.values())
    assert shots[1]["posterior"] < shots[1]["transformer"] < 1.2 * shots[1]["posterior"]
    assert shots[20]["transformer"] < shots[10]["transformer"]
    assert all(0.04 < shots[20][key] < 0.06 for key in ("maml-10", "reptile-10"))
    assert [k for k, row in shots.items() if row["reptile-10"] > figures.DIVERGED] == [1, 2]
    noise = {float(k): means(row) for k, row in WAVES["noise"].items()}
    assert all(0 < noise[0.1][key] - noise[0.0][key] < 0.015 for key in noise[0.0] if key != "maml-0")
    assert noise[0.5]["transformer"] < noise[0.5]["maml-10"]
    assert noise[1.0]["maml-10"] < min(WAVES["noise"]["1"]["transformer"]["seeds"])
    assert all(row["posterior"] < min(row["maml-10"], row["transformer"]) for row in noise.values())


def test_other_families():
    rows = {name: means(row) for name, row in WAVES["families"].items()}
    amplitude, phase, frequency, lines = (row for name, row in rows.items() if name != "as trained")
    assert amplitude["maml-10"] < 0.7 * amplitude["transformer"]
    assert all(row["maml-10"] < row["transformer"] / 2 for row in (phase, frequency, lines))
    assert all(row["posterior"] == min(row.values()) > 2 for row in (amplitude, phase))
    assert all(row["posterior"] > row["maml-10"] for row in (frequency, lines))
    assert lines["kernel"] == min(lines.values())


def test_linear_functions_over_shots():
    rows = {int(k): means(row) for k, row in LINEAR["shots"].items()}
    gradient = ("maml-1", "maml-10", "network-10", "reptile-10", "step")
    for k, row in rows.items():
        assert all(row["transformer"] < row[key] for key in (*gradient, "zero", "nearest"))
        tasks = row["least_squares"] - max(5 - k, 0)  # how much harder these tasks are than most
        assert abs(tasks) < 2 * LINEAR["shots"][str(k)]["least_squares"]["ci95"] + 1e-3
        assert row["ridge"] == row["least_squares"]
        assert row["reptile-10"] == pytest.approx(row["maml-10"], rel=0.01) or k <= 3
        assert (row["network-10"] < row["maml-10"]) == (k <= 3 or k >= 7)
    assert all(row["transformer"] < 1.1 * row["ridge"] for k, row in rows.items() if k <= 3)
    assert [k for k, row in rows.items() if row["maml-10"] > 2 * figures.D] == [1, 2, 3]
    assert round(rows[5]["transformer"], 1) == 0.7 and round(rows[10]["transformer"], 2) == 0.03
    assert [f"{rows[k]['transformer'] / 5:.1g}" for k in (5, 10)] == ["0.1", "0.006"]
    assert round(rows[5]["transformer"] / 5, 2) == 0.14
    for k, found in LINEAR["alike"]["shots"].items():
        assert int(k) > 10 or min(found, key=found.get) in ("0.03", "0.1")
    assert LINEAR["alike"]["shots"]["5"]["0"] > 5 * LINEAR["alike"]["shots"]["5"]["0.1"]


def test_linear_functions_with_noise():
    rows = LINEAR["noise"]
    for noise in ("0.1", "0.3"):
        row = means(rows[noise])
        assert (
            row["ridge"] < max(rows[noise]["transformer"]["seeds"]) < min(row["maml-10"], row["network-10"])
        )
    one = means(rows["1"])
    assert min(rows["1"]["transformer"]["seeds"]) > max(
        one["maml-10"], one["network-10"], one["least_squares"]
    )
    assert one["ridge"] < one["maml-10"] < 1.15 * one["ridge"]
    assert all(float(min(found, key=found.get)) <= 0.1 for found in LINEAR["alike"]["noise"].values())


def test_other_linear_functions_and_random_networks():
    rows = {name: means(row) for name, row in LINEAR["families"].items()}
    for name in ("weights twice as large", "inputs twice as large", "inputs skewed"):
        row, seeds = rows[name], LINEAR["families"][name]["transformer"]["seeds"]
        assert max(seeds) < min(row["network-10"], row["maml-10"], row["reptile-10"])
        assert row["transformer"] > rows["as trained"]["transformer"] and row["least_squares"] < 1e-3
    for name in ("inputs twice as large", "inputs skewed"):
        assert rows[name]["maml-10"] > figures.DIVERGED < rows[name]["reptile-10"]
    networks = rows["random networks"]
    assert networks["network-10"] == min(networks.values()) < 0.4 * networks["zero"]
    seeds = LINEAR["families"]["random networks"]["transformer"]["seeds"]
    assert sum(error > networks["zero"] for error in seeds) == 2 and 1.8 < max(seeds) / min(seeds) < 2
    assert networks["zero"] < networks["least_squares"]


def test_the_starts_of_the_linear_models_are_near_zero():
    for name in ("maml-linear-5d", "reptile-linear-5d"):
        assert results.pretrained(name)[1]["params"]["weight"].abs().max() < 0.03


def test_layers():
    """Best seeds: one layer between one and two steps, two as six, three as more than ten; and where the others end."""
    its = STUDY["layers"]
    descent = [row["mean"] for row in its["descent"]]
    one, two, three = (min(row["seeds"]) for row in its["learned"])
    assert descent[2] < one < descent[1]
    needed = [next(n for n, error in enumerate(descent) if error < 1.01 * best) for best in (one, two, three)]
    assert needed[:2] == [2, 6] and needed[2] > 10 and three < 1.05 * its["ridge"]["mean"]
    reads_y, reads_x = [], []
    for seed, layers in enumerate(its["weights"][0]):
        m = {name: torch.tensor(layers[0][name], dtype=torch.float64) for name in MATRICES}
        keys, out = m["query"].T @ m["key"], (m["projection"] @ m["value"])[-1]
        (reads_y if keys[:, 2].abs().max() > 0.5 else reads_x).append(seed)
        if (
            seed in reads_y
        ):  # a multiple of the mean of y: keys read y, the value reads the constant, at every query
            assert keys[:, :2].abs().max() < 0.05 and out[1:].abs().max() < 0.01 < abs(out[0])
            assert keys[1, 2].abs() < 0.05 * keys[0, 2].abs()
        else:  # a step with a rate for each of level and slope
            level, slope = -out[2] * keys[0, 0], -out[2] * keys[1, 1]
            assert slope > 1.2 * level > 0 and keys[:2, :2].fill_diagonal_(0).abs().max() < 0.05
    assert reads_y == [0, 4] and reads_x == [1, 2, 3]


def test_ten_inputs():
    its = STUDY["ten_inputs"]
    for row in its["learned"].values():
        assert row["cosine"] > 0.999 and row["mean"] == pytest.approx(its["built"]["mean"], rel=0.01)


def test_the_best_single_step_has_the_error_of_the_formula():
    e = LinearFunctions(10, 10, 1).sample(200_000, torch.Generator().manual_seed(50))
    rate = 12 * 10 / (10 + 10 - 0.2)
    squares = (gradient_descent(rate, 1)(*e[:3]) - e.query_y).square().flatten()
    formula, half = 10 / 12 * 9.8 / 19.8, 1.96 * float(squares.std()) / len(squares) ** 0.5
    assert abs(float(squares.mean()) - formula) < 2 * half
    for other in (0.8, 1.2):
        assert (gradient_descent(other * rate, 1)(*e[:3]) - e.query_y).square().mean() > squares.mean()


def test_the_weights_of_the_lab_are_those_of_the_runs_and_do_what_the_record_says():
    tasks = experiments.build_tasks(experiments.config("linear-attention-lines-1", "paper"), "test")
    drawn = fixed_episodes(tasks, 4 * STUDY["tasks"], STUDY["seed"])
    e = Episode(*(torch.cat(field).double() for field in zip(*drawn, strict=True)))
    for count, row in enumerate(STUDY["layers"]["learned"]):
        for seed, layers in enumerate(STUDY["layers"]["weights"][count]):
            params = {m: torch.tensor([layer[m] for layer in layers], dtype=torch.float64) for m in MATRICES}
            error = (answers(params, *e[:2], e.query_x) - e.query_y).square().mean()
            assert float(error) == pytest.approx(row["seeds"][seed], rel=1e-3)


def test_beside_leo():
    its = STUDY["sines_and_lines"]
    row = {k: v["mean"] for k, v in its.items() if isinstance(v, dict) and k != "minus_leo"}
    assert its["minus_leo"]["mean"] - its["minus_leo"]["ci95"] > 0
    assert row["maml"] > 3 * row["transformer"] and row["posterior"] < row["leo"] / 3
    leo, ours = (results.run_record(f"{n}-sines-lines-5shot")["config"] for n in ("leo", "transformer"))
    tasks = [c["meta_steps"] * c["meta_batch_size"] for c in (leo, ours)]
    meta = results.pretrained(leo["name"])[1]
    sizes = [sum(p.numel() for group in meta.values() for p in group.values()), 100_097]
    for one, other in (tasks, sizes):
        assert 0.7 < one / other < 1.5


def test_the_figures_say_what_they_show():
    for drawn in (
        figures.attention_as_a_step(),
        figures.depth(STUDY),
        figures.shots_and_noise(STUDY),
        figures.linear_shots_and_noise(STUDY),
    ):
        fig, alt = drawn
        assert len(alt) > 150 and fig.axes
    assert json.dumps(STUDY)  # plain values
