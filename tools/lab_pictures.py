"""Take the pictures of the gallery: each lab as it opens, drawn by its own JavaScript in a headless browser.

    python tools/lab_pictures.py [WIDGET ...]      # class names of mlbook.pages.labs; default: all of its gallery

Writes book/_static/labs/NAME.png. No built site is needed: a page with the widget's code and state is made on the spot.
"""

import base64
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from browser import new_page, serve_site, start_browser  # noqa: E402

from mlbook.pages import labs  # noqa: E402
from mlbook.pages.labs.gallery import CARDS  # noqa: E402

FOLDER = ROOT / "book/_static/labs"
WIDTH, HEIGHT, SMALL, COLOURS = 760, 475, (480, 300), 128
PAGE = """<!doctype html><html data-theme="light"><meta charset="utf-8"><title>lab</title><link rel="icon" href="data:,">
<style>{style} .mlb-head {{ display: none !important; }}</style><body style="margin: 0"><div id="lab"></div><script type="module">
import lab from "./lab.mjs";
const state = {state}, listeners = {{}};
for (const [name, value] of Object.entries(state))
  if (value?.bytes !== undefined) state[name] = new DataView(Uint8Array.from(atob(value.bytes), (c) => c.charCodeAt(0)).buffer);
const model = {{
  get: (name) => state[name],
  set: (name, value) => ((state[name] = value), (listeners[`change:${{name}}`] ?? []).forEach((f) => f())),
  save_changes() {{}}, off() {{}}, on: (name, f) => (listeners[name] ??= []).push(f),
}};
lab.render({{ model, el: document.getElementById("lab") }});
</script>"""


def as_json(value):
    is_bytes = isinstance(value, bytes | memoryview)
    return {"bytes": base64.b64encode(value).decode()} if is_bytes else value


def write_page(folder, card):
    """The page of one lab, as a reader meets it but without a widget manager."""
    widget = getattr(labs, card.widget)(**card.opens)
    own = set(getattr(labs, card.widget).class_own_traits(sync=True))
    state = {name: as_json(getattr(widget, name)) for name in {*own, "setup"}}
    (folder / "lab.mjs").write_text(widget._esm, encoding="utf-8")
    page = PAGE.format(style=widget._css, state=json.dumps(state))
    (folder / "index.html").write_text(page, encoding="utf-8")


def main(names):
    known = {card.widget: card for card in CARDS}
    unknown = set(names) - set(known)
    if unknown:
        raise SystemExit(f"not in the gallery: {', '.join(sorted(unknown))}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(serve_site(folder))
        browser = stack.enter_context(start_browser())
        for name in names or known:
            write_page(folder, known[name])
            page = new_page(browser, width=WIDTH, height=HEIGHT, reduced_motion=True)
            page.goto(address)
            page.wait_for_selector(".mlb-lab", state="attached", timeout=20_000)
            page.wait_for_timeout(2500)  # networks in workers need a moment
            if page.problems:
                raise SystemExit(f"{name}: {page.problems}")
            shot = Image.open(io.BytesIO(page.screenshot()))
            small = (
                shot.convert("RGB").resize(SMALL, Image.LANCZOS).quantize(COLOURS, dither=Image.Dither.NONE)
            )
            small.save(FOLDER / f"{known[name].name}.png", optimize=True)
            page.context.close()
            print(f"{name}: {(FOLDER / f'{known[name].name}.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
