"""Federated averaging on 75 characters of 15 alphabets: how the drawings are dealt, local steps, rate, momentum, correction.

python -m studies.client_drift [--out FILE]

Every training takes 400 local steps of each of the 15 clients, and the averaged model is tested after every round (every fifth
where a round is one step) on drawings of the same characters by five drawers whom no client has. A seed is another draw of
alphabets and characters, another start and other mini-batches.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mlbook import experiments
from mlbook.experiments.federated import CLIENTS
from mlbook.results import STUDIES
from mlbook.training.evaluation import evaluate
from mlbook.training.loop import train
from mlbook.training.records import keep, provenance

RECORD = STUDIES / "client_drift.json"
STEPS, SEEDS = 400, (0, 1, 2)
LOCAL = (1, 5, 20, 100)
NESTEROV = {"meta_lr": 0.7, "momentum": 0.9}
VARIANTS = [
    *({"clients": how, "inner_steps": u} for how in ("random", "drawers", "alphabets") for u in LOCAL),
    *({"clients": "alphabets", "inner_steps": u, "control_variates": CLIENTS} for u in LOCAL[1:]),
    *({"clients": how, "inner_steps": 20, **NESTEROV} for how in ("random", "alphabets")),
    *({"clients": "alphabets", "inner_steps": 20, "inner_lr": rate} for rate in (0.03, 0.3)),
]


def one(variant: dict, seed: int) -> str:
    """Local steps so far and accuracy of the averaged model along one training: ``20 0.31, 40 0.38, …``."""
    options = dict(variant)
    how, u = options.pop("clients"), variant["inner_steps"]
    config = experiments.config("fedavg-omniglot-alphabets", "colab", meta_steps=STEPS // u, seed=seed)
    config |= {"clients": how, "learner": {**config["learner"], **options}}
    setup = experiments.setup(config)
    learner, test = setup.learner, setup.tasks("test")
    state, curve = learner.init(torch.Generator().manual_seed(seed)), []
    for now in train(
        learner,
        setup.tasks("train"),
        meta_steps=config["meta_steps"],
        meta_batch_size=CLIENTS,
        state=state,
        generator=torch.Generator().manual_seed(seed + 1),
    ):
        if u > 1 or now.meta_step % 5 == 0:
            found = evaluate(learner, now.state.meta, test, n_tasks=CLIENTS, steps=0)
            curve.append(f"{now.meta_step * u} {found.value:.5g}")
    return ", ".join(curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RECORD)
    out = parser.parse_args().out
    rows = []
    for variant in VARIANTS:
        curves = [one(variant, seed) for seed in SEEDS]
        rows.append({**variant, "curves": curves})
        print(variant, [curve.split()[-1] for curve in curves], flush=True)
        keep(out, {**provenance(), "steps": STEPS, "seeds": list(SEEDS), "rows": rows})


if __name__ == "__main__":
    main()
