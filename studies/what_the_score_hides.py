"""What one accuracy does not say of the methods on Omniglot: the numbers of the classes, what moves, simple baselines, how many
classes there were to learn from (chapter 21).

python -m studies.what_the_score_hides [--only PART] [--weights EXPERIMENT] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from mlbook import experiments, results
from mlbook.data import mini_imagenet, omniglot
from mlbook.data.progress import ProgressLine
from mlbook.engines import fastest
from mlbook.meta_learners import MAML, Prototypical
from mlbook.meta_learners.base import Meta
from mlbook.meta_learners.nearest_neighbour import accuracies as nearest_accuracies
from mlbook.meta_learners.pretraining import features, headless
from mlbook.models import Conv4, call
from mlbook.models.conv4 import adapted_names
from mlbook.results import STUDIES
from mlbook.tasks import FewShot
from mlbook.training.evaluation import QueryBatches, fixed_episodes, fixed_scores
from mlbook.training.loop import train
from mlbook.training.memory import keep_freed_memory
from mlbook.training.records import keep, provenance
from mlbook.training.relabelling import accuracies, relabelled_logits, relabellings, shared_head, spread
from mlbook.training.what_moves import PARTS, put_back_scores, similarities
from studies.summary import beside, mean_and_interval

RECORD = STUDIES / "what_the_score_hides.json"
QUERIES, SEED, CPU = 5, 1, torch.device("cpu")


def shipped(name: str) -> tuple[dict, MAML, Meta]:
    config, meta = results.pretrained(name)
    return config, experiments.build_learner(config), meta


def characters(n_way: int = 5, queries: int = QUERIES) -> FewShot:
    return FewShot(omniglot.load("test"), n_way, 1, queries)


# -- numberings ---------------------------------------------------------------------------------------------------------


def in_brief(scores: Tensor, together: Tensor) -> dict:
    """Of accuracies [T, P], and of the mean prediction's accuracy [T]."""
    found = {name: float(value) for name, value in spread(scores)._asdict().items()}
    ranges = scores.amax(1) - scores.amin(1)
    return {
        "tasks": len(scores),
        "orders": scores.shape[1],
        **found,
        "range": mean_and_interval(ranges),
        "together": float(together.mean()),
    }


def orders_of_characters(name: str, n_tasks: int, steps: int = 3) -> dict:
    """All 120 orders of the classes for shipped Omniglot weights, and the same weights with a head of equal rows."""
    _, learner, meta = shipped(name)
    scores, together, line = [], [], ProgressLine(n_tasks, name)
    for episodes in fixed_episodes(characters(), n_tasks, SEED):
        for t in range(episodes.n_tasks):
            task = episodes.task(t)
            logits = relabelled_logits(learner, meta, task, steps=steps, batch_norm="support")
            scores.append(accuracies(logits, task.query_y))
            together.append(accuracies(logits.softmax(-1).mean(0, keepdim=True), task.query_y))
            line(len(scores))
    line.close()
    options = {"steps": 10, "scored_steps": [1, 3, 10], "batch_norm": "support", "n_tasks": 50, "seed": SEED}
    heads = {}
    for title, start in (("own_head", meta), ("shared_head", shared_head(meta))):
        rows = fixed_scores(fastest(learner, CPU), start, characters(), **options)
        heads[title] = [mean_and_interval(column) for column in rows.t()]
    return {
        "steps": steps,
        "batch_norm": "support",
        "queries": QUERIES,
        **in_brief(torch.stack(scores), torch.cat(together)),
        **heads,
        "shared_steps": [1, 3, 10],
        "shared_tasks": 50,
    }


def orders_of_photographs(name: str, n_tasks: int, orders: int = 24, steps: int = 5) -> dict:
    """Some of the 120 orders, the same for all tasks, of shipped miniImageNet weights."""
    config, learner, meta = shipped(name)
    quick, line, scores, together = fastest(learner, CPU), ProgressLine(n_tasks, name), [], []
    tasks = experiments.build_tasks({**config, "test_query": QUERIES}, "test")
    chosen = relabellings(5)[torch.randperm(120, generator=torch.Generator().manual_seed(SEED))[:orders]]
    with torch.no_grad():
        for episodes in fixed_episodes(tasks, n_tasks, SEED):
            for t in range(episodes.n_tasks):
                task, each = episodes.task(t), []
                for numbers in chosen:
                    *_, adapted = quick.path(meta, task.support_x, numbers[task.support_y], steps)
                    each.append(learner.predict(adapted, task.query_x).index_select(1, numbers))
                logits = torch.stack(each)
                scores.append(accuracies(logits, task.query_y))
                together.append(accuracies(logits.softmax(-1).mean(0, keepdim=True), task.query_y))
                line(len(scores))
    line.close()
    found = in_brief(torch.stack(scores), torch.cat(together))
    return {"steps": steps, "batch_norm": "transductive", "queries": QUERIES, **found}


def numberings(name: str) -> dict | None:
    """Orders of the classes, for one set of weights; None where that is not asked."""
    if name == "maml-mini-5w1s":
        return orders_of_photographs(name, 4) if mini_imagenet.available() else None
    tasks = {"maml-omniglot-5w1s": 8, "anil-omniglot-5w1s": 100}.get(name)
    return None if tasks is None else orders_of_characters(name, tasks)


# -- what moves ---------------------------------------------------------------------------------------------------------


def moves(name: str) -> dict | None:
    """Parts put back and similarity by layer, for one set of weights."""
    if name == "maml-mini-5w1s" and not mini_imagenet.available():
        return None
    config, learner, meta = shipped(name)
    n_tasks, n_images, steps = (30, 3, 5) if config["dataset"] == "mini" else (100, 10, 3)
    quick, scores, alike, line = fastest(learner, CPU), [], [], ProgressLine(n_tasks, name)
    test = experiments.build_tasks({**config, "test_query": QUERIES}, "test")
    for episodes in fixed_episodes(test, n_tasks, SEED):
        for t in range(episodes.n_tasks):
            task = episodes.task(t)
            scores.append(put_back_scores(quick, meta, task, steps=steps, batch_norm="support"))
            if len(alike) < n_images:
                generator = torch.Generator().manual_seed(len(alike))
                images = FewShot(test.pool, 20, 1, 14).sample(1, generator).query_x[0]  # 280 images
                *_, adapted = quick.path(meta, task.support_x, task.support_y, steps)
                alike.append(similarities(learner.model, meta["params"], adapted, images))
            line(len(scores))
    line.close()
    columns = torch.stack(scores).double().t()
    seen = call(learner.model, headless(learner.model, meta["params"]), images)
    return {
        "experiment": name,
        "seed": config["seed"],
        "meta_steps": config["meta_steps"],
        "steps": steps,
        "tasks": n_tasks,
        "batch_norm": "support",
        "row_length": float(meta["params"]["head.weight"].norm(dim=1).mean()),
        "feature_length": float(seen.norm(dim=1).mean()),
        "parts": ["+".join(part) for part in PARTS],
        "put_back": [mean_and_interval(column) for column in columns],
        "differences": [mean_and_interval(column - columns[0]) for column in columns],
        "images": len(images),
        "cka": torch.stack(alike).mean(0).tolist(),
        "cka_tasks": n_images,
    }


# -- baselines ----------------------------------------------------------------------------------------------------------


def baselines() -> dict:
    """Methods on the same tasks: 5-way 1-shot, 15 queries per class."""
    n_tasks, tasks, scores = 100, characters(queries=15), {}
    network = Conv4(5)
    drawn = MAML(network).init(torch.Generator().manual_seed(0)).meta["params"]
    seen = FewShot(omniglot.load("train"), 20, 1, 14).sample(1, torch.Generator().manual_seed(0)).query_x[0]
    untrained = features(network, drawn, seen)
    for title, of in (("pixels", None), ("random features", untrained)):
        scores[title] = torch.cat([nearest_accuracies(e, of) for e in fixed_episodes(tasks, n_tasks, SEED)])
    for title, name, mode, batches in (
        ("classifier, nearest feature", "nearest-omniglot-5w1s", "running", None),
        ("prototypical network", "proto-omniglot-5w1s", "running", None),
        ("MAML, support statistics", "maml-omniglot-5w1s", "support", None),
        ("MAML, all queries in a batch", "maml-omniglot-5w1s", "transductive", None),
        (
            "MAML, one query of each class in a batch",
            "maml-omniglot-5w1s",
            "transductive",
            QueryBatches(1, per_class=True),
        ),
    ):
        config, learner, meta = shipped(name)
        steps = config["report_step"]
        options = {"steps": steps, "scored_steps": [steps], "query_batches": batches}
        options["batch_norm"] = "transductive" if mode == "running" else mode  # each alone, whatever the mode
        quick = fastest(learner, CPU)
        line = ProgressLine(n_tasks, title)
        scores[title] = fixed_scores(
            quick, meta, tasks, n_tasks=n_tasks, seed=SEED, on_progress=line, **options
        )[:, 0]
        line.close()
    reference = scores["prototypical network"]
    rows = [{"method": title, **beside(values.double(), reference)} for title, values in scores.items()]
    return {"tasks": n_tasks, "queries": 15, "rows": rows}


# -- how many classes there are to learn from ---------------------------------------------------------------------------


def diversity() -> dict:
    """Accuracy on new characters against the number of meta-train characters, everything else equal."""
    sizes, steps, rows = (20, 100, 1100), 200, []
    pool = omniglot.load("train")
    for method, seeds in (("prototypical network", (0, 1, 2)), ("MAML", (0,))):
        for seed in seeds:
            for size in sizes:
                kept = pool.subset(slice(0, size))
                if method == "MAML":
                    network = Conv4(5)
                    options = {
                        "inner_lr": 0.4,
                        "meta_lr": 2e-3,
                        "meta_lr_decay": "cosine",
                        "names": adapted_names(network),
                    }
                    learner, tasks, batch = fastest(MAML(network, **options), CPU), FewShot(kept, 5, 1, 3), 16
                else:
                    learner, tasks, batch = Prototypical(Conv4(5), halvings=3), FewShot(kept, 20, 1, 5), 1
                state, line = (
                    learner.init(torch.Generator().manual_seed(seed)),
                    ProgressLine(steps, f"{method}, {size}"),
                )
                run = {"meta_steps": steps, "meta_batch_size": batch, "state": state}
                for progress in train(
                    learner, tasks, generator=torch.Generator().manual_seed(seed + 1), **run
                ):
                    line(progress.state.meta_step)
                line.close()
                options = {"steps": 1, "scored_steps": [1], "n_tasks": 200, "seed": SEED}
                mode = "transductive" if method != "MAML" else "support"
                own, new = (
                    fixed_scores(
                        learner, progress.state.meta, FewShot(p, 5, 1, QUERIES), batch_norm=mode, **options
                    )[:, 0]
                    for p in (kept, omniglot.load("test"))
                )
                rows.append(
                    {
                        "method": method,
                        "seed": seed,
                        "classes": size,
                        "new": mean_and_interval(new),
                        "own": mean_and_interval(own),
                    }
                )
    return {"meta_steps": steps, "tasks": 200, "rows": rows}


WEIGHTS = (*(f"{method}-omniglot-5w1s" for method in ("maml", "fomaml", "anil", "boil")), "maml-mini-5w1s")
BY_WEIGHTS = {"numberings": numberings, "moves": moves}
AT_ONCE = {"baselines": baselines, "diversity": diversity}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.what_the_score_hides", description=__doc__.split("\n\n")[0]
    )
    parts = (*BY_WEIGHTS, *AT_ONCE)
    parser.add_argument("--only", choices=parts, help="this part; what the record says of others stays")
    parser.add_argument("--weights", choices=WEIGHTS, help="of these weights alone, in numberings and moves")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    record = json.loads(options.out.read_text()) if options.out.exists() else {}
    for part in [options.only] if options.only else parts:
        if part in AT_ONCE:
            record[part] = AT_ONCE[part]()
        for name in [options.weights] if options.weights else WEIGHTS:
            if part in BY_WEIGHTS and (found := BY_WEIGHTS[part](name)):
                record.setdefault(part, {})[name] = found
        keep(options.out, {**record, **provenance()})
        print(part, json.dumps(record[part], indent=1))


if __name__ == "__main__":
    main()
