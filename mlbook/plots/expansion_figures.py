"""Figures of chapter 12. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch

from mlbook.plots.style import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, RED, arrow, figure

STYLES = {2: "-", 3: "--", 5: ":"}
"""Line style by the number of mini-batches k."""


def two_steps(inner_lr: float = 0.42):
    """Two SGD steps on two mini-batches of one task, in two dimensions, computed: where the second gradient has changed."""
    H1 = torch.tensor([[0.9, 0.1], [0.1, 0.7]], dtype=torch.float64)
    H2 = torch.tensor([[1.0, -0.45], [-0.45, 0.9]], dtype=torch.float64)
    c1, c2 = (torch.tensor(c, dtype=torch.float64) for c in ([3.1, 0.6], [2.4, 3.3]))
    start = torch.zeros(2, dtype=torch.float64)
    g1, g2_start = H1 @ (start - c1), H2 @ (start - c2)
    second = start - inner_lr * g1
    g2 = H2 @ (second - c2)
    third, naive = second - inner_lr * g2, second - inner_lr * g2_start
    fig, ax = figure(width=6.6, height=4.6)
    x, y = torch.meshgrid(
        torch.linspace(-0.6, 2.9, 120, dtype=torch.float64),
        torch.linspace(-0.5, 2.3, 120, dtype=torch.float64),
        indexing="xy",
    )
    d = torch.stack([x, y], dim=-1) - c2
    ax.contour(x, y, 0.5 * (d @ H2 * d).sum(-1), levels=9, colors=ORANGE, linewidths=0.6, alpha=0.5)
    arrow(ax, start, second, colour=BLUE, width=2.2)
    arrow(ax, second, naive, colour=ORANGE, style=":", width=1.8)
    arrow(ax, second, third, colour=ORANGE, width=2.2)
    arrow(ax, naive, third, colour=RED, width=2.2)
    arrow(ax, start, third, colour=GREEN, width=2.2, bend=-0.12)

    def note(text, at, offset, colour, **options):
        ax.annotate(text, at, xytext=offset, textcoords="offset points", color=colour, fontsize=11, **options)

    for name, point, offset in (
        ("$\\phi_1$", start, (-20, -4)),
        ("$\\phi_2$", second, (8, -12)),
        ("$\\phi_3$", third, (-10, 10)),
    ):
        ax.plot(*point, "o", color=BLACK, markersize=6)
        note(name, point, offset, BLACK)
    note("$-\\alpha\\,\\bar g_1$", second / 2, (4, -18), BLUE)
    note("$-\\alpha\\,g_2$", (second + third) / 2, (-44, -6), ORANGE)
    note("$-\\alpha\\,\\bar g_2$", (second + naive) / 2, (8, -4), ORANGE)
    note("$\\alpha^2\\bar H_2\\bar g_1$", (naive + third) / 2, (2, 10), RED)
    note("$-\\alpha\\,g_{\\mathrm{Reptile}}$", third / 2, (-74, 18), GREEN)
    ax.set(
        xlim=(-0.6, 2.9),
        ylim=(-0.5, 2.3),
        aspect="equal",
        xlabel="first parameter",
        ylabel="second parameter",
    )
    change = float((third - naive).norm() / (inner_lr * g2_start.norm()))
    alt = (
        "Two gradient steps in a plane. The first, from phi 1 to phi 2, follows mini-batch 1. The second, to phi 3, follows "
        "mini-batch 2, whose contour lines are drawn. A dotted arrow from phi 2 shows the step that the gradient of mini-batch 2 "
        f"at phi 1 would have made. Its tip and phi 3 are apart by {100 * change:.0f} percent of that step; a red arrow "
        "labelled alpha squared H2 g1 joins them. A green arrow from phi 1 to phi 3 is what Reptile follows."
    )
    return fig, alt


def remainders(panels: dict[str, dict[tuple[str, int], tuple[list[float], list[float], float]]]):
    """What the expansion leaves out against α. panels: title -> (method, k) -> (α, remainders, fitted slope)."""
    fig, axes = figure(1, len(panels), width=4.0 * len(panels), height=3.5, squeeze=False)
    said = []
    for ax, (title, rows) in zip(axes[0], panels.items(), strict=True):
        for (method, k), (alphas, left, order) in rows.items():
            colour = COLOURS.get(method, GREY)
            label = f"{LABELS.get(method, method)}, k = {k}: {order:.2f}"
            ax.loglog(
                alphas, left, STYLES.get(k, "-"), color=colour, lw=1.7, marker="o", markersize=3, label=label
            )
        two_terms = [order for (method, _), (_, _, order) in rows.items() if method in LABELS]
        said.append(
            f"{title}: the slopes of two terms lie between {min(two_terms):.2f} and {max(two_terms):.2f}"
        )
        ax.set(title=title, xlabel="inner rate α")
        ax.legend(fontsize=6.5, title="slope", title_fontsize=7)
    axes[0][0].set_ylabel("length of the remainder")
    return fig, "Remainder of the expansion against the inner rate, both axes logarithmic. " + "; ".join(
        said
    ) + ". The grey line keeps the first term only and has slope one."


LABELS = {"maml": "MAML", "fomaml": "FOMAML", "reptile": "Reptile"}


def breakdown(
    rows: dict[str, list[tuple[float, float, float]]], *, marked: float | None = None, what: str = ""
):
    """Expansion against exact meta-gradient as α grows. rows: method -> (α, relative error, cosine)."""
    fig, axes = figure(1, 2, width=7.8, height=3.3)
    said = []
    for method, points in rows.items():
        x, error, cosine = zip(*points, strict=True)
        colour, label = COLOURS[method], LABELS[method]
        axes[0].loglog(x, error, marker="o", markersize=3.5, color=colour, label=label)
        axes[1].semilogx(x, cosine, marker="o", markersize=3.5, color=colour, label=label)
        said.append(
            f"{label}: relative error from {error[0]:.2g} to {error[-1]:.2g}, cosine down to {min(cosine):.2f}"
        )
    for ax in axes:
        if marked is not None:
            ax.axvline(marked, color=GREY, ls=":", lw=1.4, label=f"α = {marked}")
        ax.set_xlabel("inner rate α")
    axes[0].axhline(1, color=GREY, lw=0.8)
    axes[0].set_ylabel("relative error of the two terms")
    axes[1].set_ylabel("cosine with the exact one")
    axes[0].legend(fontsize=8.5)
    return fig, f"Two-term expansion against the exact meta-gradient{what}, for growing inner rate. " + (
        "; ".join(said) + "."
    )


def one_parabola(
    x: list[float], weights: dict[str, list[float]], k: int, starts: dict[str, list[tuple[int, float]]]
):
    """Left: the weight of a parabola against αa, exact and by two terms. Right: where Reptile settles against k."""
    fig, axes = figure(1, 2, width=7.8, height=3.3)
    colours = {"exact": GREEN, "two terms": RED, "joint training": GREY}
    for name, values in weights.items():
        axes[0].plot(x, values, color=colours[name], lw=1.8, ls="-" if name == "exact" else "--", label=name)
    axes[0].axhline(0, color=BLACK, lw=0.8)
    axes[0].set(xlabel="αa, inner rate times curvature", ylabel=f"weight of the task, k = {k}")
    axes[0].legend(fontsize=8.5)
    said = []
    for name, pairs in starts.items():
        ks, values = zip(*pairs, strict=True)
        axes[1].plot(ks, values, color=colours[name], lw=1.8, ls="-" if name == "exact" else "--", label=name)
        said.append(f"{name} goes from {values[0]:.2f} at k = {ks[0]} to {values[-1]:.2f} at k = {ks[-1]}")
    axes[1].set(xlabel="inner steps k", ylabel="where the start settles", xscale="log")
    axes[1].legend(fontsize=8.5)
    bottom = min(weights["two terms"])
    return fig, (
        f"Left: the weight that Reptile gives a parabola, against inner rate times curvature. The exact weight rises and levels "
        f"off; the two-term one bends down to {bottom:.2f}. Right: the start at which Reptile settles for two parabolas; "
        + "; ".join(said)
        + "."
    )


def tails(rows: dict[str, list[tuple[int, float, float]]], colours: dict[str, tuple[str, str]]):
    """Length and direction of meta-gradients against k. rows: name -> (k, relative length, cosine with a reference)."""
    fig, axes = figure(1, 2, width=7.8, height=3.4)
    said = []
    for name, points in rows.items():
        k, size, cosine = zip(*points, strict=True)
        method, style = colours[name]
        axes[0].loglog(k, size, style, color=COLOURS[method], marker="o", markersize=3.5, lw=1.7, label=name)
        axes[1].semilogx(
            k, cosine, style, color=COLOURS[method], marker="o", markersize=3.5, lw=1.7, label=name
        )
        said.append(
            f"{name}: relative length {size[0]:.2g} at k = {k[0]} and {size[-1]:.2g} at k = {k[-1]}, "
            f"cosine {cosine[-1]:.2f} there"
        )
    axes[1].axhline(0, color=BLACK, lw=0.8)
    axes[0].set(xlabel="inner steps k", ylabel="length, relative to AvgGrad")
    axes[1].set(xlabel="inner steps k", ylabel="cosine with MAML, fresh last batch")
    axes[0].legend(fontsize=7.5)
    return fig, "Meta-gradients with a repeated and with a fresh last mini-batch. " + "; ".join(said) + "."
