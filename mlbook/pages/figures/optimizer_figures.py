"""Figures of chapter 15. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch
from torch import Tensor

from mlbook.optimizers.learned_optimizer import CoordinateRule, log_and_sign
from mlbook.pages.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    arrow,
    box,
    figure,
)

COLOURS = {
    "SGD": GREY,
    "momentum": ORANGE,
    "Nesterov": SKY,
    "RMSprop": PURPLE,
    "Adam": BLUE,
    "learned": GREEN,
    "learned, kept": BLACK,
}
DASHES = {
    "SGD": ":",
    "momentum": "--",
    "Nesterov": "-.",
    "RMSprop": (0, (4, 2, 1, 2)),
    "Adam": "-",
    "learned": "-",
    "learned, kept": "--",
}


def unrolled_graph():
    """Three steps of an optimiser that is a recurrent network: what the outer derivative follows, and what it leaves out."""
    fig, ax = figure(width=7.6, height=3.9)
    ax.axis("off")
    ax.set(xlim=(-0.4, 8.6), ylim=(-0.5, 4.3))

    ax.text(-0.3, 4.05, "optimisee", color=GREY, fontsize=10)
    ax.text(-0.3, 0.25, "optimiser", color=GREY, fontsize=10)
    for i, name in enumerate(("t", "t+1", "t+2")):
        x = 0.9 + 3.0 * i
        box(ax, x, 3.55, f"$f(\\theta_{{{name}}})$", RED)
        box(ax, x, 2.5, f"$\\theta_{{{name}}}$")
        arrow(ax, (x, 2.75), (x, 3.28), colour=RED)
        if i == 2:
            continue
        box(ax, x + 1.35, 1.1, "$m(\\cdot,\\varphi)$", GREEN)
        arrow(ax, (x + 0.15, 2.22), (x + 0.95, 1.4), colour=GREY, style="--")
        ax.text(x + 0.12, 1.62, f"$\\nabla_{{{name}}}$", color=GREY, fontsize=11)
        arrow(ax, (x + 0.35, 2.5), (x + 2.6, 2.5))
        arrow(ax, (x + 1.75, 1.4), (x + 2.55, 2.22), colour=GREEN)
        ax.text(x + 2.3, 1.62, f"$g_{{{name}}}$", color=GREEN, fontsize=11)
        if i == 0:
            arrow(ax, (x + 0.45, 1.1), (x + 0.85, 1.1), colour=GREEN)
            ax.text(x + 0.05, 1.05, "$h_t$", color=GREEN, fontsize=11)
        arrow(ax, (x + 1.9, 1.1), (x + 3.8, 1.1), colour=GREEN)
        if i == 0:
            ax.text(x + 2.75, 0.75, "$h_{t+1}$", color=GREEN, fontsize=11)
    ax.text(7.8, 1.05, "$h_{t+2}$", color=GREEN, fontsize=11)
    alt = (
        "Three points theta t, t plus 1 and t plus 2 stand in a row, each with its loss above it. Below runs the recurrent "
        "network: it takes the gradient and its memory h and gives a step g, which is added to theta, and the next memory. "
        "The arrows that carry gradients into the network are dashed: no derivative flows along them when second derivatives "
        "are dropped."
    )
    return fig, alt


def preprocessing(p: float = 10.0):
    """Both inputs that ``log_and_sign`` makes of a gradient, over eleven powers of ten."""
    size = torch.logspace(-9, 2, 400, dtype=torch.float64)
    fig, axes = figure(1, 2, width=7.4, height=2.9, sharey=True)
    for ax, sign in zip(axes, (1, -1), strict=True):
        first, second = log_and_sign(sign * size, p).unbind(-1)
        ax.semilogx(size, first, color=BLUE, label="first input: log|∇| / p")
        ax.semilogx(size, second, color=ORANGE, linestyle="--", label="second input: sign, or $e^p∇$")
        ax.axvline(2.718281828**-p, color=GREY, linewidth=1, linestyle=":")
        ax.set(xlabel="|∇|", title="∇ > 0" if sign > 0 else "∇ < 0")
    axes[0].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(0.0, 0.32))
    alt = (
        f"Two panels over the size of the gradient from 1e-9 to 100. The first input rises in a straight line over the "
        f"logarithm, from -1 at e to the minus {p:g} up to about {float(first[-1]):.1f} at 100, and is -1 below. The second is "
        "plus 1 for positive and minus 1 for negative gradients above that size, and runs linearly to zero below it."
    )
    return fig, alt


def loss_curves(
    curves: dict[str, list[float]],
    *,
    title: str = "",
    ylabel: str = "mean loss",
    trained: int | None = None,
    ylim=None,
):
    """Mean loss by step for every rule; a vertical line where the trained horizon ends."""
    fig, ax = figure(width=7.0, height=3.4)
    for name, values in curves.items():
        ax.semilogy(
            range(len(values)), [float("nan") if v is None else v for v in values],
            color=COLOURS[name], linestyle=DASHES[name], linewidth=2.6 if name == "learned" else 1.6, label=name,
        )  # fmt: skip
    if trained is not None:
        ax.axvline(trained, color=BLACK, linewidth=1, linestyle=":")
        ax.text(trained, ax.get_ylim()[1], " trained for so many", va="top", fontsize=8)
    ax.set(xlabel="step", ylabel=ylabel, title=title, ylim=ylim)
    ax.legend(frameon=False, fontsize=9, ncols=2)
    ends = ", ".join(
        f"{name} {values[-1]:.3g}" if values[-1] is not None else f"{name} diverged"
        for name, values in curves.items()
    )
    return (
        fig,
        f"Mean loss over {len(next(iter(curves.values()))) - 1} steps, logarithmic. Last values: {ends}.",
    )


def steps_of(rule: CoordinateRule, sizes: Tensor, *, others: dict[str, object], history: int = 10):
    """The step that a rule takes, over the gradient it gets: as its first, and after ``history`` equal ones before."""
    fig, axes = figure(1, 2, width=7.4, height=3.0, sharey=True)
    seen, places = {}, (0, int(sizes.abs().argmin()), len(sizes) - 1)
    for name, its in {"learned": rule, **others}.items():
        memory = its.fresh(sizes)
        for n in range(history + 1):
            change, memory = its.update(sizes, memory)
            if n in (0, history):
                seen[name, n] = ", ".join(f"{float(change[i]):.2f}" for i in places)
                axes[int(n > 0)].plot(
                    sizes, change.detach(), color=COLOURS[name], linestyle=DASHES[name],
                    linewidth=2.4 if name == "learned" else 1.6, label=name,
                )  # fmt: skip
    axes[0].set(xlabel="gradient ∇", ylabel="step g", title="first step", ylim=(-0.5, 0.5))
    axes[1].set(xlabel="gradient ∇", title=f"after {history} equal gradients")
    axes[0].legend(frameon=False, fontsize=9)
    alt = (
        f"The step over the gradient, at the first step and after {history} equal gradients. Steps for gradients of "
        f"{', '.join(f'{float(sizes[i]):g}' for i in places)}: "
        + "; ".join(
            f"{name} {'first' if n == 0 else f'after {history}'}: {text}" for (name, n), text in seen.items()
        )
        + "."
    )
    return fig, alt


def transfer(conditions: dict[str, dict]):
    """Mean log10 of the final loss of every rule under every change, with 95 % intervals."""
    fig, ax = figure(width=7.4, height=3.4)
    names = list(conditions)
    rules = list(next(iter(conditions.values()))["rules"])
    for j, rule in enumerate(rules):
        rows = [conditions[name]["rules"][rule]["log10"] for name in names]
        x = [i + 0.13 * (j - (len(rules) - 1) / 2) for i in range(len(names))]
        ax.errorbar(
            x, [r["mean"] for r in rows], yerr=[r["ci95"] for r in rows], fmt="o" if rule != "learned" else "D",
            color=COLOURS[rule], label=rule, capsize=3, markersize=7 if rule == "learned" else 5,
        )  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    ax.set(ylabel="mean log$_{10}$ of the final loss")
    ax.legend(frameon=False, fontsize=9, ncols=len(rules), loc="upper center", bbox_to_anchor=(0.5, 1.18))
    parts = [
        f"{name}: "
        + ", ".join(f"{rule} {conditions[name]['rules'][rule]['log10']['mean']:.2f}" for rule in rules)
        for name in names
    ]
    return fig, "Mean base-10 logarithm of the final loss under each change. " + "; ".join(parts) + "."
