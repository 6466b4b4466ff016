"""The first script for a GPU, as far as a CPU can tell: it needs little, skips by name, ends what hangs, and says how it went."""

import contextlib
import io
import json
import subprocess
import sys

import first_contact as script
import pytest
import torch
from package_fixtures import ROOT, one_line

from mlbook import results
from mlbook.pages import notebook

CPU = torch.device("cpu")


def asked(*arguments):
    command = [sys.executable, "tools/first_contact.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_needs_nothing_but_the_core():
    heavy = ("matplotlib", "ipywidgets", "anywidget", "IPython", "pytest", "torchvision", "PIL")
    code = f"import sys, runpy; sys.modules |= dict.fromkeys({heavy}); sys.argv = ['x', '--perform', 'versions', "
    code += "'--device', 'cpu']; runpy.run_path('tools/first_contact.py', run_name='__main__')"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-800:]
    assert json.loads(answer.stdout)["torch"] == torch.__version__


def test_checks_are_skipped_by_name_and_kept_as_a_record(tmp_path):
    out = tmp_path / "record.json"
    answer = asked("--device", "cpu", "--only", "versions", "graph", "memory", "--out", str(out))
    assert answer.returncode == 0, answer.stderr[-800:]
    *lines, words, skipped = answer.stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["check"] for row in rows] == ["versions", "graph", *(f"memory:{n}" for n in script.LARGE)]
    assert [row["result"] for row in rows] == ["passed"] + ["skipped"] * (1 + len(script.LARGE))
    assert "6 checks on a CPU in" in words and "1 passed, 0 failed, 5 skipped" in words
    assert skipped.startswith("  skipped (needs a GPU): graph, memory:maml-omniglot-5w1s")
    record = json.loads(out.read_text())
    assert record["checks"] == rows and record["device"] == "cpu" and record["machine"]["gpu"] is None
    assert {"machine", "commit", "date"} <= record.keys()


def test_wrong_options_are_one_sentence(capsys):
    assert script.main(["--only", "versions", "speed"]) == 2
    assert one_line(capsys.readouterr().err) == "first_contact: no check is named speed; --list names them"
    if not torch.cuda.is_available():
        assert script.main(["--device", "cuda"]) == 2
        assert "no CUDA GPU is available" in one_line(capsys.readouterr().err)
    assert script.main(["--list", "--only", "learner"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(script.LEARNERS)


def test_a_failure_is_a_row_a_sentence_and_a_status(monkeypatch, capsys):
    answers = {"versions": {"result": "passed"}, "resume": {"result": "failed", "why": "it differs"}}
    monkeypatch.setattr(script, "in_a_process", lambda name, *_: answers[name])
    assert script.main(["--device", "cpu", "--only", "versions", "resume"]) == 1
    out = capsys.readouterr().out
    assert "2 checks on a CPU" in out and "failed  resume: it differs" in out


def test_what_a_check_raises_is_told_in_one_line(monkeypatch):
    def fails(device):
        try:
            raise RuntimeError("the first\nof two")
        finally:
            raise ValueError("the second\nof two")

    def skips(device):
        raise script.Skipped("no data")

    monkeypatch.setitem(script.CHECKS, "a", script.Check("", fails))
    monkeypatch.setitem(script.CHECKS, "b", script.Check("", skips))
    found = script.perform("a", CPU)
    assert found == {"result": "failed", "why": "ValueError: the second of two", "first": "the first"}
    assert script.perform("b", CPU) == {"result": "skipped", "why": "no data"}


def test_a_check_that_hangs_or_dies_ends_in_time(monkeypatch):
    assert script.in_a_process("versions", CPU, 0.01)["why"] == "no answer within 0.01 s"
    monkeypatch.setattr(script.sys, "executable", "/bin/false")
    assert "ended with status 1" in script.in_a_process("versions", CPU, 20)["why"]


def test_what_is_measured_and_recorded_exists():
    for name in (*script.RECORDED, *script.LEARNERS, *script.LARGE):
        setup = script.experiments.setup(script.experiments.config(name, "quick"))
        assert name not in script.RECORDED or setup.learner.recordable, name


def shown(monkeypatch, record):
    """What the status page says with that record in the package."""
    said = []
    monkeypatch.setattr(results, "benchmark", lambda name: record)
    monkeypatch.setattr(notebook, "table", lambda header, rows, caption: said.append((rows, caption)))
    monkeypatch.setattr("IPython.display.display", lambda thing: said.append(thing.data))
    (cell,) = [
        cell
        for cell in json.loads((ROOT / "book" / "status.ipynb").read_text())["cells"]
        if "first_contact" in "".join(cell["source"]) and cell["cell_type"] == "code"
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        exec("".join(cell["source"]), {"notebook": notebook})
    return said[0]


def test_the_status_page_says_whether_a_gpu_has_run_this(monkeypatch):
    checks = [
        {"check": "versions", "seconds": 2.0, "result": "passed"},
        {"check": "graph", "seconds": 1.0, "result": "failed", "why": "it draws others"},
    ]
    record = {"device": "cpu", "commit": "abc", "date": "2026-12-01", "checks": checks}
    record["machine"] = {"gpu": None, "torch": "2.13.0"}
    for nothing in (None, record):
        assert shown(monkeypatch, nothing).startswith("**No GPU has run this book's code so far.**")
    record |= {"device": "cuda", "machine": {"gpu": "H200", "torch": "2.13.0"}}
    rows, caption = shown(monkeypatch, record)
    assert [row[1] for row in rows] == ["passed", "**failed**: it draws others"] and "H200" in caption


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", [name for name, check in script.CHECKS.items() if check.gpu])
def test_a_check_passes_on_a_gpu(name):
    found = script.in_a_process(name, torch.device("cuda"), script.CHECKS[name].seconds)
    assert found["result"] == "passed", found
