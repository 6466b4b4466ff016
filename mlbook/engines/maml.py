"""MAML by closed forms: the gradient of ``meta_learners/maml.py``, several times faster, for the networks of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mlbook.engines import conv4_sweeps, mlp_sweeps
from mlbook.engines.descent import Descent
from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, Metrics
from mlbook.meta_learners.maml import MAML
from mlbook.models import conv4_kernels
from mlbook.models.functional import Params
from mlbook.tasks.episode import Episode


@dataclass(frozen=True)
class FastMAML(MAML):
    """``MAML`` with the same arguments and the same gradient. ``UserError`` for a network that has no closed forms."""

    engine: Literal["fast"] = "fast"
    recompute: bool = False
    """Keep no activations of the inner steps but compute them again on the way back (less memory, more work)."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Conv4: how the factors of matrix products are rounded (see ``convolutions``)."""

    def check_engine(self) -> None:
        if not fits(self):
            raise UserError(
                "engine fast needs a Conv4 (stride or max_pool, batch norm without γ, no biases, ReLU) with cross_entropy, "
                "or a ReLU MLP with mse, all adapted"
            )

    @property
    def vmappable(self) -> bool:
        """``path`` of a Conv4 takes one task at a time and cannot be differentiated through."""
        return self.loss == "mse"

    def path(self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int) -> Iterator[Params]:
        if self.vmappable:
            yield from super().path(meta, support_x, support_y, steps)
            return
        scale = self.model.head.out_features if self.inner_loss == "class_sum" else 1
        rates = meta.get("inner_lr", self.inner_lr)
        rates = {n: scale * r for n, r in rates.items()} if isinstance(rates, dict) else scale * rates
        cut = conv4_kernels.patches(self.model, support_x)
        descent = Descent(self.model, meta["params"], None, rates, self.names)
        yield descent.params
        for _ in range(steps):
            descent.step(cut, support_y)
            yield descent.params

    def meta_gradient(self, meta: Meta, episodes: Episode) -> tuple[Meta, Metrics]:
        """∇J(θ) by the recursion of chapter 5 (``recursion.summed_gradients``), in float64, and mean metrics."""
        self.check_query_sets(meta, episodes)
        options = {
            "inner_lr": meta.get("inner_lr", self.inner_lr),
            "steps": self.inner_steps,
            "first_order": self.first_order,
            "recompute": self.recompute,
        }
        if self.loss == "mse":
            scale = episodes.support_y.shape[-1] if self.inner_loss == "class_sum" else 1
            found = mlp_sweeps.meta_gradient(meta["params"], episodes, inner_scale=scale, **options)
        else:
            found = conv4_sweeps.meta_gradient(
                self.model,
                meta["params"],
                episodes,
                inner_scale=self.model.head.out_features if self.inner_loss == "class_sum" else 1,
                names=self.names,
                precision=self.precision,
                **options,
            )
        gradient, rate_gradient, metrics = found
        groups = {"params": gradient, "inner_lr": rate_gradient}
        return {name: groups[name] for name in meta}, metrics


def fits(learner: MAML) -> bool:
    """Whether there are closed forms for the network and the loss of this learner. They differentiate all parameters."""
    if not all(p.requires_grad for p in learner.model.parameters()):
        return False
    if mlp_sweeps.fits(learner.model):
        return learner.loss == "mse" and learner.names is None
    return conv4_sweeps.fits(learner.model) and learner.loss == "cross_entropy"
