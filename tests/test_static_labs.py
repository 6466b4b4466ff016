"""js/labs.js, which draws the labs of a built page: by itself, and with the widget manager where a page has other widgets."""

import base64
import json

import pytest
from browser import HTML, new_page, serve_site

pytestmark = pytest.mark.site

ESM = """export default {
  initialize({ model }) { model.set("started", (model.get("started") || 0) + 1); },
  render({ model, el }) {
    const view = model.get("weights");
    const show = () => { el.textContent = `${model.get("count")} ${view.getFloat32(0, true)} ${model.get("started")}`; };
    el.addEventListener("click", () => { model.set("count", model.get("count") + 1); model.save_changes(); });
    model.on("change:count", show);
    show();
  },
};"""


def page_of(states, views):
    """A page as the build makes it: the state of all widgets, and a place for each view."""
    places = "".join(
        f'<div class="place"><script type="application/vnd.jupyter.widget-view+json">{{"model_id": "{v}"}}</script></div>'
        for v in views
    )
    state = json.dumps({"version_major": 2, "version_minor": 0, "state": states})
    return (
        '<!DOCTYPE html><html lang="en" data-content_root="../"><head><meta charset="utf-8"><title>t</title>'
        f'<script defer src="../_static/js/labs.js"></script></head><body>{places}'
        f'<script type="application/vnd.jupyter.widget-state+json">{state}</script></body></html>'
    )


@pytest.fixture
def show(browser, tmp_path):
    """show(states, views): such a page, opened beside the site's own files."""
    pages = []
    (tmp_path / "_static").symlink_to(HTML / "_static")
    (tmp_path / "book").mkdir()
    with serve_site(tmp_path) as address:

        def one(states, views):
            (tmp_path / "book/page.html").write_text(page_of(states, views), encoding="utf-8")
            page = new_page(browser)
            pages.append(page)
            page.goto(address + "book/page.html")
            return page

        yield one
        for page in pages:
            page.context.close()


def anywidget(count=1):
    data = base64.b64encode(bytes([0, 0, 32, 64])).decode()  # 2.5 as little-endian float32
    return {
        "model_name": "AnyModel",
        "model_module": "anywidget",
        "model_module_version": "~0.9.*",
        "state": {"_esm": ESM, "_css": ".place { color: rgb(1, 2, 3); }", "count": count},
        "buffers": [{"data": data, "encoding": "base64", "path": ["weights"]}],
    }


def test_labs_share_what_they_show_and_load_no_manager(show):
    """Two views of one model follow each other, another model does not; bytes arrive as bytes; the style sheet is there."""
    page = show({"a": anywidget(), "b": anywidget(7)}, ["a", "a", "b"])
    labs = page.locator(".anywidget")
    labs.nth(2).get_by_text("7 2.5 1").wait_for()
    labs.nth(0).click()
    assert [labs.nth(i).inner_text() for i in range(3)] == ["2 2.5 1", "2 2.5 1", "7 2.5 1"]
    assert page.evaluate("getComputedStyle(document.querySelector('.place')).color") == "rgb(1, 2, 3)"
    assert (
        page.evaluate("performance.getEntriesByType('resource').filter(r => /embed-amd/.test(r.name)).length")
        == 0
    )
    assert page.problems == []


def test_other_widgets_get_their_manager(show):
    """An ipywidgets slider is drawn by ipywidgets' own manager, from this site."""
    from ipywidgets import IntSlider, Widget

    slider = IntSlider(value=3, description="slider")
    states = Widget.get_manager_state([slider.layout, slider.style, slider])["state"]
    page = show(states, [slider.model_id])
    page.locator(".widget-slider").wait_for()
    assert "slider" in page.locator(".widget-slider").inner_text()
    assert page.problems == []
