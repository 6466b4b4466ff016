"""Figures of chapter 3: pre-training and meta-learning on loss curves that can be drawn. Every function returns (figure, alt
text)."""

from __future__ import annotations

import torch
from torch import Tensor

from mlbook.meta_learners.inner_loop import inner_path
from mlbook.pages.checks import quadratics
from mlbook.pages.figures.style import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, PURPLE, RED, figure

TITLES = {"pretraining": "pre-training", "maml": "MAML", "fomaml": "FOMAML", "reptile": "Reptile"}
STYLES = {"pretraining": "-", "maml": "-", "fomaml": "--", "reptile": "-."}


# -- two tasks with two valleys -------------------------------------------------------------------------------------------


def one_valley(theta: Tensor) -> Tensor:
    """Task 1: a wide valley with its bottom, 0, at θ = 2.4."""
    return 0.12 * (theta - 2.4) ** 2


def two_valleys(theta: Tensor) -> Tensor:
    """Task 2: a valley with its bottom at θ = −2, near 0, and a second, worse one near θ = 2."""
    good, poor = 0.3 * (theta + 2) ** 2, 0.7 * (theta - 2) ** 2 + 0.45
    return -0.08 * torch.logsumexp(torch.stack([-good, -poor]) / 0.08, 0)


def present_and_potential(inner_lr: float = 0.3, steps: int = 12):
    """Two tasks over one parameter: where Σ L(θ) is least, where Σ L(θ after adaptation) is least, and where the inner loop
    leads from there. Both starts are found on a grid; nothing is sketched."""
    tasks = {"task 1": (one_valley, BLUE), "task 2": (two_valleys, ORANGE)}
    grid = torch.linspace(-3.6, 3.6, 1441, dtype=torch.float64)

    def path(
        loss, start
    ):  # all points of ``start`` descend at once: the sum of their losses has their gradients
        return [
            p["t"]
            for p in inner_path(lambda p: loss(p["t"]).sum(), {"t": start}, inner_lr=inner_lr, steps=steps)
        ]

    now = sum(loss(grid) for loss, _ in tasks.values())
    later = sum(loss(path(loss, grid)[-1]) for loss, _ in tasks.values())
    starts = {"pre-training": grid[now.argmin()], "meta-learning": grid[later.argmin()]}

    fig, axes = figure(2, 2, width=7.6, height=5.0, sharex=True, height_ratios=(1.5, 1))
    said = []
    for column, (title, start) in enumerate(starts.items()):
        ax = axes[0, column]
        sums = [0.0, 0.0]
        for name, (loss, colour) in tasks.items():
            ax.plot(grid, loss(grid), color=colour, lw=1.8, label=name)
            way = torch.stack(path(loss, start))
            ax.plot(way, loss(way), "o-", color=colour, markersize=3, lw=0.8, alpha=0.7)
            ax.plot(way[-1], loss(way[-1]), "v", color=colour, markersize=10, mec=BLACK)
            sums[0] += float(loss(way[0]))
            sums[1] += float(loss(way[-1]))
        ax.axvline(start, color=BLACK, lw=1.2, ls=":")
        ax.set(title=title, ylim=(-0.15, 3.2), xlim=(-3.6, 3.6))
        objective, ylabel = ((now, "sum of the losses"), (later, "sum after adaptation"))[column]
        low = axes[1, column]
        low.plot(grid, objective, color=BLACK, lw=1.8)
        low.axvline(start, color=BLACK, lw=1.2, ls=":")
        low.plot(start, objective.min(), "s", color=BLACK, markersize=8)
        low.set(xlabel="θ", ylabel=ylabel, ylim=(-0.15, 3.2))
        said.append(
            f"{title} puts the start at {float(start):.1f}, where the sum of the losses is {sums[0]:.2f} before the inner loop "
            f"and {sums[1]:.2f} after it"
        )
    axes[0, 0].set_ylabel("loss")
    axes[0, 0].legend(fontsize=9, loc="upper center")
    return fig, (
        "Two columns of two panels over one parameter theta. Above, the losses of two tasks: task 1 has one wide valley on the "
        "right; task 2 has its best valley on the left and a worse one on the right. Dots show where inner steps lead from the "
        "start. Below, the objective of each method with its lowest point. " + "; ".join(said) + "."
    )


# -- four weighted means --------------------------------------------------------------------------------------------------


def weights_by_curvature(steps: tuple[int, ...] = (1, 4), inner_lr: float = 1.0):
    """How much weight each method gives a task, against α·a."""
    u = torch.linspace(0, 2, 401, dtype=torch.float64)
    fig, axes = figure(1, len(steps), width=3.8 * len(steps), height=3.4, sharey=True, squeeze=False)
    for ax, n in zip(axes[0], steps, strict=True):
        for method in quadratics.METHODS:
            w = quadratics.weights(method, u, inner_lr=inner_lr, steps=n)
            ax.plot(
                u, w, color=COLOURS[method], ls=STYLES[method], lw=2.6 if method == "pretraining" else 1.8,
                label=TITLES[method],
            )  # fmt: skip
        ax.axhline(0, color=BLACK, lw=0.8)
        ax.axvline(1, color=GREY, lw=0.8, ls=":")
        ax.set(
            title=f"{n} inner step{'s' if n > 1 else ''}", xlabel="αa: how far one inner step goes, 1 = to the bottom",
            ylim=(-0.6, 2.05),
        )  # fmt: skip
        ax.xaxis.label.set_size(9)
    axes[0][0].set_ylabel("weight of the task, times α")
    axes[0][0].legend(fontsize=9, loc="upper left")
    return fig, (
        "Weight of a task against alpha times its curvature, from 0 to 2, for four methods. Pre-training is a straight line "
        "from 0 to 2. With one inner step Reptile lies on the same line; MAML rises to a low maximum at one third, falls to "
        "zero at 1 and rises again; FOMAML falls to zero at 1 and is negative beyond it. "
        f"With {steps[-1]} steps Reptile rises steeply to 1 and stays there until close to 2, and MAML and FOMAML are near "
        "zero in the middle."
    )


def positions(curvature: Tensor, centre: Tensor, *, steps: int):
    """Where each method puts the start against α, between the bottoms of the tasks. Runs up to αa = 2 for the steepest task."""
    fig, ax = figure(width=6.8, height=3.6)
    largest = 2 / float(curvature.max())
    rates = torch.linspace(0.001, 0.98, 220, dtype=torch.float64) * largest
    said = []
    for a, c in zip(curvature.tolist(), centre.tolist(), strict=True):
        ax.axhline(c, color=GREY, lw=0.9, ls=":")
        ax.text(largest * 1.005, c, f"a = {a:g}", va="center", fontsize=9, color=GREY)
    ax.axhline(centre.mean(), color=GREEN, lw=0.9, ls=":")
    ax.text(largest * 1.005, centre.mean(), "mean", va="center", fontsize=9, color=GREEN)
    for method in quadratics.METHODS:
        at = torch.stack(
            [
                quadratics.fixed_point(method, curvature, centre, inner_lr=float(r), steps=steps)
                if quadratics.attracts(method, curvature, inner_lr=float(r), steps=steps)
                else torch.tensor(float("nan"), dtype=torch.float64)
                for r in rates
            ]
        )
        ax.plot(rates, at, color=COLOURS[method], ls=STYLES[method], lw=2, label=TITLES[method])
        middle = at[len(at) // 2]
        said.append(
            f"{TITLES[method]} starts at {at[0]:.2f} and is at "
            + (f"{middle:.2f}" if middle.isfinite() else "no point")
            + f" for alpha = {float(rates[len(rates) // 2]):.2f}"
        )
    low, high = float(centre.min()), float(centre.max())
    ax.set(
        xlabel="inner rate α", ylabel="where the start θ* is put",
        ylim=(low - 0.35 * (high - low), high + 0.2 * (high - low)), xlim=(0, largest),
    )  # fmt: skip
    ax.legend(fontsize=9, loc="lower center", ncols=4)
    return fig, f"Resting point of four methods against the inner rate, {steps} inner steps. " + "; ".join(
        said
    ) + "."


def loss_curves(
    rows: dict[str, tuple[Tensor, Tensor]], xlabel: str, *, marked: float | None = None, log: bool = False
):
    """Mean loss of the tasks from the starts of several methods. rows: method -> (x, loss); ``marked``: a vertical line."""
    fig, ax = figure(width=6.8, height=3.4)
    said = []
    for method, (x, y) in rows.items():
        ax.plot(x, y, color=COLOURS[method], ls=STYLES[method], lw=2, label=TITLES[method])
        best = int(y.argmin())
        said.append(f"{TITLES[method]} from {y[0]:.3g} to {y[-1]:.3g}, lowest at {float(x[best]):.3g}")
    if marked is not None:
        ax.axvline(marked, color=GREY, lw=1, ls=":")
    ax.set(xlabel=xlabel, ylabel="mean loss of the tasks")
    if log:
        ax.set_yscale("log")
    ax.legend(fontsize=9)
    return fig, f"Mean loss against {xlabel}: " + "; ".join(said) + "."


# -- sine waves -----------------------------------------------------------------------------------------------------------


def same_function_other_future(
    grid: Tensor,
    mean: Tensor,
    before: dict[str, Tensor],
    after: dict[str, list[Tensor]],
    truths: list[Tensor],
    steps: int,
):
    """Left: the functions of two networks before any step, beside E[y|x]. Right: what each makes of some tasks.
    before: title -> curve [n]; after: title -> one curve per task; truths: the tasks' own curves."""
    fig, axes = figure(1, 1 + len(after), width=3.3 * (1 + len(after)), height=3.2, sharey=True)
    axes[0].plot(grid, mean, color=BLACK, lw=5, alpha=0.25, label="mean of all tasks")
    said = []
    for title, curve in before.items():
        colour = COLOURS["maml" if title == "MAML" else "pretraining"]
        axes[0].plot(grid, curve, color=colour, lw=1.8, label=title)
        distance = float((curve - mean).square().mean())
        said.append(
            f"before any step {title} lies within a mean squared distance of {distance:.2f} of the mean function"
        )
    axes[0].set(title="before any step", xlabel="x", ylabel="y")
    axes[0].legend(fontsize=8, loc="upper center")
    colours = (PURPLE, GREEN, ORANGE, RED)
    for ax, (title, curves) in zip(axes[1:], after.items(), strict=True):
        errors = []
        for curve, truth, colour in zip(curves, truths, colours, strict=False):
            ax.plot(grid, truth, color=colour, lw=5, alpha=0.3)
            ax.plot(grid, curve, color=colour, lw=1.6)
            errors.append(float((curve - truth).square().mean()))
        ax.set(title=f"{title}, {steps} step{'s' if steps > 1 else ''}", xlabel="x")
        said.append(
            f"after {steps} steps {title} has mean squared errors " + " and ".join(f"{e:.2f}" for e in errors)
        )
    return fig, (
        "Left: the mean function of all sine tasks and the functions of two networks before adaptation, close together. "
        "Right: pale bands are sine waves, thin lines what each network makes of them. "
        + "; ".join(said)
        + "."
    )
