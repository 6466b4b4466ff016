"""The lab "Find the goal": a policy explores, takes gradient steps on its own rollouts, and explores again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import traitlets

from mlbook.models.functional import Params
from mlbook.pages.labs import assets
from mlbook.pages.labs.coded_weights import pack
from mlbook.reinforcement import GaussianPolicy, Navigation
from mlbook.reinforcement.navigation import CLOSE, REACH
from mlbook.results import pretrained

STARTS = {
    "meta-learned": (
        "maml-navigation-2d",
        "maml",
        "Trained by MAML so that one gradient step helps; {meta_steps} meta-steps.",
    ),
    "pre-trained": (
        "pretrained-navigation-2d",
        "pretraining",
        "Trained on all goals at once, without inner steps; {meta_steps} meta-steps.",
    ),
    "random": (None, "random", "Not trained."),
}
"""Name in the lab: experiment of the checkpoint, colour, and what is said about it."""
STEPS, TRAJECTORIES, VIEW, GOALS = 3, 20, 0.75, (-0.5, 0.5)


def starts() -> tuple[dict[str, Params], dict[str, str]]:
    """The parameters of each start and the sentence about it. ``CheckpointError`` if a checkpoint is missing."""
    order = list(GaussianPolicy().initial(torch.Generator()))
    found, notes = {}, {}
    for name, (experiment, _, note) in STARTS.items():
        if experiment is None:
            found[name], notes[name] = GaussianPolicy().initial(torch.Generator().manual_seed(0)), note
            continue
        config, meta = pretrained(experiment)
        # a file has its tensors in alphabetical order, the page wants them in that of the network
        found[name] = {n: meta["params"][n] for n in order}
        notes[name] = note.format(meta_steps=config["meta_steps"])
    return found, notes


class FindTheGoal(assets.Lab):
    """Place the goal, let the policy explore, take a gradient step from its rollouts, explore again.

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``goal`` (x, y),
    each within ±0.5; ``start``, a name in ``STARTS``; ``seed`` of the noise, 1..999; ``step``, gradient steps taken, 0..3;
    ``inner_lr`` α, 0..1. Weights travel in 16 bits; the arithmetic on the page is in double precision. Raises ``UserError`` for
    what the lab cannot show.
    """

    _esm, _css = assets.sources("find_the_goal", "methods", "plane")

    weights = traitlets.Bytes().tag(sync=True)
    goal = traitlets.List().tag(sync=True)
    start = traitlets.Unicode().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    step = traitlets.Int().tag(sync=True)
    inner_lr = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        goal: Sequence[float] = (0.35, 0.3),
        start: str = "meta-learned",
        seed: int = 1,
        step: int = 0,
        inner_lr: float = 0.5,
    ) -> None:
        params, notes = starts()
        super().__init__(
            weights=b"".join(pack(p.values()) for p in params.values()),
            setup={
                "sizes": list(GaussianPolicy().sizes),
                "starts": {name: {"colour": STARTS[name][1], "note": notes[name]} for name in STARTS},
                "steps": STEPS,
                "trajectories": TRAJECTORIES,
                "horizon": Navigation().horizon,
                "reach": REACH,
                "close": CLOSE,
                "discount": 0.99,
                "ridge": 1e-5,
                "view": VIEW,
                "goals": list(GOALS),
            },
            goal=assets.point(goal, "goal", GOALS, GOALS),
            start=assets.one_of(start, "start", STARTS),
            seed=assets.whole(seed, "seed", 1, 999),
            step=assets.whole(step, "step", 0, STEPS),
            inner_lr=assets.within(inner_lr, "inner_lr", (0, 1)),
        )
