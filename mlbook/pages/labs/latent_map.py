"""The lab "A map of classifiers": LEO in the plane, where the code of a class is a point that can be moved by hand."""

from __future__ import annotations

import torch
import traitlets

from mlbook.errors import UserError
from mlbook.experiments import build_learner
from mlbook.meta_learners import LEO
from mlbook.meta_learners.base import Meta
from mlbook.pages.labs import assets
from mlbook.results import pretrained
from mlbook.tasks.plane import REACH, BentSectors

SHIPPED, SEED = "leo-plane-3w1s", 1
LETTERS = "ABC"
TASKS, QUERIES, SHOTS = 6, 15, 3
DRAWS, SAMPLES = 4, 12
STEPS = 20
"""Most inner steps of either kind."""
MAP = 6.0
"""Half the side of the latent map."""


def shipped_leo(name: str = SHIPPED) -> tuple[LEO, Meta]:
    """A shipped LEO of the plane: the learner and its meta-parameters. ``CheckpointError`` if they are missing."""
    config, meta = pretrained(name)
    return build_learner(config), meta


def pack(meta: Meta) -> bytes:
    """Networks and rates as little-endian float32: encoder, relation network, decoder, latent rates, fine-tuning rates."""
    params, rates = meta["params"], meta["rates"]
    tensors = [params["encoder"], *(params[f"relation.{i}"] for i in range(3)), params["decoder"]]
    flat = torch.cat([t.detach().cpu().flatten() for t in (*tensors, rates["latent"], rates["finetuning"])])
    if len(flat) != sum(t.numel() for group in meta.values() for t in group.values()):
        raise UserError("the parameters are not those of LEO in the plane")
    return flat.numpy().astype("<f4").tobytes()


LINES = {
    "encode": [
        ["LEO 1", "the encoder on the support points"],
        ["LEO 2", "the relation network on all pairs of them"],
        ["LEO 3", "mean and spread of each class's code"],
        ["LEO 5", "the decoder makes weights of the codes"],
    ],
    "draw": [["LEO 4", "codes drawn from these Gaussians"], ["LEO 5", "the weights of each draw"]],
    "move": [["LEO 5", "the decoder makes weights of the codes you have set"]],
    "latent": [
        ["LEO 7", "logits of the support points"],
        ["LEO 8", "their cross-entropy, summed"],
        ["LEO 9", "a step of the codes against its gradient"],
        ["LEO 10", "the decoder makes weights of the new codes"],
    ],
    "finetuning": [["LEO 11", "a step of the weights themselves"]],
}
"""What the reader may do in the lab, and which lines of LEO that runs, in words."""


class LatentMap(assets.Lab):
    """Support points of three classes in a plane, the code of each class on a latent map, and the decoded classifier.

    learner, meta: a LEO with two latent dimensions over the features of ``BentSectors``, and its meta-parameters (default: the
    shipped ones). The other arguments are the state in which the lab opens, and later the traits that follow what the reader
    does: ``shots`` per class, 1 or 3; ``latent`` and ``finetuning``, inner steps taken, 0..20; ``task``, 0..5; ``draw``, which
    set of samples of z is shown, 0 for none. Further traits: ``points``, the support points, three per class of which the first
    ``shots`` count; ``codes``, one point per class where they were set by hand, otherwise empty.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("latent_map", "methods", "plane", "latent_map")

    weights = traitlets.Bytes().tag(sync=True)
    points = traitlets.List().tag(sync=True)
    codes = traitlets.List().tag(sync=True)
    latent = traitlets.Int().tag(sync=True)
    finetuning = traitlets.Int().tag(sync=True)
    shots = traitlets.Int().tag(sync=True)
    draw = traitlets.Int().tag(sync=True)
    task = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        learner: LEO | None = None,
        meta: Meta | None = None,
        *,
        shots: int = 1,
        latent: int = 0,
        finetuning: int = 0,
        task: int = 0,
        draw: int = 0,
    ) -> None:
        if (learner is None) != (meta is None):
            raise UserError("the lab takes a learner and its meta-parameters, or neither")
        if learner is None:
            learner, meta = shipped_leo()
        tasks = BentSectors(k_shot=SHOTS, n_query=QUERIES)
        if (learner.features, learner.n_way, learner.latent) != (tasks.features, len(LETTERS), 2):
            raise UserError(
                f"the lab shows LEO with {tasks.features} features, {len(LETTERS)} classes and 2 latent dimensions"
            )
        if shots not in (1, SHOTS):
            raise UserError(f"shots must be 1 or {SHOTS}, not {shots}")
        task = assets.whole(task, "task", 0, TASKS - 1)
        g = torch.Generator().manual_seed(SEED)
        support, query = ((100 * points).round().double() / 100 for points in tasks.points(TASKS, g))
        noise = torch.randn(DRAWS, SAMPLES, len(LETTERS), 2, generator=g, dtype=torch.float64)
        each = [{"support": s.tolist(), "query": q.tolist()} for s, q in zip(support, query, strict=True)]
        super().__init__(
            weights=pack(meta),
            setup={
                "network": {
                    "features": learner.features,
                    "latent": learner.latent,
                    "units": learner.relation_units or 2 * learner.latent,
                },
                "bumps": {"grid": tasks.grid, "width": tasks.width, "reach": REACH},
                "ways": len(LETTERS),
                "letters": list(LETTERS),
                "most": SHOTS,
                "map": MAP,
                "steps": STEPS,
                "lines": LINES,
                "trained": [learner.latent_steps, learner.finetuning_steps],
                "tasks": each,
                "noise": ((1000 * noise).round() / 1000).tolist(),
            },
            points=[p for of in each[task]["support"] for p in of],
            codes=[],
            latent=assets.whole(latent, "latent", 0, STEPS),
            finetuning=assets.whole(finetuning, "finetuning", 0, STEPS),
            shots=int(shots),
            draw=assets.whole(draw, "draw", 0, DRAWS),
            task=task,
        )
