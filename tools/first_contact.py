"""The first script to run on a GPU: does everything that was written without one hold there?

    python tools/first_contact.py [--device auto|cpu|cuda] [--only NAME ...] [--out FILE] [--list]

Every check runs in a process of its own with a time limit and gives one line of JSON; a summary in words comes last. What needs a
GPU is skipped by name where there is none. Exit status: 0 where no check failed, 1 where one did, 2 for wrong options. It needs
torch, numpy and safetensors; ``--out mlbook/results/benchmarks/first_contact.json`` is what the status page shows.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script from a checkout
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import mlbook  # noqa: E402
from mlbook import cli, experiments, results  # noqa: E402
from mlbook.augmentation.operations import start_policy  # noqa: E402
from mlbook.data import ClassPool, glyphs  # noqa: E402
from mlbook.data.tensor_file import load_tensors  # noqa: E402
from mlbook.engines import fast, fastest  # noqa: E402
from mlbook.errors import DataError, UserError  # noqa: E402
from mlbook.meta_learners import MAML, Backbone  # noqa: E402
from mlbook.meta_learners.base import Meta, State, leaves, map_leaves  # noqa: E402
from mlbook.models import Conv4, WideResNet  # noqa: E402
from mlbook.models.functional import initial_params  # noqa: E402
from mlbook.pages.checks import relative_distance, to_float64  # noqa: E402
from mlbook.tasks import Augmented, FewShot, LabelledImages, Sinusoids  # noqa: E402
from mlbook.tasks.episode import Episode, TaskDistribution  # noqa: E402
from mlbook.training.checkpoint import one_line  # noqa: E402
from mlbook.training.cuda_graph import first_cause  # noqa: E402
from mlbook.training.loop import train  # noqa: E402
from mlbook.training.precision import for_device, has_short_units, use_precision  # noqa: E402
from mlbook.training.records import keep, machine, provenance  # noqa: E402
from mlbook.training.runner import choose_device, load_checkpoint, run  # noqa: E402

Facts = dict[str, object]
RECORD = "mlbook/results/benchmarks/first_contact.json"
RECORDED = (
    "maml-sinusoid-5shot",
    "pretraining-sinusoid-5shot",
    "maml-glyphs-5w1s",
    "metasgd-plane-3w1s",
    "leo-plane-3w1s",
    "leo-sines-lines-5shot",
    "learned-optimizer-quadratic",
    "nearest-mini-5w1s",
)
"""Experiments whose meta-step is recorded as a graph, one of each kind."""
LEARNERS = (
    "metasgd-plane-3w1s",
    "leo-plane-3w1s",
    "leo-sines-lines-5shot",
    "reptile-sinusoid-5shot",
    "reptile-glyphs-5w1s",
    "maml-navigation-2d",
    "learned-optimizer-mlp-glyphs",
    "dada-search-glyphs",
    "augment-random-glyphs",
    "nas-controller",
)
"""Experiments that are trained and evaluated whole."""
LARGE = ("maml-omniglot-5w1s", "maml-omniglot-20w1s", "maml-mini-5w1s", "backbone-mini-wrn-28-10")
"""Experiments whose memory is measured with the paper's recipe."""
SAME = 0.1
"""Two trainings count as the same when they end no further apart than this share of the way that they went. Rounding can grow on
that way; a meta-batch that is drawn twice, or a rate that does not arrive, gives far more."""


@dataclass(frozen=True)
class Check:
    """What is asked, and of what."""

    about: str
    run: Callable[[torch.device], Facts]
    gpu: bool = False
    seconds: float = 120.0


class Skipped(Exception):
    """A check that cannot be made here, and why."""


def generator(device: torch.device | str, seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def random_pool(classes: int, examples: int, channels: int, size: int) -> ClassPool:
    """Images of random bytes."""
    shape = (classes, examples, channels, size, size)
    return ClassPool(torch.randint(256, shape, dtype=torch.uint8, generator=generator("cpu")))


def moved(meta: Meta, device: torch.device | str) -> Meta:
    return map_leaves(lambda t: t.detach().to(device), meta)


def apart(a: Meta, b: Meta, start: Meta) -> float:
    """How far two trainings end from each other, as a share of the way of the first."""
    a, b, start = (to_float64(moved(meta, "cpu")) for meta in (a, b, start))
    way = sum(float((x - s).square().sum()) for x, s in zip(leaves(a), leaves(start), strict=True))
    off = sum(float((x - y).square().sum()) for x, y in zip(leaves(a), leaves(b), strict=True))
    return (off / max(way, 1e-30)) ** 0.5


def tasks_of(name: str, config: dict, setup: experiments.Setup) -> TaskDistribution:
    """The meta-training tasks; random images stand in for data sets that may not be here."""
    if config["dataset"] not in ("mini", "omniglot"):
        return setup.tasks("train")
    pool = random_pool(64, 30, 3, 84) if config["dataset"] == "mini" else random_pool(1200, 20, 1, 28)
    if name.startswith("backbone"):
        return Augmented(LabelledImages(pool), config["crop"])
    if name.startswith("nearest"):
        return LabelledImages(pool)
    return FewShot(pool, config["n_way"], config["k_shot"], config["n_query"])


def go(name: str, preset: str, steps: int, device: torch.device, *, graph: bool) -> tuple[State, Meta]:
    """So many meta-steps of an experiment; the state that they end in and the parameters that they began from."""
    setup = experiments.setup(experiments.config(name, preset))
    learner = for_device(fastest(setup.learner, device), device)
    use_precision("float32", device, learner)
    tasks = tasks_of(name, setup.config, setup).to(device)
    state = learner.init(generator("cpu"), device)
    start = map_leaves(torch.clone, state.meta)
    batch = setup.config["meta_batch_size"]
    options = {"meta_steps": steps, "meta_batch_size": batch, "generator": generator(device, 1)}
    for progress in train(learner, tasks, state=state, graph=graph, **options):
        state = progress.state
    return state, start


# -- the checks --------------------------------------------------------------------------------------------------------


def versions(device: torch.device) -> Facts:
    found: Facts = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "mlbook": mlbook.__version__,
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": about.name,
            "gpus": torch.cuda.device_count(),
            "capability": list(torch.cuda.get_device_capability()),
            "memory_gib": round(about.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": torch.distributed.is_nccl_available(),
            "tf32_and_bf16": has_short_units(),
        }
    return found


def graph_of_draws(device: torch.device) -> Facts:
    """Two replays of a recorded ``rand`` draw what two calls draw."""
    g = generator(device, 5)
    eager = [torch.rand(1000, generator=g, device=device) for _ in range(2)]
    g = generator(device, 5)
    graph = torch.cuda.CUDAGraph()
    if torch.__version__ < (2, 14):
        graph.register_generator_state(g)
    with torch.cuda.graph(graph):
        x = torch.rand(1000, generator=g, device=device)
    replayed = []
    for _ in range(2):
        graph.replay()
        replayed.append(x.clone())
    assert not torch.equal(*replayed), "both replays drew the same numbers"
    assert all(torch.equal(a, b) for a, b in zip(eager, replayed, strict=True)), "replays draw other numbers"
    after = torch.rand(10, generator=g, device=device)
    again = generator(device, 5)
    for _ in range(2):
        torch.rand(1000, generator=again, device=device)
    assert torch.equal(after, torch.rand(10, generator=again, device=device)), "the state lags behind"
    return {"draws": 2000}


def recorded(name: str) -> Callable[[torch.device], Facts]:
    def check(device: torch.device) -> Facts:
        (a, start), (b, _) = (go(name, "quick", 20, device, graph=graph) for graph in (False, True))
        distance = apart(a.meta, b.meta, start)
        assert distance < SAME, f"recorded and plain trainings end {distance:.2g} of their way apart"
        return {"distance": distance}

    return check


def strided() -> tuple[MAML, Meta, int, dict[str, float]]:
    """The Omniglot network with trained weights, how many tasks to take, and how far each precision may be off."""
    config, meta = load_checkpoint(results.pretrained_path("maml-omniglot-5w1s"))
    return experiments.build_learner(config), meta, 4, {"float32": 1e-3, "tf32": 0.1, "bf16": 0.3}


def pooled() -> tuple[MAML, Meta, int, dict[str, float]]:
    """A pooled network at random weights, where rounding switches many units."""
    one = MAML(Conv4(5, filters=16, downsample="max_pool"), inner_lr=0.02)
    return one, one.init(generator("cpu")).meta, 2, {"float32": 1e-3, "tf32": 0.4, "bf16": 0.9}


def gradient(setting: Callable) -> Callable[[torch.device], Facts]:
    def check(device: torch.device) -> Facts:
        one, meta, n_tasks, bounds = setting()
        pool = glyphs.load("train") if setting is strided else random_pool(20, 5, 1, 28)
        episodes = FewShot(pool, 5, 1, 2).sample(n_tasks, generator("cpu", 2))
        exact, _ = replace(one, engine="loop").meta_gradient(to_float64(meta), episodes.to(torch.float64))
        found: Facts = {}
        for precision, most in bounds.items():
            rounded = fast(one, precision=precision)
            try:
                use_precision(precision, device, rounded)
            except UserError as error:
                assert device.type == "cuda" and not has_short_units(), error
                found[precision] = str(error)
                continue
            mine, _ = rounded.meta_gradient(moved(meta, device), episodes.to(device))
            found[precision] = error = float(relative_distance(to_float64(moved(mine, "cpu")), exact))
            assert error < most, f"the gradient in {precision} is off by {error:.2g}"
        return found

    return check


def learner(name: str) -> Callable[[torch.device], Facts]:
    def check(device: torch.device) -> Facts:
        quick = experiments.get(name).preset("quick").meta_steps
        steps, tasks = (min(quick, 100), 50) if device.type == "cuda" else (1, 2)
        with tempfile.TemporaryDirectory() as folder:
            try:
                record = run(
                    name, meta_steps=steps, device=device.type, out=Path(folder) / "r", evaluation_tasks=tasks
                )
            except DataError as error:
                raise Skipped(str(error)) from None
        result = record["evaluation"]
        return {
            "meta_steps": steps,
            "graph": record["graph"],
            "ms_per_meta_step": record["ms_per_meta_step"],
            result["metric"]: result[result["metric"]],
        }

    return check


def training(out: Path, device: torch.device, *options: str, name: str = "maml-glyphs-5w1s") -> list[str]:
    """The arguments of a short training that saves its state often."""
    asked = ["train", name, "--meta-steps", "20", "--tasks", "2", "--device", device.type]
    return [*asked, "--checkpoint-every", "0", "--out", str(out), *options]


def said(arguments: list[str]) -> str:
    """What the command line says on stderr; it must succeed."""
    err = StringIO()
    with redirect_stderr(err):
        status = cli.main(arguments)
    assert status == 0, err.getvalue().strip().splitlines()[-1]
    return err.getvalue()


def parameters(out: Path) -> dict[str, Tensor]:
    return load_tensors(out / "checkpoint.safetensors")[0]


def kill_and_resume(device: torch.device) -> Facts:
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        name = "maml-glyphs-5w1s" if device.type == "cuda" else "maml-sinusoid-5shot"
        said(training(whole, device, name=name))
        command = [sys.executable, "-m", "mlbook", *training(killed, device, name=name)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        state = killed / "resume" / "state.safetensors"
        while process.poll() is None and not state.exists():
            time.sleep(0.02)
        process.kill()
        process.wait()
        at = int(load_tensors(state)[0]["meta_step"])
        said(training(killed, device, "--resume", name=name))
        a, b = parameters(whole), parameters(killed)
        config, meta = load_checkpoint(whole / "checkpoint.safetensors")
        start = experiments.build_learner(config).init(generator("cpu")).meta
        distance = apart(meta, load_checkpoint(killed / "checkpoint.safetensors")[1], start)
    exact = all(torch.equal(a[key], b[key]) for key in a)
    assert exact or device.type == "cuda", "a resumed run differs on a CPU"
    assert distance < SAME, f"the resumed run ends {distance:.2g} of the way apart"
    return {"killed_at": at, "bit_for_bit": exact, "distance": distance}


def deterministic(device: torch.device) -> Facts:
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / name for name in "ab"]
        for out in outs:
            said(training(out, device, "--deterministic"))
        a, b = (parameters(out) for out in outs)
    assert all(torch.equal(a[key], b[key]) for key in a), "two runs with --deterministic differ"
    return {"bit_for_bit": True}


def both_devices(device: torch.device) -> Facts:
    """A GPU's checkpoint judged on both devices, and runs that change the device half way."""
    cpu, found = torch.device("cpu"), {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "gpu"
        said(training(out, device))
        for where in (device, cpu):
            answer = subprocess.run(
                [sys.executable, "-m", "mlbook", "evaluate", str(out / "checkpoint.safetensors"), "--json"]
                + ["--tasks", "100", "--device", where.type],
                cwd=ROOT, capture_output=True, text=True, check=True,
            )  # fmt: skip
            found[f"accuracy_{where.type}"] = json.loads(answer.stdout)["accuracy"]
        for first, then in ((device, cpu), (cpu, device)):
            out = Path(folder) / first.type / "half"
            said(training(out, first, "--time-limit", "1e-6"))
            words = said(training(out, then, "--resume"))
            assert "it goes on with other random numbers" in words, f"nothing was said: {words!r}"
    a, b = found.values()
    assert abs(a - b) < 0.03, f"the two devices judge one checkpoint as {a:.3f} and {b:.3f}"
    return found


def memory(name: str) -> Callable[[torch.device], Facts]:
    def check(device: torch.device) -> Facts:
        backbone = name.startswith("backbone")
        began = time.monotonic()
        go(name, "paper", 6, device, graph=not backbone)
        torch.cuda.synchronize()
        found = {"peak_mib": round(torch.cuda.max_memory_allocated() / 2**20)}
        return {**found, "reserved_mib": round(torch.cuda.max_memory_reserved() / 2**20)} | {
            "seconds_of_6_steps": round(time.monotonic() - began, 1)
        }

    return check


def wait_in_a_recording(device: torch.device) -> Facts:
    """A meta-step that waits for the host cannot be recorded; what is the user told?"""

    class Waiting(MAML):
        def step(self, state: State, *rest):
            state, metrics = super().step(state, *rest)
            float(metrics["loss"])
            return state, metrics

    one = Waiting(
        experiments.build_learner(experiments.config("maml-sinusoid-5shot", "quick")).model, loss="mse"
    )
    options = {"meta_steps": 6, "meta_batch_size": 4, "generator": generator(device), "graph": True}
    for attempt in range(2):
        try:
            for _ in train(one, Sinusoids(), state=one.init(generator("cpu"), device), **options):
                pass
        except UserError as error:
            assert "--no-graph" in str(error) and "\n" not in str(error), error
            message = str(error)
        else:
            raise AssertionError(f"attempt {attempt + 1} was recorded all the same")
    try:  # does CUDA still work in this process?
        works = bool(torch.ones(3, device=device).sum().item() == 3)
    except RuntimeError:
        works = False
    return {"message": message, "cuda_works_afterwards": works}


def out_of_memory(device: torch.device) -> Facts:
    try:
        torch.empty(2**46, dtype=torch.uint8, device=device)
    except RuntimeError as error:
        message = cli.sentence(error)
        assert message is not None and "the memory of the GPU is full" in message, one_line(error)
        return {"message": message}
    raise AssertionError("64 TiB were given")


class Reader(nn.Module):
    """A recurrent layer and a classifier of its last answer."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.read, self.head = kind(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


def on_both(network: nn.Module, shape: tuple[int, ...], device: torch.device, engine: str = "vmap") -> float:
    """The distance between the meta-gradients of a network on the device and on the CPU."""
    one = MAML(network, inner_lr=0.1, engine=engine)
    x = torch.randn(2, 4, 6, *shape, generator=generator("cpu", 1))
    y = torch.arange(3).repeat_interleave(2).expand(4, -1)
    episodes, meta = Episode(x[0], y, x[1], y), {"params": initial_params(network)}
    expected, _ = one.meta_gradient(meta, episodes)
    found, _ = one.meta_gradient(moved(meta, device), episodes.to(device))
    return float(relative_distance(moved(found, "cpu"), moved(expected, "cpu")))


def recurrent(device: torch.device) -> Facts:
    use_precision("float32", device, MAML(nn.Linear(6, 3)))
    torch.manual_seed(0)
    found: Facts = {}
    for kind in (nn.LSTM, nn.GRU):
        for engine in ("loop", "vmap"):
            found[f"{kind.__name__} {engine}"] = error = on_both(Reader(kind), (5, 6), device, engine)
            assert error < 1e-3, f"the second derivative of {kind.__name__} ({engine}) is off by {error:.2g}"
    return found


def placement(device: torch.device) -> Facts:
    """Buffers and frozen parts stay with the module, and are found where the parameters are."""
    use_precision("float32", device, MAML(nn.Linear(6, 3)))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).eval()
    network[1].running_mean.normal_()
    network[0].requires_grad_(False)
    error = on_both(network, (6,), device)
    assert error < 1e-4, f"the gradient is off by {error:.2g}"
    held = {t.device.type for t in network.state_dict().values()}
    assert held == {"cpu"}, f"the module itself has moved: {held}"
    state = MAML(network, inner_lr=0.1).init(generator("cpu"), device)
    assert {t.device.type for t in leaves(state.meta)} == {device.type}
    return {"error": error}


def half_precision(device: torch.device) -> Facts:
    """A small backbone in float32, bf16 and float16: the first losses agree."""
    found: Facts = {}
    pool = random_pool(16, 4, 3, 16)
    tasks = LabelledImages(pool).to(device)
    for precision in ("float32", "bf16", "float16"):
        if precision == "bf16" and device.type == "cuda" and not has_short_units():
            continue
        one = Backbone(WideResNet(16, depth=10, width=1, stride=2), precision=precision)
        use_precision("float32", device, one)
        state, g = one.init(generator("cpu"), device), generator(device, 1)
        for _ in range(2):
            state, metrics = one.step(state, tasks.sample(16, g))
        found[precision] = float(metrics["loss"])
        assert abs(found[precision] - found["float32"]) < 0.3, f"the loss in {precision} is another: {found}"
    return found


def augmented_children(device: torch.device) -> Facts:
    """Children that are trained on two devices see the same random numbers."""
    setup = experiments.setup(experiments.config("dada-search-glyphs", "quick"))
    problems, ends = setup.tasks("test").sample(4, generator("cpu")), []
    child = setup.learner.child
    for where in ("cpu", device):
        theta, _ = child.train(start_policy(where), problems.to(where), 20)
        ends.append({"params": {"theta": theta}})
    start = {"params": {"theta": child.start(4, generator("cpu", int(problems.seed[0])), "cpu")}}
    distance = apart(*ends, start)
    assert distance < SAME, f"the same children end {distance:.2g} of their way apart"
    return {"distance": distance}


def nccl(device: torch.device) -> Facts:
    """A group of one process, bound to its GPU."""
    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "RANK": "0", "WORLD_SIZE": "1"}
    torch.cuda.set_device(0)
    dist.init_process_group(backend="nccl", device_id=torch.device("cuda", 0))
    dist.barrier()
    x, values = torch.ones(3, device=device), [None]
    dist.all_reduce(x)
    dist.all_gather_object(values, 7)
    dist.destroy_process_group()
    assert x.tolist() == [1, 1, 1] and values == [7]
    return {"nccl": ".".join(map(str, torch.cuda.nccl.version()))}


def benchmark(device: torch.device) -> Facts:
    cuda = device.type == "cuda"
    names = ["maml-sinusoid-5shot", "maml-omniglot-5w1s"] if cuda else ["maml-sinusoid-5shot"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "gpu.json"
        command = [sys.executable, "-m", "benchmarks.gpu", "--device", device.type, "--out", str(out)]
        command += ["--meta-steps", "100" if cuda else "3", "--rounds", "2", "--only", *names]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr.strip().splitlines()[-1]
        rows = json.loads(out.read_text())["rows"]
    wrong = [row for row in rows if "error" in row and "units" not in row["error"]]
    assert not wrong, f"{wrong[0]['experiment']} {wrong[0]['engine']}: {wrong[0]['error']}"
    return {"rows": rows}


CHECKS: dict[str, Check] = {
    "versions": Check("what runs here", versions),
    "graph": Check("a graph of random draws draws what calls draw", graph_of_draws, gpu=True),
    "forced-wait": Check("a recording that fails says so", wait_in_a_recording, gpu=True),
    "out-of-memory": Check("a full GPU is one sentence", out_of_memory, gpu=True),
    **{
        f"recorded:{name}": Check(
            "20 recorded meta-steps end where 20 plain ones end", recorded(name), gpu=True
        )
        for name in RECORDED
    },
    **{
        f"gradient:{setting.__name__}": Check("three precisions against float64", gradient(setting))
        for setting in (strided, pooled)
    },
    "recurrent": Check("LSTM and GRU have second derivatives", recurrent, gpu=True),
    "placement": Check("buffers and frozen parts follow the parameters", placement, gpu=True),
    "half-precision": Check("a backbone in bf16 and float16", half_precision),
    "augmentation": Check(
        "children see the same random numbers on both devices", augmented_children, gpu=True
    ),
    **{f"learner:{name}": Check("trained and evaluated", learner(name)) for name in LEARNERS},
    "resume": Check("killed, resumed, compared", kill_and_resume, seconds=180),
    "deterministic": Check("two runs with --deterministic are the same", deterministic, gpu=True),
    "both-devices": Check("a checkpoint and a run change the device", both_devices, gpu=True, seconds=180),
    "nccl": Check("a process group on a GPU", nccl, gpu=True, seconds=60),
    **{f"memory:{name}": Check("memory of the paper's recipe", memory(name), gpu=True) for name in LARGE},
    "benchmark": Check("benchmarks.gpu", benchmark, seconds=300),
}


# -- running them ------------------------------------------------------------------------------------------------------


def perform(name: str, device: torch.device) -> dict:
    """One check, here; what there is to say of it."""
    try:
        return {"result": "passed", **CHECKS[name].run(device)}
    except Skipped as reason:
        return {"result": "skipped", "why": str(reason)}
    except Exception as error:
        reason = first_cause(error)
        return {
            "result": "failed",
            "why": f"{type(error).__name__}: {one_line(error)[:500]}",
            "first": reason[:300],
        }


def in_a_process(name: str, device: torch.device, seconds: float) -> dict:
    """One check in a process of its own, which is ended with all that it started when its time is up."""
    command = [sys.executable, str(Path(__file__).resolve()), "--perform", name, "--device", device.type]
    # a process group of its own, so that what it started ends with it
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"result": "failed", "why": f"no answer within {seconds:g} s"}
    try:
        return json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        last = (err.strip().splitlines() or ["no word"])[-1]
        return {"result": "failed", "why": f"ended with status {process.returncode}: {last[:300]}"}


def chosen(asked: list[str] | None) -> list[str]:
    """The checks of these names; ``learner`` stands for all that begin with ``learner:``."""
    if not asked:
        return list(CHECKS)
    unknown = [a for a in asked if not any(n == a or n.startswith(f"{a}:") for n in CHECKS)]
    if unknown:
        raise UserError(f"no check is named {', '.join(unknown)}; --list names them")
    return [n for n in CHECKS if any(n == a or n.startswith(f"{a}:") for a in asked)]


def summary(rows: list[dict], device: torch.device, seconds: float) -> str:
    """The outcome in words."""
    by = {kind: [r for r in rows if r["result"] == kind] for kind in ("passed", "failed", "skipped")}
    where = "a GPU" if device.type == "cuda" else "a CPU"
    lines = [
        f"{len(rows)} checks on {where} in {seconds:.0f} s: {len(by['passed'])} passed, {len(by['failed'])} failed, "
        f"{len(by['skipped'])} skipped."
    ]
    lines += [f"  failed  {row['check']}: {row['why']}" for row in by["failed"]]
    reasons: dict[str, list[str]] = {}
    for row in by["skipped"]:
        reasons.setdefault(row["why"], []).append(row["check"])
    lines += [f"  skipped ({why}): {', '.join(names)}" for why, names in reasons.items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/first_contact.py", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these checks, or all that begin with NAME:"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"write a record there; the status page shows {RECORD}"
    )
    parser.add_argument("--list", action="store_true", help="name the checks")
    parser.add_argument("--seconds", type=float, help="time limit of each check (default: its own)")
    parser.add_argument("--perform", choices=list(CHECKS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        device, names = choose_device(options.device), chosen(options.only)
    except UserError as error:
        print(f"first_contact: {error}", file=sys.stderr)
        return 2
    if options.list:
        for name in names:
            print(f"{name:40} {'GPU only' if CHECKS[name].gpu else '':9} {CHECKS[name].about}")
        return 0
    if options.perform:
        found = perform(options.perform, device)
        print(json.dumps(found), flush=True)
        return 0 if found["result"] != "failed" else 1
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    record = {**provenance(), "machine": {**machine(), "gpu": gpu}, "device": device.type, "checks": []}
    start = time.monotonic()
    for name in names:
        began, one = time.monotonic(), CHECKS[name]
        if one.gpu and device.type != "cuda":
            found = {"result": "skipped", "why": "needs a GPU"}
        else:
            found = in_a_process(name, device, options.seconds or one.seconds)
        row = {"check": name, "seconds": round(time.monotonic() - began, 1), **found}
        record["checks"].append(row)
        print(json.dumps(row), flush=True)
        if options.out:
            keep(options.out, record)  # after each: the machine may be taken back at any time
    print(summary(record["checks"], device, time.monotonic() - start))
    return 1 if any(row["result"] == "failed" for row in record["checks"]) else 0


if __name__ == "__main__":
    sys.exit(main())
