"""The lab "Layers and steps": linear attention beside gradient descent, on points that the reader moves."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from mlbook import results
from mlbook.pages.labs import assets

X_RANGE, Y_RANGE = (-1.0, 1.0), (-3.0, 3.0)
KINDS = ("built", "learned")
MOST_STEPS, RATES, SHOTS = 20, (0.1, 1.6), 8
PENALTY = 0.3**2
"""σ²/τ² of the lines that the layers were trained on: noise of 0.3, level and slope N(0, 1)."""
POINTS = (
    (-0.85, -1.1),
    (0.75, 1.9),
    (-0.2, 0.2),
    (0.35, 1.5),
    (-0.6, -0.2),
    (0.1, 0.4),
    (0.95, 1.7),
    (-0.4, 0.1),
)


class LayersAndSteps(assets.Lab):
    """Choose layers of linear attention, built by hand or learned, and find how many gradient steps give the same line.

    A context point is the token (1, x, y), a query (1, x, 0); ``mlbook.models.attention.answers`` says what layers make of
    them. Gradient descent starts at the zero line and minimises half the mean squared error with rate ``rate``; the layers
    that are built take one such step each. The learned ones are the recorded runs ``linear-attention-lines-1`` to ``-3``,
    trained on lines with noise.

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``kind``,
    ``built`` or ``learned``; ``layers`` 1..3; ``seed`` of the training 0..4; ``steps`` 0..20; ``rate`` η 0.1..1.6; ``shots``,
    context points 1..8; ``points``, eight places (x, y), of which the first ``shots`` are the context.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("layers_and_steps", "plane")

    points = traitlets.List().tag(sync=True)
    shots = traitlets.Int().tag(sync=True)
    kind = traitlets.Unicode().tag(sync=True)
    layers = traitlets.Int().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)
    rate = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        kind: str = "learned",
        *,
        layers: int = 1,
        seed: int = 1,
        steps: int = 0,
        rate: float = 1.0,
        shots: int = 5,
        points: Sequence[Sequence[float]] = POINTS,
    ) -> None:
        learned = results.study("in_context")["layers"]["weights"]
        assets.whole(len(points), "the number of points", SHOTS, SHOTS)
        super().__init__(
            setup={
                "x_range": list(X_RANGE),
                "y_range": list(Y_RANGE),
                "most": MOST_STEPS,
                "rates": list(RATES),
                "shots": SHOTS,
                "penalty": PENALTY,
                "learned": learned,
            },
            points=[assets.point(p, f"point {n}", X_RANGE, Y_RANGE) for n, p in enumerate(points, 1)],
            shots=assets.whole(shots, "shots", 1, SHOTS),
            kind=assets.one_of(kind, "kind", KINDS),
            layers=assets.whole(layers, "layers", 1, len(learned)),
            seed=assets.whole(seed, "seed", 0, len(learned[0]) - 1),
            steps=assets.whole(steps, "steps", 0, MOST_STEPS),
            rate=assets.within(rate, "rate", RATES),
        )
