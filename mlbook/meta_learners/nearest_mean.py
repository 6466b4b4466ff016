"""The baseline that every meta-learner has to beat: nearest mean in the features
of a network that is not meta-trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.base import InitialisationLearner, Meta, State
from mlbook.models.functional import Params, call

MEANS = "nearest mean"


@dataclass(frozen=True)
class NearestMean(InitialisationLearner):
    """A query gets the class whose mean support feature is nearest (Euclidean).

    model: any module from examples [B, ...] to features; what it returns is
        flattened. ``nn.Flatten()`` compares the examples as they are. It keeps
        its own values: train it beforehand, in any way. There is no inner loop
        and nothing to meta-train.
    normalise: scale every feature vector to length 1 before means are taken.
    """

    normalise: bool = False
    engine = "none"
    vmappable = False
    inductive = True

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """The network as it is. There is no optimiser: ``step`` is not for this
        baseline."""
        return State(self.draw(generator, device), torch.optim.SGD([torch.zeros(0)]))

    def step(self, *_, **__):
        raise UserError("the nearest mean is not meta-trained; evaluate it as it is")

    def features(self, params: Params, x: Tensor) -> Tensor:
        """Examples x [B, ...] -> [B, D]."""
        found = call(self.model, params, x).flatten(1)
        return F.normalize(found, dim=1) if self.normalise else found

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """The means of the classes, the same after 0, 1, ..., ``steps`` steps."""
        known = self.features(meta["params"], support_x)
        classes = torch.arange(int(support_y.max()) + 1, device=support_y.device)
        one_hot = (support_y[None] == classes[:, None]).to(known.dtype)
        means = one_hot @ known / one_hot.sum(1, keepdim=True)
        for _ in range(steps + 1):
            yield {**meta["params"], MEANS: means}

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """Minus the squared distance to each mean, [B, N]: its softmax is a
        probability under equal, round classes."""
        own = {name: p for name, p in params.items() if name != MEANS}
        distances = torch.cdist(self.features(own, x), params[MEANS])
        return -distances.square()
