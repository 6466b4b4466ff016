"""The map of the book as a picture, and what each chapter costs as a table, from what the chapters themselves say.

    ```{book-map}          an SVG: one column per part, an arrow from each chapter to those that need it; and the same as a
    ```                    list, which a narrow window shows instead
    ```{book-costs}        a table: minutes to read, seconds to run, needs
    ```

A chapter's first table names the chapters that it needs; arrows that follow from others are left out.
"""

import re
import textwrap
from html import escape

import yaml
from chapter_costs import cost_table, minutes_to_read, needs, seconds_to_run
from chapter_numbers import chapter_number
from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

BOX, GAP, ROW, HEAD = (140, 80), 20, 118, 48
"""Pixels: a chapter's box, between columns, between rows, above them. Five columns fit the column of text unscaled."""


class book_map(nodes.General, nodes.Element):
    pass


class book_costs(nodes.General, nodes.Element):
    pass


class _Map(SphinxDirective):
    def run(self):
        return [book_map()]


class _Costs(SphinxDirective):
    def run(self):
        return [book_costs()]


def parts(env):
    """[(caption, [docname of each chapter])], from the table of contents."""
    with open(f"{env.srcdir}/_toc.yml", encoding="utf-8") as file:
        toc = yaml.safe_load(file)
    found = [
        (part["caption"], [c["file"] for c in part["chapters"] if chapter_number(c["file"])])
        for part in toc["parts"]
    ]
    return [(caption, chapters) for caption, chapters in found if chapters]


def reduced(wanted):
    """{chapter: needed chapters} without those that are needed by another needed one."""
    above = {}
    for number in sorted(wanted):
        above[number] = set().union(*({n} | above.get(n, set()) for n in wanted[number]))
    return {
        number: [n for n in needed if not any(n in above.get(other, set()) for other in needed if other != n)]
        for number, needed in wanted.items()
    }


def rows_of(columns, wanted):
    """The row of each chapter: below all that it needs, and below the one before it in its part."""
    column = {number: i for i, numbers in enumerate(columns) for number in numbers}
    rows, last = {}, {}
    for number in sorted(column):
        below = [rows[n] + 1 for n in wanted[number] if n in rows]
        rows[number] = max([*below, last.get(column[number], -1) + 1])
        last[column[number]] = rows[number]
    return rows


def corners(columns, rows, arrows):
    """The corners [(x, y), …] of each arrow (n, number): through the gaps between boxes, never behind one.

    From below its chapter an arrow runs in the gap under that row to the gap beside its column, down there, and in the gap
    above its target to the middle of the target. Arrows of one chapter share a lane; those of another have their own.
    """
    column = {number: i for i, numbers in enumerate(columns) for number in numbers}
    left = {n: column[n] * (BOX[0] + GAP) + 2 for n in column}
    top = {n: HEAD + rows[n] * ROW for n in column}
    pairs = [(n, number) for number, needed in arrows.items() for n in needed]
    gutter, beside, across = {}, {}, {}
    for n, number in pairs:
        if rows[number] > rows[n] + 1:  # boxes of other rows stand between
            gutter[n, number] = column[number] + (column[n] > column[number] or not column[number])
            beside.setdefault(gutter[n, number], set()).add(n)
            across.setdefault(rows[number] - 1, set()).add(n)
        if rows[number] > rows[n] + 1 or column[n] != column[number]:
            across.setdefault(rows[n], set()).add(n)

    def lane(users, n, start, width):
        order = sorted(users)
        return start + width * (order.index(n) + 1) / (len(order) + 1)

    found = {}
    for n, number in pairs:
        x1, y1 = left[n] + BOX[0] / 2, top[n] + BOX[1]
        x2, y2 = left[number] + BOX[0] / 2, top[number]
        points = [(x1, y1)]
        if (n, number) in gutter:
            under = lane(across[rows[n]], n, y1 + 3, ROW - BOX[1] - 15)
            start = gutter[n, number] * (BOX[0] + GAP) + 2 - GAP
            x = lane(beside[gutter[n, number]], n, start, GAP)
            above = lane(across[rows[number] - 1], n, y2 - (ROW - BOX[1]) + 3, ROW - BOX[1] - 15)
            points += [(x1, under), (x, under), (x, above), (x2, above)]
        elif x1 != x2:
            under = lane(across[rows[n]], n, y1 + 3, ROW - BOX[1] - 15)
            points += [(x1, under), (x2, under)]
        points.append((x2, y2))
        found[n, number] = points
    return found


def rounded(points, radius=6):
    """The path through the corners, each of them rounded off."""
    points = [p for i, p in enumerate(points) if not i or p != points[i - 1]]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for before, (x, y), after in zip(points, points[1:], points[2:], strict=False):
        ends = []
        for px, py in (before, after):
            length = abs(px - x) + abs(py - y)  # one of the two is zero
            part = min(radius, length / 2) / length
            ends.append(f"{x + part * (px - x):.1f} {y + part * (py - y):.1f}")
        path += f"L{ends[0]}Q{x:.1f} {y:.1f} {ends[1]}"
    return path + f"L{points[-1][0]:.1f} {points[-1][1]:.1f}"


def draw(chapters):
    """The SVG. chapters: one dict per chapter with part, number, title, url, needs, minutes."""
    captions = list(dict.fromkeys(c["part"] for c in chapters))
    columns = [[c["number"] for c in chapters if c["part"] == caption] for caption in captions]
    wanted = {c["number"]: [n for n in c["needs"] if n != c["number"]] for c in chapters}
    rows, arrows = rows_of(columns, wanted), reduced(wanted)
    column = {number: i for i, numbers in enumerate(columns) for number in numbers}
    place = {n: (column[n] * (BOX[0] + GAP) + 2, HEAD + rows[n] * ROW) for n in column}
    width = len(captions) * (BOX[0] + GAP) - GAP + 4
    height = HEAD + (max(rows.values()) + 1) * ROW - (ROW - BOX[1]) + 4
    lines = [
        f'<div class="book-map" role="group" aria-label="Map of the book: chapters and what they need. '
        f'The table below says the same in words."><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        '<defs><marker id="map-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" class="map-tip"/></marker></defs>',
    ]
    for i, caption in enumerate(captions):
        part, _, name = caption.partition(" · ")
        x = i * (BOX[0] + GAP) + 2
        for k, words in enumerate([part, *textwrap.wrap(name, 19)[:2]]):
            lines.append(f'<text class="map-part" x="{x}" y="{12 + 14 * k}">{escape(words)}</text>')
    for points in corners(columns, rows, arrows).values():
        lines.append(f'<path class="map-arrow" marker-end="url(#map-tip)" d="{rounded(points)}"/>')
    for c in chapters:
        x, y = place[c["number"]]
        words = textwrap.wrap(f"{c['number']} {c['title']}", 20)
        if len(words) > 4:
            raise ExtensionError(f"the title of chapter {c['number']} does not fit its box of the map")
        text = "".join(
            f'<tspan x="{x + 8}" y="{y + 16 + 14 * i}">{escape(line)}</tspan>' for i, line in enumerate(words)
        )
        lines.append(
            f'<a href="{c["url"]}" data-chapter="{c["page"]}"><title>{c["number"]}. {escape(c["title"])}</title>'
            f'<rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/><text>{text}</text>'
            f'<text class="map-minutes" x="{x + BOX[0] - 8}" y="{y + BOX[1] - 6}" text-anchor="end">{c["minutes"]} min</text></a>'
        )
    return "".join(lines) + "</svg></div>" + _list(chapters, arrows)


def _list(chapters, arrows):
    """The same as the picture in words, part by part."""
    lines = ['<div class="book-map-list">']
    for caption in dict.fromkeys(c["part"] for c in chapters):
        lines.append(f'<p class="map-part">{escape(caption)}</p><ul>')
        for c in (c for c in chapters if c["part"] == caption):
            needed = [str(n) for n in arrows[c["number"]]]
            after = (
                f", after {' and '.join([', '.join(needed[:-1]), needed[-1]][len(needed) < 2 :])}"
                if needed
                else ""
            )
            lines.append(
                f'<li><a href="{c["url"]}" data-chapter="{c["page"]}">{c["number"]}. {escape(c["title"])}</a> '
                f'<span class="map-minutes">{c["minutes"]} min{after}</span></li>'
            )
        lines.append("</ul>")
    return "".join(lines) + "</div>"


def _chapters(app, docname):
    env = app.env
    for caption, names in parts(env):
        for name in names:
            doctree = env.get_doctree(name)
            if cost_table(doctree) is None:
                continue
            yield {
                "part": caption,
                "number": chapter_number(name),
                "page": name.rsplit("/", 1)[-1],
                "title": env.titles[name].astext(),
                "url": app.builder.get_relative_uri(docname, name),
                "needs": needs(doctree),
                "needs_text": cost_table(doctree)[1][2].astext(),
                "minutes": minutes_to_read(doctree),
                "seconds": seconds_to_run(env, name),
            }


def costs_table(chapters):
    def row(cells, tag="td"):
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    total = sum(c["minutes"] for c in chapters)
    body = [
        row(
            [
                f'<a class="reference internal" href="{c["url"]}">{c["number"]}. {escape(c["title"])}</a>',
                f"{c['minutes']} min",
                f"{max(1, round(c['seconds']))} s" if c["seconds"] is not None else "not run",
                escape(re.sub(r"; no download$", "", c["needs_text"])),
            ]
        )
        for c in chapters
    ]
    seconds = sum(c["seconds"] or 0 for c in chapters)
    body.append(
        row(
            [
                "All of it, without the exercises",
                f"{total // 60} h {total % 60} min",
                f"{round(seconds)} s",
                "",
            ]
        )
    )
    head = row(["chapter", "to read", "to run", "needs"], "th")
    table = f'<table class="table book-costs"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="pst-scrollable-table-container">{table}</div>'


def _fill(app, doctree, docname):
    places = list(doctree.findall(book_map)) + list(doctree.findall(book_costs))
    if not places:
        return
    chapters = list(_chapters(app, docname))
    for place in places:
        html = draw(chapters) if isinstance(place, book_map) else costs_table(chapters)
        place.replace_self(nodes.raw("", html, format="html"))


def _read_again(app, env):
    """What the front page says depends on all chapters."""
    return [name for name in ("book/index",) if name in env.found_docs]


def setup(app):
    app.add_node(book_map)
    app.add_node(book_costs)
    app.add_directive("book-map", _Map)
    app.add_directive("book-costs", _Costs)
    app.connect("doctree-resolved", _fill)
    app.connect("env-updated", _read_again)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
