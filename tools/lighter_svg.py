"""Vector figures for the one-page edition, a third as heavy as matplotlib writes them.

matplotlib draws every letter as an outline, with six decimals, and gives each element an id and a style of its own. Here
plain words become text again, in matplotlib's font or one of its widths (set to the length it had); formulas stay outlines.
Coordinates keep a decimal or two, styles that recur become classes, ids that nothing refers to go.
"""

import functools
import re
import xml.etree.ElementTree as ET

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


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
        numbers = [re.sub(r"^(-?)0\.", r"\1.", _rounded(f"{n / unit:.{digits}f}")) for n in step]
        parts.append(("l" if command == "L" else "M") + " ".join(numbers))
    return "".join(parts).replace(" -", "-")


def _path(d, digits):
    if re.fullmatch(r"M [-\d.ML\s]+(?:z\s*)?", d):  # one stroke: a second one would not begin where `z` ends
        return _lines(d, digits)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", _rounded(d, digits).replace(" -", "-")).strip()


def _short(number):
    letters = "abcdefghijklmnopqrstuvwxyz"
    return (_short(number // 26 - 1) if number >= 26 else "") + letters[number % 26]


@functools.cache
def _font():
    """(letters by number of the glyph, widths in hundredths of the size) of the font that matplotlib draws with."""
    from fontTools.ttLib import TTFont
    from matplotlib import font_manager

    font = TTFont(font_manager.findfont("DejaVu Sans"))
    letters = {}
    for code, name in sorted(font.getBestCmap().items()):
        letters.setdefault(font.getGlyphID(name), chr(code))
    return letters, [100 * font["hmtx"][name][0] / font["head"].unitsPerEm for name in font.getGlyphOrder()]


def _as_text(group):
    """Turn the outlines of a line of plain words into text."""
    letters, widths = _font()
    uses = group.findall(SVG + "use")
    size = re.search(r" scale\(([\d.]+) -\1\)$", group.get("transform", ""))
    if not uses or not size or any(child.tag not in (SVG + "use", SVG + "defs") for child in group):
        return
    words, end = "", 0
    for use in uses:
        glyph = re.fullmatch(r"#DejaVuSans-([0-9a-f]+)", use.get(HREF))
        at = re.fullmatch(r"translate\(([\d.]+) 0\)", use.get("transform", "translate(0 0)"))
        if not glyph or not at or int(glyph[1], 16) not in letters or set(use.attrib) - {HREF, "transform"}:
            return
        words += letters[int(glyph[1], 16)]
        end = float(at[1]) + widths[int(glyph[1], 16)]
    for use in uses:
        group.remove(use)
    scale = float(size[1])
    group.set("transform", group.get("transform")[: size.start()])
    text = ET.SubElement(group, SVG + "text", {"font-size": _rounded(str(100 * scale))})
    if len(words) > 1:
        text.set("textLength", _rounded(str(end * scale), 1))
    text.text = words


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
    needed = {use.get(HREF)[1:] for use in root.iter(SVG + "use")}
    for parent in root.iter():
        for child in list(parent):
            if re.match("DejaVu", child.get("id", "")) and child.get("id") not in needed:
                parent.remove(child)
            elif child.tag == SVG + "defs" and not len(child):
                parent.remove(child)
    used = re.findall(r"href=['\"]#([^'\"]+)|url\(#([^)]+)\)", ET.tostring(root, encoding="unicode"))
    names = {name: _short(i) for i, name in enumerate(dict.fromkeys(a or b for a, b in used))}
    styles = {}
    for parent in root.iter():
        scaled = "scale" in parent.get("transform", "")
        for name in ("id", "style", HREF, "clip-path", "d", "x", "y", "transform"):
            if (value := parent.attrib.pop(name, None)) is None:
                continue
            if name == "id":
                if value in names:
                    parent.set("id", names[value])
            elif name == HREF:
                parent.set("href", "#" + names[value[1:]])
            elif name == "clip-path":
                parent.set(name, f"url(#{names[value[5:-1]]})")
            elif name == "d":
                shape = parent.get("id") or scaled  # a marker or a letter is drawn many times, and small
                parent.set(name, _path(value, 2 if shape else 1))
            elif name in "xy":
                parent.set(name, _rounded(value, 1))
            elif name == "style":
                value = re.sub(r"([;:]) ", r"\1", value)
                parent.set("class", styles.setdefault(value, _short(len(styles))))
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
    if root.find(f".//{SVG}text") is not None:
        sheet.text += "text{font-family:DejaVu Sans,Verdana,sans-serif;white-space:pre}"
    sheet.text += "".join(f".{name}{{{style}}}" for style, name in styles.items())
    ET.register_namespace("", SVG[1:-1])
    return (
        ET.tostring(root, encoding="unicode", short_empty_elements=True)
        .replace(" />", "/>")
        .replace('"', "'")
    )
