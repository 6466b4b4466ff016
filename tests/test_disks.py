"""Whatever a disk does, and whoever else writes: nothing is lost that was there, one sentence, exit status 2."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from package_fixtures import ROOT, files_below, one_line, rng

from mlbook import cli, experiments
from mlbook.data import disk
from mlbook.data.tensor_file import load_tensors, save_tensors, write_atomically
from mlbook.errors import StorageError
from mlbook.meta_learners import Backbone
from mlbook.models import WideResNet
from mlbook.training import feature_extraction, run_folder, runner
from mlbook.training.checkpoint import flatten

NAME = "maml-sinusoid-5shot"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder and an empty data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))
    return tmp_path


def train(out="run", *options, steps=4):
    common = ["--tasks", "2", "--meta-steps", str(steps), "--device", "cpu", "--checkpoint-every", "0"]
    return cli.main(["train", NAME, *common, "--out", str(out), *options])


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def refused(status, capsys):
    out, err = capsys.readouterr()
    assert status == 2 and out == ""
    said = [line for line in err.splitlines() if not line.startswith(NAME)]  # not the line of progress
    return one_line("\n".join(said))


# -- disks that refuse ----------------------------------------------------------------------------------------------


def mounted(folder, size):
    """A file system of its own of so many kB; skipped where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here (that needs root)")


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(kB): a folder on a disk of that size."""
    folder = tmp_path / "disk"

    def made(size):
        mounted(folder, size)
        return folder

    yield made
    if folder.exists() and os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def read_only(small_disk):
    """A folder on a disk that only reads."""
    folder = small_disk(1024)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    return folder


@contextmanager
def immutable(folder):
    """A folder in which not even root may write."""
    if shutil.which("chattr") is None:
        pytest.skip("there is no chattr here")
    if subprocess.run(["chattr", "+i", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("folders cannot be made immutable here (that needs root and a file system that can)")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_a_read_only_disk_is_noticed_before_the_training(read_only, monkeypatch, capsys):
    monkeypatch.setattr(runner, "train", None)  # never called
    for out in (read_only, read_only / "a" / "run"):
        assert "Read-only file system" in refused(train(out), capsys)
    assert listing(read_only) == []


def test_a_folder_without_permission_is_noticed_before_the_training(place, monkeypatch, capsys):
    monkeypatch.setattr(runner, "train", None)
    (place / "mine").mkdir()
    with immutable(place / "mine"):
        for out in ("mine", "mine/run"):
            assert "not permitted" in refused(train(out), capsys)
        assert listing(place) == ["mine"]


def test_too_little_room_is_noticed_before_the_training(small_disk, monkeypatch, capsys):
    folder = small_disk(40)
    monkeypatch.setattr(runner, "train", None)
    for out in (folder, folder / "a" / "run"):
        assert "MB are needed" in refused(train(out), capsys)
    (folder / "filler").write_bytes(bytes(40_960))
    line = refused(train(folder / "run"), capsys)
    assert "No space left" in line or "MB are needed" in line
    assert listing(folder) == ["filler"]


@pytest.mark.parametrize("call, number", [("open", 30), ("mkdir", 13), ("fsync", 28), ("fsync", 122)])
def test_what_the_system_refuses_is_one_sentence_before_the_training(
    place, call, number, monkeypatch, capsys
):
    """For machines on which no disk can be made to refuse: read-only, not permitted, full, over the quota."""
    real = open

    def refuse(path, *arguments, **options):
        if call == "open" and "run" not in str(path):
            return real(path, *arguments, **options)
        raise OSError(number, os.strerror(number), str(path))

    target = {
        "open": "mlbook.data.disk.open",
        "mkdir": "pathlib.Path.mkdir",
        "fsync": "mlbook.data.disk.os.fsync",
    }
    monkeypatch.setattr(runner, "train", None)
    monkeypatch.setattr(target[call], refuse, raising=False)
    assert os.strerror(number) in refused(train(), capsys)
    assert listing(place) == []


def places_that_are_none(place):
    (place / "file").write_text("mine")
    (place / "dangling").symlink_to("nowhere")
    (place / "loop").symlink_to("loop")
    for folder in ("a/record.json", "b/checkpoint.safetensors", "c/log.csv", "d/resume/state.safetensors"):
        (place / folder).mkdir(parents=True)
    (place / "e").mkdir()
    (place / "e/resume").write_text("mine")
    return {
        "file": "a file, not a folder",
        "file/run": "cannot be made (file is no folder)",
        "dangling": "a link to nowhere, which is not there",
        "loop": "loop",
        "n" * 300: "File name too long",
        "new/" + "n" * 300: "File name too long",
        "a": "a folder record.json where a file belongs",
        "b": "already holds a run",
        "c": "a folder log.csv where a file belongs",
        "d": "already holds a run",
    }


def test_places_that_are_none_are_one_sentence(place, monkeypatch, capsys):
    monkeypatch.setattr(runner, "train", None)
    cases = places_that_are_none(place)
    before = listing(place)
    for out, words in cases.items():
        assert words in refused(train(out), capsys), out
    for out, words in {
        "b": "a folder checkpoint",
        "d": "is a folder",
        "e": "a file where the folder",
    }.items():
        assert words in refused(train(out, "--resume"), capsys), out
    assert listing(place) == before


def at_step(monkeypatch, step, act):
    """``act()`` in the training, after a meta-step."""
    real = runner.train

    def training(*arguments, **options):
        for progress in real(*arguments, **options):
            yield progress
            if progress.meta_step == step:
                act()

    monkeypatch.setattr(runner, "train", training)


def check_goes_on_to_the_same_end(place, out, steps):
    """Resumed, a run ends in the bytes of one that nothing happened to."""
    assert train(out, "--resume", steps=steps) == 0
    assert train(place / "whole", steps=steps) == 0
    for file in ("checkpoint.safetensors", "log.csv"):
        assert (out / file).read_bytes() == (place / "whole" / file).read_bytes()


def test_a_disk_that_fills_up_keeps_the_state_of_before(place, small_disk, monkeypatch, capsys):
    folder = small_disk(256)

    def fill():
        with open(folder / "filler", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)) == 4096:
                    pass
            except OSError:
                pass

    with monkeypatch.context() as patch:
        at_step(patch, 3, fill)
        line = refused(train(folder / "run", steps=6), capsys)
    assert "No space left" in line and "--resume goes on" in line
    tensors, _ = load_tensors(folder / "run/resume/state.safetensors")
    assert int(tensors["meta_step"]) == 3
    assert not [name for name in files_below(folder) if name.endswith(".tmp")]
    (folder / "filler").unlink()
    check_goes_on_to_the_same_end(place, folder / "run", 6)


@pytest.mark.parametrize("file", ["log.csv", "state.safetensors", "checkpoint.safetensors", "record.json"])
def test_a_file_that_cannot_be_written_loses_nothing(place, file, monkeypatch, capsys):
    real, out = os.replace, place / "run"

    def refuse(source, target):
        steps = 9 if file.startswith(("check", "record")) else 3
        if target.name == file and (log_steps(out) >= steps or steps == 9):
            raise OSError(28, "No space left on device")
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("mlbook.data.tensor_file.os.replace", refuse)
        line = refused(train(out, steps=6), capsys)
    assert f"{file} cannot be written (No space left on device)" in line and "--resume goes on" in line
    assert not [name for name in files_below(out) if name.endswith(".tmp")]
    assert int(load_tensors(out / "resume/state.safetensors")[0]["meta_step"]) >= 2
    check_goes_on_to_the_same_end(place, out, 6)


def log_steps(out):
    log = out / "log.csv"
    return log.read_text().count("\n") - 1 if log.exists() else 0


@pytest.fixture
def backbone(place, monkeypatch):
    """The checkpoint of a small backbone, and pictures for it."""
    from test_provenance import store_mini

    small = WideResNet(64, depth=10, width=1, stride=2)
    monkeypatch.setattr(experiments.leo, "build_model", lambda *_: small)
    store_mini(size=16)
    config = experiments.config("backbone-mini-wrn-10-4", "quick", meta_steps=1)
    meta = experiments.build_learner(config).init(rng()).meta
    save_tensors(place / "b.safetensors", flatten(meta), {"config": json.dumps(config)})
    return ["features", "extract", "b.safetensors", "--device", "cpu"]


def test_features_that_cannot_be_written_are_noticed_before_the_pictures(
    backbone, place, monkeypatch, capsys
):
    one = feature_extraction.of_images

    def only_one(learner, meta, images):
        assert len(images) == 1, "the pictures were begun"
        return one(learner, meta, images)

    monkeypatch.setattr(feature_extraction, "of_images", only_one)
    (place / "data/features").write_text("mine")
    assert "is a file, not a folder" in refused(cli.main(backbone), capsys)
    (place / "data/features").unlink()
    before = listing(place)

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    for target, words in (
        ("pathlib.Path.mkdir", "cannot be made (Read-only file system)"),
        ("mlbook.data.disk.open", "cannot be written (Read-only file system)"),
        ("mlbook.data.disk.shutil.disk_usage", "cannot be written (Read-only file system)"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, read_only, raising=False)
            assert words in refused(cli.main(backbone), capsys)
    with monkeypatch.context() as patch:
        patch.setattr(disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        assert "MB are needed" in refused(cli.main(backbone), capsys)
    assert "cannot be named" in refused(cli.main([*backbone, "--name", "a/b"]), capsys)
    assert listing(place) == before


def test_features_are_made_by_one_process_at_a_time(backbone, place, capsys):
    (place / "data/features").mkdir()
    with run_folder.locked(place / "data/features/.mini-wrn-10-4.lock", "", ""):
        before = contents(place)
        assert "being made by another process" in refused(cli.main(backbone), capsys)
        assert contents(place) == before
    assert cli.main(backbone) == 0
    assert not [name for name in files_below(place) if name.endswith(".lock")]


def test_features_are_made_with_the_precision_of_an_evaluation(backbone, monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "use_precision", lambda *a: asked.append((a[0], a[1].type, type(a[2]))))
    assert cli.main(backbone) == 0
    assert asked == [("float32", "cpu", Backbone)]


def test_a_data_folder_that_is_none_is_one_sentence(place, monkeypatch, capsys):
    (place / "file").write_text("mine")
    (place / "pictures").mkdir()
    before = listing(place)
    commands = (["train", "maml-omniglot-5w1s"], ["train", "leo-mini-5w1s"], ["data", "verify", "omniglot"])
    for folder in ("file", "file/data", "loop", "n" * 300):
        monkeypatch.setenv("MLBOOK_DATA", folder)
        for command in commands:
            refused(cli.main(command), capsys)
    monkeypatch.setenv("MLBOOK_DATA", str(place))

    def forbidden(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.is_file", forbidden)
        for command in commands:
            assert "cannot be used (Permission denied)" in refused(cli.main(command), capsys)
    assert listing(place) == before


def test_data_on_a_full_disk_keeps_what_was_there(small_disk, monkeypatch):
    from test_provenance import store_images

    folder = small_disk(256)
    monkeypatch.setenv("MLBOOK_DATA", str(folder))
    store_images("birds")
    before = contents(folder)
    with pytest.raises(StorageError, match="No space left") as error:
        store_images("birds", size=64, channels=3)
    one_line(error.value)
    assert contents(folder) == before
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with pytest.raises(StorageError, match="Read-only"):
        store_images("birds", seed=1)
    assert contents(folder) == before


def test_a_write_that_is_refused_names_the_file_and_keeps_the_old_one(place):
    target = place / "x"
    write_atomically(target, b"old")
    with pytest.raises(StorageError, match="x/y cannot be written .*x is no folder"):
        write_atomically(target / "y", b"new")
    (place / "folder").mkdir()
    with pytest.raises(StorageError, match="folder cannot be written .Is a directory."):
        write_atomically(place / "folder", b"new")
    with pytest.raises(StorageError, match="File name too long"):
        write_atomically(place / ("n" * 300), b"new")
    assert target.read_bytes() == b"old" and listing(place) == ["folder", "x"]


def test_a_disk_that_does_not_know_its_size_is_tried(place, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
    disk.probe(place, "here", needed=10**12)
    assert listing(place) == []


# -- two at once ----------------------------------------------------------------------------------------------------


def test_a_second_training_in_one_folder_changes_nothing(place, capsys):
    with run_folder.claimed(place / "run", resume=False, needed=0):
        before = listing(place)
        for options in ((), ("--resume",)):
            assert "another training is writing to --out run" in refused(train("run", *options), capsys)
        assert listing(place) == before
    assert listing(place) == []  # it did not become a run
    assert train() == 0


def test_an_empty_folder_with_a_lock_file_is_no_run(place):
    (place / "run").mkdir()
    (place / "run/.lock").touch()
    assert train() == 0


@pytest.mark.parametrize("number", [38, 95, 37, 22])  # not implemented, not supported, none left, invalid
def test_a_file_system_without_locks_is_said_and_used(place, number, monkeypatch, capsys):
    def none(self):
        open(self.lock_file, "w").close()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_folder.FileLock, "acquire", none)
    assert train() == 0
    assert "--out run is on a file system without locks" in capsys.readouterr().err


def test_a_lock_ends_with_its_process_however_that_ends(place, capsys):
    command = [sys.executable, "-m", "mlbook", "train", NAME, "--device", "cpu", "--checkpoint-every", "0"]
    options = {"env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--meta-steps", "100000", "--out", "run"], **options)
    try:
        deadline = time.monotonic() + 60
        state = place / "run/resume/state.safetensors"  # saved after the log's first line
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        line = refused(train("run", "--resume", steps=100_000), capsys)
        assert "another training" in line and process.poll() is None
    finally:
        process.kill()
        process.wait()
    (place / "run/resume/.state.safetensors.1.tmp").write_bytes(b"half")  # what it was writing
    assert train("run", "--resume", "--time-limit", "1e-4", steps=100_000) == 0
    assert not [name for name in files_below(place) if name.endswith(".tmp")]


KILL = """
import os, signal, sys
from mlbook.cli import main
from mlbook.data import tensor_file
call, file, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
real = getattr(os, call)
def killed(*arguments):
    global count
    name = os.path.basename(arguments[-1]) if call == "replace" else os.path.basename(
        os.readlink(f"/proc/self/fd/{arguments[0]}"))
    if file in name:
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(os, call, killed)
main(sys.argv[4:])
"""
MOMENTS = {
    "the state half written": ("fsync", "state", 3),
    "the log new, the state old": ("replace", "state", 3),
    "the checkpoint not yet there": ("replace", "checkpoint", 1),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_while_it_writes_goes_on_to_the_same_end(place, moment):
    call, file, count = MOMENTS[moment]
    arguments = [
        "train",
        NAME,
        "--tasks",
        "2",
        "--meta-steps",
        "6",
        "--device",
        "cpu",
        "--checkpoint-every",
        "0",
    ]
    command = [sys.executable, "-c", KILL, call, file, str(count), *arguments, "--out", "run"]
    answer = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    assert int(load_tensors(place / "run/resume/state.safetensors")[0]["meta_step"]) >= 2
    check_goes_on_to_the_same_end(place, place / "run", 6)
    assert not [name for name in files_below(place) if name.endswith(".tmp")]


# -- interrupts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def interruptible():
    """Python's own handler of Ctrl-C, which a process that was started in the background has not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_the_last_whole_meta_step(place, monkeypatch, capsys, interruptible):
    """With a line in the log for every second meta-step, an odd one lies between two lines."""
    monkeypatch.setattr(runner, "LOG_LINES", 5)
    steps = 10
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: signal.raise_signal(signal.SIGINT))
        patch.setattr(runner, "ProgressLine", lambda *_, **__: Quiet())
        assert train("run", "--checkpoint-every", "1000", steps=steps) == 130
    assert "--resume goes on from meta-step 5" in one_line(capsys.readouterr().err.lstrip("\n"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    check_goes_on_to_the_same_end(place, place / "run", steps)


class Quiet:
    def __call__(self, *_, **__):
        pass

    def close(self):
        pass


def test_a_second_ctrl_c_does_not_wait(place, monkeypatch, capsys, interruptible):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(monkeypatch, 3, twice)
    assert train(steps=6) == 130
    assert "--resume goes on from meta-step 3" in capsys.readouterr().err


def test_ctrl_c_before_anything_is_saved_leaves_nothing(place, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "train", interrupted)
    assert train() == 130
    assert "nothing was saved yet" in capsys.readouterr().err
    assert listing(place) == []


# -- files that are not what they should be -------------------------------------------------------------------------


def bad_checkpoints(place):
    """{path: what is said of it}."""
    assert train("good") == 0
    good = place / "good/checkpoint.safetensors"
    tensors, header = load_tensors(good)
    config = json.loads(header["config"])
    (place / "empty.safetensors").write_bytes(b"")
    (place / "text.safetensors").write_text("no checkpoint\n" * 9)
    (place / "cut.safetensors").write_bytes(good.read_bytes()[:-40])
    others = {
        "json": "{broken",
        "number": "7",
        "name": json.dumps({**config, "name": "maml-of-tomorrow"}),
        "option": json.dumps({**config, "learner": {"inner_lr": 0.1, "of_tomorrow": 1}}),
        "kind": json.dumps({**config, "learner": 3}),
        "model": json.dumps({**config, "model": ["mlp"]}),
    }
    for name, text in others.items():
        save_tensors(place / f"{name}.safetensors", tensors, {**header, "config": text})
    return {
        "good": "a folder",
        "nothing.safetensors": "no checkpoint at",
        "n" * 300 + ".safetensors": "too long",
        "good/log.csv/x.safetensors": "no checkpoint at",
        **{f"{name}.safetensors": "not a readable checkpoint" for name in ("empty", "text", "cut")},
        **{f"{name}.safetensors": "not a checkpoint of an mlbook experiment" for name in others},
    }


def test_bad_checkpoints_are_one_sentence(place, capsys):
    cases = bad_checkpoints(place)
    capsys.readouterr()
    before = listing(place)
    for path, words in cases.items():
        assert words in refused(cli.main(["evaluate", path, "--tasks", "2", "--device", "cpu"]), capsys), path
        assert words in refused(cli.main(["features", "extract", path, "--device", "cpu"]), capsys), path
    assert listing(place) == before


LOGS = {
    "no number": b"meta_step,loss\nmany,0.1\n",
    "a line too short": b"meta_step,loss\n1\n",
    "a line too long": b"meta_step,loss\n1,0.1,0.2,0.3,0.4,0.5\n",
    "no text": b"meta_step,loss\n\xff\xfe,\x80\n",
    "a value that is no number": b"meta_step,loss\n1,much\n",
}


@pytest.mark.parametrize("log", LOGS)
def test_a_damaged_log_is_one_sentence_before_the_training(place, log, monkeypatch, capsys):
    assert train("run", "--time-limit", "1e-4", steps=50) == 0
    (place / "run/log.csv").write_bytes(LOGS[log])
    capsys.readouterr()
    before = contents(place)
    assert "is not the log of this run" in refused(train("run", "--resume", steps=50), capsys)
    assert contents(place) == before
    (place / "run/log.csv").unlink()  # as the sentence says
    assert train("run", "--resume", steps=50) == 0


STATES = {
    "without its meta-step": lambda t: t.pop("meta_step"),
    "without its generator": lambda t: t.pop("generator"),
    "without its seconds": lambda t: t.pop("seconds"),
    "with a short generator": lambda t: t.update(generator=t["generator"][:9]),
    "with an odd moment": lambda t: t.update({"optimizer/x/exp_avg": torch.zeros(1)}),
}


@pytest.mark.parametrize("state", STATES)
def test_a_damaged_state_is_one_sentence(place, state, capsys):
    assert train("run", "--time-limit", "1e-4", steps=50) == 0
    path = place / "run/resume/state.safetensors"
    tensors, header = load_tensors(path)
    STATES[state](tensors)
    save_tensors(path, tensors, header)
    capsys.readouterr()
    before = contents(place)
    assert "is damaged" in refused(train("run", "--resume", steps=50), capsys)
    assert contents(place) == before


def test_a_damaged_record_of_before_is_written_anew(place):
    assert train() == 0
    (place / "run/record.json").write_bytes(b"{broken")
    assert train("run", "--resume") == 0
    assert json.loads((place / "run/record.json").read_text())["meta_steps"] == 4


# -- the last resort ------------------------------------------------------------------------------------------------

ERRORS = {
    "a file": (
        PermissionError(13, "Permission denied", "some/file"),
        "some/file cannot be used (Permission denied)",
    ),
    "two files": (OSError(18, "Invalid cross-device link", "a", None, "b"), "a and b cannot be used"),
    "no file": (OSError("power cut"), "a file cannot be used (power cut)"),
    "memory": (MemoryError(), "memory of this computer is full"),
    "memory of torch": (
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        "memory of this computer is full",
    ),
    "memory of the GPU": (
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to\nallocate"),
        "memory of the GPU",
    ),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", ["_results", "_train"])
def test_an_error_of_the_machine_is_one_sentence(place, error, where, monkeypatch, capsys):
    exception, words = ERRORS[error]

    def fail(options):
        raise exception

    monkeypatch.setattr(cli, where, fail)
    arguments = ["results"] if where == "_results" else ["train", NAME]
    assert words in refused(cli.main(arguments), capsys)


def test_a_fault_of_the_program_is_not_hidden(monkeypatch):
    def fail(options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "_results", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["results"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_output_to_a_full_disk_is_one_sentence():
    command = [sys.executable, "-m", "mlbook", "experiments"]
    with open("/dev/full", "w") as full:
        answer = subprocess.run(
            command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert answer.returncode == 2 and "No space left" in one_line(answer.stderr)
