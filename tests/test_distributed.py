"""Several processes that share a meta-batch give what one process gives (gloo, on this CPU)."""

import json
import os
import random
import socket
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from package_fixtures import ROOT, one_line, rng
from test_provenance import store_mini

from mlbook import experiments
from mlbook.cli import main
from mlbook.data.tensor_file import load_tensors
from mlbook.errors import UserError
from mlbook.models import WideResNet
from mlbook.tasks import Sinusoids
from mlbook.training import run_folder
from mlbook.training.distributed import ALONE, Processes, processes

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def free_port():
    """Below those that the system gives out by itself: by the time it is used no other connection has taken it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def together(count, *arguments):
    """``python -m mlbook`` in ``count`` processes, as torchrun starts them."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={free_port()}"]
    command = [sys.executable, *launcher, "-m", "mlbook", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)


def training(name, out, *options, steps=20):
    """The arguments of ``mlbook train`` for a short run."""
    return [
        "train", name, "--device", "cpu", "--tasks", "5", "--meta-steps", str(steps), "--out", str(out), *options,
    ]  # fmt: skip


def parameters(out):
    return load_tensors(out / "checkpoint.safetensors")[0]


NAMES = [
    "maml-sinusoid-5shot",
    "maml-glyphs-5w1s",
    "reptile-sinusoid-5shot",
    "leo-plane-3w1s",
    "leo-sines-lines-5shot",
    "learned-optimizer-quadratic",
    "fedavg-glyphs-alphabets",
    "imaml-sinusoid-5shot",
    "transformer-sinusoid-5shot",
    "pes-optimizer-quadratic",
]
STEPS = {
    "leo-plane-3w1s": 5,
    "leo-sines-lines-5shot": 5,
    "learned-optimizer-quadratic": 3,
    "fedavg-glyphs-alphabets": 3,
    "imaml-sinusoid-5shot": 3,
    "transformer-sinusoid-5shot": 3,
    "pes-optimizer-quadratic": 3,
}
OWN_WAY = [
    "nearest-mini-5w1s",
    "backbone-mini-wrn-10-4",
    "dada-search-glyphs",
    "augment-random-glyphs",
]
"""Several processes train these, but do not arrive at the result of one."""


ALL = """
import json, os, sys
from mlbook import experiments
from mlbook.cli import main
from mlbook.models import WideResNet
build = experiments.leo.build_model
small = WideResNet(64, depth=10, width=1, stride=2)  # in place of the large ones
experiments.leo.build_model = lambda name, *rest: small if name.startswith("wrn") else build(name, *rest)
for arguments, port in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(port)
    assert main(arguments) == 0
"""


@pytest.fixture(scope="module")
def by_one_and_by_two(tmp_path_factory):
    """A folder with ``1/NAME``, trained in this process, and ``2/NAME``, all by one pair of processes."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLBOOK_DATA", str(folder / "data"))
        store_mini(examples=20)
    lists = [[training(n, folder / count / n, steps=STEPS.get(n, 20)) for n in NAMES] for count in "12"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the pair has: the last bit depends on it, and grows
    assert [main(arguments) for arguments in lists[0]] == [0] * len(NAMES)
    torch.set_num_threads(threads)
    lists[1] += [training(name, folder / "2" / name, steps=1) for name in OWN_WAY]
    calls = [(arguments, free_port()) for arguments in lists[1]]
    pair = []
    for rank in "01":  # as torchrun would start them, but once for all
        own = {**ENVIRONMENT, "RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        own["MLBOOK_DATA"] = str(folder / "data")
        command = [sys.executable, "-c", ALL, json.dumps(calls)]
        pair.append(subprocess.Popen(command, env=own, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    for process in pair:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_give_the_result_of_one(name, by_one_and_by_two):
    one, two = (by_one_and_by_two / count / name for count in "12")
    records = [json.loads((out / "record.json").read_text()) for out in (one, two)]
    logs = [(out / "log.csv").read_text().splitlines() for out in (one, two)]
    one, two = parameters(one), parameters(two)
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert (value - two[key]).abs().max() < 1e-5, key
    assert [r["processes"] for r in records] == [1, 2]
    assert records[0]["run"] == records[1]["run"]
    assert len(logs[0]) == len(logs[1]) == STEPS.get(name, 20) + 1 and logs[0][0] == logs[1][0]
    for a, b in zip(logs[0][1:], logs[1][1:], strict=True):
        assert [float(v) for v in a.split(",")] == pytest.approx([float(v) for v in b.split(",")], rel=1e-4)


@pytest.mark.parametrize("name", OWN_WAY)
def test_some_learners_run_in_two_processes_on_a_way_of_their_own(name, by_one_and_by_two):
    record = json.loads((by_one_and_by_two / "2" / name / "record.json").read_text())
    assert record["processes"] == 2
    assert "each process" in experiments.build_learner(record["config"]).shared_result


def kind(learner):
    """What the table of the engine page says of a learner."""
    return type(learner).__name__, learner.one_process_because() or learner.shared_result


def test_every_kind_of_learner_is_tried_in_two_processes_or_refuses():
    small = WideResNet(64, depth=10, width=1, stride=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments.networks, "WideResNet", lambda *_, **__: small)
        learners = {
            n: experiments.build_learner(experiments.config(n, "quick")) for n in experiments.EXPERIMENTS
        }
    tried = {kind(learners[name]) for name in (*NAMES, *OWN_WAY)}
    assert {kind(learners[name])[1] for name in NAMES} == {"the result of one process"}
    refused = {kind(learner) for learner in learners.values() if learner.one_process_because()}
    assert not tried & refused
    batches = {n: {p.meta_batch_size for p in experiments.get(n).presets.values()} for n in learners}
    one_task = {
        kind(learners[n]) for n in learners if batches[n] == {1}
    }  # nothing to share: refused for its size
    assert {name for name, _ in one_task - tried - refused} == {"Prototypical"}
    assert tried | refused | one_task == {kind(learner) for learner in learners.values()}
    assert {name for name, _ in refused} == {
        "Reptile", "MAMLRL", "LinearHead", "ControllerSearch", "RelaxedSearch", "FederatedAveraging",
    }  # fmt: skip


def test_what_cannot_be_shared_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("nas-controller", "maml-navigation-2d", "reptile-glyphs-5w1s"):
        assert main(training(name, tmp_path / name)) == 2
        assert "; train it in one process" in one_line(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_run_of_one_process_goes_on_in_three(tmp_path):
    name = "maml-sinusoid-5shot"
    assert main(training(name, tmp_path / "whole", steps=60)) == 0
    parts = training(name, tmp_path / "parts", steps=60)
    assert main([*parts, "--time-limit", "1e-4"]) == 0
    assert not (tmp_path / "parts" / "record.json").exists()
    answer = together(3, *parts, "--resume")
    assert answer.returncode == 0, answer.stderr[-2000:]
    whole, trained = parameters(tmp_path / "whole"), parameters(tmp_path / "parts")
    assert all((whole[key] - trained[key]).abs().max() < 1e-5 for key in whole)
    assert main([*parts, "--resume"]) == 0  # nothing is left to do
    assert all(torch.equal(trained[key], value) for key, value in parameters(tmp_path / "parts").items())


def test_wrong_settings_are_refused_by_all_processes(tmp_path):
    answer = together(2, *training("maml-sinusoid-5shot", tmp_path / "x", "--preset", "huge"))
    assert answer.returncode != 0 and "mlbook: maml-sinusoid-5shot has the presets" in answer.stderr
    assert not (tmp_path / "x").exists()


def test_several_processes_share_one_lock_and_are_refused_together(tmp_path):
    """Pairs that share a lock train in the tests above."""
    with run_folder.claimed(tmp_path / "x", resume=False, needed=0):
        answer = together(2, *training("maml-sinusoid-5shot", tmp_path / "x"))
        assert answer.returncode != 0
        said = [line for line in answer.stderr.splitlines() if line.startswith("mlbook: ")]
        assert said and all(  # torchrun ends the others as soon as one has ended
            "another training is writing to" in line for line in said
        )
        assert "Error: " not in answer.stderr.replace("ChildFailedError: ", "")
    assert not (tmp_path / "x").exists()


FULL = """
import os, sys
from mlbook.cli import main
real = os.replace
def replace(source, target):
    if str(target).endswith("state.safetensors") and os.path.exists(target):
        raise OSError(28, "No space left on device")
    return real(source, target)
os.replace = replace
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_of_the_first_process_is_one_sentence_of_each(tmp_path):
    port = str(free_port())
    arguments = training("maml-sinusoid-5shot", tmp_path / "x", "--checkpoint-every", "0", steps=2000)
    pair = []
    for rank in "01":
        own = {
            **ENVIRONMENT,
            "RANK": rank,
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, "-c", FULL, *arguments]
        pair.append(subprocess.Popen(command, env=own, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in pair]
    assert [process.returncode for process in pair] == [2, 2], errors
    said = [[line for line in text.splitlines() if line.startswith("mlbook: ")] for text in errors]
    assert "No space left" in said[0][0] and "another process of this training ended" in said[1][0]
    assert "Traceback" not in errors[0] + errors[1]
    assert int(load_tensors(tmp_path / "x/resume/state.safetensors")[0]["meta_step"]) >= 1


def test_what_the_first_process_meets_is_met_by_all(monkeypatch):
    sent = []
    monkeypatch.setattr("torch.distributed.broadcast_object_list", lambda said, source: sent.append(said[0]))

    def refuse():
        raise UserError("no room")

    with pytest.raises(UserError, match="no room"):
        Processes(0, 2).first_does(refuse)
    Processes(0, 2).first_does(lambda: None)
    Processes(1, 2).first_does(refuse)  # it does nothing itself
    assert sent == ["no room", None, None]
    with pytest.raises(UserError, match="no room"):
        ALONE.first_does(refuse)


def test_the_parts_are_the_meta_batch():
    episodes = Sinusoids().sample(7, rng())
    parts = [Processes(rank, 3).part(episodes) for rank in range(3)]
    assert [part.n_tasks for part in parts] == [3, 2, 2]
    assert sorted(torch.cat([part.query_y[:, 0, 0] for part in parts]).tolist()) == sorted(
        episodes.query_y[:, 0, 0].tolist()
    )
    assert ALONE.part(episodes) is episodes


def test_parts_of_different_sizes_weigh_as_many_tasks_as_they_have(monkeypatch):
    gathered = []
    monkeypatch.setattr("torch.distributed.all_reduce", gathered.append)
    for rank in range(3):
        all_reduce = Processes(rank, 3).mean_over(7)
        gradient, metrics = all_reduce(
            {"params": {"w": torch.tensor([float(rank)])}}, {"loss": torch.tensor(1.0)}
        )
        assert gradient["params"]["w"].shape == (1,) and metrics["loss"].shape == ()
    total = sum(gathered)
    assert total[0].item() == pytest.approx((0 * 3 + 1 * 2 + 2 * 2) / 7) and total[1].item() == pytest.approx(
        1
    )


def test_more_processes_than_tasks_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(UserError, match="5 processes cannot share a meta-batch of 4"):
        with processes(torch.device("cpu"), 4):
            raise AssertionError("must not begin")


def test_processes_that_would_go_on_from_different_steps_are_stopped(monkeypatch):
    def gather(values, own):
        values[:] = [own, 0]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    Processes(0, 2).check_same(0, "meta-step to go on from")
    with pytest.raises(UserError, match=r"do not agree on the meta-step to go on from \(\[7, 0\]\)"):
        Processes(0, 2).check_same(7, "meta-step to go on from")
    ALONE.check_same(7, "meta-step to go on from")
