"""Where pre-training, MAML, FOMAML and Reptile come to rest when every task is a quadratic: by formula, and by their code.

A task is L_i(θ) = ½·a_i·(θ − c_i)² with the curvature a_i and the bottom c_i, or in P dimensions ½·(θ − c_i)ᵀA_i(θ − c_i) with a
symmetric A_i. Support and query loss are the same. One inner step shrinks θ − c_i by 1 − α·a_i (by I − α·A_i), so the direction
in which a method moves θ is Σ_i w_i·(c_i − θ), and it stops where θ is the mean of the c_i with the weights w_i:

    pre-training  a        MAML  a·(1 − αa)^2N        FOMAML  a·(1 − αa)^N        Reptile  1 − (1 − αa)^k

Greek to Python: a, A ``curvature``, c ``centre``, α ``inner_lr``, N and k ``steps``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlbook.errors import UserError
from mlbook.meta_learners import MAML, Reptile, joint_training
from mlbook.meta_learners.base import MetaLearner
from mlbook.tasks import Episode

METHODS = ("pretraining", "maml", "fomaml", "reptile")


def shrinkage(curvature: Tensor, inner_lr: float, steps: int) -> Tensor:
    """What ``steps`` inner steps leave of θ − c: (1 − αa)^n for curvatures [T], (I − αA)^n for [T, P, P]."""
    if curvature.dim() == 1:
        return (1 - inner_lr * curvature) ** steps
    identity = torch.eye(curvature.shape[-1], dtype=curvature.dtype)
    return torch.matrix_power(identity - inner_lr * curvature, steps)


def weights(
    method: str,
    curvature: Tensor,
    *,
    inner_lr: float,
    steps: int,
) -> Tensor:
    """The weight w_i of every task in the mean update of ``method``, in the shape of ``curvature``, [T] or [T, P, P].

    steps: N for MAML and FOMAML, k for Reptile; pre-training takes none. The weights are not normalised.
    """
    if method not in METHODS:
        allowed = ", ".join(METHODS)
        raise UserError(f"method must be one of {allowed}, not {method!r}")
    scalar = curvature.dim() == 1
    if method == "pretraining":
        return curvature
    powers = 2 * steps if method == "maml" else steps
    left = shrinkage(curvature, inner_lr, powers)
    if method == "reptile":
        return (1 if scalar else torch.eye(len(left[0]), dtype=left.dtype)) - left
    return curvature * left if scalar else curvature @ left


def fixed_point(
    method: str,
    curvature: Tensor,
    centre: Tensor,
    *,
    inner_lr: float,
    steps: int,
) -> Tensor:
    """The point at which ``method`` stops: (Σ w_i)⁻¹ Σ w_i·c_i, a scalar tensor, or [P] for matrices.

    centre: [T] or [T, P]. Raises ``UserError`` where the weights add up to nothing, so that there is no such point.
    Whether descent gets there is another question: see ``attracts``.
    """
    w = weights(method, curvature, inner_lr=inner_lr, steps=steps)
    total = w.sum(0)
    if curvature.dim() == 1:
        if total == 0:
            raise UserError(f"the weights of {method} add up to zero")
        return (w * centre).sum() / total
    if torch.linalg.matrix_rank(total) < len(total):
        raise UserError(f"the weights of {method} add up to a singular matrix")
    return torch.linalg.solve(total, (w @ centre[..., None]).sum(0)[:, 0])


def attracts(method: str, curvature: Tensor, *, inner_lr: float, steps: int) -> bool:
    """Whether descent in small meta-steps ends at the fixed point: the sum of the weights is positive (definite)."""
    total = weights(method, curvature, inner_lr=inner_lr, steps=steps).sum(0)
    return bool((torch.linalg.eigvalsh(total) > 0).all()) if curvature.dim() == 3 else bool(total > 0)


def mean_loss(curvature: Tensor, centre: Tensor, start: Tensor, *, inner_lr: float, steps: int) -> Tensor:
    """Mean over tasks of the loss after ``steps`` inner steps from ``start`` (scalar): ½·a·((1 − αa)^n·(θ − c))².

    start: any shape; every entry is a start of its own. Scalar tasks only ([T]).
    """
    left = shrinkage(curvature, inner_lr, steps) * (start[..., None] - centre)  # [..., T]
    return (0.5 * curvature * left.square()).mean(-1)


# -- the same tasks for the package's own meta-learners ------------------------------------------------------------------


class Linear(nn.Module):
    """ŷ = x·θ: P numbers in, no bias. Its mean squared error on P chosen examples is any quadratic (see ``episodes``)."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """θ standard normal."""
        nn.init.normal_(self.theta, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, P] -> [B]."""
        return x @ self.theta


def episodes(curvature: Tensor, centre: Tensor) -> Episode:
    """The quadratics as regression tasks: x [T, P, P], y [T, P], the same for support and query.

    The rows of X = √(P/2)·√A and y = X·c make the mean squared error (1/P)·‖Xθ − Xc‖² equal to ½·(θ − c)ᵀA(θ − c). With
    P = 1 a task is a single example (√(a/2), √(a/2)·c). Raises ``UserError`` for a curvature that is not a symmetric matrix
    without negative eigenvalues: a sum of squares has no other.
    """
    if curvature.dim() == 1:
        curvature, centre = curvature[:, None, None], centre[:, None]
    values, vectors = torch.linalg.eigh(curvature)
    if not torch.allclose(curvature, curvature.mT) or float(values.min()) < -1e-12 * float(values.max()):
        raise UserError("a curvature must be a symmetric matrix without negative eigenvalues")
    root = vectors @ torch.diag_embed(values.clamp_min(0).sqrt()) @ vectors.mT
    x = (curvature.shape[-1] / 2) ** 0.5 * root
    y = (x @ centre[..., None])[..., 0]
    return Episode(x, y, x, y)


def learner(method: str, *, size: int = 1, inner_lr: float, steps: int) -> MetaLearner:
    """The package's learner of that name for the tasks of ``episodes``."""
    if method not in METHODS:
        allowed = ", ".join(METHODS)
        raise UserError(f"method must be one of {allowed}, not {method!r}")
    options = {"loss": "mse", "inner_lr": inner_lr}
    if method == "pretraining":
        return joint_training(Linear(size), **options)
    if method == "reptile":
        return Reptile(Linear(size), inner_steps=steps, **options)
    return MAML(Linear(size), inner_steps=steps, first_order=method == "fomaml", **options)


def descend(
    learner: MetaLearner, tasks: Episode, start: Tensor, *, meta_lr: float, meta_steps: int
) -> list[Tensor]:
    """θ before and after every one of ``meta_steps`` plain steps θ ← θ − meta_lr·(meta-gradient over all tasks).

    start: [P]. The meta-gradient is the learner's own; for Reptile that is the mean of θ − φ.
    """
    path = [start]
    for _ in range(meta_steps):
        gradient, _ = learner.meta_gradient({"params": {"theta": path[-1]}}, tasks)
        path.append(path[-1] - meta_lr * gradient["params"]["theta"].detach())
    return path
