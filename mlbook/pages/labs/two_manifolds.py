"""The lab "Two manifolds": Reptile in the plane, between the solution sets of two or three tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import traitlets

from mlbook.errors import UserError
from mlbook.pages.labs import assets

Point = Sequence[float]

KINDS = ("line", "parabola", "circle")
CURVES = (((-3.0, -0.9), (3.0, -2.1)), ((0.9, 0.0), (1.1, 0.5)), ((-2.8, 1.6), (-2.0, 1.6)))
"""The two points that hold each curve: any two of the line, vertex and focus of the parabola, centre and rim of the circle."""
X_RANGE, Y_RANGE = (-4.0, 4.0), (-3.0, 3.0)
LAST = 400
TARGETS = ("projection", "steps")
RANGES = {"inner_lr": (0.01, 0.5), "outer_lr": (0.02, 1.0), "steepness": (0.2, 2.0)}


class TwoManifolds(assets.Lab):
    """Reptile between the solution sets W₁ (a line), W₂ (a parabola) and, if wanted, W₃ (a circle), in two parameters.

    Task i has the loss Lᵢ = ½ rᵢ(p)² with rᵢ = 0 on Wᵢ: for the line r₁ is ``steepness`` times the distance with a sign; for
    the parabola, in coordinates s along its axis and t across, r₂ = s − t²/4f; for the circle r₃ = (‖p − c‖² − R²)/2R. An
    iteration is φ ← (1 − ε)φ + ε·target. The target is the closest point of the drawn task's set, or where k steps of
    gradient descent on its loss lead.

    curves: two points [x, y] for each of the three curves, on the picture and at least 0.2 apart.
    The other arguments are the state in which it opens, and later the traits that follow what the reader does: ``phi``, the
    start; ``tasks``, 2 or 3; ``target``, "projection" or "steps"; ``inner_steps`` k, 1 to 30; ``inner_lr`` α; ``outer_lr`` ε;
    ``steepness`` of L₁; ``random`` (draw tasks at random instead of in turn) with ``seed``; ``iteration``, 0 to 400.
    Raises ``UserError`` for what the lab cannot show.

    Source: Nichol, Achiam and Schulman (2018), On First-Order Meta-Learning Algorithms, section 5.2.
    """

    _esm, _css = assets.sources("two_manifolds", "plane")

    phi = traitlets.List().tag(sync=True)
    curves = traitlets.List().tag(sync=True)
    tasks = traitlets.Int().tag(sync=True)
    target = traitlets.Unicode().tag(sync=True)
    inner_steps = traitlets.Int().tag(sync=True)
    inner_lr = traitlets.Float().tag(sync=True)
    outer_lr = traitlets.Float().tag(sync=True)
    steepness = traitlets.Float().tag(sync=True)
    random = traitlets.Bool().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    iteration = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        curves: Sequence[tuple[Point, Point]] = CURVES,
        *,
        phi: Point = (-3.2, 0.8),
        tasks: int = 2,
        target: str = "projection",
        inner_steps: int = 10,
        inner_lr: float = 0.05,
        outer_lr: float = 0.2,
        steepness: float = 0.5,
        random: bool = False,
        seed: int = 0,
        iteration: int = 20,
    ) -> None:
        if len(curves) != len(KINDS) or any(len(curve) != 2 for curve in curves):
            raise UserError("curves are three pairs of points: for the line, the parabola and the circle")
        inside = [
            [assets.point(p, "a point of a curve", X_RANGE, Y_RANGE) for p in curve] for curve in curves
        ]
        for kind, ends in zip(KINDS, inside, strict=True):
            if math.dist(*ends) < 0.2:
                raise UserError(f"the two points of the {kind} must lie at least 0.2 apart")
        if tasks not in (2, 3):
            raise UserError(f"tasks must be 2 or 3, not {tasks}")
        super().__init__(
            setup={"kinds": list(KINDS), "x_range": list(X_RANGE), "y_range": list(Y_RANGE), "last": LAST},
            phi=assets.point(phi, "phi", X_RANGE, Y_RANGE),
            curves=inside,
            tasks=int(tasks),
            target=assets.one_of(target, "target", TARGETS),
            inner_steps=assets.whole(inner_steps, "inner_steps", 1, 30),
            inner_lr=assets.within(inner_lr, "inner_lr", RANGES["inner_lr"]),
            outer_lr=assets.within(outer_lr, "outer_lr", RANGES["outer_lr"]),
            steepness=assets.within(steepness, "steepness", RANGES["steepness"]),
            random=bool(random),
            seed=assets.whole(seed, "seed", 0, 2**31 - 1),
            iteration=assets.whole(iteration, "iteration", 0, LAST),
        )
