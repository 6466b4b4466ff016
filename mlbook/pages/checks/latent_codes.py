"""What a trained LEO does with the codes and weights of new tasks: the measurements of chapter 10.

All functions take many tasks at once, tasks axis first: codes z [T, N, n_z], weights w [T, N, D], support_x [T, N·K, D].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mlbook.meta_learners.base import Meta
from mlbook.meta_learners.leo import LEO
from mlbook.tasks.episode import Episode


def states(learner: LEO, meta: Meta, episodes: Episode) -> dict[str, Tensor]:
    """Every state of the inner loops at meta-test: z [T, steps + 1, N, n_z] and w [T, steps + 1, N, D] (the mean of the copies),
    and the mean and sigma [T, N, n_z] of the codes."""

    def one_task(episode: Episode) -> dict[str, Tensor]:
        found = list(learner.inner(meta, episode))
        return {
            "z": torch.stack([s["z"] for s in found]),
            "w": torch.stack([s["w"].mean(1) for s in found]),
            "mean": found[0]["mean"],
            "sigma": found[0]["sigma"],
        }

    with torch.no_grad():
        return vmap(one_task)(Episode(*episodes[:4]))


def right(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Which queries x [T, B, D] the classifiers w [T, N, D] name rightly: bool [T, B]."""
    return (x @ w.mT).argmax(-1) == y


def centred(w: Tensor) -> Tensor:
    """w without its mean over classes: one vector added to the weights of all classes changes no probability."""
    return w - w.mean(-2, keepdim=True)


def centroids(episodes: Episode, n_way: int) -> Tensor:
    """Mean support vector of every class, [T, N, D]."""
    T, S, D = episodes.support_x.shape
    return episodes.support_x.view(T, n_way, S // n_way, D).mean(2)


def class_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of row n of one set of centred weights with row m of another, [T, N, N]."""
    return F.normalize(centred(a), dim=-1) @ F.normalize(centred(b), dim=-1).mT


def parts(w: Tensor, support_x: Tensor) -> tuple[Tensor, Tensor]:
    """w as a part in the span of the support features, which gradient descent from zero cannot leave, and the rest."""
    Q, _ = torch.linalg.qr(support_x.mT)  # [T, D, S]
    inside = w @ Q @ Q.mT
    return inside, w - inside


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Squared length of a part, as a share of the whole's, [T]."""
    return part.square().sum((-2, -1)) / whole.square().sum((-2, -1))


def in_columns(v: Tensor, columns: Tensor) -> Tensor:
    """v [..., D] projected on the span of ``columns`` [D, n]."""
    Q, _ = torch.linalg.qr(columns)
    return v @ Q @ Q.t()


def captured(vectors: Tensor, basis: Tensor) -> Tensor:
    """Share of the squared length of ``vectors`` [n, D] within the first 1, …, D columns of an orthonormal ``basis``, [D]."""
    energy = (vectors @ basis).square().sum(0)
    return energy.cumsum(0) / energy.sum()


def weight_gradients(learner: LEO, w: Tensor, episodes: Episode) -> Tensor:
    """Gradient [T, N, D] of the summed support loss at the weights w."""

    def one_task(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return grad(lambda w: learner.support_loss(w[:, None], x, y))(w)

    return vmap(one_task)(w, episodes.support_x, episodes.support_y)


def latent_descent(learner: LEO, meta: Meta, z: Tensor, episodes: Episode, steps: int) -> list[Tensor]:
    """LEO's latent steps from given codes: the weights w after 0, 1, …, ``steps`` of them. The K copies of a code are equal at
    meta-test, and each feels a K-th of its class's gradient."""
    K = episodes.support_y.shape[1] // z.shape[1]

    def loss(z: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return learner.support_loss(learner.decode(meta["params"], z, None, 1), x, y)

    def decoded(z: Tensor) -> Tensor:
        return learner.decode(meta["params"], z.flatten(0, 1), None, 1).view(*z.shape[:2], -1)

    with torch.no_grad():
        weights = [decoded(z)]
        for _ in range(steps):
            z = z - meta["rates"]["latent"] * vmap(grad(loss))(z, episodes.support_x, episodes.support_y) / K
            weights.append(decoded(z))
    return weights


def weight_descent(learner: LEO, w: Tensor, episodes: Episode, rate: float, steps: int) -> list[Tensor]:
    """Gradient descent on all weights, with one rate, from given ones: w after 0, 1, …, ``steps`` steps."""
    found = [w]
    for _ in range(steps):
        found.append(found[-1] - rate * weight_gradients(learner, found[-1], episodes))
    return found


def codes_beside_other_classes(learner: LEO, meta: Meta, episodes: Episode) -> Tensor:
    """The mean code [T, N, n_z] of each class when the other classes of its support set come from the next task."""
    N, T = learner.n_way, episodes.n_tasks
    blocks = episodes.support_x.view(T, N, -1, episodes.support_x.shape[-1])
    others = blocks.roll(-1, 0)
    found = []
    with torch.no_grad():
        for n in range(N):
            mixed = others.clone()
            mixed[:, n] = blocks[:, n]
            mean, _ = vmap(lambda x: learner.encode(meta["params"], x))(mixed.flatten(1, 2))
            found.append(mean[:, n])
    return torch.stack(found, 1)


def sampled_weights(
    learner: LEO, meta: Meta, found: dict[str, Tensor], episodes: Episode, generator: torch.Generator
) -> Tensor:
    """Weights decoded from codes that are drawn instead of taken at their mean, after all latent steps, [T, N, D]."""
    noise = torch.randn(found["mean"].shape, generator=generator)
    z = found["mean"] + found["sigma"] * noise
    return latent_descent(learner, meta, z, episodes, learner.latent_steps)[-1]


def ranks(values: Tensor) -> Tensor:
    """The rank of every entry from 1 on, float64; equal entries share the mean of their ranks."""
    _, inverse, counts = values.flatten().unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: the correlation of the ranks of two sets of numbers."""
    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])


def separation(score: Tensor, wrong: Tensor) -> float:
    """How often a wrong answer has a higher score than a right one, ties as half (area under the ROC curve); 0.5: the score
    knows nothing."""
    bad = wrong.flatten()
    n = int(bad.sum())
    return float((ranks(score)[bad].sum() - n * (n + 1) / 2) / (n * (len(bad) - n)))
