"""``python -m benchmarks.compare``: speed and memory beside other libraries; see README.md."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from benchmarks.contenders import contenders
from benchmarks.harness import measure
from benchmarks.problems import PROBLEMS
from mlbook.results import BENCHMARKS
from mlbook.training.records import commit, keep, machine

RECORD = BENCHMARKS / "compare.json"


def peers() -> dict[str, str]:
    """Version of every peer, or why there is none."""
    found = {"torchmeta": "not installed: it requires torch < 1.10"}
    for package in ("learn2learn", "higher", "torchopt"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed: see benchmarks/install_peers.py"
    return found


def write(path: Path, threads: int, name: str, entry: dict) -> None:
    """Put one problem into the record, and leave what the record says of others."""
    record = json.loads(path.read_text()) if path.exists() else {"threads": {}}
    record["threads"].setdefault(str(threads), {})[name] = entry
    keep(path, record)


def number(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def ranged(values: dict[str, float] | None, scale: float = 1.0) -> str:
    if values is None:
        return "–"
    return f"{number(scale * values['median'])} [{number(scale * values['min'])}..{number(scale * values['max'])}]"


def table(name: str, entry: dict) -> str:
    rows = entry["contenders"]
    timed = [row for row in rows.values() if "time" in row]
    fastest = timed[0].get("fastest_peer", "none") if timed else "none"
    n = len(timed[0]["seconds"]) if timed else 0
    lines = [f"\n{name}   ({n} rounds; fastest peer: {fastest})"]
    titles = ("ms", "tasks/s", "× learn2learn", "× fastest peer", "MiB", "distance")
    widths = (24, 9, 21, 21, 7, 9)
    lines.append(f"  {'':36}" + " ".join(f"{t:>{w}}" for t, w in zip(titles, widths, strict=True)))
    for contender, row in rows.items():
        distance = f"{row['distance_float64']:.0e}" if "distance_float64" in row else "–"
        if "time" not in row:
            lines.append(f"  {contender:36}{row['error']}")
            continue
        cells = (
            ranged(row["time"], 1e3),
            number(row["tasks_per_second"]),
            ranged(row.get("over_learn2learn")),
            ranged(row.get("over_fastest_peer")),
            f"{row['memory_mib']:.0f}",
            distance,
        )
        lines.append(f"  {contender:36}" + " ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)))
    lines += [f"  {contender:36}left out: {reason}" for contender, reason in entry["left_out"].items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of torch in every contender (default 1)"
    )
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="problems whose name has this regular expression"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of every contender at most (default 7)")
    parser.add_argument(
        "--seconds", type=float, default=20, help="time for the rounds of one problem (default 20)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="two rounds, and no record unless --out names one"
    )
    parser.add_argument(
        "--out", type=Path, help="the JSON record (default mlbook/results/benchmarks/compare.json)"
    )
    parser.add_argument("--list", action="store_true", help="only print the names of the problems")
    chosen = parser.parse_args(arguments)
    problems = [problem for problem in PROBLEMS if re.search(chosen.only, problem.name)]
    if not problems or chosen.list:
        print("\n".join(problem.name for problem in PROBLEMS))
        return 0 if chosen.list else 2
    out = chosen.out or (None if chosen.quick else RECORD)
    where = {"machine": machine(), "peers": peers(), "commit": commit()}
    print(f"{where['machine']}, {chosen.threads} threads\npeers: {where['peers']}", flush=True)
    if os.getloadavg()[0] > 0.5:
        print(
            f"the machine is busy (load {os.getloadavg()[0]:.1f}): these times will not mean much", flush=True
        )
    for problem in problems:
        load = os.getloadavg()[0]  # a run alone on its machine brings it to about its number of threads
        taking_part, left_out = contenders(problem)
        rows = measure(
            problem,
            taking_part,
            rounds=2 if chosen.quick else chosen.rounds,
            seconds=chosen.seconds,
            threads=chosen.threads,
        )
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        entry = {
            "date": date,
            **where,
            "load": load,
            "problem": asdict(problem),
            "contenders": rows,
            "left_out": left_out,
        }
        print(table(problem.name, entry), flush=True)
        if out is not None:
            write(out, chosen.threads, problem.name, entry)
    if out is not None:
        print(f"\nwritten to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
