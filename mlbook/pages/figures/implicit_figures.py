"""Figures of chapter 18: an inner problem and the ways back through it. Every function returns (figure, alt text)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mlbook.meta_learners import bilevel
from mlbook.meta_learners.implicit import conjugate_gradient, hypergradient, neumann_series
from mlbook.pages.checks.ridge import ProximalRidge
from mlbook.pages.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, arrow, figure, plane


def two_ways_back():
    """The inner path of a small ridge regression in the plane, its minimum, and what each way of differentiating looks at."""
    H = torch.tensor([[2.0, 0.9], [0.9, 0.9]], dtype=torch.float64)
    bottom, theta = (torch.tensor(v, dtype=torch.float64) for v in ((1.6, 0.9), (-1.4, 0.3)))
    strength, rate, path = 0.4, 0.16, [theta]
    for _ in range(14):
        path.append(path[-1] - rate * (H @ (path[-1] - bottom) + strength * (path[-1] - theta)))
    matrix = H + strength * torch.eye(2, dtype=torch.float64)
    minimum = torch.linalg.solve(matrix, H @ bottom + strength * theta)
    fig, axes = figure(1, 2, width=7.6, height=3.1, sharey=True)
    values, vectors = torch.linalg.eigh(matrix)
    turn = torch.linspace(0, 2 * torch.pi, 90, dtype=torch.float64)
    for ax, title in zip(
        axes, ("unrolled: back through every step", "implicit: the end, and the curvature there"), strict=True
    ):
        for level in (0.03, 0.25, 0.8, 1.7):
            ring = torch.stack([turn.cos(), turn.sin()]) * (2 * level / values).sqrt()[:, None]
            x, y = minimum[:, None] + vectors @ ring
            ax.plot(x, y, color=GREY, lw=0.7, alpha=0.6)
        plane(ax, (-2.0, 2.3, -0.9, 1.7))
        ax.set_title(title, fontsize=10)
        ax.annotate("θ", theta.tolist(), (-12, 3), textcoords="offset points")
        ax.plot(*minimum, "o", mfc="none", mec=BLACK, markersize=9)
        ax.annotate("φ*", minimum.tolist(), (6, 8), textcoords="offset points")
    points = torch.stack(path)
    axes[0].plot(*points.T, "o-", color=BLUE, markersize=3.5, lw=1)
    for end, start in zip(path[1:8], path[:7], strict=True):
        arrow(axes[0], end, start, colour=RED, bend=0.55, width=1.1)
    axes[1].plot(*points.T, "o-", color=BLUE, markersize=3.5, lw=1, alpha=0.25)
    axes[1].plot(*points[-1], "o", color=BLUE, markersize=6)
    for value, vector in zip(values, vectors.T, strict=True):
        for sign in (1, -1):
            arrow(axes[1], minimum, minimum + sign * vector * 0.75 / value.sqrt(), colour=GREEN, width=1.3)
    axes[1].set_ylabel("")
    alt = (
        "Two planes with the same level lines around the minimum of an inner problem and one inner path of 14 steps from the "
        "start. Left: red arrows lead back along the path, step by step. Right: the path is faint; its end and the directions "
        "of curvature at the minimum stand out."
    )
    return fig, alt


def off(found: Tensor, wanted: Tensor) -> float:
    """Relative distance."""
    return float((found - wanted).norm() / wanted.norm())


def ridge_errors(ridge: ProximalRidge, theta: Tensor, most: int = 40) -> dict[str, list[tuple[int, float]]]:
    """Relative distance from the gradient of the fixed point, by products with the Hessian or inner steps."""
    outer, wanted = {"theta": theta}, ridge.gradient({"theta": theta})
    fixed = ridge.minimum(outer)

    def implicit(params, solve) -> float:
        return off(
            hypergradient(ridge.inner_loss, ridge.outer_loss, outer, params, solve).gradient["theta"], wanted
        )

    exact, rows = partial(conjugate_gradient, steps=12, tolerance=0.0), {}
    rows["conjugate gradients"] = [
        (k, implicit(fixed, partial(conjugate_gradient, steps=k, tolerance=0.0))) for k in range(1, 8)
    ]
    rows["Neumann series"] = [
        (j, implicit(fixed, partial(neumann_series, steps=j, rate=ridge.rate))) for j in range(1, most + 1)
    ]
    counts = [*range(1, 11), *range(15, most + 1, 5)]
    rows["unrolled T steps from θ"] = [
        (
            t,
            off(
                bilevel.exact(ProximalRidge(**{**vars(ridge), "steps": t}), t)(outer).gradient["theta"],
                wanted,
            ),
        )
        for t in counts
    ]
    rows["implicit after T steps, solved exactly"] = [
        (t, implicit(ridge.end(outer, t), exact)) for t in counts
    ]
    return rows


def errors(rows: dict[str, list[tuple[int, float]]]):
    """Left: the linear system at the fixed point. Right: an inner loop stopped after T steps."""
    fig, axes = figure(1, 2, width=7.8, height=3.2)
    looks = [(GREEN, "o-"), (RED, "--"), (BLUE, "-"), (PURPLE, "-.")]
    said = []
    for index, (name, pairs) in enumerate(rows.items()):
        colour, style = looks[index]
        ax = axes[index // 2]
        x, y = zip(*pairs, strict=True)
        ax.plot(x, [max(v, 1e-16) for v in y], style, color=colour, lw=1.8, markersize=4, label=name)
        said.append(f"{name} falls from {y[0]:.2g} to {y[-1]:.2g}")
    axes[0].set(
        yscale="log", xlabel="steps of the solver", ylabel="relative error", title="at the fixed point"
    )
    axes[1].set(yscale="log", xlabel="inner steps T", title="the inner loop stopped after T steps")
    for ax in axes:
        ax.title.set_fontsize(10)
        ax.legend(fontsize=8, loc="lower left" if ax is axes[1] else "lower right")
    return fig, "Relative error on a logarithmic scale: " + "; ".join(said) + "."


def cost(rows: list[dict]):
    """Memory and time against inner steps, each over its own value at one step of the unrolled gradient."""
    fig, axes = figure(1, 2, width=7.6, height=3.0)
    looks, said = (
        {"unrolled": (BLUE, "o-"), "implicit, 5 CG steps": (GREEN, "s--"), "first order": (ORANGE, "^:")},
        [],
    )
    unit = next(r for r in rows if r["contender"] == "unrolled" and r["inner_steps"] == 1)
    for name, (colour, style) in looks.items():
        its = [r for r in rows if r["contender"] == name]
        x = [r["inner_steps"] for r in its]
        for ax, key in zip(axes, ("memory_mib", "median"), strict=True):
            ax.plot(x, [r[key] / unit[key] for r in its], style, color=colour, markersize=4, label=name)
        said.append(
            f"{name}: memory {its[-1]['memory_mib'] / unit['memory_mib']:.1f}, time {its[-1]['median'] / unit['median']:.0f}"
        )
    for ax, title in zip(axes, ("memory", "time"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="inner steps", title=title)
        ax.set_xticks(x, [str(v) for v in x])
        ax.title.set_fontsize(10)
    axes[0].set_ylabel("times the unrolled gradient of one step")
    axes[0].legend(fontsize=8)
    return fig, f"At {x[-1]} inner steps, over the unrolled gradient of one step: " + "; ".join(said) + "."


def example_weights(weights: Tensor, wrong: Tensor):
    """Histogram of the learned weights of right and wrong examples."""
    fig, ax = figure(width=6.4, height=2.6)
    bins = torch.linspace(0, 1, 21).tolist()
    ax.hist(weights[~wrong].tolist(), bins, color=GREEN, alpha=0.75, label="right label")
    ax.hist(weights[wrong].tolist(), bins, color=RED, alpha=0.6, hatch="//", label="wrong label")
    ax.set(xlabel="learned weight of an example", ylabel="examples")
    ax.legend(fontsize=9)
    means = [float(weights[~wrong].mean()), float(weights[wrong].mean())]
    return fig, (
        f"Two histograms of weights from 0 to 1: examples with a right label have the mean weight {means[0]:.2f}, those with a "
        f"wrong label {means[1]:.2f}."
    )
