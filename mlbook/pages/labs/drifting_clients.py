"""The lab "Drifting clients": federated averaging between two clients with quadratic losses in the plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import traitlets

from mlbook.errors import UserError
from mlbook.pages.labs import assets
from mlbook.pages.labs.which_way import Valley

X_RANGE, Y_RANGE = (-4.0, 4.0), (-3.0, 3.0)
CLIENTS = (Valley(0.15, 3.0, math.radians(75)), Valley(0.2, 1.2, math.radians(10)))
"""The losses of client A and client B: bowls. A is steep along the first axis, B along the second."""
STEPS, ROUNDS = 60, 60
RATES, OUTER, MOMENTA = (0.01, 0.6), (0.1, 1.0), (0.0, 0.9)
"""η, the outer rate, μ. The steepest bowl is stable up to η = 2/3."""


class DriftingClients(assets.Lab):
    """Two clients take ``steps`` gradient steps each from θ, a server averages where they end, and so on for 60 rounds.

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``theta``, where
    the first round begins; ``centres``, the minima of client A and client B; ``steps`` u, 1..60; ``rate`` η; ``outer_rate``;
    ``momentum`` μ of the outer Nesterov momentum; ``corrected``, whether the clients' steps have SCAFFOLD's correction.
    Raises ``UserError`` for what the lab cannot show.

    Source: McMahan et al. (2017), algorithm 1; Karimireddy et al. (2020), option II; Douillard et al. (2023), outer loop.
    """

    _esm, _css = assets.sources("drifting_clients", "methods", "plane")

    theta = traitlets.List().tag(sync=True)
    centres = traitlets.List().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)
    rate = traitlets.Float().tag(sync=True)
    outer_rate = traitlets.Float().tag(sync=True)
    momentum = traitlets.Float().tag(sync=True)
    corrected = traitlets.Bool().tag(sync=True)

    def __init__(
        self,
        steps: int = 1,
        rate: float = 0.1,
        *,
        theta: Sequence[float] = (3.2, 2.3),
        centres: Sequence[Sequence[float]] = ((-2.4, -0.6), (1.6, -1.6)),
        outer_rate: float = 1.0,
        momentum: float = 0.0,
        corrected: bool = False,
    ) -> None:
        if len(centres) != 2:
            raise UserError(f"the lab has two clients, so it takes two centres, not {len(centres)}")
        super().__init__(
            setup={
                "x_range": list(X_RANGE),
                "y_range": list(Y_RANGE),
                "clients": [asdict(client) for client in CLIENTS],
                "most_steps": STEPS,
                "rounds": ROUNDS,
                "rates": list(RATES),
                "outer": list(OUTER),
                "momenta": list(MOMENTA),
            },
            theta=assets.point(theta, "theta", X_RANGE, Y_RANGE),
            centres=[assets.point(centre, "a centre", X_RANGE, Y_RANGE) for centre in centres],
            steps=assets.whole(steps, "steps", 1, STEPS),
            rate=assets.within(rate, "rate", RATES),
            outer_rate=assets.within(outer_rate, "outer_rate", OUTER),
            momentum=assets.within(momentum, "momentum", MOMENTA),
            corrected=bool(corrected),
        )
