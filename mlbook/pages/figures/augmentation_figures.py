"""Figures of chapter 16. Every function returns (figure, alt text)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlbook.augmentation.operations import (
    OPERATIONS,
    Chance,
    augment,
    draw_strengths,
    mean_magnitude,
    usage,
)
from mlbook.models.functional import Params
from mlbook.pages.figures.style import BLUE, GREEN, GREY, ORANGE, RED, SKY, arrow, box, figure

NAMES = [name.replace("_", " ") for name in OPERATIONS]
LOOKS = {"Gumbel-softmax": (ORANGE, "--"), "REINFORCE": (GREY, ":"), "RELAX": (GREEN, "-")}


def _pictures(images: Tensor, columns: int, titles: Sequence[str] = (), rows: Sequence[str] = ()):
    """images [n, H, W] row by row."""
    count = len(images) // columns
    fig, axes = figure(count, columns, width=7.4, height=0.95 * count * 7.4 / columns, squeeze=False)
    for i, image in enumerate(images):
        ax = axes[i // columns][i % columns]
        ax.imshow((1 - image).numpy(), cmap="gray", vmin=-0.2, vmax=1.2)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        if i < columns and titles:
            ax.set_title(titles[i], fontsize=8)
        if i % columns == 0 and rows:
            ax.set_ylabel(rows[i // columns], fontsize=8)
    return fig


def operations(image: Tensor, strengths: Sequence[float] = (0.33, 0.67, 1.0)):
    """image [1, H, W]: every operation at a few strengths, with one draw of chance."""
    n, K = len(strengths), len(OPERATIONS)
    images = image.expand(n * K, 1, -1, -1)
    drawn = Chance.draw(images[:1], torch.Generator().manual_seed(4))
    chance = Chance(*(field.expand(n * K, *field.shape[1:]) for field in drawn))
    s = torch.zeros(n, K, K)
    for row, value in enumerate(strengths):
        s[row] = value * torch.eye(K)
    out = augment(images, s.flatten(0, 1), chance)[:, 0]
    fig = _pictures(out, K, NAMES, [f"s = {value:g}" for value in strengths])
    return fig, (
        f"One drawing under each of the ten operations ({', '.join(NAMES)}), in rows of growing strength. Geometric "
        "operations move the strokes, contrast and noise change the grey, invert swaps ink and paper, cutout erases a square."
    )


def draws(image: Tensor, policies: dict[str, Params], n: int = 10):
    """n images that each policy makes of one [1, H, W]."""
    rows = []
    for policy in policies.values():
        g = torch.Generator().manual_seed(2)
        images = image.expand(n, 1, -1, -1)
        rows.append(augment(images, draw_strengths(policy, n, g), Chance.draw(images, g))[:, 0])
    fig = _pictures(torch.cat(rows), n, rows=list(policies))
    return fig, f"{n} versions of one drawing under each policy: {', '.join(policies)}."


def bilevel_step():
    """One step of the child, and the way back from the validation loss to the policy."""
    fig, ax = figure(width=7.6, height=3.4)
    ax.axis("off")
    ax.set(xlim=(0, 10), ylim=(0, 4.2))

    box(ax, 1.2, 3.5, "policy ψ = (π, β, m)", GREEN)
    box(ax, 1.2, 2.0, "draw: pair k, applied b", GREEN)
    box(ax, 1.2, 0.6, "training images")
    box(ax, 4.3, 2.0, "augmented images")
    box(ax, 6.7, 2.0, "$\\nabla L_{train}$")
    box(ax, 6.7, 0.6, "child θ", BLUE)
    box(ax, 8.9, 2.0, "$\\theta'=\\theta-\\zeta\\nabla L_{train}$", BLUE)
    box(ax, 8.9, 3.5, "$L_{val}(\\theta')$", RED)
    for start, end in (
        ((1.2, 3.15), (1.2, 2.35)), ((2.5, 2.0), (3.3, 2.0)), ((2.2, 0.75), (3.6, 1.65)), ((5.35, 2.0), (6.05, 2.0)),
        ((6.7, 0.95), (6.7, 1.62)), ((7.3, 2.0), (7.75, 2.0)), ((8.9, 2.38), (8.9, 3.1)),
    ):  # fmt: skip
        arrow(ax, start, end)
    arrow(ax, (8.2, 3.6), (2.5, 3.6), colour=RED, style="--", bend=0.12)
    ax.text(5.3, 4.05, "how does the loss change with ψ?", color=RED, ha="center", fontsize=9)
    return fig, (
        "The policy draws a pair of operations and whether each is applied. These change the training images, which give the "
        "gradient of the training loss at the child's weights theta. One step leads to theta prime, which is judged by its loss "
        "on validation images that the policy does not touch. A dashed arrow leads from that loss back to the policy."
    )


def over_temperature(
    temperatures: Sequence[float], bias: dict[str, list[float]], spread: dict[str, list[float]], noise: float
):
    """Distance of the mean of many draws from the truth, and standard deviation of one draw, for each method."""
    fig, axes = figure(1, 2, width=7.4, height=3.0)
    for name, (colour, dash) in LOOKS.items():
        axes[0].plot(temperatures, bias[name], color=colour, linestyle=dash, label=name, linewidth=2)
        axes[1].semilogy(temperatures, spread[name], color=colour, linestyle=dash, linewidth=2)
    axes[0].axhspan(0, noise, color=SKY, alpha=0.3, linewidth=0)
    axes[0].set(xlabel="temperature", title="distance of the mean from the truth")
    axes[1].set(xlabel="temperature", title="standard deviation of one draw")
    axes[0].legend(frameon=False, fontsize=9)
    ends = "; ".join(
        f"{name} is off by {bias[name][0]:.3f} at {temperatures[0]:g} and {bias[name][-1]:.3f} at {temperatures[-1]:g}, "
        f"standard deviations {spread[name][0]:.2f} and {spread[name][-1]:.2f}"
        for name in LOOKS
    )
    return fig, f"Two panels over the temperature. {ends}. The shaded band of height {noise:.3f} is chance."


def policy_bars(policies: dict[str, Params]):
    """How often each operation is applied to an image, and its mean magnitude there."""
    fig, axes = figure(1, 2, width=7.6, height=3.4, sharey=True)
    wide, place = 0.8 / len(policies), torch.arange(len(OPERATIONS), dtype=torch.float64)
    for i, (name, policy) in enumerate(policies.items()):
        at, colour = place + (i - (len(policies) - 1) / 2) * wide, (GREY, BLUE, GREEN, ORANGE)[i]
        axes[0].barh(at.tolist(), usage(policy).tolist(), height=wide, color=colour, label=name)
        axes[1].barh(at.tolist(), mean_magnitude(policy).tolist(), height=wide, color=colour)
    axes[0].set_yticks(place.tolist(), NAMES)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="share of images it is applied to")
    axes[1].set(xlabel="mean magnitude where applied", xlim=(0, 1))
    axes[0].legend(frameon=False, fontsize=8)
    parts = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{op} {float(u):.2f} at {float(m):.2f}"
            for op, u, m in zip(NAMES, usage(p), mean_magnitude(p), strict=True)
        )
        for name, p in policies.items()
    )
    return fig, f"Share of images that each operation is applied to, and its mean magnitude. {parts}."


def over_seeds(found: dict[str, list[tuple[float, float]]]):
    """found: for every row the (accuracy, 95 % half width) of its seeds."""
    fig, ax = figure(width=7.0, height=0.42 * len(found) + 1.0)
    for y, (name, values) in enumerate(found.items()):
        colour = GREEN if name.startswith("DADA") else GREY
        spread = torch.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0.0]
        for dy, (value, ci95) in zip(spread, values, strict=True):
            ax.errorbar(
                100 * value, y + float(dy), xerr=100 * ci95, fmt="o", color=colour, markersize=4, linewidth=1
            )
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set(xlabel="accuracy on meta-test tasks, %")
    parts = "; ".join(
        f"{name} " + ", ".join(f"{100 * v:.1f}" for v, _ in values) for name, values in found.items()
    )
    return fig, f"Accuracy of every run with its 95 % interval over tasks, in percent. {parts}."
