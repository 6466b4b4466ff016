"""The figure on the front page: two networks meet one new task after the other, and take the same few gradient steps."""

from __future__ import annotations

import traitlets

from mlbook.models import Params
from mlbook.pages.labs import assets
from mlbook.pages.labs.adapt_sinusoid import pack
from mlbook.results import pretrained
from mlbook.tasks import Sinusoids

SHIPPED = (
    ("pre-trained", "pretraining-sinusoid-5shot", "pretraining"),
    ("meta-learned (MAML)", "maml-sinusoid-5shot-text-rate", "maml"),
)
"""Name in the figure, experiment of the checkpoint, colour. At MAML's rate, 0.01, the pre-trained start does better too."""

STEPS = 5
QUERY_POINTS = 51


class TwoStarts(assets.Lab):
    """A new sine wave every few seconds; from five of its points a pre-trained and a meta-learned start adapt in turn.

    starts: two or more parameters of ``MLP()`` by name; default: the shipped checkpoints (``CheckpointError`` if one is
    not there). ``inner_lr`` is the α that MAML's checkpoint was trained with, or the one given.
    The traits ``task`` [amplitude, phase, x₁, …, x_K] and ``step`` follow what is shown; it plays by itself unless the
    reader's system asks for reduced motion.
    """

    _esm, _css = assets.sources("two_starts")

    weights = traitlets.Bytes().tag(sync=True)
    task = traitlets.List().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(self, starts: dict[str, Params] | None = None, *, inner_lr: float | None = None) -> None:
        colours = ["pretraining", "maml", "fomaml", "random"]
        if starts is None:
            loaded = [pretrained(experiment) for _, experiment, _ in SHIPPED]
            starts = {name: meta["params"] for (name, _, _), (_, meta) in zip(SHIPPED, loaded, strict=True)}
            inner_lr = loaded[-1][0]["learner"]["inner_lr"] if inner_lr is None else inner_lr
        tasks = Sinusoids()
        low, high = tasks.x_range
        super().__init__(
            weights=b"".join(pack(params) for params in starts.values()),
            setup={
                "sizes": [1, 40, 40, 1],
                "names": list(starts),
                "colours": colours[: len(starts)],
                "steps": STEPS,
                "inner_lr": float(inner_lr if inner_lr is not None else 0.001),
                "x_range": [low, high],
                "y_range": [-5.5, 5.5],
                "amplitude_range": list(tasks.amplitude),
                "phase_range": list(tasks.phase),
                "query_x": [low + (high - low) * i / (QUERY_POINTS - 1) for i in range(QUERY_POINTS)],
            },
            task=[4.0, 2.2, -4.4, -1.8, -0.7, 1.2, 2.6],
        )
