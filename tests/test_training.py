"""Training: seeded, checkpointed, and the same to the last bit however often it was interrupted."""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace

import pytest
import torch
from package_fixtures import ROOT, files_below, noise_pool, one_line, rng, with_engine

from mlbook import experiments
from mlbook.cli import main
from mlbook.data.progress import ProgressLine
from mlbook.data.tensor_file import load_tensors, save_tensors
from mlbook.engines import fast
from mlbook.errors import CheckpointError, UserError
from mlbook.meta_learners import MAML, Reptile, State
from mlbook.meta_learners.base import leaves, outer_step
from mlbook.models import MLP, Conv4
from mlbook.models.conv4 import adapted_names
from mlbook.tasks import FewShot, MiniBatches, Sinusoids
from mlbook.training import run_folder
from mlbook.training.checkpoint import load_resume, save_resume
from mlbook.training.loop import train
from mlbook.training.runner import load_checkpoint, run

HEADER = {"experiment": "test", "run": "1"}


def sinusoid_setting(**options):
    learner = MAML(MLP((1, 8, 8, 1), init_std=0.3), loss="mse", **options)
    return learner, Sinusoids(), 4


def image_setting(**options):
    model = Conv4(3, filters=4, size=16)
    learner = fast(MAML(model, names=adapted_names(model), inner_lr=0.4, **options))
    return learner, FewShot(noise_pool(size=16, rotations="per_task"), 3, 1, 1), 3


def reptile_setting(engine, **options):
    """Adam's moments are part of what a run leaves behind."""
    model = Conv4(3, filters=4, size=20, gamma=True, spatial_mean=False)
    learner = with_engine(Reptile(model, optimizer="adam", inner_lr=0.01, inner_steps=2, **options), engine)
    return learner, MiniBatches(FewShot(noise_pool(size=20), 3, 3, 0), 4, 2), 2


SETTINGS = {
    "maml": lambda: sinusoid_setting(inner_steps=2),
    "meta-sgd, cosine, clipped": lambda: sinusoid_setting(
        learn_inner_lr=True, meta_lr_decay="cosine", clip_value=0.1
    ),
    "fast engine": image_setting,
    "reptile, adam": lambda: reptile_setting("vmap"),
    "reptile, adam, fast engine": lambda: reptile_setting("fast", moments="shared"),
}


def begin(setting, seed=0):
    learner, tasks, batch = SETTINGS[setting]()
    return learner, tasks, batch, learner.init(rng(seed)), rng(seed + 1)


def go_on(learner, tasks, batch, state, generator, *, until, total=10):
    for progress in train(
        learner, tasks, meta_steps=total, meta_batch_size=batch, state=state, generator=generator
    ):
        if progress.meta_step == until:
            return progress.state
    raise AssertionError("training ended early")


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


# -- in one process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_same_seed_gives_the_same_parameters_and_another_seed_others(setting):
    ends = [go_on(*begin(setting, seed), until=5).meta for seed in (0, 0, 1)]
    assert same(ends[0], ends[1]) and not same(ends[0], ends[2])
    start = begin(setting)[3].meta
    assert not same(start, ends[0])  # it did learn something


def test_training_draws_nothing_from_the_global_generator():
    setting = begin("maml")
    before = torch.get_rng_state()
    go_on(*setting, until=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("setting", SETTINGS)
def test_interrupted_and_resumed_is_not_interrupted(setting, tmp_path):
    whole = go_on(*begin(setting), until=10)

    learner, tasks, batch, state, generator = begin(setting)
    state = go_on(learner, tasks, batch, state, generator, until=4)
    save_resume(tmp_path / "state.safetensors", state, generator, HEADER, extra={})

    learner, tasks, batch, state, generator = begin(setting, seed=7)  # a fresh process: nothing is as it was
    state = load_resume(tmp_path / "state.safetensors", state, generator, HEADER)
    assert state.meta_step == 4
    state = go_on(learner, tasks, batch, state, generator, until=10)
    assert same(state.meta, whole.meta)
    moments, expected = (s.optimizer.state_dict()["state"] for s in (state, whole))
    for index, values in expected.items():
        assert all(torch.equal(moments[index][name], value) for name, value in values.items())


def test_training_yields_every_meta_step_once_and_ends():
    learner, tasks, batch, state, generator = begin("maml")
    steps = [
        p.meta_step
        for p in train(learner, tasks, meta_steps=6, meta_batch_size=batch, state=state, generator=generator)
    ]
    assert steps == [1, 2, 3, 4, 5, 6]
    done = State(state.meta, state.optimizer, 6)
    assert (
        list(train(learner, tasks, meta_steps=6, meta_batch_size=batch, state=done, generator=generator))
        == []
    )


def test_training_lowers_the_loss():
    learner, tasks, _, state, generator = begin("maml")
    learner, fixed = replace(learner, meta_lr=3e-2), tasks.sample(20, rng(9))
    before = float(learner.meta_loss(state.meta, fixed)[0])
    for progress in train(
        learner, tasks, meta_steps=60, meta_batch_size=10, state=state, generator=generator
    ):
        state = progress.state
    assert float(learner.meta_loss(state.meta, fixed)[0]) < 0.8 * before


# -- the outer optimiser --------------------------------------------------------------------------------------------


def test_the_outer_step_is_adam():
    meta = {"params": {"b": torch.tensor([0.5, -2.0]), "a": torch.tensor([[3.0]])}}
    state = State(meta, torch.optim.Adam(leaves(meta), lr=99.0))
    theta = {name: p.double().clone() for name, p in meta["params"].items()}
    m = {name: torch.zeros_like(p) for name, p in theta.items()}
    v = {name: torch.zeros_like(p) for name, p in theta.items()}
    for step in (1, 2, 3):
        gradient = {name: torch.randn(p.shape, generator=rng(step)) for name, p in meta["params"].items()}
        lr = 0.01 * step
        state = outer_step(state, {"params": gradient}, lr=lr)
        for name, g in gradient.items():
            g = g.double()
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            corrected = (v[name] / (1 - 0.999**step)).sqrt() + 1e-8
            theta[name] -= lr * m[name] / (1 - 0.9**step) / corrected
            torch.testing.assert_close(state.meta["params"][name].double(), theta[name], rtol=1e-5, atol=1e-6)
    assert state.meta_step == 3
    assert all(p.grad is None for p in leaves(meta))


def test_the_meta_gradient_is_clipped_entry_by_entry():
    def moved(gradient, **options):
        meta = {"params": {"a": torch.zeros(2)}}
        state = State(meta, torch.optim.SGD(leaves(meta), lr=1.0))
        return outer_step(state, {"params": {"a": torch.tensor(gradient)}}, lr=1.0, **options).meta["params"][
            "a"
        ]

    assert moved([-300.0, 4.0], clip_value=10).tolist() == [10.0, -4.0]
    assert moved([-300.0, 4.0]).tolist() == [300.0, -4.0]


def test_the_cosine_takes_the_outer_rate_to_zero():
    rates = {}
    for decay in ("constant", "cosine"):
        learner, tasks, batch = sinusoid_setting(meta_lr=0.01, meta_lr_decay=decay)
        state = learner.init(rng())
        for progress in (0.0, 0.5, 1.0):
            state, _ = learner.step(state, tasks.sample(batch, rng()), progress)
            rates[decay, progress] = state.optimizer.param_groups[0]["lr"]
    assert rates["constant", 0.0] == rates["constant", 0.5] == rates["constant", 1.0] == 0.01
    assert rates["cosine", 0.0] == 0.01
    assert abs(rates["cosine", 0.5] - 0.005) < 1e-12 and abs(rates["cosine", 1.0]) < 1e-12


# -- files ----------------------------------------------------------------------------------------------------------


def test_tensors_and_header_survive_a_file(tmp_path):
    tensors = {
        "a": torch.randn(2, 3, dtype=torch.float64),
        "b": torch.arange(4).view(2, 2).T,
        "c": torch.tensor(5),
    }
    save_tensors(tmp_path / "x.safetensors", tensors, {"key": "value\n2"})
    back, header = load_tensors(tmp_path / "x.safetensors")
    assert header == {"key": "value\n2"} and back.keys() == tensors.keys()
    assert all(torch.equal(back[n], t) and back[n].dtype == t.dtype for n, t in tensors.items())


def test_equal_contents_are_equal_files(tmp_path):
    tensors = {"weight": torch.randn(3, 5), "steps": torch.tensor(7)}
    header = {key: f"value of {key}" for key in "hgfedcba"}
    for name in ("x", "y", "z"):
        save_tensors(tmp_path / name, tensors, header)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == (tmp_path / "z").read_bytes()
    assert load_tensors(tmp_path / "x")[1] == header


@pytest.fixture
def short(monkeypatch):
    """The final evaluation of a run takes two tasks instead of hundreds. Not part of a run's identity."""
    for experiment in experiments.EXPERIMENTS.values():
        for name, preset in experiment.presets.items():
            monkeypatch.setitem(experiment.presets, name, replace(preset, evaluation_tasks=2))


def quick(out, **options):
    return run(
        "maml-sinusoid-5shot", device="cpu", out=out, **{"meta_steps": 4, "checkpoint_seconds": 0, **options}
    )


def test_a_run_leaves_what_is_promised(short, tmp_path, capsys):
    record = quick(tmp_path / "run")
    assert files_below(tmp_path / "run") == [
        ".lock",
        "checkpoint.safetensors",
        "log.csv",
        "record.json",
        "resume/state.safetensors",
    ]
    assert json.loads((tmp_path / "run" / "record.json").read_text()) == json.loads(json.dumps(record))
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert [row["meta_step"] for row in rows] == ["1", "2", "3", "4"]
    assert [[float(value) for value in row.values()] for row in rows] == record["curve"]
    config, meta = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert config == record["config"] and meta["params"].keys() == dict(MLP().named_parameters()).keys()


DAMAGE = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "without its last bytes": lambda whole: whole[:-8],
    "empty": lambda whole: b"",
    "text": lambda whole: b"this is no checkpoint\n" * 50,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_line(short, tmp_path, damage, capsys):
    quick(tmp_path)
    state, checkpoint = tmp_path / "resume" / "state.safetensors", tmp_path / "checkpoint.safetensors"
    for path in (state, checkpoint):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    before = state.read_bytes(), checkpoint.read_bytes()
    with pytest.raises(CheckpointError, match="not a readable checkpoint") as refused:
        quick(tmp_path, resume=True)
    one_line(refused.value)
    with pytest.raises(CheckpointError, match="not a readable checkpoint") as refused:
        load_checkpoint(checkpoint)
    one_line(refused.value)
    assert (state.read_bytes(), checkpoint.read_bytes()) == before


def test_a_foreign_file_is_one_line(short, tmp_path, capsys):
    foreign = tmp_path / "foreign.safetensors"
    for tensors, header in (
        ({"weight": torch.zeros(3)}, {}),
        ({"params/weight": torch.zeros(3)}, {"config": "no json"}),
        ({"params/weight": torch.zeros(3)}, {"config": "[1]"}),
        ({"params/weight": torch.zeros(3)}, {"config": '{"name": "another-project"}'}),
        ({"params/weight": torch.zeros(3)}, {"config": '{"name": "maml-sinusoid-5shot"}'}),
    ):
        save_tensors(foreign, tensors, header)
        with pytest.raises(CheckpointError, match="not a checkpoint of an mlbook experiment") as refused:
            load_checkpoint(foreign)
        one_line(refused.value)
    quick(tmp_path / "run")
    save_tensors(tmp_path / "run" / "resume" / "state.safetensors", {"weight": torch.zeros(3)}, {})
    with pytest.raises(CheckpointError, match="was made with") as refused:
        quick(tmp_path / "run", resume=True)
    one_line(refused.value)


def test_a_checkpoint_with_other_shapes_than_its_configuration_is_refused(short, tmp_path, capsys):
    quick(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    tensors, header = load_tensors(path)
    for change in ({"params/layers.0.bias": torch.zeros(41)}, {"params/more": torch.zeros(1)}):
        save_tensors(path, {**tensors, **change}, header)
        with pytest.raises(CheckpointError, match="does not hold the parameters"):
            load_checkpoint(path)


@pytest.mark.parametrize("other", [{"seed": 1}, {"meta_steps": 5}, {"preset": "colab"}])
def test_resuming_with_other_settings_is_refused(short, tmp_path, other, capsys):
    quick(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    with pytest.raises(CheckpointError, match="the same settings") as refused:
        quick(tmp_path, resume=True, **other)
    one_line(refused.value)
    assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before


def test_a_finished_run_is_not_overwritten_and_resuming_it_changes_nothing(short, tmp_path, capsys):
    quick(tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(UserError, match="already holds a run"):
        quick(tmp_path)
    quick(tmp_path, resume=True)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_run_stops_when_the_loss_is_no_number(short, tmp_path, monkeypatch, capsys):
    learner = experiments.get("maml-sinusoid-5shot").learner
    monkeypatch.setitem(learner, "inner_lr", 1e30)
    with pytest.raises(UserError, match="meta-step") as refused:
        quick(tmp_path, meta_steps=50)
    one_line(refused.value)
    assert not (tmp_path / "checkpoint.safetensors").exists()


# -- killed for real ------------------------------------------------------------------------------------------------

KILLED = {"maml-sinusoid-5shot": 400, "reptile-glyphs-5w1s": 6}  # meta-steps


def log_lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def start_and_kill(name, steps, folder, options):
    killed = folder / "killed" / name
    command = [sys.executable, "-m", "mlbook", "train", name, "--device", "cpu", "--checkpoint-every", "0"]
    process = subprocess.Popen(
        [*command, "--meta-steps", str(steps), "--out", str(killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    )
    deadline = time.monotonic() + 300
    # the log is written before the state: heading and two lines mean at least one whole state
    while process.poll() is None and log_lines(killed / "log.csv") < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()  # SIGKILL
    process.wait()
    assert process.returncode not in (0, 2), "the run ended before it could be killed"
    assert not (killed / "checkpoint.safetensors").exists() and not (killed / "record.json").exists()
    at_kill, _ = load_tensors(killed / "resume" / "state.safetensors")
    assert 1 <= int(at_kill["meta_step"]) < steps


@pytest.fixture(scope="module")
def killed_and_whole(tmp_path_factory):
    """A folder with ``killed/NAME`` (killed, then resumed by this process) and ``whole/NAME``."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"cwd": folder, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}}
    with pytest.MonkeyPatch.context() as patch:
        for name, steps in KILLED.items():
            start_and_kill(name, steps, folder, options)
            presets = experiments.get(name).presets
            patch.setitem(presets, "quick", replace(presets["quick"], evaluation_tasks=4))
            arguments = ["train", name, "--device", "cpu", "--meta-steps", str(steps), "--out"]
            assert main([*arguments, str(folder / "killed" / name), "--resume"]) == 0
            assert main([*arguments, str(folder / "whole" / name)]) == 0
    return folder


@pytest.mark.parametrize("name", KILLED)
def test_a_run_that_was_killed_ends_the_same(name, killed_and_whole):
    killed, whole = killed_and_whole / "killed" / name, killed_and_whole / "whole" / name
    steps = KILLED[name]
    resumed, expected = (load_tensors(folder / "checkpoint.safetensors")[0] for folder in (killed, whole))
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[key], t) for key, t in expected.items())
    assert (killed / "checkpoint.safetensors").read_bytes() == (whole / "checkpoint.safetensors").read_bytes()
    assert (killed / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    records = [json.loads((folder / "record.json").read_text()) for folder in (killed, whole)]
    for record in records:
        assert len(record["curve"]) == steps == record["meta_steps"]
        wanted = "experiment preset run config evaluation seconds device engine versions commit date threads"
        assert set(record) >= {*wanted.split(), "curve_columns"}
    varying = (
        "seconds",
        "ms_per_meta_step",
        "date",
        "commit",
    )  # who works on the package may commit in between
    assert all(records[0][key] == records[1][key] for key in records[0] if key not in varying)
    leftovers = [name for name in files_below(killed) if name.endswith(".tmp")]
    assert len(leftovers) <= 1  # at most the file that was being written


def test_ctrl_c_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlbook.training.runner.train", interrupted)
    status = main(
        ["train", "maml-sinusoid-5shot", "--meta-steps", "4", "--device", "cpu", "--out", str(tmp_path / "r")]
    )
    assert status == 130 and "--resume" in capsys.readouterr().err


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, precision, message",
    [
        (
            "maml-sinusoid-5shot",
            "bf16",
            "--precision bf16 needs one of the convolutional networks, trained by MAML",
        ),
        (
            "maml-sinusoid-5shot",
            "tf32",
            "--precision tf32 needs a GPU or one of the convolutional networks, trained by MAML",
        ),
        (
            "reptile-glyphs-5w1s",
            "bf16",
            "--precision bf16 needs one of the convolutional networks, trained by MAML",
        ),
        ("maml-glyphs-5w1s", "fp8", "--precision must be float32, tf32, bf16, not 'fp8'"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(name, precision, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", name, "--precision", precision, "--device", "cpu", "--out", str(out)]) == 2
    assert one_line(capsys.readouterr().err) == f"mlbook: {message}"
    assert not out.exists()


def test_precision_changes_the_training_and_its_identity(short, tmp_path):
    options = {"meta_steps": 2, "device": "cpu"}
    records = {
        precision: run("maml-glyphs-5w1s", out=tmp_path / precision, precision=precision, **options)
        for precision in ("float32", "bf16")
    }
    assert records["float32"]["run"] != records["bf16"]["run"]
    assert "precision" not in records["float32"]["config"]  # run ids of older records stay
    assert records["bf16"]["config"]["precision"] == "bf16"
    ends = [load_tensors(tmp_path / p / "checkpoint.safetensors")[0] for p in records]
    assert any(not torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    with pytest.raises(CheckpointError, match="was made with run"):
        run("maml-glyphs-5w1s", out=tmp_path / "bf16", resume=True, **options)


# -- a list of experiments within a time limit ----------------------------------------------------------------------


def train_list():
    import importlib.util

    spec = importlib.util.spec_from_file_location("train_list", ROOT / "tools" / "train_list.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_list_is_trained_call_by_call_to_the_same_end(tmp_path, capsys, monkeypatch):
    """Stopped twice by the time limit, moved to another folder in one file, and resumed: the bytes of an uninterrupted run."""
    tool = train_list()
    names = ["maml-sinusoid-5shot", "maml-glyphs-5w1s"]
    small = {"quick": replace(experiments.get(names[0]).preset("quick"), meta_steps=60)}
    monkeypatch.setitem(experiments.EXPERIMENTS, names[0], replace(experiments.get(names[0]), presets=small))
    few = {"quick": replace(experiments.get(names[1]).preset("quick"), meta_steps=3)}
    monkeypatch.setitem(experiments.EXPERIMENTS, names[1], replace(experiments.get(names[1]), presets=few))
    common = ["--preset", "quick", "--device", "cpu", "--tasks", "5"]

    def call(*options):
        status = tool.main([*names, *common, *map(str, options)])
        out = capsys.readouterr().out.strip().splitlines()
        return status, json.loads(out[-1])

    status, state = call("--minutes", 1e-4, "--out", tmp_path / "a", "--pack", tmp_path / "a.tar")
    assert status == 3 and state[names[1]] == "not started"
    first = int(state[names[0]].removeprefix("stopped after meta-step "))
    status, state = call("--minutes", 1e-4, "--out", tmp_path / "b", "--unpack", tmp_path / "a.tar")
    assert status == 3 and int(state[names[0]].removeprefix("stopped after meta-step ")) > first
    status, state = call("--minutes", 10, "--out", tmp_path / "b")
    assert (status, set(state.values())) == (0, {"finished"})
    assert call("--minutes", 10, "--out", tmp_path / "c")[0] == 0
    for name in names:
        for file in ("checkpoint.safetensors", "log.csv"):
            assert (tmp_path / "b" / name / file).read_bytes() == (tmp_path / "c" / name / file).read_bytes()
    before = (tmp_path / "b" / names[0] / "record.json").read_bytes()
    assert call("--minutes", 10, "--out", tmp_path / "b")[0] == 0  # nothing is done twice
    status, state = call(
        "--minutes", 10, "--out", tmp_path / "b", "--seed", 7
    )  # nor is another run taken for this one
    assert status == 3 and "a finished run of another configuration" in state[names[0]]
    assert (tmp_path / "b" / names[0] / "record.json").read_bytes() == before


def test_a_list_leaves_a_folder_alone_that_another_training_has(tmp_path, capsys):
    tool = train_list()
    name, out = "maml-sinusoid-5shot", tmp_path / "runs"
    arguments = [name, "--preset", "quick", "--device", "cpu", "--minutes", "1e-4", "--out", str(out)]
    assert tool.main([*arguments, "--pack", str(tmp_path / "a.tar")]) == 3
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert not [member for member in tar.getnames() if "/." in member]
    capsys.readouterr()
    with run_folder.claimed(out / name, resume=True, needed=0):
        before = {file: (out / file).read_bytes() for file in files_below(out)}
        assert tool.main(arguments) == 3
        assert "failed: another training is writing" in json.loads(capsys.readouterr().out)[name]
        assert tool.main([*arguments, "--unpack", str(tmp_path / "a.tar")]) == 2
        assert "a training is writing to" in one_line(capsys.readouterr().err)
        assert {file: (out / file).read_bytes() for file in files_below(out)} == before


@pytest.mark.parametrize("cut", [300, 3000])
def test_a_pack_that_was_cut_short_overwrites_nothing(tmp_path, cut, capsys):
    tool = train_list()
    out, file = tmp_path / "runs", tmp_path / "a.tar"
    arguments = ["maml-sinusoid-5shot", "--preset", "quick", "--device", "cpu", "--minutes", "1e-4", "--out"]
    assert tool.main([*arguments, str(out), "--pack", str(file)]) == 3
    file.write_bytes(file.read_bytes()[:cut])
    before = {name: (out / name).read_bytes() for name in files_below(out)}
    capsys.readouterr()
    assert tool.main([*arguments, str(out), "--unpack", str(file)]) == 2
    assert "cannot be unpacked" in one_line(capsys.readouterr().err)
    assert {name: (out / name).read_bytes() for name in files_below(out)} == before


@pytest.mark.parametrize("target", ["folder", "file/a.tar"])
def test_a_pack_that_cannot_be_written_is_one_sentence(tmp_path, target, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="cannot be written") as refused:
        train_list().pack(tmp_path / "runs", tmp_path / target)
    one_line(refused.value)
    assert files_below(tmp_path) == ["file"]


@pytest.mark.parametrize("content", [b"{broken", b"[1]", b"\xff\xfe"])
def test_a_damaged_record_is_not_shipped(tmp_path, content):
    import importlib.util

    spec = importlib.util.spec_from_file_location("ship_run", ROOT / "tools" / "ship_run.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(UserError, match="is not a record of a run") as refused:
        tool.ship(tmp_path)
    one_line(refused.value)


def test_bad_lists_are_refused(tmp_path, capsys):
    tool = train_list()
    for arguments, says in (
        (["--minutes", "1"], "name some experiments"),
        (["maml-nothing", "--minutes", "1"], "no experiment is named"),
        (["maml-sinusoid-5shot", "--minutes", "0"], "--minutes must be"),
        (
            ["maml-sinusoid-5shot", "--minutes", "1", "--unpack", str(tmp_path / "no.tar")],
            "cannot be unpacked",
        ),
    ):
        assert tool.main([*arguments, "--out", str(tmp_path / "runs")]) == 2
        assert says in capsys.readouterr().err
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo("../outside")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    arguments = [
        "maml-sinusoid-5shot",
        "--minutes",
        "1",
        "--out",
        str(tmp_path / "runs"),
        "--unpack",
        str(tmp_path / "evil.tar"),
    ]
    assert tool.main(arguments) == 2
    assert "no file of a run" in capsys.readouterr().err and not (tmp_path / "outside").exists()


def test_what_is_pending_is_trained_once_for_all_rows_that_share_it():
    names = train_list().pending()
    assert "maml-mini-5w1s" in names and "reptile-mini-5w1s" in names
    assert "reptile-mini-5w1s-transductive" not in names and "reptile-omniglot-5w1s" not in names
    assert len(set(names)) == len(names)


def test_the_time_limit_of_the_command_line(tmp_path, capsys):
    train = [
        "train",
        "maml-sinusoid-5shot",
        "--device",
        "cpu",
        "--tasks",
        "5",
        "--out",
        str(tmp_path / "run"),
        "--meta-steps",
        "300",
    ]
    assert main([*train, "--time-limit", "1e-4"]) == 0
    assert "time is up" in capsys.readouterr().out and not (tmp_path / "run" / "record.json").exists()
    assert main([*train, "--resume"]) == 0
    assert "inner steps" in capsys.readouterr().out
    assert main([*train, "--time-limit", "0", "--resume"]) == 2
    assert "time limit must be" in one_line(capsys.readouterr().err)


def test_the_progress_line_is_redrawn_in_a_terminal_and_in_a_kernel_and_nowhere_else(monkeypatch):
    """That ipykernel is loaded says nothing: it is where notebooks are run from the same process."""
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    log = io.StringIO()
    line = ProgressLine(2, "x", stream=log)
    line(2)
    line.close()
    assert log.getvalue().count("\n") == 1 and "\r" not in log.getvalue()

    class Stream(io.StringIO):
        """As in a kernel, by its module's name."""

    Stream.__module__ = "ipykernel.iostream"
    seen = Stream()
    line = ProgressLine(2, "x", stream=seen)
    line(2)
    line.close()
    assert seen.getvalue().startswith("\rx 2/2 100 %") and seen.getvalue().endswith("\n")


def test_a_finished_run_without_its_state_is_not_overwritten(tmp_path):
    options = {
        "preset": "quick",
        "meta_steps": 3,
        "device": "cpu",
        "evaluation_tasks": 5,
        "out": tmp_path / "run",
    }
    run("maml-sinusoid-5shot", **options)
    (tmp_path / "run" / "resume" / "state.safetensors").unlink()
    before = {file: (tmp_path / "run" / file).read_bytes() for file in files_below(tmp_path / "run")}
    with pytest.raises(UserError, match="holds a finished run, but not the state"):
        run("reptile-sinusoid-5shot", resume=True, **options)
    assert {file: (tmp_path / "run" / file).read_bytes() for file in before} == before
