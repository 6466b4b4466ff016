"""Local steps against communication: federated averaging by several processes, each with a part of the clients.

    python -m torch.distributed.run --nproc-per-node=2 -m mlbook.training.communication 1 5 20 --steps 200

Every line of the output is one training, as JSON: the local steps in a round, the rounds, how often and how many bytes each
process handed over for averaging, the seconds, and the accuracy of the averaged model. All trainings take the same number of
local steps in all, so they compute the same number of gradients. One process alone hands over nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from mlbook import experiments
from mlbook.data import omniglot
from mlbook.errors import UserError
from mlbook.training.distributed import Processes, Traffic, processes
from mlbook.training.loop import train
from mlbook.training.records import keep, provenance
from mlbook.training.runner import evaluate_setup

CLIENTS = experiments.federated.CLIENTS


def compare(steps: int, local: list[int], how: str, seed: int, together: Processes) -> list[dict]:
    """One training for every number of local steps; the first process has the results, the others an empty list.

    how: the way that drawings are dealt to clients. Raises ``UserError`` where ``steps`` is no multiple of the local steps.
    """
    found = []
    for u in local:
        if u < 1 or steps % u:
            raise UserError(f"{steps} steps are no whole number of rounds of {u} local steps")
        name = "fedavg-omniglot-alphabets" if omniglot.available() else "fedavg-glyphs-alphabets"
        config = experiments.config(name, "colab", meta_steps=steps // u, seed=seed)
        config |= {"clients": how, "learner": {**config["learner"], "inner_steps": u}}
        setup = experiments.setup(config)
        processes = Processes(together.rank, together.count, Traffic())
        state = setup.learner.init(torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed + 1)
        began = time.monotonic()
        rounds = train(
            setup.learner,
            setup.tasks("train"),
            meta_steps=config["meta_steps"],
            meta_batch_size=CLIENTS,
            state=state,
            generator=generator,
            processes=processes,
        )
        for now in rounds:
            state = now.state
        seconds = time.monotonic() - began
        if together.rank:
            continue
        row = {"processes": together.count, "local_steps": u, "rounds": config["meta_steps"]}
        row |= {"averages": processes.traffic.calls, "bytes": processes.traffic.bytes}
        row |= {"seconds": round(seconds, 2)}
        row |= {"accuracy": evaluate_setup(setup, state.meta, n_tasks=CLIENTS).mean[0]}
        found.append({"dataset": config["dataset"], "clients": how, "steps": steps, **row})
    return found


def main(arguments: list[str] | None = None) -> int:
    """The program; 2 where something is wrong with what was asked."""
    parser = argparse.ArgumentParser(
        prog="mlbook.training.communication", description="Local steps against communication."
    )
    parser.add_argument("--steps", type=int, default=200, help="local steps in all")
    parser.add_argument("local", type=int, nargs="*", default=[1, 5, 20], help="local steps in a round")
    parser.add_argument("--clients", default="random", choices=experiments.federated.DEALS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, help="a file for the rows, with machine, versions, commit and date"
    )
    asked = parser.parse_args(arguments)
    try:
        with processes(torch.device("cpu"), CLIENTS) as together:
            rows = compare(asked.steps, asked.local, asked.clients, asked.seed, together)
        for row in rows:
            print(json.dumps(row))
        if rows and asked.out:
            keep(asked.out, {**provenance(), "rows": rows})
    except UserError as error:
        print(f"communication: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
