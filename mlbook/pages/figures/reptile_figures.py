"""Figures of chapter 11. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch
from torch import Tensor

from mlbook.meta_learners.inner_loop import inner_path
from mlbook.pages.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, arrow, figure, plane

CENTRES = ((-0.6, 2.9), (2.6, 2.5), (3.2, -1.5))
CURVATURES = ((0.4, 2.2), (1.6, 0.5), (0.7, 1.2))
START = (-1.3, -1.2)


def one_meta_step(inner_lr: float = 0.25, steps: int = 5, meta_lr: float = 0.5):
    """One batched meta-step over three quadratic tasks in two dimensions: the inner paths, their ends, and the step of θ."""
    theta = torch.tensor(START, dtype=torch.float64)
    fig, ax = figure(width=6.4, height=4.4)
    ends = []
    for i, (centre, curvature, colour) in enumerate(
        zip(CENTRES, CURVATURES, (BLUE, ORANGE, PURPLE), strict=True)
    ):
        c, a = (torch.tensor(values, dtype=torch.float64) for values in (centre, curvature))
        path = inner_path(
            lambda p, a=a, c=c: 0.5 * (a * (p["theta"] - c) ** 2).sum(),
            {"theta": theta},
            inner_lr=inner_lr,
            steps=steps,
        )
        points = torch.stack([p["theta"] for p in path])
        ends.append(points[-1])
        ax.plot(*points.T, "-o", color=colour, markersize=4, lw=1.3)
        ax.plot([theta[0], points[-1][0]], [theta[1], points[-1][1]], ":", color=colour, lw=1.3)
        ax.plot(*centre, "*", color=colour, markersize=14)
        ax.annotate(
            f"best for task {i + 1}",
            centre,
            xytext=(0, 10),
            textcoords="offset points",
            color=colour,
            ha="center",
        )
        ax.annotate(
            f"$\\varphi_{i + 1}$",
            points[-1],
            xytext=(8, -12),
            textcoords="offset points",
            color=colour,
            fontsize=13,
        )
    mean = torch.stack(ends).mean(0)
    new = theta + meta_lr * (mean - theta)
    ax.plot(*mean, "x", color=GREY, markersize=9, mew=2)
    ax.annotate("mean of the φ", mean, xytext=(8, 4), textcoords="offset points", color=GREY)
    arrow(ax, theta, new, width=2.8)
    ax.plot(*theta, "s", color=BLACK, markersize=8)
    ax.annotate("$\\theta$", theta, xytext=(-16, -4), textcoords="offset points", fontsize=14)
    ax.annotate("meta-step", new, xytext=(-14, 9), textcoords="offset points", fontsize=11)
    plane(ax, (-2.1, 4.2, -2.2, 3.7))
    alt = (
        f"A plane with two parameters as axes. From the initialisation theta three paths of {steps} inner steps bend towards the "
        "best parameters of three tasks, drawn as stars, and end short of them at phi 1, 2 and 3. A cross marks their mean. "
        f"The thick arrow, the meta-step, goes from theta {100 * meta_lr:.0f} percent of the way to the cross."
    )
    return fig, alt


def mini_batches(order: Tensor, n_examples: int):
    """Which of ``n_examples`` support examples the inner steps of one task see. order: [k, M]."""
    steps, size = order.shape
    fig, ax = figure(width=6.6, height=0.55 + 0.32 * steps)
    seen: set[int] = set()
    for n in range(steps):
        for m in range(size):
            index = int(order[n, m])
            again = index in seen
            ax.add_patch(
                _rectangle(m, n, "#DDDDDD" if again else "#CDE8DC", BLACK if again else GREEN),
            )
            ax.text(m + 0.45, n + 0.45, str(index), ha="center", va="center", fontsize=9, color=BLACK)
            seen.add(index)
    ax.set(xlim=(-0.1, size), ylim=(steps, -0.1), xticks=[], yticks=[n + 0.45 for n in range(steps)])
    ax.set_yticklabels([f"step {n + 1}" for n in range(steps)])
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    alt = (
        f"{steps} rows of {size} squares, one row per inner step, each square with the number of one of {n_examples} support "
        "examples. "
        f"The first {n_examples} squares hold every number once; then the numbers come again in another order, shaded grey."
    )
    return fig, alt


def _rectangle(x, y, fill, edge):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 0.9, 0.9, facecolor=fill, edgecolor=edge, linewidth=0.8)


def scored(evaluation: dict) -> tuple[list[int], list[float], list[float]]:
    """Inner steps that an evaluation scored, with means and half-widths of the 95 % intervals."""
    steps = [n for n, value in enumerate(evaluation["mean"]) if value is not None]
    return (
        steps,
        [evaluation["mean"][n] for n in steps],
        [evaluation["ci95_by_step"][n] for n in steps],
    )


def accuracy_by_step(evaluations: dict[str, dict]):
    """Accuracy after the inner steps that were scored. evaluations: title -> the ``evaluation`` of a run record."""
    fig, ax = figure(width=6.6, height=3.4)
    said = []
    for index, (title, evaluation) in enumerate(evaluations.items()):
        steps, mean, ci95 = scored(evaluation)
        colour = (GREEN, BLUE, ORANGE, PURPLE)[index % 4]
        ax.errorbar(
            steps,
            [100 * v for v in mean],
            yerr=[100 * v for v in ci95],
            color=colour,
            lw=1.6,
            ls=("-", "--")[index % 2],
            capsize=2.5,
            marker="osv^"[index % 4],
            markersize=4,
            label=title,
        )
        said.append(
            f"{title}: {100 * mean[0]:.1f} before adaptation, {100 * mean[1]:.1f} after step {steps[1]}, "
            f"{100 * mean[-1]:.1f} after step {steps[-1]}"
        )
    ax.set(xlabel="inner steps at meta-test", ylabel="accuracy in %")
    ax.legend(fontsize=9)
    return fig, "Accuracy in percent against inner steps at meta-test. " + "; ".join(said) + "."


def combinations(rows: list[tuple[str, float, float]], chance: float):
    """Accuracy of several runs as points with intervals. rows: (name, accuracy, half-width of the interval)."""
    fig, ax = figure(width=6.6, height=0.9 + 0.3 * len(rows))
    for n, (_, value, ci95) in enumerate(rows):
        ax.errorbar(100 * value, n, xerr=100 * ci95, fmt="o", color=GREEN, capsize=3, markersize=5)
    ax.axvline(100 * chance, color=GREY, ls=":", lw=1.3)
    ax.annotate(
        "chance", (100 * chance, len(rows) - 0.5), xytext=(4, 0), textcoords="offset points", color=GREY
    )
    ax.set(yticks=range(len(rows)), xlabel="accuracy in %", ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticklabels([name for name, *_ in rows])
    said = "; ".join(f"{name} {100 * value:.1f} ± {100 * ci95:.1f}" for name, value, ci95 in rows)
    return (
        fig,
        f"Accuracy in percent with 95 percent intervals, one row per run: {said}. A dotted line marks chance.",
    )
