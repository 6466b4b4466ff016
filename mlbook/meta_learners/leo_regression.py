"""LEO for regression (Rusu et al. 2019, section 4.1): the decoder writes all
parameters of a small network.

From the paper: encoder, relation network and decoder have three layers with 16,
    32 and 32 units; a code has 16 dimensions; the decoder gives mean and spread
    of all 1,761 parameters of a network 1-40-40-1. There are no classes, so a
    task has one code, the average over all ordered pairs of its K examples.

Ours, where the paper says nothing: ReLU between layers, biases, x and y side by
    side as the encoder's input, no dropout, the mean squared error as inner
    loss, rates learned as multiples of their first values, a decoder that
    starts at one random network for all codes (its last bias), its first layer
    as the one whose correlations are penalised, a bound on inner gradients, and
    all default values.

Greek to Python: as in ``leo``, with z [n_z], w [P] (all parameters of the base
    network in a row), α = ``latent_lr`` times ``rates["latent"]``, α_w =
    ``finetuning_lr`` times ``rates["finetuning"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, State, leaves
from mlbook.meta_learners.leo import (
    LatentEmbedding,
    Noise,
    Terms,
    divergence,
    gaussian,
    mean_terms,
    xavier,
)
from mlbook.models.functional import Params, call
from mlbook.models.mlp import MLP
from mlbook.tasks.episode import Episode
from mlbook.tasks.leo_noise import AnyEpisode, NoisyEpisode

LAYERS = 3


def graph_grad(loss: Callable) -> Callable:
    """``torch.func.grad`` by autograd's own graph, which the point must be part
    of: the same numbers in less time."""

    def gradient(at: Tensor, *others) -> Tensor:
        return torch.autograd.grad(loss(at, *others), at, create_graph=True)[0]

    return gradient


def network(params: Params, name: str, x: Tensor) -> Tensor:
    """The network ``name`` of ``params``: x [..., in] -> [..., out]. ReLU
    between its layers, the last one is linear."""
    for i in range(LAYERS):
        x = F.linear(x, params[f"{name}.{i}.weight"], params[f"{name}.{i}.bias"])
        x = x.relu() if i < LAYERS - 1 else x
    return x


def base_network(params: Params, x: Tensor) -> Tensor:
    """An ``MLP`` whose parameters may differ from task to task: W [..., out,
    in], b [..., out], x [..., n, in] -> [..., n, out]."""
    weights = list(params.values())
    for i in range(0, len(weights), 2):
        x = x @ weights[i].transpose(-1, -2) + weights[i + 1].unsqueeze(-2)
        x = x.relu() if i + 2 < len(weights) else x
    return x


@dataclass(frozen=True)
class LEORegression(LatentEmbedding):
    """LEO over all parameters of a small network. What takes one task also
    takes T, with the tasks axis in front. Raises ``UserError`` for bad
    settings."""

    model: MLP
    """The base network f_w: linear layers with ReLU between them."""
    _: KW_ONLY
    latent: int = 16
    encoder_units: int = 16
    decoder_units: int = 32
    """Units of the hidden layers; the relation network has 2·n_z."""
    latent_lr: float = 0.03
    finetuning_lr: float = 1e-3
    code_spread: float = 1.0
    """σ of a code where the relation network says 0: that of the prior, well
    above the smallest σ, where no gradient passes (for classification it is
    0)."""
    parameter_spread: float = 0.01
    """σ of a generated parameter where the decoder says 0."""
    longest_gradient: float = 100.0
    """Longer inner gradients are cut to this length: squared errors of targets
    of ten and more would make the inner loop diverge."""
    kl_weight: float = 0.03
    meta_lr: float = 1e-3
    decoder_name = "decoder.0.weight"
    metric = "mse"
    logged = ("loss",)

    def __post_init__(self) -> None:
        super().__post_init__()
        its = self.model
        if (
            not isinstance(its, MLP)
            or its.norms
            or its.activation is not torch.relu
        ):
            raise UserError(
                "LEO for regression needs an MLP with ReLU and without batch norm"
            )
        if self.encoder_units < 1 or self.decoder_units < 1:
            raise UserError("encoder_units and decoder_units must be at least 1")

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the parameters that the decoder makes, in their order in
        w."""
        return {name: p.shape for name, p in self.model.named_parameters()}

    @property
    def generated(self) -> int:
        """P, the number of these parameters."""
        return sum(shape.numel() for shape in self.shapes.values())

    def noise_shapes(self, episodes: Episode) -> dict[str, tuple[int, ...]]:
        """Shapes of a task's noise in meta-training, for ``LEONoise``."""
        return {
            "z_noise": (self.latent,),
            "w_noise": (self.latent_steps + 1, self.generated),
        }

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """Xavier-initialised networks, all rates 1 (times first values), a
        fresh Adam."""
        n, e, d, P = (
            self.latent,
            self.encoder_units,
            self.decoder_units,
            self.generated,
        )
        pair = self.model.layers[0].in_features + self.model.layers[-1].out_features
        sizes = {
            "encoder": (pair, e, e, e),
            "relation": (2 * e, 2 * n, 2 * n, 2 * n),
            "decoder": (n, d, d, 2 * P),
        }
        params = {}
        for name, units in sizes.items():
            for i in range(LAYERS):
                weight = xavier((units[i + 1], units[i]), generator)
                params[f"{name}.{i}.weight"] = weight.to(device)
                params[f"{name}.{i}.bias"] = torch.zeros(
                    units[i + 1], device=device
                )
        # one random network for all codes to begin with, as with MAML; zero
        # biases
        for name, part in self.as_params(params["decoder.2.bias"][:P]).items():
            if name.endswith("weight"):
                part.copy_(xavier(part.shape, generator))
        rates = {
            "finetuning": torch.ones(P, device=device),
            "latent": torch.ones(n, device=device),
        }
        meta = {"params": params, "rates": rates}
        return State(meta, torch.optim.Adam(leaves(meta), lr=self.meta_lr))

    def encode(self, params: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread [..., n_z] of a task's code, from its support set x
        [..., K, in], y [..., K, out]."""
        h = network(params, "encoder", torch.cat([x, y], -1))  # [..., K, e]
        left = h.unsqueeze(-2).expand(*h.shape[:-1], h.shape[-2], -1)
        pair = torch.cat([left, left.transpose(-2, -3)], -1)  # all K² ordered pairs
        code = network(params, "relation", pair).mean((-2, -3))
        return gaussian(code, self.code_spread)

    def codes(self, params: Params, episode: AnyEpisode) -> Terms:
        """First code ``start`` [..., n_z] and the ``mean`` and ``sigma`` that
        it is drawn with; the mean itself where nothing is sampled."""
        mean, sigma = self.encode(params, episode.support_x, episode.support_y)
        start = mean + sigma * episode.z_noise if self.sampled(episode) else mean
        return {"mean": mean, "sigma": sigma, "start": start}

    def decode(self, params: Params, z: Tensor, noise: Noise = None) -> Tensor:
        """Parameters w [..., P] of the base network from z [..., n_z]: a sample
        with ``noise`` [..., P], the mean without."""
        mean, sigma = gaussian(network(params, "decoder", z), self.parameter_spread)
        return mean if noise is None else mean + sigma * noise

    def as_params(self, w: Tensor) -> Params:
        """w [..., P] -> the base network's parameters by name, each [...,
        *shape]."""
        parts = w.split([shape.numel() for shape in self.shapes.values()], -1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.unflatten(-1, shape) for (name, shape), part in named}

    def losses(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of each task: w [..., P], x [..., n, in] ->
        [...]."""
        return (base_network(self.as_params(w), x) - y).square().mean((-1, -2))

    def support_loss(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The inner loss; a sum over tasks, each of which feels its own part
        only."""
        return self.losses(w, x, y).sum()

    def rate(self, meta: Meta, name: str) -> Tensor:
        first = self.latent_lr if name == "latent" else self.finetuning_lr
        return first * meta["rates"][name]

    def shortened(self, gradient: Tensor) -> Tensor:
        """Each task's gradient [..., n], at most ``longest_gradient`` long."""
        square = (gradient * gradient).sum(-1, keepdim=True)
        length = square.clamp_min(self.longest_gradient**2).sqrt()
        return gradient * self.longest_gradient / length

    def inner(
        self, meta: Meta, episode: AnyEpisode, gradient=grad
    ) -> Iterator[Terms]:
        """As for every LEO, with inner gradients at most ``longest_gradient``
        long."""

        def short(loss: Callable) -> Callable:
            return lambda at, n: self.shortened(gradient(loss)(at, n))

        return super().inner(meta, episode, short)

    def task_terms(self, meta: Meta, episode: NoisyEpisode, gradient=grad) -> Terms:
        """The terms that a task adds to the outer objective, each [...]."""
        *_, end = self.inner(meta, episode, gradient)
        z, mean, sigma = end["start"], end["mean"], end["sigma"]
        return {
            "query": self.losses(end["w"], episode.query_x, episode.query_y),
            "kl": divergence(z, mean, sigma).mean(-1),
            "penalty": (z - end["z"].detach()).square().mean(-1),
        }

    def meta_gradient(
        self, meta: Meta, episodes: NoisyEpisode
    ) -> tuple[Meta, Terms]:
        """As for every LEO, but all tasks stand in one graph of autograd: four
        times as fast as ``vmap``, whose overhead exceeds the work in networks
        this small."""
        point = {
            k: {n: t.detach().requires_grad_() for n, t in its.items()}
            for k, its in meta.items()
        }
        episodes = episodes._replace(
            w_noise=episodes.w_noise.movedim(1, 0)
        )  # [decodings, T, P]
        terms = self.task_terms(point, episodes, graph_grad)
        loss = self.weighted(
            {name: values.mean() for name, values in terms.items()}
        )
        loss = loss + self.regulariser(point["params"])
        found = iter(
            torch.autograd.grad(
                loss, leaves(point), allow_unused=True, materialize_grads=True
            )
        )
        gradient = {
            k: {n: next(found) for n in sorted(meta[k])} for k in sorted(meta)
        }
        return gradient, mean_terms(terms)

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """The base network: x [B, in] -> [B, out]."""
        return call(self.model, params, x)

    def sampled_curves(
        self,
        meta: Meta,
        support_x: Tensor,
        support_y: Tensor,
        x: Tensor,
        z_noise: Tensor,
    ) -> Tensor:
        """Curves of one task from samples of its code: x [n, in], z_noise [S,
        n_z], standard normal -> [S, all_steps + 1, n, out]. Weights are the
        decoder's mean. Raises ``UserError`` where z_noise is not [S, n_z]."""
        if z_noise.dim() != 2 or z_noise.shape[1] != self.latent:
            found = tuple(z_noise.shape)
            raise UserError(
                f"z_noise must have the shape [samples, {self.latent}], not {found}"
            )
        no_noise = support_x.new_zeros(self.latent_steps + 1, self.generated)

        def curves(noise: Tensor) -> Tensor:
            episode = NoisyEpisode(
                support_x, support_y, support_x, support_y, noise, no_noise
            )
            states = self.inner(meta, episode)
            return torch.stack(
                [base_network(self.as_params(s["w"]), x) for s in states]
            )

        return vmap(curves)(z_noise)
