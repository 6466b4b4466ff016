"""The lab "One task, 120 orders": the same weights, drawings and gradient steps, and only the numbers of the classes change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import traitlets
from torch import Tensor

from mlbook.data import glyphs
from mlbook.errors import UserError
from mlbook.experiments import build_learner
from mlbook.meta_learners import MAML
from mlbook.meta_learners.base import Meta
from mlbook.meta_learners.pretraining import headless
from mlbook.models import call
from mlbook.models.batch_norm import Statistics
from mlbook.pages.labs import assets
from mlbook.results import pretrained
from mlbook.tasks import FewShot
from mlbook.tasks.episode import Episode

SHIPPED, SEEDS = "anil-omniglot-5w1s", (0, 1, 2)
"""Weights, and the tasks of generated glyphs that the lab opens with."""
QUERIES, STEPS = 5, 10
"""Per class; and the most inner steps."""
HEADS = ("as trained", "all rows alike")


def shipped_tasks(seeds: Sequence[int] = SEEDS) -> tuple[MAML, Meta, list[Episode]]:
    """ANIL's shipped weights and 5-way 1-shot tasks of generated glyphs: learner, meta-parameters, one task per seed.

    ``CheckpointError`` if the weights are missing.
    """
    config, meta = pretrained(SHIPPED)
    tasks = FewShot(glyphs.load("test", "none"), config["n_way"], 1, QUERIES)
    episodes = [tasks.sample(1, torch.Generator().manual_seed(seed)).task(0) for seed in seeds]
    return build_learner(config), meta, episodes


def features(learner: MAML, meta: Meta, task: Episode) -> Tensor:
    """What the head reads of support images and queries, [S + B, D], under the statistics of the support set.

    In ANIL's inner loop these stay as they are.
    """
    body = headless(learner.model, meta["params"])
    statistics: list[Statistics] = []
    with torch.no_grad():
        support = call(learner.model, body, task.support_x, collect=statistics)
        query = call(learner.model, body, task.query_x, statistics=statistics)
    return torch.cat([support, query])


class RelabelClasses(assets.Lab):
    """Put the five classes of a task in another order, and see what the same head makes of it after a few gradient steps; all 120
    orders are dots beside it.

    learner, meta, tasks: ANIL around a ``Conv4``, its meta-parameters, and up to four 1-shot tasks with equally many queries of
    each class, sorted by class (default: ``shipped_tasks``). The other arguments are the state in which the lab opens, and later
    the traits that follow what the reader does: ``task``, the number of the task; ``order``, the class in each row of the head;
    ``step``, inner steps; ``head``, one of ``HEADS``. Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("relabel_classes", "relabel_classes")

    head_weights = traitlets.Bytes().tag(sync=True)
    vectors = traitlets.Bytes().tag(sync=True)
    images = traitlets.Bytes().tag(sync=True)
    task = traitlets.Int().tag(sync=True)
    order = traitlets.List().tag(sync=True)
    step = traitlets.Int().tag(sync=True)
    head = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        learner: MAML | None = None,
        meta: Meta | None = None,
        tasks: Sequence[Episode] | None = None,
        *,
        task: int = 0,
        order: Sequence[int] | None = None,
        step: int = 3,
        head: str = HEADS[0],
    ) -> None:
        if (learner, meta, tasks) == (None, None, None):
            learner, meta, tasks = shipped_tasks()
        elif learner is None or meta is None or tasks is None:
            raise UserError("the lab takes a learner, its meta-parameters and tasks, or none of them")
        ways = learner.model.head.out_features
        if not 1 <= len(tasks) <= 4 or not 2 <= ways <= 5:
            raise UserError("the lab shows 1 to 4 tasks of 2 to 5 classes")
        Q = len(tasks[0].query_y) // ways
        for its in tasks:
            sorted_by_class = torch.arange(ways).repeat_interleave(Q)
            if not torch.equal(its.support_y.cpu(), torch.arange(ways)) or not torch.equal(
                its.query_y.cpu(), sorted_by_class
            ):
                raise UserError("the lab needs one support image of each class, and queries sorted by class")
        order = list(range(ways)) if order is None else [int(c) for c in order]
        if sorted(order) != list(range(ways)):
            raise UserError(f"order names each class from 0 to {ways - 1} once, not {order}")
        rows = torch.cat([meta["params"]["head.weight"].flatten(), meta["params"]["head.bias"]])
        found = torch.stack([features(learner, meta, its) for its in tasks])
        drawn = torch.stack([torch.cat([its.support_x, its.query_x]) for its in tasks])
        super().__init__(
            head_weights=_float32(rows),
            vectors=_float32(found),
            images=(255 * drawn).round().to(torch.uint8).cpu().numpy().tobytes(),
            setup={
                "ways": ways,
                "queries": Q,
                "features": found.shape[-1],
                "size": drawn.shape[-1],
                "tasks": len(tasks),
                "rate": float(learner.inner_lr) * learner.inner_scale(rows.new_zeros(1, ways)),
                "steps": STEPS,
                "heads": list(HEADS),
            },
            task=assets.whole(task, "task", 0, len(tasks) - 1),
            order=order,
            step=assets.whole(step, "step", 0, STEPS),
            head=assets.one_of(head, "head", HEADS),
        )


def _float32(values: Tensor) -> bytes:
    return values.detach().cpu().numpy().astype(np.dtype("<f4")).tobytes()
