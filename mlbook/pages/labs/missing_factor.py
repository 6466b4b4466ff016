"""The lab "The missing factor": MAML's gradient, FOMAML's and the slope of the meta-loss, on two tasks in one parameter."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from mlbook.pages.labs import assets

RANGE, BENDS = (-3.0, 3.0), (0.1, 5.0)
RATE, STEPS, QUARTIC, OUTER = 1.0, 5, 2.0, 0.3


class MissingFactor(assets.Lab):
    """Move θ, the rate and the curvatures, and compare ∇J with what is left of it without the factors 1 − α·H.

    Task i has the loss L_i(θ) = ½·a_i·u² + q/24·u⁴ with u = θ − c_i, for support and query set alike. After N inner steps its
    share of the meta-gradient is ∏(1 − α·H(θⁿ)) · ∇L(θᴺ) (MAML) or ∇L(θᴺ) alone (FOMAML); J is the mean over the two tasks.

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``theta`` and
    ``bottoms`` c_i from -3 to 3; ``alpha`` α from 0 to 1; ``steps`` N from 1 to 5; ``curvatures`` a_i from 0.1 to 5; ``quartic``
    q from 0 to 2. Raises ``UserError`` for what the lab cannot show.

    Source: Finn, Abbeel and Levine (2017), Model-Agnostic Meta-Learning, section 5.2.
    """

    _esm, _css = assets.sources("missing_factor", "methods", "missing_factor")

    theta = traitlets.Float().tag(sync=True)
    alpha = traitlets.Float().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)
    curvatures = traitlets.List().tag(sync=True)
    bottoms = traitlets.List().tag(sync=True)
    quartic = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        theta: float = 2.0,
        alpha: float = 0.1,
        steps: int = 1,
        *,
        curvatures: Sequence[float] = (4.0, 0.5),
        bottoms: Sequence[float] = (0.0, 1.0),
        quartic: float = 0.0,
    ) -> None:
        super().__init__(
            setup={
                "range": list(RANGE),
                "bends": list(BENDS),
                "most_alpha": RATE,
                "most_steps": STEPS,
                "most_quartic": QUARTIC,
                "outer": OUTER,
            },
            theta=assets.within(theta, "theta", RANGE),
            alpha=assets.within(alpha, "alpha", (0, RATE)),
            steps=assets.whole(steps, "steps", 1, STEPS),
            curvatures=assets.numbers(curvatures, "curvatures", 2, BENDS),
            bottoms=assets.numbers(bottoms, "bottoms", 2, RANGE),
            quartic=assets.within(quartic, "quartic", (0, QUARTIC)),
        )
