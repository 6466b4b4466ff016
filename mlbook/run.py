"""One run of an experiment: train, log, checkpoint, resume, evaluate, and leave a record.

A run folder holds ``checkpoint.safetensors`` (final meta-parameters), ``resume/state.safetensors`` (what ``resume`` needs),
``record.json`` and ``log.csv``.
"""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import torch

import mlbook
from mlbook import experiments
from mlbook.checkpoint import flatten, load_resume, save_resume, unflatten
from mlbook.errors import CheckpointError, UserError
from mlbook.evaluation import Evaluation, evaluate
from mlbook.meta_learners.protocol import Meta
from mlbook.progress import ProgressLine
from mlbook.tensor_file import load_tensors, save_tensors, write_atomically
from mlbook.training import train

LOG_LINES = 400


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
) -> dict:
    """Train experiment ``name`` and return its record, which is also written to ``out``.

    Killed at any moment and called again with ``resume``, it ends in the same parameters (bit for bit on a CPU with the same
    number of threads). Raises ``UserError`` before anything is written if a setting is wrong.
    """
    experiment = experiments.get(name)
    preset_values = experiments.get_preset(experiment, preset)
    if meta_steps is not None and meta_steps < 1:
        raise UserError(f"--meta-steps must be at least 1, not {meta_steps}")
    if seed < 0:
        raise UserError(f"--seed must not be negative, got {seed}")
    if not checkpoint_seconds >= 0:
        raise UserError("--checkpoint-every must be a number of seconds")
    where = choose_device(device)
    config = experiments.config(experiment, preset, meta_steps=meta_steps, seed=seed)
    learner = experiments.build_learner(config)
    if where.type == "cpu" and learner.fast_engine_fits:
        learner = replace(learner, engine="fast")
    tasks = experiments.to_device(experiments.build_tasks(config, "train"), where)
    test_tasks = experiments.build_tasks(config, "test")
    identity = {"experiment": name, "preset": preset, "run": experiments.run_id(config)}
    out = Path("runs") / f"{name}-{preset}-seed{seed}" if out is None else Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file, not a folder")
    resume_file = out / "resume" / "state.safetensors"
    if not resume and ((out / "checkpoint.safetensors").exists() or resume_file.exists()):
        raise UserError(f"{out} already holds a run; add --resume to go on with it, or choose another --out")

    state = learner.init(torch.Generator().manual_seed(seed), where)
    generator = torch.Generator(device=where).manual_seed(seed + 1)
    log: list[str] = []
    seconds = 0.0
    if resume and resume_file.exists():
        state = load_resume(resume_file, state, generator, identity)
        tensors, _ = load_tensors(resume_file)
        seconds = float(tensors["seconds"])
        log = _read_log(out / "log.csv", state.meta_step)

    try:
        out.mkdir(parents=True, exist_ok=True)  # now, not after an hour of training
    except OSError as error:
        raise UserError(f"--out {out} cannot be made ({error.strerror})") from None

    total = config["meta_steps"]
    every = max(1, total // LOG_LINES)
    began = saved = time.monotonic()
    sums: dict[str, torch.Tensor] = {}
    line = ProgressLine(total, name, start=state.meta_step)
    shown: dict[str, float] = {}

    def save_state() -> None:
        elapsed = torch.tensor(seconds + time.monotonic() - began, dtype=torch.float64)
        lines = [",".join(_columns(learner.measure)), *log]
        write_atomically(out / "log.csv", ("\n".join(lines) + "\n").encode())
        save_resume(resume_file, state, generator, identity, extra={"seconds": elapsed})

    for progress in train(
        learner,
        tasks,
        meta_steps=total,
        meta_batch_size=preset_values.meta_batch_size,
        state=state,
        generator=generator,
    ):
        state = progress.state
        sums = {key: sums.get(key, 0) + value for key, value in progress.metrics.items()}
        if progress.meta_step % every == 0:
            values = {key: float(value) / every for key, value in sums.items()}
            if not all(v == v and abs(v) != float("inf") for v in values.values()):
                raise UserError(
                    f"the loss became {values['loss']} at meta-step {progress.meta_step}; lower the rates"
                )
            log.append(",".join([str(progress.meta_step), *(f"{v:.6g}" for v in values.values())]))
            sums, shown = {}, values
            if time.monotonic() - saved >= checkpoint_seconds:
                save_state()
                saved = time.monotonic()
        line(progress.meta_step, **shown)
    line.close()
    save_state()
    seconds += time.monotonic() - began

    checkpoint = out / "checkpoint.safetensors"
    save_tensors(checkpoint, flatten(state.meta), {**identity, "config": json.dumps(config)})
    result = evaluate_config(config, state.meta, test_tasks, n_tasks=preset_values.evaluation_tasks)
    record = {
        **identity,
        "config": config,
        "meta_steps": total,
        "evaluation": result.as_dict(),
        "curve": [[float(v) for v in entry.split(",")] for entry in log],
        "curve_columns": _columns(learner.measure),
        "seconds": round(seconds, 1),
        "device": _device_name(where),
        "threads": torch.get_num_threads(),
        "engine": learner.engine,
        "versions": {
            "mlbook": mlbook.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }
    write_atomically(out / "record.json", (json.dumps(record, indent=1) + "\n").encode())
    return record


def evaluate_config(
    config: dict,
    meta: Meta,
    tasks=None,
    *,
    n_tasks: int = 600,
    seed: int = 1,
    batch_norm: str = "transductive",
    on_progress=None,
) -> Evaluation:
    """Evaluate meta-parameters under the protocol of a configuration, on the meta-test split."""
    tasks = experiments.build_tasks(config, "test") if tasks is None else tasks
    return evaluate(
        experiments.build_learner(config),
        meta,
        tasks,
        n_tasks=n_tasks,
        steps=config["test_steps"],
        report_step=config["report_step"],
        seed=seed,
        batch_norm=batch_norm,
        protocol=experiments.protocol(config),
        on_progress=on_progress,
    )


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[dict, Meta]:
    """Configuration and meta-parameters of a checkpoint file; ``CheckpointError`` if it is damaged or not ours."""
    tensors, header = load_tensors(path)
    try:
        config = json.loads(header["config"])
        experiments.get(config["name"])
        expected = experiments.build_learner(config).init(torch.Generator().manual_seed(0)).meta
        meta = unflatten(tensors)
        shapes = {group: {n: tuple(t.shape) for n, t in ts.items()} for group, ts in meta.items()}
        wanted = {group: {n: tuple(t.shape) for n, t in ts.items()} for group, ts in expected.items()}
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of an mlbook experiment ({error})") from None
    if shapes != wanted:
        raise CheckpointError(f"{path} does not hold the parameters that {config['name']} has")
    return config, {group: {n: t.to(device) for n, t in ts.items()} for group, ts in meta.items()}


def _read_log(path: Path, last_step: int) -> list[str]:
    """The log up to the meta-step that the resumed state stands at; later lines come again."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()[1:]
    return [entry for entry in lines if int(entry.split(",")[0]) <= last_step]


def _columns(measure: str) -> list[str]:
    return ["meta_step", "loss"] + (["accuracy"] if measure == "accuracy" else [])


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def _commit() -> str | None:
    """The commit of the source tree, where the package runs from one."""
    root = Path(mlbook.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    answer = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or None
