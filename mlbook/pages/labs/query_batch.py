"""The lab "Who is in the batch?": one adapted network, and query images that share a batch or do not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import traitlets

from mlbook.data import glyphs
from mlbook.errors import UserError
from mlbook.experiments import build_learner
from mlbook.models import Conv4
from mlbook.models.functional import Params
from mlbook.pages.labs import assets, coded_weights
from mlbook.results import pretrained
from mlbook.tasks import FewShot
from mlbook.tasks.episode import Episode

SHIPPED, SEED = "maml-omniglot-5w1s", 4
"""Weights and episode that the lab opens with."""
QUERIES = 5
"""Per class."""


def shipped_network(seed: int = SEED, steps: int = 3) -> tuple[Conv4, Params, Episode]:
    """The shipped Omniglot weights, adapted to one 5-way 1-shot episode of generated glyphs: network, θᴺ, the episode (one task).

    ``CheckpointError`` if the weights are missing.
    """
    config, meta = pretrained(SHIPPED)
    learner = build_learner(config)
    pool = glyphs.load("test", "none")
    task = FewShot(pool, config["n_way"], 1, QUERIES).sample(1, torch.Generator().manual_seed(seed)).task(0)
    *_, adapted = learner.path(meta, task.support_x, task.support_y, steps)
    return learner.model, {name: p.detach() for name, p in adapted.items()}, task


def pack(model: Conv4, params: Params) -> bytes:
    """Parameters of a strided ``Conv4`` with batch norm as little-endian float16, in the order of ``named_parameters``."""
    if model.downsample != "stride" or model.norms is None or model.convs[0].bias is not None:
        raise UserError("the lab computes the strided Conv4 with batch norm and without convolution biases")
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if {name: tuple(p.shape) for name, p in params.items()} != wanted:
        raise UserError("the parameters are not those of the network")
    return coded_weights.pack(params[name] for name in wanted)


class QueryBatch(assets.Lab):
    """Put query images into a batch and take them out, and see what one adapted network says of each under three kinds of
    batch-norm statistics: those of the batch, of the support set, and of the support set with the one image.

    model, params, episode: a strided ``Conv4``, its adapted parameters (rounded to 16 bits on the way to the page), and one task
    with support set and query set, whose queries are sorted by class, equally many of each (default: ``shipped_network``).
    The other arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``batch``,
    indices of queries (default: the first of every class), and ``watched``, the query whose probabilities are shown.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("query_batch", "query_batch")

    weights = traitlets.Bytes().tag(sync=True)
    images = traitlets.Bytes().tag(sync=True)
    batch = traitlets.List().tag(sync=True)
    watched = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        model: Conv4 | None = None,
        params: Params | None = None,
        episode: Episode | None = None,
        *,
        batch: Sequence[int] | None = None,
        watched: int = 0,
    ) -> None:
        if (model, params, episode) == (None, None, None):
            model, params, episode = shipped_network()
        elif model is None or params is None or episode is None:
            raise UserError("the lab takes a network, its parameters and an episode, or none of them")
        weights, ways = pack(model, params), model.head.out_features
        B = len(episode.query_y)
        Q = B // ways
        channels, size = episode.query_x.shape[1:3]
        if not 2 <= ways <= 5 or not 1 <= Q <= 5 or B != ways * Q or channels != 1:
            raise UserError(
                "the lab shows 2 to 5 classes with 1 to 5 queries each, of images with one channel"
            )
        if not torch.equal(episode.query_y.cpu(), torch.arange(ways).repeat_interleave(Q)):
            raise UserError("the lab needs queries that are sorted by class")
        batch = [Q * n for n in range(ways)] if batch is None else sorted(set(batch))
        if not all(i in range(B) for i in (*batch, watched)):
            raise UserError(f"queries are numbered from 0 to {B - 1}")
        images = torch.cat([episode.support_x, episode.query_x])
        super().__init__(
            weights=weights,
            images=(255 * images).round().to(torch.uint8).cpu().numpy().tobytes(),
            setup={
                "network": {
                    "ways": ways,
                    "filters": model.convs[0].out_channels,
                    "size": size,
                    "channels": 1,
                    "gamma": model.norms[0].gamma is not None,
                    "spatialMean": model.spatial_mean,
                    "eps": model.norms[0].eps,
                },
                "support_y": episode.support_y.tolist(),
                "queries": Q,
                "batch": batch,
                "watched": watched,
            },
            batch=batch,
            watched=watched,
        )
