"""Figures of chapter 9 that show measured numbers. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch
from matplotlib.patches import Ellipse
from torch import Tensor

from mlbook.pages.figures.leo_diagrams import CLASS_COLOURS
from mlbook.pages.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, SKY, figure
from mlbook.training.evaluation import ci95


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
        curves.items(), (RED, SKY, GREEN, ORANGE), ("-", "--", "-.", ":"), "osD^", strict=False
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
    return fig, (
        f"Histogram of {len(samples):,} one-sample estimates of the KL term, from {float(samples.min()):.2f} to "
        f"{float(samples.max()):.2f}; "
        f"their mean is {mean:.3f} plus or minus {ci95(samples):.3f}, the closed form {closed:.3f}."
    )


def compass(sector: Tensor, start: Tensor, end: Tensor):
    """Direction of the sector of a class [n] against the direction of its code, at the start and adapted, z [n, 2]."""
    fig, axes = figure(1, 2, width=6.8, height=3.2, sharex=True, sharey=True)
    said = []
    for ax, z, title in zip(
        axes, (start, end), ("read from the support set", "after five latent steps"), strict=True
    ):
        angle = torch.atan2(z[:, 1], z[:, 0])
        ax.plot(sector.rad2deg(), angle.rad2deg(), ".", color=BLUE, ms=3, alpha=0.6)
        ax.set(
            title=title,
            xlabel="direction of the sector (degrees)",
            xticks=range(-180, 181, 90),
            yticks=range(-180, 181, 90),
        )
        ax.title.set_fontsize(11)
        together = (1j * (angle + sector)).exp().mean().abs()
        said.append(
            f"{title}: sum of the two directions bundled with a mean resultant of {float(together):.2f}"
        )
    axes[0].set_ylabel("direction of the code (degrees)")
    return fig, (
        f"The direction of the code of {len(sector)} classes against the direction of their sectors. The points lie along a "
        "falling line that wraps around: one turns against the other. " + "; ".join(said) + "."
    )
