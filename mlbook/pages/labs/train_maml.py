"""The lab "Train MAML": checkpoints of one training as a slider, the inner step at each beside its linearisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import traitlets

from mlbook.data.tensor_file import load_tensors
from mlbook.errors import CheckpointError, UserError
from mlbook.pages.labs import assets
from mlbook.results import STUDIES, study
from mlbook.tasks import Sinusoids

NAME = "train_maml"
SEED = 0
QUERY_POINTS = 51
MEANS = ("before", "actual", "linearised")
PRESETS = {"On the plateau": 1_500, "The step is ahead": 3_600, "At the end": 70_000}
INPUTS = (-4.6, -3.7, -2.9, -1.6, -0.8, 0.5, 1.2, 2.3, 3.4, 4.5)


class TrainMaml(assets.Lab):
    """Slide through a training of MAML on sine waves; at each checkpoint see one inner step, as it is and linearised.

    The checkpoints and the mean errors are those of ``studies.train_maml`` (``CheckpointError`` if its files are not there).
    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``meta_step`` of
    a checkpoint, ``amplitude`` and ``phase`` of the true sine y = A·sin(x − φ), ten ``points`` [x, y] (default: on the true
    sine), and ``length`` of the inner step as a multiple of α.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources(NAME)

    weights = traitlets.Bytes().tag(sync=True)
    meta_step = traitlets.Int().tag(sync=True)
    amplitude = traitlets.Float().tag(sync=True)
    phase = traitlets.Float().tag(sync=True)
    points = traitlets.List().tag(sync=True)
    length = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        *,
        meta_step: int = 2_600,
        amplitude: float = 4.0,
        phase: float = 2.2,
        points: Sequence[tuple[float, float]] | None = None,
        length: float = 1.0,
    ) -> None:
        record = study(NAME)
        if record is None:
            raise CheckpointError(
                "no checkpoints of a training are shipped; run python -m studies.train_maml"
            )
        tensors, _ = load_tensors(STUDIES / f"{NAME}.safetensors")
        run, measured = record["runs"][str(SEED)], record["setup"]
        tasks = Sinusoids()
        low, high = tasks.x_range
        setup = {
            "sizes": [1, 40, 40, 1],
            "meta_steps": tensors["meta_steps"].tolist(),
            "means": {name: run["mean"][name] for name in MEANS},
            "switched": run["mean"]["switched"],
            "tasks": measured["tasks"],
            "inner_lr": measured["inner_lr"],
            "k_shot": measured["k_shot"],
            "seed": SEED,
            "presets": PRESETS,
            "x_range": [low, high],
            "y_range": [-5.5, 5.5],
            "amplitude_range": list(tasks.amplitude),
            "phase_range": list(tasks.phase),
            "lengths": [0.05, 5.0],
            "query_x": [low + (high - low) * i / (QUERY_POINTS - 1) for i in range(QUERY_POINTS)],
        }
        if points is None:
            points = [(x, round(amplitude * math.sin(x - phase), 2)) for x in INPUTS]
        if len(points) != setup["k_shot"]:
            raise UserError(f"the lab takes {setup['k_shot']} support points, not {len(points)}")
        box = setup["x_range"], setup["y_range"]
        super().__init__(
            weights=tensors["path"].numpy().tobytes(),
            setup=setup,
            meta_step=int(assets.one_of(meta_step, "meta_step", setup["meta_steps"])),
            amplitude=assets.within(amplitude, "amplitude", tasks.amplitude),
            phase=assets.within(phase, "phase", tasks.phase),
            points=[assets.point(p, "a support point", *box) for p in points],
            length=assets.within(length, "length", tuple(setup["lengths"])),
        )
