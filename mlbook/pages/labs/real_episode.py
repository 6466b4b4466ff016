"""The lab "One real task": LEO and the nearest centroid on features of real photographs, five classes of the reader's choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import traitlets
from torch import Tensor

from mlbook.data import feature_sets
from mlbook.errors import UserError
from mlbook.experiments import build_learner
from mlbook.meta_learners import LEO
from mlbook.meta_learners.base import Meta
from mlbook.pages.labs import assets, coded_weights
from mlbook.results import pretrained

SHIPPED = "leo-mini-wrn-10-4-5w1s"
PICTURES, PER_DRAW, STEPS = 20, 5, 10
"""Pictures of each class in the page, those of them that one draw of the support set takes, most inner steps of either kind."""
NAMES = {
    "n01930112": "nematode",
    "n01981276": "king crab",
    "n02099601": "golden retriever",
    "n02110063": "malamute",
    "n02110341": "dalmatian",
    "n02116738": "hunting dog",
    "n02129165": "lion",
    "n02219486": "ant",
    "n02443484": "ferret",
    "n02871525": "bookshop",
    "n03127925": "crate",
    "n03146219": "cuirass",
    "n03272010": "electric guitar",
    "n03544143": "hourglass",
    "n03775546": "mixing bowl",
    "n04146614": "school bus",
    "n04149813": "scoreboard",
    "n04418357": "theatre curtain",
    "n04522168": "vase",
    "n07613480": "trifle",
}
"""What the WordNet numbers of miniImageNet's meta-test classes stand for."""
SETS = {"Furry animals": (2, 3, 5, 6, 8), "Things apart": (4, 9, 12, 15, 17)}
"""Five classes that look alike, five that do not (places in the sample)."""


def shipped_leo(name: str = SHIPPED) -> tuple[LEO, Meta]:
    """The shipped LEO of miniImageNet's features: the learner and its meta-parameters."""
    config, meta = pretrained(name)
    return build_learner(config), meta


def pack(learner: LEO, meta: Meta) -> bytes:
    """What LEO needs at meta-test, little-endian float16: encoder, relation network, the decoder's means, both kinds of rates."""
    params, rates = meta["params"], meta["rates"]
    tensors = [params["encoder"], *(params[f"relation.{i}"] for i in range(3))]
    tensors += [params["decoder"][: learner.features], rates["latent"], rates["finetuning"]]
    return coded_weights.pack(tensors)


def rounded(meta: Meta) -> Meta:
    """What ``pack`` keeps of the meta-parameters, in double precision: what the page computes with."""
    return {group: coded_weights.rounded(its) for group, its in meta.items()}


def features_in_bytes() -> Tensor:
    """The first pictures of each class of the sample, uint8 [classes, PICTURES, D]: at length 1, the largest entry of all is 255.

    What the rounding of features and weights costs (300 meta-test tasks, 15 queries per class, the same for both): LEO after
    ten steps is right on 55.24 % with 32 bits and on 55.26 % rounded with one shot (69.71 and 69.73 % with five), the nearest
    centroid on 52.10 % both times (70.06 and 70.07 %).
    """
    pool, _ = feature_sets.sample()
    x = F.normalize(pool.features[:, :PICTURES].float(), dim=-1)
    return (255 * x / x.max()).round().to(torch.uint8)


class RealEpisode(assets.Lab):
    """Choose five of twenty classes, the support pictures and the inner steps; see LEO's query accuracy and what it mixes up.

    learner, meta: a LEO for 5 ways over the shipped features, and its meta-parameters (default: the shipped ones). The other
    arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``classes``, five
    places in the sample's 20 classes; ``shots``, 1 or 5; ``latent`` and ``finetuning``, inner steps from 0 to 10; ``shown``,
    whose answers the table counts, ``leo`` or ``centroid``. Further trait: ``draw``, which support pictures, 0..3.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("real_episode", "plane", "real_episode")

    weights = traitlets.Bytes().tag(sync=True)
    features = traitlets.Bytes().tag(sync=True)
    classes = traitlets.List().tag(sync=True)
    shots = traitlets.Int().tag(sync=True)
    draw = traitlets.Int().tag(sync=True)
    latent = traitlets.Int().tag(sync=True)
    finetuning = traitlets.Int().tag(sync=True)
    shown = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        learner: LEO | None = None,
        meta: Meta | None = None,
        *,
        classes: Sequence[int] = (1, 3, 7, 14, 18),
        shots: int = 1,
        latent: int = 0,
        finetuning: int = 0,
        shown: str = "leo",
    ) -> None:
        if (learner is None) != (meta is None):
            raise UserError("the lab takes a learner and its meta-parameters, or neither")
        if learner is None:
            learner, meta = shipped_leo()
        x = features_in_bytes()
        if (learner.features, learner.n_way, learner.start) != (x.shape[2], 5, "encoder"):
            raise UserError(f"the lab shows LEO with {x.shape[2]} features, 5 classes and an encoder")
        if len(set(classes)) != 5 or not all(c in range(len(x)) for c in classes):
            raise UserError(f"classes are five different whole numbers from 0 to {len(x) - 1}, not {classes}")
        if shots not in (1, PER_DRAW):
            raise UserError(f"shots must be 1 or {PER_DRAW}, not {shots}")
        pool, _ = feature_sets.sample()
        super().__init__(
            weights=pack(learner, meta),
            features=x.numpy().tobytes(),
            setup={
                "network": {
                    "features": learner.features,
                    "latent": learner.latent,
                    "units": learner.relation_units or 2 * learner.latent,
                    "classes": len(x),
                    "pictures": PICTURES,
                },
                "names": [NAMES[name] for name in pool.names],
                "most": STEPS,
                "draws": PICTURES // PER_DRAW,
                "sets": {name: list(its) for name, its in SETS.items()},
                "trained": [learner.latent_steps, learner.finetuning_steps],
            },
            classes=[int(c) for c in classes],
            shots=int(shots),
            draw=0,
            latent=assets.whole(latent, "latent", 0, STEPS),
            finetuning=assets.whole(finetuning, "finetuning", 0, STEPS),
            shown=assets.one_of(shown, "shown", ("leo", "centroid")),
        )
