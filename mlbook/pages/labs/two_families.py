"""The lab "One start or two": two families of lines, and starts between them or in each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import traitlets

from mlbook.errors import UserError
from mlbook.pages.checks.two_families import STARTS
from mlbook.pages.labs import assets

LEVELS, SLOPES = (-4.0, 4.0), (-3.0, 3.0)
SPREADS = (0.05, 1.5)
SHOTS = (2, 40)
STEPS = 30
ALPHA, SIGMA, TASKS = 0.1, 1.5, 12


class TwoFamilies(assets.Lab):
    """Lines of two families in the plane of level and slope; one start or two, N inner steps, and the error that is left.

    The errors are the closed forms of ``mlbook.pages.checks.two_families``; the drawn tasks are fixed draws, ``TASKS`` of each
    family, adapted by gradient steps on their support points. The arguments are the state in which the lab opens, and later the
    traits that follow what the reader does: ``centres``, two points (level −4..4, slope −3..3); ``spread`` of the tasks in a
    family, 0.05..1.5; ``shots`` K, support points, even, 2..40; ``steps`` N, 0..30; ``starts``, ``one``, ``known`` or ``chosen``.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("two_families", "methods", "plane")

    centres = traitlets.List().tag(sync=True)
    spread = traitlets.Float().tag(sync=True)
    shots = traitlets.Int().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)
    starts = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        centres: Sequence[Sequence[float]] = ((-2.0, -0.5), (2.0, 0.5)),
        spread: float = 0.5,
        shots: int = 6,
        steps: int = 3,
        starts: str = "one",
    ) -> None:
        if len(centres) != 2:
            raise UserError(f"centres are two points, not {centres}")
        if shots not in range(SHOTS[0], SHOTS[1] + 1, 2):
            raise UserError(f"shots must be an even number from {SHOTS[0]} to {SHOTS[1]}, not {shots}")
        g = torch.Generator().manual_seed(8)
        draws = torch.randn(2, 2 * TASKS, 2, generator=g, dtype=torch.float64)
        # the draws of a family have mean zero and mean square one, so that few tasks look like the family they stand for
        draws = draws.view(2, 2, TASKS, 2) - draws.view(2, 2, TASKS, 2).mean(2, keepdim=True)
        draws = (draws / draws.square().mean((2, 3), keepdim=True).sqrt()).view(2, 2 * TASKS, 2)
        super().__init__(
            setup={
                "levels": list(LEVELS),
                "slopes": list(SLOPES),
                "spreads": list(SPREADS),
                "shots": list(SHOTS),
                "steps": STEPS,
                "alpha": ALPHA,
                "sigma": SIGMA,
                "tasks": draws[0].tolist(),
                "noise": draws[1].tolist(),
            },
            centres=[assets.point(centre, "a centre", LEVELS, SLOPES) for centre in centres],
            spread=assets.within(spread, "spread", SPREADS),
            shots=int(shots),
            steps=assets.whole(steps, "steps", 0, STEPS),
            starts=assets.one_of(starts, "starts", STARTS),
        )
