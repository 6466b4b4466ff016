"""Figures of chapters 4 and 5. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from mlbook.meta_learners.inner_loop import inner_path
from mlbook.pages.checks import meta_gradient_by_recursion
from mlbook.pages.figures.style import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    arrow,
    figure,
    plane,
)


def two_loops(inner_lr: float = 0.35):
    """One meta-step over three tasks in two dimensions, computed, not sketched: inner steps, query gradients at the adapted
    points, and the meta-step that they add up to."""
    centres = torch.tensor([[-0.5, 3.0], [2.3, 2.6], [3.3, -1.7]], dtype=torch.float64)
    curvatures = torch.tensor([[1.3, 1.0], [1.0, 1.2], [1.1, 1.4]], dtype=torch.float64)
    theta = torch.tensor([-1.2, -1.0], dtype=torch.float64)
    colours = (BLUE, ORANGE, PURPLE)
    fig, ax = figure(width=6.4, height=4.4)
    total = torch.zeros(2, dtype=torch.float64)
    for i, (centre, curvature, colour) in enumerate(zip(centres, curvatures, colours, strict=True)):

        def loss(params, centre=centre, curvature=curvature):
            return 0.5 * (curvature * (params["theta"] - centre) ** 2).sum()

        _, adapted = inner_path(loss, {"theta": theta}, inner_lr=inner_lr, steps=1)
        adapted = adapted["theta"]
        gradient = meta_gradient_by_recursion(loss, loss, {"theta": theta}, inner_lr=inner_lr, steps=1)[
            "theta"
        ]
        total += gradient / 3
        arrow(ax, theta, adapted, colour=colour)
        arrow(
            ax, adapted, adapted - 0.35 * curvature * (adapted - centre), colour=colour, style=":", width=1.4
        )
        ax.plot(*adapted, "o", color=colour, markersize=6)
        ax.plot(*centre, "*", color=colour, markersize=14)
        ax.annotate(
            f"$\\theta'_{i + 1}$",
            adapted,
            xytext=(7, -13),
            textcoords="offset points",
            color=colour,
            fontsize=12,
        )
        ax.annotate(
            f"best for task {i + 1}",
            centre,
            xytext=(0, 10),
            textcoords="offset points",
            color=colour,
            ha="center",
        )
    new = theta - 0.9 * total
    arrow(ax, theta, new, colour=BLACK, width=2.6)
    ax.plot(*theta, "s", color=BLACK, markersize=8)
    ax.annotate("$\\theta$", theta, xytext=(-16, -4), textcoords="offset points", fontsize=14)
    ax.annotate("meta-step", new, xytext=(6, -4), textcoords="offset points", fontsize=11)
    plane(ax, (-2.0, 4.2, -2.3, 3.7))
    alt = (
        "A plane with two parameters as axes. From the initialisation theta three thin arrows, one per task, "
        "lead to the three adapted points; from each a dotted arrow points on towards that task's best "
        "parameters, drawn as a star. One thick black arrow from theta is "
        "the meta-step: the sum of the dotted query gradients, carried back through the inner steps."
    )
    return fig, alt


def sinusoid_fits(
    panels: dict[str, list[Tensor]],
    grid: Tensor,
    truth: Tensor,
    support_x: Tensor,
    support_y: Tensor,
    steps: list[int],
):
    """Fits of several initialisations to one task. panels: title -> the curve [n] after each of ``steps`` inner steps."""
    fig, axes = figure(1, len(panels), width=3.3 * len(panels), height=3.1, sharey=True, squeeze=False)
    shades = [0.35, 0.65, 1.0] if len(steps) == 3 else torch.linspace(0.35, 1, len(steps)).tolist()
    said = []
    for ax, (title, curves) in zip(axes[0], panels.items(), strict=True):
        ax.plot(grid, truth, color=GREEN, lw=5, alpha=0.35, label="true sine")
        for curve, n, shade in zip(curves, steps, shades, strict=True):
            style = ":" if n == 0 else "-"
            ax.plot(
                grid,
                curve,
                color=BLUE,
                alpha=shade,
                lw=1.8,
                ls=style,
                label=f"{n} step{'s' if n != 1 else ''}",
            )
        ax.plot(support_x, support_y, "v", color=BLACK, markersize=7, label="support points")
        ax.set(title=title, xlabel="x")
        error = float(((curves[-1] - truth) ** 2).mean())
        said.append(f"{title}: mean squared error {error:.2f} after {steps[-1]} steps")
    axes[0][0].set_ylabel("y")
    fig.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(steps) + 2,
        fontsize=9,
        frameon=False,
    )
    return fig, "Fits of a sine wave from a few support points, before and after inner steps. " + "; ".join(
        said
    ) + "."


def method_colour(name: str, index: int) -> str:
    """The colour of the method that a label begins with, else one by position."""
    method = name.split()[0].lower().replace("-", "").rstrip(",")
    return COLOURS.get(method, (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)[index % 6])


def curves(
    rows: dict[str, list[tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    *,
    log: bool = False,
    ylim: tuple[float, float] | None = None,
    alt: str | None = None,
):
    """Named curves of (x, y) pairs in the colour of their method; a second curve of a method is dashed."""
    fig, ax = figure(width=6.6, height=3.2)
    said, drawn = [], set()
    for index, (name, pairs) in enumerate(rows.items()):
        x, y = zip(*pairs, strict=True)
        colour = method_colour(name, index)
        ax.plot(x, y, lw=1.8, color=colour, ls="--" if colour in drawn else "-", label=name)
        drawn.add(colour)
        said.append(f"{name} goes from {y[0]:.3g} to {y[-1]:.3g}")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if ylim:
        ax.set_ylim(*ylim)
    if log:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        if high < 30 * low:  # few powers of ten: whole numbers say more
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=9)
    return fig, alt or f"{ylabel} against {xlabel}: " + "; ".join(said) + "."


def by_step(
    rows: dict[str, tuple[list[float], list[float]]],
    ylabel: str,
    *,
    published: dict[str, dict[int, float]] | None = None,
):
    """Score after every inner step with its 95 % interval. rows: name -> (means, half-widths)."""
    fig, ax = figure(width=6.6, height=3.4)
    said = []
    for index, (name, (mean, ci95)) in enumerate(rows.items()):
        colour = method_colour(name, index)
        ax.errorbar(
            range(len(mean)),
            mean,
            yerr=ci95,
            color=colour,
            lw=1.6,
            capsize=2.5,
            marker="o",
            markersize=3.5,
            label=name,
        )
        said.append(
            f"{name}: {mean[0]:.2f} before adaptation, {mean[1]:.2f} after 1 step, {mean[-1]:.2f} after {len(mean) - 1}"
        )
    for index, (name, points) in enumerate((published or {}).items()):
        ax.plot(
            list(points),
            list(points.values()),
            "x",
            color=(BLACK, RED)[index % 2],
            markersize=9,
            mew=2,
            label=name,
        )
    ax.set(xlabel="inner steps on the support set", ylabel=ylabel)
    ax.legend(fontsize=9, loc="center", bbox_to_anchor=(0.55, 0.42))
    return fig, f"{ylabel} against the number of inner steps. " + "; ".join(said) + "."


def episode(
    images_support: Tensor,
    images_query: Tensor,
    probabilities: list[Tensor],
    query_y: Tensor,
    steps: list[int],
    what: str,
):
    """One classification episode: the support images, the query images, and the probability of the true class after each of
    ``steps`` inner steps. images [n, H, W] with one example per class; probabilities: [queries, N] per entry of ``steps``."""
    N = images_support.shape[0]
    fig, axes = figure(
        2, N + 1, width=1.15 * (N + 1) + 1.6, height=2.9, gridspec_kw={"width_ratios": [1] * N + [2.6]}
    )
    grid = axes[0, 0].get_gridspec()
    for i in range(N):
        for row, images in enumerate((images_support, images_query)):
            ax = axes[row, i]
            ax.imshow(images[i], cmap="gray_r", interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[["top", "right"]].set_visible(True)
        axes[0, i].set_title(f"class {i + 1}", fontsize=9)
    axes[0, 0].set_ylabel("support", fontsize=10)
    axes[1, 0].set_ylabel("query", fontsize=10)
    for row in range(2):
        axes[row, N].remove()
    ax = fig.add_subplot(grid[:, N])
    true = torch.stack([p.gather(1, query_y[:, None])[:, 0] for p in probabilities])  # [steps, queries]
    for q in range(true.shape[1]):
        ax.plot(steps, true[:, q], marker="o", markersize=3, lw=1.4, label=f"query {q + 1}")
    ax.set(ylim=(-0.02, 1.05), xlabel="inner steps", ylabel="probability of the true class")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=7.5)
    right = [int((p.argmax(1) == query_y).sum()) for p in probabilities]
    alt = (
        f"One {N}-way 1-shot episode of {what}: a row of {N} support images, a row of {N} query images, "
        f"and the probability of the true class of every query after each inner step. "
        f"{right[0]} of {len(query_y)} queries are right before adaptation, "
        f"{right[-1]} after {steps[-1]} steps."
    )
    return fig, alt


def gradient_angles(rows: dict[str, list[tuple[float, float, float]]]):
    """How far the first-order gradient is from the true one. rows: name -> (α, relative distance, cosine)."""
    fig, axes = figure(1, 2, width=7.6, height=3.2)
    said = []
    for index, (name, points) in enumerate(rows.items()):
        x, distance, cosine = zip(*points, strict=True)
        colour = (BLUE, ORANGE, GREEN, RED)[index % 4]
        axes[0].plot(x, distance, marker="o", markersize=3.5, color=colour, label=name)
        axes[1].plot(x, cosine, marker="o", markersize=3.5, color=colour, label=name)
        said.append(
            f"{name}: relative distance {distance[0]:.2g} at the smallest rate, {distance[-1]:.2g} at the largest; "
            f"cosine {cosine[-1]:.2f} there"
        )
    axes[0].set(xlabel="inner rate α", ylabel="relative distance", xscale="log", yscale="log")
    axes[1].set(xlabel="inner rate α", ylabel="cosine of the angle", xscale="log")
    fig.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=2,
        fontsize=9,
        frameon=False,
    )
    return (
        fig,
        "Distance and angle between the first-order and the true meta-gradient against the inner rate. "
        + "; ".join(said)
        + ".",
    )


def falls(runs: dict[str, dict]):
    """Errors after the inner step over a training, one panel a seed. runs: seed -> run of ``studies.train_maml``."""
    looks = {
        "actual": ("after the step", BLUE, "-"),
        "linearised": ("linearised", RED, "--"),
        "best length": ("linearised, best length", GREY, ":"),
    }
    last = min(run["meta_steps"][-1] for run in runs.values())
    fig, axes = figure(1, len(runs), width=8.0, height=2.7, sharey=True, squeeze=False)
    said = []
    for ax, (seed, run) in zip(axes[0], runs.items(), strict=True):
        shown = [i for i, t in enumerate(run["meta_steps"]) if t <= last]
        for name, (label, colour, dash) in looks.items():
            pairs = [(run["meta_steps"][i] / 1000, run["mean"][name][i]) for i in shown]
            ax.plot(*zip(*pairs, strict=True), ls=dash, color=colour, lw=1.6, label=label)
        ax.set(title=f"seed {seed}", xlim=(0, last / 1000), ylim=(0, 4.5))
        ends = [run["mean"][name][shown[-1]] for name in looks]
        said.append(
            f"seed {seed}: {ends[0]:.2f} after the step, {ends[1]:.2f} linearised, {ends[2]:.2f} with the best length"
        )
    axes[0][0].set_ylabel("mean squared error")
    fig.supxlabel("meta-steps, thousands", fontsize=10)
    fig.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        fontsize=9,
        frameon=False,
    )
    return fig, (
        "The error after one inner step against meta-steps, in a panel per seed: as it is, linearised, and linearised with the "
        f"best length. All are near each other at first and fall together. After {last:,} meta-steps, "
        + "; ".join(said)
        + "."
    )
