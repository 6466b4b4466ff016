"""The lab "Two terms": a meta-gradient, exactly and by the first two terms of its expansion, in two parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import traitlets

from mlbook.errors import UserError
from mlbook.pages.labs import assets

METHODS = ("MAML", "FOMAML", "Reptile")
BATCHES = (
    (1.0, -0.6, 0.2, -0.12, 0.4, 1.8),
    (-0.8, 0.5, -0.15, 0.15, 0.6, 1.2),
    (0.3, 0.9, 0.1, 0.1, 0.3, 2.2),
)
"""The mini-batches of the task: (a, b, c, d, p, q) of L(x, y) = ½p(x − a + cy²)² + ½q(y − b + dx²)², a quartic that is
never negative."""
X_RANGE, Y_RANGE = (-3.0, 3.0), (-2.2, 2.2)
STEPS_RANGE, RATE_RANGE = (2, 10), (0.001, 0.3)


class TwoTerms(assets.Lab):
    """Move φ, change k, α and the method, and compare the exact meta-gradient with the AvgGrad and AvgGradInner terms.

    The task has three mini-batches. Each of the k losses of an inner loop is one of them, drawn independently with equal
    probability, so the expected meta-gradient is a mean over 3ᵏ sequences, AvgGrad = E[ḡ₁] is the gradient of the task loss
    (their mean), and AvgGradInner = E[H̄₂ ḡ₁] is its Hessian times its gradient. ``same_batch`` breaks this on purpose: one
    mini-batch then serves for all k losses.

    batches: two or three tuples (a, b, c, d, p, q) of L(x, y) = ½p(x − a + cy²)² + ½q(y − b + dx²)².
    The other arguments are the state in which it opens, and later the traits that follow what the reader does: ``phi``
    [x, y], ``inner_steps`` k from 2 to 10, ``inner_lr`` α from 0.001 to 0.3, ``method`` and ``same_batch``.
    Raises ``UserError`` for what the lab cannot show.

    Source: Nichol, Achiam and Schulman (2018), On First-Order Meta-Learning Algorithms, section 5.1.
    """

    _esm, _css = assets.sources("two_terms", "plane")

    phi = traitlets.List().tag(sync=True)
    inner_steps = traitlets.Int().tag(sync=True)
    inner_lr = traitlets.Float().tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    same_batch = traitlets.Bool().tag(sync=True)

    def __init__(
        self,
        batches: Sequence[Sequence[float]] = BATCHES,
        *,
        phi: Sequence[float] = (-1.8, 0.5),
        inner_steps: int = 3,
        inner_lr: float = 0.05,
        method: str = "MAML",
        same_batch: bool = False,
    ) -> None:
        if not 2 <= len(batches) <= 3 or any(len(b) != 6 for b in batches):
            raise UserError("the lab takes two or three mini-batches of six numbers each")
        if not all(math.isfinite(value) for batch in batches for value in batch):
            raise UserError("the numbers of the mini-batches must be finite")
        super().__init__(
            setup={
                "batches": [[float(value) for value in batch] for batch in batches],
                "x_range": list(X_RANGE),
                "y_range": list(Y_RANGE),
                "steps_range": list(STEPS_RANGE),
                "rate_range": list(RATE_RANGE),
            },
            phi=assets.point(phi, "phi", X_RANGE, Y_RANGE),
            inner_steps=assets.whole(inner_steps, "inner_steps", *STEPS_RANGE),
            inner_lr=assets.within(inner_lr, "inner_lr", RATE_RANGE),
            method=assets.one_of(method, "method", METHODS),
            same_batch=bool(same_batch),
        )
