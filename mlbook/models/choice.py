"""Models with a choice in them: a whole number that says which curve, held as scores (a relaxation) or as a real number."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SineChoice(nn.Module):
    """f(x) = Σ_k p_k·(a_k sin kx + b_k cos kx), k = 1..n, with the shares p = softmax(score): a choice among n frequencies,
    relaxed to a mixture. All parameters are real numbers, so an inner loop can move them."""

    def __init__(self, choices: int = 5) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(choices))
        self.amplitude = nn.Parameter(torch.zeros(choices, 2))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        nn.init.zeros_(self.score)
        nn.init.normal_(self.amplitude, std=0.1, generator=generator)

    def curves(self, x: Tensor) -> Tensor:
        """a_k sin kx + b_k cos kx of every choice: x [..., 1] -> [..., n]."""
        waves = waves_of(x, len(self.score))  # [..., n, 2]
        return (waves * self.amplitude).sum(-1)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., 1] -> [..., 1]."""
        return (self.curves(x) * torch.softmax(self.score, 0)).sum(-1, keepdim=True)


class SineRounded(SineChoice):
    """The same with the choice made: only the curve with the largest score, at its own amplitude."""

    def forward(self, x: Tensor) -> Tensor:
        hard = torch.nn.functional.one_hot(self.score.argmax(), self.score.shape[0]).to(x.dtype)
        return (self.curves(x) * hard).sum(-1, keepdim=True)


class SineReal(nn.Module):
    """f(x) = a sin ωx + b cos ωx with ω a real number; ``rounded`` uses the nearest whole number instead, whose derivative by ω
    is zero."""

    def __init__(self, omega: float = 3.0, *, rounded: bool = False) -> None:
        super().__init__()
        self.start, self.rounded = omega, rounded
        self.omega = nn.Parameter(torch.tensor([omega]))
        self.amplitude = nn.Parameter(torch.zeros(2))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        nn.init.constant_(self.omega, self.start)
        nn.init.normal_(self.amplitude, std=0.1, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., 1] -> [..., 1]."""
        omega = self.omega.round() if self.rounded else self.omega
        return self.amplitude[0] * torch.sin(omega * x) + self.amplitude[1] * torch.cos(omega * x)


def waves_of(x: Tensor, choices: int) -> Tensor:
    """sin kx and cos kx for k = 1..choices: x [..., 1] -> [..., choices, 2]."""
    k = torch.arange(1, choices + 1, dtype=x.dtype, device=x.device)
    return torch.stack([torch.sin(k * x), torch.cos(k * x)], dim=-1)


def enumerate_choices(
    support_x: Tensor, support_y: Tensor, choices: int, *, ridge: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Try every frequency: the least-squares amplitudes (with a little ridge) of each, and the mean squared error on the
    support set. support_x, support_y [T, K, 1] -> errors [T, n], amplitudes [T, n, 2]."""
    waves = waves_of(support_x, choices).transpose(1, 2)  # [T, n, K, 2]
    K = waves.shape[2]
    gram = waves.mT @ waves / K + ridge * torch.eye(2, dtype=waves.dtype, device=waves.device)
    right = waves.mT @ support_y[:, None] / K
    amplitude = torch.linalg.solve(gram, right)  # [T, n, 2, 1]
    errors = (waves @ amplitude - support_y[:, None]).square().mean((2, 3))
    return errors, amplitude[..., 0]
