"""LEO for regression (Rusu et al. 2019, section 4.1): the decoder writes all parameters of a small network.

Of the paper: encoder, relation network and decoder are networks of three layers with 16, 32 and 32 units; a code has 16
dimensions; the decoder gives mean and spread of all 1,761 parameters of a network 1-40-40-1. There are no classes, so a task
has one code, the average over all ordered pairs of its K examples. Steps on the code and then fine-tuning of the parameters,
learned rates, sampling in meta-training, means at meta-test and the terms of the outer objective are those of ``leo.LEO``,
whose outer loop this class takes over.

Ours, where the paper says nothing: ReLU between the layers, biases, x and y side by side as the encoder's input, no dropout,
the inner loss (a mean of squares, the same that MAML has here), rates that are learned as multiples of their first values, a
decoder that starts at one random network for all codes (its last bias), the decoder's first layer as the one whose
correlations are penalised (it has one column per latent dimension), and all default values below.

Greek to Python: φ_e ``encoder``, φ_r ``relation``, φ_d ``decoder``, z ``z`` [n_z], α ``latent_lr`` times ``latent``, w ``w``
[P], all parameters of the base network in a row, β ``kl_weight``, γ ``penalty_weight``, λ₁ ``l2_weight``, λ₂
``orthogonality_weight``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, MetaLearner, State, leaves
from mlbook.meta_learners.leo import LEO, correlations, divergence, gaussian
from mlbook.models.functional import Params, call
from mlbook.models.mlp import MLP
from mlbook.tasks.episode import Episode
from mlbook.tasks.leo_noise import NoisyPoints

LAYERS = 3
Slope = Callable[[Callable[[Tensor], tuple[Tensor, Tensor]], Tensor], tuple[Tensor, Tensor]]
"""From a function at -> (loss, something) and a point: the gradient there, and the something."""


def by_transform(function: Callable, at: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient as a function transform: works everywhere, inside ``vmap`` and without autograd."""
    return grad(function, has_aux=True)(at)


def by_graph(function: Callable, at: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient by autograd's own graph, which ``at`` must be part of: the same numbers with a third of the overhead."""
    loss, also = function(at)
    return torch.autograd.grad(loss, at, create_graph=True)[0], also


def network(params: Params, name: str, x: Tensor) -> Tensor:
    """The network ``name`` of ``params``: x [..., in] -> [..., out], ReLU between its layers and none behind the last."""
    for i in range(LAYERS):
        x = F.linear(x, params[f"{name}.{i}.weight"], params[f"{name}.{i}.bias"])
        x = x.relu() if i < LAYERS - 1 else x
    return x


def base_network(params: Params, x: Tensor) -> Tensor:
    """The same for ``MLP``, where every task may have parameters of its own: W [..., out, in], b [..., out], x [..., n, in]."""
    weights = list(params.values())
    for i in range(0, len(weights), 2):
        x = x @ weights[i].transpose(-1, -2) + weights[i + 1].unsqueeze(-2)
        x = x.relu() if i + 2 < len(weights) else x
    return x


@dataclass(frozen=True)
class LEORegression(MetaLearner):
    """Latent embedding optimization of all parameters of a small network. A task's tensors may have a tasks axis [T] in front."""

    model: MLP
    """The base network f_w: linear layers with ReLU between them."""
    latent: int = 16
    """n_z, length of the latent code."""
    encoder_units: int = 16
    decoder_units: int = 32
    """The relation network has 2·n_z units."""
    latent_steps: int = 5
    finetuning_steps: int = 5
    latent_lr: float = 0.03
    """First value of α, learned for each latent dimension."""
    finetuning_lr: float = 1e-3
    """First value of the rate of fine-tuning, learned for each parameter of the base network."""
    code_spread: float = 1.0
    """σ of a code where the relation network says 0: that of the prior, which keeps σ = exp(s) off its lower bound, where no
    gradient would pass (the official code of classification has 0)."""
    longest_gradient: float = 100.0
    """Inner gradients longer than this are cut to this length. Squares of targets of ten and more make some of them so long that
    an inner loop diverges."""
    parameter_spread: float = 0.01
    """σ of a generated parameter where the decoder says 0."""
    kl_weight: float = 0.03
    penalty_weight: float = 1e-9
    l2_weight: float = 1e-8
    orthogonality_weight: float = 1e-3
    meta_lr: float = 1e-3
    meta_lr_decay: str = "constant"
    clip_value: float = 0.1
    clip_norm: float = 0.1
    """Bounds on every entry of the meta-gradient, and then on the length of every tensor of it."""
    metric = "mse"
    logged = ("loss",)
    vmappable = True
    inductive = False
    engine = "vmap"
    fast_engine_fits = False

    def __post_init__(self) -> None:
        if not (
            isinstance(self.model, MLP) and self.model.norms is None and self.model.activation is torch.relu
        ):
            raise UserError(
                "LEO for regression writes the parameters of an MLP with ReLU and without batch norm"
            )
        if self.latent_steps < 0 or self.finetuning_steps < 0:
            raise UserError("latent_steps and finetuning_steps must not be negative")
        for name in ("latent", "encoder_units", "decoder_units"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.meta_lr_decay not in ("constant", "cosine"):
            raise UserError(f"meta_lr_decay must be constant or cosine, not {self.meta_lr_decay!r}")

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Of the parameters that the decoder makes, in their order in w."""
        return {name: p.shape for name, p in self.model.named_parameters()}

    @property
    def generated(self) -> int:
        """P, how many they are."""
        return sum(shape.numel() for shape in self.shapes.values())

    def as_params(self, w: Tensor) -> Params:
        """w [..., P] -> the base network's parameters by name, each [..., *shape]."""
        parts = w.split([shape.numel() for shape in self.shapes.values()], -1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.unflatten(-1, shape) for (name, shape), part in named}

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """Xavier-initialised encoder, relation network and decoder, rates at once their first values, a fresh Adam."""
        n, e, d, P = self.latent, self.encoder_units, self.decoder_units, self.generated
        pair = self.model.layers[0].in_features + self.model.layers[-1].out_features
        sizes = {
            "encoder": (pair, e, e, e),
            "relation": (2 * e, 2 * n, 2 * n, 2 * n),
            "decoder": (n, d, d, 2 * P),
        }

        def xavier(shape: tuple[int, ...]) -> Tensor:
            bound = math.sqrt(6 / sum(shape))
            return bound * (2 * torch.rand(shape, generator=generator, device=generator.device) - 1)

        params = {}
        for name, units in sizes.items():
            for i in range(LAYERS):
                params[f"{name}.{i}.weight"] = xavier((units[i + 1], units[i])).to(device)
                params[f"{name}.{i}.bias"] = torch.zeros(units[i + 1], device=device)
        # for all codes the same random network to begin with, as with MAML; its biases are zero
        first = [
            xavier(s) if len(s) > 1 else torch.zeros(s, device=generator.device) for s in self.shapes.values()
        ]
        params["decoder.2.bias"][:P] = torch.cat([p.flatten() for p in first]).to(device)
        rates = {"finetuning": torch.ones(P, device=device), "latent": torch.ones(n, device=device)}
        meta: Meta = {"params": params, "rates": rates}
        return State(meta, torch.optim.Adam(leaves(meta), lr=self.meta_lr))

    # -- one task, or T at once --------------------------------------------------------------------------------------

    def encode(self, params: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread [..., n_z] of a task's code, from its support set x [..., K, in], y [..., K, out]."""
        h = network(params, "encoder", torch.cat([x, y], -1))  # [..., K, e]
        K = h.shape[-2]
        left = h.unsqueeze(-2).expand(*h.shape[:-1], K, -1)
        pair = torch.cat([left, left.transpose(-2, -3)], -1)  # all K² ordered pairs
        return gaussian(network(params, "relation", pair).mean((-2, -3)), self.code_spread)

    def decode(self, params: Params, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Parameters w [..., P] of the base network from z [..., n_z]: a sample with the given ``noise``, the mean without."""
        parts = network(params, "decoder", z)
        mean, sigma = gaussian(parts, self.parameter_spread)
        return mean if noise is None else mean + sigma * noise

    def losses(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of the base network on each task's points: w [..., P] -> [...]."""
        return (base_network(self.as_params(w), x) - y).square().mean((-1, -2))

    def shortened(self, gradient: Tensor) -> Tensor:
        """Each task's gradient [..., n], at most ``longest_gradient`` long."""
        square = (gradient * gradient).sum(-1, keepdim=True)
        return gradient * self.longest_gradient / square.clamp_min(self.longest_gradient**2).sqrt()

    def inner(
        self, meta: Meta, episode: Episode | NoisyPoints, slope: Slope = by_transform
    ) -> Iterator[dict[str, Tensor]]:
        """z and w after 0, 1, …, latent_steps + finetuning_steps inner steps, and the code that they come from.

        With ``NoisyPoints`` (meta-training) code and parameters are sampled; without, means are used. The losses of T tasks are
        summed for ``slope``: each depends on its own z and w only.
        """
        params, rates = meta["params"], meta["rates"]
        x, y = episode.support_x, episode.support_y
        noisy = isinstance(episode, NoisyPoints)

        def parameters(z: Tensor, step: int) -> Tensor:
            return self.decode(params, z, episode.w_noise[..., step, :] if noisy else None)

        def loss_of_code(z: Tensor, step: int) -> tuple[Tensor, Tensor]:
            w = parameters(z, step)
            return self.losses(w, x, y).sum(), w

        mean, sigma = self.encode(params, x, y)
        start = z = mean + sigma * episode.z_noise if noisy else mean
        code = {"mean": mean, "sigma": sigma, "start": start}
        for n in range(self.latent_steps):
            gradient, w = slope(lambda z, n=n: loss_of_code(z, n), z)
            yield {"z": z, "w": w, **code}
            z = z - self.latent_lr * rates["latent"] * self.shortened(gradient)
        w = parameters(z, self.latent_steps)
        yield {"z": z, "w": w, **code}
        for _ in range(self.finetuning_steps):
            gradient, _ = slope(lambda w: (self.losses(w, x, y).sum(), w), w)
            w = w - self.finetuning_lr * rates["finetuning"] * self.shortened(gradient)
            yield {"z": z, "w": w, **code}

    def task_terms(self, meta: Meta, episode: NoisyPoints, slope: Slope = by_transform) -> dict[str, Tensor]:
        """What a task adds to the outer objective, term by term, each [...]."""
        *_, end = self.inner(meta, episode, slope)
        return {
            "query": self.losses(end["w"], episode.query_x, episode.query_y),
            "kl": divergence(end["start"], end["mean"], end["sigma"]).mean(-1),
            "penalty": (end["start"] - end["z"].detach()).square().mean(-1),
        }

    # -- all tasks: the outer loop is LEO's --------------------------------------------------------------------------

    def regulariser(self, params: Params) -> Tensor:
        """λ₁ · ½ Σ‖φ‖² + λ₂ · mean (C − I)², C the correlations of the columns of the decoder's first weights, one per latent
        dimension."""
        l2 = sum((p * p).sum() for p in params.values()) / 2
        off = correlations(params["decoder.0.weight"].t())
        return self.l2_weight * l2 + self.orthogonality_weight * (off * off).mean()

    objective = LEO.objective
    meta_loss = LEO.meta_loss
    clipped = LEO.clipped
    guarded = LEO.guarded
    step = LEO.step

    def meta_gradient(self, meta: Meta, episodes: NoisyPoints) -> tuple[Meta, dict[str, Tensor]]:
        """The gradient of ``meta_loss``, in the structure of ``meta``, and the mean terms; all tasks at once in one graph."""
        point = {group: {n: t.detach().requires_grad_() for n, t in ts.items()} for group, ts in meta.items()}
        loss, metrics = self.objective(point["params"], self.task_terms(point, episodes, by_graph))
        found = iter(torch.autograd.grad(loss, leaves(point), allow_unused=True, materialize_grads=True))
        gradient = {group: {name: next(found) for name in sorted(meta[group])} for group in sorted(meta)}
        return gradient, {name: value.detach() for name, value in metrics.items()}

    def meta_lr_at(self, progress: float) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * progress)) if self.meta_lr_decay == "cosine" else 1.0
        return self.meta_lr * cosine

    # -- meta-test ---------------------------------------------------------------------------------------------------

    def path(self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int) -> Iterator[Params]:
        """Parameters of the base network after 0, 1, …, ``steps`` inner steps at meta-test: means, no chance.

        Steps up to ``latent_steps`` move z, those behind fine-tune w; ``steps`` may not be more than both.
        """
        if steps > self.latent_steps + self.finetuning_steps:
            raise UserError(
                f"LEO takes {self.latent_steps} + {self.finetuning_steps} inner steps, not {steps}"
            )
        episode = Episode(support_x, support_y, support_x, support_y)
        for n, state in enumerate(self.inner(meta, episode)):
            if n > steps:
                return
            yield self.as_params(state["w"])

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """The base network: x [B, in] -> [B, out]."""
        return call(self.model, params, x)

    def sampled_curves(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, x: Tensor, z_noise: Tensor
    ) -> Tensor:
        """Curves that samples of one task's code give: x [n, in] -> [S, steps + 1, n, out], after 0, 1, … inner steps.

        z_noise: [S, n_z], standard normal; zeros give the curve of the mean. The parameters are the decoder's mean of each z.
        """
        if z_noise.dim() != 2 or z_noise.shape[1] != self.latent:
            raise UserError(
                f"z_noise must have the shape [samples, {self.latent}], not {tuple(z_noise.shape)}"
            )
        no_noise = support_x.new_zeros(self.latent_steps + 1, self.generated)

        def one(noise: Tensor) -> Tensor:
            episode = NoisyPoints(support_x, support_y, support_x, support_y, noise, no_noise)
            return torch.stack([base_network(self.as_params(s["w"]), x) for s in self.inner(meta, episode)])

        return vmap(one)(z_noise)
