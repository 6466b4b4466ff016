"""A bilevel problem with a closed form: ridge regression towards θ, judged on other points.

The support loss is L_S(φ) = ‖Xφ − y‖²/(2n), the inner problem L_S(φ) + (λ/2)‖φ − θ‖². With H = XᵀX/n its minimum is
φ* = (H + λI)⁻¹(Xᵀy/n + λθ), so dφ*/dθ = λ(H + λI)⁻¹, and the outer gradient of the query loss L_Q is λ(H + λI)⁻¹∇L_Q(φ*).

Gradient descent on the inner problem is an inner loop of ``meta_learners.bilevel`` with the outer variable ``theta``, so every
estimator can be asked.

Greek to Python: θ ``outer["theta"]``, φ ``params["phi"]``, λ ``strength``, α ``rate``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.meta_learners.bilevel import Outer
from mlbook.models import Params


@dataclass(frozen=True)
class ProximalRidge:
    """X [n, P], y [n] the support set; query_X [m, P], query_y [m]."""

    X: Tensor
    y: Tensor
    query_X: Tensor
    query_y: Tensor
    strength: float = 0.1
    """λ."""
    steps: int = 30
    """T, inner steps from φ = θ."""

    @classmethod
    def drawn(cls, seed: int = 0, *, n: int = 4, size: int = 6, **options) -> ProximalRidge:
        """Normal points of a linear function with a little noise, float64; with n < size, H has the rank n."""
        g = torch.Generator().manual_seed(seed)
        X, query_X = (torch.randn(m, size, generator=g, dtype=torch.float64) for m in (n, 20))
        truth = torch.randn(size, generator=g, dtype=torch.float64)
        noise = 0.1 * torch.randn(n + 20, generator=g, dtype=torch.float64)
        return cls(X, X @ truth + noise[:n], query_X, query_X @ truth + noise[n:], **options)

    # -- the closed form -----------------------------------------------------------------------------------------------

    @property
    def hessian(self) -> Tensor:
        """H [P, P], without the proximal term."""
        return self.X.T @ self.X / len(self.X)

    @property
    def matrix(self) -> Tensor:
        """H + λI."""
        return self.hessian + self.strength * torch.eye(self.X.shape[1], dtype=self.X.dtype)

    @property
    def rate(self) -> float:
        """α of the inner steps: one over the largest curvature of the inner problem."""
        return 1 / float(torch.linalg.eigvalsh(self.matrix)[-1])

    def minimum(self, outer: Outer) -> Params:
        """φ*(θ)."""
        right = self.X.T @ self.y / len(self.X) + self.strength * outer["theta"]
        return {"phi": torch.linalg.solve(self.matrix, right)}

    def slope(self, params: Params) -> Tensor:
        """∇L_Q(φ) [P]."""
        return self.query_X.T @ (self.query_X @ params["phi"] - self.query_y) / len(self.query_X)

    def gradient(self, outer: Outer) -> Tensor:
        """dL_Q(φ*(θ))/dθ [P]."""
        return self.strength * torch.linalg.solve(self.matrix, self.slope(self.minimum(outer)))

    # -- the two losses ------------------------------------------------------------------------------------------------

    def support_loss(self, params: Params) -> Tensor:
        """L_S."""
        return (self.X @ params["phi"] - self.y).square().sum() / (2 * len(self.X))

    def inner_loss(self, outer: Outer, params: Params) -> Tensor:
        """L_S and the proximal term."""
        away = (params["phi"] - outer["theta"]).square().sum()
        return self.support_loss(params) + self.strength / 2 * away

    def outer_loss(self, outer: Outer, params: Params) -> Tensor:
        """L_Q, which sees θ only through φ."""
        return (self.query_X @ params["phi"] - self.query_y).square().sum() / (2 * len(self.query_X))

    # -- an inner loop of meta_learners.bilevel --------------------------------------------------------------------------

    def start(self) -> Tensor | None:
        """φ₀ is θ, which the first step is told."""
        return None

    def step(self, outer: Outer, state: Tensor | None, t: int) -> Tensor:
        phi = outer["theta"] if state is None else state
        pull = self.X.T @ (self.X @ phi - self.y) / len(self.X) + self.strength * (phi - outer["theta"])
        return phi - self.rate * pull

    def loss(self, outer: Outer, state: Tensor, t: int) -> Tensor:
        """L_Q after the last step, and nothing before."""
        return float(t == self.steps) * self.outer_loss(outer, {"phi": state})

    def cut(self, state: Tensor | None) -> Tensor | None:
        return None if state is None else state.detach()

    def end(self, outer: Outer, steps: int | None = None) -> Params:
        """φ after so many inner steps (default: T), at least one."""
        state = self.start()
        for t in range(self.steps if steps is None else steps):
            state = self.step(outer, state, t)
        return {"phi": state}
