"""The lab "Draw three characters": the reader draws a support set and a query, and the trained networks adapt to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import traitlets
from torch import Tensor

from mlbook.data.omniglot import ORIGINAL
from mlbook.errors import UserError
from mlbook.experiments import build_learner
from mlbook.meta_learners import MAML, Reptile
from mlbook.meta_learners.base import Meta
from mlbook.models.functional import Params
from mlbook.pages.labs import assets, coded_weights
from mlbook.pages.labs.strokes import Stroke, invented
from mlbook.results import pretrained
from mlbook.tasks.episode import Episode
from mlbook.training.evaluation import predictions

LETTERS = "ABCDE"
WAYS = len(LETTERS)


@dataclass(frozen=True)
class Shipped:
    """Trained weights that the lab carries."""

    name: str
    checkpoint: str
    inverted: bool
    """Whether the network was trained on ink = 0 and paper = 1."""


METHODS = {
    "maml": Shipped("MAML", "maml-omniglot-5w1s", False),
    "reptile": Shipped("Reptile", "reptile-omniglot-5w1s", True),
}
EXAMPLES = (
    (((2, 1), (3, 4), (0, 4)), 1),
    (((2, 7), (3, 5), (0, 8), (4, 3), (1, 8)), 2),
    (((2, 0), (4, 2), (5, 2)), 0),
    (((3, 6), (3, 7), (5, 3), (2, 9)), 3),
    (((0, 0), (1, 5), (4, 4), (3, 8), (5, 9)), 0),
    (((1, 0), (1, 9), (1, 8)), 2),
)
"""Default drawings: (seed, number) of the invented characters of a set, and which of them is drawn again as the query."""


def examples() -> list[dict]:
    """The sets of default drawings: ``drawings`` (five classes, of which some may be empty, and the query) and ``truth``."""
    invention = {
        seed: invented(10, 2, seed) for seed in sorted({s for chosen, _ in EXAMPLES for s, _ in chosen})
    }
    found = []
    for chosen, truth in EXAMPLES:
        support = [invention[seed][number][0] for seed, number in chosen]
        seed, number = chosen[truth]
        found.append(
            {
                "drawings": support + [[]] * (WAYS - len(support)) + [invention[seed][number][1]],
                "truth": truth,
            }
        )
    return found


def _rows(params: Params, rows: Sequence[int]) -> Params:
    return {name: p[list(rows)] if name.startswith("head.") else p for name, p in params.items()}


def _shipped(method: str) -> tuple[dict, MAML | Reptile, Meta]:
    """Configuration, learner and meta-parameters in the order in which they are packed."""
    config, meta = pretrained(METHODS[method].checkpoint)
    learner = build_learner(config)
    order = [name for name, _ in learner.model.named_parameters()]
    return (
        config,
        learner,
        {g: {n: meta[g][n] for n in order} if g != "moment_weight" else meta[g] for g in meta},
    )


def learner_of(method: str, rows: Sequence[int] = range(WAYS)) -> tuple[MAML | Reptile, Meta]:
    """The learner and the initialisation that the page computes with, in double precision: the shipped weights as rounded for the
    page (``coded_weights`` has what that costs), with the given rows of the head (classes) only.
    """
    config, _, meta = _shipped(method)
    rounded = {"params": _rows(coded_weights.rounded(meta["params"]), rows)}
    if "second_moment" in meta:
        rounded["second_moment"] = _rows(coded_weights.rounded_moments(meta["second_moment"]), rows)
        rounded["moment_weight"] = {n: w.double() for n, w in meta["moment_weight"].items()}
    return build_learner({**config, "n_way": len(rows)}), rounded


def _described(method: str) -> tuple[dict, bytes]:
    """What the page needs to know of a method, and its weights."""
    config, learner, meta = _shipped(method)
    model = learner.model
    packed = coded_weights.pack(meta["params"].values())
    described = {
        "name": METHODS[method].name,
        "network": {
            "ways": WAYS,
            "filters": model.convs[0].out_channels,
            "size": 28,
            "channels": 1,
            "gamma": model.norms[0].gamma is not None,
            "spatialMean": model.spatial_mean,
            "eps": model.norms[0].eps,
        },
        "shapes": [list(p.shape) for p in meta["params"].values()],
        "rate": learner.inner_lr,
        "steps": config["test_steps"],
        "reported": config["report_step"],
        "inverted": METHODS[method].inverted,
    }
    if isinstance(learner, Reptile):
        packed += coded_weights.pack_moments(meta["second_moment"])
        described |= {"kind": "adam", "weight": float(meta["moment_weight"]["weight"]), "fixedNorm": False}
    else:
        assert learner.inner_loss == "mean"  # the page knows no other
        described |= {"kind": "sgd", "fixedNorm": learner.names is not None}
    return described, packed


def _checked(drawings: Sequence[Sequence[Stroke]]) -> list[list[list[float]]]:
    if len(drawings) != WAYS + 1:
        raise UserError(f"the lab shows {WAYS} classes (empty lists for none) and a query")
    for stroke in (stroke for drawing in drawings for stroke in drawing):
        inside = all(isinstance(v, (int, float)) and 0 <= v <= ORIGINAL for v in stroke)
        if len(stroke) < 2 or len(stroke) % 2 or not inside:
            raise UserError(f"a stroke is a list x0, y0, x1, y1, … of numbers from 0 to {ORIGINAL}")
    return [[list(stroke) for stroke in drawing] for drawing in drawings]


class DrawCharacters(assets.Lab):
    """Draw one example each of two to five classes and a query; MAML or Reptile adapts to the support set and says what the query
    is, after every inner step.

    The drawn classes make the task: with n of them the network keeps n of its five outputs, and the loss and the probabilities
    are over these. Batch norm takes its statistics of the support set together with the query (mode ``support_and_query``),
    for either method, because a reader draws one query. What the page computes, ``learner_of`` and ``evaluation.predictions``
    compute in PyTorch.

    drawings: the classes A to E and the query, each a list of strokes (see ``strokes``); default: the set ``example`` of the
    lab's own. method: ``maml`` or ``reptile``. step: the inner step whose answer is shown (default: the one that the method's
    published score is measured at). centred: whether drawings are moved to where Omniglot's drawings lie on average.
    Later the traits follow what the reader does. ``later_…``: the weights of a method; a built page fetches them when the lab
    stands (book/_ext/later.py). Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("draw_characters", "plane", "draw_characters")

    later_maml = traitlets.Bytes().tag(sync=True)
    later_reptile = traitlets.Bytes().tag(sync=True)
    worker = traitlets.Unicode().tag(sync=True)
    drawings = traitlets.List().tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    step = traitlets.Int().tag(sync=True)
    centred = traitlets.Bool().tag(sync=True)
    example = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        drawings: Sequence[Sequence[Stroke]] | None = None,
        *,
        method: str = "maml",
        step: int | None = None,
        centred: bool = True,
        example: int = 0,
    ) -> None:
        method, sets = assets.one_of(method, "method", METHODS), examples()
        example = assets.whole(example, "example", 0, len(sets) - 1)
        described = {name: _described(name) for name in METHODS}
        methods = {name: values for name, (values, _) in described.items()}
        last = methods[method]["steps"]
        step = methods[method]["reported"] if step is None else step
        if step not in range(last + 1):
            raise UserError(f"step is from 0 to {last} with {METHODS[method].name}")
        super().__init__(
            later_maml=described["maml"][1],
            later_reptile=described["reptile"][1],
            worker=assets.script("draw_worker.js") + "\nlisten(self);\n",
            setup={"letters": list(LETTERS), "methods": methods, "examples": sets},
            drawings=_checked(sets[example]["drawings"] if drawings is None else drawings),
            method=method,
            step=int(step),
            centred=bool(centred),
            example=example,
        )


def answers(
    method: str, support: Tensor, queries: Tensor, rows: Sequence[int], steps: Sequence[int]
) -> Tensor:
    """What the page computes, in PyTorch: probabilities [len(steps), B, n] of the classes after each of these inner steps.

    support [n, 28, 28] and queries [B, 28, 28]: ink = 1; one drawing of each of the n classes whose outputs are ``rows``. Every
    query is classified together with the support set, not with other queries.
    """
    learner, meta = learner_of(method, rows)
    x, q = (1 - v if METHODS[method].inverted else v for v in (support.double(), queries.double()))
    episode = Episode(x[:, None], torch.arange(len(rows)), q[:, None], torch.zeros(len(q), dtype=torch.long))
    path = learner.path(meta, episode.support_x, episode.support_y, max(steps))
    found = {
        n: predictions(learner, params, episode, "support_and_query", None).detach().softmax(1)
        for n, params in enumerate(path)
        if n in steps
    }
    return torch.stack([found[n] for n in steps])
