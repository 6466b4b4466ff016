"""Figures of chapter 20. Every function returns (figure, alt text)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mlbook.pages.checks.client_drift import curves
from mlbook.pages.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, arrow, box, figure

COLOURS = {1: BLACK, 5: BLUE, 20: ORANGE, 100: RED}
"""Of the number of local steps."""


def one_round():
    """A server, three clients with their data, and what travels between them."""
    fig, ax = figure(width=6.6, height=2.9)
    ax.set(xlim=(0, 10), ylim=(0, 4.2))
    ax.axis("off")
    box(ax, 5, 3.7, "server: θ ← Σ (n$_k$/n) w$_k$")
    for x, k, size, colour in (
        (1.6, 1, "n$_1$ = 40", BLUE),
        (5, 2, "n$_2$ = 75", ORANGE),
        (8.4, 3, "n$_3$ = 20", PURPLE),
    ):
        arrow(ax, (5 + 0.3 * (x - 5) - 0.15, 3.3), (x - 0.25, 1.9), colour=GREY)
        arrow(ax, (x + 0.15, 1.9), (5 + 0.3 * (x - 5) + 0.25, 3.3), colour=colour, width=2.2)
        box(ax, x, 1.5, f"client {k}: u steps\nfrom θ, ends at w$_{k}$", colour)
        ax.text(
            x,
            0.55,
            f"its own drawings, {size}\n(they stay here)",
            ha="center",
            va="center",
            fontsize=9,
            color=GREY,
        )
    ax.text(1.0, 2.9, "θ down,\nw$_k$ up", fontsize=10, color=GREY, ha="center", va="center")
    return fig, (
        "A server above three clients. A thin arrow takes the model θ from the server to each client, a thick one takes the "
        "client's model w_k back. Below each client stand its own drawings, 40, 75 and 20 of them, which stay there."
    )


def drift(study: dict):
    """Accuracy along training for every number of local steps, drawings dealt at random and by alphabet: against local steps
    above, against rounds below. Mean over seeds; bands from the lowest to the highest seed."""
    fig, axes = figure(2, 2, width=7.6, height=5.6, sharey=True)
    said = []
    for column, how in enumerate(("random", "alphabets")):
        for u, colour in COLOURS.items():
            its = curves(study, how, u)
            steps = [point[0] for point in its[0]]
            values = [[curve[i][1] for curve in its] for i in range(len(steps))]
            mean = [100 * sum(v) / len(v) for v in values]
            for row, x in enumerate((steps, [s / u for s in steps])):
                ax = axes[row][column]
                ax.plot(x, mean, "-o", color=colour, ms=3, lw=1.6, label=f"u = {u}")
                ax.fill_between(
                    x,
                    [100 * min(v) for v in values],
                    [100 * max(v) for v in values],
                    color=colour,
                    alpha=0.15,
                    lw=0,
                )
            said.append(f"{how}, u = {u}: {mean[-1]:.0f} % at the end")
        axes[0][column].set(
            title={"random": "dealt at random", "alphabets": "dealt by alphabet"}[how],
            xlabel="local steps of each client",
        )
        axes[1][column].set(xlabel="rounds", xscale="log")
    for row in axes:
        row[0].set_ylabel("accuracy, %")
    axes[0][0].legend(frameon=False, fontsize=9)
    return fig, "Accuracy of the averaged model along training. " + "; ".join(
        said
    ) + ". Against rounds, more local steps come first."


def segments(shares: Tensor, found: dict[str, Tensor]):
    """Accuracy of weighted means of two models. found: {what the two have in common: one accuracy for each of ``shares``}."""
    fig, ax = figure(width=5.6, height=3.0)
    for (name, values), colour, style in zip(
        found.items(), (GREEN, RED, BLUE), ("-o", "--s", ":^"), strict=False
    ):
        ax.plot(shares.tolist(), [100 * v for v in values.tolist()], style, color=colour, ms=4, label=name)
    ax.set(xlabel="share of the second model", ylabel="accuracy, %", ylim=(0, None))
    ax.legend(frameon=False, fontsize=9)
    middle = {name: 100 * float(v[len(v) // 2]) for name, v in found.items()}
    return fig, "Accuracy along the line between two models. In the middle: " + "; ".join(
        f"{name}, {value:.0f} %" for name, value in middle.items()
    )


def personal(rows: dict[str, Sequence[Sequence[float]]], steps: Sequence[int]):
    """Accuracy on new clients after fine-tuning. rows: {start: for each of ``steps`` one accuracy per seed}."""
    fig, ax = figure(width=6.2, height=3.4)
    looks = zip(
        rows.items(),
        (GREY, BLACK, ORANGE, BLUE, PURPLE, GREEN),
        ("--", ":", "-", "-", "-", "-"),
        "osDv^x",
        strict=False,
    )
    for (name, values), colour, style, marker in looks:
        mean = [100 * sum(v) / len(v) for v in values]
        ax.plot(range(len(steps)), mean, linestyle=style, marker=marker, color=colour, ms=5, label=name)
        ax.fill_between(
            range(len(steps)),
            [100 * min(v) for v in values],
            [100 * max(v) for v in values],
            color=colour,
            alpha=0.12,
            lw=0,
        )
    ax.set(xlabel="steps of fine-tuning on the new client", ylabel="accuracy, %")
    ax.set_xticks(range(len(steps)), [str(s) for s in steps])
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig, "Accuracy on new clients after fine-tuning. " + "; ".join(
        f"{name}: {100 * sum(v[-1]) / len(v[-1]):.0f} % after {steps[-1]} steps" for name, v in rows.items()
    )
