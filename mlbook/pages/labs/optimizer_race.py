"""The lab "The optimiser race": gradient descent, momentum, RMSprop, Adam and a trained LSTM on a surface of the plane."""

from __future__ import annotations

from collections.abc import Sequence

import anywidget
import torch
import traitlets

from mlbook import results
from mlbook.errors import UserError
from mlbook.experiments import build_learner
from mlbook.models.functional import Params
from mlbook.optimizers.learned_optimizer import LearnedOptimizer
from mlbook.pages.labs import assets
from mlbook.training.runner import load_checkpoint

EXPERIMENT = "learned-optimizer-bowl"
RATES = {"SGD": 0.05, "momentum": 0.02, "RMSprop": 0.1, "Adam": 0.5}
"""The best of the grid ``mlbook.optimizers.rules.RATES`` on 256 bowls like those that the LSTM was trained on, 60 steps."""
X_RANGE, Y_RANGE = (-3.0, 3.0), (-2.5, 3.0)
LAST = 100
RANGES = {"curvatures": (0.05, 50.0), "angle": (0, 180), "steepness": (1.0, 50.0), "rates": (0.0005, 2.0)}
SURFACES = ("bowl", "valley")


def shipped_network() -> tuple[LearnedOptimizer, Params]:
    """The optimiser that was trained on bowls, and its weights."""
    config, meta = load_checkpoint(results.pretrained_path(EXPERIMENT))
    return build_learner(config), meta["params"]


def flat(phi: Params) -> torch.Tensor:
    """The weights in the order in which the page reads them: layer by layer matrix and bias, then the output's."""
    layers = sum(name.startswith("lstm.") for name in phi) // 2
    names = [f"lstm.{k}.{part}" for k in range(layers) for part in ("weight", "bias")]
    return torch.cat([phi[name].flatten().float() for name in (*names, "output.weight", "output.bias")])


class OptimizerRace(anywidget.AnyWidget):
    """Shape a surface, place the start, set the rates of the hand-designed rules, and watch all five run side by side.

    The bowl is ½(k₁u² + k₂v²) with its axes turned by ``angle`` degrees, the bent valley 0.1((1 − x)² + s(y − x²)²), after
    Rosenbrock. The arguments are the state in which it opens, and later the traits that follow what the reader does:
    ``surface`` "bowl" or "valley", ``curvatures`` (k₁, k₂), ``angle``, ``steepness`` s, ``start`` [x, y], ``rates`` by name,
    ``step`` up to which the paths are drawn. Raises ``UserError`` for what the lab cannot show.
    """

    _esm = assets.module("optimizer_race.js")
    _css = assets.text("shared.css") + assets.text("plane.css")

    setup = traitlets.Dict().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    surface = traitlets.Unicode().tag(sync=True)
    curvatures = traitlets.List().tag(sync=True)
    angle = traitlets.Float().tag(sync=True)
    steepness = traitlets.Float().tag(sync=True)
    start = traitlets.List().tag(sync=True)
    rates = traitlets.Dict().tag(sync=True)
    step = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        network: tuple[LearnedOptimizer, Params] | None = None,
        *,
        surface: str = "bowl",
        curvatures: Sequence[float] = (8.0, 0.5),
        angle: float = 30.0,
        steepness: float = 10.0,
        start: Sequence[float] = (-2.4, 1.2),
        rates: dict[str, float] | None = None,
        step: int = 30,
    ) -> None:
        rates = {**RATES, **(rates or {})}
        if surface not in SURFACES:
            raise UserError(f"surface must be one of {', '.join(SURFACES)}, not {surface!r}")
        if set(rates) != set(RATES):
            raise UserError(f"rates are those of {', '.join(RATES)}")
        if len(curvatures) != 2:
            raise UserError("curvatures are two numbers")
        checked = [("angle", angle), ("steepness", steepness)]
        checked += [("curvatures", v) for v in curvatures] + [("rates", v) for v in rates.values()]
        for name, value in checked:
            low, high = RANGES[name]
            if not low <= value <= high:
                raise UserError(f"{name} must lie between {low:g} and {high:g}, not {value}")
        if len(start) != 2 or not all(
            low <= v <= high for v, (low, high) in zip(start, (X_RANGE, Y_RANGE), strict=True)
        ):
            raise UserError(f"start is (x, y) with x from -3 to 3 and y from -2.5 to 3, not {start}")
        if step not in range(LAST + 1):
            raise UserError(f"step must be a whole number from 0 to {LAST}, not {step}")
        learner, phi = shipped_network() if network is None else network
        shape = {"units": learner.units, "layers": learner.layers, "scale": learner.scale, "p": learner.p}
        super().__init__(
            setup={
                "network": shape,
                "x_range": list(X_RANGE),
                "y_range": list(Y_RANGE),
                "last": LAST,
                "ranges": {name: list(limits) for name, limits in RANGES.items()},
            },
            weights=flat(phi).numpy().astype("<f4").tobytes(),
            surface=surface,
            curvatures=[float(v) for v in curvatures],
            angle=float(angle),
            steepness=float(steepness),
            start=[float(v) for v in start],
            rates={name: float(v) for name, v in rates.items()},
            step=step,
        )
