"""Figures of chapter 17. Every function returns (figure, alt text)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlbook.architecture.children import DECISIONS, enumerate_space
from mlbook.architecture.table import ArchitectureTable
from mlbook.pages.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    arrow,
    box,
    figure,
)
from mlbook.training.evaluation import ci95

LOOKS = {
    "LSTM controller": (BLUE, "-"),
    "independent controller": (SKY, "--"),
    "no baseline": (ORANGE, "-."),
    "random search": (GREY, ":"),
    "relaxation": (GREEN, "-"),
}
ESTIMATE_COLOURS = {"exact": BLUE, "truncated": PURPLE, "relaxed": GREEN, "score_function": RED}


def loop():
    """The controller writes decisions, a child is trained, its accuracy comes back as a number."""
    fig, ax = figure(width=7.6, height=3.3)
    ax.axis("off")
    ax.set(xlim=(-0.3, 10.3), ylim=(-0.2, 4.2))

    names = [name for name, _ in DECISIONS]
    for t, name in enumerate(names):
        x = 0.9 + 2.1 * t
        box(ax, x, 2.6, "LSTM", BLUE)
        ax.text(x, 3.55, f"$a_{t + 1}$: {name}", ha="center", fontsize=9.5)
        arrow(ax, (x, 2.95), (x, 3.4), colour=BLUE)
        if t + 1 < len(names):
            arrow(ax, (x + 0.5, 2.6), (x + 1.6, 2.6), colour=BLUE)
            arrow(ax, (x + 0.55, 3.4), (x + 1.75, 2.95), colour=GREY)
    box(ax, 7.9, 0.8, "child: trained from scratch")
    box(ax, 3.0, 0.8, "reward R: its validation accuracy", RED)
    arrow(ax, (9.6, 2.2), (9.0, 1.2))
    arrow(ax, (6.1, 0.8), (5.15, 0.8))
    arrow(ax, (2.2, 1.15), (1.1, 2.2), colour=RED, style="--")
    ax.text(0.1, 1.55, "REINFORCE", color=RED, fontsize=10)
    alt = (
        "Five LSTM cells in a row write one decision each; every decision is what the next cell reads. The five decisions "
        "describe a child network, which is trained from scratch. Its validation accuracy, a single number, goes back to "
        "the controller as the reward. The way back is dashed: no derivative flows along it."
    )
    return fig, alt


def whole_space(table: ArchitectureTable, seed: int = 0):
    """Worth of all architectures in order of rank, the reward of one seed beside it, and the mean of every option."""
    worth, reward = table.worth(seed), table.rewards(seed)
    order = worth.argsort(descending=True)
    count = int(table.best(seed).sum())
    fig, (left, right) = figure(1, 2, width=8.6, height=3.4, gridspec_kw={"width_ratios": [1.25, 1]})
    left.plot(reward[order], ".", color=SKY, markersize=3, label=f"reward: validation accuracy, seed {seed}")
    left.plot(worth[order], color=BLACK, label="worth: mean test accuracy of the other seeds")
    left.axvspan(-5, count - 0.5, color=ORANGE, alpha=0.25, label="best 5 % by worth")
    left.set(xlabel="rank by worth", ylabel="accuracy", xlim=(-5, len(worth)))
    left.legend(fontsize=8, loc="lower left")
    space = torch.tensor(enumerate_space())
    labels, means = [], []
    for t, (name, options) in enumerate(DECISIONS):
        for i, option in enumerate(options):
            labels.append(f"{name}: {option.replace('_', ' ')}")
            means.append(float(worth[space[:, t] == i].mean()))
    colours = [(BLUE, SKY, PURPLE, GREEN, ORANGE)[t] for t, (_, o) in enumerate(DECISIONS) for _ in o]
    right.barh(range(len(labels)), means, color=colours)
    right.set(yticks=range(len(labels)), xlabel="mean worth of all with this option")
    right.set_yticklabels(labels, fontsize=7)
    right.set_xlim(left=0.9 * min(means))
    right.invert_yaxis()
    correlation = float(torch.corrcoef(torch.stack([worth, reward]))[0, 1])
    alt = (
        f"Left: worth of {len(worth)} architectures by rank, from {worth.max():.3f} down to {worth.min():.3f}; the best "
        f"{count} are shaded; rewards of one seed scatter around the curve (correlation {correlation:.2f}). Right: the mean "
        f"worth of all architectures that share an option; the highest is {labels[means.index(max(means))]} with "
        f"{max(means):.3f}, the lowest {labels[means.index(min(means))]} with {min(means):.3f}."
    )
    return fig, alt


def search_curves(worth: dict[str, Tensor], hits: dict[str, Tensor], ceiling: float | None = None):
    """Worth of the pick, and share of the searches whose pick is in the best 5 %, over children trained.

    worth and hits: by method, [searches, n + 1].
    """
    fig, (left, right) = figure(1, 2, width=8.4, height=3.2)
    words = []
    for name, values in worth.items():
        colour, dash = LOOKS[name]
        x, mean, half = torch.arange(values.shape[1]), values.mean(0), ci95(values)
        left.plot(x, mean, color=colour, linestyle=dash, label=name)
        left.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15)
        right.plot(x, hits[name].double().mean(0), color=colour, linestyle=dash)
        words.append(f"{name} {mean[-1]:.3f} and {hits[name][:, -1].double().mean():.0%}")
    if ceiling is not None:
        left.axhline(ceiling, color=BLACK, linewidth=0.8)
    left.set(xlabel="children trained", ylabel="worth of the pick (accuracy)")
    left.legend(fontsize=8)
    right.set(xlabel="children trained", ylabel="share of picks in the best 5 %", ylim=(0, 1))
    n = next(iter(worth.values())).shape[1] - 1
    return (
        fig,
        f"Worth of the pick over children trained, and share of picks in the best 5 %. After {n}: {'; '.join(words)}.",
    )


def relaxation_path(curve: Sequence[float], picks: Tensor, worth: Tensor):
    """Accuracy of the mixture over the steps of α, and the worth of what would be cut out of it (mean over searches)."""
    fig, ax = figure(width=5.6, height=3.0)
    steps = torch.linspace(1, picks.shape[1], len(curve))
    cut = worth.gather(1, picks).mean(0)
    ax.plot(steps, curve, color=GREEN, label="mixture, validation drawings, shared weights")
    ax.plot(range(1, len(cut) + 1), cut, color=BLACK, label="likeliest architecture, trained alone: worth")
    ax.set(xlabel="step of α", ylabel="accuracy")
    ax.legend(fontsize=8)
    return fig, (
        f"Accuracy of the mixture rises to {curve[-1]:.3f}; the worth of the architecture that would be cut out of it goes "
        f"from {cut[0]:.3f} to {cut[-1]:.3f}."
    )


def five_curves(histories: dict[str, Sequence[float]], estimates: dict[str, str]):
    """J over outer steps for five outer variables, one panel each."""
    fig, axes = figure(1, len(histories), width=9.2, height=2.6, sharey=True)
    words = []
    for ax, (name, values) in zip(axes.flat, histories.items(), strict=True):
        way = estimates[name]
        ax.plot(values, color=ESTIMATE_COLOURS[way])
        ax.set_title(f"{name}\n{way.replace('_', ' ')}", fontsize=9, color=ESTIMATE_COLOURS[way])
        ax.set_xlabel("outer step", fontsize=8)
        words.append(f"{name} ({way.replace('_', ' ')}) from {values[0]:.3f} to {values[-1]:.3f}")
    axes.flat[0].set_ylabel("J on other tasks")
    return (
        fig,
        f"Five panels, one outer variable each, the same problem and the same outer loop. J: {'; '.join(words)}.",
    )
