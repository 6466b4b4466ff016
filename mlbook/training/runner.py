"""One run of an experiment: train, log, checkpoint, resume, evaluate, and leave a record.

A run folder holds ``checkpoint.safetensors`` (final meta-parameters), ``resume/state.safetensors`` (what ``resume`` needs),
``record.json`` and ``log.csv``.
"""

from __future__ import annotations

import json
import math
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

import mlbook
from mlbook import experiments
from mlbook.data import disk
from mlbook.data.progress import ProgressLine
from mlbook.data.tensor_file import load_header, load_tensors, save_tensors, write_atomically
from mlbook.engines import fastest
from mlbook.errors import CheckpointError, StorageError, UserError
from mlbook.experiments import Experiment, Setup, provenance
from mlbook.meta_learners import Backbone
from mlbook.meta_learners.base import Meta, MetaLearner, State, leaves, map_leaves
from mlbook.tasks.episode import TaskDistribution
from mlbook.training import run_folder
from mlbook.training.checkpoint import (
    DEVICE,
    device_of,
    flatten,
    load_resume,
    one_line,
    save_resume,
    unflatten,
)
from mlbook.training.cuda_graph import WARM_UP, can_capture
from mlbook.training.distributed import Processes, started
from mlbook.training.distributed import processes as join
from mlbook.training.early_stopping import EarlyStopping
from mlbook.training.evaluation import Evaluation, check_listed, evaluate
from mlbook.training.finite import refuse_not_finite
from mlbook.training.loop import train
from mlbook.training.memory import keep_freed_memory
from mlbook.training.precision import for_device, repeatable, use_precision
from mlbook.training.records import commit, keep, today

LOG_LINES = 400
SUMS = "sums/"
STRETCHES = "stretches"
"""The entry of a resume file's header that says how the run was computed, and from which meta-step on."""
KINDS = {"cpu": "a CPU", "cuda": "a GPU"}
ROOM_FOR_TEXT = 100_000
"""Bytes that headers, the log and a record take."""


def choose_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` as a device; ``UserError`` when there is no GPU to take."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA GPU is available here; use --device cpu or --device auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def run(
    name: str,
    *,
    preset: str = "quick",
    meta_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    precision: str = "float32",
    graph: bool = True,
    evaluation_tasks: int | None = None,
    time_limit: float | None = None,
    deterministic: bool = False,
) -> dict | None:
    """Train experiment ``name`` and return its record, which is also written to ``out``.

    Experiments that share this meta-training are evaluated too, into ``record-NAME.json``. Killed at any moment and called
    again with ``resume``, it ends in the same parameters: bit for bit on a CPU with the same number of threads, and on a GPU as
    far as its operations repeat themselves. A run that goes on on another kind of device has other random numbers from there on;
    stderr and the record say so. Started by ``torchrun``, every process calls it; they share each meta-batch, the first one
    writes and returns the record, the others return None.

    precision: how the factors of matrix products are rounded (``float32``, ``tf32``, or ``bf16``, which rounds the products as
    well). graph: on one GPU, record the meta-step as a CUDA graph. evaluation_tasks: meta-test tasks at the end (default: the
    preset's). time_limit: seconds after which training stops with its state saved; None is returned then, and ``resume`` goes
    on. deterministic: take only operations that give the same bits every time. On a CPU this process keeps freed memory from
    then on (``mlbook.training.memory``). Raises ``UserError`` before anything is written if a setting is wrong, if another
    training has the folder ``out``, or if what a run writes would not fit there.
    """
    experiment = experiments.get(name)
    if meta_steps is not None and meta_steps < 1:
        raise UserError(f"--meta-steps must be at least 1, not {meta_steps}")
    if evaluation_tasks is not None and evaluation_tasks < 2:
        raise UserError(f"--tasks must be at least 2 (an interval needs two), not {evaluation_tasks}")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must be from 0 to 2^63 − 1, got {seed}")
    if not checkpoint_seconds >= 0:
        raise UserError("--checkpoint-every must be a number of seconds")
    if time_limit is not None and not time_limit > 0:
        raise UserError("the time limit must be a positive number")
    if time_limit is not None and started() > 1:
        raise UserError("a time limit is for one process: several would not stop at the same meta-step")
    where = choose_device(device)
    n_tasks = evaluation_tasks or experiment.preset(preset).evaluation_tasks
    config = experiment.config(preset, meta_steps=meta_steps, seed=seed)
    if precision != "float32":
        config["precision"] = precision
    setup = experiments.setup(config)
    use_precision(precision, where, setup.learner)
    if started() > 1 and (reason := setup.learner.one_process_because()):
        raise UserError(f"{name} {reason}; train it in one process")
    learner = for_device(fastest(setup.learner, where, precision), where)
    if isinstance(learner, Backbone):
        precision = learner.precision
    tasks, test_tasks = setup.tasks("train"), setup.tasks("test")
    check_listed(test_tasks, n_tasks)
    out = Path("runs") / f"{name}-{preset}-seed{seed}" if out is None else Path(out)
    run_folder.check(out, resume=resume)
    if where.type == "cpu":
        keep_freed_memory()

    with ExitStack() as held:  # the folder is this run's until the records are written
        held.enter_context(repeatable(deterministic))
        with join(where, config["meta_batch_size"]) as processes:
            processes.wait()  # until all have looked at the folder
            if isinstance(learner, Backbone) and precision != setup.learner.precision and not processes.rank:
                print(
                    f"mlbook: this GPU has no bf16 units; {name} is trained in {precision}", file=sys.stderr
                )
            state = learner.init(torch.Generator().manual_seed(seed), where)
            best: EarlyStopping | None = None

            def begin() -> None:
                nonlocal best
                best = _early_stopping(setup, learner)
                needed = _bytes_written(state, early_stopping=best is not None)
                held.enter_context(run_folder.claimed(out, resume=resume, needed=needed))

            processes.first_does(begin)
            alone = processes.count == 1
            now = {
                "device": where.type,
                "precision": precision,
                "graph": graph and alone and recordable(learner, state, where),
            }
            with _interrupts_between_steps(out, processes) as interrupted:
                trained = _train(
                    setup,
                    learner,
                    tasks.to(where),
                    state,
                    best,
                    where,
                    out,
                    resume=resume,
                    checkpoint_seconds=checkpoint_seconds,
                    processes=processes,
                    now=now,
                    time_limit=time_limit,
                    interrupted=interrupted,
                )
        if trained is None:
            return None
        meta, record = trained
        record |= {"processes": processes.count, "engine": learner.engine_used()}
        if deterministic:
            record["deterministic"] = True
        use_precision("float32", where, learner)  # results are compared at one precision
        with _saying_how_to_go_on():
            return _finish(experiment, setup, meta, record, out, where, test_tasks, n_tasks)


def recordable(learner: MetaLearner, state: State, device: torch.device) -> bool:
    """Whether meta-steps there can be recorded as a CUDA graph: the learner's, by this optimiser."""
    return device.type == "cuda" and learner.recordable and can_capture(state)


def _bytes_written(state: State, *, early_stopping: bool) -> int:
    """What a run has on its disk at most: the checkpoint, the old state and the new one, log and record."""
    parameters = sum(t.numel() * t.element_size() for t in leaves(state.meta))
    copies = 1 + 2 + early_stopping  # parameters, two moments, the best so far
    return (1 + 2 * copies) * parameters + ROOM_FOR_TEXT


def _finish(
    experiment: Experiment,
    setup: Setup,
    meta: Meta,
    record: dict,
    out: Path,
    where: torch.device,
    test_tasks: TaskDistribution,
    n_tasks: int,
) -> dict:
    """Checkpoint, evaluation and records of a finished training; returns the record."""
    config = setup.config
    header = {**setup.identity, **_data_header(record.get("data", {})), "config": json.dumps(config)}
    save_tensors(out / "checkpoint.safetensors", flatten(meta), header)
    record |= {
        "device": _device_name(where),
        "threads": torch.get_num_threads(),
        "versions": {
            "mlbook": mlbook.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
        "date": today(),
    }
    record["evaluation"] = evaluate_setup(setup, meta, test_tasks, n_tasks=n_tasks).as_dict()
    for key, others in setup.listed_tasks().items():
        found = evaluate_setup(setup, meta, others, n_tasks=others.n_listed).as_dict()
        record[key] = {k: found[k] for k in ("mean", "ci95_by_step", "tasks")}
    keep(out / "record.json", record)
    for other in experiment.shares_training_with:
        values = {key: config[key] for key in ("meta_steps", "seed")}
        its = experiments.setup(experiments.config(other, config["preset"], **values))
        shared = {**record, **its.identity, "config": its.config, "trained_as": config["name"]}
        shared["evaluation"] = evaluate_setup(its, meta, n_tasks=n_tasks).as_dict()
        keep(out / f"record-{other}.json", shared)
    return record


def _train(
    setup: Setup,
    learner: MetaLearner,
    tasks: TaskDistribution,
    state: State,
    best: EarlyStopping | None,
    where: torch.device,
    out: Path,
    *,
    resume: bool,
    checkpoint_seconds: float,
    processes: Processes,
    now: dict,
    time_limit: float | None,
    interrupted: Callable[[], bool],
) -> tuple[Meta, dict] | None:
    """Meta-parameters and the training's part of the record; None in all processes but the first, and when time is up.

    now: the kind of device, the precision, and whether meta-steps are recorded as a graph.
    """
    config, first = setup.config, processes.rank == 0
    resume_file = run_folder.resume_file(out)
    data = setup.data
    before, stretches = "", []
    generator = torch.Generator(device=where).manual_seed(config["seed"] + 1)
    log: list[str] = []
    seconds = 0.0
    sums: dict[str, torch.Tensor] = {}
    if resume and resume_file.exists():
        provenance.check(config, trained_on(resume_file), str(resume_file), go_on=True)
        state = load_resume(resume_file, state, generator, setup.identity)
        tensors, found = load_tensors(resume_file)
        try:
            stretches = [dict(its) for its in json.loads(found.get(STRETCHES, "[]"))]
            stretches = stretches or [{"from": 0, **now, "device": device_of(tensors, found)}]
            before = KINDS.get(stretches[-1]["device"], "another device")
            seconds = float(tensors["seconds"])
            if best is not None:
                best.restore(tensors, where)
        except (LookupError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{resume_file} is damaged ({one_line(error)}); choose another --out"
            ) from None
        # of the meta-steps since the last line of the log
        sums = {k.removeprefix(SUMS): t.to(where) for k, t in tensors.items() if k.startswith(SUMS)}
        log = _read_log(out / "log.csv", state.meta_step, len(learner.logged))
    # this waits for all, too: the first overwrites nothing that another has yet to read
    processes.check_same(state.meta_step, "meta-step to go on from")

    total = config["meta_steps"]
    # a run that ends with the warm-up records nothing
    now["graph"] = now["graph"] and total - state.meta_step > WARM_UP
    if state.meta_step < total or not stretches:
        if stretches and stretches[-1]["device"] != where.type and first:
            print(
                f"mlbook: {config['name']} was trained on {before} up to meta-step {state.meta_step}; "
                f"on {KINDS[where.type]} it goes on with other random numbers",
                file=sys.stderr,
            )
        if not stretches or {**stretches[-1], "from": 0} != {**now, "from": 0}:
            stretches.append({"from": state.meta_step, **now})
    header = {**setup.identity, **_data_header(data), DEVICE: where.type, STRETCHES: json.dumps(stretches)}
    columns = learner.logged
    every = max(1, total // LOG_LINES)
    began = saved = time.monotonic()
    line = ProgressLine(total, config["name"], start=state.meta_step) if first else None
    shown: dict[str, float] = {}

    def save_state() -> None:
        elapsed = torch.tensor(seconds + time.monotonic() - began, dtype=torch.float64)
        lines = [",".join(("meta_step", *columns)), *log]
        extra = {"seconds": elapsed, **({} if best is None else best.tensors())}
        extra |= {SUMS + key: value for key, value in sums.items()}
        with _saying_how_to_go_on():
            write_atomically(out / "log.csv", ("\n".join(lines) + "\n").encode())
            save_resume(resume_file, state, generator, header, extra)

    for progress in train(
        learner,
        tasks,
        meta_steps=total,
        meta_batch_size=config["meta_batch_size"],
        state=state,
        generator=generator,
        processes=processes,
        graph=now["graph"],
    ):
        state = progress.state
        if best is not None:
            best(state)  # before the state may be saved: a resumed run does not come by this meta-step again
        sums = {key: sums.get(key, 0) + value for key, value in progress.metrics.items()}
        if progress.meta_step % every == 0:
            # a learner may report more than the log has columns for
            values = {key: float(sums[key]) / every for key in columns}
            if wrong := next((key for key, value in values.items() if not math.isfinite(value)), None):
                raise UserError(
                    f"the {wrong} became {values[wrong]} at meta-step {progress.meta_step}; lower the rates"
                )
            log.append(",".join([str(progress.meta_step), *(f"{values[c]:.6g}" for c in columns)]))
            sums, shown = {}, values
            if first and time.monotonic() - saved >= checkpoint_seconds:
                save_state()
                saved = time.monotonic()
        if first:
            line.label = f"{config['name']} ({learner.engine_used()})"  # known once a meta-step was computed
            line(progress.meta_step, **shown)
        if interrupted():
            break
        if time_limit is not None and time.monotonic() - began > time_limit:
            break
    if not first:
        return None
    line.close()
    save_state()
    if interrupted():
        raise KeyboardInterrupt
    if state.meta_step < total:
        return None
    seconds += time.monotonic() - began
    chosen = {} if best is None else {"early_stopping": best.record()}
    last = stretches[-1]
    ran = {"precision": last["precision"], "graph": last["graph"]}
    if len(stretches) > 1:
        ran[STRETCHES] = stretches
    return state.meta if best is None else best.meta, {
        **chosen,
        **ran,
        **setup.identity,
        **({"data": data} if data else {}),
        "config": config,
        "meta_steps": total,
        "curve": [[float(v) for v in entry.split(",")] for entry in log],
        "curve_columns": ["meta_step", *columns],
        "seconds": round(seconds, 1),
        "ms_per_meta_step": round(1000 * seconds / max(1, total), 3),
    }


@contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise StorageError(
            f"{error}; what was saved before is still there: make room, and the same command with --resume goes on"
        ) from None


@contextmanager
def _interrupts_between_steps(out: Path, processes: Processes) -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C is only noted, so that no meta-step is left half done.

    The function that is handed out tells of it; a second Ctrl-C interrupts at once. Several processes may each be
    at another place when they are interrupted: there, the first Ctrl-C does it, and the last saved state remains.
    A ``KeyboardInterrupt`` leaves the block with a sentence about where ``--resume`` goes on.
    """
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    # whoever has a handler of their own keeps it
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours := ours and processes.count == 1:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {_where_to_go_on(run_folder.resume_file(out))}") from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _where_to_go_on(path: Path) -> str:
    try:
        return (
            f"the same command with --resume goes on from meta-step {int(load_tensors(path)[0]['meta_step'])}"
        )
    except (UserError, LookupError):
        return "nothing was saved yet that --resume could go on from"


def _early_stopping(setup: Setup, learner: MetaLearner) -> EarlyStopping | None:
    """For experiments that validate: on meta-validation tasks with as many queries as in meta-training."""
    config = setup.config
    if (every := config.get("validate_every")) is None:
        return None
    validation = setup.tasks("validation", test_query=config["n_query"])
    small = {"n_tasks": 50} if config["preset"] == "quick" else {}
    return EarlyStopping(learner, validation, every, config["meta_steps"], config["report_step"], **small)


def evaluate_config(config: dict, meta: Meta, tasks: TaskDistribution | None = None, **options) -> Evaluation:
    """``evaluate_setup`` of what a configuration is made into."""
    return evaluate_setup(experiments.setup(config), meta, tasks, **options)


def evaluate_setup(
    setup: Setup,
    meta: Meta,
    tasks: TaskDistribution | None = None,
    *,
    n_tasks: int = 600,
    seed: int = 1,
    batch_norm: str | None = None,
    on_progress=None,
) -> Evaluation:
    """Evaluate meta-parameters under the protocol of an experiment, or with another ``batch_norm``.

    tasks: default: the experiment's meta-test tasks.
    """
    config, learner = setup.config, setup.learner
    device = next(iter(meta["params"].values())).device
    if learner.inductive and batch_norm not in (None, "running"):
        raise UserError(
            f"{config['name']} classifies each query by itself; batch-norm mode {batch_norm} is not for it"
        )
    if batch_norm is None or learner.inductive:
        # a classifier's predictions do not depend on the mode (its protocol says running)
        batch_norm = config.get("test_batch_norm", "transductive")
    return evaluate(
        fastest(learner, device) if device.type == "cpu" else learner,
        meta,
        setup.tasks("test") if tasks is None else tasks,
        n_tasks=n_tasks,
        steps=config["test_steps"],
        report_step=config["report_step"],
        seed=seed,
        batch_norm=batch_norm,
        scored_steps=config.get("scored_steps"),
        protocol=setup.protocol,
        on_progress=on_progress,
    )


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[dict, Meta]:
    """Configuration and meta-parameters of a checkpoint file; ``CheckpointError`` if it is damaged or not ours.

    The data set that it was trained on need not be here; ``check_data`` compares it with the one that is.
    """
    tensors, header = load_tensors(path)
    try:
        config = json.loads(header["config"])
        expected = experiments.build_learner(config).init(torch.Generator().manual_seed(0)).meta
        meta = unflatten(tensors)
        shapes, wanted = (map_leaves(lambda t: tuple(t.shape), m) for m in (meta, expected))
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of an mlbook experiment, or of another version ({one_line(error)})"
        ) from None
    if shapes != wanted:
        raise CheckpointError(f"{path} does not hold the parameters that {config['name']} has")
    refuse_not_finite(meta, str(path), CheckpointError)
    return config, map_leaves(lambda t: t.to(device), meta)


def trained_on(path: Path) -> dict[str, str]:
    """{split: fingerprint} of the data that a checkpoint, or the state of a run, was trained on.

    Empty where the file names none: for generated tasks, and in files from before there were fingerprints.
    """
    try:
        return dict(json.loads(load_header(path).get("data", "{}")))
    except (ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise CheckpointError(f"{path} is damaged (its fingerprints of the data cannot be read)") from None


def check_data(path: Path, config: dict) -> str | None:
    """``DataError`` when the data here is not what the checkpoint at ``path`` was trained on.

    Returns a note where it is nearly: see ``provenance.check``.
    """
    return provenance.check(config, trained_on(path), str(path))


def _data_header(data: dict[str, str]) -> dict[str, str]:
    return {"data": json.dumps(data)} if data else {}


def _read_log(path: Path, last_step: int, columns: int) -> list[str]:
    """The log up to the meta-step that the resumed state stands at; later lines come again."""
    if not path.exists():
        return []
    kept = []
    try:
        for number, entry in enumerate(path.read_text().splitlines()[1:], 2):
            step, *values = entry.split(",")
            if len(values) != columns or not [float(value) for value in values]:
                raise ValueError(f"line {number} has {len(values)} values, not {columns}")
            if int(step) <= last_step:
                kept.append(entry)
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({disk.reason(error)})") from None
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not the log of this run ({error}); move it away, and --resume goes on without its lines"
        ) from None
    return kept


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
