"""Figures of chapter 7: trajectories in the plane, returns by inner step, learning curves."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mlbook.pages.figures.style import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, RED, figure

METHOD_COLOURS = {
    "MAML": BLUE,
    "FOMAML": ORANGE,
    "pre-trained": RED,
    "random": GREY,
    "oracle": GREEN,
}
MARKERS = {"MAML": "o", "FOMAML": "^", "pre-trained": "s", "random": "x", "oracle": "*"}


def trajectories(paths: Sequence[Tensor], goals: Tensor, returns: Tensor, shown: int = 8):
    """Rows of tasks, columns of rounds: ``shown`` trajectories each.

    paths: for each round, positions [T, M, H + 1, 2]. goals [T, 2]. returns [T, rounds], mean return of every panel.
    """
    T, rounds = len(goals), len(paths)
    fig, axes = figure(
        T, rounds, width=1.85 * rounds, height=1.85 * T, sharex=True, sharey=True, squeeze=False
    )
    for t in range(T):
        for n in range(rounds):
            ax = axes[t, n]
            for m in range(shown):
                line = paths[n][t, m]
                ax.plot(*line.T.tolist(), color=BLUE, linewidth=0.8, alpha=0.7)
            ax.plot(0, 0, "o", color=GREY, markersize=4)
            ax.plot(*goals[t].tolist(), "*", color=BLACK, markersize=11, markeredgecolor="white")
            ax.set(
                xlim=(-0.8, 0.8),
                ylim=(-0.8, 0.8),
                aspect="equal",
                xticks=(-0.5, 0, 0.5),
                yticks=(-0.5, 0, 0.5),
            )
            ax.text(0.96, 0.04, f"{float(returns[t, n]):.1f}", transform=ax.transAxes, fontsize=9, ha="right")
            if t == 0:
                ax.set_title("before" if n == 0 else f"{n} step{'s' * (n > 1)}", fontsize=10)
    said = "; ".join(
        f"goal {t + 1}: {', '.join(f'{float(v):.1f}' for v in row)}" for t, row in enumerate(returns)
    )
    alt = (
        f"Trajectories of one policy in the plane for {T} goals, one row each, before adaptation and after 1 to "
        f"{rounds - 1} gradient steps. Before, they spread from the origin in the same way for every goal; afterwards they "
        "go towards it. "
        f"Mean returns by step, {said}."
    )
    return fig, alt


def returns_by_step(rows: dict[str, tuple[list[float], list[float]]], published: dict[str, list[float]]):
    """Mean return over inner steps with its interval, for several methods, and published values as open diamonds.

    rows: method -> (means, half-widths of 95 % intervals). published: name -> values.
    """
    fig, ax = figure(height=3.6)
    for name, (means, halves) in rows.items():
        colour = METHOD_COLOURS.get(name, COLOURS["query"])
        steps = list(range(len(means)))
        ax.errorbar(
            steps, means, yerr=halves, color=colour, marker=MARKERS.get(name, "o"), capsize=3, label=name
        )
        if len(means) == 1:
            ax.axhline(means[0], color=colour, linewidth=1, linestyle=":")
    for name, values in published.items():
        ax.plot(
            range(len(values)), values, "D", color=BLACK, markerfacecolor="none", markersize=8, label=name
        )
    longest = max(len(m) for m, _ in rows.values())
    ax.set(xlabel="gradient steps", ylabel="mean return", xticks=range(longest))
    ax.legend(frameon=False, fontsize=9, ncols=2)
    said = "; ".join(f"{name} {', '.join(f'{v:.1f}' for v in means)}" for name, (means, _) in rows.items())
    return fig, f"Mean return after 0, 1, 2 and 3 gradient steps. {said}."


def learning_curves(
    curves: dict[str, tuple[list[float], list[float], list[float]]], xlabel: str = "meta-step"
):
    """Return before (dashed) and after (solid) the inner step over meta-steps.

    curves: method -> (meta-steps, returns before, returns after).
    """
    fig, ax = figure(height=3.4)
    said = []
    for name, (steps, before, after) in curves.items():
        colour = METHOD_COLOURS.get(name, BLUE)
        if before != after:
            ax.plot(steps, before, color=colour, linestyle="--", linewidth=1.2, label=f"{name}, before")
        ax.plot(
            steps, after, color=colour, linewidth=1.8, label=name if before == after else f"{name}, after"
        )
        said.append(f"{name}: at the end {before[-1]:.1f} before and {after[-1]:.1f} after the inner step")
    ax.set(xlabel=xlabel, ylabel="mean return of the meta-batch")
    ax.legend(frameon=False, fontsize=9, ncols=2)
    return fig, f"Learning curves of returns over meta-steps. {'; '.join(said)}."


def returns_by_rate(rates: Sequence[float], rows: dict[str, tuple[list[float], list[float]]], used: float):
    """Return after one step against the inner rate; the rate of MAML's training is marked.

    rows: method -> (means, half-widths of 95 % intervals), one entry per rate.
    """
    fig, ax = figure(height=3.2)
    said = []
    for name, (means, halves) in rows.items():
        ax.errorbar(
            rates, means, yerr=halves, color=METHOD_COLOURS[name], marker=MARKERS[name], capsize=3, label=name
        )
        said.append(f"{name} {', '.join(f'{m:.1f} at {r:g}' for r, m in zip(rates, means, strict=True))}")
    ax.axvline(used, color=GREY, linewidth=1, linestyle=":")
    ax.set(xlabel="inner rate α", ylabel="mean return after one step", xscale="log", ylim=(-80, 0))
    ax.set_xticks(rates, [f"{r:g}" for r in rates])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=9)
    alt = f"Mean return after one gradient step against the inner rate. {'; '.join(said)}. MAML was trained with {used:g}."
    return fig, alt
