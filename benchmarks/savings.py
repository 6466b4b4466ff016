"""What each part of the engine buys: the engine without it, on the official networks and on the pooled one.

python -m benchmarks.savings [--threads 2] [--rounds 7] [--only PATTERN] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.compare import ranged
from benchmarks.harness import measure, speedup
from benchmarks.problems import Problem
from benchmarks.variants import VARIANTS
from mlbook.results import BENCHMARKS
from mlbook.training.records import keep, provenance

RECORD = BENCHMARKS / "savings.json"
PROBLEMS = (
    Problem("strided", 32, 1, 1, 1),
    Problem("strided", 16, 5, 1, 3),
    Problem("miniimagenet", 4, 5, 1, 15),
    Problem("pooled", 32, 1, 1, 15),
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.savings", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20, help="time for the rounds of one problem")
    parser.add_argument("--only", default="", metavar="PATTERN", help="problems whose name has this in it")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    record = {
        **provenance(),
        "threads": options.threads,
        "problems": {},
    }
    if options.only and options.out.exists():  # the others stay as they were measured
        record["problems"] = json.loads(options.out.read_text())["problems"]
    for problem in (p for p in PROBLEMS if options.only in p.name):
        rows = measure(
            problem, VARIANTS, rounds=options.rounds, seconds=options.seconds, threads=options.threads
        )
        own = rows["mlbook"]["seconds"]
        print(f"\n{problem.name}")
        for name, row in rows.items():
            if "seconds" in row:
                row["slower"] = speedup(row["seconds"], own)
            print(
                f"  {name:40}{ranged(row.get('slower')):>24}  {row.get('memory_mib', row.get('error'))}",
                flush=True,
            )
        record["problems"][problem.name] = {"problem": asdict(problem), "contenders": rows}
        keep(options.out, record)


if __name__ == "__main__":
    main()
