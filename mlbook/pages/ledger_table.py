"""The ledger as one table of HTML: a line a row, whose provenance unfolds. book/_static/js/ledger.js filters and sorts it."""

from __future__ import annotations

import csv
import html
import io
import math
import re

from IPython.display import HTML, display

from mlbook import results

__all__ = ["as_csv", "html_table", "show"]

DATA_SETS = {
    "sinusoid": "sine waves",
    "sines": "sines and lines",
    "omniglot": "Omniglot",
    "gradients": "Omniglot",
    "tail": "Omniglot",
    "mini": "miniImageNet",
    "tiered": "tieredImageNet",
    "glyphs": "generated glyphs",
    "plane": "points in the plane",
    "navigation": "2-D navigation",
    "cheetah": "half-cheetah",
    "quadratic": "optimisation problems",
    "bowl": "optimisation problems",
    "mlp": "optimisation problems",
    "search": "augmentation",
    "augment": "augmentation",
    "nas": "architectures",
    "10d": "linear functions",
    "5d": "linear functions",
    "lines": "noisy lines",
}
POINTS = 5.0  # the picture shows differences up to this many points of accuracy
WIDTH, HEIGHT = 132, 18
OTHER_FEATURES = "wrn-10-4"  # LEO's published rows stand on features of a WRN-28-10


def data_set(name: str) -> str:
    """What an experiment is trained on, told from its name."""
    return next((DATA_SETS[part] for part in name.split("-") if part in DATA_SETS), "other")


def method(name: str) -> str:
    """The learner's part of an experiment's name."""
    parts = name.replace("-linear-5d", "-5d").split("-")
    end = next((i for i, part in enumerate(parts) if i and part in DATA_SETS), len(parts))
    return "-".join(p for p in parts[:end] if not re.fullmatch(r"\d+w\d+s|\d+shot", p))


def difference(row: dict) -> tuple[float, float] | None:
    """(ours minus published, half-width of its 95 % interval) in points of accuracy; None where the two are not both there, or
    ours stands on features of another network than the published one.

    The two intervals are taken as independent; a published value without one counts as exact.
    """
    theirs, mine = row["published"], row["ours"]
    if OTHER_FEATURES in row["experiment"]:
        return None
    if theirs is None or mine is None or theirs["metric"] != "accuracy" or mine["metric"] != "accuracy":
        return None
    half = math.hypot(mine["ci95"] or 0.0, theirs["ci95"] or 0.0)
    return 100 * (mine["by_step"][mine["step"]] - theirs["value"]), 100 * half


def _score(value, ci95, metric) -> str:
    unit = "" if metric == "accuracy" else f" {metric.upper() if metric == 'mse' else metric}"
    return (results.score_text(value, ci95, metric, unit=False) + unit).replace(" ", "\u00a0")


def texts(row: dict) -> tuple[str, str, str]:
    """Published, ours and their difference, as printed."""
    theirs, mine = row["published"], row["ours"]
    left = _score(theirs["value"], theirs["ci95"], theirs["metric"]) if theirs else "–"
    right = _score(mine["by_step"][mine["step"]], mine["ci95"], mine["metric"]) if mine else "–"
    found = difference(row)
    return left, right, "" if found is None else f"{found[0]:+.2f}".replace("-", "−")


def recipe(row: dict) -> str:
    """How the recipe of ours relates to the published one; why there is no number of ours where there is none."""
    if row["ours"] is None:
        return results.status(row)
    if row["published"] is None:
        return "not in a paper"
    if OTHER_FEATURES in row["experiment"]:
        return "other features"
    return "paper's recipe" if row["deviation"] == "none" else "shorter recipe"


def picture(row: dict) -> str:
    """Ours as a dot with its interval, on an axis whose zero is the published value; an arrow where it lies outside."""
    found = difference(row)
    if found is None:
        return ""
    shift, half = found
    mid, unit, y = WIDTH / 2, (WIDTH / 2 - 8) / POINTS, HEIGHT / 2

    def x(points):
        return mid + unit * max(-POINTS - 0.7, min(POINTS + 0.7, points))

    theirs = 100 * (row["published"]["ci95"] or 0.0)
    parts = [
        f'<rect class="theirs" x="{x(-theirs):.1f}" y="2" width="{x(theirs) - x(-theirs):.1f}" height="{HEIGHT - 4}"/>',
        f'<line class="zero" x1="{mid}" x2="{mid}" y1="1" y2="{HEIGHT - 1}"/>',
    ]
    own = 100 * (row["ours"]["ci95"] or 0.0)
    if abs(shift) <= POINTS:
        parts.append(
            f'<line class="ours" x1="{x(shift - own):.1f}" x2="{x(shift + own):.1f}" y1="{y}" y2="{y}"/>'
        )
        parts.append(f'<circle class="ours" cx="{x(shift):.1f}" cy="{y}" r="3.5"/>')
    else:
        tip, base = (x(shift), x(shift) - 7) if shift > 0 else (x(shift), x(shift) + 7)
        parts.append(f'<path class="ours" d="M{tip:.1f} {y}L{base:.1f} {y - 4}L{base:.1f} {y + 4}Z"/>')
    where = "above" if shift > 0 else "below"
    label = f"ours is {abs(shift):.2f} points {where} the published value, 95 % interval ± {half:.2f}"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg role="img" aria-label="{label}" {size}>{"".join(parts)}</svg>'


def provenance(row: dict) -> list[tuple[str, str]]:
    """(what, text) of everything that is known of how the two numbers of a row were made."""
    theirs, mine = row["published"], row["ours"]
    lines = []
    if theirs:
        lines += [("published", f"{theirs['title']}: {theirs['protocol']}; {theirs['source']}")]
    if mine is None:
        return [*lines, ("ours", results.status(row))]
    protocol = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in mine["protocol"].items() if value is not None
    )
    took = f"{mine['seconds'] / 60:.0f} min" if mine["seconds"] >= 60 else f"{mine['seconds']:.0f} s"
    return [
        *lines,
        (
            "trained",
            f"preset {mine['preset']}, {mine['meta_steps']:,} meta-steps, seed {mine['seed']}, {took} on {mine['device']}",
        ),
        ("tested", f"{mine['tasks']:,} tasks, after {mine['step']} inner steps; {protocol}"),
        *([("trainings", every)] if (every := results.trainings(row)) else []),
        ("departs from the paper's recipe", row["deviation"]),
        (
            "again",
            f"python -m mlbook train {row['experiment']} --preset {mine['preset']} --seed {mine['seed']} --out my-run",
        ),
    ]


def _line(row: dict) -> str:
    name = row["experiment"]
    state = results.status(row)
    left, right, gap = texts(row)
    found = difference(row)
    sort = {
        "published": row["published"]["value"] if row["published"] else "",
        "ours": row["ours"]["by_step"][row["ours"]["step"]] if row["ours"] else "",
        "gap": found[0] if found else "",
    }
    items = ""
    for what, text in provenance(row):
        text = f"<code>{html.escape(text)}</code>" if what == "again" else html.escape(text)
        items += f"<dt>{html.escape(what)}</dt><dd>{text}</dd>"
    return (
        f'<tr id="{name}" data-state="{state}" data-method="{html.escape(method(name))}" data-set="{data_set(name)}">'
        f'<th scope="row"><details><summary><code>{name}</code></summary><dl>{items}'
        f'<dt>link</dt><dd><a href="#{name}">to this row</a></dd></dl></details></th>'
        f'<td data-order="{sort["published"]}">{left}</td><td data-order="{sort["ours"]}">{right}</td>'
        f'<td data-order="{sort["gap"]}">{gap}</td><td>{picture(row)}</td><td>{recipe(row)}</td></tr>'
    )


def html_table(rows: list[dict]) -> str:
    """The rows of ``results.ledger()`` as an HTML table with the id ``ledger``."""
    head = ["experiment", "published", "ours", "difference", "on ±5 points", "recipe"]
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "\n".join(_line(row) for row in rows)
    return (
        f'<table id="ledger" class="ledger"><thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table>'
    )


def as_csv(rows: list[dict]) -> str:
    """The rows of ``results.ledger()`` as CSV: one line a row, numbers unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [
        "experiment",
        "state",
        "metric",
        "published",
        "published_ci95",
        "source",
        "ours",
        "ours_ci95",
        "inner_step",
        "tasks",
    ]
    writer.writerow([*names, "preset", "meta_steps", "seed", "seconds", "device", "deviation", "trainings"])
    for row in rows:
        theirs, mine = row["published"] or {}, row["ours"] or {}
        score = mine["by_step"][mine["step"]] if mine else None
        writer.writerow(
            [
                row["experiment"],
                results.status(row),
                mine.get("metric", theirs.get("metric")),
                theirs.get("value"),
                theirs.get("ci95"),
            ]
            + [theirs.get("source"), score]
            + [
                mine.get(key)
                for key in ("ci95", "step", "tasks", "preset", "meta_steps", "seed", "seconds", "device")
            ]
            + [row["deviation"], " ".join(f"{score:.6g}" for score in mine.get("by_seed", {}).values())]
        )
    return out.getvalue()


def show(rows: list[dict]) -> None:
    """Display the table; on the site it can be filtered and sorted."""
    display(HTML(f'<div class="ledger-box">{html_table(rows)}</div>'))
