"""LEO in a world whose classes differ in few of many directions: dimensions, and each term of the outer objective switched off.

python -m studies.latent_space [--only features|codes|terms] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.meta_learners import LEO, MAML
from mlbook.models import MLP
from mlbook.results import STUDIES
from mlbook.tasks import FewShotFeatures, LEONoise
from mlbook.tasks.episode import Episode
from mlbook.tasks.hidden_subspace import hidden_subspace
from mlbook.training.evaluation import ci95, fixed_scores
from mlbook.training.records import keep, provenance

RECORD = STUDIES / "latent_space.json"
WORLD = {"features": 64, "hidden": 6, "noise": 0.5, "examples": 20, "test_classes": 100}
RUNS = {
    "terms": {"classes": 20, "meta_steps": 400, "seeds": (0, 1, 2)},
    "codes": {"classes": 200, "meta_steps": 300, "seeds": (0, 1)},
    "features": {"classes": 200, "meta_steps": 300, "seeds": (0, 1)},
}
"""Meta-train classes and trainings. Terms are switched off where classes are few: there a regulariser shows what it is for."""
N_WAY, K_SHOT, N_QUERY, META_BATCH = 5, 1, 15, 12
TEST_TASKS = 1_000
BASE = {
    "latent": 8,
    "latent_steps": 5,
    "finetuning_steps": 5,
    "dropout": 0.3,
    "kl_weight": 0.1,
    "penalty_weight": 0.1,
    "l2_weight": 1e-6,
    "orthogonality_weight": 0.1,
    "meta_lr": 2e-3,
}
"""The rate is twenty times the official one, for much shorter runs; the terms weigh so much that each can be seen."""
WIDTHS = (8, 16, 64, 256, 640)
REFERENCE_RATES = (1, 3, 10, 30, 100)
"""Of the methods that are not trained. Features have length 1, so rate 1 is short where little of that lies in the subspace."""
CODES = (1, 2, 4, 6, 8, 16)
TERMS = {
    "all terms": {},
    "KL off": {"kl_weight": 0.0},
    "KL × 100": {"kl_weight": 10.0},
    "penalty off": {"penalty_weight": 0.0},
    "penalty × 10": {"penalty_weight": 1.0},
    "penalty × 10, no stop-gradient": {"penalty_weight": 1.0},
    "orthogonality off": {"orthogonality_weight": 0.0},
    "orthogonality × 100": {"orthogonality_weight": 10.0},
    "L2 off": {"l2_weight": 0.0},
    "L2 × 10,000": {"l2_weight": 1e-2},
}


@dataclass(frozen=True)
class Unstopped(LEO):
    """LEO whose penalty also pulls the adapted code: what comes of forgetting the stop-gradient."""

    def task_terms(self, meta, episode):
        *_, end = self.inner(meta, episode)
        return {**super().task_terms(meta, episode), "penalty": F.mse_loss(end["start"], end["z"])}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def world(features: int, classes: int) -> tuple[FewShotFeatures, FewShotFeatures, Tensor]:
    """Meta-train and meta-test episodes, whose classes share a subspace and nothing else, and its basis."""
    options = {"noise": WORLD["noise"]}
    train, basis = hidden_subspace(
        classes, WORLD["examples"], features, WORLD["hidden"], **options, generator=rng(0)
    )
    test, _ = hidden_subspace(
        WORLD["test_classes"],
        WORLD["examples"],
        features,
        WORLD["hidden"],
        **options,
        generator=rng(1),
        basis=basis,
    )
    return tuple(FewShotFeatures(pool, N_WAY, K_SHOT, N_QUERY) for pool in (train, test)) + (basis,)


def trained(learner, tasks, meta_steps: int, seed: int):
    state, generator = learner.init(rng(seed)), rng(100 + seed)
    for m in range(meta_steps):
        state, _ = learner.step(state, tasks.sample(META_BATCH, generator), m / meta_steps)
    return state.meta


def summary(scores: list[Tensor]) -> dict:
    """Accuracy after every inner step on the test tasks, mean over the runs, with interval. scores: [tasks, steps + 1] each."""
    mean = torch.stack(scores).mean(0)
    return {
        "accuracy": mean.mean(0).tolist(),
        "ci95": ci95(mean).tolist(),
    }


def leo_options(**changed) -> dict:
    return {**BASE, "n_way": N_WAY, **changed}


def leo_runs(kind, features: int, run: dict, **changed) -> dict:
    """Scores of LEO, and what its codes and its decoder look like."""
    train, test, basis = world(features, run["classes"])
    scores, facts = [], []
    for seed in run["seeds"]:
        learner = kind(features=features, **leo_options(**changed))
        noisy = LEONoise(train, learner.noise_shapes)
        meta = trained(learner, noisy, run["meta_steps"], seed)
        steps = learner.latent_steps + learner.finetuning_steps
        scores.append(fixed_scores(learner, meta, test, n_tasks=TEST_TASKS, seed=1, steps=steps))
        facts.append(codes_and_decoder(learner, meta, test, basis))
    facts = {name: sum(f[name] for f in facts) / len(facts) for name in facts[0]}
    return {**summary(scores), **facts}


def codes_and_decoder(learner: LEO, meta, test: FewShotFeatures, basis: Tensor, n_tasks: int = 200) -> dict:
    """Means over tasks at meta-test, and over the entries of the decoder."""
    episodes = test.sample(n_tasks, rng(7))
    seen = {"mean": [], "sigma": [], "moved": []}
    for t in range(n_tasks):
        episode = Episode(*(field[t] for field in episodes))
        first, *_, last = learner.inner(meta, episode)
        seen["mean"].append(first["mean"].square().mean())
        seen["sigma"].append(first["sigma"].mean())
        seen["moved"].append((last["z"] - first["z"]).square().mean())
    seen = {name: torch.stack(values).mean() for name, values in seen.items()}
    rows = F.normalize(meta["params"]["decoder"].t(), dim=1)
    off = rows @ rows.t() - torch.eye(len(rows))
    W = meta["params"]["decoder"][: learner.features]
    return {
        "code": float(seen["mean"].sqrt()),
        "sigma": float(seen["sigma"]),
        "moved": float(seen["moved"].sqrt()),
        "correlation": float(off.square().sum() / (len(rows) * max(1, len(rows) - 1))) ** 0.5,
        "in_subspace": float((basis.t() @ W).square().sum() / W.square().sum()),
        "length": float(torch.cat([p.flatten() for p in meta["params"].values()]).norm()),
        "latent_rate": float(meta["rates"]["latent"].mean()),
    }


def weights_from_zero(features: int, project: bool, steps: int = 20) -> dict:
    """Gradient descent on all weights from zero (summed loss), of the features or of their parts in the subspace.

    Of ``REFERENCE_RATES`` the one with the highest accuracy at its best step, on the test tasks themselves: in its favour.
    """
    _, test, basis = world(features, RUNS["features"]["classes"])
    episodes = test.sample(TEST_TASKS, rng(1))
    P = basis @ basis.t() if project else torch.eye(features)
    x, queries = episodes.support_x @ P, episodes.query_x @ P
    target = F.one_hot(episodes.support_y, N_WAY).float()
    found = []
    for rate in REFERENCE_RATES:
        w = torch.zeros(TEST_TASKS, N_WAY, features)
        scores = []
        for _ in range(steps):
            slope = torch.softmax(torch.einsum("tsd,tnd->tsn", x, w), -1) - target
            w = w - rate * torch.einsum("tsn,tsd->tnd", slope, x)
            right = torch.einsum("tqd,tnd->tqn", queries, w).argmax(-1) == episodes.query_y
            scores.append(right.double().mean(1))
        found.append({"rate": rate, **summary([torch.stack(scores, 1)])})
    return max(found, key=lambda row: max(row["accuracy"]))


def nearest_in_subspace(features: int) -> dict:
    """No steps: the class of the support example at the smallest angle, within the hidden subspace."""
    _, test, basis = world(features, RUNS["features"]["classes"])
    episodes = test.sample(TEST_TASKS, rng(1))
    x, queries = (F.normalize(part @ basis, dim=-1) for part in (episodes.support_x, episodes.query_x))
    nearest = torch.einsum("tqd,tsd->tqs", queries, x).argmax(-1)
    right = episodes.support_y.gather(1, nearest) == episodes.query_y
    return summary([right.double().mean(1, keepdim=True)])


def meta_sgd(features: int) -> dict:
    """A learned start and a learned rate for each weight: MAML's inner loop on the same linear classifier."""
    run = RUNS["features"]
    train, test, _ = world(features, run["classes"])
    model = MLP((features, N_WAY))
    learner = MAML(model, inner_lr=1.0, inner_steps=5, learn_inner_lr=True, meta_lr=2e-3)
    scores = [
        fixed_scores(
            learner,
            trained(learner, train, run["meta_steps"], seed),
            test,
            n_tasks=TEST_TASKS,
            seed=1,
            steps=10,
        )
        for seed in run["seeds"]
    ]
    return summary(scores)


def features_section(known: dict) -> dict:
    methods = {
        "all weights": lambda D: weights_from_zero(D, project=False),
        "known subspace": lambda D: weights_from_zero(D, project=True),
        "neighbour in the subspace": nearest_in_subspace,
        "Meta-SGD": meta_sgd,
        "LEO": lambda D: leo_runs(LEO, D, RUNS["features"]),
    }
    for D in WIDTHS:
        rows = known.setdefault(str(D), {})
        missing = [name for name in methods if name not in rows]
        for name in missing:
            rows[name] = methods[name](D)
        if missing:
            print(D, {name: round(max(row["accuracy"]), 3) for name, row in rows.items()}, flush=True)
            yield known


def codes_section(known: dict) -> dict:
    for n in CODES:
        if str(n) in known:
            continue
        known[str(n)] = leo_runs(LEO, WORLD["features"], RUNS["codes"], latent=n)
        print(n, [round(a, 3) for a in known[str(n)]["accuracy"]], flush=True)
        yield known


def terms_section(known: dict) -> dict:
    for name, changed in TERMS.items():
        if name in known:
            continue
        kind = Unstopped if "no stop" in name else LEO
        known[name] = leo_runs(kind, WORLD["features"], RUNS["terms"], **changed)
        print(
            name,
            {k: v if isinstance(v, float) else [round(a, 3) for a in v] for k, v in known[name].items()},
            flush=True,
        )
        yield known


SECTIONS = {"terms": terms_section, "codes": codes_section, "features": features_section}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.latent_space", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", choices=SECTIONS, help="this section; what the record says of others stays")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    setup = {
        "world": WORLD,
        "episodes": {"n_way": N_WAY, "k_shot": K_SHOT, "n_query": N_QUERY},
        "leo": BASE,
        "runs": RUNS,
        "meta_batch_size": META_BATCH,
        "test_tasks": TEST_TASKS,
    }
    setup = json.loads(json.dumps(setup))  # as it is read back
    record = json.loads(options.out.read_text()) if options.out.exists() else {}
    if record.get("setup") != setup:
        record = {"setup": setup, "sections": {}}  # of runs in another setting nothing can be kept
    for name, section in SECTIONS.items():
        if options.only in (None, name):
            for rows in section(record["sections"].get(name, {})):
                record["sections"][name] = rows
                keep(options.out, {**record, **provenance()})


if __name__ == "__main__":
    main()
