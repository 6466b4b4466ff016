"""One problem with five outer variables: every estimate of the outer gradient at the same price.

python -m studies.equal_cost [--runs N] [--steps N] [--seeds N] [--draws N] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from mlbook.pages.checks import equal_cost
from mlbook.pages.checks.five_variables import ESTIMATES
from mlbook.results import STUDIES
from mlbook.training.records import keep, provenance
from studies.summary import interval_over_seeds


def measured(variable: str, runs: int, steps: int, seeds: int, draws: int) -> dict:
    """Of every estimate: error at the start, J after the outer loop, and J minus that of the first estimate, seed by seed."""
    rows, ends = {}, {}
    for way in equal_cost.ways(variable):
        generator = torch.Generator().manual_seed(5)
        began = time.process_time()
        rows[way] = equal_cost.errors(variable, way, runs, draws, generator)
        rows[way]["ms"] = 1e3 * (time.process_time() - began) / draws
        learned = [list(equal_cost.learn(variable, way, runs, steps, seed=seed)) for seed in range(seeds)]
        ends[way] = torch.tensor(learned)[:, -1]
        first = next(iter(ends.values()))
        rows[way] |= {
            "J": interval_over_seeds(ends[way]),
            "minus_first": interval_over_seeds(ends[way] - first),
            "gain": interval_over_seeds(torch.tensor(learned)[:, 0] - ends[way]),
        }
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.equal_cost", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--runs", type=int, default=12, metavar="N", help="runs of the inner loop an outer step"
    )
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="outer steps")
    parser.add_argument("--seeds", type=int, default=6, metavar="N")
    parser.add_argument("--draws", type=int, default=100, metavar="N", help="estimates at the start")
    parser.add_argument("--out", type=Path, default=STUDIES / "equal_cost.json")
    options = parser.parse_args(arguments)
    asked = {name: getattr(options, name) for name in ("runs", "steps", "seeds", "draws")}
    record: dict = {**asked, "variables": {}}
    for variable in ESTIMATES:
        record["variables"][variable] = measured(variable, **asked)
        keep(options.out, {**record, **provenance()})
        for way, row in record["variables"][variable].items():
            print(variable, way, f"J {row['J']['mean']:.4f} ± {row['J']['ci95']:.4f}", flush=True)


if __name__ == "__main__":
    main()
