"""What a chapter needs around the algorithms: setup, shown source, figures with alt text, tables, exercise checks.

It hands on ``train`` of ``live``.
"""

from __future__ import annotations

import base64
import datetime
import html
import importlib.metadata
import inspect
import io
import os
import platform
import re
import textwrap
import urllib.parse

import matplotlib
import torch
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure
from PIL import Image, features  # matplotlib needs Pillow itself

import mlbook
from mlbook import results
from mlbook.data import mini_imagenet, omniglot
from mlbook.errors import UserError
from mlbook.pages.live import Environment, Trained, train

__all__ = ["Environment", "Trained", "setup", "train"]


def setup(chapter: str | None = None, *, quiet: bool = False) -> Environment:
    """Choose device, preset and data, and say so in two lines. Changes no global state and fetches nothing."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = os.environ.get("MLBOOK_PRESET", "quick" if device.type == "cpu" else "colab")
    if preset not in ("quick", "colab", "paper"):
        raise UserError(f"MLBOOK_PRESET must be quick, colab or paper, not {preset!r}")
    characters = "omniglot" if omniglot.available() else "glyphs"
    if not quiet:
        where = (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads"
        )
        versions = (
            f"mlbook {mlbook.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
        )
        print(f"{versions}; {where}; preset {preset}")
        if characters == "glyphs":
            print(
                "Omniglot is not on this machine: generated glyphs take its place in live cells. "
                "Get it with: python -m mlbook data get omniglot"
            )
        else:
            print("Characters: Omniglot")
    return Environment(device, preset, characters)


DOCSTRING = re.compile(r'(:[ ]*\n)[ ]+(?:"""(?:.|\n)*?""")[ ]*\n(?:[ ]*\n)*')


def source(item, *, docstrings: bool = False) -> str:
    """The source text of a function, method or class, without its indentation and its docstring."""
    text = textwrap.dedent(inspect.getsource(item)).rstrip()
    return text if docstrings else DOCSTRING.sub(r"\1", text, count=1)


def show(*items, docstrings: bool = False) -> None:
    """Show the code that runs: the source of functions or classes of the package, with the file it stands in."""
    for item in items:
        text = source(item, docstrings=docstrings)
        target = inspect.unwrap(item)
        file = inspect.getsourcefile(target).rsplit("mlbook/", 1)[-1].replace("\\", "/")
        line = inspect.getsourcelines(target)[1]
        display(Markdown(f"`mlbook/{file}`, line {line}\n\n```python\n{text}\n```"))


def figure(drawn: tuple[Figure, str] | Figure, alt: str | None = None, caption: str | None = None) -> None:
    """Display a figure with its alt text; ``drawn`` is what a function of ``mlbook.pages.figures`` returns.

    The site numbers the figures of a page, turns vector graphics light on dark, and lets a reader save them.
    """
    fig, text = drawn if isinstance(drawn, tuple) else (drawn, alt)
    if not text:
        raise ValueError("a figure needs alt text")
    kind, picture = _picture(fig)
    width = round(fig.get_figwidth() * 100)
    legend = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    vector = ' class="figure-vector"' if kind == "svg+xml" else ""
    display(
        HTML(
            f'<figure class="mlbook-figure"><img{vector} src="{_address(kind, picture)}" alt="{html.escape(text)}" '
            f'style="width:{width}px;max-width:100%;height:auto;background:white">{legend}</figure>'
        )
    )


def _address(kind: str, picture: bytes) -> str:
    """A picture as a data URI; SVG stays text, which a server compresses far better than base64."""
    if kind != "svg+xml":
        return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    text = re.sub(
        r"<!--.*?-->|<\?xml.*?\?>|<!DOCTYPE.*?>|\n\s*", "", picture.decode(), flags=re.DOTALL
    ).replace('"', "'")
    return "data:image/svg+xml," + urllib.parse.quote(text, safe=" '/:=;,()!*+-._~?$@|[]{}")


LARGEST_SVG = 200_000  # bytes; thousands of points or a picture inside make pixels the smaller format


def _picture(fig: Figure) -> tuple[str, bytes]:
    """(kind, bytes) of a drawn figure: SVG on a transparent ground; where that is large or holds pixels, WebP or PNG on white."""
    vector = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mlbook"}):  # the same bytes in every build
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        fig.savefig(vector, format="svg", transparent=True, metadata=nothing)
    drawn = vector.getvalue()
    if len(drawn) <= LARGEST_SVG and b"<image" not in drawn:
        return "svg+xml", drawn
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=160, facecolor="white")
    if not features.check("webp"):
        return "png", buffer.getvalue()
    smaller = io.BytesIO()
    Image.open(buffer).convert("RGB").save(smaller, "WEBP", lossless=True, method=4)
    return "webp", smaller.getvalue()


NUMBER = re.compile(r"[*≈<>≤≥+−–-]*\s*(\d|−?∞|$|not run)")
"""How a cell begins that holds a number, or says that there is none."""
MINUS = re.compile(r"(?<![\w.)])-(?=[\d∞])")
WORD = re.compile(r"\b[^\W\d]\w{2,}")
SPACES = {ord("."): "&#8200;", ord("\u00a0"): "\u00a0"} | {ord(c): "&#8199;" for c in "±%0123456789"}
"""Spaces as wide as a full stop and as a digit, in place of what they keep the room of free (± has about a digit's width)."""


def table(header: list[str], rows: list[list[str]], caption: str | None = None) -> None:
    """Display a table as Markdown (``$…$`` is set as mathematics); columns of numbers stand to the right, in line."""
    columns = [[_with_minus(str(row[i])) for row in rows] for i in range(len(header))]
    numbers = [_of_numbers(column) for column in columns]
    columns = [
        _in_line(column) if is_number else column for column, is_number in zip(columns, numbers, strict=True)
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "".join(" ---: |" if n else " --- |" for n in numbers)]
    lines += ["| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True)]
    display(Markdown((f"**{caption}**\n\n" if caption else "") + "\n".join(lines)))


def _with_minus(cell: str) -> str:
    """A cell with minus signs in place of hyphens before digits; code and formulas stay as they are."""
    return cell if "`" in cell or "$" in cell else MINUS.sub("−", cell)


def _of_numbers(cells: list[str]) -> bool:
    """Whether a column holds numbers: most cells do, with at most one word behind, and the others say briefly why not."""
    found = [c for c in cells if NUMBER.match(c) and (len(WORD.findall(c)) < 2 or c.startswith("not run"))]
    found = [c for c in found if len(c) <= 40]  # a longer list of numbers may need several lines
    others = [c for c in cells if c not in found]
    enough = len(found) > len(others) and (not others or any(c.strip("–") for c in found))
    return enough and all(len(c) <= 25 for c in others)


def _in_line(cells: list[str]) -> list[str]:
    """Cells of a column of numbers: one without an interval, beside others that have one, keeps the room of it free."""
    ends = ["".join(cell.rstrip("*").partition("\u00a0")[1:]) for cell in cells]
    longest = max((end for end in ends if "±" in end), key=len, default="")
    return [
        cell + longest[len(end) :].translate(SPACES) if cell[:1].isdigit() or cell[:1] in "–-−*" else cell
        for cell, end in zip(cells, ends, strict=True)
    ]


def results_table(
    experiments: list[str],
    *,
    steps: tuple[int, ...] | None = None,
    caption: str | None = None,
    now: Trained | None = None,
) -> None:
    """Published beside ours for the named experiments, straight from the ledger; how ours were made unfolds below.

    steps: show these inner steps, a column for each (sinusoids); default: the reported step. now: a training of this page;
    what it has a record of gets a row of its own.
    """
    ledger = {row["experiment"]: row for row in results.ledger()}
    fresh = {} if now is None else now.records
    body, made = [], []
    for name in experiments:
        rows = {f"`{name}`": ledger[name]}
        twin = name.replace("omniglot", "glyphs")
        for its_name, where in {twin: "generated glyphs", name: "this machine"}.items():
            if record := fresh.get(its_name):
                rows[f"just now, on {where}"] = {
                    "now": True,
                    "published": None,
                    "ours": results.ours(record),
                    "deviation": results.deviations(record),
                }
        for title, row in rows.items():
            if steps is None:
                body.append([title, published_cell(row), ours_cell(row)])
            elif row["published"] is None:
                body.append([title, "ours", *ours_by_step(row, steps)])
            else:
                body.append([title, "published", *published_by_step(row, steps)])
                body.append(["", "ours", *ours_by_step(row, steps)])
            if how := how_cell(row):
                made.append(f"* {title}: {how}")
    head = ["published", "ours"] if steps is None else ["", *(f"step {s}" for s in steps)]
    if steps is None and all(row[1] == "–" for row in body):
        head, body = ["ours"], [[title, ours] for title, _, ours in body]
    table(["experiment", *head], body, caption)
    if made:
        summary = "<details class='made'><summary>How ours were made</summary>"
        display(Markdown("\n".join([summary, "", *made, "", "</details>"])))


def speed_table(entries: dict[str, str], *, threads: int, caption: str | None = None) -> None:
    """``mlbook`` beside the fastest peer, from the record of ``benchmarks.compare``. entries: problem -> its name here."""
    record = results.benchmark("compare")["threads"][str(threads)]
    body = []
    for problem, title in entries.items():
        rows = record[problem]["contenders"]
        own = rows["mlbook"]
        peer, faster = rows[own["fastest_peer"]], own["over_fastest_peer"]
        body.append(
            [
                title,
                f"{_ms(peer)} ({own['fastest_peer']})",
                _ms(own),
                f"**{faster['median']:.3g}** [{faster['min']:.3g} … {faster['max']:.3g}]",
                f"{peer['memory_mib']:.0f}",
                f"{own['memory_mib']:.0f}",
            ]
        )
    table(
        [
            "meta-gradient",
            "fastest peer, ms",
            "mlbook, ms",
            "times faster",
            "peak MiB, peer",
            "peak MiB, mlbook",
        ],
        body,
        caption,
    )


def build_table() -> None:
    """On what, with what and when the pages of this build are run (the status page)."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), cpu)
    names = ["torch", "torchvision", "numpy", "matplotlib", "ipywidgets", "anywidget", "jupyter-book"]
    installed = {dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()}
    here = [("Omniglot", omniglot.available()), ("miniImageNet", mini_imagenet.available())]
    rows = [
        ["date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d, %H:%M UTC")],
        ["processor", f"{cpu}, {os.cpu_count()} cores"],
        ["GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"],
        ["system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"],
        ["packages", ", ".join(f"{name} {installed[name]}" for name in names if name in installed)],
        ["mlbook", mlbook.__version__],
        [
            "data sets",
            ", ".join(name for name, there in here if there) or "none: generated glyphs take their place",
        ],
    ]
    table(["", "this build"], rows)


def pending_table() -> None:
    """The experiments that have no full-length run of ours, with what there is instead."""
    rows = [row for row in results.ledger() if results.is_pending(row)]
    table(
        ["experiment", "published", "ours, shorter"],
        [
            [f"`{row['experiment']}`", published_cell(row), ours_cell(row) if row["ours"] else "not run"]
            for row in rows
        ],
    )


def _score(*arguments) -> str:
    """A number with its interval, in one line wherever it stands."""
    return results.score_text(*arguments, percent_digits=1).replace(" ", "\u00a0")


def _ms(row: dict) -> str:
    value = 1000 * row["time"]["median"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def published_cell(row: dict) -> str:
    """The published result of a row of the ledger."""
    theirs = row["published"]
    return "–" if theirs is None else _score(theirs["value"], theirs["ci95"], theirs["metric"])


def published_by_step(row: dict, steps: tuple[int, ...]) -> list[str]:
    """The published results after these inner steps: a dash where the source gives none, its one result in the last column."""
    by_step = row["published"].get("by_step") or {}
    if not by_step:
        return [*("–" for _ in steps[1:]), published_cell(row)]
    known = {int(s): _score(value, None, row["published"]["metric"]) for s, value in by_step.items()}
    return [known.get(s, "–") for s in steps]


def ours_cell(row: dict) -> str:
    """The result of ours, or why there is none."""
    ours = row["ours"]
    if ours is None:
        return results.status(row)
    return _score(ours["by_step"][ours["step"]], ours["ci95"], ours["metric"])


def ours_by_step(row: dict, steps: tuple[int, ...]) -> list[str]:
    """The results of ours after these inner steps, or why there is none."""
    ours = row["ours"]
    if ours is None:
        return [results.status(row), *("–" for _ in steps[1:])]
    last = len(ours["by_step"]) - 1
    values = [(ours["by_step"][s], ours["ci95_by_step"][s]) if s <= last else None for s in steps]
    return ["–" if v is None else _score(*v, ours["metric"]) for v in values]


def how_cell(row: dict) -> str:
    """How ours was made, and where it departs from the paper."""
    ours = row["ours"]
    if ours is None:
        return ""
    short = " (the short run)" if row.get("now") and ours["preset"] == "quick" else ""
    minutes, seconds = ours["seconds"] / 60, ours["seconds"]
    took = f"{minutes:.0f} min" if minutes >= 0.5 else f"{seconds:.0f} s"
    text = (
        f"preset {ours['preset']}{short}: {ours['meta_steps']:,} meta-steps, {took} on "
        f"{ours['device'].replace(' 1 threads', ' 1 thread')}; "
        f"{ours['tasks']:,} test tasks"
    )
    if every := results.trainings(row):
        text += f"; {every}"
    return text + ("" if row["deviation"] == "none" else f". Departs from the paper: {row['deviation']}")


def check(exercise: str, properties: dict[str, bool]) -> bool:
    """Say which properties of an answer hold, and whether all do."""
    failed = [text for text, holds in properties.items() if not bool(holds)]
    for text, holds in properties.items():
        print(("✓ " if bool(holds) else "✗ ") + text)
    print(
        f"{exercise}: "
        + ("all right." if not failed else f"not yet; {len(failed)} of {len(properties)} fail.")
    )
    return not failed
