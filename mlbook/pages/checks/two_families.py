"""Two families of lines in closed form: what one start, or one start for each, costs after N inner steps.

A task is a line y = c₁ + c₂·x, its parameters c [2] drawn from a normal around the centre of its family with standard deviation
``spread`` s in each direction; the two families are equally frequent and their centres 2m apart. K support points stand in equal
numbers at x = −1 and x = 1, with noise of standard deviation σ. The mean squared error on them is ‖θ − ĉ‖² plus a constant, where
ĉ = c + e is the least-squares line and e is normal with standard deviation τ = σ/√K. So N inner steps give

    θᴺ = ĉ + r·(θ − ĉ),        r = (1 − 2α)ᴺ        (``kept``, what is left of the start),

and the error is E‖θᴺ − c‖², the mean squared distance from the true line at x = ±1.
"""

from __future__ import annotations

import math

from mlbook.errors import UserError

STARTS = ("one", "known", "chosen")


def kept(inner_lr: float, steps: int) -> float:
    """r = (1 − 2α)ᴺ."""
    return (1 - 2 * inner_lr) ** steps


def wrong_share(half_distance: float, spread: float, noise: float) -> float:
    """How often the start nearer to ĉ is the one of the other family: Φ(−m/√(s² + τ²))."""
    v = math.hypot(spread, noise)
    return 0.5 * math.erfc(half_distance / v / math.sqrt(2)) if v else 0.5 * (half_distance == 0)


def expected_error(starts: str, half_distance: float, spread: float, noise: float, r: float) -> float:
    """E‖θᴺ − c‖² from ``starts``: ``one`` (the mean of both centres, MAML's optimum), ``known`` (the centre of the task's own
    family) or ``chosen`` (the centre with the smaller support loss, before or after adaptation: both order the starts alike).

    half_distance m, spread s, noise τ, r: see the module. Raises ``UserError`` for an unknown name.
    """
    if starts not in STARTS:
        raise UserError(f"starts must be one of {', '.join(STARTS)}, not {starts!r}")
    m, s2, t2 = half_distance, spread**2, noise**2
    base = 2 * (r * r * s2 + (1 - r) ** 2 * t2)
    if starts == "known":
        return base
    if starts == "one":
        return base + (r * m) ** 2
    v = math.hypot(spread, noise)
    if not v:
        return base
    density = math.exp(-0.5 * (m / v) ** 2) / math.sqrt(2 * math.pi)
    wrong = wrong_share(m, spread, noise)
    return base + 4 * (r * m) ** 2 * wrong - 4 * m * r * density / v * (r * s2 - (1 - r) * t2)
