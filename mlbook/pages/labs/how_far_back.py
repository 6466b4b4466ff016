"""The lab "How far back?": the sign of an outer gradient that is cut in windows, by backpropagation, ES and PES."""

from __future__ import annotations

import traitlets

from mlbook.errors import UserError
from mlbook.pages.checks.influence import POSITIVE, SIZE
from mlbook.pages.labs import assets

RANGE, RUN, DRAWS = (-1.0, 1.0), 100, 40
PAIRS = (1, 3, 10, 30, 100, 300, 1000)


class HowFarBack(assets.Lab):
    """Set the window and the number of pairs, and compare four estimates of one outer gradient.

    The problem is influence balancing (``pages.checks.influence``), at rest at θ. Truncated backpropagation and truncated ES see
    what the last K steps do to the loss; each of the particles of PES has been perturbed anew in every window of K steps of a run
    of 100 (rounded up to whole windows).

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``theta`` from
    -1 to 1, ``memory`` K from 1 to 100, ``pairs`` 1, 3, 10, …, 1000, and the ``seed`` of the draws, 1 to 1000. Raises
    ``UserError`` for what the lab cannot show.

    Source: Vicol et al. (2021), Persistent Evolution Strategies.
    """

    _esm, _css = assets.sources("how_far_back")

    theta = traitlets.Float().tag(sync=True)
    memory = traitlets.Int().tag(sync=True)
    pairs = traitlets.Int().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)

    def __init__(self, theta: float = 0.5, memory: int = 10, pairs: int = 100, *, seed: int = 1) -> None:
        if pairs not in PAIRS:
            raise UserError(f"pairs must be one of {', '.join(map(str, PAIRS))}, not {pairs}")
        super().__init__(
            setup={
                "range": list(RANGE),
                "run": RUN,
                "draws": DRAWS,
                "pairs": list(PAIRS),
                "size": SIZE,
                "positive": POSITIVE,
            },
            theta=assets.within(theta, "theta", RANGE),
            memory=assets.whole(memory, "memory", 1, RUN),
            pairs=int(pairs),
            seed=assets.whole(seed, "seed", 1, 1000),
        )
