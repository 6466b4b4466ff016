"""Cost of a meta-gradient as tasks, inner steps and filters grow: time and memory, first and second order.

    python -m benchmarks.scale [--threads 1] [--rounds 5] [--only AXIS] [--out FILE]

The official Omniglot network on 5-way 1-shot tasks with one query per class. One quantity moves at a time; the others stay at 16
tasks, one step and 64 filters.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.contenders import OURS, PLAIN
from benchmarks.harness import measure
from benchmarks.problems import Problem
from benchmarks.variants import AGAIN, WIDTHS
from mlbook.results import BENCHMARKS
from mlbook.training.records import keep, provenance

RECORD = BENCHMARKS / "scale.json"
POINTS = (
    [("tasks", n, Problem("strided", n, 1, 1, 1)) for n in (1, 2, 4, 8, 16, 32, 64)]
    + [("steps", n, Problem("strided", 16, n, 1, 1)) for n in (1, 2, 3, 5, 10)]
    + [("filters", n, Problem(f"strided-{n}", 16, 1, 1, 1)) for n in WIDTHS]
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["tasks", "steps", "filters"], help="one axis; the others stay")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    rows = []
    if options.only and options.out.exists():
        rows = [r for r in json.loads(options.out.read_text())["rows"] if r["axis"] != options.only]
    for axis, value, problem in (p for p in POINTS if options.only in (None, p[0])):
        for order in (2, 1):
            setting = Problem(**{**vars(problem), "order": order})
            contenders = [PLAIN, OURS] + ([AGAIN] if axis == "steps" and order == 2 else [])
            found = measure(setting, contenders, rounds=options.rounds, seconds=10, threads=options.threads)
            for name, row in found.items():
                rows.append({"axis": axis, "value": value, "order": order, "contender": name, **row})
                shown = f"{1e3 * row['time']['median']:9.1f} ms" if "time" in row else row["error"]
                print(
                    f"{axis:8}{value:4}  order {order}  {name:36}{shown}  {row.get('memory_mib')}", flush=True
                )
    record = {
        **provenance(),
        "threads": options.threads,
        "rows": rows,
    }
    keep(options.out, record)


if __name__ == "__main__":
    main()
