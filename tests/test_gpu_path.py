"""What can be said about the GPU's path without a GPU: tensors of a made-up device have shapes and a place, but no numbers.

Operations on them fail where a value would have to travel to the host (``.item()``, boolean indexing), and where a tensor of the
host meets one of the device. A meta-step that passes needs no synchronisation, and its operations can be counted.
"""

import contextlib
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from package_fixtures import ROOT, rng

from mlbook import results
from mlbook.meta_learners import MAML, Reptile
from mlbook.meta_learners.base import leaves
from mlbook.models import MLP
from mlbook.tasks import Sinusoids
from mlbook.training import cuda_graph, loop
from mlbook.training.cuda_graph import WARM_UP, CapturedStep, can_capture

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


def test_recorded_steps_give_what_plain_steps_give(monkeypatch):
    """Warm-up, recording, replay: no meta-step is lost or done twice, and the decayed rate arrives. (A replay runs the step.)"""
    learner = MAML(MLP((1, 8, 1), init_std=0.3), loss="mse", meta_lr=1e-2, meta_lr_decay="cosine")
    replays = []

    def record(self, state):
        def replay():
            replays.append(1)
            self.metrics.update(self.step(state, 0.0)[1])

        return SimpleNamespace(replay=replay)

    class Stream:
        def wait_stream(self, other):
            pass

    def rates_on_cpu(state):  # a CPU has no capturable Adam, but takes the rate from memory, too
        rates = rates_on_device(state)
        for group in state.optimizer.param_groups:
            group["capturable"] = False
        return rates

    rates_on_device = cuda_graph.rates_on_device
    monkeypatch.setattr(cuda_graph, "rates_on_device", rates_on_cpu)
    monkeypatch.setattr(CapturedStep, "_record", record)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

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
