"""Figures of chapter 10. Every function returns (figure, alt text)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mlbook.pages.figures.concepts import canvas, labelled_box, polyline
from mlbook.pages.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, arrow, figure
from mlbook.training.evaluation import ci95

FROZEN, SHARED, OWN, DATA = "#D9D9D9", "#CDEBDD", "#CFE6F5", "#F4F4F4"
"""Fill colours: trained and then fixed; meta-learned; belonging to one task; data."""
CLASSES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)


def stages():
    """Stage one trains a backbone, stage two reads its frozen features."""
    fig, ax = canvas(7.4, 3.75)
    small = {"fontsize": 8.8, "ha": "center", "color": "#333333"}
    ax.text(0.1, 3.5, "Stage one: an ordinary classifier, once", fontsize=11, weight="bold")
    labelled_box(ax, 0.95, 2.75, 1.5, 0.8, "pictures of all\nmeta-train classes", fill=DATA, size=9.5)
    labelled_box(ax, 3.3, 2.75, 1.7, 0.8, "backbone\n(wide residual\nnetwork)", fill=SHARED, size=9.5)
    labelled_box(ax, 5.6, 2.75, 1.3, 0.8, "linear layer,\none output\nper class", fill=SHARED, size=9.5)
    ax.text(6.82, 2.75, "cross-\nentropy", fontsize=9.5, ha="center", va="center")
    for start, end in ((1.7, 2.45), (4.15, 4.95), (6.25, 6.45)):
        arrow(ax, (start, 2.75), (end, 2.75))
    ax.plot([0.1, 7.3], [2.12, 2.12], color=GREY, lw=0.8, ls=":")
    ax.text(0.1, 1.84, "Stage two: meta-learning on numbers", fontsize=11, weight="bold")
    labelled_box(ax, 0.95, 1.1, 1.5, 0.8, "pictures of\none task", fill=DATA, size=9.5)
    labelled_box(ax, 3.3, 1.1, 1.7, 0.8, "the same\nbackbone, frozen", fill=FROZEN, size=9.5)
    labelled_box(ax, 5.6, 1.1, 1.3, 0.8, "LEO", fill=SHARED, size=12)
    ax.text(6.9, 1.1, "classifier\n$w$", fontsize=9.5, ha="center", va="center")
    for start, end in ((1.7, 2.45), (4.15, 4.95), (6.25, 6.5)):
        arrow(ax, (start, 1.1), (end, 1.1))
    ax.text(4.55, 1.2, "$x$, length 1", **small)
    polyline(ax, [(5.6, 0.7), (5.6, 0.3), (4.9, 0.3)], colour=RED, style="--")
    ax.text(4.82, 0.3, "gradients of both loops stop here", fontsize=9, ha="right", va="center", color=RED)
    polyline(ax, [(3.85, 2.35), (3.85, 1.52)], colour=GREY)
    return fig, (
        "Two rows of boxes. Stage one: pictures of all meta-train classes go through a backbone and a linear layer with one "
        "output per class, trained by cross-entropy. Stage two: the pictures of one task go through the same backbone, now "
        "frozen; LEO makes a classifier of the features, scaled to length 1. Gradients of both loops stop between the "
        "features and the backbone."
    )


def by_step(scores: Tensor, latent_steps: int, lines: dict[str, tuple[float, float]], *, chance: float = 0.2):
    """Accuracy after every inner step. scores [tasks, steps + 1]; lines: other methods' (mean, half interval)."""
    fig, ax = figure(width=6.8, height=3.5)
    mean, half = 100 * scores.mean(0), 100 * ci95(scores)
    steps = range(len(mean))
    ax.axvspan(latent_steps, len(mean) - 1, color=GREY, alpha=0.12, lw=0)
    ax.errorbar(steps, mean, yerr=half, color=BLUE, marker="o", ms=4, capsize=3, label="LEO")
    for (name, (value, width)), colour, style in zip(
        lines.items(), (ORANGE, GREEN, PURPLE), ("--", ":", "-."), strict=False
    ):
        ax.axhline(100 * value, color=colour, ls=style, lw=1.6, label=f"{name} (± {100 * width:.1f})")
    ax.axhline(100 * chance, color=GREY, lw=1)
    ax.annotate(
        "chance",
        (0.01, 100 * chance),
        xycoords=("axes fraction", "data"),
        va="bottom",
        fontsize=9,
        color=GREY,
    )
    top = ax.get_ylim()[1]
    ax.text(latent_steps / 2, top, "steps on the codes", ha="center", va="bottom", fontsize=9)
    ax.text(
        (latent_steps + len(mean) - 1) / 2, top, "steps on the weights", ha="center", va="bottom", fontsize=9
    )
    ax.set(xlabel="inner steps", ylabel="accuracy, %", xticks=steps, ylim=(100 * chance - 3, top))
    ax.legend(fontsize=9, frameon=False, loc="center right")
    alt = (
        f"LEO's accuracy in percent by inner steps, on {len(scores)} tasks: "
        + ", ".join(f"{n}: {m:.1f}" for n, m in zip(steps, mean.tolist(), strict=True))
        + f"; the first {latent_steps} steps move codes, the others weights. Beside it "
        + "; ".join(f"{name}: {100 * v:.1f}" for name, (v, _) in lines.items())
        + ". The intervals are about "
        + f"{float(half.mean()):.1f} wide on either side."
    )
    return fig, alt


def codes(before: Tensor, after: Tensor, labels: Tensor, names: Sequence[str], share: Sequence[float]):
    """Codes [n, 2] of many tasks in a plane, where they start and where they end. labels: a number from 0 for the classes that
    ``names`` lists, −1 for all others. share: of the variance of the ends along both directions."""
    fig, axes = figure(1, 2, width=7.4, height=3.7, sharex=True, sharey=True)
    marks = "os^Dv*"
    for ax, points, title in zip(
        axes, (before, after), ("as encoded", "after the latent steps"), strict=True
    ):
        other = labels < 0
        ax.scatter(*points[other].t(), s=7, color=GREY, alpha=0.35, lw=0)
        for i, name in enumerate(names):
            its = points[labels == i]
            ax.scatter(*its.t(), s=20, color=CLASSES[i], marker=marks[i], alpha=0.8, lw=0, label=name)
        ax.set_title(title, loc="left", fontsize=10)
        ax.set_xlabel(f"first direction ({100 * share[0]:.0f} % of the variance)")
    axes[0].set_ylabel(f"second direction ({100 * share[1]:.0f} %)")
    axes[1].legend(
        fontsize=8.5,
        frameon=False,
        title="class",
        title_fontsize=8.5,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    spreads = [float((p - p.mean(0)).square().sum(1).mean().sqrt()) for p in (before, after)]
    alt = (
        f"Two clouds of {len(before)} codes in the same two directions. As encoded, they lie within {spreads[0]:.2f} of their "
        f"mean (root mean square), after the latent steps within {spreads[1]:.2f}. "
        f"{len(names)} classes are coloured: {', '.join(names)}."
    )
    return fig, alt


def spectrum(eigenvalues: Tensor, followed: dict[str, Tensor], n: int):
    """Left: eigenvalues of the preconditioner, largest first. Right: the share of some vectors' squared length within its first
    k eigenvectors, followed {title: [D]}."""
    fig, (left, right) = figure(1, 2, width=7.4, height=3.2)
    D = len(eigenvalues)
    left.semilogy(range(1, n + 1), eigenvalues[:n].clamp_min(1e-12), "o", ms=3, color=BLUE)
    left.set(xlabel="direction", ylabel="eigenvalue of $P$", xlim=(0, 1.6 * n))
    left.axvline(n + 0.5, color=GREY, ls=":")
    left.annotate(f"zero from {n + 1} to {D}", (n + 2, eigenvalues[0] * 0.6), fontsize=8.5, color=GREY)
    styles = ("-", "--", "-.")
    for (title, values), colour, style in zip(followed.items(), (BLUE, ORANGE, GREEN), styles, strict=False):
        right.plot(range(1, D + 1), 100 * values, color=colour, ls=style, label=title)
    right.plot([1, D], [100 / D, 100], color=GREY, lw=1, ls=":", label="a random vector")
    right.axvline(n + 0.5, color=GREY, ls=":")
    right.set(xlabel="first k directions", ylabel="share of squared length, %", ylim=(0, 102))
    right.legend(fontsize=8.5, frameon=False, loc="lower right")
    said = "; ".join(f"{title}: {100 * v[n - 1]:.0f}" for title, v in followed.items())
    return fig, (
        f"Left: the {n} eigenvalues of the preconditioner that are not zero, from {eigenvalues[0]:.2g} to "
        f"{eigenvalues[n - 1]:.2g} on a logarithmic axis. Right: how much of some vectors lies within the first k "
        f"directions; percent within all {n}: {said}; a random vector: {100 * n / D:.0f}."
    )


def shots(curves: dict[str, list[tuple[int, float, float]]], trained: int):
    """Accuracy against shots at meta-test: {title: [(K, mean, half interval)]}. trained: the shots of meta-training."""
    fig, ax = figure(width=6.6, height=3.5)
    styles, marks = ("-", "--", "-.", ":"), "osD^"
    for i, (title, points) in enumerate(curves.items()):
        k, mean, half = zip(*points, strict=True)
        colour = (BLUE, SKY, ORANGE, GREEN)[i]
        ax.errorbar(
            k,
            [100 * m for m in mean],
            yerr=[100 * h for h in half],
            color=colour,
            ls=styles[i],
            marker=marks[i],
            ms=4,
            capsize=2,
            label=title,
        )
    ax.axvline(trained, color=GREY, ls=":")
    ax.annotate(
        "meta-trained here", (trained, 0.01), xycoords=("data", "axes fraction"), fontsize=8.5, color=GREY
    )
    ax.set(xlabel="shots K at meta-test", ylabel="accuracy, %", xticks=[p[0] for p in points])
    ax.legend(fontsize=9, frameon=False)
    said = "; ".join(
        f"{title}: {100 * p[0][1]:.1f} with {p[0][0]} shot, {100 * p[-1][1]:.1f} with {p[-1][0]}"
        for title, p in curves.items()
    )
    return fig, f"Accuracy in percent against shots at meta-test, {trained} in meta-training. {said}."


def ablations(columns: dict[str, dict[str, tuple[float, float]]]):
    """{panel: {variant: (points against all of LEO, half interval)}}, two panels in a row."""
    rows = -(-len(columns) // 2)
    fig, axes = figure(rows, 2, width=7.2, height=0.5 + 1.9 * rows, sharey=True, sharex=True, squeeze=False)
    variants = list(dict.fromkeys(v for column in columns.values() for v in column))
    said = []
    for ax, (title, column) in zip(axes.flat, columns.items(), strict=False):
        ax.axvline(0, color=BLACK, lw=1)
        for y, variant in enumerate(variants):
            if variant not in column:
                continue
            value, half = column[variant]
            colour = GREY if abs(value) <= half else RED if value < 0 else GREEN
            ax.errorbar(value, y, xerr=half, fmt="o", ms=5, capsize=3, color=colour)
        ax.set_title(title, loc="left", fontsize=10)
        said.append(f"{title}: " + ", ".join(f"{v} {x:+.1f}" for v, (x, _) in column.items()))
    for ax in axes.flat[len(columns) :]:
        ax.set_visible(False)
    axes[0][0].set(yticks=range(len(variants)), yticklabels=variants, ylim=(len(variants) - 0.5, -0.5))
    fig.supxlabel("points against all of LEO", fontsize=10)
    return fig, "Differences in accuracy, in points, from all of LEO. " + "; ".join(said) + "."


def looks(runs: dict[str, dict]):
    """Accuracy on meta-validation tasks at every look, {title: run record}, with the chosen state and its meta-test accuracy."""
    fig, ax = figure(width=6.8, height=3.4)
    said = []
    for (title, record), colour in zip(runs.items(), (BLUE, ORANGE, GREEN, PURPLE, RED, SKY), strict=False):
        stop, test = record["early_stopping"], record["evaluation"]
        steps, scores = zip(*stop["looks"], strict=True)
        ax.plot(steps, [100 * s for s in scores], color=colour, lw=1.4, label=f"{title}: meta-validation")
        ax.plot(stop["meta_step"], 100 * stop["accuracy"], "o", color=colour, ms=7, mfc="white")
        ax.axhline(
            100 * test["accuracy"], color=colour, ls=":", lw=1.4, label=f"{title}: meta-test, chosen state"
        )
        said.append(
            f"{title}: best look {100 * stop['accuracy']:.1f} at meta-step {stop['meta_step']:,}, "
            f"meta-test {100 * test['accuracy']:.1f}"
        )
    ax.set(xlabel="meta-step", ylabel="accuracy, %")
    ax.legend(fontsize=8.5, frameon=False)
    return fig, "Accuracy on meta-validation tasks by meta-step, in percent. " + "; ".join(said) + "."
