"""MAML and its relatives: FOMAML, ANIL and Meta-SGD are arguments of the same code.

Greek to Python: θ ``meta["params"]``, α ``inner_lr``, β ``meta_lr``, N inner steps ``inner_steps``, θᴺ ``adapted``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, vmap

from mlbook.engines import conv4_kernels, fast_conv4, fast_mlp
from mlbook.errors import UserError
from mlbook.meta_learners.base import (
    LOSSES,
    AllReduce,
    InitialisationLearner,
    Meta,
    State,
    leaves,
    no_reduce,
    outer_step,
)
from mlbook.meta_learners.inner_loop import adapt, inner_path
from mlbook.models.functional import Params
from mlbook.tasks.episode import Episode


@dataclass(frozen=True)
class MAML(InitialisationLearner):
    """Model-agnostic meta-learning (Finn et al. 2017), and with arguments FOMAML, Meta-SGD and ANIL."""

    inner_lr: float = 0.01
    """α; the first value of the learned rates with ``learn_inner_lr``."""
    inner_steps: int = 1
    """N, gradient steps on the support set in meta-training."""
    inner_loss: Literal["mean", "class_sum"] = "mean"
    """``class_sum``: α multiplies the sum over classes of the per-class mean loss, as in the official code, where the
    step is therefore n_way times longer than the same α gives on a mean loss."""
    first_order: bool = False
    """FOMAML: drop the derivative of the inner gradients (section 5.2 of the paper)."""
    learn_inner_lr: bool = False
    """Meta-SGD (Li et al. 2017): one learned rate per scalar parameter."""
    names: tuple[str, ...] | None = None
    """Parameters that the inner loop moves; default all. ANIL: the head only."""
    meta_lr: float = 1e-3
    """β, rate of the outer Adam."""
    meta_lr_decay: Literal["constant", "cosine"] = "constant"
    """The official code keeps β constant; ``cosine`` takes it to zero over the run."""
    clip_value: float | None = None
    """Bound on every entry of the meta-gradient (official miniImageNet: 10)."""
    engine: Literal["vmap", "loop", "fast"] = "vmap"
    """How the same meta-gradient is computed: all tasks at once, task by task with a tenth of the memory, or by the closed
    forms of ``fast_conv4`` and ``fast_mlp`` (the fastest, for these networks only)."""
    recompute: bool = False
    """Engine fast: keep no activations of the inner steps but compute them again on the way back (less memory, more work)."""

    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Engine fast, Conv4: how the factors of matrix products are rounded (see ``convolutions``)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_steps < 0:
            raise UserError(f"inner_steps must not be negative, got {self.inner_steps}")
        if self.engine == "fast" and not self.fast_engine_fits:
            raise UserError(
                "engine fast needs a Conv4 (stride or max_pool, batch norm without γ, no biases, ReLU) with cross_entropy, "
                "or a ReLU MLP with mse, all adapted"
            )

    @property
    def fast_engine_fits(self) -> bool:
        """Whether ``fast_conv4`` or ``fast_mlp`` computes the gradient of this learner."""
        if fast_mlp.fits(self.model):
            return self.loss == "mse" and self.names is None
        return fast_conv4.fits(self.model) and self.loss == "cross_entropy"

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """Random θ (drawn on the generator's device, then moved), rates α where they are learned, a fresh Adam."""
        meta = self.draw(generator, device)  # [MAML 1]
        if self.learn_inner_lr:
            names = self.names or tuple(meta["params"])
            meta["inner_lr"] = {n: torch.full_like(meta["params"][n], self.inner_lr) for n in names}
        return State(meta, torch.optim.Adam(leaves(meta), lr=self.meta_lr))

    def _inner(self, meta: Meta, x: Tensor, y: Tensor) -> tuple:
        """Support loss, start and options of the inner loop for one task."""

        def support_loss(params: Params) -> Tensor:
            prediction = self.predict(params, x)
            scale = prediction.shape[-1] if self.inner_loss == "class_sum" else 1
            return scale * LOSSES[self.loss](prediction, y)

        rates = meta.get("inner_lr", self.inner_lr)
        return (
            support_loss,
            meta["params"],
            {"inner_lr": rates, "names": self.names, "first_order": self.first_order},
        )

    def path(self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int) -> Iterator[Params]:
        """Parameters of one task after 0, 1, ..., ``steps`` inner steps."""
        if not self.vmappable:
            return self._path_by_kernels(meta, support_x, support_y, steps)
        support_loss, params, options = self._inner(meta, support_x, support_y)
        return inner_path(support_loss, params, steps=steps, **options)

    @property
    def vmappable(self) -> bool:
        """Whether ``path`` can be mapped over tasks and differentiated through."""
        return not (self.engine == "fast" and self.loss == "cross_entropy" and conv4_kernels.fits(self.model))

    def _path_by_kernels(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        scale = self.model.head.out_features if self.inner_loss == "class_sum" else 1
        rates = meta.get("inner_lr", self.inner_lr)
        rates = {n: scale * r for n, r in rates.items()} if isinstance(rates, dict) else scale * rates
        cut = conv4_kernels.patches(self.model, support_x)
        descent = conv4_kernels.Descent(self.model, meta["params"], None, rates, self.names)
        yield descent.params
        for _ in range(steps):
            descent.step(cut, support_y)
            yield descent.params

    def task_loss(self, meta: Meta, episode: Episode) -> tuple[Tensor, dict[str, Tensor]]:
        """Query loss of one task after the inner loop, L_Q(θᴺ), and what to report of it."""
        support_loss, params, options = self._inner(meta, episode.support_x, episode.support_y)
        adapted = adapt(support_loss, params, steps=self.inner_steps, **options)
        prediction = self.predict(adapted, episode.query_x)
        loss = LOSSES[self.loss](prediction, episode.query_y)  # [MAML 7]
        metrics = {"loss": loss.detach()}
        if self.metric == "accuracy":
            metrics["accuracy"] = (prediction.detach().argmax(-1) == episode.query_y).float().mean()
        return loss, metrics

    def meta_loss(self, meta: Meta, episodes: Episode) -> tuple[Tensor, dict[str, Tensor]]:
        """J(θ): the mean query loss over the T tasks of a meta-batch, each adapted from the same θ."""
        losses, metrics = vmap(self.task_loss, in_dims=(None, 0))(meta, episodes)  # [MAML 4]
        return losses.mean(), {name: values.mean() for name, values in metrics.items()}

    def meta_gradient(self, meta: Meta, episodes: Episode) -> tuple[Meta, dict[str, Tensor]]:
        """∇J(θ) through the inner loop, in the structure of ``meta``, and the metrics of the meta-batch."""
        if episodes.query_y.shape[1] == 0:
            raise UserError("MAML learns from query sets; these episodes have none (n_query is 0)")
        if self.engine == "vmap":
            return grad(self.meta_loss, has_aux=True)(meta, episodes)
        if self.engine == "fast":
            return self._fast_meta_gradient(meta, episodes)
        T = episodes.n_tasks
        mean: Meta = {group: {n: torch.zeros_like(p) for n, p in ps.items()} for group, ps in meta.items()}
        metrics: dict[str, Tensor] = {}
        for t in range(T):
            gradient, values = grad(self.task_loss, has_aux=True)(meta, episodes.task(t))
            for total, g in zip(leaves(mean), leaves(gradient), strict=True):
                total.add_(g, alpha=1 / T)
            metrics = {name: metrics.get(name, 0) + value / T for name, value in values.items()}
        return mean, metrics

    def _fast_meta_gradient(self, meta: Meta, episodes: Episode) -> tuple[Meta, dict[str, Tensor]]:
        options = {"steps": self.inner_steps, "first_order": self.first_order, "recompute": self.recompute}
        if self.loss == "mse":
            scale = episodes.support_y.shape[-1] if self.inner_loss == "class_sum" else 1
            rates = meta.get("inner_lr", scale * self.inner_lr)
            gradient, rate_gradient, metrics = fast_mlp.meta_gradient(
                meta["params"], episodes, inner_lr=rates, **options
            )
            groups = {"params": gradient, "inner_lr": rate_gradient}
            return {name: groups[name] for name in meta}, metrics
        scale = self.model.head.out_features if self.inner_loss == "class_sum" else 1
        gradient, rate_gradient, metrics = fast_conv4.meta_gradient(
            self.model,
            meta["params"],
            episodes,
            inner_lr=meta.get("inner_lr", self.inner_lr),
            inner_scale=scale,
            names=self.names,
            precision=self.precision,
            **options,
        )
        groups = {"params": gradient, "inner_lr": rate_gradient}
        return {name: groups[name] for name in meta}, metrics

    def meta_lr_at(self, progress: float) -> float:
        """β when ``progress`` of the run is done."""
        cosine = 0.5 * (1 + math.cos(math.pi * progress)) if self.meta_lr_decay == "cosine" else 1.0
        return self.meta_lr * cosine

    def step(
        self, state: State, episodes: Episode, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        """One meta-step on a meta-batch. ``progress``: share of the run that is done, for the decay of β. ``all_reduce``: what is
        done with the gradient before it is used (the mean over several processes).

        The returned state replaces the given one, whose tensors it reuses.
        """
        gradient, metrics = all_reduce(*self.meta_gradient(state.meta, episodes))
        lr = self.meta_lr_at(progress)
        return outer_step(state, gradient, lr=lr, clip_value=self.clip_value), metrics  # [MAML 8]
