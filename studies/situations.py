"""Pre-training, FOMAML, Reptile and MAML in the five situations of chapter 14, each meta-trained from three seeds.

python -m studies.situations [--out FILE]

Rates are those that `studies.side_by_side` chose. Seed s draws the first weights and the tasks of meta-training, the same for the
four methods; all are judged on the same meta-test tasks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mlbook import results
from mlbook.models import MLP
from mlbook.pages.checks import comparison
from mlbook.results import STUDIES
from mlbook.tasks import Sinusoids
from mlbook.training.records import keep, provenance
from studies.side_by_side import RUNS, SHOT, TEST_QUERY, TRAIN_QUERY, model

RECORD = STUDIES / "situations.json"
SEEDS = (0, 1, 2)
META_STEPS = RUNS["short"]["meta_steps"]
STEPS, SHOTS, SPREADS, RATES, BUDGETS = (0, 1, 5, 10, 32), (5, 40), (0.0, 2.0), (0.003, 0.05), (5_000, 20_000)
SHARED_META_STEPS, OVERSHOOT_META_STEPS, N_TASKS = 200, 400, 100


def chosen() -> dict[str, comparison.Contender]:
    record = results.study("side_by_side")
    return {m: comparison.Contender(**record["methods"][m]["chosen"]) for m in comparison.METHODS}


def overshooting(method: str, alpha: float) -> comparison.Contender:
    """One inner step of rate α, in training and at meta-test; for Reptile two, so that it has as many gradients."""
    steps, outer = (2, 1.0) if method == "Reptile" else (1, 0.003)
    return comparison.Contender(method, meta_lr=outer, inner_lr=alpha, inner_steps=steps, test_lr=alpha)


def measure(seed: int, network: MLP, *, shorter: int = 1) -> dict[str, dict[str, float]]:
    """Mean meta-test error of every method in every situation. shorter: divides the meta-steps (for a test)."""
    tasks, test_tasks = Sinusoids(SHOT, TRAIN_QUERY), Sinusoids(SHOT, TEST_QUERY)
    found: dict[str, dict[str, float]] = {}

    def note(situation: str, method: str, error) -> None:
        found.setdefault(situation, {})[method] = float(error)

    def train(contender, family, meta_steps):
        return comparison.trained(
            contender, network, family, meta_steps=max(1, meta_steps // shorter), seed=seed
        ).meta

    def judged(meta, family, contender, steps, n_tasks=N_TASKS):
        errors = comparison.scores(
            network, meta, family, test_lr=contender.test_lr, steps=steps, n_tasks=n_tasks
        )
        return errors.mean(0)

    for method, contender in chosen().items():
        meta = train(contender, tasks, META_STEPS)
        errors = judged(meta, test_tasks, contender, max(STEPS), 2 * N_TASKS)
        for n in STEPS:
            note(f"steps {n}", method, errors[n])
        for shots in SHOTS:
            note(f"shots {shots}", method, judged(meta, Sinusoids(shots, TEST_QUERY), contender, 10)[10])
        for spread in SPREADS:
            meta = train(contender, comparison.NoisyWaves(spread), SHARED_META_STEPS)
            errors = judged(meta, comparison.NoisyWaves(spread, test=True), contender, 10)
            for n in (0, 10):
                note(f"spread {spread:g}, steps {n}", method, errors[n])
        for budget in BUDGETS:
            each = comparison.cost(method, contender.inner_steps, SHOT, TRAIN_QUERY).example_gradients
            meta = train(contender, tasks, budget // each)
            note(f"budget {budget}", method, judged(meta, test_tasks, contender, 10)[10])
    for alpha in RATES:
        for method in ("FOMAML", "Reptile", "MAML"):
            contender = overshooting(method, alpha)
            errors = judged(train(contender, tasks, OVERSHOOT_META_STEPS), test_tasks, contender, 1)
            for n in (0, 1):
                note(f"rate {alpha:g}, steps {n}", method, errors[n])
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.situations", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    errors: dict[str, dict[str, list[float]]] = {}
    for seed in SEEDS:
        for situation, row in measure(seed, model()).items():
            for method, error in row.items():
                errors.setdefault(situation, {}).setdefault(method, []).append(error)
        print(f"seed {seed}", flush=True)
    for situation, row in errors.items():
        print(situation, {m: [round(e, 3) for e in values] for m, values in row.items()}, flush=True)
    setup = {"seeds": list(SEEDS), "meta_steps": META_STEPS, "test_tasks": N_TASKS}
    keep(options.out, {"setup": setup, "errors": errors, **provenance()})


if __name__ == "__main__":
    main()
