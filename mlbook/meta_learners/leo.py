"""LEO: latent embedding optimization (Rusu et al. 2019), in every detail of the official code.

Greek to Python: φ_e ``encoder``, φ_r ``relation``, φ_d ``decoder``, z ``codes`` [N, K, n_z] (K latent codes of each class), α
``latent_lr``, w ``w`` [N, K, D] (the weights that they decode to), the fine-tuning rate ``finetuning_lr``, β ``kl_weight``, γ
``penalty_weight``, λ₁ ``l2_weight``, λ₂ ``orthogonality_weight``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mlbook.errors import UserError
from mlbook.meta_learners.base import AllReduce, Meta, MetaLearner, State, leaves, no_reduce, outer_step
from mlbook.models.functional import Params
from mlbook.tasks.episode import Episode
from mlbook.tasks.leo_noise import NoisyEpisode

SMALLEST_SPREAD = 1e-10
PULL = 1e-4
"""Gradient, as a multiple of the parameters, of the steps that take the place of those whose gradient is not a number."""


def spread(s: Tensor, offset: float) -> Tensor:
    """σ = max(exp(s) − (1 − offset), 1e-10): a network that says 0 means σ = offset."""
    return (s.exp() - (1 - offset)).clamp_min(SMALLEST_SPREAD)


def gaussian(parts: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from the two halves of the last axis."""
    mean, s = parts.chunk(2, dim=-1)
    return mean, spread(s, offset)


def dropped(x: Tensor, uniform: Tensor | None, rate: float) -> Tensor:
    """Dropout with the given uniform numbers: entries below ``rate`` become 0, the others are scaled up. None: no dropout."""
    return x if uniform is None or rate == 0 else x * (uniform >= rate) / (1 - rate)


def divergence(z: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """log q(z) − log p(z) of a sample z of q = N(mean, σ²) beside the prior p = N(0, 1), dimension by dimension; the constants
    cancel."""
    log_q = -((z - mean) ** 2) / (2 * sigma**2) - sigma.log()
    log_p = -(z**2) / 2
    return log_q - log_p


def correlations(rows: Tensor) -> Tensor:
    """C − I of rows [n, m], where C [n, n] holds their correlations (cosines of the angles between them)."""
    rows = F.normalize(rows, dim=1)
    return rows @ rows.t() - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)


@dataclass(frozen=True)
class LEO(MetaLearner):
    """Latent embedding optimization over fixed features. Defaults are those of the official code, not its tuned values."""

    features: int = 640
    """D, length of a feature vector."""
    n_way: int = 5
    latent: int = 64
    """n_z, length of a latent code."""
    relation_units: int | None = None
    """Width of the relation network's hidden layers (default: 2·n_z, as in the official code)."""
    latent_steps: int = 5
    finetuning_steps: int = 5
    latent_lr: float = 1.0
    """First value of α, learned for each latent dimension."""
    finetuning_lr: float = 1e-3
    """First value of the rate of fine-tuning, learned for each feature."""
    dropout: float = 0.5
    kl_weight: float = 1e-3
    penalty_weight: float = 1e-9
    l2_weight: float = 1e-8
    orthogonality_weight: float = 1e-3
    start: Literal["encoder", "prior"] = "encoder"
    """Where codes start: what encoder and relation network say of the support set, or (an ablation) N(0, I) whatever it is."""
    stochastic: bool = True
    """Whether codes and weights are sampled in meta-training; an ablation takes means, as meta-test does."""
    meta_lr: float = 1e-4
    clip_value: float = 0.1
    clip_norm: float = 0.1
    """Bounds on every entry of the meta-gradient, and then on the length of every tensor of it."""
    metric = "accuracy"
    vmappable = True
    inductive = True
    engine = "vmap"
    fast_engine_fits = False

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be from 0 to below 1, got {self.dropout}")
        if self.start not in ("encoder", "prior"):
            raise UserError(f"start must be encoder or prior, not {self.start!r}")
        if self.latent_steps < 0 or self.finetuning_steps < 0:
            raise UserError("latent_steps and finetuning_steps must not be negative")

    @property
    def weight_offset(self) -> float:
        """The σ of a classifier weight where the decoder says 0: sqrt(2 / (N + D)), that of Xavier's initialisation."""
        return math.sqrt(2 / (self.n_way + self.features))

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """Xavier-initialised encoder, relation network and decoder, rates at their first values, a fresh Adam."""
        n, D = self.latent, self.features
        units = self.relation_units or 2 * n
        shapes = {
            "encoder": (n, D),
            "relation.0": (units, 2 * n),
            "relation.1": (units, units),
            "relation.2": (2 * n, units),
            "decoder": (2 * D, n),
        }
        params = {}
        for name, (out, into) in shapes.items():
            bound = math.sqrt(6 / (out + into))
            weight = bound * (2 * torch.rand(out, into, generator=generator, device=generator.device) - 1)
            params[name] = weight.to(device)
        meta: Meta = {
            "params": params,
            "rates": {
                "finetuning": torch.full((D,), self.finetuning_lr, device=device),
                "latent": torch.full((n,), self.latent_lr, device=device),
            },
        }
        return State(meta, torch.optim.Adam(leaves(meta), lr=self.meta_lr))

    # -- one task ----------------------------------------------------------------------------------------------------

    def encode(self, params: Params, x: Tensor, uniform: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and spread [N, n_z] of the code of each class, from the support set x [N·K, D] in blocks of K."""
        N = self.n_way
        if self.start == "prior":
            mean = x.new_zeros(N, self.latent)
            return mean, torch.ones_like(mean)
        h = dropped(x, uniform, self.dropout) @ params["encoder"].t()  # [LEO 1] [N·K, n_z]
        K = len(h) // N
        left, right = params["relation.0"].chunk(
            2, dim=1
        )  # W [a; b] = W_left a + W_right b: no pair is written out
        pair = (h @ left.t())[:, None] + (h @ right.t())[None]  # [LEO 2] all (N·K)² ordered pairs
        pair = (pair.relu() @ params["relation.1"].t()).relu()
        code = pair.mean(1).view(N, K, -1).mean(1)  # [LEO 3] over partners, then over the K of a class
        code = code @ params["relation.2"].t()  # the last layer is linear: it may come after the means
        return gaussian(code, 0.0)

    def decode(self, params: Params, z: Tensor, noise: Tensor | None, k_shot: int) -> Tensor:
        """Classifier weights w [N, K, D] from K codes of every class, z [N, K, n_z], or from one for all copies, [N,
        n_z]: a sample for each code, or the mean without ``noise``."""
        z = z if z.dim() == 3 else z[:, None].expand(-1, k_shot, -1)
        mean, sigma = gaussian(z @ params["decoder"].t(), self.weight_offset)  # [LEO 5]
        return mean if noise is None else mean + sigma * noise  # [LEO 6]

    @staticmethod
    def logits(w: Tensor, x: Tensor) -> Tensor:
        """x [B, D] -> [B, N], the average over the K copies of w [N, K, D]."""
        return x @ w.mean(1).t()  # [LEO 7] the mean of the copies' logits is the logit of their mean

    def support_loss(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The inner loss: a sum over the examples of the support set."""
        return F.cross_entropy(self.logits(w, x), y, reduction="sum")  # [LEO 8]

    def inner(self, meta: Meta, episode: Episode | NoisyEpisode) -> Iterator[dict[str, Tensor]]:
        """Codes and weights after 0, 1, …, latent_steps + finetuning_steps inner steps on one task, and where they come from.

        ``codes`` [N, K, n_z] and ``w`` [N, K, D]: K copies of every class, each adapted by itself; ``z`` [N, n_z]: the mean
        of a class's codes; ``start``: the first codes; ``mean`` and ``sigma`` [N, n_z]: what they were drawn with. With a
        ``NoisyEpisode`` (meta-training) codes and weights are sampled and features dropped; without, means are used.
        """
        params, rates = meta["params"], meta["rates"]
        x, y = episode.support_x, episode.support_y
        K = len(y) // self.n_way
        noisy = isinstance(episode, NoisyEpisode)
        sampled = noisy and self.stochastic

        def seen(step: int) -> Tensor:
            return dropped(x, episode.support_drop[step], self.dropout) if noisy else x

        def weights(z: Tensor, step: int) -> Tensor:
            return self.decode(params, z, episode.w_noise[step] if sampled else None, K)

        mean, sigma = self.encode(params, x, episode.support_keep if noisy else None)
        z = mean[:, None].expand(-1, K, -1)
        z = start = z + sigma[:, None] * episode.z_noise if sampled else z  # [LEO 4] K codes of every class
        w = weights(z, 0)

        def state() -> dict[str, Tensor]:
            return {"z": z.mean(1), "codes": z, "w": w, "start": start, "mean": mean, "sigma": sigma}

        yield state()
        for n in range(self.latent_steps):
            slope = grad(lambda z, n=n: self.support_loss(weights(z, n), seen(n), y))(z)
            z = z - rates["latent"] * slope  # [LEO 9]
            w = weights(z, n + 1)  # [LEO 10]
            yield state()
        for n in range(self.latent_steps, self.latent_steps + self.finetuning_steps):
            slope = grad(lambda w, n=n: self.support_loss(w, seen(n), y))(w)
            w = w - rates["finetuning"] * slope  # [LEO 11]
            yield state()

    def task_terms(self, meta: Meta, episode: NoisyEpisode) -> dict[str, Tensor]:
        """What one task adds to the outer objective, term by term, and its accuracy."""
        *_, end = self.inner(meta, episode)
        x = dropped(episode.query_x, episode.query_drop, self.dropout)
        prediction = self.logits(end["w"], x)
        z, mean, sigma = end["start"], end["mean"][:, None], end["sigma"][:, None]
        return {
            "query": F.cross_entropy(prediction, episode.query_y),  # [LEO 12]
            "kl": divergence(z, mean, sigma).mean(),  # [LEO 13] one sample
            "penalty": F.mse_loss(z, end["codes"].detach()),  # [LEO 14] stop-gradient of z'
            "accuracy": (prediction.detach().argmax(-1) == episode.query_y).float().mean(),
        }

    # -- all tasks ---------------------------------------------------------------------------------------------------

    def regulariser(self, params: Params) -> Tensor:
        """λ₁ · ½ Σ‖φ‖² + λ₂ · mean (C − I)², where C holds the correlations of the decoder's rows, one per latent dimension."""
        l2 = sum((p * p).sum() for p in params.values()) / 2  # [LEO 15]
        off = correlations(params["decoder"].t())  # [n_z, n_z], of rows of length 2·D
        return self.l2_weight * l2 + self.orthogonality_weight * (off * off).mean()  # [LEO 16]

    def meta_loss(self, meta: Meta, episodes: NoisyEpisode) -> tuple[Tensor, dict[str, Tensor]]:
        """The outer objective: the mean over T tasks of query loss + β KL + γ penalty, plus the regulariser."""
        return self.objective(meta["params"], vmap(self.task_terms, in_dims=(None, 0))(meta, episodes))

    def objective(self, params: Params, terms: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The outer objective and its mean terms, from the terms [T] of T tasks."""
        terms = {name: values.mean() for name, values in terms.items()}
        loss = terms["query"] + self.kl_weight * terms["kl"] + self.penalty_weight * terms["penalty"]
        return loss + self.regulariser(params), {"loss": terms.pop("query"), **terms}

    def meta_gradient(self, meta: Meta, episodes: NoisyEpisode) -> tuple[Meta, dict[str, Tensor]]:
        """The gradient of ``meta_loss``, in the structure of ``meta``, and the mean terms."""
        gradient, metrics = grad(self.meta_loss, has_aux=True)(meta, episodes)
        return gradient, {name: value.detach() for name, value in metrics.items()}

    def clipped(self, gradient: Meta) -> Meta:
        """Every entry to ±clip_value, then every tensor to length clip_norm."""

        def clip(g: Tensor) -> Tensor:
            g = g.clamp(-self.clip_value, self.clip_value)
            return g * (self.clip_norm / g.norm().clamp_min(self.clip_norm))

        return {group: {name: clip(g) for name, g in its.items()} for group, its in gradient.items()}

    def guarded(self, meta: Meta, gradient: Meta) -> Meta:
        """The gradient, or a small pull towards zero if any entry is NaN (without waiting for the device)."""
        whole = ~torch.stack([g.isnan().any() for g in leaves(gradient)]).any()
        fallback = {"params": {n: PULL * p for n, p in meta["params"].items()}}
        return {
            group: {
                name: torch.where(whole, g, fallback.get(group, {}).get(name, torch.zeros_like(g)))
                for name, g in its.items()
            }
            for group, its in gradient.items()
        }

    def meta_lr_at(self, progress: float) -> float:
        return self.meta_lr

    def step(
        self, state: State, episodes: NoisyEpisode, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        """One meta-step on a meta-batch (noise included, see ``tasks.embeddings.Noisy``)."""
        gradient, metrics = all_reduce(*self.meta_gradient(state.meta, episodes))
        gradient = self.clipped(self.guarded(state.meta, gradient))  # [LEO 17]
        return outer_step(state, gradient, lr=self.meta_lr_at(progress)), metrics  # [LEO 18]

    def path(self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int) -> Iterator[Params]:
        """Classifier weights {"w": [N, D]} after 0, 1, …, ``steps`` inner steps at meta-test: means, no dropout.

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
            yield {"w": state["w"].mean(1)}

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """x [B, D] -> logits [B, N]."""
        return x @ params["w"].t()
