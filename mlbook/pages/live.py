"""Trainings that a page starts: where they run, how long, and how they go on after a break.

``train`` puts a named experiment through ``mlbook.training.run``, so a page's run is a run like any other. What is trained with a
learner of the page's own takes ``env.device`` and ``env.generator``.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from IPython.display import display

from mlbook import experiments, results
from mlbook.data.progress import duration
from mlbook.data.tensor_file import load_tensors
from mlbook.errors import UserError
from mlbook.experiments import EXPERIMENTS
from mlbook.meta_learners.base import Meta, MetaLearner
from mlbook.training import load_checkpoint, run
from mlbook.training.run_folder import resume_file


@dataclass(frozen=True)
class Environment:
    """Where a chapter runs."""

    device: torch.device
    preset: str
    """How long named experiments train: ``quick``, ``colab`` or ``paper``. Default: quick on a CPU, colab on a GPU; the variable
    MLBOOK_PRESET changes it."""
    characters: str
    """The data set behind the image experiments: ``omniglot``, or ``glyphs`` (generated) where Omniglot is not there."""

    def generator(self, seed: int) -> torch.Generator:
        """A source of random numbers on ``device``, where tasks are sampled."""
        return torch.Generator(self.device).manual_seed(seed)


@dataclass(frozen=True)
class Trained:
    """A training of a named experiment: one of just now, or the shipped one."""

    name: str
    config: dict
    meta: Meta
    """On the device of the page."""
    records: dict[str, dict] = field(default_factory=dict)
    """The records of the run, by experiment: others may share the training. Empty where the shipped checkpoint was taken."""

    @property
    def learner(self) -> MetaLearner:
        """The meta-learner that was trained."""
        return experiments.build_learner(self.config)

    @property
    def record(self) -> dict | None:
        """The record of this run; None where nothing was trained."""
        return self.records.get(self.name)

    @property
    def evaluation(self) -> dict | None:
        """Scores on meta-test tasks, as in a record; None where nothing was trained."""
        return self.record and self.record["evaluation"]

    def curve(self, points: int = 20) -> list[tuple[int, float]]:
        """(meta-step, mean loss since the point before) at ``points`` places of the run."""
        log = [(int(step), loss) for step, loss, *_ in self.record["curve"]]
        width = max(1, len(log) // points)
        return [
            (log[i + width - 1][0], sum(loss for _, loss in log[i : i + width]) / width)
            for i in range(0, len(log) - width + 1, width)
        ]


def train(
    env: Environment,
    name: str,
    *,
    quick: Literal["train", "shipped"] = "train",
    seed: int = 0,
    runs: Path | str | None = None,
    **options,
) -> Trained:
    """Train experiment ``name`` on the page's device, as long as its preset says, with a line that shows the time left.

    The state is saved on the way: a cell that was interrupted, or whose machine went away, goes on where it stopped when it is
    run again, and a finished run is read, not repeated. quick: with the preset quick, ``train`` for the short run or take the
    ``shipped`` checkpoint. runs: the folder for runs (default: the variable MLBOOK_RUNS, else ``runs`` here; a short run leaves
    nothing behind unless a folder is named). options: those of ``mlbook.training.run``. Where Omniglot is not on this machine,
    generated glyphs take its place.
    """
    wanted = _on_characters(env, name)
    if wanted is None or (quick == "shipped" and env.preset == "quick"):
        return _shipped(env, name, missing=wanted is None)
    config = experiments.config(wanted, env.preset, meta_steps=options.get("meta_steps"), seed=seed)
    runs = runs or os.environ.get("MLBOOK_RUNS") or (None if env.preset == "quick" else "runs")
    with _folder(runs, config) as out:
        trained = _finished(env, out, config)
        if trained is None:
            print(_announcement(env, config, out))
            where = {"device": env.device.type, "out": out, "resume": True}
            with _progress_line() as say:
                try:
                    run(wanted, preset=env.preset, seed=seed, **where, **options)
                except KeyboardInterrupt:
                    raise KeyboardInterrupt(f"interrupted; run this cell again to go on ({out})") from None
                trained = _finished(env, out, config)
                say(_result(trained) + (f" ({out})" if runs else ""))
        else:
            print(f"{_result(trained)} (trained before, {out})")
    return trained


def _on_characters(env: Environment, name: str) -> str | None:
    """The experiment itself, or its twin on glyphs where there is no Omniglot; None where it has no twin."""
    if experiments.get(name).dataset != "omniglot" or env.characters == "omniglot":
        return name
    twin = name.replace("omniglot", "glyphs")
    return twin if twin in EXPERIMENTS and twin != name else None


def _shipped(env: Environment, name: str, *, missing: bool) -> Trained:
    config, meta = results.pretrained(name, env.device)
    if missing:
        print(f"{name} needs Omniglot, which is not on this machine; the shipped checkpoint is taken.")
    else:
        steps = experiments.get(name).preset("colab").meta_steps
        print(
            f"{name}: the shipped checkpoint. With a GPU, or after %env MLBOOK_PRESET=colab in the first cell, "
            f"{steps:,} meta-steps are trained here."
        )
    return Trained(name, config, meta)


@contextmanager
def _folder(runs: Path | str | None, config: dict) -> Iterator[Path]:
    """The folder of a run in ``runs``; None: one that is removed at the end."""
    its_name = f"{config['name']}-{config['preset']}-seed{config['seed']}"
    if config["meta_steps"] != experiments.get(config["name"]).preset(config["preset"]).meta_steps:
        its_name += f"-{config['meta_steps']}"
    if runs is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / its_name
    else:
        yield Path(runs).expanduser() / its_name


def _finished(env: Environment, out: Path, config: dict) -> Trained | None:
    """The run in ``out``, if it is one of this configuration and has come to its end."""
    names = [config["name"], *experiments.get(config["name"]).shares_training_with]
    files = [out / ("record.json" if name == config["name"] else f"record-{name}.json") for name in names]
    if not all(file.is_file() for file in files):
        return None
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if records[0]["run"] != experiments.run_id(config):
        raise UserError(f"{out} holds another run; name another folder for runs")
    its, meta = load_checkpoint(out / "checkpoint.safetensors", env.device)
    return Trained(config["name"], its, meta, dict(zip(names, records, strict=True)))


def milliseconds_expected(config: dict, device: torch.device) -> float | None:
    """Milliseconds per meta-step of a recorded run with such meta-batches on this kind of device; None if there is none."""
    kind = "cpu" if device.type == "cpu" else "gpu"
    alike = [
        record
        for record in results.runs()
        if record["experiment"] == config["name"]
        and "ms_per_meta_step" in record
        and ("cpu" if record["device"].startswith("CPU") else "gpu") == kind
        and all(record["config"][key] == config[key] for key in ("meta_batch_size", "k_shot", "n_query"))
    ]
    best = min(alike, key=lambda r: (r["preset"] != config["preset"], -r["meta_steps"]), default=None)
    return best and best["ms_per_meta_step"]


def _announcement(env: Environment, config: dict, out: Path) -> str:
    """What is about to be trained, and how long that may take."""
    left, text = config["meta_steps"], f"{config['name']}, preset {config['preset']}: "
    if resume_file(out).is_file():
        done = int(load_tensors(resume_file(out))[0]["meta_step"])
        left -= done
        text += f"goes on from meta-step {done:,} of {config['meta_steps']:,}"
    else:
        text += f"{left:,} meta-steps"
    text += f" on {'the CPU' if env.device.type == 'cpu' else 'the GPU'}; "
    each = milliseconds_expected(config, env.device)
    if each is None:
        return text + "the time left is known once the first steps are timed"
    return text + f"about {duration(left * each / 1000)} at the pace of the recorded run, then the evaluation"


def _result(trained: Trained) -> str:
    """What a run came to, in one line."""
    record, its = trained.record, trained.evaluation
    step, metric = its["step"], its["metric"]
    score = results.score_text(its["mean"][step], its["ci95_by_step"][step], metric, percent_digits=1)
    took = f"{record['meta_steps']:,} meta-steps in {duration(record['seconds'])}"
    return f"{took}; {metric} {score} on {its['tasks']:,} tasks"


class _Redrawn(io.TextIOBase):
    """Takes a progress line, which begins anew at ``\\r``, and shows its last state in one output of the cell."""

    def __init__(self, handle) -> None:
        self.handle = handle

    def isatty(self) -> bool:
        return True  # as often as in a terminal

    def write(self, text: str) -> int:
        if text.startswith("\r"):
            self.handle.update({"text/plain": text.strip()}, raw=True)
        elif text.strip():
            sys.__stderr__.write(text)
        return len(text)


@contextmanager
def _progress_line() -> Iterator[Callable[[str], None]]:
    """In a notebook the line is an output that is redrawn, elsewhere it goes where it always goes. What is handed out says the
    last word, in the place of the line."""
    handle = display({"text/plain": ""}, raw=True, display_id=True) if _in_notebook() else None
    if handle is None:
        yield print
        return
    with redirect_stderr(_Redrawn(handle)):
        yield lambda text: handle.update({"text/plain": text}, raw=True)


def _in_notebook() -> bool:
    return type(sys.stderr).__module__.startswith("ipykernel.")
