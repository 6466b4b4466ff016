"""Figures of chapter 8. Every function returns (figure, alt text)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlbook.pages.checks.linear_tasks import TanhFeatures, step_matrix
from mlbook.pages.figures.style import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, PURPLE, RED, SKY, figure
from mlbook.tasks import Episode

PALETTE = (BLUE, GREEN, PURPLE, RED, ORANGE, BLACK)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))


def panels(
    drawn: dict[str, dict[str, list[tuple[float, float]]]],
    xlabel: str,
    ylabel: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    top: float | None = None,
    marks: bool = True,
    alt: str | None = None,
):
    """Curves side by side. drawn: title of a panel -> name of a curve -> (x, y) pairs; a name keeps its colour and its dashes.
    Values that are not finite are left out."""
    names = list(dict.fromkeys(name for curves in drawn.values() for name in curves))
    fig, axes = figure(
        1,
        len(drawn),
        width=4.3 * len(drawn) + 0.9 * (len(drawn) == 1),
        height=3.3,
        sharey=True,
        squeeze=False,
    )
    said = []
    for ax, (title, curves) in zip(axes[0], drawn.items(), strict=True):
        for name, pairs in curves.items():
            pairs = [(x, y) for x, y in pairs if math.isfinite(y)]
            x, y = zip(*pairs, strict=True)
            i = names.index(name) % len(PALETTE)
            method = name.split()[0].lower().replace("-", "")
            colour = COLOURS.get(method, PALETTE[i])  # a method has one colour on every page
            marker = {"marker": "o", "markersize": 3.5} if marks else {}
            ax.plot(x, y, color=colour, ls=DASHES[i], lw=1.8, label=name, **marker)
            where = f"{title}, {name}" if len(drawn) > 1 else name
            said.append(f"{where}: {y[0]:.3g} at {x[0]:g}, {y[-1]:.3g} at {x[-1]:g}")
        ax.set(xlabel=xlabel, title=title if len(drawn) > 1 else "")
        if log_x:
            ax.set_xscale("symlog", linthresh=1)
        if log_y:
            ax.set_yscale("log")
        if top is not None:
            ax.set_ylim(top=top)
    axes[0][0].set_ylabel(ylabel)
    axes[0][-1].legend(fontsize=8.5)
    return fig, alt or f"{ylabel} against {xlabel}. " + "; ".join(said) + "."


def two_stools(
    model: TanhFeatures,
    starts: dict[str, Tensor],
    examples: list[tuple[str, Episode, Tensor]],
    *,
    inner_lr: float,
    steps: int,
):
    """Tasks of two families, each adapted from a common start and from the start of its family.

    starts: ``one`` and the title of each example -> θ [P]. examples: (title, one task's episode without the tasks axis,
    truth on the grid of 200 inputs from −3 to 3).
    """
    grid = torch.linspace(-3, 3, 200, dtype=torch.float64)[:, None]
    psi = model.features(grid)
    fig, axes = figure(1, len(examples), width=4.2 * len(examples), height=3.4, sharey=True, squeeze=False)
    said = []
    for ax, (title, episode, truth) in zip(axes[0], examples, strict=True):
        x, y = model.features(episode.support_x.double()), episode.support_y.double()
        C = step_matrix(x[None], inner_lr=inner_lr, steps=steps)[0]
        ax.plot(grid[:, 0], truth, color=GREY, lw=2.4, label="the task")
        errors = {}
        for name, key, colour in (("the common start", "one", BLUE), ("its family's start", title, GREEN)):
            theta = starts[key]
            adapted = theta + x.T @ C @ (y[:, 0] - x @ theta)
            ax.plot(grid[:, 0], psi @ theta, color=colour, lw=1.0, ls=":")
            ax.plot(
                grid[:, 0],
                psi @ adapted,
                color=colour,
                lw=1.8,
                ls="-" if key == "one" else "--",
                label=f"adapted from {name}",
            )
            errors[name] = float((psi @ adapted - truth).square().mean())
        ax.plot(episode.support_x[:, 0], episode.support_y[:, 0], "o", color=BLACK, markersize=5)
        ax.set(title=title, xlabel="x")
        said.append(
            f"{title}: mean squared error " + ", ".join(f"{e:.2f} from {name}" for name, e in errors.items())
        )
    axes[0][0].set_ylabel("y")
    axes[0][-1].legend(fontsize=8.5)
    return fig, (
        "One task of each family with its support points, the two starts dotted, and the curves after adaptation. "
        + "; ".join(said)
        + "."
    )


def valleys_of_frequency(omega: Tensor, loss: Tensor, true: float, share: list[tuple[float, float]]):
    """Left: the support loss of one task over a real frequency, with the best amplitudes at each. Right: from which first
    frequencies gradient descent ends at the right whole number. omega, loss [n]; share: (first frequency, share of tasks)."""
    fig, (left, right) = figure(1, 2, width=8.4, height=3.2)
    left.plot(omega, loss, color=BLUE, lw=1.6)
    left.plot(true, float(loss[(omega - true).abs().argmin()]), "*", color=GREEN, markersize=14)
    left.set(xlabel="frequency ω, as a real number", ylabel="loss at the best amplitudes")
    inner = (loss[1:-1] < loss[:-2]) & (loss[1:-1] < loss[2:])
    right.bar(
        [s for s, _ in share], [100 * p for _, p in share], width=0.4, color=SKY, edgecolor=BLACK, lw=0.6
    )
    right.set(xlabel="ω at the start", ylabel="right frequency, % of tasks", ylim=(0, 100))
    return fig, (
        f"Left: the loss over the frequency has {int(inner.sum())} valleys; the lowest lies at {true:g}. Right: the share of "
        "tasks for which gradient descent finds the right frequency, by the frequency at the start: "
        + ", ".join(f"{100 * p:.0f} % from {s:g}" for s, p in share)
        + "."
    )


def broken_lines(drawn: dict[str, list[tuple[Tensor, Tensor]]], xlabel: str, ylabel: str, alt: str):
    """Panels of curves that may jump: title -> pieces (x, y), each piece continuous; a gap in the line marks every jump."""
    fig, axes = figure(1, len(drawn), width=4.3 * len(drawn), height=3.1, squeeze=False)
    for ax, (title, pieces) in zip(axes[0], drawn.items(), strict=True):
        for x, y in pieces:
            ax.plot(x, y, color=BLUE, lw=1.8)
        ax.set(title=title, xlabel=xlabel)
    axes[0][0].set_ylabel(ylabel)
    return fig, alt


def pieces(x: Tensor, y: Tensor, *, jump: float) -> list[tuple[Tensor, Tensor]]:
    """Cut a curve sampled at x [n] wherever y [n] changes by more than ``jump`` between neighbours."""
    cuts = ((y[1:] - y[:-1]).abs() > jump).nonzero()[:, 0].add(1).tolist()
    edges = [0, *cuts, len(x)]
    return [(x[a:b], y[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
