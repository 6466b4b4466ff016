"""A choice whose gradient is known: K options with outputs v_k, a target t, and the loss f(b) = (b·v − t)² of a one-hot b.

J(π) = Σ_k p_k (v_k − t)² with p = softmax(π), so dJ/dπ_k = p_k (f_k − J). A soft choice s gives the output s·v. A mixture can
hit a target that no option hits, and from there comes the bias of a relaxation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.relax import draw_choices, soft_loss_control, surrogate
from mlbook.training.evaluation import ci95

METHODS = ("Gumbel-softmax", "REINFORCE", "RELAX")


@dataclass(frozen=True)
class Options:
    """The problem. Raises ``UserError`` unless there are equally many outputs and logits, and at least two."""

    outputs: Sequence[float] = (-1.0, -0.2, 0.6, 1.4)
    """v."""
    target: float = 0.2
    """t."""
    logits: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    """π."""

    def __post_init__(self) -> None:
        if len(self.outputs) != len(self.logits) or len(self.outputs) < 2:
            raise UserError("outputs and logits must be equally many, and at least two")

    @property
    def pi(self) -> Tensor:
        """π as a tensor [K], float64."""
        return torch.tensor(list(self.logits), dtype=torch.float64)

    def loss(self, choice: Tensor) -> Tensor:
        """f of hard or soft choices: [..., K] -> [...]."""
        v = torch.tensor(list(self.outputs), dtype=choice.dtype)
        return (choice @ v - self.target).square()

    def gradient(self) -> Tensor:
        """dJ/dπ, exactly: [K]."""
        p, f = self.pi.softmax(0), self.loss(torch.eye(len(self.outputs), dtype=torch.float64))
        return p * (f - (p * f).sum())


def estimates(
    problem: Options, method: str, u: Tensor, v: Tensor, temperature: float, scale: float = 1.0
) -> Tensor:
    """One estimate of dJ/dπ per row of uniform numbers u, v [n, K]: [n, K].

    method: one of ``METHODS``, else ``UserError``. ``RELAX`` has the control variate scale · f(softmax(z / temperature)),
    ``REINFORCE`` no baseline.
    """
    if method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    logits = problem.pi.expand_as(u).clone().requires_grad_()  # a row for every estimate
    drawn = draw_choices(logits, u, v)
    if method == "Gumbel-softmax":
        numbers = problem.loss((drawn.z / temperature).softmax(-1))
    elif method == "REINFORCE":
        numbers = problem.loss(drawn.choice) * drawn.log_probability
    else:
        numbers = surrogate(
            drawn, problem.loss(drawn.choice), soft_loss_control(problem.loss, temperature, scale)
        )
    return torch.autograd.grad(numbers.sum(), logits)[0]


class Measured(NamedTuple):
    """What many estimates of one gradient say of the estimator."""

    bias: Tensor  # [K], mean minus the truth
    interval: Tensor  # [K], 95 % half width of the mean
    variance: float
    """Σ over components of the variance of one estimate."""


def measured(found: Tensor, truth: Tensor) -> Measured:
    """Bias and spread of estimates [n, K] of the gradient ``truth`` [K]."""
    return Measured(found.mean(0) - truth, ci95(found, correction=1), float(found.var(0).sum()))


def conditional_draws(
    logits: Tensor, choice: int, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """z given that ``choice`` is the largest, in two ways: by throwing away all other draws of z, and as z̃ of ``draw_choices``.

    Both [m, K], where m of the n draws had this choice.
    """
    u, v = (torch.rand(n, len(logits), generator=generator, dtype=logits.dtype) for _ in range(2))
    drawn = draw_choices(logits, u, v)
    kept = drawn.choice[:, choice].bool()
    return drawn.z[kept], drawn.conditioned[kept]


def learned_control(
    problem: Options,
    u: Tensor,
    v: Tensor,
    *,
    units: int = 16,
    steps: int = 200,
    rate: float = 0.02,
    seed: int = 0,
) -> tuple[Callable[[Tensor], Tensor], list[float]]:
    """A control variate W₂ tanh(W₁ softmax(2z)), and the summed square of the estimates at every step of its training.

    It is trained as in RELAX to make this square small, which differs from the variance by a constant. Every step uses all of
    u, v [n, K].
    """
    g = torch.Generator().manual_seed(seed)
    K = len(problem.outputs)
    weights = [
        torch.randn(units, K, generator=g, dtype=torch.float64),
        torch.zeros(units, dtype=torch.float64),
    ]
    weights = [w.requires_grad_() for w in weights]
    optimizer, squares = torch.optim.Adam(weights, lr=rate), []

    def control(z: Tensor) -> Tensor:
        return torch.tanh((2 * z).softmax(-1) @ weights[0].T) @ weights[1]

    for _ in range(steps):
        logits = problem.pi.expand_as(u).clone().requires_grad_()
        drawn = draw_choices(logits, u, v)
        number = surrogate(drawn, problem.loss(drawn.choice), control).sum()
        (found,) = torch.autograd.grad(number, logits, create_graph=True)
        loss = found.square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        squares.append(float(loss.detach()))
    return control, squares


def one_step_gradient(
    outer_loss: Callable[[Tensor], Tensor],
    inner_loss: Callable[[Tensor, Tensor], Tensor],
    theta: Tensor,
    psi: Tensor,
    rate: float,
    epsilon: float | None = None,
) -> Tensor:
    """d/dψ L_val(θ − ζ ∇_θ L_train(θ, ψ)) = −ζ (∂²L_train/∂ψ∂θ) ∇L_val(θ'), in the shape of ψ.

    rate: ζ. Without ``epsilon`` it is differentiated twice; with it, the result is a difference of two first derivatives in ψ at
    θ ± ε ∇L_val(θ')/‖∇L_val(θ')‖.
    """
    theta, psi = theta.detach().requires_grad_(), psi.detach().requires_grad_()
    (inner,) = torch.autograd.grad(inner_loss(theta, psi), theta, create_graph=True)
    ahead = theta - rate * inner
    if epsilon is None:
        return torch.autograd.grad(outer_loss(ahead), psi)[0]
    point = ahead.detach().requires_grad_()
    (g,) = torch.autograd.grad(outer_loss(point), point)
    size = g.norm()
    up, down = (
        torch.autograd.grad(inner_loss(theta.detach() + s * epsilon * g / size, psi), psi)[0] for s in (1, -1)
    )
    return -rate * size * (up - down) / (2 * epsilon)
