"""What can be said about the GPU's path without a GPU: tensors of a made-up device have shapes and a place, but no numbers.

Operations on them fail where a value would have to travel to the host (``.item()``, boolean indexing), and where a tensor of the
host meets one of the device. A meta-step that passes needs no synchronisation, and its operations can be counted.
"""

import contextlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from package_fixtures import ROOT, noise_pool, one_line, rng

from benchmarks import gpu as benchmark
from mlbook import experiments, results
from mlbook.augmentation.operations import Chance, draw_strengths, start_policy
from mlbook.augmentation.search import Child, Uniform, generator_of
from mlbook.cli import main, sentence
from mlbook.data.tensor_file import load_tensors, save_tensors
from mlbook.errors import CheckpointError, UserError
from mlbook.meta_learners import MAML, Backbone, Reptile
from mlbook.meta_learners.base import leaves
from mlbook.models import MLP
from mlbook.models.wide_resnet import WideResNet
from mlbook.optimizers.optimizees import Classifier
from mlbook.tasks import LabelledImages, Sinusoids
from mlbook.training import cuda_graph, distributed, loop, runner
from mlbook.training.checkpoint import DEVICE, load_resume, save_resume
from mlbook.training.cuda_graph import WARM_UP, CapturedStep, can_capture
from mlbook.training.precision import for_device, repeatable, use_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

needs_made_up_device = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot make up a device",
)


def count(experiment, engine, *options):
    """Operations per meta-step by ``benchmarks.launches``, in a process of its own: a device cannot be taken back."""
    command = [sys.executable, "-m", "benchmarks.launches", "--only", experiment, engine, "--json", *options]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return json.loads(answer.stdout)[0]


@needs_made_up_device
@pytest.mark.parametrize("experiment", ["maml-omniglot-5w1s", "fomaml-omniglot-20w1s", "maml-sinusoid-5shot"])
@pytest.mark.parametrize("engine", ["fast", "vmap"])
def test_a_meta_step_stays_on_the_device_and_never_waits_for_the_host(experiment, engine):
    row = count(experiment, engine)
    assert 50 < row["launches"] < 6000
    assert row["devices"] == ["gpu"]
    record = results.benchmark("launches")
    counted = {(r["experiment"], r["engine"]): r["launches"] for r in record["rows"]}
    if (experiment, engine) in counted and record["torch"] == torch.__version__.split("+")[0]:
        assert (
            row["launches"] == counted[experiment, engine]
        )  # what the page shows is what the code does today


@needs_made_up_device
def test_the_check_finds_a_wait_for_the_host_and_a_tensor_of_the_host():
    command = [sys.executable, "-m", "benchmarks.launches", "--only", "maml-sinusoid-5shot", "fast", "--json"]
    for fault, message in (("item", "DataDependentOutputException"), ("host tensor", "FakeTensor")):
        answer = subprocess.run(
            [*command, "--fault", fault], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert answer.returncode != 0 and message in answer.stderr, answer.stderr[-800:]


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def streams_on_cpu(monkeypatch):
    """What surrounds a recording, on a CPU."""

    def rates_on_cpu(state):  # a CPU has no capturable Adam, but takes the rate from memory, too
        rates = rates_on_device(state)
        for group in state.optimizer.param_groups:
            group["capturable"] = False
        return rates

    rates_on_device = cuda_graph.rates_on_device
    monkeypatch.setattr(cuda_graph, "rates_on_device", rates_on_cpu)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(CapturedStep, "failure", None)


def test_recorded_steps_give_what_plain_steps_give(monkeypatch, streams_on_cpu):
    """Warm-up, recording, replay: no meta-step is lost or done twice, and the decayed rate arrives. (A replay runs the step.)"""
    learner = MAML(MLP((1, 8, 1), init_std=0.3), loss="mse", meta_lr=1e-2, meta_lr_decay="cosine")
    replays = []

    def record(self, state):
        def replay():
            replays.append(1)
            self.metrics.update(self.step(state, 0.0)[1])

        return SimpleNamespace(replay=replay)

    monkeypatch.setattr(CapturedStep, "_record", record)

    def go(graph):
        state, losses = learner.init(rng(0)), []
        options = {"meta_steps": WARM_UP + 5, "meta_batch_size": 4, "generator": rng(1)}
        for progress in loop.train(learner, Sinusoids(), state=state, graph=graph, **options):
            losses.append((progress.meta_step, float(progress.metrics["loss"])))
        return progress.state.meta, losses

    plain, plain_losses = go(graph=False)
    recorded, recorded_losses = go(graph=True)
    assert len(replays) == 5
    assert [step for step, _ in recorded_losses] == list(range(1, WARM_UP + 6))
    assert [loss for _, loss in recorded_losses] == pytest.approx(
        [loss for _, loss in plain_losses], rel=1e-4
    )
    for a, b in zip(leaves(plain), leaves(recorded), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_only_an_optimiser_that_reads_its_rate_from_memory_is_recorded():
    assert can_capture(MAML(MLP(), loss="mse").init(rng()))
    assert not can_capture(Reptile(MLP(), loss="mse").init(rng()))
    assert cuda_graph.WARM_UP >= 1


def test_the_gpu_benchmark_runs_where_it_can(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--meta-steps", "4", "--rounds", "2"]
    out = tmp_path / "gpu.json"
    command += ["--only", "maml-sinusoid-5shot", "--out", str(out)]
    answer = subprocess.run(
        [*command, "--device", "cpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-800:]
    rows = json.loads(out.read_text())["rows"]
    assert {row["engine"] for row in rows} == {"fast", "vmap", "loop"}
    for row in rows:
        assert "error" not in row, row
        assert row["gradient_error"] < 1e-4 and row["ms_per_meta_step"]["min"] > 0
    if not torch.cuda.is_available():
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert answer.returncode == 2 and "no CUDA GPU" in answer.stderr


# -- a recording that fails --------------------------------------------------------------------------------------------


def record_a_training(steps=WARM_UP + 2):
    learner = MAML(MLP((1, 8, 1)), loss="mse")
    options = {"meta_steps": steps, "meta_batch_size": 4, "state": learner.init(rng()), "generator": rng(1)}
    for _ in loop.train(learner, Sinusoids(), graph=True, **options):
        pass


class FailingGraph:
    """As torch's: an error within the recording makes its end fail, too."""

    def __init__(self, graph):
        pass

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        raise RuntimeError(
            "CUDA error: operation failed due to a previous error during capture\nCompile with X"
        )


def test_a_recording_that_fails_is_one_sentence_and_is_not_tried_again(monkeypatch, streams_on_cpu):
    tried = []

    class Graph:
        def __init__(self):
            tried.append(1)

        def register_generator_state(self, generator):
            pass

    def wait_for_the_host(*_):
        raise RuntimeError(
            "operation not permitted when stream is capturing\nCUDA kernel errors might be ..."
        )

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", FailingGraph)
    step = MAML.step

    def step_that_waits(self, state, *rest):
        return step(self, state, *rest) if state.meta_step < WARM_UP else wait_for_the_host()

    monkeypatch.setattr(MAML, "step", step_that_waits)
    for _ in range(2):  # the second time nothing is recorded any more
        with pytest.raises(UserError) as caught:
            record_a_training()
        said = one_line(caught.value)
        assert said == (
            "the meta-step could not be recorded as a CUDA graph (operation not permitted when stream is capturing); "
            "start again with --no-graph"
        )
        assert sentence(caught.value) == said
    assert tried == [1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and its recording works")
def test_a_torch_without_cuda_cannot_record(streams_on_cpu):
    with pytest.raises(UserError, match="start again with --no-graph"):
        record_a_training()


@pytest.mark.parametrize(
    "version, registers", [("2.4.0", 1), ("2.13.1+cu130", 1), ("2.14.0", 0), ("2.15.0", 0)]
)
def test_a_generator_is_registered_where_torch_needs_it(version, registers, monkeypatch, streams_on_cpu):
    registered = []

    class Graph:
        def register_generator_state(self, generator):
            registered.append(generator)

        def replay(self):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)(version))
    record_a_training()
    assert len(registered) == registers


def test_a_record_names_a_graph_only_where_one_is_recorded(tmp_path):
    model = MLP((1, 8, 1))
    for learner, recorded in ((MAML(model, loss="mse"), True), (Reptile(model, loss="mse"), False)):
        state = learner.init(rng())
        assert runner.recordable(learner, state, CUDA) is recorded
        assert not runner.recordable(learner, state, CPU)
    record = quick(tmp_path)
    assert (record["graph"], record["precision"]) == (False, "float32") and "stretches" not in record


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def capability(monkeypatch):
    """capability(7, 5): a GPU of that generation, as far as torch's switches are concerned."""
    yield lambda *numbers: monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: numbers)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True


def small_backbone(precision="bf16"):
    return Backbone(WideResNet(4, depth=10, width=1, stride=2), precision=precision)


def strided():
    return experiments.build_learner(experiments.config("maml-glyphs-5w1s", "quick"))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_rounding_that_a_gpu_has_no_units_for_is_refused(precision, capability):
    capability(7, 5)
    with pytest.raises(UserError, match=f"this GPU has no {precision} units; use --precision float32"):
        use_precision(precision, CUDA, strided())
    capability(8, 0)
    use_precision(precision, CUDA, strided())
    assert torch.backends.cudnn.allow_tf32 is (precision == "tf32")


def test_a_backbone_rounds_to_float16_on_a_gpu_without_bf16_units(capability):
    backbone = small_backbone()
    capability(7, 5)
    assert for_device(backbone, CUDA).precision == "float16"
    assert for_device(small_backbone("float32"), CUDA).precision == "float32"
    other = strided()
    assert for_device(backbone, CPU) is backbone and for_device(other, CUDA) is other
    use_precision("float32", CUDA, backbone)  # what features are extracted with
    capability(9, 0)
    assert for_device(backbone, CUDA) is backbone


def test_convolutions_are_measured_for_a_backbone_only(capability):
    for learner, measured in ((small_backbone(), True), (strided(), False)):
        use_precision("float32", CUDA, learner)
        assert torch.backends.cudnn.benchmark is measured
    with repeatable(True):
        use_precision("float32", CUDA, small_backbone())
        assert not torch.backends.cudnn.benchmark


def test_a_loss_in_float16_is_scaled_and_no_step_is_taken_where_it_overflows(tmp_path):
    learner = small_backbone("float16")
    images = LabelledImages(noise_pool(n_classes=4, channels=3, size=32)).sample(8, rng())
    state, exact = learner.init(rng()), small_backbone("float32")
    plain = exact.init(rng())
    before = [p.clone() for p in leaves({"params": state.meta["params"]})]
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 2.0**40})
    state, _ = learner.step(state, images)
    assert all(
        torch.equal(a, b) for a, b in zip(before, leaves({"params": state.meta["params"]}), strict=True)
    )
    assert state.meta_step == 1 and state.scaler.get_scale() == 2.0**39
    save_resume(tmp_path / "state", state, rng(), {}, {})
    assert load_resume(tmp_path / "state", learner.init(rng(1)), rng(), {}).scaler.get_scale() == 2.0**39

    state = learner.init(rng())
    state, found = learner.step(state, images)
    plain, expected = exact.step(plain, images)
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-2, atol=1e-2)
    for name, p in plain.meta["params"].items():
        torch.testing.assert_close(state.meta["params"][name], p, rtol=0.05, atol=0.01)
    assert exact.init(rng()).scaler is None


# -- another kind of device --------------------------------------------------------------------------------------------


def quick(out, *, resume=False, meta_steps=12, time_limit=None):
    return runner.run(
        "maml-sinusoid-5shot", meta_steps=meta_steps, device="cpu", out=out, evaluation_tasks=5, resume=resume,
        checkpoint_seconds=0, time_limit=time_limit,
    )  # fmt: skip


def stopped(out, to, change):
    """A run that was stopped half way, with its saved state changed by ``change(tensors, header)``."""
    shutil.copytree(out, to)
    path = to / "resume" / "state.safetensors"
    tensors, header = load_tensors(path)
    change(tensors, header)
    save_tensors(path, tensors, header)
    return to


@pytest.fixture(scope="module")
def half_way(tmp_path_factory):
    out = tmp_path_factory.mktemp("half") / "run"
    assert quick(out, time_limit=1e-9) is None
    return out


def parameters(out):
    return load_tensors(out / "checkpoint.safetensors")[0]


def as_before(tensors, header):
    for key in ("device", "stretches"):
        del header[key]


def of_a_gpu(tensors, header):
    tensors["generator"] = torch.zeros(16, dtype=torch.uint8)
    header["device"] = "cuda"
    header["stretches"] = json.dumps([{"from": 0, "device": "cuda", "precision": "float32", "graph": True}])


def of_a_gpu_as_before(tensors, header):
    of_a_gpu(tensors, header)
    as_before(tensors, header)


def test_a_state_from_before_devices_were_named_goes_on_exactly(half_way, tmp_path, capsys):
    quick(tmp_path / "whole")
    capsys.readouterr()
    out = stopped(half_way, tmp_path / "run", as_before)
    record = quick(out, resume=True)
    assert "stretches" not in record and "random numbers" not in capsys.readouterr().err
    whole = parameters(tmp_path / "whole")
    assert all(torch.equal(whole[key], value) for key, value in parameters(out).items())


@pytest.mark.parametrize("change", [of_a_gpu, of_a_gpu_as_before])
def test_a_run_of_a_gpu_goes_on_on_a_cpu_with_other_random_numbers(change, half_way, tmp_path, capsys):
    ends = []
    for name in "ab":
        out = stopped(half_way, tmp_path / name, change)
        step = int(load_tensors(out / "resume" / "state.safetensors")[0]["meta_step"])
        record = quick(out, resume=True)
        (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mlbook: ")]
        assert said == (
            f"mlbook: maml-sinusoid-5shot was trained on a GPU up to meta-step {step}; on a CPU it goes on with other "
            "random numbers"
        )
        assert [(s["from"], s["device"]) for s in record["stretches"]] == [(0, "cuda"), (step, "cpu")]
        assert record["graph"] is False
        ends.append(parameters(out))
    assert all(torch.equal(ends[0][key], value) for key, value in ends[1].items())
    assert quick(out, resume=True)["stretches"] == record["stretches"]  # nothing is left to do
    assert "random numbers" not in capsys.readouterr().err


def test_a_run_of_a_cpu_goes_on_on_a_gpu(tmp_path):
    class Generator:
        """As much of a GPU's as ``load_resume`` sees."""

        device, seed = CUDA, 5

        def initial_seed(self):
            return self.seed

        def manual_seed(self, seed):
            self.seed = seed

        def set_state(self, state):
            raise RuntimeError("RNG state is wrong size")

    learner = MAML(MLP((1, 8, 1)), loss="mse")
    save_resume(tmp_path / "state", learner.init(rng()), rng(), {DEVICE: "cpu"}, {})
    generator = Generator()
    load_resume(tmp_path / "state", learner.init(rng(1)), generator, {})
    assert generator.seed != 5
    save_resume(tmp_path / "state", learner.init(rng()), rng(), {DEVICE: "cuda"}, {})
    with pytest.raises(CheckpointError, match="is damaged"):  # its header says what it is not
        load_resume(tmp_path / "state", learner.init(rng(1)), Generator(), {})


def test_a_header_that_is_none_is_one_sentence(half_way, tmp_path):
    for number, text in enumerate(("[", "[3]", '[{"from": 0}]', "{}", "3")):
        out = stopped(
            half_way, tmp_path / str(number), lambda _, header, text=text: header.update(stretches=text)
        )
        if text == "{}":  # as if it said nothing
            quick(out, resume=True)
            continue
        with pytest.raises(CheckpointError) as caught:
            quick(out, resume=True)
        assert "is damaged" in one_line(caught.value)


# -- the same numbers on two devices -----------------------------------------------------------------------------------


def test_children_see_the_same_random_numbers_on_every_device():
    there = torch.device("meta")  # tensors without numbers, on a device that is not the CPU
    images, seed = torch.rand(6, 1, 14, 14, device=there), torch.tensor([3])
    generator = generator_of(SimpleNamespace(x=images, seed=seed))
    assert generator.device == CPU
    drawn = [*Chance.draw(images, generator), *Uniform.draw(2, generator, there)]
    drawn.append(Child(Classifier((4, 3, 2))).start(2, generator, there))
    policy = {name: p.to(there) for name, p in start_policy().items()}
    drawn.append(draw_strengths({**policy, "logits": NotMoved(policy["logits"])}, 6, generator))
    assert {t.device for t in drawn} == {there}


class NotMoved:
    """Logits on another device whose probabilities arrive on the CPU as even ones."""

    def __init__(self, logits):
        self.logits, self.device = logits, logits.device

    def softmax(self, dim):
        return SimpleNamespace(
            to=lambda device: torch.full(self.logits.shape, 1 / len(self.logits), device=device)
        )


# -- operations that repeat themselves ---------------------------------------------------------------------------------


def test_repeatable_operations_are_asked_for_and_the_switches_put_back(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(RuntimeError), repeatable(True):
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        import os

        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise RuntimeError
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic
    with repeatable(False):
        assert not torch.are_deterministic_algorithms_enabled()
    error = RuntimeError(
        "CUDA error: no kernel image is available for execution on the device\nCUDA kernel ..."
    )
    assert sentence(error).startswith("this build of torch has no code for this GPU; use --device cpu")
    error = RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set ...")
    assert (
        sentence(error) == "torch has no repeatable form of cumsum_cuda_kernel; train without --deterministic"
    )


def test_a_repeatable_training_says_so_and_gives_the_same_on_a_cpu(tmp_path):
    arguments = ["train", "maml-glyphs-5w1s", "--meta-steps", "2", "--tasks", "2", "--device", "cpu", "--out"]
    assert (
        main([*arguments, str(tmp_path / "a")])
        == main([*arguments, str(tmp_path / "b"), "--deterministic"])
        == 0
    )
    a, b = (json.loads((tmp_path / name / "record.json").read_text()) for name in "ab")
    assert b["deterministic"] and "deterministic" not in a and a["run"] == b["run"]
    a, b = (parameters(tmp_path / name) for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


# -- several GPUs ------------------------------------------------------------------------------------------------------


def test_every_process_tells_nccl_its_gpu(monkeypatch):
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda n: asked.append(n))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda **options: asked.append(options))
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    with distributed.processes(CUDA, 4) as found:
        assert (found.rank, found.count) == (1, 2)
    with distributed.processes(CPU, 4):
        pass
    assert asked == [1, {"backend": "nccl", "device_id": torch.device("cuda", 1)}, {"backend": "gloo"}]


# -- the benchmark's processes -----------------------------------------------------------------------------------------


def test_the_check_for_waits_ends_with_its_block(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.raises(RuntimeError), benchmark.no_waiting(CUDA):
        raise RuntimeError("called a synchronizing CUDA operation")
    with benchmark.no_waiting(CPU):
        pass
    assert modes == ["error", "default"]


def test_a_variant_that_fails_costs_the_others_nothing():
    arguments = ["--device", "cpu", "--meta-steps", "2", "--rounds", "1", "--row", "6", "--only"]
    assert "has no closed form" in benchmark.in_a_process([*arguments, "maml-omniglot-mlp-5w1s"], 60)["error"]
    assert (
        "no answer within 0 s" in benchmark.in_a_process([*arguments, "maml-sinusoid-5shot"], 0.01)["error"]
    )
