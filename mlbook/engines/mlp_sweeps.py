"""Closed forms for the ReLU network with squared error: ``recursion.py`` drives them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlbook.engines import recursion
from mlbook.engines.recursion import Weights
from mlbook.models.functional import Params
from mlbook.models.mlp import MLP
from mlbook.tasks.episode import Episode


def fits(model: nn.Module) -> bool:
    """Whether the closed forms are those of this network."""
    return isinstance(model, MLP) and model.norms is None and model.activation is torch.relu


def to_matrices(params: Params) -> Weights:
    """Parameters of ``MLP`` as W [1, in, out] and b [1, 1, out]."""
    return {n: p.t()[None] if n.endswith("weight") else p.view(1, 1, -1) for n, p in params.items()}


def from_matrices(weights: Weights) -> Params:
    return {n: w[0].t().contiguous() if n.endswith("weight") else w.flatten() for n, w in weights.items()}


@dataclass
class Sweep:
    inputs: list[Tensor]  # h of every layer, [T, K, in]
    masks: list[Tensor]  # where the ReLU behind a layer passes (none behind the last)
    error: Tensor  # prediction − target, [T, K, out]
    delta: Tensor  # gradient with respect to the prediction
    deltas: list[Tensor]  # gradient with respect to every layer's output, filled by ``backward``


class ReLUNetwork:
    """The three sweeps; ``layers`` is the number of linear layers."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.adapted = tuple(f"layers.{i}.{kind}" for i in range(layers) for kind in ("weight", "bias"))

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def forward(self, w: Weights, x: Tensor, y: Tensor, scale: float) -> Sweep:
        h, inputs, masks = x, [], []
        for i in range(self.layers):
            inputs.append(h)
            h = torch.baddbmm(w[f"layers.{i}.bias"], h, w[f"layers.{i}.weight"].expand(len(x), -1, -1))
            if i < self.layers - 1:
                masks.append(h > 0)
                h = h.clamp_min(0)
        error = h - y
        return Sweep(inputs, masks, error, error * (2 * scale / error[0].numel()), [])

    def backward(self, w: Weights, sweep: Sweep, everything: bool) -> Weights:
        g, delta = {}, sweep.delta
        sweep.deltas = [None] * self.layers
        for i in reversed(range(self.layers)):
            sweep.deltas[i] = delta
            g[f"layers.{i}.weight"] = torch.bmm(sweep.inputs[i].mT, delta)
            g[f"layers.{i}.bias"] = delta.sum(1, keepdim=True)
            if i:
                weight = w[f"layers.{i}.weight"].expand(len(delta), -1, -1)
                delta = torch.bmm(delta, weight.mT) * sweep.masks[i - 1]
        return g

    def hessian_vector(self, w: Weights, v: Weights, sweep: Sweep, scale: float) -> Weights:
        T = len(sweep.error)
        h_d, moved = None, []
        for i in range(self.layers):
            moved.append(h_d)
            z_d = torch.baddbmm(v[f"layers.{i}.bias"], sweep.inputs[i], v[f"layers.{i}.weight"])
            if h_d is not None:
                z_d = torch.baddbmm(z_d, h_d, w[f"layers.{i}.weight"].expand(T, -1, -1))
            h_d = z_d * sweep.masks[i] if i < self.layers - 1 else z_d
        delta_d, h = h_d * (2 * scale / sweep.error[0].numel()), {}
        for i in reversed(range(self.layers)):
            weight_d = torch.bmm(sweep.inputs[i].mT, delta_d)
            if moved[i] is not None:
                weight_d = torch.baddbmm(weight_d, moved[i].mT, sweep.deltas[i])
            h[f"layers.{i}.weight"] = weight_d
            h[f"layers.{i}.bias"] = delta_d.sum(1, keepdim=True)
            if i:
                weight = w[f"layers.{i}.weight"].expand(T, -1, -1)
                delta_d = torch.bmm(delta_d, weight.mT)
                delta_d = (
                    torch.baddbmm(delta_d, sweep.deltas[i], v[f"layers.{i}.weight"].mT) * sweep.masks[i - 1]
                )
        return h

    def metrics(self, sweep: Sweep, y: Tensor) -> dict[str, Tensor]:
        return {"loss": sweep.error.square().mean()}


def meta_gradient(
    params: Params,
    episodes: Episode,
    *,
    inner_lr: float | Params,
    steps: int,
    inner_scale: float = 1.0,
    first_order: bool = False,
    recompute: bool = False,
) -> tuple[Params, Params | None, dict[str, Tensor]]:
    """∇J(θ) for a meta-batch, the gradient of learned rates (or None), and the metrics; arguments as in ``MAML``.

    inner_scale: factor on the mean support loss (the number of outputs for ``class_sum``).
    """
    rates = to_matrices(inner_lr) if isinstance(inner_lr, dict) else inner_lr
    gradient, rate_gradient, metrics = recursion.meta_gradient(
        ReLUNetwork(len(params) // 2),
        to_matrices(params),
        episodes,
        inner_lr=rates,
        steps=steps,
        inner_scale=inner_scale,
        first_order=first_order,
        recompute=recompute,
    )
    return from_matrices(gradient), None if rate_gradient is None else from_matrices(rate_gradient), metrics


def displacement(
    model: MLP, params: Params, episodes: Episode, *, inner_lr: float, steps: int
) -> tuple[Params, dict[str, Tensor]]:
    """Mean over tasks of θ − θᴺ on the support sets, and mean metrics before the last step."""
    mean, metrics = recursion.displacement(
        ReLUNetwork(len(model.layers)),
        to_matrices(params),
        episodes.support_x,
        episodes.support_y,
        inner_lr=inner_lr,
        steps=steps,
    )
    return from_matrices(mean), metrics
