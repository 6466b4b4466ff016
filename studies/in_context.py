"""Learning in the context beside learning by gradients: shots, noise and tasks of other families (chapter 19).

python -m studies.in_context RUN... [--tasks N] [--only PART...] [--out FILE]

RUN: folders of trainings of the experiments of this family; MAML, Reptile and LEO are the shipped ones. All in
a condition are judged on the same tasks.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from mlbook import experiments, results
from mlbook.engines import fastest
from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, MetaLearner
from mlbook.meta_learners.in_context import (
    FixedRule,
    Rule,
    context_mean,
    gradient_descent,
    kernel_regression,
    nearest_point,
    ridge,
)
from mlbook.meta_learners.posterior import lines, posterior_mean, sines
from mlbook.models.attention import answers
from mlbook.results import STUDIES
from mlbook.tasks import Episode, Lines, SinesAndLines, Sinusoids, TaskDistribution, Waves
from mlbook.tasks.linear_functions import LinearFunctions, RandomNetworks
from mlbook.tasks.support_sets import NoisySupport
from mlbook.training.evaluation import ci95, fixed_episodes, fixed_scores
from mlbook.training.memory import keep_freed_memory
from mlbook.training.records import keep, provenance
from mlbook.training.runner import load_checkpoint

RECORD = STUDIES / "in_context.json"
SEED, VALIDATION_SEED = 1, 2
"""Of the tasks: those of all run records; and those on which the bandwidth and the rates are chosen."""
K, QUERIES = 5, 50
SHOTS = (1, 2, 3, 5, 7, 10, 20)
NOISE = (0.0, 0.1, 0.3, 0.5, 1.0)
EXACT = 0.02
"""The noise that the posterior mean assumes where there is none."""
BANDWIDTHS = (0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
RATES = tuple(round(0.1 * n, 1) for n in range(5, 17))
STEPS = tuple(range(21))
WAVE = {"k_shot": K, "n_query": QUERIES, "x_range": (-5.0, 5.0)}
FAMILIES = {
    "as trained": Sinusoids(K, QUERIES),
    "amplitude 5 to 10": Sinusoids(K, QUERIES, amplitude=(5.0, 10.0)),
    "phase π to 2π": Sinusoids(K, QUERIES, phase=(math.pi, 2 * math.pi)),
    "frequency 1.5": Waves(1.5, amplitude=(0.1, 5.0), **WAVE),
    "lines": Lines(bounds=(-1.0, 1.0), **WAVE),
}
BY_GRADIENT = {
    "maml": ("maml-sinusoid-5shot", (0, 1, 10)),
    "reptile": ("reptile-sinusoid-5shot", (10,)),
}
D = 5
"""Inputs of the linear functions of the last part."""
LINEAR_K, LINEAR_SHOTS = 10, (1, 2, 3, 4, 5, 6, 7, 10, 15, 20)
PLAIN = LinearFunctions(D, LINEAR_K, QUERIES, spreads=(1.0,) * D)
SKEWED = tuple(math.sqrt(D / sum(1 / i**2 for i in range(1, D + 1))) / i for i in range(1, D + 1))
"""Spreads that fall as 1/i, with the sum of squares of spreads of 1."""
LINEAR_FAMILIES = {
    "as trained": PLAIN,
    "weights twice as large": replace(PLAIN, weight_std=2.0),
    "inputs twice as large": replace(PLAIN, spreads=(2.0,) * D),
    "inputs skewed": replace(PLAIN, spreads=SKEWED),
    "random networks": RandomNetworks(D, LINEAR_K, QUERIES),
}
LINEAR_BY_GRADIENT = {
    "maml": ("maml-linear-5d", (1, 10)),
    "network": ("maml-linear-5d-mlp", (10,)),
    "reptile": ("reptile-linear-5d", (10,)),
}
PENALTIES = (0.0, 0.01, 0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


def loaded(folders: list[Path]) -> dict[str, dict[int, tuple[MetaLearner, Meta]]]:
    """{experiment: {seed: (learner, parameters)}} of the trainings in these folders."""
    found: dict[str, dict[int, tuple[MetaLearner, Meta]]] = {}
    for folder in folders:
        config, meta = load_checkpoint(folder / "checkpoint.safetensors")
        found.setdefault(config["name"], {})[config["seed"]] = experiments.build_learner(config), meta
    return {name: dict(sorted(seeds.items())) for name, seeds in found.items()}


def errors(learner: MetaLearner, meta: Meta, tasks: TaskDistribution, n: int, steps: tuple[int, ...] = (0,)):
    """Squared errors of the fixed tasks after these steps, [n, len(steps)]."""
    options = {"steps": max(steps), "scored_steps": steps}
    return fixed_scores(learner, meta, tasks, n_tasks=n, seed=SEED, **options)


def of_rule(rule: Rule, tasks: TaskDistribution, n: int, seed: int = SEED) -> torch.Tensor:
    learner = FixedRule(rule)
    return fixed_scores(learner, learner.init().meta, tasks, n_tasks=n, seed=seed, steps=0)[:, 0]


def entry(values: torch.Tensor) -> dict[str, float]:
    """[n] -> mean and interval."""
    return {"mean": float(values.mean()), "ci95": float(ci95(values))}


def of_seeds(runs: dict[int, tuple[MetaLearner, Meta]], tasks: TaskDistribution, n: int) -> dict:
    """Of all seeds together, and of each. ``ci95`` is over tasks, each with its mean over the seeds."""
    each = torch.stack([errors(learner, meta, tasks, n)[:, 0] for learner, meta in runs.values()])
    return {**entry(each.mean(0)), "seeds": each.mean(1).tolist()}


def tuned(rule: Callable[[float], Rule], values: tuple[float, ...], tasks: TaskDistribution, n: int) -> float:
    """The value with the smallest error on other tasks than those of the record."""
    return min(values, key=lambda v: float(of_rule(rule(v), tasks, n, VALIDATION_SEED).mean()))


def sine_waves(transformers: dict[int, tuple[MetaLearner, Meta]], n: int) -> dict:
    """{condition: {value: {learner: error}}} on sine waves."""
    gradient = {}
    for key, (name, steps) in BY_GRADIENT.items():
        config, meta = results.pretrained(name)
        gradient[key] = fastest(experiments.build_learner(config), torch.device("cpu")), meta, steps
    bandwidth = tuned(kernel_regression, BANDWIDTHS, FAMILIES["as trained"], n)

    def all_of(tasks: TaskDistribution, noise: float) -> dict:
        row = {"transformer": of_seeds(transformers, tasks, n)}
        for key, (learner, meta, steps) in gradient.items():
            scores = errors(learner, meta, tasks, n, steps)
            row |= {f"{key}-{s}": entry(scores[:, i]) for i, s in enumerate(steps)}
        rules = {
            "posterior": posterior_mean([sines()], noise or EXACT),
            "kernel": kernel_regression(bandwidth),
            "nearest": nearest_point,
            "mean": context_mean,
        }
        return row | {key: entry(of_rule(rule, tasks, n)) for key, rule in rules.items()}

    plain = FAMILIES["as trained"]
    return {
        "bandwidth": bandwidth,
        "shots": {str(k): all_of(replace(plain, k_shot=k), 0.0) for k in SHOTS},
        "noise": {f"{s:g}": all_of(NoisySupport(plain, s), s) for s in NOISE},
        "families": {name: all_of(tasks, 0.0) for name, tasks in FAMILIES.items()},
    }


def in_double(rule: Rule) -> Rule:
    """The rule, computed in double precision: five points may be nearly dependent."""
    return lambda *context: rule(*(v.double() for v in context)).float()


def alike(runs: dict[int, tuple[MetaLearner, Meta]], tasks: TaskDistribution, n: int) -> dict:
    """Mean squared difference between the transformer's answers and those of ridge regression, by penalty (0: least squares); the
    mean of the seeds."""
    total = dict.fromkeys(PENALTIES, 0.0)
    for episodes in fixed_episodes(tasks, n, SEED):
        context = episodes[:3]
        for learner, meta in runs.values():
            (read,) = learner.path(meta, *context[:2], steps=0)
            said = learner.predict(read, context[2]).detach()
            for penalty in PENALTIES:
                gap = (said - in_double(ridge(penalty))(*context)).square().mean((1, 2)).sum()
                total[penalty] += float(gap) / (n * len(runs))
    return {f"{penalty:g}": value for penalty, value in total.items()}


def linear_functions(transformers: dict[int, tuple[MetaLearner, Meta]], n: int) -> dict:
    """{condition: {value: {learner: error}}} on linear functions of five inputs. ``alike``: see there."""
    gradient = {}
    for key, (name, steps) in LINEAR_BY_GRADIENT.items():
        config, meta = results.pretrained(name)
        gradient[key] = fastest(experiments.build_learner(config), torch.device("cpu")), meta, steps

    def all_of(tasks: TaskDistribution, k: int, noise: float) -> dict:
        row = {"transformer": of_seeds(transformers, tasks, n)}
        for key, (learner, meta, steps) in gradient.items():
            scores = errors(learner, meta, tasks, n, steps)
            row |= {f"{key}-{s}": entry(scores[:, i]) for i, s in enumerate(steps)}
        rules = {
            "least_squares": in_double(ridge(0.0)),
            "ridge": in_double(ridge(noise**2)),
            "step": gradient_descent(k / (k + D + 1), 1),
            "nearest": nearest_point,
            "zero": gradient_descent(0.0, 0),
        }
        return row | {key: entry(of_rule(rule, tasks, n)) for key, rule in rules.items()}

    few = {k: replace(PLAIN, k_shot=k) for k in LINEAR_SHOTS}
    noisy = {f"{s:g}": (NoisySupport(PLAIN, s), s) for s in NOISE}
    return {
        "tasks": n,
        "k_shot": LINEAR_K,
        "shots": {str(k): all_of(tasks, k, 0.0) for k, tasks in few.items()},
        "noise": {name: all_of(tasks, LINEAR_K, s) for name, (tasks, s) in noisy.items()},
        "families": {name: all_of(tasks, LINEAR_K, 0.0) for name, tasks in LINEAR_FAMILIES.items()},
        "alike": {
            "shots": {str(k): alike(transformers, tasks, n) for k, tasks in few.items()},
            "noise": {name: alike(transformers, tasks, n) for name, (tasks, _) in noisy.items()},
        },
    }


def sines_and_lines(transformers: dict[int, tuple[MetaLearner, Meta]], n: int) -> dict:
    """On LEO's tasks, with noise of 0.3 on the five points. ``minus_leo``: the transformer's error minus LEO's, task by task."""
    tasks = SinesAndLines(K, QUERIES, noisy_queries=False)
    each = torch.stack([errors(learner, meta, tasks, n)[:, 0] for learner, meta in transformers.values()])
    row = {"transformer": {**entry(each.mean(0)), "seeds": each.mean(1).tolist()}}
    for key, name, step in (("leo", "leo-sines-lines-5shot", 10), ("maml", "maml-sines-lines-5shot", 5)):
        config, meta = results.pretrained(name)
        learner = fastest(experiments.build_learner(config), torch.device("cpu"))
        scores = errors(learner, meta, tasks, n, (step,))[:, 0]
        row[key] = entry(scores)
        if key == "leo":
            row["minus_leo"] = entry(each.mean(0) - scores)
    bandwidth = tuned(kernel_regression, BANDWIDTHS, tasks, n)
    rules = {
        "posterior": posterior_mean([sines(), lines()], tasks.noise),
        "kernel": kernel_regression(bandwidth),
        "mean": context_mean,
    }
    found = {key: entry(of_rule(rule, tasks, n)) for key, rule in rules.items()}
    return {"tasks": n, "noise": tasks.noise, **row, **found}


def layers(runs: list[dict[int, tuple[MetaLearner, Meta]]], tasks: TaskDistribution, n: int) -> dict:
    """Learned layers of linear attention beside gradient descent at its best rate, on noisy lines."""
    descent, rates = [], []
    for steps in STEPS:
        rate = (
            tuned(lambda r, steps=steps: gradient_descent(r, steps), RATES, tasks, n) if steps else RATES[0]
        )
        descent.append(entry(of_rule(gradient_descent(rate, steps), tasks, n)))
        rates.append(rate)

    def numbers(params: dict[str, torch.Tensor]) -> list[dict]:
        return [{name: [[round(float(v), 5) for v in row] for row in m[i]] for name, m in params.items()}
                for i in range(len(params["query"]))]  # fmt: skip

    return {
        "learned": [of_seeds(seeds, tasks, n) for seeds in runs],
        "descent": descent,
        "rates": rates,
        "ridge": entry(of_rule(ridge(tasks.noise**2), tasks, n)),
        "weights": [[numbers(meta["params"]) for _, meta in seeds.values()] for seeds in runs],
    }


def ten_inputs(runs: dict[int, tuple[MetaLearner, Meta]], tasks: TaskDistribution, n: int) -> dict:
    """One learned layer beside the best single gradient step, by error and by sensitivity, on the same tasks."""
    d, k = tasks.features, tasks.k_shot
    rate = k / ((2 * tasks.half_range) ** 2 / 12 * (k + d - 0.2))
    episodes = Episode(*(torch.cat(field) for field in zip(*fixed_episodes(tasks, n, SEED), strict=True)))
    cx, cy, query, y = episodes.to(torch.float64)

    def slopes(predict: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """How each answer changes with its query, [T, D]."""
        return torch.func.grad(lambda q: predict(q).sum())(query)[:, 0]

    step = gradient_descent(rate, 1)
    wanted, found = slopes(lambda q: step(cx, cy, q)), {}
    for seed, (_, meta) in runs.items():
        params = {name: p.double() for name, p in meta["params"].items()}
        squares = (answers(params, cx, cy, query) - y).square().flatten()
        cosine = torch.cosine_similarity(slopes(lambda q, p=params: answers(p, cx, cy, q)), wanted)
        found[str(seed)] = {**entry(squares), "cosine": float(cosine.mean())}
    built = entry((step(cx, cy, query) - y).square().flatten())
    return {"tasks": n, "rate": rate, "built": built, "learned": found}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.in_context", description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--tasks", type=int, default=600, metavar="N")
    names = ("sine_waves", "sines_and_lines", "ten_inputs", "layers", "linear_functions")
    parser.add_argument("--only", choices=names, nargs="+")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    runs, n = loaded(options.runs), options.tasks
    ten, lined = "linear-attention-10d", [f"linear-attention-lines-{count}" for count in (1, 2, 3)]

    def trained(name: str) -> dict[int, tuple[MetaLearner, Meta]]:
        if name not in runs:
            raise UserError(f"no training of {name} is among these folders")
        return runs[name]

    def test_tasks(name: str) -> TaskDistribution:
        return experiments.build_tasks(experiments.config(name, "colab"), "test")

    parts = {
        "sine_waves": lambda: sine_waves(trained("transformer-sinusoid-5shot"), n),
        "sines_and_lines": lambda: sines_and_lines(trained("transformer-sines-lines-5shot"), 2_000),
        "ten_inputs": lambda: ten_inputs(trained(ten), test_tasks(ten), 10_000),
        "layers": lambda: layers([trained(name) for name in lined], test_tasks(lined[0]), 4 * n),
        "linear_functions": lambda: linear_functions(trained("transformer-linear-5d"), 1_000),
    }
    record = json.loads(options.out.read_text()) if options.only and options.out.exists() else {}
    record |= {"tasks": n, "seed": SEED, "k_shot": K, "queries": QUERIES}
    for name in options.only or parts:
        record[name] = parts[name]()
        print(f"{name} is measured")
    keep(options.out, {**record, **provenance()})


if __name__ == "__main__":
    main()
