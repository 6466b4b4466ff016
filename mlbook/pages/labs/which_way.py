"""The lab "Which way does φ move?": the update directions of four methods on two tasks with two parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import traitlets

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import Loss
from mlbook.pages.labs import assets

METHODS = ("pretraining", "fomaml", "maml", "reptile")
X_RANGE, Y_RANGE = (-4.0, 4.0), (-3.0, 3.0)
STEPS = 10
RATES = (0.01, 0.8)
"""At the upper end the inner loop leaves the stable range: 2 divided by the largest curvature, 0.67 on the bowls."""


@dataclass(frozen=True)
class Valley:
    """The shape of one task's loss around its minimum: ½·flat·u² + ½·steep·(v − bend·(1 − cos u))².

    (u, v) are φ's coordinates along and across the valley, counted from the minimum.
    """

    flat: float
    """Curvature along the valley, at the minimum."""
    steep: float
    """Curvature across it."""
    angle: float
    """Direction of the valley in radians, anticlockwise from the first axis."""
    bend: float = 0.0
    """0: a quadratic bowl with straight axes; otherwise the valley winds."""

    def loss(self, centre: Sequence[float]) -> Loss:
        """The loss of the task with its minimum, 0, at ``centre``: {"phi": [2]} -> scalar tensor."""

        def loss(params):
            x, y = (params["phi"] - torch.as_tensor(centre, dtype=params["phi"].dtype)).unbind()
            cos, sin = math.cos(self.angle), math.sin(self.angle)
            u, v = cos * x + sin * y, cos * y - sin * x
            return 0.5 * (self.flat * u**2 + self.steep * (v - self.bend * (1 - torch.cos(u))) ** 2)

        return loss


SURFACES = {
    "bowls": (Valley(0.55, 2.6, math.radians(64)), Valley(0.5, 3.0, math.radians(35))),
    "bent valleys": (Valley(0.5, 1.6, math.radians(64), 0.8), Valley(0.45, 1.9, math.radians(20), -0.8)),
}
"""Name in the lab: the shapes of task A and task B. The curvatures of a bowl are the same everywhere."""


class WhichWay(assets.Lab):
    """Drag φ and see which way pre-training, FOMAML, MAML and Reptile move it, and where each of them ends.

    Two tasks with two parameters each; a task's support and query loss are equal (``Valley.loss``). The update of a method is
    a mean over the tasks, in units of a gradient: −∇L(φ) for pre-training, −∇L(φᴺ) for FOMAML, −dL(φᴺ)/dφ for MAML, and the
    displacement (φᴺ − φ)/α for Reptile.

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``alpha`` α
    0.01..0.8; ``steps`` N 1..10; ``phi`` φ; ``centres``, the minima of task A and task B; ``surface``, a name in
    ``SURFACES``; ``method``, one of ``METHODS``, takes the outer steps; ``hidden``, methods not drawn; ``same_length``, whether
    all arrows are equally long; ``follow``, whether the walks of all four methods are drawn.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("which_way", "methods")

    alpha = traitlets.Float().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)
    phi = traitlets.List().tag(sync=True)
    centres = traitlets.List().tag(sync=True)
    surface = traitlets.Unicode().tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    hidden = traitlets.List().tag(sync=True)
    same_length = traitlets.Bool().tag(sync=True)
    follow = traitlets.Bool().tag(sync=True)

    def __init__(
        self,
        alpha: float = 0.15,
        steps: int = 3,
        *,
        phi: Sequence[float] = (-0.9, -1.6),
        centres: Sequence[Sequence[float]] = ((-1.6, 0.8), (2.3, 0.7)),
        surface: str = "bowls",
        method: str = "maml",
        hidden: Sequence[str] = (),
        same_length: bool = True,
        follow: bool = False,
    ) -> None:
        phi = assets.point(phi, "phi", X_RANGE, Y_RANGE)
        centres = [assets.point(centre, "a centre", X_RANGE, Y_RANGE) for centre in centres]
        if len(centres) != 2:
            raise UserError(f"the lab has two tasks, so it takes two centres, not {len(centres)}")
        super().__init__(
            setup={
                "x_range": list(X_RANGE),
                "y_range": list(Y_RANGE),
                "rates": list(RATES),
                "surfaces": {name: [asdict(valley) for valley in pair] for name, pair in SURFACES.items()},
                "phi": phi,
                "centres": centres,
            },
            alpha=assets.within(alpha, "alpha", RATES),
            steps=assets.whole(steps, "steps", 1, STEPS),
            phi=phi,
            centres=centres,
            surface=assets.one_of(surface, "surface", SURFACES),
            method=assets.one_of(method, "method", METHODS),
            hidden=[assets.one_of(name, "hidden", METHODS) for name in hidden],
            same_length=bool(same_length),
            follow=bool(follow),
        )
