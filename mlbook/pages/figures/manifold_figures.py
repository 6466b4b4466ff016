"""Figures of chapter 13. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch
from torch import Tensor

from mlbook.pages.checks.manifolds import Curve, flow, half_squared_distance
from mlbook.pages.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    arrow,
    figure,
    plane,
)

TASKS = (BLUE, ORANGE, PURPLE, SKY)
RUNS = (BLACK, RED, GREEN, GREY)
Window = tuple[float, float, float, float]
"""left, right, bottom, top."""


def draw_sets(ax, tasks: dict[str, Curve], window: Window, *, names: bool = True) -> None:
    """The solution sets as thick curves in the colours of the tasks."""
    for (name, task), colour in zip(tasks.items(), TASKS, strict=False):
        p = task.point(torch.linspace(*task.span, 2000, dtype=torch.float64))
        label = f"$W$ of {name}" if names else None
        ax.plot(p[:, 0], p[:, 1], color=colour, lw=2.6, alpha=0.85, label=label)
    plane(ax, window)


def grid(window: Window, n: int) -> Tensor:
    """Points [n, n, 2] over the window, second parameter first."""
    left, right, bottom, top = window
    y, x = torch.meshgrid(
        torch.linspace(bottom, top, n, dtype=torch.float64),
        torch.linspace(left, right, n, dtype=torch.float64),
        indexing="ij",
    )
    return torch.stack([x, y], -1)


def projections(tasks: dict[str, Curve], phi: Tensor, window: Window, *, rate: float):
    """φ, its closest point on every solution set, and where one step of Reptile on each of the tasks would lead."""
    fig, ax = figure(width=6.4, height=4.2)
    draw_sets(ax, tasks, window)
    said = []
    for (name, task), colour in zip(tasks.items(), TASKS, strict=False):
        p = task.project(phi)
        ax.plot(*torch.stack([phi, p]).T, ls=":", color=colour, lw=1.8)
        arrow(ax, phi, (1 - rate) * phi + rate * p, colour=colour, width=2.2)
        ax.plot(*p, "o", color=colour, markersize=7)
        away = 9 * (p - phi) / (p - phi).norm()
        ax.annotate(
            rf"$P(\phi)$, {name}",
            p,
            xytext=away.tolist(),
            textcoords="offset points",
            ha="right" if away[0] < 0 else "left",
            va="bottom" if away[1] > 0 else "top",
            color=colour,
        )
        _right_angle(ax, p, phi - p, colour)
        said.append(f"{name} at distance {float((phi - p).norm()):.2f}")
    ax.plot(*phi, "s", color=BLACK, markersize=8)
    ax.annotate(r"$\phi$", phi, xytext=(9, -10), textcoords="offset points", fontsize=14)
    ax.legend(fontsize=9, loc="lower right")
    return fig, (
        "A plane with two parameters as axes and one curve of perfect solutions per task. From the initialisation phi a "
        "dotted line leads to the closest point of every curve and meets the curve at a right angle; an arrow covers the "
        f"first {100 * rate:.0f} per cent of it. Closest points: " + ", ".join(said) + "."
    )


def _right_angle(ax, corner: Tensor, normal: Tensor, colour: str, size: float = 0.13) -> None:
    n = size * normal / normal.norm()
    t = torch.stack([-n[1], n[0]])
    ax.plot(*torch.stack([corner + n, corner + n + t, corner + t]).T, color=colour, lw=1)


def objective(tasks: dict[str, Curve], window: Window, nearest: Tensor):
    """Level lines of the mean of ½D² over the tasks, the direction of steepest descent, and the nearest point."""
    fig, ax = figure(width=6.4, height=4.2)
    points = grid(window, 61)
    value = torch.stack([half_squared_distance(task, points) for task in tasks.values()]).mean(0)
    ax.contour(points[..., 0], points[..., 1], value.sqrt(), levels=14, colors=GREY, linewidths=0.7)
    draw_sets(ax, tasks, window)
    coarse = grid(window, 13).reshape(-1, 2)
    down = torch.stack([task.project(coarse) - coarse for task in tasks.values()]).mean(0)
    ax.quiver(
        *coarse.T, *down.T, color=BLACK, angles="xy", scale_units="xy", scale=3.2, width=0.0035, alpha=0.7
    )
    ax.plot(*nearest, "*", color=GREEN, markersize=17, markeredgecolor=BLACK)
    ax.legend(fontsize=9, loc="lower left")
    x, y = nearest.tolist()
    return fig, (
        f"The solution curves of {len(tasks)} tasks over level lines of the mean of half the squared distance. Arrows point "
        f"towards the mean of the closest points. A star marks the lowest point, at ({x:.2f}, {y:.2f}): between the curves, "
        "on none of them."
    )


def ridge(task: Curve, window: Window, start: Tensor, end: Tensor):
    """½D² of one task as level lines, and along the segment from ``start`` to ``end``, which crosses the medial axis."""
    fig, (left, right) = figure(1, 2, width=7.6, height=3.3)
    points = grid(window, 81)
    value = half_squared_distance(task, points)
    left.contour(points[..., 0], points[..., 1], value, levels=16, colors=GREY, linewidths=0.7)
    draw_sets(left, {"the task": task}, window)
    left.plot(*torch.stack([start, end]).T, color=RED, lw=1.6, ls="--")
    s = torch.linspace(0, 1, 401, dtype=torch.float64)
    line = start + s[:, None] * (end - start)
    nearest = task.project(line)
    jump = (nearest[1:] - nearest[:-1]).norm(dim=-1).argmax()
    distance = float((line - nearest).norm(dim=-1)[jump])
    right.plot(s, half_squared_distance(task, line), color=RED, lw=2)
    right.axvline(float(s[jump]), color=GREY, ls=":")
    right.set(xlabel="position along the dashed line", ylabel="half the squared distance")
    return fig, (
        "Left: level lines of half the squared distance to one closed curve, with a dashed segment across its inside. Right: "
        f"the value along the segment. It has a sharp peak at {float(s[jump]):.2f}, where the closest point jumps to the "
        f"other side of the curve and the distance is {distance:.2f}."
    )


def paths(tasks: dict[str, Curve], panels: dict[str, dict[str, Tensor]], window: Window, nearest: Tensor):
    """Paths of φ in the plane of the solution sets. panels: title -> name -> path [meta-steps + 1, 2]."""
    fig, axes = figure(1, len(panels), width=8.2, height=3.7, squeeze=False, sharey=True)
    said = []
    for ax, (title, runs) in zip(axes[0], panels.items(), strict=True):
        draw_sets(ax, tasks, window, names=False)
        for (name, path), colour in zip(runs.items(), RUNS, strict=False):
            ax.plot(*path.T, color=colour, lw=1.1, marker=".", markersize=3, label=name)
            ax.plot(*path[-1], "o", color=colour, markersize=8, markeredgecolor="white")
            said.append(f"{title}, {name}: to ({path[-1, 0]:.2f}, {path[-1, 1]:.2f})")
        ax.plot(*nearest, "*", color=YELLOW, markersize=13, markeredgecolor=BLACK, zorder=5)
        ax.set_title(title, fontsize=10)
        ax.legend(fontsize=8, loc="lower right")
    axes[0][-1].set_ylabel("")
    x, y = nearest.tolist()
    return fig, (
        f"Solution curves of the tasks, paths of the initialisation from one start, and a star at the nearest point "
        f"({x:.2f}, {y:.2f}). " + "; ".join(said) + "."
    )


def share(steps: list[int]):
    """The share 1 − (1 − αλ)ᵏ of the way to a task's solution, against αλ and against kαλ."""
    fig, (left, right) = figure(1, 2, width=7.6, height=3.3)
    x = torch.linspace(0.001, 1.0, 400, dtype=torch.float64)
    for k, colour in zip(steps, (RED, ORANGE, PURPLE, BLUE, GREEN), strict=False):
        left.plot(x, 1 - (1 - x) ** k, color=colour, lw=1.8, label=f"k = {k}")
        right.plot(k * x, 1 - (1 - x) ** k, color=colour, lw=1.8)
    z = torch.linspace(0.001, 3, 200, dtype=torch.float64)
    right.plot(z, z, color=BLACK, ls=":", lw=1.4, label="first order: kαλ")
    left.axhline(1, color=BLACK, ls=":", lw=1.2)
    left.set(xlabel="αλ", ylabel="share of the way", title="a fixed rate, more steps")
    right.set(xlabel="kαλ", xlim=(0, 3), ylim=(0, 1.15), title="against rate × steps")
    left.legend(fontsize=8.5)
    right.legend(fontsize=8.5, loc="lower right")
    return fig, (
        "Share 1 - (1 - alpha lambda)^k of the way to the solution, for a direction of curvature lambda and several k. For "
        "k = 1 it is a straight line through zero; as k grows it rises faster and lies at one over ever more of the range. "
        "In the right panel, against k alpha lambda, all curves leave zero along the same straight line."
    )


def flow_ends(curve: Curve, starts: Tensor, window: Window, gaps: dict[str, list[tuple[float, float]]]):
    """Gradient flow against the closest point. starts [n, 2]; gaps: name -> (distance to the set, distance of the two ends)."""
    fig, (left, right) = figure(1, 2, width=7.8, height=3.7)
    draw_sets(left, {"the task": curve}, window, names=False)
    tracks, nearest = flow(curve, starts), curve.project(starts)
    for i, start in enumerate(starts):
        first = i == 0
        straight = torch.stack([start, nearest[i]])
        left.plot(
            *straight.T, color=GREEN, ls=":", lw=1.8, label="to the closest minimiser" if first else None
        )
        left.plot(*tracks[:, i].T, color=RED, lw=1.8, label="gradient flow" if first else None)
        left.plot(*nearest[i], "o", color=GREEN, markersize=6)
        left.plot(*tracks[-1, i], "o", color=RED, markersize=6)
        left.plot(*start, "s", color=BLACK, markersize=5)
    left.legend(fontsize=8.5, loc="upper right")
    said = []
    for (name, pairs), colour in zip(gaps.items(), (RED, BLUE, PURPLE), strict=False):
        x, y = zip(*pairs, strict=True)
        right.loglog(x, y, "o-", color=colour, markersize=3.5, lw=1.4, label=name)
        said.append(f"{name}: {y[0]:.1e} at distance {x[0]:.1e}, {y[-1]:.1e} at {x[-1]:.1e}")
    x = torch.tensor([pair[0] for pair in next(iter(gaps.values()))])
    right.loglog(x, x**2, color=GREY, ls="--", lw=1, label="distance squared")
    right.set(xlabel="distance to the solution set", ylabel="distance between the two ends")
    right.legend(fontsize=8.5)
    return fig, (
        "Left: from several starts a dotted straight line leads to the closest point of a solution curve and a bent path, "
        "gradient flow, to another point of it. Right: the distance between the two ends falls like the square of the "
        "distance to the curve. " + "; ".join(said) + "."
    )
