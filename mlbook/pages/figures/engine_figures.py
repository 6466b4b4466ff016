"""Figures of what a meta-gradient costs, from the records of ``benchmarks/``. Every function returns (figure, alt text)."""

from __future__ import annotations

from mlbook.pages.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, figure

AXES = {"tasks": "tasks in the meta-batch", "steps": "inner steps", "filters": "filters per layer"}
LINES = (
    ("plain loop", 2, "loop, second order", BLUE, "--", "o"),
    ("plain loop", 1, "loop, first order", ORANGE, "--", "s"),
    ("mlbook", 2, "closed form, second order", BLUE, "-", "o"),
    ("mlbook", 1, "closed form, first order", ORANGE, "-", "s"),
)
AGAIN = ("mlbook, activations computed again", 2, "closed form, computed again", GREEN, "-", "^")


def series(record: dict, axis: str, contender: str, order: int, measure) -> tuple[list[float], list[float]]:
    """Values along one axis of the record of ``benchmarks.scale`` and what ``measure`` makes of their rows."""
    rows = [
        row
        for row in record["rows"]
        if (row["axis"], row["contender"], row["order"]) == (axis, contender, order) and "time" in row
    ]
    return [row["value"] for row in rows], [measure(row) for row in rows]


def _lines(record: dict, axis: str, measure, unit: str, title: str, lines, *, log: bool):
    fig, ax = figure(width=6.6, height=3.6)
    told = []
    for contender, order, label, colour, style, marker in lines:
        x, y = series(record, axis, contender, order, measure)
        if not x:
            continue
        ax.plot(x, y, style, color=colour, marker=marker, markersize=5, label=label)
        told.append(f"{label} from {y[0]:.3g} at {x[0]} to {y[-1]:.3g} at {x[-1]}")
    if log:
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(x, [str(v) for v in x])
        ax.minorticks_off()
    else:
        ax.set_ylim(bottom=0)
    ax.set(xlabel=AXES[axis], ylabel=unit)
    ax.legend(fontsize=8, frameon=False)
    return fig, f"{title}, by {AXES[axis]}: " + "; ".join(told) + "."


CONTENDERS = {
    "learn2learn": (RED, "o"),
    "higher": (ORANGE, "s"),
    "TorchOpt": (PURPLE, "^"),
    "plain loop": (GREY, "D"),
    "vmap": (SKY, "v"),
    "mlbook": (BLUE, "*"),
}


def contenders(record: dict, entries: dict[str, str], threads: int):
    """Milliseconds of every contender on some problems of the record of ``benchmarks.compare``; entries: problem -> its name."""
    measured = record["threads"][str(threads)]
    fig, ax = figure(width=6.6, height=1.3 + 0.34 * len(entries))
    told = []
    for i, (problem, title) in enumerate(reversed(entries.items())):
        rows = {n: r for n, r in measured[problem]["contenders"].items() if n in CONTENDERS and "time" in r}
        times = {name: 1000 * row["time"]["median"] for name, row in rows.items()}
        ax.plot([min(times.values()), max(times.values())], [i, i], color=GREY, linewidth=0.8, alpha=0.6)
        for name, ms in times.items():
            colour, marker = CONTENDERS[name]
            ax.plot(
                ms,
                i,
                marker,
                color=colour,
                markersize=12 if marker == "*" else 6,
                markeredgecolor=BLACK,
                mew=0.4,
            )
        told.insert(0, f"{title}: " + ", ".join(f"{name} {ms:.3g}" for name, ms in times.items()))
    ax.set_xscale("log")
    ax.set_yticks(range(len(entries)), list(entries.values())[::-1], fontsize=9)
    ax.set(xlabel="ms per meta-gradient", ylim=(-0.6, len(entries) - 0.4))
    handles = [
        ax.plot(
            [],
            [],
            marker,
            color=colour,
            markersize=10 if marker == "*" else 6,
            mec=BLACK,
            mew=0.4,
            label=name,
        )[0]
        for name, (colour, marker) in CONTENDERS.items()
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return fig, "Milliseconds per meta-gradient. " + "; ".join(told) + "."


def cost(record: dict, axis: str):
    """Milliseconds of one meta-gradient along an axis (``tasks``, ``steps`` or ``filters``)."""
    return _lines(
        record,
        axis,
        lambda row: 1000 * row["time"]["median"],
        "ms per meta-gradient",
        "Milliseconds per meta-gradient",
        LINES,
        log=axis != "steps",
    )


def memory(record: dict):
    """Peak memory by inner steps, first against second order."""
    return _lines(
        record,
        "steps",
        lambda row: row["memory_mib"],
        "peak memory, MiB",
        "Peak memory in MiB above the imported libraries",
        (*LINES, AGAIN),
        log=False,
    )


def savings(problem: dict, title: str):
    """How much longer a meta-gradient takes when one part of the engine is left out (record of ``benchmarks.savings``)."""
    rows = {name: row["slower"] for name, row in problem["contenders"].items() if "slower" in row}
    rows = {name: r for name, r in rows.items() if name != "mlbook"}
    fig, ax = figure(width=6.6, height=0.9 + 0.3 * len(rows))
    names = list(rows)[::-1]
    for i, name in enumerate(names):
        r = rows[name]
        ax.plot([r["min"], r["max"]], [i, i], color=GREY, linewidth=3, alpha=0.6)
        ax.plot(r["median"], i, "o", color=BLUE)
    ax.axvline(1, color=GREY, linewidth=1)
    ax.set_yticks(range(len(names)), [name.removeprefix("mlbook, ") for name in names], fontsize=9)
    ax.set(xlabel="time, as a multiple of the whole engine's", title=title)
    told = "; ".join(f"{name} {rows[name]['median']:.2f}" for name in names[::-1])
    return fig, f"{title}: time as a multiple of the whole engine's. {told}."
