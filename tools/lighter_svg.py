"""Vector figures for the one-page edition, a third as heavy as matplotlib writes them.

matplotlib draws every letter as an outline, with six decimals, and gives each element an id and a style of its own. Here
plain words become text again, in matplotlib's font or one of its widths (set to the length it had); formulas stay outlines.
Coordinates keep a decimal or two, styles that recur become classes, what cannot be seen and ids that nothing refers to go.
"""

import functools
import re
import xml.etree.ElementTree as ET
from collections import Counter

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


GRID = 8
"""Steps of the outlines' grid that become one: 256 of these make the size of a letter."""


def _rounded(text, digits=2):
    def one(match):
        number = f"{float(match[0]):.{digits}f}".rstrip("0").rstrip(".")
        return "0" if number in {"-0", ""} else number

    return re.sub(r"-?\d+\.\d+", one, text)


def _lines(d, digits):
    """A path of straight lines, each as its step from the last point as rounded, so that nothing adds up."""
    parts, here, unit = [], (0, 0), 10**digits
    for command, x, y in re.findall(r"([MLz])\s*(?:(-?[\d.]+) (-?[\d.]+))?", d):
        if command == "z":
            parts.append("z")
            continue
        there = (round(float(x) * unit), round(float(y) * unit))
        step = there if command == "M" else (there[0] - here[0], there[1] - here[1])
        if command == "L" and step == (0, 0) and parts[-1][0] == "l":
            continue
        here = there
        x, y = (_rounded(f"{n / unit:.{digits}f}") for n in step)
        if command == "M":
            parts.append(f"M{x} {y}")
        else:
            parts.append(f"v{y}" if not step[0] else f"h{x}" if not step[1] else f"l{x} {y}")
    return _dense("".join(parts))


def _dense(d):
    """Without what a path does not need: a letter like the one before it, a zero before a point, a blank before a sign."""
    d = re.sub(r"(?<![\d.])(-?)0\.", r"\1.", d)
    d = re.sub(r"([a-zA-LN-Z])([^a-zA-Z]*)(?:\1([^a-zA-Z]+))+", _once, d)
    d = d.replace(" -", "-")
    return re.sub(r"(\.\d+) (?=\.)", r"\1", d)


def _once(match):
    letter = match[1]
    return letter + " ".join(match[0].split(letter)[1:])


def _path(d, digits):
    if re.fullmatch(r"M [-\d.ML\s]+(?:z\s*)?", d):  # one stroke: a second one would not begin where `z` ends
        return _lines(d, digits)
    return _dense(re.sub(r"\s*([A-Za-z])\s*", r"\1", _rounded(d, digits)).strip())


def _fewer_steps(d):
    return re.sub(r"-?\d+", lambda m: str(round(int(m[0]) / GRID)), d)


def _short(number):
    letters = "abcdefghijklmnopqrstuvwxyz"
    return (_short(number // 26 - 1) if number >= 26 else "") + letters[number % 26]


@functools.cache
def _font(bold):
    """(letters by number of the glyph, widths in hundredths of the size) of the font that matplotlib draws with."""
    from fontTools.ttLib import TTFont
    from matplotlib import font_manager

    weight = "bold" if bold else "normal"
    font = TTFont(font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight)))
    letters = {}
    for code, name in sorted(font.getBestCmap().items()):
        letters.setdefault(font.getGlyphID(name), chr(code))
    return letters, [100 * font["hmtx"][name][0] / font["head"].unitsPerEm for name in font.getGlyphOrder()]


def _as_text(group):
    """Turn the outlines of a line of plain words into text."""
    uses = group.findall(SVG + "use")
    size = re.search(r" scale\(([\d.]+) -\1\)$", group.get("transform", ""))
    if not uses or not size or any(child.tag not in (SVG + "use", SVG + "defs") for child in group):
        return
    bold = uses[0].get(HREF).startswith("#DejaVuSans-Bold-")
    letters, widths = _font(bold)
    words, end = "", 0
    for use in uses:
        glyph = re.fullmatch(r"#DejaVuSans-(Bold-)?([0-9a-f]+)", use.get(HREF))
        at = re.fullmatch(r"translate\(([\d.]+) 0\)", use.get("transform", "translate(0 0)"))
        if not glyph or not at or set(use.attrib) - {HREF, "transform"}:
            return
        number = int(glyph[2], 16)
        if bool(glyph[1]) != bold or number not in letters:
            return
        words += letters[number]
        end = float(at[1]) + widths[number]
    for use in uses:
        group.remove(use)
    scale = float(size[1])
    group.set("transform", group.get("transform")[: size.start()])
    text = ET.SubElement(group, SVG + "text", {"font-size": _rounded(str(100 * scale))})
    if bold:
        text.set("font-weight", "bold")
    if len(words) > 3:
        text.set("textLength", _rounded(str(end * scale), 1))
    text.text = words


def _without_idle(node, needed):
    """Take out, from the innermost outwards: outlines that nothing uses, empty definitions, areas without colour."""
    for child in list(node):
        _without_idle(child, needed)
        outline = child.get("id", "").startswith("DejaVu") and child.get("id") not in needed
        empty = child.tag in (SVG + "defs", SVG + "g") and not len(child) and child.get("id") not in needed
        unseen = child.get("style") == "fill: none" and child.tag == SVG + "path"
        if outline or empty or unseen:
            node.remove(child)


def _placed(node):
    """Words take the place of a group that only says where and in which colour they stand."""
    for i, child in enumerate(node):
        _placed(child)
        if child.tag == SVG + "g" and len(child) == 1 and child[0].tag == SVG + "text":
            text = child[0]
            moved = re.fullmatch(r"translate\((\S+) (\S+)\)", child.get("transform", ""))
            if moved:
                del child.attrib["transform"]
                text.attrib |= {"x": moved[1], "y": moved[2]}
            text.attrib |= child.attrib
            node[i] = text


def _flat(node):
    """Groups that say nothing give way to what is in them."""
    children = []
    for child in list(node):
        _flat(child)
        children += list(child) if child.tag == SVG + "g" and not child.attrib else [child]
    node[:] = children


def lighter(svg):
    """The same drawing in fewer bytes, with single quotes only, as an attribute in double quotes may hold it."""
    root = ET.fromstring(svg)
    for group in list(root.iter(SVG + "g")):
        _as_text(group)
    used = re.findall(r"href=['\"]#([^'\"]+)|url\(#([^)]+)\)", ET.tostring(root, encoding="unicode"))
    names = {name: _short(i) for i, name in enumerate(dict.fromkeys(a or b for a, b in used))}
    _without_idle(root, names)
    _placed(root)
    sizes = Counter(text.get("font-size") for text in root.iter(SVG + "text"))
    usual = max(sizes, key=sizes.get, default=None)
    styles = {}
    for parent in root.iter():
        outline = parent.get("transform") == "scale(0.015625)"  # of a letter, in steps of its size by 2048
        if outline:
            parent.set("transform", f"scale({0.015625 * GRID})")
        style = re.sub(r"([;:]) ", r"\1", parent.attrib.pop("style", ""))
        if clip := parent.attrib.pop("clip-path", None):
            style += f"{';' * bool(style)}clip-path:{clip}"
        style = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names[m[1]]})", style)  # a hatching, too
        if style:
            parent.set("class", styles.setdefault(style, _short(len(styles))))
        if parent.get("font-size") == usual:
            parent.attrib.pop("font-size", None)
        for name in ("id", HREF, "d", "x", "y", "transform"):
            if (value := parent.attrib.pop(name, None)) is None:
                continue
            if name == "id":
                if value in names:
                    parent.set("id", names[value])
            elif name == HREF:
                parent.set("href", "#" + names[value[1:]])
            elif name == "d" and outline:
                parent.set(name, _path(_fewer_steps(value), 0))
            elif name == "d":
                marker = parent.get("id")  # drawn many times, and small
                parent.set(name, _path(value, 2 if marker else 1))
            elif name in "xy":
                parent.set(name, _rounded(value, 1))
            elif moved := (
                re.fullmatch(r"translate\((\S+) (\S+)\)", value) if parent.tag == SVG + "use" else None
            ):
                parent.attrib |= {
                    k: _rounded(v) for k, v in zip("xy", moved.groups(), strict=True) if float(v)
                }
            else:
                parent.set(name, re.sub(r"(?<=translate\()[^)]*", lambda m: _rounded(m[0]), value))
    _flat(root)
    sheet = root.find(f".//{SVG}style")
    if usual:
        root.set("font-size", usual)
        sheet.text += "text{font-family:DejaVu Sans,Verdana,sans-serif;white-space:pre}"
    sheet.text += "".join(f".{name}{{{style}}}" for style, name in styles.items())
    sheet.text = re.sub(r"#(\w)\1(\w)\2(\w)\3\b", r"#\1\2\3", sheet.text).replace(":0.", ":.")
    ET.register_namespace("", SVG[1:-1])
    return (
        ET.tostring(root, encoding="unicode", short_empty_elements=True)
        .replace(" />", "/>")
        .replace('"', "'")
    )
