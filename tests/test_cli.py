"""The command line: a contract that scripts rely on. Bad input is one line, status 2, and nothing on disk."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from package_fixtures import ROOT, files_below, one_line

from mlbook import experiments
from mlbook.cli import main
from mlbook.data.tensor_file import save_tensors


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder and an empty data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def short(monkeypatch):
    """The final evaluation of a run takes two tasks instead of hundreds."""
    for experiment in experiments.EXPERIMENTS.values():
        for name, preset in experiment.presets.items():
            monkeypatch.setitem(experiment.presets, name, replace(preset, evaluation_tasks=2))


def listing(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(Path(folder).rglob("*"))}


def refused(capsys, place, *arguments):
    """The one line that the arguments are refused with."""
    before = listing(place)
    status = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.endswith("\n")
    line = one_line(err)
    assert line.startswith("mlbook: ")
    assert listing(place) == before, "something was changed on disk"
    return line


TRAIN = ("train", "maml-sinusoid-5shot")

BAD = {
    "an unknown experiment": (("train", "maml-sinusoid-5shots"), "did you mean maml-sinusoid-5shot"),
    "an unknown experiment, far from all": (("train", "zzz"), "no experiment is named 'zzz'"),
    "an unknown experiment to evaluate": (("evaluate", "mamI-omniglot-5w1s"), "no experiment is named"),
    "negative meta-steps": ((*TRAIN, "--meta-steps", "-1"), "at least 1, not -1"),
    "no meta-steps": ((*TRAIN, "--meta-steps", "0"), "at least 1, not 0"),
    "meta-steps that are no number": ((*TRAIN, "--meta-steps", "many"), "--meta-steps"),
    "an unknown preset": ((*TRAIN, "--preset", "fast"), "quick, colab, paper"),
    "a negative seed": ((*TRAIN, "--seed", "-3"), "--seed"),
    "an unknown device": ((*TRAIN, "--device", "tpu"), "auto, cpu or cuda"),
    "an unknown device to evaluate on": (
        ("evaluate", "maml-sinusoid-5shot", "--device", "tpu"),
        "auto, cpu or cuda",
    ),
    "checkpoints that are never due": ((*TRAIN, "--checkpoint-every", "-1"), "--checkpoint-every"),
    "checkpoints every nan": ((*TRAIN, "--checkpoint-every", "nan"), "--checkpoint-every"),
    "Omniglot that is not there": (("train", "maml-omniglot-5w1s"), "data get omniglot"),
    "an unknown data set": (("data", "get", "emniglot"), "there are: omniglot"),
    "an unknown data set to import": (("data", "import", "mnist", "--from", "x"), "there are: omniglot"),
    "an import from nowhere": (("data", "import", "omniglot", "--from", "missing.tar.xz"), "does not exist"),
    "an import without a source": (("data", "import", "omniglot"), "--from"),
    "data to verify that is not there": (("data", "verify", "omniglot"), "not there"),
    "a checkpoint that is not there": (("evaluate", "runs/x/checkpoint.safetensors"), "no checkpoint at"),
    "an evaluation of one task": (
        ("evaluate", "maml-sinusoid-5shot", "--tasks", "1"),
        "--tasks must be at least 2",
    ),
    "an evaluation with too large a seed": (
        ("evaluate", "maml-sinusoid-5shot", "--seed", "9" * 17),
        "--seed",
    ),
    "an evaluation with a negative seed": (("evaluate", "maml-sinusoid-5shot", "--seed", "-1"), "--seed"),
    "an unknown command": (("trian",), "invalid choice"),
    "no command": ((), "COMMAND"),
    "no name": (("train",), "NAME"),
    "no data action": (("data",), "ACTION"),
    "an unknown option": ((*TRAIN, "--steps", "5"), "--steps"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_status_2_and_nothing_on_disk(place, capsys, case):
    arguments, words = BAD[case]
    assert words in refused(capsys, place, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU on this machine")
@pytest.mark.parametrize("command", [TRAIN, ("evaluate", "maml-sinusoid-5shot")])
def test_cuda_without_a_gpu_is_refused(place, capsys, command):
    assert "no CUDA GPU" in refused(capsys, place, *command, "--device", "cuda")


@pytest.mark.parametrize(
    "content", [b"404: Not Found\n", b"", b"\xfd7zXZ\x00" + b"rubbish" * 50, b"PK\x03\x04" + b"x" * 99]
)
def test_a_corrupt_archive_is_refused(place, capsys, content):
    (place / "omniglot.tar.xz").write_bytes(content)
    line = refused(capsys, place, "data", "import", "omniglot", "--from", "omniglot.tar.xz")
    assert "truncated or not an archive" in line


def test_a_damaged_or_foreign_checkpoint_is_refused(place, capsys):
    path = place / "x.safetensors"
    for content in (b"", b"text", b"\x10" + b"\0" * 7 + b"{}"):
        path.write_bytes(content)
        assert "not a readable checkpoint" in refused(capsys, place, "evaluate", path)
    save_tensors(path, {"w": torch.zeros(2)}, {})
    assert "not a checkpoint of an mlbook experiment" in refused(capsys, place, "evaluate", path)
    assert "no checkpoint at" in refused(capsys, place, "evaluate", place)  # a folder


def test_a_way_that_the_data_cannot_give_is_refused(place, capsys, monkeypatch):
    monkeypatch.setitem(
        experiments.EXPERIMENTS, "wide", replace(experiments.get("maml-glyphs-5w1s"), name="wide", n_way=500)
    )
    assert "500-way episodes need 500 classes" in refused(capsys, place, "train", "wide")


def test_out_that_holds_a_run_or_cannot_be_a_folder_is_refused(place, capsys, short):
    arguments = (*TRAIN, "--meta-steps", "2", "--device", "cpu", "--out")
    assert main([*arguments, "run"]) == 0
    capsys.readouterr()
    assert "--resume" in refused(capsys, place, *arguments, "run")
    (place / "file").write_text("mine")
    assert "a file, not a folder" in refused(capsys, place, *arguments, "file")
    assert "cannot be made" in refused(capsys, place, *arguments, "file/run")


def test_support_statistics_of_a_network_without_batch_norm_are_refused(place, capsys, short):
    assert main([*TRAIN, "--meta-steps", "2", "--device", "cpu", "--out", "run"]) == 0
    capsys.readouterr()
    for mode in ("support", "running", "yesterday"):
        before = listing(place)
        assert main(["evaluate", "run/checkpoint.safetensors", "--tasks", "2", "--batch-norm", mode]) == 2
        assert "batch" in one_line(capsys.readouterr().err)
        assert listing(place) == before


# -- what is printed ------------------------------------------------------------------------------------------------


def test_experiments_as_json(capsys):
    assert main(["experiments", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(experiments.EXPERIMENTS)
    for row in rows:
        assert set(row) == {"name", "dataset", "model", "n_way", "k_shot", "published", "presets"}
        assert set(row["presets"]) == {"quick", "colab", "paper"}
        assert all(set(p) == {"meta_steps", "meta_batch_size"} for p in row["presets"].values())
    assert {"maml-omniglot-5w1s", "fomaml-omniglot-20w5s", "maml-sinusoid-5shot"} <= {
        row["name"] for row in rows
    }


def test_experiments_as_text(capsys):
    assert main(["experiments"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(experiments.EXPERIMENTS)


@pytest.mark.parametrize("pending", [False, True])
def test_results_as_json(capsys, pending):
    assert main(["results", "--json", *(["--pending"] if pending else [])]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    for row in rows:
        assert set(row) == {"experiment", "published", "ours", "deviation"}
        if row["published"] is not None:
            assert set(row["published"]) >= {"value", "ci95", "source"}
        if row["ours"] is not None:
            assert set(row["ours"]) >= {"ci95", "tasks", "meta_steps", "preset", "device", "seconds"}
            assert {"accuracy", "mse", "loss", "return"} & set(row["ours"])
            assert isinstance(row["deviation"], str)
        if pending:
            assert row["ours"] is None or row["ours"]["preset"] != "paper"


def test_results_as_text(capsys):
    assert main(["results"]) == 0
    text = capsys.readouterr().out
    assert "maml-omniglot-20w1s" in text and "98.70 ± 0.40" in text and "0.35" in text
    head, *lines = text.splitlines()
    end = head.index("  how")  # scores are aligned on the right, however long a name is
    assert all(line[end - 1] != " " and line[end : end + 2] == "  " for line in lines)


def test_data_list_says_what_is_there(place, capsys):
    assert main(["data", "list"]) == 0
    assert "not there" in capsys.readouterr().out
    assert files_below(place) == []


@pytest.mark.parametrize(
    ("name", "metric"), [("maml-sinusoid-5shot", "mse"), ("maml-glyphs-5w1s", "accuracy")]
)
def test_train_then_evaluate(place, capsys, short, name, metric):
    assert main(["train", name, "--meta-steps", "2", "--device", "cpu", "--out", "deep/run"]) == 0
    assert name in capsys.readouterr().out
    assert files_below(place / "deep") == [
        f"run/{file}"
        for file in (".lock", "checkpoint.safetensors", "log.csv", "record.json", "resume/state.safetensors")
    ]
    evaluate = ["evaluate", "deep/run/checkpoint.safetensors", "--tasks", "3", "--device", "cpu"]
    assert main([*evaluate, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= {metric, "ci95", "tasks", "protocol"}
    assert result["tasks"] == 3 and result[metric] >= 0 and result["ci95"] >= 0
    assert set(result["protocol"]) >= {"batch_norm", "queries", "split", "seed"}
    assert main(evaluate) == 0
    assert f"{metric} " in capsys.readouterr().out
    # the record was made by the same evaluation
    record = json.loads((place / "deep/run/record.json").read_text())
    assert main(["evaluate", evaluate[1], "--tasks", "2", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == record["evaluation"]


def test_a_run_without_out_goes_to_runs(place, capsys, short):
    assert main([*TRAIN, "--meta-steps", "1", "--seed", "3", "--device", "cpu"]) == 0
    assert (place / "runs" / "maml-sinusoid-5shot-quick-seed3" / "record.json").exists()


# -- run ids --------------------------------------------------------------------------------------------------------


def variants(value):
    """Copies of a nested value in each of which one leaf differs."""
    if isinstance(value, dict):
        for key, item in value.items():
            for other in variants(item):
                yield {**value, key: other}
        yield {**value, "more": 1}
    elif isinstance(value, list):
        yield [*value, 1]
    elif isinstance(value, bool) or value is None:
        yield not value
    elif isinstance(value, int | float):
        yield value + 1
    else:
        yield value + "x"


def test_a_run_id_changes_with_every_value_of_the_configuration():
    for name in ("maml-sinusoid-5shot", "maml-omniglot-5w1s"):
        config = experiments.config(experiments.get(name), "colab")
        others = list(variants(config))
        assert len(others) > len(config)
        ids = {experiments.run_id(c) for c in (config, *others)}
        assert len(ids) == 1 + len(others)
        assert all(len(i) == 12 and int(i, 16) >= 0 for i in ids)


def test_a_run_id_does_not_depend_on_the_order_and_survives_json():
    config = experiments.config(experiments.get("maml-omniglot-5w1s"), "paper", seed=2)
    turned = dict(reversed(json.loads(json.dumps(config)).items()))
    assert experiments.run_id(turned) == experiments.run_id(config)


def test_run_ids_of_all_experiments_presets_and_seeds_are_different():
    ids = [
        experiments.run_id(experiments.config(e, preset, seed=seed))
        for e in experiments.EXPERIMENTS.values()
        for preset in e.presets
        for seed in (0, 1)
    ]
    assert len(set(ids)) == len(ids)


def test_every_experiment_can_be_built():
    before = torch.get_rng_state()
    for e in experiments.EXPERIMENTS.values():
        for preset in e.presets:
            config = experiments.config(e, preset)
            learner = experiments.build_learner(config)
            own = {"learned_optimizer": "loss", "evolved_optimizer": "loss", "maml_rl": "return"}
            numbers = e.dataset.startswith("sinusoid") or learner.metric == "mse" and e.n_way == 1
            metric = own.get(e.learner.get("method"), "mse" if numbers else "accuracy")
            assert learner.metric == metric
            assert e.report_step <= e.test_steps
    assert torch.equal(torch.get_rng_state(), before)


# -- as a program ---------------------------------------------------------------------------------------------------


def test_the_program_itself_exits_with_2_and_one_line(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MLBOOK_DATA": str(tmp_path / "data"),
    }
    for arguments in (["trian"], ["train", "maml-sinusoid-5shot", "--meta-steps", "-1"]):
        answer = subprocess.run(
            [sys.executable, "-m", "mlbook", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 2 and answer.stdout == ""
        one_line(answer.stderr)
    assert files_below(tmp_path) == []
