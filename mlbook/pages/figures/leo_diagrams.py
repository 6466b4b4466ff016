"""Block diagrams and sketches of chapter 9. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch
from matplotlib.patches import Rectangle

from mlbook.pages.figures.concepts import canvas, labelled_box, polyline
from mlbook.pages.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, arrow, figure

SHARED, OWN, DATA = "#CDEBDD", "#CFE6F5", "#EDEDED"
"""Fill colours: meta-learned and shared by all tasks; belonging to one task; data."""
CLASS_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)


def structure():
    """LEO from the support set to the outer update, with the shape of what travels along every arrow."""
    fig, ax = canvas(7.4, 6.5)
    small = {"fontsize": 8.6, "ha": "center", "color": "#333333"}
    top, second, third, fourth = 5.85, 4.45, 2.75, 1.2

    labelled_box(ax, 0.85, top, 1.3, 0.66, "support set", fill=DATA)
    labelled_box(ax, 3.45, top, 1.45, 0.66, "encoder $\\phi_e$\n(linear)", fill=SHARED)
    labelled_box(ax, 6.35, top, 1.5, 0.66, "all ordered\npairs", fill=OWN)
    arrow(ax, (1.5, top), (2.72, top))
    ax.text(2.1, top + 0.1, "$x$  [N·K, D]", **small)
    arrow(ax, (4.18, top), (5.6, top))
    ax.text(4.9, top + 0.1, "$h$  [N·K, n$_z$]", **small)

    labelled_box(ax, 6.35, second, 1.5, 0.74, "relation\nnetwork $\\phi_r$", fill=SHARED)
    labelled_box(ax, 3.55, second, 1.75, 0.74, "mean over partners,\nthen over a class", fill=OWN, size=9)
    labelled_box(ax, 0.85, second, 1.3, 0.74, "codes $z$\nof the task", fill=OWN)
    arrow(ax, (6.35, top - 0.33), (6.35, second + 0.37))
    ax.text(6.28, (top + second) / 2 - 0.03, "[(N·K)², 2n$_z$]", fontsize=8.6, ha="right", color="#333333")
    arrow(ax, (5.6, second), (4.43, second))
    ax.text(5.02, second + 0.1, "[(N·K)², 2n$_z$]", **small)
    arrow(ax, (2.67, second), (1.5, second))
    ax.text(2.09, second + 0.1, "$\\mu^e,\\sigma^e$  [N, n$_z$]", **small)
    ax.text(2.09, second - 0.24, "$z=\\mu^e+\\sigma^e\\varepsilon$", **small)

    labelled_box(ax, 2.85, third, 1.45, 0.74, "decoder $\\phi_d$\n(linear)", fill=SHARED)
    labelled_box(ax, 6.15, third, 1.9, 0.74, "softmax classifier\nof the task, $w$", fill=OWN, size=9.5)
    polyline(ax, [(0.85, second - 0.37), (0.85, third), (2.12, third)])
    ax.text(1.48, third + 0.1, "$z$  [N, K, n$_z$]", **small)
    arrow(ax, (3.58, third), (5.2, third))
    ax.text(4.39, third + 0.1, "$\\mu^d,\\sigma^d$  [N, K, D]", **small)
    ax.text(4.39, third - 0.25, "$w=\\mu^d+\\sigma^d\\varepsilon$\n[N, K, D]", va="top", **small)

    # the inner loops
    labelled_box(ax, 4.0, fourth, 1.5, 0.6, "support loss $L^S$\n(sum)", fill=OWN, size=9)
    polyline(ax, [(5.7, third - 0.37), (5.7, fourth), (4.75, fourth)])
    ax.text(5.76, fourth + 0.52, "[N·K, N]", fontsize=8.6, ha="left", color="#333333")
    polyline(ax, [(3.25, fourth), (0.4, fourth), (0.4, second - 0.37)], colour=RED, width=1.8)
    ax.text(
        1.85, fourth + 0.12, "$z\\leftarrow z-\\alpha\\,\\nabla_z L^S$, decode again",
        color=RED, fontsize=9, ha="center",
    )  # fmt: skip
    polyline(
        ax, [(4.0, fourth + 0.3), (4.0, 1.78), (5.35, 1.78), (5.35, third - 0.37)], colour=PURPLE, width=1.8
    )
    ax.text(
        3.93, 1.66, "then fine-tune:\n$w\\leftarrow w-\\alpha_w\\nabla_w L^S$",
        color=PURPLE, fontsize=8.8, ha="right", va="center",
    )  # fmt: skip

    # the outer loop
    labelled_box(ax, 6.65, fourth, 1.2, 0.6, "query loss\n$L^Q$ (mean)", fill=OWN, size=9)
    arrow(ax, (6.65, third - 0.37), (6.65, fourth + 0.3))
    ax.text(6.72, fourth + 0.52, "[N·Q, N]", fontsize=8.6, ha="left", color="#333333")
    labelled_box(ax, 6.65, 0.32, 1.2, 0.4, "query set", fill=DATA, size=9)
    arrow(ax, (6.65, 0.52), (6.65, fourth - 0.3))
    labelled_box(
        ax,
        2.5,
        0.32,
        4.7,
        0.4,
        "outer loop: moves $\\phi_e,\\ \\phi_r,\\ \\phi_d,\\ \\alpha,\\ \\alpha_w$",
        fill=SHARED,
        size=9.5,
    )
    polyline(ax, [(6.05, fourth - 0.15), (5.6, fourth - 0.15), (5.6, 0.32), (4.85, 0.32)], style="--")
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
        "examples of a class; this gives mean and spread of the codes of a class, N by n_z, from which K codes z are drawn. "
        "The linear decoder turns each into mean and spread of classifier weights, N by K by D, from which w is drawn. The "
        "summed support loss sends its gradient back to z, which is decoded again after every step; then some "
        "steps fine-tune w "
        "itself. The mean query loss moves what is shared by all tasks: encoder, relation network, decoder and the rates."
    )


def idea():
    """Left: weight space, a start for all tasks and gradient paths. Right: the decoder's plane in it, and paths on the plane."""
    fig, axes = figure(1, 2, width=7.4, height=3.3)
    corner = torch.tensor([[0.6, 0.5], [4.4, 1.3], [5.6, 3.7], [1.8, 2.9], [0.6, 0.5]])
    tasks = torch.tensor([[2.1, 2.25], [3.5, 2.6], [4.2, 1.75]])
    for ax, title in zip(axes, ("steps on all weights", "steps on decoded weights"), strict=True):
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
    fig, ax = canvas(6.2, 4.0)
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
