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


@pytest.fixture(scope="module")
def tabs(browser):
    """Two empty pages for all labs of a file, a desk's and a phone's: a new one would cost more than the lab's page."""
    pages = {}

    def tab(width):
        phone = width < 700
        if phone not in pages:
            pages[phone] = browsing.new_page(browser, width=width, mathematics=False)
        return pages[phone]

    yield tab
    for page in pages.values():
        page.context.close()


@pytest.fixture
def open_lab(site, tabs):
    """open_lab("which-way", width=390): the lab on its page, without the page's formulas (test_site.py has them set).

    Of every lab that is opened: nothing sticks out of it, and whatever is done with it, nothing goes wrong on its page.
    """
    import lab_page  # and PyTorch with it

    pages = []

    def open_one(name, page=None, *, width=1280, height=900, reduced_motion=False):
        tab = tabs(width)
        tab.set_viewport_size({"width": width, "height": height})
        motion = "reduce" if reduced_motion else "no-preference"
        tab.emulate_media(color_scheme="light", reduced_motion=motion)
        tab.problems.clear()
        pages.append(tab)
        lab = lab_page.Lab(browsing.open_and_settle(tab, site + (page or lab_page.PAGES[name])), name)
        lab.assert_fits(width)
        return lab

    yield open_one
    assert [page.problems for page in pages if page.problems] == []
