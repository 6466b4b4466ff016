"""The lab "Stopped early": unrolled, truncated and implicit gradients of one inner problem in two parameters."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from mlbook.pages.labs import assets

RANGE, FLAT, STRENGTH, STEPS, SOLVER = (-2.5, 2.5), (-1.0, 3.0), (0.1, 3.0), 40, 3
STEEP, ANGLE, BOTTOM, RATE = 3.0, 0.5, (1.2, 0.6), 0.25


class StoppedEarly(assets.Lab):
    """Move θ and the goal, stop the inner loop early, and compare four outer gradients.

    Support loss ½(φ − m)ᵀH(φ − m) with two curvatures, inner problem with ½λ‖φ − θ‖² added, query loss ½‖φ − q‖². The inner loop
    is gradient descent from θ. Shown are the gradient of the fixed point, λ(H + λI)⁻¹(φ* − q); the derivative through all inner
    steps; through the last of them; and the implicit gradient (I + H/λ)⁻¹(φ − q) at the last φ, by conjugate gradients.

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``theta`` and
    ``query`` q, points from -2.5 to 2.5; ``strength`` λ from 0.1 to 3; ``steps`` T and ``window`` J from 1 to 40; ``solver`` k
    from 0 to 3; ``flat`` from -1 to 3, the smaller curvature. Raises ``UserError`` for what the lab cannot show.

    Source: Rajeswaran et al. (2019), Meta-Learning with Implicit Gradients, section 3.
    """

    _esm, _css = assets.sources("stopped_early", "methods", "stopped_early")

    theta = traitlets.List().tag(sync=True)
    query = traitlets.List().tag(sync=True)
    strength = traitlets.Float().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)
    solver = traitlets.Int().tag(sync=True)
    window = traitlets.Int().tag(sync=True)
    flat = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        theta: Sequence[float] = (0.0, 1.9),
        query: Sequence[float] = (-1.7, -1.2),
        *,
        strength: float = 0.5,
        steps: int = 2,
        solver: int = 2,
        window: int = 1,
        flat: float = 0.8,
    ) -> None:
        super().__init__(
            setup={
                "range": list(RANGE),
                "most_steps": STEPS,
                "steep": STEEP,
                "angle": ANGLE,
                "bottom": list(BOTTOM),
                "rate": RATE,
                "strengths": list(STRENGTH),
                "flats": list(FLAT),
                "most_solver": SOLVER,
            },
            theta=assets.point(theta, "theta", RANGE, RANGE),
            query=assets.point(query, "query", RANGE, RANGE),
            strength=assets.within(strength, "strength", STRENGTH),
            steps=assets.whole(steps, "steps", 1, STEPS),
            solver=assets.whole(solver, "solver", 0, SOLVER),
            window=assets.whole(window, "window", 1, STEPS),
            flat=assets.within(flat, "flat", FLAT),
        )
