"""How it is measured: one process per contender, turns in a circle, medians of paired ratios."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import random
import resource
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.contenders import PLAIN, Contender
from benchmarks.problems import Problem, Sampling

TURN_SECONDS = 0.05
"""Short calls are repeated in a turn until they last about this long."""
CHECK_TASKS = 3
TOLERANCE = {"float64": 1e-8, "float32": 0.2}
"""Largest relative distance to the plain loop's gradient. In float32 single ReLU and max-pool decisions differ between any two
programs, which moves the gradient by up to a few per cent; that check is for whole tasks lost or counted twice."""
MEMORY_LIMIT = 8 * 2**30
MIB = 2**20


class ContenderError(Exception):
    """A contender that cannot be measured, and why."""


# -- statistics -----------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def speedup(reference: Sequence[float], own: Sequence[float]) -> dict[str, float]:
    """How many times faster than the reference: ratios of the times of one round, then their median and range."""
    return spread([r / o for r, o in zip(reference, own, strict=True)])


def relative_distance(gradient: np.ndarray, expected: np.ndarray) -> float:
    if gradient.shape != expected.shape:
        return math.inf
    return float(np.linalg.norm(gradient - expected) / np.linalg.norm(expected))


# -- workers --------------------------------------------------------------------------------------------------------------


def memory_now(field: str) -> int:
    """VmRSS (resident now) or VmHWM (the most that ever was resident) of this process, bytes; 0 where /proc is missing."""
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return 1024 * int(line.split()[1])
    return 0


def serve(pipe, contender: Contender, problem: Problem | Sampling, tasks: int, dtype, threads: int) -> None:
    """A worker. "gradient": answers with the gradient as one vector. A number n: calls n times and answers with the seconds of
    one call and the peak memory above imports in bytes. None: ends. A string as answer is an error message."""
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        torch.set_num_threads(threads)
        if contender.keep_memory:
            from mlbook.training.memory import keep_freed_memory

            keep_freed_memory()
        imports = memory_now("VmRSS")
        work = contender.make(problem, *problem.build(tasks, dtype))
        while (request := pipe.recv()) is not None:
            if request == "gradient":
                gradient = work()
                pipe.send(np.concatenate([gradient[n].detach().flatten().numpy() for n in sorted(gradient)]))
                continue
            start = time.perf_counter()
            for _ in range(request):
                work()
            seconds = (time.perf_counter() - start) / request
            pipe.send((seconds, memory_now("VmHWM") - imports))
    except MemoryError:
        pipe.send(f"needs more than {MEMORY_LIMIT // 2**30} GiB")
    except Exception as error:
        message = str(error).split("\n")[0]
        full = "can't allocate memory" in message
        pipe.send(f"needs more than {MEMORY_LIMIT // 2**30} GiB" if full else f"failed: {message}")


class Worker:
    """One contender on one problem, in a process of its own, forked from one that has only imported."""

    def __init__(self, *job) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.peers", "benchmarks.contenders"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *job), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, request):
        try:
            self.pipe.send(request)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            raise ContenderError("its process ended without an answer") from None
        if isinstance(answer, str):
            raise ContenderError(answer)
        return answer

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(10)
        self.process.kill()
        self.pipe.close()


# -- one problem ----------------------------------------------------------------------------------------------------------


def check(problem: Problem, contenders: Sequence[Contender], threads: int, rows: dict[str, dict]) -> None:
    """Every contender's gradient of a small meta-batch in float64 against the plain loop's; who is wrong gets an error."""

    def gradient(contender: Contender) -> np.ndarray:
        worker = Worker(contender, problem, min(problem.tasks, CHECK_TASKS), torch.float64, threads)
        with contextlib.closing(worker):
            return worker.ask("gradient")

    expected = gradient(PLAIN)
    for contender in contenders:
        try:
            judge(rows[contender.name], "float64", relative_distance(gradient(contender), expected))
        except ContenderError as error:
            rows[contender.name]["error"] = str(error)


def judge(row: dict, dtype: str, distance: float) -> None:
    row[f"distance_{dtype}"] = distance
    if not distance < TOLERANCE[dtype]:
        row["error"] = f"wrong gradient ({distance:.1e} in {dtype})"


def measure(
    problem: Problem | Sampling, contenders: Sequence[Contender], *, rounds: int, seconds: float, threads: int
) -> dict[str, dict]:
    """Results by contender: ``seconds`` of one call in every round, their spread, and so on; or an ``error``.

    After the check and the warm-up come at most ``rounds`` rounds, fewer (but three) where they would take longer than
    ``seconds``. In a round every contender has one turn, in an order drawn for each round.
    """
    rows: dict[str, dict] = {contender.name: {} for contender in contenders}
    if isinstance(problem, Problem):
        check(problem, contenders, threads, rows)
    right = [contender for contender in contenders if "error" not in rows[contender.name]]
    job = problem, problem.tasks, torch.float32, threads
    with contextlib.ExitStack() as stack:
        workers = {c.name: stack.enter_context(contextlib.closing(Worker(c, *job))) for c in right}
        repetitions, lasted = warm_up(workers, rows, isinstance(problem, Problem))
        n = min(rounds, max(3, int(seconds / max(lasted, 1e-9))))
        names, order = list(repetitions), random.Random(0)
        for _ in range(n):
            order.shuffle(names)  # nobody always follows the same one
            for name in [name for name in names if "error" not in rows[name]]:
                try:
                    one, memory = workers[name].ask(repetitions[name])
                except ContenderError as error:
                    rows[name] = {"error": str(error)}
                    continue
                rows[name].setdefault("seconds", []).append(one)
                rows[name]["memory_mib"] = round(memory / MIB, 1)
    compare(rows, {c.name for c in contenders if c.peer}, problem.tasks)
    return rows


def warm_up(
    workers: dict[str, Worker], rows: dict[str, dict], gradients: bool
) -> tuple[dict[str, int], float]:
    """Two calls of everyone, one where it takes more than a second: calls per turn by contender, and how long a round will last.

    The first gives the gradient of the whole meta-batch in float32, which is held against the plain loop's.
    """
    first, repetitions, lasted = {}, {}, 0.0
    for name, worker in workers.items():
        try:
            start = time.perf_counter()
            first[name] = worker.ask("gradient" if gradients else 1)
            one = time.perf_counter() - start
            if one < 1:
                one, _ = worker.ask(1)
        except ContenderError as error:
            rows[name]["error"] = str(error)
            continue
        repetitions[name] = max(1, math.ceil(TURN_SECONDS / one))
        lasted += one * repetitions[name]
    if gradients:
        for name, gradient in first.items():
            judge(rows[name], "float32", relative_distance(gradient, first.get(PLAIN.name, gradient)))
    return {name: n for name, n in repetitions.items() if "error" not in rows[name]}, lasted


def compare(rows: dict[str, dict], peers: set[str], tasks: int) -> None:
    """Add spread, tasks per second and speed-ups to the rows that have times."""
    timed = {name: row for name, row in rows.items() if "seconds" in row}
    for row in timed.values():
        row["time"] = spread(row["seconds"])
        row["tasks_per_second"] = tasks / row["time"]["median"]
    fastest = min(peers & set(timed), key=lambda name: timed[name]["time"]["median"], default=None)
    for row in timed.values():
        if "learn2learn" in timed:
            row["over_learn2learn"] = speedup(timed["learn2learn"]["seconds"], row["seconds"])
        if fastest:
            row["fastest_peer"] = fastest
            row["over_fastest_peer"] = speedup(timed[fastest]["seconds"], row["seconds"])
