"""In-context learning: one forward pass reads the support set and answers the
queries. No parameter changes at meta-test; what MAML's inner loop does has to
happen in the activations.

``InContext`` meta-learns such a network. ``FixedRule`` is for rules that are not
trained: the mean of the context, the nearest point, kernel regression, ridge
regression, steps of gradient descent, and the posterior means of ``posterior``. All of
them are judged by the same evaluation as MAML, with 0 inner steps.

Greek to Python: β ``meta_lr``, θ ``meta["params"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mlbook.errors import UserError
from mlbook.meta_learners import arguments
from mlbook.meta_learners.base import (
    AllReduce,
    Meta,
    MetaLearner,
    Metrics,
    State,
    cosine,
    leaves,
    no_reduce,
    outer_step,
)
from mlbook.meta_learners.losses import mse
from mlbook.models.functional import Params, call, check_trainable, initial_params
from mlbook.models.mapping import grad
from mlbook.tasks.episode import Episode

CONTEXT = ("context_x", "context_y")

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(context x [..., K, D], context y [..., K, 1], queries x [..., B, D]) -> [..., B, 1]."""


class ReadsContext(MetaLearner):
    """What learners without an inner loop share: the parameters "after" adaptation
    are those before it, with the support set beside them."""

    metric = "mse"
    logged = ("loss",)
    inductive = True

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """The same after 0, 1, ..., ``steps`` steps: there are none."""
        for _ in range(steps + 1):
            yield {**meta["params"], "context_x": support_x, "context_y": support_y}

    def check_episodes(
        self, meta: Meta, episodes: Episode, *, wait: bool = False
    ) -> None:
        for name, x, y in (
            ("support", episodes.support_x, episodes.support_y),
            ("query", episodes.query_x, episodes.query_y),
        ):
            if (
                x.dim() != 3
                or y.shape != (*x.shape[:2], 1)
                or not y.is_floating_point()
            ):
                raise UserError(
                    f"a {name} set for in-context learning has x [T, n, D] and real "
                    f"y [T, n, 1], not {list(x.shape)} and {list(y.shape)}"
                )
            if not x.shape[1]:
                raise UserError(f"the {name} sets of these episodes are empty")


@dataclass(frozen=True)
class InContext(ReadsContext):
    """A network that learns from its context, trained on many tasks as MAML is: by
    the query loss after it has seen the support set."""

    model: nn.Module
    """Called as ``model(x, context_x=..., context_y=...)``: see
    ``mlbook.models.attention``."""
    meta_lr: float = 1e-3
    """β, rate of Adam."""
    meta_lr_decay: Literal["constant", "cosine"] = "constant"
    """``cosine`` takes β to zero over the run."""
    warm_up: float = 0.0
    """Share of the run in which β rises from zero."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam."""
    clip_norm: float | None = None
    """Bound on the length of the whole gradient."""
    engine = "batched"
    recordable = False  # supports of another length in every meta-batch

    def __post_init__(self) -> None:
        arguments.check(self)
        check_trainable(self.model)
        if not 0 <= self.warm_up < 1:
            raise UserError(f"warm_up is a share of the run, not {self.warm_up}")

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """First parameters of the network, a fresh Adam."""
        drawn = initial_params(self.model, generator)  # [ICL 1]
        meta = {"params": {name: p.to(device) for name, p in drawn.items()}}
        optimizer = torch.optim.Adam(
            leaves(meta), lr=self.meta_lr, betas=tuple(self.betas)
        )
        return State(meta, optimizer)

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """Values of the queries x [..., B, D], given the context in ``params``."""
        own = {name: p for name, p in params.items() if name not in CONTEXT}
        context = {name: params[name] for name in CONTEXT}
        return call(self.model, own, x, **context)

    def check_episodes(
        self, meta: Meta, episodes: Episode, *, wait: bool = False
    ) -> None:
        super().check_episodes(meta, episodes)
        wanted = getattr(self.model, "features", None)
        if wanted not in (None, episodes.support_x.shape[2]):
            raise UserError(
                f"this network reads inputs of {wanted} numbers, and these have "
                f"{episodes.support_x.shape[2]}"
            )

    def meta_loss(self, meta: Meta, episodes: Episode) -> tuple[Tensor, Metrics]:
        """Mean squared error on the query sets of all tasks at once: tasks are an
        axis of the batch like any other, since no task has parameters of its own."""
        x, y, query_x, query_y = episodes[:4]
        (params,) = self.path(meta, x, y, steps=0)
        loss = mse(self.predict(params, query_x), query_y)  # [ICL 2]
        return loss, {"loss": loss.detach()}

    def meta_gradient(self, meta: Meta, episodes: Episode) -> tuple[Meta, Metrics]:
        """∇J(θ), in the structure of ``meta``, and the loss."""
        self.check_episodes(meta, episodes)
        return grad(self.meta_loss, has_aux=True)(meta, episodes)

    def meta_lr_at(self, progress: float) -> float:
        """β when ``progress`` of the run is done."""
        rise = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        fall = cosine(progress) if self.meta_lr_decay == "cosine" else 1.0
        return self.meta_lr * rise * fall

    def step(
        self,
        state: State,
        episodes: Episode,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, Metrics]:
        """One meta-step on a meta-batch; arguments as in ``MetaLearner.step``."""
        gradient, metrics = all_reduce(*self.meta_gradient(state.meta, episodes))
        gradient = clipped(gradient, self.clip_norm)
        new = outer_step(state, gradient, lr=self.meta_lr_at(progress))  # [ICL 3]
        return new, metrics


def clipped(gradient: Meta, bound: float | None) -> Meta:
    """The gradient, shortened to the length ``bound`` where it is longer."""
    if bound is None:
        return gradient
    length = torch.stack([g.square().sum() for g in leaves(gradient)]).sum().sqrt()
    scale = (bound / (length + 1e-12)).clamp(max=1.0)
    return {
        group: {name: scale * g for name, g in tensors.items()}
        for group, tensors in gradient.items()
    }


# -- rules that are not trained -----------------------------------------------------


@dataclass(frozen=True)
class FixedRule(ReadsContext):
    """A rule as a learner that ``evaluate`` takes; there is nothing to train."""

    rule: Rule
    engine = "none"

    def init(
        self,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> State:
        empty = torch.zeros(0, device=device)
        return State({"params": {"no parameters": empty}}, torch.optim.SGD([empty]))

    def step(self, *_, **__):
        raise UserError("a fixed rule is not meta-trained; evaluate it as it is")

    def predict(self, params: Params, x: Tensor) -> Tensor:
        return self.rule(params["context_x"], params["context_y"], x)


def context_mean(context_x: Tensor, context_y: Tensor, x: Tensor) -> Tensor:
    """The mean of the context's y, whatever the query."""
    return context_y.mean(-2, keepdim=True).expand(*x.shape[:-1], 1)


def nearest_point(context_x: Tensor, context_y: Tensor, x: Tensor) -> Tensor:
    """The y of the nearest context point."""
    distance = (x[..., :, None, :] - context_x[..., None, :, :]).square().sum(-1)
    nearest = distance.argmin(-1)[..., None]  # [..., B, 1]
    return context_y.gather(-2, nearest)


def kernel_regression(bandwidth: float) -> Rule:
    """The mean of the context's y, weighted by a Gaussian of the distance in x
    (Nadaraya and Watson): softmax attention with the inputs as keys and queries."""
    if not bandwidth > 0:
        raise UserError(f"a bandwidth is a positive number, not {bandwidth}")

    def rule(context_x: Tensor, context_y: Tensor, x: Tensor) -> Tensor:
        far = (x[..., :, None, :] - context_x[..., None, :, :]).square().sum(-1)
        return (-far / (2 * bandwidth**2)).softmax(-1) @ context_y

    return rule


def ridge(penalty: float) -> Rule:
    """w·x with w = (XᵀX + λI)⁻¹Xᵀy. With noise of variance σ² and w ~ N(0, τ²I) the
    posterior mean has λ = σ²/τ²; λ = 0 is least squares, of least norm."""
    if not penalty >= 0:
        raise UserError(f"a penalty must not be negative, got {penalty}")

    def rule(context_x: Tensor, context_y: Tensor, x: Tensor) -> Tensor:
        if penalty == 0:
            return x @ (torch.linalg.pinv(context_x) @ context_y)
        Xt = context_x.transpose(-1, -2)
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return x @ torch.linalg.solve(
            Xt @ context_x + penalty * eye, Xt @ context_y
        )

    return rule


def gradient_descent(rate: float, steps: int) -> Rule:
    """w·x after steps of gradient descent from w = 0 on ½ mean (w·x_j − y_j)²."""

    def rule(context_x: Tensor, context_y: Tensor, x: Tensor) -> Tensor:
        w = torch.zeros_like(context_x[..., :1, :]).transpose(-1, -2)  # [..., D, 1]
        for _ in range(steps):
            error = context_x @ w - context_y
            gradient = context_x.transpose(-1, -2) @ error / context_x.shape[-2]
            w = w - rate * gradient
        return x @ w

    return rule
