"""Figures of chapter 9. Every function returns (figure, alt text)."""

from __future__ import annotations

import math

import torch
from matplotlib.patches import Ellipse, Rectangle
from torch import Tensor

from mlbook.plots.concepts import _box, _canvas, _polyline
from mlbook.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, arrow, figure

SHARED, OWN, DATA = "#CDEBDD", "#CFE6F5", "#EDEDED"
"""Fill colours: meta-learned and shared by all tasks; belonging to one task; data."""
CLASS_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)


def structure():
    """LEO from the support set to the outer update, with the shape of what travels along every arrow."""
    fig, ax = _canvas(7.4, 6.5)
    small = {"fontsize": 8.6, "ha": "center", "color": "#333333"}
    top, second, third, fourth = 5.85, 4.45, 2.75, 1.2

    _box(ax, 0.85, top, 1.3, 0.66, "support set", fill=DATA)
    _box(ax, 3.45, top, 1.45, 0.66, "encoder $\\phi_e$\n(linear)", fill=SHARED)
    _box(ax, 6.35, top, 1.5, 0.66, "all ordered\npairs", fill=OWN)
    arrow(ax, (1.5, top), (2.72, top))
    ax.text(2.1, top + 0.1, "$x$  [N·K, D]", **small)
    arrow(ax, (4.18, top), (5.6, top))
    ax.text(4.9, top + 0.1, "$h$  [N·K, n$_z$]", **small)

    _box(ax, 6.35, second, 1.5, 0.74, "relation net-\nwork $\\phi_r$", fill=SHARED)
    _box(ax, 3.55, second, 1.75, 0.74, "mean over partners,\nthen over a class", fill=OWN, size=9)
    _box(ax, 0.85, second, 1.3, 0.74, "codes $z$\nof the task", fill=OWN)
    arrow(ax, (6.35, top - 0.33), (6.35, second + 0.37))
    ax.text(6.28, (top + second) / 2 - 0.03, "[(N·K)², 2n$_z$]", fontsize=8.6, ha="right", color="#333333")
    arrow(ax, (5.6, second), (4.43, second))
    ax.text(5.02, second + 0.1, "[(N·K)², 2n$_z$]", **small)
    arrow(ax, (2.67, second), (1.5, second))
    ax.text(2.09, second + 0.1, "$\\mu^e,\\sigma^e$  [N, n$_z$]", **small)
    ax.text(2.09, second - 0.24, "$z=\\mu^e+\\sigma^e\\varepsilon$", **small)

    _box(ax, 2.85, third, 1.45, 0.74, "decoder $\\phi_d$\n(linear)", fill=SHARED)
    _box(ax, 6.15, third, 1.9, 0.74, "softmax classifier\nof the task, $w$", fill=OWN, size=9.5)
    _polyline(ax, [(0.85, second - 0.37), (0.85, third), (2.12, third)])
    ax.text(1.48, third + 0.1, "$z$  [N, n$_z$]", **small)
    arrow(ax, (3.58, third), (5.2, third))
    ax.text(4.39, third + 0.1, "$\\mu^d,\\sigma^d$  [N, D]", **small)
    ax.text(4.39, third - 0.25, "$w=\\mu^d+\\sigma^d\\varepsilon$\n[N, K, D]", va="top", **small)

    # the inner loops
    _box(ax, 4.0, fourth, 1.5, 0.6, "support loss $L^S$\n(sum)", fill=OWN, size=9)
    _polyline(ax, [(5.7, third - 0.37), (5.7, fourth), (4.75, fourth)])
    ax.text(5.76, fourth + 0.52, "[N·K, N]", fontsize=8.6, ha="left", color="#333333")
    _polyline(ax, [(3.25, fourth), (0.4, fourth), (0.4, second - 0.37)], colour=RED, width=1.8)
    ax.text(
        1.85, fourth + 0.12, "$z\\leftarrow z-\\alpha\\,\\nabla_z L^S$, decode again",
        color=RED, fontsize=9, ha="center",
    )  # fmt: skip
    _polyline(
        ax, [(4.0, fourth + 0.3), (4.0, 1.78), (5.35, 1.78), (5.35, third - 0.37)], colour=PURPLE, width=1.8
    )
    ax.text(
        3.93, 1.66, "then fine-tune:\n$w\\leftarrow w-\\alpha_w\\nabla_w L^S$",
        color=PURPLE, fontsize=8.8, ha="right", va="center",
    )  # fmt: skip

    # the outer loop
    _box(ax, 6.65, fourth, 1.2, 0.6, "query loss\n$L^Q$ (mean)", fill=OWN, size=9)
    arrow(ax, (6.65, third - 0.37), (6.65, fourth + 0.3))
    ax.text(6.72, fourth + 0.52, "[N·Q, N]", fontsize=8.6, ha="left", color="#333333")
    _box(ax, 6.65, 0.32, 1.2, 0.4, "query set", fill=DATA, size=9)
    arrow(ax, (6.65, 0.52), (6.65, fourth - 0.3))
    _box(
        ax,
        2.5,
        0.32,
        4.7,
        0.4,
        "outer loop: moves $\\phi_e,\\ \\phi_r,\\ \\phi_d,\\ \\alpha,\\ \\alpha_w$",
        fill=SHARED,
        size=9.5,
    )
    _polyline(ax, [(6.05, fourth - 0.15), (5.6, fourth - 0.15), (5.6, 0.32), (4.85, 0.32)], style="--")
    for x, fill, text in (
        (0.5, SHARED, "shared by all tasks"),
        (2.6, OWN, "of one task"),
        (4.2, DATA, "data"),
    ):
        ax.add_patch(Rectangle((x, 6.33), 0.16, 0.12, fc=fill, ec=BLACK, lw=0.8))
        ax.text(x + 0.22, 6.39, text, fontsize=8.6, va="center")
    return fig, (
        "Structure of LEO. The support set x, N times K by D, goes through the linear encoder to h, N times K by "
        "n_z; all ordered "
        "pairs of rows, (N times K) squared by 2 n_z, go through the relation network and are averaged over "
        "partners and over the "
        "examples of a class; this gives mean and spread of one code per class, N by n_z, from which z is drawn. The linear "
        "decoder turns z into means and spreads of the classifier's weights, N by D each, from which w is drawn, "
        "N by K by D. The "
        "summed support loss sends its gradient back to z, which is decoded again after every step; then some "
        "steps fine-tune w "
        "itself. The mean query loss moves what is shared by all tasks: encoder, relation network, decoder and the rates."
    )


def idea():
    """Left: weight space, a start for all tasks and gradient paths. Right: the decoder's plane in it, and paths on the plane."""
    fig, axes = figure(1, 2, width=7.4, height=3.3)
    corner = torch.tensor([[0.6, 0.5], [4.4, 1.3], [5.6, 3.7], [1.8, 2.9], [0.6, 0.5]])
    tasks = torch.tensor([[2.1, 2.25], [3.5, 2.6], [4.2, 1.75]])
    for ax, title in zip(axes, ("steps among all weights", "steps among decoded weights"), strict=True):
        ax.set(xlim=(0, 6), ylim=(0, 4.3), xticks=[], yticks=[], title=title)
        ax.title.set_fontsize(11)
        ax.grid(False)
        for side in ax.spines.values():
            side.set_visible(False)
        for tip in ((0.15, 4.1), (5.9, 0.15), (0.95, 0.75)):
            arrow(ax, (0.15, 0.15), tip, colour=GREY, width=1.0)
    left, right = axes
    start = torch.tensor([2.9, 0.75])
    left.plot(*start, "*", color=BLUE, ms=13)
    left.text(3.1, 0.5, "one start\nfor all tasks", fontsize=9, color=BLUE, va="center")
    drift = torch.tensor([[-0.95, 0.75], [0.15, 1.05], [1.1, 0.7]])
    for goal, push in zip(tasks, drift, strict=True):
        end = goal + push
        arrow(left, start, end, colour=BLUE, bend=0.12)
        left.plot(*goal, "o", color=GREEN, ms=7)
        left.plot([goal[0], end[0]], [goal[1], end[1]], color=RED, lw=1.2, ls=":")
    left.text(2.1, 3.95, "what few examples add by chance", fontsize=9, color=RED)
    right.fill(corner[:, 0], corner[:, 1], color=SKY, alpha=0.28)
    right.plot(corner[:, 0], corner[:, 1], color=BLUE, lw=0.8)
    right.text(3.4, 0.55, "what the decoder can reach", fontsize=9, color=BLUE)
    starts = torch.tensor([[1.75, 1.55], [3.05, 1.85], [3.75, 2.35]])
    for goal, begin in zip(tasks, starts, strict=True):
        right.plot(*begin, "*", color=BLUE, ms=11)
        right.plot(*goal, "o", color=GREEN, ms=7)
        arrow(right, begin, begin + 0.85 * (goal - begin), colour=BLUE)
    right.text(2.5, 3.95, "a start read from the support set", fontsize=9, color=BLUE)
    arrow(right, (2.9, 3.85), (1.87, 1.75), colour=GREY, width=0.8)
    return fig, (
        "Two sketches of a space of many weights, drawn with three axes. Left: one star, the common start, and a "
        "bent arrow for "
        "each of three tasks; every arrow misses the good weights of its task, a green dot, by a dotted piece that points in a "
        "direction of its own. Right: a tilted plane, the weights that the decoder can reach. The good weights "
        "lie on it, every "
        "task has a star of its own near them, and the arrows stay on the plane."
    )


def pairs(n_way: int, k_shot: int):
    """The ordered pairs of a support set as a square, and what is averaged for each class."""
    S = n_way * k_shot
    fig, ax = _canvas(6.2, 4.0)
    cell, x0, y0 = 3.0 / S, 1.15, 0.35
    for i in range(S):
        for j in range(S):
            fill = CLASS_COLOURS[i // k_shot % 5]
            y = y0 + (S - 1 - i) * cell
            ax.add_patch(
                Rectangle(
                    (x0 + j * cell, y), cell, cell, fc=fill, alpha=0.45 if i == j else 0.22, ec="white", lw=1
                )
            )
            ax.text(
                x0 + (j + 0.5) * cell, y + cell / 2, f"{i + 1},{j + 1}",
                ha="center", va="center", fontsize=min(9.0, 46 / S), color="#222222",
            )  # fmt: skip
    for n in range(n_way):
        top, bottom = y0 + (S - n * k_shot) * cell, y0 + (S - (n + 1) * k_shot) * cell
        ax.add_patch(
            Rectangle((x0, bottom), S * cell, top - bottom, fc="none", ec=CLASS_COLOURS[n % 5], lw=2)
        )
        ax.text(x0 - 0.1, (top + bottom) / 2, f"class {n + 1}", ha="right", va="center", fontsize=9.5)
        arrow(
            ax,
            (x0 + S * cell + 0.08, (top + bottom) / 2),
            (x0 + S * cell + 0.6, (top + bottom) / 2),
            colour=CLASS_COLOURS[n % 5],
        )
        ax.text(
            x0 + S * cell + 0.68, (top + bottom) / 2, f"$\\mu_{n + 1}^e,\\ \\sigma_{n + 1}^e$",
            va="center", fontsize=11, color=BLACK,
        )  # fmt: skip
    ax.text(
        x0 + S * cell / 2,
        y0 + S * cell + 0.14,
        f"second of the pair: any of the {S} examples",
        ha="center",
        fontsize=9.5,
    )
    ax.text(
        x0 + S * cell / 2,
        0.12,
        f"mean of {k_shot} · {S} = {n_way * k_shot**2} outputs for each class",
        ha="center",
        fontsize=9.5,
    )
    return fig, (
        f"A square of {S} by {S} numbered cells, the ordered pairs of {n_way} classes with {k_shot} examples "
        f"each, the pairs of an "
        f"example with itself on the diagonal. The {k_shot} rows of a class, {n_way * k_shot**2} cells, are "
        f"framed together, and an "
        "arrow leads from each frame to the mean and the spread of the code of that class."
    )


def by_dimension(
    curves: dict[str, list[tuple[float, float, float]]],
    xlabel: str,
    *,
    log: bool = True,
    mark: float | None = None,
):
    """Accuracy with its interval against a number of dimensions. curves: name -> (dimensions, accuracy, half-width)."""
    fig, ax = figure(width=5.6, height=3.3)
    said = []
    for (name, rows), colour, dash, marker in zip(
        curves.items(), (RED, GREEN, BLUE, ORANGE), ("-", "--", "-.", ":"), "osD^", strict=False
    ):
        x, y, half = (torch.tensor(column) for column in zip(*rows, strict=True))
        ax.errorbar(
            x,
            100 * y,
            yerr=100 * half,
            color=colour,
            ls=dash,
            marker=marker,
            ms=5,
            lw=1.8,
            capsize=3,
            label=name,
        )
        said.append(name + ": " + ", ".join(f"{100 * b:.1f} % at {a:g}" for a, b, _ in rows))
    if log:
        ax.set_xscale("log", base=2)
    ticks = sorted({row[0] for rows in curves.values() for row in rows})
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    if mark is not None:
        ax.axvline(mark, color=GREY, lw=1.2, ls=":")
    ax.set(xlabel=xlabel, ylabel="accuracy on the query set (%)")
    ax.legend(fontsize=8.5)
    return fig, f"Accuracy against {xlabel}. " + "; ".join(said) + "."


def codes(
    tasks: list[tuple[str, list[Tensor], Tensor]],
    *,
    labels: tuple[str, str] = ("first latent dimension", "second"),
):
    """Codes of the classes of some tasks on their way: (title, z after every latent step [N, 2], spread of the start [N, 2])."""
    fig, axes = figure(
        1, len(tasks), width=3.1 * len(tasks) + 0.3, height=3.3, squeeze=False, sharex=True, sharey=True
    )
    lengths = []
    for ax, (title, path, sigma) in zip(axes[0], tasks, strict=True):
        z = torch.stack(path)  # [steps + 1, N, 2]
        for n in range(z.shape[1]):
            colour = CLASS_COLOURS[n % 5]
            ax.add_patch(
                Ellipse(
                    tuple(z[0, n].tolist()),
                    *(4 * sigma[n]).tolist(),
                    fc=colour,
                    alpha=0.15,
                    ec=colour,
                    lw=0.8,
                )
            )
            ax.plot(z[:, n, 0], z[:, n, 1], "-", color=colour, lw=1.2, marker=".", ms=4)
            ax.plot(*z[0, n], "o", mfc="white", mec=colour, ms=7)
            ax.plot(*z[-1, n], "o", color=colour, ms=7, label=f"class {n + 1}")
        ax.axhline(0, color=GREY, lw=0.6)
        ax.axvline(0, color=GREY, lw=0.6)
        ax.set(title=title, xlabel=labels[0])
        lengths.append(float((z[-1] - z[0]).norm(dim=-1).mean()))
    axes[0][0].set_ylabel(labels[1])
    axes[0][-1].legend(fontsize=8)
    return fig, (
        "Latent codes of the classes of "
        + str(len(tasks))
        + " tasks. Every class is an open circle with an ellipse of two spreads, "
        "where its code starts, a line through the codes after every latent step, and a filled circle, where it "
        "ends. On average the codes "
        "move by " + ", ".join(f"{length:.2f}" for length in lengths) + "; the classes of a task move apart."
    )


def kl_samples(samples: Tensor, closed: float):
    """Histogram of one-sample estimates [n] of the KL term, their mean and the closed form."""
    fig, ax = figure(width=5.4, height=2.9)
    ax.hist(samples.numpy(), bins=60, color=SKY, edgecolor="white", lw=0.3)
    mean = float(samples.mean())
    ax.axvline(closed, color=RED, lw=2.2, label=f"closed form {closed:.3f}")
    ax.axvline(mean, color=BLACK, lw=1.4, ls="--", label=f"mean of {len(samples):,} samples {mean:.3f}")
    ax.set(xlabel="log q(z) − log p(z), mean over classes and dimensions", ylabel="samples")
    ax.legend(fontsize=8.5)
    half = 1.96 * float(samples.std()) / math.sqrt(len(samples))
    return fig, (
        f"Histogram of {len(samples):,} one-sample estimates of the KL term, from {float(samples.min()):.2f} to "
        f"{float(samples.max()):.2f}; "
        f"their mean is {mean:.3f} plus or minus {half:.3f}, the closed form {closed:.3f}."
    )
