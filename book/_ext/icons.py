"""Of the theme's icon fonts (300 KB, which every page fetches first) keep the icons that the pages show (about 10 KB).

The theme ships the whole of Font Awesome, and a script of 1.5 MB that draws the same icons once more.
"""

import re
from pathlib import Path

import pydata_sphinx_theme
from fontTools import subset

HERE = Path("static", "vendor", "fontawesome")
RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
FACE = re.compile(r"@font-face\{[^}]*\}")
SOURCES = re.compile(r'src:(?:,?url\(\.\./webfonts/(fa-[\w-]+)\.\w+\) format\("\w+"\))+')
NAME = re.compile(r"\bfa-[a-z0-9-]+")
CODE = re.compile(r'content:\s*"\\([ef][0-9a-f]{3})"')
LETTER = re.compile(
    "[\ue000-\uf8ff]"
)  # the theme's style sheet holds icons as what they are, letters of private use
PRELOAD = re.compile(r'\s*<link rel="preload" as="font"[^>]*/webfonts/[^>]*>')
SCRIPT = re.compile(r'\s*<script src="[^"]*fontawesome[^"]*\.js[^"]*"></script>')


def shown(static):
    """Names of icons in the pages and scripts of a site, and code points in its style sheets, as hexadecimal text."""
    ours = [path for path in static.parent.rglob("*.html")] + [
        path for path in static.rglob("*") if path.suffix in (".js", ".css") and "vendor" not in path.parts
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in ours)
    letters = {f"{ord(letter):x}" for letter in LETTER.findall(text)}
    return set(NAME.findall(text)), set(CODE.findall(text)) | letters


def lighter_style(css, names, codes):
    """The style sheet with the rules of these icons only, and the code points (text) that are left in it."""
    kept = set()

    def rule(found):
        if found[2] not in codes and not names & set(NAME.findall(found[1])):
            return ""
        kept.add(found[2])
        return found[0]

    def face(found):
        return "" if "v4compat" in found[0] or "FontAwesome" in found[0] else found[0]

    css = FACE.sub(face, RULE.sub(rule, css))
    return SOURCES.sub(r'src:url(../webfonts/\1.woff) format("woff")', css), kept | codes


def keep_icons(static):
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme"
    (source,) = (theme / HERE).iterdir()
    target = static.joinpath(*HERE.parts[1:], source.name)
    css, codes = lighter_style(
        source.joinpath("css", "all.min.css").read_text(encoding="utf-8"), *shown(static)
    )
    target.joinpath("css", "all.min.css").write_text(css, encoding="utf-8")
    for old in [*target.joinpath("webfonts").iterdir(), *target.joinpath("js").iterdir()]:
        old.unlink()
    for name in set(re.findall(r"webfonts/(fa-[\w-]+)\.woff\b", css)):
        options = subset.Options(flavor="woff", hinting=False, layout_features=[], notdef_outline=True)
        font = subset.load_font(source / "webfonts" / f"{name}.ttf", options)
        chosen = subset.Subsetter(options)
        chosen.populate(unicodes=[int(code, 16) for code in codes])
        chosen.subset(font)
        subset.save_font(font, target / "webfonts" / f"{name}.woff", options)


def _after_the_build(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    keep_icons(Path(app.outdir, "_static"))
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        lighter = SCRIPT.sub("", PRELOAD.sub("", text))
        if lighter != text:
            path.write_text(lighter, encoding="utf-8")


def setup(app):
    app.connect("build-finished", _after_the_build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
