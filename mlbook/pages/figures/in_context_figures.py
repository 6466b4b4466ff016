"""Figures of chapter 19. Every function returns (figure, alt text)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlbook.meta_learners.in_context import gradient_descent
from mlbook.models.attention import answers, gradient_step_layers
from mlbook.pages.figures.style import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, PURPLE, SKY, arrow, figure

TERMS = (
    ("start\nat w = 0", "$0$", "last number\nof the query's\ntoken", "$0$", GREY),
    ("minus\nthe rate", r"$-\,\eta$", "projection $P$,\nread with\na minus", r"$-\,\eta$", ORANGE),
    (
        "mean over the\nsupport set",
        r"$\frac{1}{K}\sum_j$",
        "mean over\nthe context",
        r"$\frac{1}{K}\sum_j$",
        BLACK,
    ),
    ("error\nat w = 0", r"$(0-y_j)$", "value $v_j$", r"$-\,y_j$", PURPLE),
    (
        "likeness of\nthe inputs",
        r"$x_j^{\top}x_q$",
        "key times\nquery, $k_j^{\\top}q$",
        r"$x_j^{\top}x_q$",
        BLUE,
    ),
)
"""What a gradient step says of a query, factor by factor, and which part of an attention layer computes it."""

CONTEXT = ((0.9, 1.6), (-0.6, -1.3), (0.3, 0.9), (-0.9, -1.0))
QUERY, RATE = 0.7, 1.2


def attention_as_a_step():
    """The prediction after one gradient step, factor by factor, over the parts of a layer of linear attention; and the
    contributions of four context points to one prediction, computed in both ways."""
    fig, (ax, bars) = figure(1, 2, width=9.8, height=4.1, width_ratios=(2.1, 1))
    ax.set_axis_off()
    ax.set(xlim=(-0.62, 4.62), ylim=(-1.75, 1.75))
    ax.text(-0.6, 1.6, "One gradient step, from w = 0: what it says of the query", fontsize=10, weight="bold")
    ax.text(-0.6, -1.7, "One layer of linear attention", fontsize=10, weight="bold")
    for i, (step, symbol, part, same, colour) in enumerate(TERMS):
        ax.text(i, 1.2, step, ha="center", va="center", fontsize=9.5, color=colour)
        ax.text(i, 0.62, symbol, ha="center", va="center", fontsize=15, color=colour)
        ax.text(i, -0.62, same, ha="center", va="center", fontsize=15, color=colour)
        ax.text(i, -1.2, part, ha="center", va="center", fontsize=9.5, color=colour)
        arrow(ax, (i, 0.32), (i, -0.32), colour=colour)
    x, y = (torch.tensor(values, dtype=torch.float64)[:, None] for values in zip(*CONTEXT, strict=True))
    query = torch.tensor([[QUERY]], dtype=torch.float64)
    parts = RATE * (y * (x @ query.T))[:, 0] / len(x)
    total = float(answers(gradient_step_layers(1, RATE), x, y, query))
    assert abs(total - float(parts.sum())) < 1e-12
    assert abs(total - float(gradient_descent(RATE, 1)(x, y, query))) < 1e-12
    below = 0.0
    for j, part in enumerate(parts.tolist()):
        bars.bar(0, part, bottom=below, width=0.5, color=(BLUE, SKY, PURPLE, ORANGE)[j], edgecolor="white")
        bars.text(
            0.3,
            below + part / 2,
            f"$x_{j + 1}$ = {CONTEXT[j][0]:g}, $y_{j + 1}$ = {CONTEXT[j][1]:g}".replace("-", "−"),
            va="center",
            fontsize=9.5,
        )
        below += part
    bars.plot([-0.3, 0.28], [below, below], color=BLACK, lw=2)
    bars.text(0.3, below + 0.02, f"prediction {below:.2f}", va="bottom", fontsize=9)
    bars.set(
        xlim=(-0.4, 1.35),
        ylim=(0, 1.15 * below),
        xticks=[],
        ylabel=f"η/K · y$_j$ · x$_j$·x$_q$, at x$_q$ = {QUERY:g}",
    )
    bars.set_title("four context points", fontsize=10)
    alt = (
        "Left: the five factors of a gradient step's prediction (start, minus the rate, mean over the support set, error at "
        "w = 0, likeness of the inputs), each with an arrow to the part of a linear attention layer that computes it: the 0 in "
        "the query's token, projection and read-out, the mean over the context, the values, and keys times query. Right: the "
        f"contributions of four context points, stacked up to the prediction {below:.2f}."
    )
    return fig, alt


def depth(record: dict):
    """Error of gradient descent at its best rate after 0 to 20 steps, and of one to three learned layers, five seeds each."""
    its = record["layers"]
    fig, ax = figure(width=7.6, height=3.5)
    errors = [row["mean"] for row in its["descent"]]
    ax.plot(
        range(len(errors)),
        errors,
        "o-",
        color=GREY,
        markersize=4,
        lw=1.4,
        label="gradient steps, best rate for each number",
    )
    for n, row in enumerate(its["learned"], 1):
        ax.plot(
            [n] * len(row["seeds"]),
            row["seeds"],
            "D",
            color=PURPLE,
            markersize=6,
            alpha=0.8,
            label="learned layers, a dot a seed" if n == 1 else None,
        )
    ax.axhline(its["ridge"]["mean"], color=GREEN, lw=1.8, ls="--", label="ridge regression (the Bayes rule)")
    ax.set(
        yscale="log",
        xlabel="gradient steps, or layers",
        ylabel="mean squared error",
        xticks=range(0, len(errors), 2),
    )
    ax.legend(fontsize=9)
    best = ", ".join(f"{n}: {min(row['seeds']):.3f}" for n, row in enumerate(its["learned"], 1))
    alt = (
        f"The error of gradient descent falls from {errors[0]:.2f} through {errors[1]:.2f} after one step to {errors[-1]:.3f} "
        f"after {len(errors) - 1}. The best seeds of one, two and three learned layers reach {best}; ridge "
        f"regression {its['ridge']['mean']:.3f}."
    )
    return fig, alt


LOOKS = {
    "transformer": ("transformer, mean of three seeds", PURPLE, "o-"),
    "maml-1": ("MAML, 1 step", BLUE, "s--"),
    "maml-10": ("MAML, 10 steps", BLUE, "s-"),
    "reptile-10": ("Reptile, 10 steps", GREEN, "^-"),
    "kernel": ("kernel regression", GREY, "x:"),
    "posterior": ("Bayes rule", BLACK, "*-"),
}


DIVERGED = 100.0
"""A mean that a few tasks with exploding steps make as large as that is not drawn."""


def shots_and_noise(record: dict):
    """Errors on sine waves against the number of points, and against the noise on five of them."""
    labels = ("points of the wave", "standard deviation of the noise, 5 points")
    return _over_shots_and_noise(record["sine_waves"], LOOKS, labels, most=10)


D = 5
"""Inputs of the linear functions, and the mean error of answering 0."""
LINEAR_LOOKS = {
    "transformer": ("transformer, mean of three seeds", PURPLE, "o-"),
    "maml-1": ("MAML, linear model, 1 step", BLUE, "s--"),
    "maml-10": ("MAML, linear model, 10 steps", BLUE, "s-"),
    "reptile-10": ("Reptile, linear model, 10 steps", GREEN, "^:"),
    "network-10": ("MAML, network, 10 steps", SKY, "D-"),
    "step": ("best single step from 0", GREY, "x:"),
    "least_squares": ("least squares", ORANGE, "v--"),
    "ridge": ("ridge: Bayes rule", BLACK, "*-"),
}


def linear_shots_and_noise(record: dict):
    """Errors on linear functions against the number of points, and against the noise on ten of them."""
    its = record["linear_functions"]
    labels = ("points of the function", f"standard deviation of the noise, {its['k_shot']} points")
    return _over_shots_and_noise(its, LINEAR_LOOKS, labels, limit=2 * D)


def _over_shots_and_noise(
    its: dict, looks: dict, labels: tuple[str, str], *, most: int | None = None, limit: float = DIVERGED
):
    """most: the largest number of points in training, where some of those drawn are larger. limit: larger means are not drawn."""
    fig, axes = figure(1, 2, width=9.8, height=3.9, sharey=True)
    said = []
    for ax, condition, label in zip(axes, ("shots", "noise"), labels, strict=True):
        rows = its[condition]
        at = [float(v) for v in rows]
        for key, (name, colour, look) in looks.items():
            means = [max(row[key]["mean"], 1e-3) for row in rows.values()]
            means = [m if m < limit else float("nan") for m in means]
            ax.plot(range(len(at)), means, look, color=colour, markersize=5, lw=1.6, label=name)
            first = "diverging" if math.isnan(means[0]) else f"{means[0]:.2f}"
            said.append(f"{name} from {first} to {means[-1]:.2f}")
        for seed in range(len(next(iter(rows.values()))["transformer"]["seeds"])):
            ax.plot(
                range(len(at)),
                [row["transformer"]["seeds"][seed] for row in rows.values()],
                "-",
                color=PURPLE,
                lw=0.6,
                alpha=0.6,
            )
        ax.set(yscale="log", xlabel=label)
        ax.set_xticks(range(len(at)), [f"{v:g}" for v in at])
    if most is not None:
        end = list(its["shots"]).index(str(most))
        axes[0].axvline(end + 0.5, color=GREY, lw=1, ls=":")
        axes[0].text(end + 0.45, 4.5, "trained up to here", ha="right", fontsize=8, color=GREY)
    axes[0].set_ylabel("mean squared error")
    columns = len(looks) if len(looks) <= 6 else 4
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8)
    half = len(looks)
    first, second = ("; ".join(part) for part in (said[:half], said[half:]))
    ends = (f"{list(its[name])[0]} to {list(its[name])[-1]}" for name in ("shots", "noise"))
    (shots, first), (noise, second) = zip(ends, (first, second), strict=True)
    alt = f"Two plots of errors. At {shots} {labels[0]}: {first}. At {noise} as the {labels[1]}: {second}."
    return fig, alt


def one_wave(tasks: dict[str, tuple], curves: dict[str, tuple[str, str]]):
    """Predictions on single tasks. tasks: title -> (context x, context y, grid, true values, {name: predictions}), tensors [n];
    curves: name -> (colour, line style)."""
    fig, axes = figure(1, len(tasks), width=9.8, height=3.2, squeeze=False)
    said = []
    for ax, (title, (x, y, grid, truth, found)) in zip(axes[0], tasks.items(), strict=True):
        ax.plot(grid, truth, color=COLOURS["truth"], lw=5, alpha=0.3, label="true curve")
        for name, values in found.items():
            colour, style = curves[name]
            ax.plot(grid, values, color=colour, ls=style, lw=1.8, label=name)
            error = float((Tensor(values) - Tensor(truth)).square().mean())
            said.append(f"{title}, {name}: error {error:.2f}")
        ax.plot(x, y, "o", color=COLOURS["support"], markersize=6)
        ax.set_title(title, fontsize=10)
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    return fig, "Predictions from five points of a wave. " + "; ".join(said) + "."
