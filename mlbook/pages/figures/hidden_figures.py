"""Figures of chapter 21. Every function returns (figure, alt text)."""

from __future__ import annotations

from torch import Tensor

from mlbook.pages.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, figure

METHOD_COLOURS = {"MAML": BLUE, "FOMAML": ORANGE, "ANIL": PURPLE, "BOIL": RED, "prototypical network": GREEN}


def ranges(scores: Tensor):
    """Accuracies [T, P] of T tasks under P orders of their classes: a line from the worst to the best, and the mean."""
    scores = 100 * scores[scores.mean(1).argsort()]
    worst, mean, best = scores.amin(1), scores.mean(1), scores.amax(1)
    fig, ax = figure(width=6.8, height=3.2)
    places = list(range(len(scores)))
    ax.vlines(places, worst, best, color=BLUE, lw=2.2, alpha=0.45, label="worst to best order")
    ax.plot(places, mean, "o", color=BLUE, markersize=4, label="mean over the orders")
    overall = float(scores.mean())
    ax.axhline(overall, color=RED, lw=1.4, ls="--", label="the score")
    ax.set(xlabel="tasks, sorted by their mean", ylabel="accuracy in %", xticks=[])
    ax.legend(fontsize=9, loc="lower right")
    alt = (
        f"{len(scores)} tasks side by side, each a vertical line from its worst to its best order of the classes, with a dot at "
        f"the mean. The lines are {float((best - worst).mean()):.1f} points long on average. A dashed horizontal line, the one "
        f"number that is reported, stands at {overall:.1f} percent."
    )
    return fig, alt


def parts_put_back(rows: dict[str, list[tuple[float, float]]], names: list[str]):
    """Accuracy with parts of the network put back. rows: title -> (accuracy, half-width) for each of ``names``."""
    fig, ax = figure(width=6.8, height=3.4)
    said = []
    for index, (title, values) in enumerate(rows.items()):
        colour = METHOD_COLOURS.get(title.split(",")[0], GREY)
        places = [n + 0.12 * (index - (len(rows) - 1) / 2) for n in range(len(names))]
        mean, half = [100 * v for v, _ in values], [100 * h for _, h in values]
        ax.errorbar(
            places,
            mean,
            yerr=half,
            fmt="osv^D"[index % 5],
            color=colour,
            capsize=2.5,
            markersize=5,
            label=title,
        )
        said.append(f"{title}: " + ", ".join(f"{n} {v:.0f}" for n, v in zip(names, mean, strict=True)))
    ax.axhline(20, color=GREY, ls=":", lw=1.3)
    ax.set(ylabel="accuracy in %", xticks=range(len(names)), ylim=(0, 103))
    ax.set_xticklabels(names, fontsize=9)
    ax.legend(fontsize=9, loc="lower left")
    return fig, "Accuracy in percent with parts of the network put back to where they began. " + "; ".join(
        said
    ) + "."


def by_classes(curves: dict[str, list[tuple[int, list[float]]]]):
    """Accuracy against the number of meta-train classes. curves: title -> (classes, one accuracy per seed)."""
    fig, ax = figure(width=6.0, height=3.2)
    said = []
    for title, points in curves.items():
        colour = METHOD_COLOURS.get(title, GREY)
        sizes = [size for size, _ in points]
        means = [100 * sum(values) / len(values) for _, values in points]
        ax.plot(sizes, means, "-", color=colour, lw=1.5, label=title)
        for size, values in points:
            ax.plot([size] * len(values), [100 * v for v in values], "o", color=colour, markersize=4.5)
        said.append(f"{title}: " + ", ".join(f"{m:.0f} with {s}" for s, m in zip(sizes, means, strict=True)))
    ax.set(xscale="log", xlabel="meta-train characters", ylabel="accuracy on new ones, %")
    ax.set_xticks(sizes, [f"{s:,}" for s in sizes])
    ax.minorticks_off()
    ax.legend(fontsize=9)
    return (
        fig,
        "Accuracy in percent on new characters against the number of meta-train characters. "
        + "; ".join(said)
        + ".",
    )
