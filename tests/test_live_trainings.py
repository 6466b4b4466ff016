"""``notebook.train``: a page's training of a named experiment."""

import html
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from package_fixtures import ROOT

from mlbook import experiments, results
from mlbook.data.tensor_file import load_tensors
from mlbook.errors import UserError
from mlbook.meta_learners.base import leaves
from mlbook.pages import live, notebook
from mlbook.training import runner

NAME = "maml-sinusoid-5shot"
SHORT = {"meta_steps": 40, "evaluation_tasks": 25}


@pytest.fixture
def env(monkeypatch):
    monkeypatch.delenv("MLBOOK_PRESET", raising=False)
    monkeypatch.delenv("MLBOOK_RUNS", raising=False)
    return notebook.setup(quiet=True)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


def test_it_is_the_run_of_the_command_line(env, tmp_path, capsys, monkeypatch):
    """The same parameters, scores and record, bit for bit; then it is read, not trained again."""
    monkeypatch.setattr(results, "runs", list)  # no recorded run to take the pace from
    direct = runner.run(NAME, preset="quick", device="cpu", out=tmp_path / "direct", **SHORT)
    trained = notebook.train(env, NAME, runs=tmp_path / "page", **SHORT)
    assert (
        trained.evaluation == json.loads(json.dumps(direct["evaluation"]))
        and trained.config == direct["config"]
    )
    assert same(trained.meta, runner.load_checkpoint(tmp_path / "direct/checkpoint.safetensors")[1])
    assert trained.curve(4)[-1][0] == 40 and len(trained.curve(4)) == 4
    assert trained.learner.inner_lr == direct["config"]["learner"]["inner_lr"]
    said = capsys.readouterr().out
    assert (
        "40 meta-steps on the CPU; the time left is known once" in said
        and "on 25 tasks" in said
        and str(tmp_path) in said
    )
    again = notebook.train(env, NAME, runs=tmp_path / "page", **SHORT)
    assert same(again.meta, trained.meta) and "meta-steps on" not in capsys.readouterr().out
    (folder,) = (tmp_path / "page").iterdir()
    assert folder.name == f"{NAME}-quick-seed0-40"


def test_it_goes_on_after_a_kill(env, tmp_path, capsys):
    whole = notebook.train(env, NAME, runs=tmp_path / "whole", meta_steps=600, evaluation_tasks=25)
    program = (
        "from mlbook.pages import notebook; env = notebook.setup(quiet=True); "
        f"notebook.train(env, {NAME!r}, meta_steps=600, evaluation_tasks=25, checkpoint_seconds=0)"
    )
    environment = {**os.environ, "MLBOOK_RUNS": str(tmp_path / "killed")}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment)
    state = tmp_path / "killed" / f"{NAME}-quick-seed0-600" / "resume/state.safetensors"
    end = time.monotonic() + 120
    while not state.is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < int(load_tensors(state)[0]["meta_step"]) < 600
    capsys.readouterr()
    after = notebook.train(env, NAME, runs=tmp_path / "killed", meta_steps=600, evaluation_tasks=25)
    assert "goes on from meta-step" in capsys.readouterr().out
    assert same(after.meta, whole.meta) and after.evaluation == whole.evaluation


def test_an_interrupted_cell_says_what_to_do(env, tmp_path, monkeypatch):
    def stopped(*args, **options):
        raise KeyboardInterrupt("the same command with --resume goes on")

    monkeypatch.setattr(live, "run", stopped)
    with pytest.raises(KeyboardInterrupt, match="run this cell again to go on"):
        notebook.train(env, NAME, runs=tmp_path, **SHORT)


@pytest.mark.parametrize("preset", ["quick", "colab", "paper"])
@pytest.mark.parametrize(
    "name", [NAME, "maml-navigation-2d", "leo-plane-3w1s", "learned-optimizer-quadratic"]
)
def test_the_preset_of_the_environment_is_what_runs(env, tmp_path, monkeypatch, preset, name):
    asked = {}

    def nothing(experiment, **options):
        asked.update(options, experiment=experiment)
        raise KeyboardInterrupt

    monkeypatch.setenv("MLBOOK_PRESET", preset)
    monkeypatch.setattr(live, "run", nothing)
    with pytest.raises(KeyboardInterrupt):
        notebook.train(notebook.setup(quiet=True), name, runs=tmp_path)
    assert asked["experiment"] == name and asked["preset"] == preset and asked["resume"]
    assert asked["out"] == tmp_path / f"{name}-{preset}-seed0"


def test_a_gpu_trains_longer_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("MLBOOK_PRESET", raising=False)
    assert notebook.setup(quiet=True).preset == "colab"
    monkeypatch.setenv("MLBOOK_PRESET", "quick")
    assert notebook.setup(quiet=True).preset == "quick"
    monkeypatch.setenv("MLBOOK_PRESET", "long")
    with pytest.raises(UserError, match="MLBOOK_PRESET must be quick, colab or paper"):
        notebook.setup(quiet=True)


def test_a_short_run_leaves_nothing_behind_unless_a_folder_is_named(env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook.train(env, NAME, **SHORT)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("MLBOOK_RUNS", "kept")
    notebook.train(env, NAME, **SHORT)
    assert (tmp_path / "kept" / f"{NAME}-quick-seed0-40/record.json").is_file()


def test_another_run_in_the_folder_is_refused(env, tmp_path):
    notebook.train(env, NAME, runs=tmp_path, **SHORT)
    (folder,) = tmp_path.iterdir()
    folder.rename(tmp_path / f"{NAME}-quick-seed1-40")
    with pytest.raises(UserError, match="holds another run"):
        notebook.train(env, NAME, runs=tmp_path, seed=1, **SHORT)


def test_with_the_quick_preset_a_page_may_take_the_shipped_checkpoint(env, capsys):
    shipped = notebook.train(env, "maml-omniglot-5w1s", quick="shipped")
    said = capsys.readouterr().out
    if env.characters == "omniglot":
        assert "the shipped checkpoint" in said and "14,000 meta-steps" in said
    assert shipped.record is None and shipped.evaluation is None and shipped.meta["params"]


def test_characters_and_their_twins(env):
    there, missing = (live.Environment(env.device, "colab", kind) for kind in ("omniglot", "glyphs"))
    assert live._on_characters(there, "maml-omniglot-5w1s") == "maml-omniglot-5w1s"
    assert live._on_characters(missing, "maml-omniglot-5w1s") == "maml-glyphs-5w1s"
    assert live._on_characters(missing, "nas-relaxed") is None  # takes the shipped checkpoint
    assert live._on_characters(missing, NAME) == NAME


def test_the_time_said_beforehand_is_that_of_a_run_like_it_on_such_a_device():
    config = experiments.config("reptile-sinusoid-5shot", "quick")
    record = results.run_record("reptile-sinusoid-5shot")
    cpu = torch.device("cpu")
    assert live.milliseconds_expected(config, cpu) == record["ms_per_meta_step"]
    assert live.milliseconds_expected({**config, "meta_batch_size": 7}, cpu) is None
    assert live.milliseconds_expected(config, torch.device("cuda")) is None  # recorded on a CPU
    env = live.Environment(cpu, "quick", "glyphs")
    assert "2,000 meta-steps on the CPU; about 0:21 at the pace" in live._announcement(
        env, config, Path("nowhere")
    )


def test_the_table_has_a_row_for_just_now(env, tmp_path, monkeypatch):
    trained = notebook.train(env, NAME, runs=tmp_path, **SHORT)
    shown = []
    monkeypatch.setattr(notebook, "display", lambda item: shown.append(item.data))
    notebook.results_table([NAME, "oracle-sinusoid-5shot"], steps=(1, 10), now=trained)
    notebook.results_table([NAME], now=live.Trained(NAME, trained.config, trained.meta))
    lines = shown[0].splitlines()
    now = next(i for i, line in enumerate(lines) if "just now, on this machine" in line)
    assert f"`{NAME}`" in lines[now - 2] and "published" in lines[now - 2], (
        "its own row stands below the experiment's two"
    )
    (made,) = (line for line in shown[1].splitlines() if "just now" in line)
    assert "preset quick (the short run): 40 meta-steps" in made and "25 test tasks" in made
    assert "just now" not in shown[2] + shown[3]


def test_a_table_of_results_has_a_column_for_each_step(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", lambda item: shown.append(item.data))
    notebook.results_table(["maml-sinusoid-5shot"], steps=(0, 1, 10))
    row = next(row for row in results.ledger() if row["experiment"] == "maml-sinusoid-5shot")
    cells = [
        [cell.strip(" \u00a0\u2007\u2008") for cell in html.unescape(line).split("|")[1:-1]]
        for line in shown[0].splitlines()
    ]
    assert cells[0] == ["experiment", "", "step 0", "step 1", "step 10"]
    assert cells[2] == [
        "`maml-sinusoid-5shot`",
        "published",
        "–",
        *(f"{row['published']['by_step'][s]:.2f}" for s in ("1", "10")),
    ]
    ours = [
        f"{row['ours']['by_step'][s]:.2f}\u00a0±\u00a0{row['ours']['ci95_by_step'][s]:.2f}"
        for s in (0, 1, 10)
    ]
    assert cells[3] == ["", "ours", *ours]
    assert "70,000 meta-steps" in shown[1], "how ours were made"


def test_numbers_of_a_column_stand_in_line(monkeypatch):
    """A number without an interval keeps the room of one free, so that its decimals stand below the others'."""
    shown = []
    monkeypatch.setattr(notebook, "display", lambda item: shown.append(item.data))
    notebook.table(["", "error"], [["a", "1.25\u00a0±\u00a00.30"], ["b", "0.75"], ["c", "–"]])
    lines = [html.unescape(line) for line in shown[0].splitlines()]
    assert lines[1] == "| --- | ---: |"
    at = [line.index("2") if "1.25" in line else line.index("7") for line in lines[2:4]]
    assert at[0] == at[1] and len(lines[2].split("|")[2].strip(" ")) == len(lines[3].split("|")[2].strip(" "))


def test_which_columns_of_a_table_hold_numbers(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", lambda item: shown.append(item.data))
    rows = [
        ["5-way 1-shot", "0.26", "5 steps on the codes", "**61.76\u00a0±\u00a00.08**", "15.8 (TorchOpt)"],
        [
            "5-way 5-shot",
            "diverges",
            "10 steps on the weights",
            "48.70\u00a0±\u00a01.84",
            "-6e-17 (TorchOpt)",
        ],
        ["20-way 1-shot", "1.02", "none", "–", "11.3 (learn2learn)"],
    ]
    notebook.table(["setting", "after 10", "what", "published", "fastest"], rows)
    lines = shown[0].splitlines()
    assert lines[1] == "| --- | ---: | --- | ---: | ---: |"
    assert "| −6e-17 (TorchOpt) |" in lines[3]
    assert "| 48.70\u00a0±\u00a01.84 |" in lines[3] and "**61.76\u00a0±\u00a00.08** |" in lines[2]


def test_the_progress_line_of_a_notebook_is_one_output_that_ends_empty():
    class Handle:
        states = []

        def update(self, data, raw):
            self.states.append(data["text/plain"])

    from mlbook.data.progress import ProgressLine

    stream = live._Redrawn(Handle())
    line = ProgressLine(3, "training", stream=stream)
    line(3, loss=1.0)
    line.close()
    assert len(Handle.states) == 1 and Handle.states[0].startswith("training 3/3 100 %  loss 1.0000")
