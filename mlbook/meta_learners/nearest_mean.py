"""The baseline that every meta-learner has to beat: nearest mean in the features
of a network that is not meta-trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.errors import UserError
from mlbook.meta_learners import first_look
from mlbook.meta_learners.base import Meta, MetaLearner, State
from mlbook.models.functional import Params, call
from mlbook.tasks.episode import Episode


@dataclass(frozen=True)
class NearestMean(MetaLearner):
    """A query gets the class whose mean support feature is nearest (Euclidean)."""

    model: nn.Module
    """From examples [B, ...] to features, which are flattened. It keeps its values
    and its mode: train it before, in any way, and call ``eval()``.
    ``nn.Flatten()`` compares the examples themselves."""
    normalise: bool = False
    """Whether features are scaled to length 1 before means are taken."""
    engine = "none"
    vmappable = False
    inductive = True

    def init(
        self,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> State:
        """The network as it is; there is nothing to train."""
        own = {
            name: p.detach().to(device) for name, p in self.model.named_parameters()
        }
        own = own or {"no parameters": torch.zeros(0, device=device)}
        return State({"params": own}, torch.optim.SGD(own.values(), lr=0.0))

    def step(self, *_, **__):
        raise UserError(
            "the nearest mean is not meta-trained; evaluate it as it is"
        )

    def check_episodes(
        self, meta: Meta, episodes: Episode, *, wait: bool = False
    ) -> None:
        first_look.check_classes(episodes)

    def features(self, params: Params, x: Tensor) -> Tensor:
        """Examples x [B, ...] -> [B, D]."""
        found = call(self.model, params, x).flatten(1)
        return F.normalize(found, dim=1) if self.normalise else found

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """The mean of each class, the same after 0, 1, ..., ``steps`` steps."""
        features = self.features(meta["params"], support_x)
        classes = range(int(support_y.max()) + 1)
        if missing := set(classes) - set(support_y.tolist()):
            raise UserError(f"class {min(missing)} has no support example")
        means = torch.stack([features[support_y == c].mean(0) for c in classes])
        for _ in range(steps + 1):
            yield {**meta["params"], "means": means}

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """Minus the squared distance to each mean, [B, N]. Its softmax is the
        probability of each class if all are round clouds of variance 1/2."""
        means = params["means"]
        own = {name: p for name, p in params.items() if name != "means"}
        found = self.features(own, x)
        # by differences: a product of matrices cancels where features have an offset
        exact = "donot_use_mm_for_euclid_dist"
        return -torch.cdist(found, means, compute_mode=exact).square()
