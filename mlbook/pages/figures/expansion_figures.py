"""Figures of chapter 12. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch
from matplotlib.lines import Line2D

from mlbook.pages.figures.style import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, RED, arrow, figure, plane

STYLES = {2: "-", 3: "--", 5: ":"}
"""Line style by the number of mini-batches k."""
LABELS = {"maml": "MAML", "fomaml": "FOMAML", "reptile": "Reptile"}


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
    note("$-\\alpha\\,\\bar g_1$", second / 2, (4, -18), BLACK)
    note("$-\\alpha\\,g_2$", (second + third) / 2, (-44, -6), BLACK)
    note("$-\\alpha\\,\\bar g_2$", (second + naive) / 2, (8, -4), BLACK)
    note("$\\alpha^2\\bar H_2\\bar g_1$", (naive + third) / 2, (2, 10), BLACK)
    note("$-\\alpha\\,g_{\\mathrm{Reptile}}$", third / 2, (-74, 18), BLACK)
    plane(ax, (-0.6, 2.9, -0.5, 2.3))
    change = float((third - naive).norm() / (inner_lr * g2_start.norm()))
    alt = (
        "Two gradient steps in a plane. The first, from phi 1 to phi 2, follows mini-batch 1. The second, to phi 3, follows "
        "mini-batch 2, whose contour lines are drawn. A dotted arrow from phi 2 shows the step that the gradient of mini-batch 2 "
        f"at phi 1 would have made. Its tip and phi 3 are apart by {100 * change:.0f} percent of that step; a red arrow "
        "labelled alpha squared H2 g1 joins them. A green arrow from phi 1 to phi 3 is what Reptile follows."
    )
    return fig, alt


def remainders(panels: dict[str, tuple[list[float], dict[tuple[str, int], list[float]]]]):
    """What an expansion leaves out against α. panels: title -> (α, {(method or another name, k): remainders})."""
    fig, axes = figure(1, len(panels), width=4.0 * len(panels), height=4.0, squeeze=False)
    said, others = [], {}
    for ax, (title, (alphas, rows)) in zip(axes[0], panels.items(), strict=True):
        for (method, k), left in rows.items():
            if method in LABELS:
                colour, style = COLOURS[method], STYLES.get(k, "-")
            else:
                colour, style = (GREY, BLACK)[others.setdefault(method, len(others)) % 2], "-."
            ax.loglog(alphas, left, style, color=colour, lw=1.7, marker="o", markersize=3)
        ends = {
            kind: [[left[i] for (m, _), left in rows.items() if (m in LABELS) == kind] for i in (0, -1)]
            for kind in (True, False)
        }
        said += [
            f"{title}, {what}: at most {max(ends[kind][0]):.1e} at α = {alphas[0]:g} "
            f"and {max(ends[kind][1]):.1e} at {alphas[-1]:g}"
            for kind, what in ((True, "both terms as derived"), (False, "the comparisons with slope one"))
            if ends[kind][0]
        ]
        ax.set(title=title, xlabel="inner rate α")
    axes[0][0].set_ylabel("length of the remainder")
    ks = sorted({k for _, rows in panels.values() for method, k in rows if method in LABELS})
    handles = [Line2D([], [], color=COLOURS[m], lw=1.8, label=name) for m, name in LABELS.items()]
    handles += [Line2D([], [], color=BLACK, ls=STYLES.get(k, "-"), label=f"k = {k}") for k in ks]
    handles += [Line2D([], [], color=(GREY, BLACK)[i % 2], ls="-.", label=name) for name, i in others.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return fig, "Remainder of the expansion against the inner rate, both axes logarithmic. " + "; ".join(
        said
    ) + "."


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


def tails(rows: dict[str, list[tuple[int, float]]], methods: dict[str, str]):
    """Length of meta-gradients against k. rows: name -> (k, relative length); methods: name -> its method."""
    fig, ax = figure(width=6.2, height=3.4)
    said, drawn = [], set()
    for name, points in rows.items():
        k, size = zip(*points, strict=True)
        method = methods[name]
        style = "--" if method in drawn else "-"
        drawn.add(method)
        ax.loglog(k, size, style, color=COLOURS[method], marker="o", markersize=3.5, lw=1.7, label=name)
        said.append(f"{name}: {size[0]:.2g} at k = {k[0]}, {size[-1]:.2g} at k = {k[-1]}")
    ax.set(xlabel="number of losses k", ylabel="length, relative to AvgGrad")
    ax.set_xticks(k, [str(n) for n in k])
    ax.minorticks_off()
    ax.legend(fontsize=8.5)
    return fig, "Length of expected meta-gradients against the number of losses. " + "; ".join(said) + "."
