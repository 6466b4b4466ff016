"""One look for all figures: the colour-blind-safe palette of Okabe and Ito, and plain axes."""

from __future__ import annotations

from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#767676",
)  # fmt: skip
COLOURS = {
    "maml": BLUE,
    "fomaml": ORANGE,
    "reptile": GREEN,
    "pretraining": RED,
    "metasgd": SKY,
    "random": GREY,
    "support": BLACK,
    "query": PURPLE,
    "truth": GREEN,
}
"""A method or a role has the same colour on every page."""


def figure(rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 3.2, **options):
    """A figure without pyplot (nothing global, nothing to close) and its axes."""
    fig = Figure(figsize=(width, height), layout="constrained")
    axes = fig.subplots(rows, columns, **options)
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
    return fig, axes


def plane(ax, span: tuple[float, float, float, float]) -> None:
    """Axes of a plane with two parameters, a unit as long upwards as to the right. span: x from, x to, y from, y to."""
    ax.set(xlim=span[:2], ylim=span[2:], aspect="equal", xlabel="first parameter", ylabel="second parameter")


def box(ax, x: float, y: float, text: str, colour=BLACK) -> None:
    """Words in a rounded white box around the point (x, y), for drawings of what leads to what."""
    ax.text(
        x, y, text, ha="center", va="center", fontsize=10, color=colour,
        bbox={"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": colour},
    )  # fmt: skip


def arrow(ax, start, end, *, colour=BLACK, style="-", bend=0.0, width=1.6) -> None:
    """An arrow from point to point; ``bend`` curves it."""
    arrowprops = {
        "arrowstyle": "-|>",
        "color": colour,
        "lw": width,
        "linestyle": style,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    if bend:
        arrowprops["connectionstyle"] = f"arc3,rad={bend}"
    ax.annotate("", xy=tuple(end), xytext=tuple(start), arrowprops=arrowprops)
