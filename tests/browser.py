"""The built site in a real browser with the network cut: helpers for the site tests and for the labs' tests.

    def test_lab(open_page):                         # the fixture is in conftest.py
        page = open_page("book/04_maml.html")        # loaded, mathematics and widgets drawn
        page.locator("...").click()
        assert page.problems == []

`open_page` takes width=390 (a phone), dark=True, reduced_motion=True, and mathematics=False for what does not look at the
formulas: setting them is most of what a long page takes. guess=True leaves labs covered until a guess is made. `page` is an
ordinary page of playwright's synchronous interface with one more attribute: `problems`, a list of what went wrong so far (a
request to another host, an answer other than 2xx or 3xx, a console error, an exception in JavaScript).

`serve_site()` and `new_page()` are what the fixture is made of, for use outside pytest.
"""

import contextlib
import functools
import gzip
import http.server
import re
import threading
from pathlib import Path
from urllib.parse import urlparse

from find_browser import NO_BROWSER, find_browser

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
NO_MATHJAX = "window.MathJax = { ...window.MathJax, startup: { promise: Promise.resolve() } };"
PATIENCE = 90_000  # milliseconds; a page takes one or two seconds, but the machine may be busy
ARGUMENTS = [
    "--no-sandbox",  # Chromium refuses to run as root otherwise, as in most CI containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A page closed in the middle of a transfer is nothing to report."""


@contextlib.contextmanager
def serve_site(folder=HTML):
    """Serve a folder on a free port of this machine; gives its address, with a slash at the end."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def start_browser():
    """A headless Chromium; RuntimeError with one clear line where there is none."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    if path is None:
        raise RuntimeError(NO_BROWSER)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def new_page(
    browser, *, width=1280, height=900, dark=False, reduced_motion=False, mathematics=True, guess=False
):
    """An empty page that can reach this machine only and writes down in `page.problems` what goes wrong."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if reduced_motion else "no-preference",
        has_touch=width < 700,
    )
    if not guess:  # labs stand open, as for a reader who wants no questions
        context.add_init_script("localStorage.setItem('mlbook-guess-off', 'true')")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.problems = problems = []

    def gate(route):
        address = urlparse(route.request.url)
        if address.scheme in {"blob", "data"} or address.hostname == "127.0.0.1":
            return route.continue_()
        problems.append(f"asks another host: {route.request.url}")
        return route.abort()

    context.route("**/*", gate)
    if not mathematics:
        context.route(
            "**/mathjax/**", lambda route: route.fulfill(body=NO_MATHJAX, content_type="text/javascript")
        )
    page.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda error: problems.append(f"JavaScript: {error}"))
    page.on("console", lambda m: problems.append(f"console: {m.text[:200]}") if m.type == "error" else None)
    return page


def open_and_settle(page, address):
    """Load a page and wait until its mathematics and its widgets are drawn (problems go to page.problems)."""
    from playwright.sync_api import TimeoutError

    page.goto(address)
    try:
        page.wait_for_function(
            "!window.MathJax || (MathJax.startup && MathJax.startup.promise)", timeout=PATIENCE
        )
        page.evaluate(
            "window.MathJax?.startup?.promise?.then(() => 1)"
        )  # a redirected page may have just begun
    except TimeoutError:
        page.problems.append("MathJax did not start")
    try:
        page.wait_for_function(f"({UNDRAWN_WIDGETS})() === 0", timeout=PATIENCE)
    except TimeoutError:
        page.problems.append(f"{page.evaluate(UNDRAWN_WIDGETS)} widgets not drawn")
    page.wait_for_timeout(100)
    return page


def by_night(page):
    """An open page as its reader sees it who then turns the light off, all transitions at their end."""
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.evaluate("document.getAnimations().forEach(a => a instanceof CSSTransition && a.finish())")
    page.wait_for_timeout(50)


# A widget's place holds a script with its description; the manager draws the widget beside it.
UNDRAWN_WIDGETS = """() =>
  [...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')]
    .filter(script => !script.parentElement.querySelector('.widget-subarea > *, .jupyter-widgets, .anywidget')).length
"""

AXE = ROOT / "node_modules/axe-core/axe.min.js"
# Not what MathJax makes inside a formula: thousands of elements, and its own business. Contrast, which takes axe a minute on
# a long page, is measured by tests/test_site.py in a second.
RUN_AXE = """async () => {
    const found = await axe.run({ exclude: [["mjx-container > *"]] }, {
        preload: false,
        runOnly: { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] },
        rules: { "color-contrast": { enabled: false } },
        resultTypes: ["violations"],
    });
    return found.violations.filter(v => ["serious", "critical"].includes(v.impact)).map(v =>
        `${v.id} (${v.impact}): ${v.help}: ${v.nodes.slice(0, 4).map(n => n.html.slice(0, 160)).join(" | ")}`);
}"""


def audit(page):
    """The serious and critical findings of axe-core on an open page, one line each."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    return page.evaluate(RUN_AXE)


# What a page asks for, packed by gzip as every host of static pages does. Widgets: what draws them, and what they carry.
STATE = re.compile(rb'<script type="application/vnd.jupyter.widget-state\+json">.*?</script>', re.DOTALL)
IS_WIDGET = re.compile(r"require\.js|embed-amd|anywidget|widgets-offline|js/labs\.js")
PACKED = {".woff2", ".woff", ".png", ".webp", ".jpg"}


def weights(page):
    """{without, with}: bytes of an open page without and with its widgets; and the files that weigh most."""
    names = page.evaluate("performance.getEntriesByType('resource').map(r => r.name)")
    sizes = {}
    for name in {page.url, *names}:
        address = urlparse(name)
        if address.scheme not in {"http", "https"} or address.path == "/favicon.ico":
            continue
        data = (HTML / address.path.lstrip("/")).read_bytes()
        sizes[address.path] = (
            len(data) if Path(address.path).suffix in PACKED else len(gzip.compress(data, 6))
        )
    document = (HTML / urlparse(page.url).path.lstrip("/")).read_bytes()
    state = len(gzip.compress(document, 6)) - len(gzip.compress(STATE.sub(b"", document), 6))
    widgets = state + sum(size for name, size in sizes.items() if IS_WIDGET.search(name))
    total = sum(sizes.values())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    return {"without": total - widgets, "with": total, "largest": largest}
