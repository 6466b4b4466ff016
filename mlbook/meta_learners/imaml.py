"""iMAML: the meta-gradient of a proximal inner problem, from the end of the
inner loop alone.

Greek to Python: θ ``meta["params"]``, φ ``adapted``, α ``inner_lr``, λ
``strength``, β ``meta_lr``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.func import vmap

from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, Metrics, mean_over_tasks, running_mean
from mlbook.meta_learners.implicit import (
    conjugate_gradient,
    dot,
    hessian_product,
    neumann_series,
    plus,
)
from mlbook.meta_learners.inner_loop import Loss, inner_path
from mlbook.meta_learners.losses import LOSSES
from mlbook.meta_learners.maml import MAML, OVER_TASKS
from mlbook.models.functional import Params
from mlbook.models.mapping import grad
from mlbook.tasks.episode import Episode


@dataclass(frozen=True)
class IMAML(MAML):
    """Meta-learning with implicit gradients (Rajeswaran et al. 2019).

    The inner problem has a minimum of its own, φ* = argmin L_S(φ) + (λ/2)‖φ −
    θ‖², and its meta-gradient is (I + ∇²L_S(φ*)/λ)⁻¹ ∇L_Q(φ*). The inner loop
    only has to come close to φ*; its steps are not kept.
    """

    inner_lr: float = 0.1
    """α, on the sum of support loss and proximal term; below 2 over the largest
    curvature of that sum."""
    inner_steps: int = 16
    strength: float = 2.0
    """λ, the weight of the proximal term. Too small for the curvature of the
    support loss, and I + ∇²L_S/λ is not positive definite: conjugate gradients
    are then not valid."""
    solver: Literal["cg", "neumann", "unrolled"] = "cg"
    """``cg``: conjugate gradients from ∇L_Q on. ``neumann``: a Neumann series
    with rate αλ, which is backpropagation through the last ``solver_steps``
    steps as if they had begun at φ*. ``unrolled``: no implicit gradient, but
    MAML's derivative of the same inner loop."""
    solver_steps: int = 5
    """Steps of conjugate gradients, one product with the Hessian each and one
    for the first residual; 0 leaves ∇L_Q, the gradient of FOMAML. Or terms of
    the Neumann series."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength > 0:
            raise UserError(f"strength must be positive, got {self.strength}")
        least = 1 if self.solver == "neumann" else 0
        if self.solver_steps < least:
            raise UserError(
                f"solver_steps must be at least {least}, got {self.solver_steps}"
            )
        if self.first_order or self.learn_inner_lr or self.names is not None:
            raise UserError(
                "IMAML moves all parameters with one rate: first_order, "
                "learn_inner_lr and names are MAML's (solver_steps=0 is first "
                "order)"
            )

    def support_loss(self, x: Tensor, y: Tensor) -> Loss:
        """L_S of one task, as a function of the parameters."""

        def loss(params: Params) -> Tensor:
            prediction = self.predict(params, x)
            return self.inner_scale(prediction) * LOSSES[self.loss](prediction, y)

        return loss

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """Parameters of one task after 0, 1, ..., ``steps`` inner steps: gradient
        descent on L_S(φ) + (λ/2)‖φ − θ‖² from φ = θ."""
        theta, loss = meta["params"], self.support_loss(support_x, support_y)

        def proximal(params: Params) -> Tensor:
            away = plus(params, -1.0, theta)
            return loss(params) + self.strength / 2 * dot(away, away)

        rate = self.inner_lr
        return inner_path(proximal, theta, inner_lr=rate, steps=steps)

    def implicit_gradient(
        self, meta: Meta, episode: Episode
    ) -> tuple[Meta, Metrics]:
        """(I + ∇²L_S(φ)/λ)⁻¹ ∇L_Q(φ) of one task, φ where its inner loop ends,
        and what to report."""
        support = episode.support_x, episode.support_y
        path = self.path(meta, *support, self.inner_steps)
        adapted = deque(path, maxlen=1).pop()  # [IMAML 1] only the end is kept

        def query_loss(params: Params) -> tuple[Tensor, Metrics]:
            prediction = self.predict(params, episode.query_x)
            loss = LOSSES[self.loss](prediction, episode.query_y)
            return loss, self.metrics(loss, prediction, episode.query_y)

        v, metrics = grad(query_loss, has_aux=True)(adapted)  # [IMAML 2]
        hessian = hessian_product(self.support_loss(*support), adapted)

        def product(u: Params) -> Params:
            return plus(u, 1 / self.strength, hessian(u))  # [IMAML 3]

        if self.solver == "neumann":
            rate = self.inner_lr * self.strength
            g = neumann_series(product, v, self.solver_steps, rate=rate)
        else:
            k = self.solver_steps
            g = conjugate_gradient(product, v, k, 0.0, start=v)  # [IMAML 4]
        return {"params": g}, metrics

    def meta_gradient(self, meta: Meta, episodes: Episode) -> tuple[Meta, Metrics]:
        """The mean of the tasks' implicit gradients, in the structure of
        ``meta``, and mean metrics."""
        if self.solver == "unrolled":
            return super().meta_gradient(meta, episodes)
        self.check_query_sets(meta, episodes)

        def at_once(episodes: Episode) -> tuple[Meta, Metrics]:
            over_tasks = vmap(self.implicit_gradient, **OVER_TASKS)
            return mean_over_tasks(*over_tasks(meta, episodes))  # [IMAML 5]

        def one_by_one(episodes: Episode) -> tuple[Meta, Metrics]:
            tasks = map(episodes.task, range(episodes.n_tasks))
            results = (self.implicit_gradient(meta, task) for task in tasks)
            return running_mean(results, episodes.n_tasks)

        return self.by_engine(at_once, one_by_one, episodes)
