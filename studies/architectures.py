"""The table of chapter 17: every architecture of the space trained from several starts, on drawn characters.

python -m studies.architectures [--dataset omniglot|glyphs] [--seeds N] [--out FILE] [--work FILE]

Killed and started again with the same --work it goes on. Accuracies are kept as numbers of right answers.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

import torch

from mlbook.architecture.children import (
    DECISIONS,
    Training,
    accuracies,
    characters,
    enumerate_space,
    train_children,
)
from mlbook.data.progress import ProgressLine
from mlbook.errors import UserError
from mlbook.experiments.images import pool_of
from mlbook.results import FOLDER
from mlbook.training.memory import keep_freed_memory
from mlbook.training.records import keep, provenance

RECORD = FOLDER / "architectures.json"
AT_ONCE = 4
"""Seeds of one architecture that are trained together."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.architectures", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--dataset", default="omniglot", choices=("omniglot", "glyphs"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--work", type=Path, default=None, help="rows that are finished, one JSON line each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data, training = characters(pool_of({"dataset": options.dataset}, "train")), Training()
    if options.seeds % AT_ONCE:
        raise UserError(f"--seeds must be a multiple of {AT_ONCE}")
    space = enumerate_space()
    rows = []
    if options.work is not None and options.work.exists():
        rows = [json.loads(line) for line in options.work.read_text().splitlines()]
    blocks = options.seeds // AT_ONCE
    line = ProgressLine(blocks * len(space), "architectures", start=len(rows))
    for i in range(len(rows), blocks * len(space)):
        choice, first = space[i % len(space)], i // len(space) * AT_ONCE
        began = time.process_time()
        trained = train_children(choice, data, range(first, first + AT_ONCE), training)
        found = accuracies(trained, choice, data)
        totals = torch.tensor([len(data.validation_y), len(data.test_y)])
        rows.append([*(found * totals).round().long().T.tolist(), round(time.process_time() - began, 3)])
        if options.work is not None:
            with options.work.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        line(len(rows))
    line.close()

    def of_all_seeds(part: int) -> list[list[int]]:
        return [sum((row[part] for row in rows[a :: len(space)]), []) for a in range(len(space))]

    keep(
        options.out,
        {
            "dataset": options.dataset,
            "classes": data.classes,
            "drawings": {
                "train": len(data.train_y),
                "validation": len(data.validation_y),
                "test": len(data.test_y),
            },
            "decisions": [[name, list(choices)] for name, choices in DECISIONS],
            "training": asdict(training),
            "seeds": options.seeds,
            "validation_right": of_all_seeds(0),
            "test_right": of_all_seeds(1),
            "cpu_seconds_per_child": round(sum(row[2] for row in rows) / len(rows) / AT_ONCE, 3),
            "made_by": "python -m studies.architectures",
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            **provenance(),
        },
    )


if __name__ == "__main__":
    main()
