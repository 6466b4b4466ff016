"""The lab "Four means": quadratic tasks in one parameter, where each method ends at a weighted mean of their minima."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from mlbook.pages.labs import assets

X_RANGE = (-4.0, 4.0)
A_RANGE = (0.1, 4.0)
RATES = (0.01, 1.0)
STEPS = 30


class FourMeans(assets.Lab):
    """Three tasks L_i(θ) = ½·a_i·(θ − c_i)², and where pre-training, FOMAML, MAML and Reptile end on them.

    k inner steps multiply θ − c_i by r_i = 1 − α·a_i each time, so a method's mean update is −Σ w_i·(θ − c_i) up to a
    positive factor, with w_i = a_i for pre-training, a_i·r_i^k for FOMAML, a_i·r_i^2k for MAML and 1 − r_i^k for Reptile;
    its fixed point is Σ w_i·c_i / Σ w_i, and the outer loop comes to it where Σ w_i > 0.

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``alpha`` α
    0.01..1; ``steps`` k 1..30; ``bottoms``, the three c_i from -4 to 4; ``curvatures``, the three a_i from 0.1 to 4.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("four_means", "methods")

    alpha = traitlets.Float().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)
    bottoms = traitlets.List().tag(sync=True)
    curvatures = traitlets.List().tag(sync=True)

    def __init__(
        self,
        alpha: float = 0.2,
        steps: int = 3,
        *,
        bottoms: Sequence[float] = (-2.5, -0.5, 2.5),
        curvatures: Sequence[float] = (3.0, 1.2, 0.4),
    ) -> None:
        values = {
            "bottoms": assets.numbers(bottoms, "bottoms", 3, X_RANGE),
            "curvatures": assets.numbers(curvatures, "curvatures", 3, A_RANGE),
        }
        super().__init__(
            setup={"x_range": list(X_RANGE), "a_range": list(A_RANGE), "steps": STEPS, **values},
            alpha=assets.within(alpha, "alpha", RATES),
            steps=assets.whole(steps, "steps", 1, STEPS),
            **values,
        )
