"""The lab "Adapt a sinusoid": a reader's own few-shot task, adapted from several initialisations in the browser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import traitlets
from torch import nn

from mlbook.errors import UserError
from mlbook.models import MLP, Params, initial_params
from mlbook.pages.labs import assets
from mlbook.results import pretrained
from mlbook.tasks import Sinusoids

SHIPPED = {
    "MAML": ("maml-sinusoid-5shot", "Meta-learned with an inner loop of {inner_steps} on {k_shot} points"),
    "FOMAML": ("fomaml-sinusoid-5shot", "Meta-learned like MAML, but without the second derivatives"),
    "Reptile": (
        "reptile-sinusoid-5shot",
        "Moved again and again towards what {inner_steps} on {k_shot} points made of it",
    ),
    "pre-trained": (
        "pretraining-sinusoid-5shot",
        "Trained on the points of all tasks, without an inner loop",
    ),
}
"""Name in the lab: experiment of the checkpoint, and what is said about it, with values of its configuration."""

RANDOM_NOTE = (
    "Not trained: PyTorch's default, uniform within ±1/√inputs. "
    "(Training starts from smaller weights: nearly flat.)"
)
COLOURS = {"MAML": "maml", "FOMAML": "fomaml", "pre-trained": "pretraining", "random": "random"}
LINES = {
    "MAML": {
        "task": [["MAML 3", "a new task: its support points and its query set"]],
        "start": [["MAML 4", "the task starts at θ⁰ = θ"]],
        "step": [
            ["MAML 5", "the gradient of the loss on the support points"],
            ["MAML 6", "a step of rate α against it"],
            ["MAML 7", "the query loss of where it ends"],
        ],
        "rate": [
            ["MAML 6", "the steps, taken again at another rate α"],
            ["MAML 7", "the query loss of where they end"],
        ],
    },
    "REPTILE": {
        "task": [["REPTILE 2", "another task τ"]],
        "start": [["REPTILE 3", "the path on the task τ begins at θ"]],
        "step": [["REPTILE 3", "one of the k steps on the task τ"]],
        "rate": [["REPTILE 3", "the steps on the task τ, taken again at another rate α"]],
    },
}
"""Algorithm: what the reader may do in the lab, and which of its lines that runs, in words."""
MAX_POINTS = 10
STEPS = 10
QUERY_POINTS = 51
START = {"amplitude": 4.0, "phase": 2.2, "x": (-4.4, -1.8, -0.7, 1.2, 2.6)}
"""The task that the lab opens with: a true sine and the inputs of five support points on it, none of them where the sine
comes down again on the right."""


def random_initialisation(seed: int = 0) -> Params:
    """The sinusoid network as PyTorch would start it: weights and biases uniform within ±1/√inputs, drawn from ``seed``.

    The start of training (``MLP.reset_parameters``, standard deviation 0.01) is no baseline for fine-tuning: its
    function is nearly zero, and so are its gradients. With He's wider normal the inner loop overflows at rate 0.01.
    """
    generator = torch.Generator().manual_seed(seed)
    params = initial_params(MLP(), generator)
    for name in params:
        layer = name.rpartition(".")[0]
        bound = 1 / math.sqrt(params[f"{layer}.weight"].shape[1])
        nn.init.uniform_(params[name], -bound, bound, generator=generator)
    return params


def shipped_initialisations(
    names: Sequence[str] = ("MAML", "FOMAML", "pre-trained"),
) -> tuple[dict[str, Params], dict[str, str]]:
    """The shipped checkpoints of ``names`` (of ``SHIPPED``) and a random network, by name, and a note on each.

    ``CheckpointError`` if one of the checkpoints is missing.
    """
    initialisations, notes = {}, {}
    for name in names:
        experiment, note = SHIPPED[name]
        config, meta = pretrained(experiment)
        initialisations[name] = meta["params"]
        steps = config["learner"].get("inner_steps", 0)
        words = note.format(k_shot=config["k_shot"], inner_steps="1 step" if steps == 1 else f"{steps} steps")
        notes[name] = f"{words}; {config['meta_steps']:,} meta-steps."
    return {**initialisations, "random": random_initialisation()}, {**notes, "random": RANDOM_NOTE}


def pack(params: Params) -> bytes:
    """Parameters of ``MLP()`` as 1,761 little-endian float32: weight, then bias, layer by layer."""
    wanted = {name: tuple(p.shape) for name, p in MLP().named_parameters()}
    found = {name: tuple(p.shape) for name, p in params.items()}
    if found != wanted:
        raise UserError(f"the lab shows the network MLP() with parameters {wanted}, not {found}")
    flat = torch.cat([params[name].detach().cpu().float().flatten() for name in wanted])
    if not flat.isfinite().all():
        raise UserError("the parameters of an initialisation are not all finite")
    return flat.numpy().astype("<f4").tobytes()


class AdaptSinusoid(assets.Lab):
    """Drag support points, choose an initialisation, step through the inner loop, and watch the fit and the losses.

    initialisations: parameters of ``MLP()`` by the name that the lab shows; default: the shipped checkpoints of MAML,
    FOMAML and pre-training, and a random network (``CheckpointError`` if one is not there).
    notes: a sentence about each, by the same names.
    The other arguments are the state in which it opens, and later the traits that follow what the reader does:
    ``initialisation`` (a name), ``step`` 0..10, ``inner_lr`` α, ``amplitude`` and ``phase`` of the true sine
    y = A·sin(x − φ), and ``points``, 1 to 10 support points [x, y] (default: five on the true sine).
    ``algorithm``, "MAML" or "REPTILE": whose lines the page lights when the reader takes a step.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("adapt_sinusoid")

    weights = traitlets.Bytes().tag(sync=True)
    initialisation = traitlets.Unicode().tag(sync=True)
    step = traitlets.Int().tag(sync=True)
    inner_lr = traitlets.Float().tag(sync=True)
    amplitude = traitlets.Float().tag(sync=True)
    phase = traitlets.Float().tag(sync=True)
    points = traitlets.List().tag(sync=True)

    def __init__(
        self,
        initialisations: dict[str, Params] | None = None,
        *,
        notes: dict[str, str] | None = None,
        initialisation: str | None = None,
        step: int = 1,
        inner_lr: float = 0.001,
        amplitude: float = START["amplitude"],
        phase: float = START["phase"],
        points: Sequence[tuple[float, float]] | None = None,
        algorithm: str = "MAML",
    ) -> None:
        if initialisations is None:
            initialisations, shipped_notes = shipped_initialisations()
            notes = {**shipped_notes, **(notes or {})}
        names = list(initialisations)
        if not names:
            raise UserError("the lab needs at least one initialisation")
        free = iter(["other-1", "other-2", *COLOURS.values()])
        taken = {COLOURS[name] for name in names if name in COLOURS}
        colours = [COLOURS.get(name) or next((c for c in free if c not in taken), None) for name in names]
        if None in colours:
            raise UserError("the lab has colours for six initialisations at most")
        tasks = Sinusoids()
        low, high = tasks.x_range
        setup = {
            "sizes": [1, 40, 40, 1],
            "names": names,
            "notes": [(notes or {}).get(name, "") for name in names],
            "colours": colours,
            "steps": STEPS,
            "lines": LINES[assets.one_of(algorithm, "algorithm", LINES)],
            "max_points": MAX_POINTS,
            "x_range": [low, high],
            "y_range": [-5.5, 5.5],
            "amplitude_range": list(tasks.amplitude),
            "phase_range": list(tasks.phase),
            "query_x": [low + (high - low) * i / (QUERY_POINTS - 1) for i in range(QUERY_POINTS)],
        }
        if points is None:
            points = [(x, amplitude * math.sin(x - phase)) for x in START["x"]]
        initialisation = names[0] if initialisation is None else initialisation
        if not 1 <= len(points) <= MAX_POINTS:
            raise UserError(f"the lab takes 1 to {MAX_POINTS} support points, not {len(points)}")
        super().__init__(
            weights=b"".join(pack(params) for params in initialisations.values()),
            setup=setup,
            initialisation=assets.one_of(initialisation, "initialisation", names),
            step=assets.whole(step, "step", 0, STEPS),
            inner_lr=assets.within(inner_lr, "inner_lr", (0.0005, 0.02)),
            amplitude=assets.within(amplitude, "amplitude", tasks.amplitude),
            phase=assets.within(phase, "phase", tasks.phase),
            points=[assets.point(p, "a support point", setup["x_range"], setup["y_range"]) for p in points],
        )
