"""Figures of chapters 14 and 3: several methods on the same tasks. Every function returns (figure, alt text)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mlbook.pages.checks.comparison import TITLES
from mlbook.pages.checks.directions import METHODS, four_directions, inner_path_over
from mlbook.pages.checks.landscape import Valleys
from mlbook.pages.figures.maml_figures import method_colour
from mlbook.pages.figures.style import BLACK, COLOURS, GREEN, GREY, PURPLE, SKY, YELLOW, arrow, figure, plane


def _colour(method: str) -> str:
    return COLOURS["pretraining" if method == "joint" else method.lower()]


def _contours(ax, loss: Callable, colour: str, span: tuple[float, float, float, float], levels: int) -> None:
    """Level lines of a loss of {"phi": [2]}."""
    x = torch.linspace(span[0], span[1], 90, dtype=torch.float64)
    y = torch.linspace(span[2], span[3], 90, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    z = torch.func.vmap(torch.func.vmap(lambda point: loss({"phi": point})))(points)
    heights = [0.08 * 2.3**i for i in range(levels)]
    ax.contour(x, y, z, levels=heights, colors=colour, linewidths=0.8, alpha=0.55)


def _path_and_arrows(
    ax, valleys: Valleys, task: int, points: Tensor, arrows: dict[str, tuple[Tensor, str]]
) -> str:
    """A task's level lines, its inner path ``points`` [k + 1, 2] and directions at its beginning, drawn equally long.

    arrows: title -> (direction of descent, colour). Returns the angles in words.
    """
    span, start = (-2.6, 1.6, 0.3, 3.1), points[0]
    _contours(ax, valleys.task(task), GREY, span, 6)
    ax.plot(*valleys.centre[task], "*", color=BLACK, markersize=13)
    ax.annotate("best", valleys.centre[task], xytext=(8, 4), textcoords="offset points")
    said = []
    for title, (direction, colour) in arrows.items():
        unit = direction / direction.norm()
        arrow(ax, start, start + 1.5 * unit, colour=colour, width=2.4)
        ax.plot([], [], color=colour, lw=2.4, label=title)
        said.append(f"{title} at {math.degrees(math.atan2(float(unit[1]), float(unit[0]))):.0f} degrees")
    for a, b in zip(points[:-1], points[1:], strict=True):
        arrow(ax, a, b, colour=BLACK, width=1.3)
    ax.plot(*start, "s", color=BLACK, markersize=8)
    plane(ax, span)
    ax.legend(loc="lower right", fontsize=9, framealpha=0.95)
    return ", ".join(said)


def four_arrows(valleys: Valleys, start: Tensor, *, inner_lr: float, k: int, task: int = 0):
    """One task: the inner path of k steps from ``start``, and the four directions at its beginning, drawn equally long."""
    path = inner_path_over([valleys.task(task)] * k, {"phi": start}, inner_lr)
    points = torch.stack([p["phi"] for p in path.points])
    directions = four_directions(path)
    fig, ax = figure(width=6.6, height=4.6)
    arrows = {TITLES[m]: (-directions[m]["phi"], _colour(m)) for m in METHODS}
    said = _path_and_arrows(ax, valleys, task, points, arrows)
    for i, b in enumerate(points[1:]):
        offset = (-19, -1) if i == 0 else (-4, 6)  # the first step lies on the arrow of pre-training
        ax.annotate(f"$\\phi_{i + 2}$", b, xytext=offset, textcoords="offset points", fontsize=11)
    ax.annotate("$\\phi_1$", start, xytext=(-20, -5), textcoords="offset points", fontsize=14)
    return fig, (
        f"Level lines of one task's loss in the plane of two parameters. From the initialisation phi {k} gradient steps, thin "
        f"arrows, curve towards the bottom. Four thick arrows of equal length start at phi; measured from the first axis: {said}."
    )


def three_sums(valleys: Valleys, start: Tensor, *, inner_lr: float, task: int = 0):
    """Chapter 3: three inner steps from ``start`` with the gradients g₁, g₂, g₃, and which of them move the start: g₁ in
    pre-training, g₂ in first-order MAML with one inner step, g₁ + g₂ + g₃ in Reptile with three."""
    path = inner_path_over([valleys.task(task)] * 3, {"phi": start}, inner_lr)
    points = torch.stack([p["phi"] for p in path.points])
    g = [gradient["phi"] for gradient in path.gradients]
    fig, ax = figure(width=6.6, height=4.6)
    said = _path_and_arrows(
        ax,
        valleys,
        task,
        points,
        {
            "pre-training: along $g_1$": (-g[0], COLOURS["pretraining"]),
            "Reptile, three steps: along $g_1+g_2+g_3$": (-(g[0] + g[1] + g[2]), COLOURS["reptile"]),
            "first-order MAML, one step: along $g_2$": (-g[1], COLOURS["fomaml"]),
        },
    )
    for i, b in enumerate(points[1:]):
        offset = (-19, -1) if i == 0 else (-4, 6)
        ax.annotate(f"$\\theta_{i + 1}$", b, xytext=offset, textcoords="offset points", fontsize=11)
    ax.annotate("$\\theta$", start, xytext=(-17, -5), textcoords="offset points", fontsize=14)
    return fig, (
        "Level lines of one task's loss in the plane of two parameters. From the start theta three gradient steps, thin arrows, "
        f"curve towards the bottom. Three thick arrows of equal length start at theta; measured from the first axis: {said}."
    ).replace("$", "")


def resting_places(valleys: Valleys, paths: dict[str, Tensor], bottoms: tuple[str, ...]):
    """Where each method takes the initialisation on several tasks. paths: method -> [meta_steps + 1, 2]."""
    fig, ax = figure(width=6.6, height=4.8)
    span = (-2.3, 4.3, -2.3, 3.6)
    shades = (GREY, PURPLE, SKY)
    for i, text in enumerate(bottoms):
        _contours(ax, valleys.task(i), shades[i % 3], span, 6)
        ax.plot(*valleys.centre[i], "*", color=shades[i % 3], markersize=13)
        ax.annotate(
            text,
            valleys.centre[i],
            xytext=(8, 6),
            textcoords="offset points",
            color=shades[i % 3],
            fontsize=9,
        )
    said = []
    for method, path in paths.items():
        ax.plot(*path.T, color=_colour(method), lw=1.8, label=TITLES[method])
        ax.plot(*path[-1], "o", color=_colour(method), markersize=8)
        said.append(f"{TITLES[method]} at ({path[-1][0]:.2f}, {path[-1][1]:.2f})")
    start = next(iter(paths.values()))[0]
    ax.plot(*start, "s", color=BLACK, markersize=8)
    ax.annotate("start", start, xytext=(-8, -14), textcoords="offset points")
    plane(ax, span)
    ax.legend(fontsize=9, loc="upper right", framealpha=0.95)
    return fig, (
        "Level lines of two tasks in the plane, and four paths of the initialisation from the same start. They end apart: "
        + ", ".join(said)
        + "."
    )


def round_trip(work: dict[str, list[float]]):
    """Work done by every method's field along a circle, as a share of the largest on the way. work: method -> cumulative values
    at equal angles, from 0 to 360°."""
    fig, ax = figure(width=6.6, height=3.2)
    said = []
    for method, values in work.items():
        largest = max(abs(v) for v in values)
        shares = [v / largest for v in values]
        degrees = [360 * i / (len(values) - 1) for i in range(len(values))]
        ax.plot(degrees, shares, color=_colour(method), lw=1.9, label=TITLES[method])
        ax.plot(360, shares[-1], "o", color=_colour(method), markersize=6)
        said.append(f"{TITLES[method]} at {shares[-1] + 0:.2f}")
    ax.axhline(0, color=BLACK, lw=0.8)
    ax.set(
        xlabel="degrees walked round the circle",
        ylabel="work, share of its largest",
        xticks=range(0, 361, 90),
    )
    ax.legend(fontsize=9)
    return fig, (
        "Work of each method's direction field along a closed circle, as a share of the largest on the way. After one full "
        "turn: " + ", ".join(said) + ". A gradient field returns to zero."
    )


def two_prices(curves: dict[str, list[tuple[int, float]]], price: dict[str, float], ylabel: str, unit: str):
    """Learning curves against meta-steps and against work. curves: title -> (meta-step, error); price: title -> work of one
    meta-step in ``unit``."""
    fig, axes = figure(1, 2, width=8.4, height=3.4, sharey=True)
    said = []
    for index, (title, points) in enumerate(curves.items()):
        points = [p for p in points if p[0] > 0]
        x, y = zip(*points, strict=True)
        colour = method_colour(title, index)
        axes[0].plot(x, y, color=colour, lw=1.8, label=title)
        axes[1].plot([price[title] * m for m in x], y, color=colour, lw=1.8, label=title)
        said.append(
            f"{title} ends at {y[-1]:.2f} after {x[-1]:,} meta-steps and {price[title] * x[-1]:.3g} {unit}"
        )
    for ax in axes:
        ax.set(xscale="log", yscale="log")
    axes[0].set(xlabel="meta-steps", ylabel=ylabel)
    axes[1].set(xlabel=unit)
    axes[0].legend(fontsize=9)
    return fig, f"{ylabel} of four methods against meta-steps (left) and {unit} (right): " + "; ".join(
        said
    ) + "."


def errors(
    rows: dict[str, list[tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    *,
    log_x: bool = False,
    top: float | None = None,
):
    """Named curves of (x, error), error on a logarithmic axis; points that are not finite are left out."""
    fig, ax = figure(width=6.6, height=3.3)
    said = []
    for index, (title, pairs) in enumerate(rows.items()):
        pairs = [(x, y) for x, y in pairs if math.isfinite(y)]
        x, y = zip(*pairs, strict=True)
        colour = method_colour(title, index)
        ax.plot(x, y, color=colour, lw=1.7, marker="o", markersize=3.5, label=title)
        said.append(f"{title}: {y[0]:.2f} at {x[0]:g}, {y[-1]:.2f} at {x[-1]:g}")
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    if log_x:
        ax.set_xscale("log", base=2)
        ticks = sorted({x for pairs in rows.values() for x, _ in pairs})
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    if top is not None:
        ax.set_ylim(top=top)
    ax.legend(fontsize=9)
    return fig, f"{ylabel} against {xlabel}. " + "; ".join(said) + "."


def cosines(panels: dict[str, dict[str, list[tuple[float, float]]]], xlabels: dict[str, str]):
    """Cosines between pairs of directions. panels: title -> pair -> (x, cosine); xlabels: title -> name of x."""
    fig, axes = figure(1, len(panels), width=4.2 * len(panels), height=3.4, sharey=True, squeeze=False)
    palette = (GREEN, PURPLE, SKY, BLACK, GREY, YELLOW)
    said = []
    for ax, (title, pairs) in zip(axes[0], panels.items(), strict=True):
        for (pair, points), colour in zip(pairs.items(), palette, strict=False):
            x, y = zip(*points, strict=True)
            ax.plot(x, y, color=colour, marker="o", markersize=3.5, lw=1.7, label=pair)
            said.append(f"{title}, {pair}: {y[0]:.2f} at {x[0]:g}, {y[-1]:.2f} at {x[-1]:g}")
        ax.set(title=title, xlabel=xlabels[title])
    axes[0][0].set_ylabel("cosine of the angle")
    axes[0][-1].legend(fontsize=8)
    return fig, "Cosine of the angle between directions. " + "; ".join(said) + "."
