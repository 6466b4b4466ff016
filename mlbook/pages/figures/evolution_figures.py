"""Figures of the page on evolution strategies. Every function returns (figure, alt text)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mlbook.pages.checks.influence import BEST, influence
from mlbook.pages.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, figure

WALKS = {"truncated backpropagation": (ORANGE, "--"), "truncated ES": (RED, ":"), "PES": (BLUE, "-")}


def rough(eta: Tensor) -> Tensor:
    """A loss with a slope and many small waves."""
    return 0.35 * (eta - 1.5).square() + 0.25 * torch.sin(14 * eta)


def a_pair(sigma: float = 0.45, eta: float = -0.25, epsilon: float = 1.1):
    """A rough loss, what is left of it after smoothing, and one pair."""
    at = torch.linspace(-2, 3, 801, dtype=torch.float64)
    # smoothing a quadratic adds σ²/2 times its second derivative, a wave shrinks by exp(−(14σ)²/2)
    smooth = 0.35 * (at - 1.5).square() + 0.35 * sigma**2
    smooth = smooth + 0.25 * math.exp(-((14 * sigma) ** 2) / 2) * torch.sin(14 * at)
    fig, ax = figure(width=7.0, height=3.3)
    ax.plot(at, rough(at), color=GREY, linewidth=1.2, label="J")
    ax.plot(at, smooth, color=GREEN, linewidth=2.6, label="E J(η + σε)")
    ends = torch.tensor([eta - sigma * epsilon, eta + sigma * epsilon], dtype=torch.float64)
    ax.plot(ends, rough(ends), "o-", color=BLUE, linewidth=2, markersize=7, label="a pair, and its slope")
    here = torch.tensor(eta, dtype=torch.float64)
    slope = 0.7 * (eta - 1.5) + 0.25 * 14 * math.cos(14 * eta)
    near = torch.tensor([-0.18, 0.18], dtype=torch.float64)
    ax.plot(
        here + near, rough(here) + slope * near, color=ORANGE, linewidth=2.4, label="the gradient of J at η"
    )
    ax.set(xlabel="outer variable η", ylabel="loss", ylim=(-0.6, 4.4))
    ax.legend(frameon=False, fontsize=9)
    by_pair = float((rough(ends)[1] - rough(ends)[0]) / (ends[1] - ends[0]))
    return fig, (
        f"A loss with many small waves, and the smooth curve of its mean over a neighbourhood. At the point shown the slope of a "
        f"wave is {slope:.1f}; the line through one pair of points has the slope {by_pair:.2f}, near that of the smooth curve."
    )


def errors_by_dimension(sizes: Sequence[int], measured: dict[float, Sequence[float]]):
    """Variance of one pair over the squared gradient, by the number of dimensions, for every σ; and the line P + 1."""
    fig, ax = figure(width=6.4, height=3.3)
    ax.loglog(sizes, [P + 1 for P in sizes], color=GREY, linewidth=1.5, label="P + 1")
    for (sigma, values), colour, mark in zip(measured.items(), (BLUE, ORANGE, PURPLE), "os^", strict=False):
        ax.loglog(sizes, values, mark, color=colour, markersize=6, label=f"measured, σ = {sigma:g}")
    ax.set(xlabel="dimensions P", ylabel="tr Cov / ‖g‖²")
    ax.legend(frameon=False, fontsize=9)
    last = ", ".join(f"{values[-1]:.0f} at σ = {sigma:g}" for sigma, values in measured.items())
    return (
        fig,
        f"The variance of one pair grows as P + 1: at P = {sizes[-1]} it is {last}, the same for every σ.",
    )


def reach_of_memory(most: int = 100):
    """How far the state moves with θ, over the steps of memory."""
    K = list(range(1, most + 1))
    values = [influence(k) for k in K]
    flip = next(k for k, v in zip(K, values, strict=True) if v < 0)
    fig, ax = figure(width=6.4, height=2.9)
    ax.plot(K, values, color=ORANGE, linewidth=2.4)
    ax.axhline(0, color=GREY, linewidth=1)
    ax.axhline(-6, color=BLACK, linewidth=1, linestyle=":")
    ax.text(most, -5.4, "the whole run", ha="right", fontsize=8)
    ax.axvline(flip, color=GREY, linewidth=1, linestyle=":")
    ax.set(xlabel="steps of memory", ylabel="how far s₀ moves with θ")
    return fig, (
        f"The influence rises from {values[0]:.0f} at one step of memory to {max(values):.1f}, falls, is negative from {flip} "
        f"steps on and tends to −6."
    )


def walks(paths: dict[str, Sequence[float]]):
    """θ over the outer steps, by each estimate; paths: "PES, window 1" and the like."""
    fig, ax = figure(width=7.0, height=3.2)
    for name, values in paths.items():
        kind = next(k for k in WALKS if name.startswith(k))
        colour, dash = WALKS[kind]
        ax.plot(range(len(values)), values, dash, color=colour, linewidth=2, label=name)
    ax.axhline(BEST, color=BLACK, linewidth=1, linestyle=":")
    ax.set(xlabel="outer steps", ylabel="θ", ylim=(-1, 4))
    ax.legend(frameon=False, fontsize=8)
    ends = ", ".join(f"{name} {values[-1]:.2f}" for name, values in paths.items())
    return (
        fig,
        f"θ over {len(next(iter(paths.values()))) - 1} outer steps from 0.5; the optimum is −1/6. Ends: {ends}.",
    )


def growing_gradients(lengths: Sequence[int], norms: dict[str, Sequence[float]]):
    """The length of the outer gradient over the steps that are differentiated, for every set of weights."""
    fig, ax = figure(width=6.4, height=3.3)
    for (name, values), colour in zip(norms.items(), (GREY, ORANGE, BLUE, PURPLE), strict=False):
        ax.semilogy(lengths, values, "o-", color=colour, linewidth=2, label=name)
    ax.set(xlabel="steps that are differentiated through", ylabel="length of the outer gradient")
    ax.legend(frameon=False, fontsize=9)
    ends = ", ".join(f"{name} from {v[0]:.1e} to {v[-1]:.1e}" for name, v in norms.items())
    return fig, f"Length of the outer gradient over {lengths[0]} to {lengths[-1]} steps, logarithmic: {ends}."
