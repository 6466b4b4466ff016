"""The lab "A controller sharpens": REINFORCE over the enumerated space of architectures, rewards looked up."""

from __future__ import annotations

import math

import anywidget
import traitlets

from mlbook.architecture import table as architecture_table
from mlbook.architecture.children import DECISIONS, SIZES
from mlbook.architecture.table import ArchitectureTable
from mlbook.errors import UserError
from mlbook.pages.labs import assets

LAST = 300
RANGES = {"rate": (0.1, 30.0), "entropy": (0.0, 0.05), "seed": (1, 999)}
LABELS = {"max_pool": "max pool", "depthwise3": "depth 3×3", "conv1": "conv 1×1", "conv3": "conv 3×3"}
"""Short names of options, where they differ from those in the code."""


class ArchitectureSearch(anywidget.AnyWidget):
    """Watch the probabilities of five decisions sharpen while a controller samples children and learns from their rewards.

    The controller has one softmax per decision (``IndependentController``) and takes a plain gradient step
    after every child. The arguments are the state in which it opens, and later the traits that follow what the reader does:
    ``rate`` of the controller, ``baseline`` on or off, ``entropy`` bonus, ``seed`` of the draws, ``step`` = children trained.
    Raises ``UserError`` for what the lab cannot show. Source: Zoph and Le (2017), with a smaller controller.
    """

    _esm = assets.module("architecture_search.js")
    _css = assets.text("shared.css") + assets.text("plane.css") + assets.text("architecture_search.css")

    setup = traitlets.Dict().tag(sync=True)
    rate = traitlets.Float().tag(sync=True)
    baseline = traitlets.Bool().tag(sync=True)
    entropy = traitlets.Float().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    step = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        table: ArchitectureTable | None = None,
        *,
        reward_seed: int = 0,
        rate: float = 3.0,
        baseline: bool = True,
        entropy: float = 0.0,
        seed: int = 1,
        step: int = 0,
    ) -> None:
        table = architecture_table.load() if table is None else table
        for name, value in (("rate", rate), ("entropy", entropy), ("seed", seed)):
            low, high = RANGES[name]
            if not low <= value <= high:
                raise UserError(f"{name} must lie between {low:g} and {high:g}, not {value}")
        if step not in range(LAST + 1):
            raise UserError(f"step must be a whole number from 0 to {LAST}, not {step}")
        if reward_seed not in range(table.seeds):
            raise UserError(f"the table has the seeds 0 to {table.seeds - 1}, not {reward_seed}")
        if len(table.validation) != len(table.test) or len(table.test) != math.prod(SIZES):
            raise UserError("the table must have a row for every architecture of the space")

        def short(values) -> list[float]:
            return [round(float(v), 6) for v in values]

        super().__init__(
            setup={
                "decisions": [[name, [LABELS.get(o, o) for o in options]] for name, options in DECISIONS],
                "rewards": short(table.rewards(reward_seed)),
                "worth": short(table.worth(reward_seed)),
                "best": [bool(v) for v in table.best(reward_seed)],
                "reward_seed": reward_seed,
                "last": LAST,
                "ranges": {name: list(limits) for name, limits in RANGES.items()},
            },
            rate=float(rate),
            baseline=bool(baseline),
            entropy=float(entropy),
            seed=int(seed),
            step=int(step),
        )
