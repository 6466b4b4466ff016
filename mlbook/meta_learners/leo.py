"""LEO: latent embedding optimization (Rusu et al. 2019), as in the official
code.

``LatentEmbedding`` is what every LEO has: two inner loops, the outer objective
    and the outer step. ``LEO`` adds the networks for classification over fixed
    features; ``LEORegression``, in a file of its own, those for regression.

Greek to Python: φ_e ``encoder``, φ_r ``relation``, φ_d ``decoder``, z ``codes``
    [N, K, n_z] (K codes of each class), w ``w`` [N, K, D] (the weights decoded
    from them), α ``rates["latent"]``, α_w ``rates["finetuning"]``, β
    ``kl_weight``, γ ``penalty_weight``, λ₁ ``l2_weight``, λ₂
    ``orthogonality_weight``.
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
from mlbook.meta_learners import arguments
from mlbook.meta_learners.base import (
    AllReduce,
    Meta,
    MetaLearner,
    State,
    cosine,
    leaves,
    map_leaves,
    no_reduce,
    outer_step,
)
from mlbook.models.functional import Params
from mlbook.tasks.episode import Episode
from mlbook.tasks.leo_noise import AnyEpisode, NoisyEpisode

Terms = dict[str, Tensor]
Noise = Tensor | None
SMALLEST_SPREAD = 1e-10
PULL = 1e-4
"""A meta-gradient with a NaN is replaced by this multiple of the parameters."""


def spread(s: Tensor, offset: float) -> Tensor:
    """σ = max(exp(s) − (1 − offset), 1e-10), which is ``offset`` where s =
    0."""
    return (s.exp() - (1 - offset)).clamp_min(SMALLEST_SPREAD)


def gaussian(parts: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from the two halves of the last axis."""
    mean, s = parts.chunk(2, dim=-1)
    return mean, spread(s, offset)


def dropped(x: Tensor, uniform: Noise, rate: float) -> Tensor:
    """Dropout of the entries of x whose number in ``uniform`` is below
    ``rate``; the others are scaled up. Without numbers (None), x as it is."""
    return x if uniform is None or rate == 0 else x * (uniform >= rate) / (1 - rate)


def divergence(z: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """log q(z) − log p(z) for each entry of z, drawn from q = N(mean, σ²), with
    the prior p = N(0, 1); the constants of the two densities cancel."""
    log_q = -((z - mean) ** 2) / (2 * sigma**2) - sigma.log()
    log_p = -(z**2) / 2
    return log_q - log_p


def correlations(rows: Tensor) -> Tensor:
    """C − I for rows [n, m]; C [n, n]: the cosines of the angles between
    them."""
    rows = F.normalize(rows, dim=1)
    return rows @ rows.t() - torch.eye(
        len(rows), dtype=rows.dtype, device=rows.device
    )


def mean_terms(terms: Terms) -> Terms:
    """The metrics of a meta-step, from the terms [T] of its tasks."""
    means = {name: values.mean().detach() for name, values in terms.items()}
    return {"loss": means.pop("query"), **means}


def xavier(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A matrix [out, in], uniform within ±sqrt(6 / (out + in))."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return math.sqrt(6 / sum(shape)) * (2 * uniform - 1)


@dataclass(frozen=True, kw_only=True)
class LatentEmbedding(MetaLearner):
    """What all LEOs share. A subclass gives the networks: ``init``, ``codes``,
    ``decode``, ``support_loss``, ``task_terms``, ``as_params``, ``predict``,
    and the ``noise_shapes`` of its meta-training. Raises ``UserError`` for bad
    settings."""

    latent: int
    """n_z, length of a latent code."""
    latent_steps: int = 5
    finetuning_steps: int = 5
    latent_lr: float
    """First value of α, learned for each latent dimension."""
    finetuning_lr: float
    """First value of α_w, learned for each feature (regression: each
    parameter)."""
    kl_weight: float
    penalty_weight: float = 1e-9
    l2_weight: float = 1e-8
    orthogonality_weight: float = 1e-3
    stochastic: bool = True
    """Whether meta-training samples codes and weights; if not, it takes means,
    as meta-test does (an ablation of the paper)."""
    meta_lr: float
    meta_lr_decay: Literal["constant", "cosine"] = "constant"
    clip_value: float = 0.1
    clip_norm: float = 0.1
    """Bounds on each entry of the meta-gradient, then on the length of each
    tensor."""
    decoder_name = "decoder"
    """The decoder's first matrix, with a column for each latent dimension."""

    def __post_init__(self) -> None:
        for name, least in (
            ("latent", 1),
            ("latent_steps", 0),
            ("finetuning_steps", 0),
        ):
            if getattr(self, name) < least:
                raise UserError(
                    f"{name} must be at least {least}, got {getattr(self, name)}"
                )
        arguments.check(self)

    @property
    def all_steps(self) -> int:
        """Number of inner steps, on codes and on weights."""
        return self.latent_steps + self.finetuning_steps

    def sampled(self, episode: AnyEpisode) -> bool:
        """Whether codes and weights are samples (meta-training), or means."""
        return self.stochastic and isinstance(episode, NoisyEpisode)

    def noise(self, episode: AnyEpisode, n: int) -> Noise:
        """The noise of decoding n = 0, 1, …; None for the mean."""
        return episode.w_noise[n] if self.sampled(episode) else None

    def seen(self, episode: AnyEpisode, n: int) -> Tensor:
        """The support inputs that inner step n sees."""
        return episode.support_x

    def rate(self, meta: Meta, name: str) -> Tensor:
        """α (name "latent") or α_w ("finetuning")."""
        return meta["rates"][name]

    def state(self, code: Terms, z: Tensor, w: Tensor) -> Terms:
        """What ``inner`` yields after a step, from its codes z and weights
        w."""
        return {**code, "z": z, "codes": z, "w": w}

    def inner(
        self, meta: Meta, episode: AnyEpisode, gradient=grad
    ) -> Iterator[Terms]:
        """Codes and weights of one task after 0, 1, …, ``all_steps`` inner
        steps.

        Yields ``codes`` and ``w``, the adapted codes and weights; ``z``, the
        code of each class; ``start``, the first codes; ``mean`` and ``sigma``,
        which those were drawn with. Samples with the noise of a
        ``NoisyEpisode`` (meta-training); takes means of an ``Episode``.
        ``gradient`` has the call of ``torch.func.grad``.
        """
        params = meta["params"]

        def loss_of_weights(w: Tensor, n: int) -> Tensor:
            return self.support_loss(w, self.seen(episode, n), episode.support_y)

        def loss_of_code(z: Tensor, n: int) -> Tensor:
            return loss_of_weights(
                self.decode(params, z, self.noise(episode, n)), n
            )

        code = self.codes(params, episode)
        z = code["start"]
        w = self.decode(params, z, self.noise(episode, 0))
        yield self.state(code, z, w)
        for n in range(self.latent_steps):
            slope = gradient(loss_of_code)(z, n)
            z = z - self.rate(meta, "latent") * slope  # [LEO 9]
            w = self.decode(params, z, self.noise(episode, n + 1))  # [LEO 10]
            yield self.state(code, z, w)
        for n in range(self.latent_steps, self.all_steps):
            slope = gradient(loss_of_weights)(w, n)
            w = w - self.rate(meta, "finetuning") * slope  # [LEO 11]
            yield self.state(code, z, w)

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """Adapted parameters after 0, 1, …, ``steps`` inner steps at meta-test,
        by means. Raises ``UserError`` where ``steps`` exceeds ``all_steps``."""
        if steps > self.all_steps:
            parts = f"{self.latent_steps} + {self.finetuning_steps}"
            raise UserError(f"LEO takes {parts} inner steps, not {steps}")
        episode = Episode(support_x, support_y, support_x, support_y)
        for n, state in enumerate(self.inner(meta, episode)):
            if n > steps:
                return
            yield self.as_params(state["w"])

    def weighted(self, terms: Terms) -> Tensor:
        """Query loss + β KL + γ penalty, of one task or of the mean over
        tasks."""
        loss = terms["query"] + self.kl_weight * terms["kl"]
        return loss + self.penalty_weight * terms["penalty"]

    def regulariser(self, params: Params) -> Tensor:
        """λ₁ · ½ Σ‖φ‖² + λ₂ · mean (C − I)², with the correlations C [n_z, n_z]
        of the columns of the decoder's first matrix, one for each latent
        dimension."""
        l2 = sum((p * p).sum() for p in params.values()) / 2  # [LEO 15]
        off = correlations(params[self.decoder_name].t())
        orthogonality = (off * off).mean()  # [LEO 16]
        return self.l2_weight * l2 + self.orthogonality_weight * orthogonality

    def task_loss(self, meta: Meta, episode: NoisyEpisode) -> tuple[Tensor, Terms]:
        """What one task adds to the outer objective, and its terms."""
        terms = self.task_terms(meta, episode)
        return self.weighted(terms), terms

    def meta_loss(self, meta: Meta, episodes: NoisyEpisode) -> tuple[Tensor, Terms]:
        """The outer objective: the mean over T tasks, plus the regulariser."""
        losses, terms = vmap(self.task_loss, in_dims=(None, 0))(meta, episodes)
        return losses.mean() + self.regulariser(meta["params"]), mean_terms(terms)

    def meta_gradient(
        self, meta: Meta, episodes: NoisyEpisode
    ) -> tuple[Meta, Terms]:
        """The gradient of ``meta_loss``, in the structure of ``meta``, and the
        metrics.
        ``vmap`` is outermost: ``grad`` around it drops second derivatives of
            some layers that a subclass may have (see ``models.batch_norm``)."""
        of_task = grad(self.task_loss, has_aux=True)
        each, terms = vmap(of_task, in_dims=(None, 0))(meta, episodes)
        gradient = map_leaves(lambda g: g.mean(0), each)
        for name, g in grad(self.regulariser)(meta["params"]).items():
            gradient["params"][name] = gradient["params"][name] + g
        return gradient, mean_terms(terms)

    def guarded(self, meta: Meta, gradient: Meta) -> Meta:
        """The gradient; if an entry is NaN, a small pull of the networks
        towards zero and nothing for the rates (decided on the device, without
        waiting for it)."""
        whole = ~torch.stack([g.isnan().any() for g in leaves(gradient)]).any()
        pull = {"params": PULL, "rates": 0.0}
        towards = {k: {n: pull[k] * p for n, p in meta[k].items()} for k in meta}
        return map_leaves(lambda g, p: torch.where(whole, g, p), gradient, towards)

    def clipped(self, gradient: Meta) -> Meta:
        """Every entry cut to ±clip_value, then every tensor to length
        clip_norm."""

        def clip(g: Tensor) -> Tensor:
            g = g.clamp(-self.clip_value, self.clip_value)
            return g * (self.clip_norm / g.norm().clamp_min(self.clip_norm))

        return map_leaves(clip, gradient)

    def meta_lr_at(self, progress: float) -> float:
        """The outer rate η, at ``progress`` from 0 to 1."""
        falls = self.meta_lr_decay == "cosine"
        return self.meta_lr * (cosine(progress) if falls else 1.0)

    def step(
        self,
        state: State,
        episodes: NoisyEpisode,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, Terms]:
        """One meta-step on a meta-batch with its noise (see ``LEONoise``)."""
        gradient, metrics = all_reduce(*self.meta_gradient(state.meta, episodes))
        gradient = self.clipped(self.guarded(state.meta, gradient))  # [LEO 17]
        lr = self.meta_lr_at(progress)
        state = outer_step(state, gradient, lr=lr)  # [LEO 18]
        return state, metrics


@dataclass(frozen=True, kw_only=True)
class LEO(LatentEmbedding):
    """LEO for N-way classification over fixed features. Defaults are those of
    the official code, not its tuned values."""

    features: int = 640
    """D, length of a feature vector."""
    n_way: int = 5
    latent: int = 64
    relation_units: int | None = None
    """Units of the relation network's hidden layers (default: 2·n_z, as in the
    official code)."""
    latent_lr: float = 1.0
    finetuning_lr: float = 1e-3
    dropout: float = 0.5
    kl_weight: float = 1e-3
    start: Literal["encoder", "prior"] = "encoder"
    """Where codes start: as encoder and relation network say, or (an ablation
    of the paper) at samples of N(0, I), whatever the support set."""
    meta_lr: float = 1e-4
    inductive = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"dropout must be from 0 to below 1, got {self.dropout}"
            )

    @property
    def weight_offset(self) -> float:
        """σ of a weight where the decoder says 0: sqrt(2 / (N + D)),
        Xavier's."""
        return math.sqrt(2 / (self.n_way + self.features))

    def noise_shapes(self, episodes: Episode) -> dict[str, tuple[int, ...]]:
        """Shapes of a task's noise in meta-training, for ``LEONoise``."""
        (S, D), (Q, _) = (episodes.support_x.shape[1:], episodes.query_x.shape[1:])
        N, K = self.n_way, S // self.n_way
        return {
            "z_noise": (N, K, self.latent),
            "w_noise": (self.latent_steps + 1, N, K, D),
            "support_keep": (S, D),
            "support_drop": (self.all_steps, S, D),
            "query_drop": (Q, D),
        }

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """Xavier-initialised networks, rates at their first values, a fresh
        Adam."""
        n, D = self.latent, self.features
        units = self.relation_units or 2 * n
        shapes = {
            "encoder": (n, D),
            "relation.0": (units, 2 * n),
            "relation.1": (units, units),
            "relation.2": (2 * n, units),
            "decoder": (2 * D, n),
        }
        params = {
            name: xavier(shape, generator).to(device)
            for name, shape in shapes.items()
        }
        first = {
            "finetuning": (D, self.finetuning_lr),
            "latent": (n, self.latent_lr),
        }
        rates = {
            name: torch.full((size,), lr, device=device)
            for name, (size, lr) in first.items()
        }
        meta = {"params": params, "rates": rates}
        return State(meta, torch.optim.Adam(leaves(meta), lr=self.meta_lr))

    def encode(
        self, params: Params, x: Tensor, uniform: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and spread [N, n_z] of the code of each class, from the support
        set x [N·K, D] in blocks of K; ``uniform`` [N·K, D] is for dropout."""
        N, K = self.n_way, len(x) // self.n_way
        if self.start == "prior":
            return x.new_zeros(N, self.latent), x.new_ones(N, self.latent)
        h = dropped(x, uniform, self.dropout) @ params["encoder"].t()  # [LEO 1]
        # W [a; b] = W_left a + W_right b: no pair is written out
        left, right = params["relation.0"].chunk(2, dim=1)
        pair = (h @ left.t())[:, None] + (h @ right.t())[None]  # [LEO 2] all pairs
        pair = (pair.relu() @ params["relation.1"].t()).relu()
        code = pair.mean(1).view(N, K, -1).mean(1)  # [LEO 3] partners, then shots
        # the last layer is linear: it may come after the means
        return gaussian(code @ params["relation.2"].t(), 0.0)

    def codes(self, params: Params, episode: AnyEpisode) -> Terms:
        """First codes ``start`` [N, K, n_z], with the ``mean`` and ``sigma``
        [N, n_z] that they are drawn with; the means themselves where nothing is
        sampled."""
        uniform = (
            episode.support_keep if isinstance(episode, NoisyEpisode) else None
        )
        mean, sigma = self.encode(params, episode.support_x, uniform)
        K = len(episode.support_y) // self.n_way
        start = mean[:, None].expand(-1, K, -1)
        if self.sampled(episode):
            start = start + sigma[:, None] * episode.z_noise  # [LEO 4]
        return {"mean": mean, "sigma": sigma, "start": start}

    def decode(
        self, params: Params, z: Tensor, noise: Noise, k_shot: int = 1
    ) -> Tensor:
        """Classifier weights w [N, K, D]: a sample for each code with ``noise``
        [N, K, D], the mean without; z: [N, K, n_z], or [N, n_z] for k_shot
        copies."""
        z = z if z.dim() == 3 else z[:, None].expand(-1, k_shot, -1)
        parts = z @ params["decoder"].t()  # [LEO 5]
        mean, sigma = gaussian(parts, self.weight_offset)
        return mean if noise is None else mean + sigma * noise  # [LEO 6]

    @staticmethod
    def logits(w: Tensor, x: Tensor) -> Tensor:
        """x [B, D] -> [B, N], the average over the K copies of w [N, K, D]."""
        return x @ w.mean(1).t()  # [LEO 7] logits are linear

    def support_loss(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The inner loss: a sum over the examples x [N·K, D], y [N·K]."""
        return F.cross_entropy(self.logits(w, x), y, reduction="sum")  # [LEO 8]

    def seen(self, episode: AnyEpisode, n: int) -> Tensor:
        uniform = (
            episode.support_drop[n] if isinstance(episode, NoisyEpisode) else None
        )
        return dropped(episode.support_x, uniform, self.dropout)

    def state(self, code: Terms, z: Tensor, w: Tensor) -> Terms:
        return {**super().state(code, z, w), "z": z.mean(1)}

    def task_terms(self, meta: Meta, episode: NoisyEpisode) -> Terms:
        """The terms that one task adds to the outer objective, and its
        accuracy."""
        *_, end = self.inner(meta, episode)
        x = dropped(episode.query_x, episode.query_drop, self.dropout)
        prediction, y = self.logits(end["w"], x), episode.query_y
        z, mean, sigma = (end["start"], end["mean"][:, None], end["sigma"][:, None])
        return {
            "query": F.cross_entropy(prediction, y),  # [LEO 12]
            "kl": divergence(z, mean, sigma).mean(),  # [LEO 13] one sample
            "penalty": F.mse_loss(z, end["codes"].detach()),  # [LEO 14]
            "accuracy": (prediction.detach().argmax(-1) == y).float().mean(),
        }

    def as_params(self, w: Tensor) -> Params:
        """w [N, K, D] -> {"w": [N, D]}, the mean of the copies."""
        return {"w": w.mean(1)}

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """x [B, D] -> logits [B, N]."""
        return x @ params["w"].t()
