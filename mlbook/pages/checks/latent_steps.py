"""What a step of LEO's inner loop does to the classifier's weights, and its KL term: each computed in two ways."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad

from mlbook.meta_learners.base import Meta
from mlbook.meta_learners.leo import LEO, gaussian
from mlbook.models.functional import Params


def mean_decoder(learner: LEO, params: Params) -> Tensor:
    """W_μ [D, n_z], the half of the decoder that makes the means of the weights: w = W_μ z."""
    return params["decoder"][: learner.features]


def preconditioner(learner: LEO, meta: Meta) -> Tensor:
    """P = W_μ diag(α) W_μᵀ [D, D]: a latent step moves the mean weights of a class by −P times their gradient."""
    W = mean_decoder(learner, meta["params"])
    return (W * meta["rates"]["latent"]) @ W.t()


def weight_gradient(learner: LEO, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Gradient [N, D] of the summed support loss with respect to one weight vector per class, w [N, D]."""
    return grad(lambda w: learner.support_loss(w[:, None], x, y))(w)


def mean_step_two_ways(learner: LEO, meta: Meta, z: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Change of the mean weights [N, D] by one latent step from z [N, n_z]: by decoding before and after, and by −P ∇_w L / K,
    since each of a class's K copies feels a K-th of the gradient."""
    params, K = meta["params"], len(y) // learner.n_way
    z = z[:, None].expand(-1, K, -1)
    slope = grad(lambda z: learner.support_loss(learner.decode(params, z, None, K), x, y))(z)
    before = learner.decode(params, z, None, K).mean(1)
    after = learner.decode(params, z - meta["rates"]["latent"] * slope, None, K).mean(1)
    return after - before, -weight_gradient(learner, before, x, y) @ preconditioner(learner, meta) / K


def sampled_step_two_ways(
    learner: LEO, meta: Meta, z: Tensor, noise: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for sampled weights w [N, K, D] with the noise [N, K, D] held fixed: exactly, and by the Jacobian of the decoder.

    J = W_μ + diag(noise · e^s) W_σ for every copy, where s are the decoder's raw outputs for the spreads; the change is
    −J diag(α) Jᵀ ∇_w L for every copy, up to terms of second order in α, because a spread is not linear in z.
    """
    params, K, D = meta["params"], noise.shape[1], learner.features
    z = z[:, None].expand(-1, K, -1)

    def decode(z: Tensor) -> Tensor:
        return learner.decode(params, z, noise, K)

    slope = grad(lambda z: learner.support_loss(decode(z), x, y))(z)
    exact = decode(z - meta["rates"]["latent"] * slope) - decode(z)
    s = (z @ params["decoder"].t())[..., D:]
    _, sigma = gaussian(z @ params["decoder"].t(), learner.weight_offset)
    tilt = torch.where(sigma > 1e-10, s.exp(), 0.0)  # a clamped spread does not move
    J = params["decoder"][:D] + (noise * tilt)[..., None] * params["decoder"][D:]  # [N, K, D, n_z]
    at_w = grad(lambda w: learner.support_loss(w, x, y))(decode(z))
    step = -meta["rates"]["latent"] * torch.einsum("nkdl,nkd->nkl", J, at_w)
    return exact, torch.einsum("nkdl,nkl->nkd", J, step)


def share_in_span(change: Tensor, vectors: Tensor) -> float:
    """Share of the squared length of ``change`` [..., D] that lies in the span of ``vectors`` [S, D]."""
    Q, R = torch.linalg.qr(vectors.t())
    kept = Q[:, R.diagonal().abs() > 1e-10 * R.abs().max()]
    return float((change @ kept).square().sum() / change.square().sum())


def relative_size(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    return float((a - b).norm() / b.norm())


def kl_closed_form(mean: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) per latent dimension, averaged: mean of ½(μ² + σ² − 1) − log σ."""
    return ((mean.square() + sigma.square() - 1) / 2 - sigma.log()).mean()


def kl_one_sample(mean: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """log q(z) − log p(z) at z = μ + σ·noise, averaged over classes and dimensions; noise [..., N, n_z] -> [...]."""
    z = mean + sigma * noise
    log_q = -((z - mean) ** 2) / (2 * sigma**2) - sigma.log()
    return (log_q + z.square() / 2).mean((-2, -1))
