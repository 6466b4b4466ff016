"""Figures of chapter 6. Every function returns (figure, alt text)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mlbook.pages.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, figure

MODES = {
    "support_and_query": "support set + the query",
    "support": "support set",
    "running": "running averages",
    "none": "no normalisation",
}


def one_feature(seed: int = 3):
    """One feature of ten images of two classes: raw, and normalised in three kinds of company."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (c + 0.45 * torch.randn(5, generator=generator, dtype=torch.float64) for c in (2.0, 4.2))

    def normal(x, reference=None):
        reference = x if reference is None else reference
        return (x - reference.mean()) / reference.std(correction=0)

    pairs = [normal(torch.stack(pair)) for pair in zip(a, b, strict=True)]
    together = normal(torch.cat([a, b]))
    rows = [
        ("raw feature", a - 3.1, b - 3.1),
        (
            "batches of one A and one B",
            torch.stack([p[0] for p in pairs]),
            torch.stack([p[1] for p in pairs]),
        ),
        ("one batch of all ten", together[:5], together[5:]),
        ("a batch of the A alone, one of the B alone", normal(a), normal(b)),
    ]
    fig, axes = figure(4, 1, width=6.6, height=4.0, sharex=True)
    for ax, (title, its_a, its_b) in zip(axes, rows, strict=True):
        ax.axvline(0, color=GREY, lw=1)
        ax.scatter(its_a, [0.35] * 5, marker="o", color=BLUE, s=42, label="class A")
        ax.scatter(its_b, [-0.35] * 5, marker="s", color=ORANGE, s=38, label="class B")
        ax.set(ylim=(-1, 1), xlim=(-2.4, 2.4), yticks=[])
        ax.set_title(title, loc="left", fontsize=10)
    axes[0].legend(loc="upper right", ncols=2, fontsize=9, frameon=False)
    axes[-1].set_xlabel("value that the next layer sees (raw: shifted)")
    alt = (
        "Four rows of points on a line. Raw: five images of class A lie left of five of class B. Normalised in pairs of one A "
        "and one B: every A lands on minus one and every B on plus one. Normalised all together: A left, B right, with some "
        "spread. Normalised among themselves: both classes lie on both sides of zero and cover each other."
    )
    return fig, alt


def label(cell: dict) -> str:
    """What a row of the matrix is called."""
    if cell["batch_norm"] != "transductive":
        return MODES[cell["batch_norm"]]
    return "the batch: " + {
        "one batch": "all in one",
        "batches of 1": "the image alone",
    }.get(cell["batches"], cell["batches"].removeprefix("batches of "))


def matrix(record: dict, title: str):
    """Accuracies of one set of weights by statistics and make-up of the batch, from a record of ``studies.batch_norm``."""
    cells = record["cells"]
    fig, ax = figure(width=6.8, height=0.9 + 0.34 * len(cells))
    names = [label(cell) for cell in cells]
    for y, cell in enumerate(cells):
        colour = BLUE if cell["batch_norm"] == "transductive" else GREEN
        colour = GREY if cell["batch_norm"] == "none" else colour
        value, width = 100 * cell["accuracy"], 100 * cell["ci95"]
        ax.errorbar(value, y, xerr=width, fmt="o", color=colour, capsize=3, markersize=5)
        left = value > 80
        ax.annotate(
            f"{value:.1f}",
            (value - width if left else value + width, y),
            xytext=(-6 if left else 6, 0),
            textcoords="offset points",
            va="center",
            ha="right" if left else "left",
            fontsize=9,
        )
    chance = 100 / record["n_way"]
    ax.axvline(chance, color=RED, lw=1, ls="--")
    ax.annotate("chance", (chance, -0.9), ha="center", fontsize=9, color=RED)
    ax.set(
        yticks=range(len(cells)),
        yticklabels=names,
        xlim=(10, 102),
        xlabel="accuracy, %",
        ylim=(len(cells) - 0.5, -1.2),
    )
    ax.set_title(title, loc="left", fontsize=10)
    values = "; ".join(
        f"{name}: {100 * cell['accuracy']:.1f}" for name, cell in zip(names, cells, strict=True)
    )
    alt = f"{title}: accuracy in percent by the statistics that normalise the queries. {values}. Chance is {chance:.0f}."
    return fig, alt


def rates(curves: dict[str, Sequence[tuple[float, float]]]):
    """Query accuracy in meta-training against meta-steps, a curve per inner rate: label -> (meta-step, accuracy) pairs."""
    fig, ax = figure(width=6.8, height=3.4)
    colours = (SKY, BLUE, PURPLE, RED, ORANGE)
    for (name, points), colour in zip(curves.items(), colours, strict=False):
        x, y = zip(*points, strict=True)
        ax.plot(x, [100 * v for v in y], color=colour, lw=1.8, label=name)
    ax.set(xlabel="meta-step", ylabel="query accuracy, %", ylim=(15, 100), xlim=(0, None))
    ax.legend(title="α on the mean loss", fontsize=9, frameon=False, loc="lower right")
    ends = "; ".join(
        f"{name}: {100 * points[-1][1]:.0f} percent at step {points[-1][0]:.0f}"
        for name, points in curves.items()
    )
    alt = f"Query accuracy in meta-training against meta-steps for several inner rates on the mean loss. At the ends: {ends}."
    return fig, alt
