"""Fixtures for tests that look at the built site (see browser.py)."""

import browser as browsing
import pytest


@pytest.fixture(scope="session")
def site():
    """Address of the built site."""
    if not (browsing.HTML / "book/index.html").exists():
        pytest.fail("the site is not built: run `make book` first", pytrace=False)
    with browsing.serve_site() as address:
        yield address


# One browser per test module: playwright keeps an event loop open, which the notebooks' tests must not meet.
@pytest.fixture(scope="module")
def browser():
    """A headless Chromium. Without one the tests fail: a site that nobody looked at is not tested."""
    try:
        with browsing.start_browser() as chromium:
            yield chromium
    except RuntimeError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def open_page(site, browser):
    """open_page("book/04_maml.html", width=390, dark=True): a page of the site, drawn completely."""
    pages = []

    def open_one(path, **settings):
        page = browsing.new_page(browser, **settings)
        pages.append(page)
        return browsing.open_and_settle(page, site + path)

    yield open_one
    for page in pages:
        page.context.close()
