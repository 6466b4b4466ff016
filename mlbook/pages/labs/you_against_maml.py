"""You against MAML: a reader sketches a sine wave through five of its points, and so do two networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import traitlets

from mlbook.errors import UserError
from mlbook.models import MLP, Params
from mlbook.pages.labs import assets
from mlbook.pages.labs.adapt_sinusoid import pack as checked
from mlbook.pages.labs.coded_weights import pack
from mlbook.pages.labs.two_starts import SHIPPED, STEPS
from mlbook.results import pretrained
from mlbook.tasks import Sinusoids

BOOK = "Learning to Learn"
"""What the picture for saving names as its source."""
GRID_POINTS = 101
"""Inputs at which the errors are measured; the pen writes at the same ones."""
TASK = (3.4, 0.7, -4.1, -2.6, -0.5, 1.9, 3.7)
"""The wave that the lab opens with: amplitude, phase, inputs of the five points."""


class YouAgainstMaml(assets.Lab):
    """Five points of a new sine wave: sketch the rest, then see what MAML and a pre-trained network make of the same points.

    maml, pre_trained: parameters of ``MLP()``; default: the shipped checkpoints of ``TwoStarts`` (``CheckpointError`` if
    one is not there). Both take the same few steps at ``inner_lr``, by default the α that MAML's checkpoint was
    trained with. Their weights travel in 16 bits.
    sketch: a curve to open with, two or more points (x, y) that straight lines join. done: whether it has been handed in.
    The traits ``task`` [amplitude, phase, x₁, …, x₅], ``sketch`` (a height for each of 101 inputs, None where nothing is
    drawn yet) and ``done`` follow what the reader does.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("you_against_maml", "you_against_maml")

    weights = traitlets.Bytes().tag(sync=True)
    task = traitlets.List().tag(sync=True)
    sketch = traitlets.List().tag(sync=True)
    done = traitlets.Bool().tag(sync=True)

    def __init__(
        self,
        maml: Params | None = None,
        pre_trained: Params | None = None,
        *,
        inner_lr: float | None = None,
        sketch: Sequence[tuple[float, float]] = (),
        done: bool = False,
    ) -> None:
        (_, before, _), (_, meta_learned, _) = SHIPPED
        if maml is None:
            config, state = pretrained(meta_learned)
            maml = state["params"]
            inner_lr = config["learner"]["inner_lr"] if inner_lr is None else inner_lr
        if pre_trained is None:
            pre_trained = pretrained(before)[1]["params"]
        for params in (maml, pre_trained):
            checked(params)
        order = [name for name, _ in MLP().named_parameters()]
        tasks = Sinusoids()
        low, high = tasks.x_range
        grid = [round(float(x), 6) for x in np.linspace(low, high, GRID_POINTS)]
        setup = {
            "sizes": [1, 40, 40, 1],
            "steps": STEPS,
            "inner_lr": float(inner_lr if inner_lr is not None else 0.01),
            "x_range": [low, high],
            "y_range": [-5.5, 5.5],
            "amplitude_range": list(tasks.amplitude),
            "phase_range": list(tasks.phase),
            "query_x": grid,
            "book": BOOK,
        }
        points = [
            assets.point(p, "a point of the sketch", setup["x_range"], setup["y_range"]) for p in sketch
        ]
        if len(points) == 1 or any(b[0] <= a[0] for a, b in zip(points, points[1:], strict=False)):
            raise UserError("a sketch is none or at least two points from left to right")
        if done and not points:
            raise UserError("a sketch that is done has points")
        heights: list[float | None] = [None] * GRID_POINTS
        if points:
            joined = np.interp(grid, *zip(*points, strict=True))
            heights = [round(float(y), 2) for y in joined]
        super().__init__(
            weights=pack(params[name] for params in (maml, pre_trained) for name in order),
            setup=setup,
            task=list(TASK),
            sketch=heights,
            done=bool(done),
        )
