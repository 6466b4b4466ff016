"""Reptile with plain gradient descent in the inner loop: θ moves towards what a few steps on a task make of it.

Greek to Python: θ ``meta["params"]``, α ``inner_lr``, ε ``meta_lr``, k inner steps ``inner_steps``, φ ``adapted``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import vmap

from mlbook.errors import UserError
from mlbook.inner_loop import adapt, inner_path
from mlbook.meta_learners import fast_conv4, fast_mlp
from mlbook.meta_learners.protocol import LOSSES, Combine, Meta, State, alone, leaves, outer_step
from mlbook.models.functional import Params, call, initial_params
from mlbook.tasks.episode import Episode


@dataclass(frozen=True)
class Reptile:
    """Batched Reptile (Nichol et al. 2018, section 3): θ ← θ + ε·mean(φ − θ) over the tasks of a meta-batch.

    Training looks at the support sets only.
    """

    model: nn.Module
    """Any module whose parameters are differentiable and whose call has no side effect."""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """Mean loss over a support set."""
    inner_lr: float = 0.01
    """α."""
    inner_steps: int = 5
    """k, gradient steps on the support set."""
    meta_lr: float = 1.0
    """ε, the share of the way to the mean of the φ; it falls linearly to zero over the run."""
    engine: Literal["vmap", "fast"] = "vmap"
    """How φ is computed: by automatic differentiation of all tasks at once, or by closed forms (``fast_conv4``, ``fast_mlp``)."""

    def __post_init__(self) -> None:
        if self.inner_steps < 1:
            raise UserError(f"inner_steps must be at least 1, got {self.inner_steps}")
        if self.loss not in LOSSES:
            raise UserError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        if self.engine == "fast" and not self.fast_engine_fits:
            raise UserError(
                "engine fast needs a Conv4 (batch norm without γ, no biases) or a ReLU MLP with mse"
            )

    @property
    def fast_engine_fits(self) -> bool:
        """Whether ``fast_conv4`` or ``fast_mlp`` computes the gradients of this learner."""
        if self.loss == "mse":
            return fast_mlp.fits(self.model)
        return fast_conv4.fits(self.model)

    @property
    def measure(self) -> str:
        return "accuracy" if self.loss == "cross_entropy" else "mse"

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """Random θ, drawn on the generator's device, then moved."""
        params = initial_params(self.model, generator)
        meta: Meta = {"params": {name: p.to(device) for name, p in params.items()}}
        return State(meta, torch.optim.SGD(leaves(meta), lr=self.meta_lr))

    def predict(self, params: Params, x: Tensor) -> Tensor:
        return call(self.model, params, x)

    def _support_loss(self, x: Tensor, y: Tensor):
        return lambda params: LOSSES[self.loss](self.predict(params, x), y)

    def path(self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int) -> Iterator[Params]:
        """Parameters of one task after 0, 1, ..., ``steps`` inner steps."""
        loss = self._support_loss(support_x, support_y)
        return inner_path(loss, meta["params"], steps=steps, inner_lr=self.inner_lr)

    def displacement(self, meta: Meta, support_x: Tensor, support_y: Tensor) -> tuple[Params, Tensor]:
        """θ − φ of one task, and the support loss at φ."""
        loss, theta = self._support_loss(support_x, support_y), meta["params"]
        phi = adapt(loss, theta, steps=self.inner_steps, inner_lr=self.inner_lr)
        return {name: theta[name] - phi[name] for name in theta}, loss(phi)

    def meta_gradient(self, meta: Meta, episodes: Episode) -> tuple[Meta, dict[str, Tensor]]:
        """What Reptile puts in a gradient's place: the mean of θ − φ over the tasks; and the support loss at φ."""
        if self.engine == "fast":
            family = fast_mlp if self.loss == "mse" else fast_conv4
            mean, loss = family.displacement(
                self.model, meta["params"], episodes, inner_lr=self.inner_lr, steps=self.inner_steps
            )
            return {"params": mean}, {"loss": loss}
        batched = vmap(self.displacement, in_dims=(None, 0, 0))
        displacement, loss = batched(meta, episodes.support_x, episodes.support_y)
        return {"params": {name: d.mean(0) for name, d in displacement.items()}}, {
            "loss": loss.detach().mean()
        }

    def meta_lr_at(self, progress: float) -> float:
        """ε when ``progress`` of the run is done."""
        return self.meta_lr * (1 - progress)

    def step(
        self, state: State, episodes: Episode, progress: float = 0.0, combine: Combine = alone
    ) -> tuple[State, dict[str, Tensor]]:
        """One meta-step on a meta-batch; arguments as in ``MAML.step``."""
        gradient, metrics = combine(*self.meta_gradient(state.meta, episodes))
        return outer_step(state, gradient, lr=self.meta_lr_at(progress)), metrics
