"""The front page: whom it speaks to, where to begin, nothing that jumps, and a map that fits."""

import itertools

import pytest
from browser import ROOT, new_page, open_and_settle

CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
SHIFTS = """
window.shift = 0;
new PerformanceObserver((list) => list.getEntries().forEach((e) => e.hadRecentInput || (window.shift += e.value)))
  .observe({ type: "layout-shift", buffered: true });
"""


def boxes_of(columns, rows):
    from book_map import BOX, GAP, HEAD, ROW

    return {
        n: (i * (BOX[0] + GAP) + 2, HEAD + rows[n] * ROW, *BOX)
        for i, numbers in enumerate(columns)
        for n in numbers
    }


def through(segment, box):
    """Whether a level or upright segment runs through the inside of a box."""
    (x1, y1), (x2, y2) = segment
    x, y, width, height = box
    return max(x1, x2) > x and min(x1, x2) < x + width and max(y1, y2) > y and min(y1, y2) < y + height


@pytest.mark.site
@pytest.mark.parametrize(
    "columns, wanted",
    [
        ([[1, 2, 3], [4, 5, 6]], {1: [], 2: [1], 3: [2], 4: [1], 5: [1, 4], 6: [2, 5]}),
        ([[1, 2], [3, 4], [5, 6, 7]], {1: [], 2: [1], 3: [1], 4: [2], 5: [1], 6: [1, 2], 7: [1, 2, 3]}),
        ([[1], [2], [3], [4, 5, 6]], {1: [], 2: [], 3: [2], 4: [1, 3], 5: [1, 2], 6: [1, 2, 3, 4]}),
    ],
)
def test_no_arrow_runs_behind_a_box(columns, wanted):
    from book_map import corners, rows_of

    rows = rows_of(columns, wanted)
    boxes = boxes_of(columns, rows)
    found = corners(columns, rows, wanted)
    assert sorted(found) == sorted((n, number) for number, needed in wanted.items() for n in needed)
    for (start, end), points in found.items():
        x, y, width, height = boxes[start]
        assert points[0] == (x + width / 2, y + height)
        x, y, width, _ = boxes[end]
        assert points[-1] == (x + width / 2, y)
        for segment in itertools.pairwise(points):
            assert segment[0][0] == segment[1][0] or segment[0][1] == segment[1][1], "a corner is square"
            assert not [n for n, box in boxes.items() if through(segment, box)], (start, end, points)
            assert all(0 <= px <= len(columns) * 160 for px, _ in segment)


@pytest.mark.site
def test_the_arrows_of_the_books_own_map(open_page):
    """Points along each arrow, except near its ends, lie in no box."""
    page = open_page("book/index.html", width=1440)
    hits = page.evaluate("""() => {
        const boxes = [...document.querySelectorAll('.book-map rect')].map((r) => r.getBBox());
        return [...document.querySelectorAll('.map-arrow')].flatMap((path) => {
            const length = path.getTotalLength(), found = [];
            for (let s = 2; s < length - 2; s += 1) {
                const p = path.getPointAtLength(s);
                const inside = (b) => p.x > b.x && p.x < b.x + b.width && p.y > b.y && p.y < b.y + b.height;
                if (boxes.some(inside)) found.push([p.x, p.y]);
            }
            return found;
        });
    }""")
    assert page.locator(".map-arrow").count() >= len(CHAPTERS) - 3
    assert hits == []


@pytest.mark.site
@pytest.mark.parametrize("width", [800, 1280, 1440])
def test_the_map_fits_its_column(open_page, width):
    page = open_page("book/index.html", width=width)
    picture, around = (page.locator(s).first.bounding_box() for s in (".book-map svg", ".book-map"))
    assert picture["width"] <= around["width"] + 1
    assert page.locator(".book-map-list").is_hidden()


@pytest.mark.site
def test_the_map_is_a_list_on_a_phone(open_page):
    page = open_page("book/index.html", width=390, height=844)
    assert page.locator(".book-map").is_hidden()
    links = page.locator(".book-map-list a")
    assert [links.nth(i).get_attribute("data-chapter") for i in range(links.count())] == CHAPTERS
    assert links.first.is_visible()
    assert "after 1" in page.locator(".book-map-list li").nth(1).inner_text()


@pytest.mark.site
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_the_first_screen_says_to_whom_and_starts(open_page, size):
    width, height = size
    page = open_page("book/index.html", width=width, height=height)
    promise = page.locator("p.front-promise")
    assert promise.inner_text().count(". ") <= 1 and len(promise.inner_text()) < 240, "two sentences"
    for place in (promise, *page.locator(".front-start a").all()):
        box = place.bounding_box()
        assert box["y"] + box["height"] < height, place.inner_text()
    start, see = page.locator(".front-start a").all()
    assert start.bounding_box()["height"] >= 40
    see.click()
    page.wait_for_function("location.hash === '#the-map'")
    start.click()
    page.wait_for_url("**/01_learning_to_learn.html")
    assert page.problems == []


@pytest.mark.site
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_nothing_jumps_while_the_page_is_loading(browser, site, size):
    width, height = size
    page = new_page(browser, width=width, height=height)
    page.add_init_script(SHIFTS)
    open_and_settle(page, site + "book/index.html")
    for place in ("#you-against-maml", "#what-a-gradient-step-does", "#the-map"):
        page.locator(place).scroll_into_view_if_needed()
        page.wait_for_timeout(300)
    shift = page.evaluate("window.shift")
    page.context.close()
    assert shift < 0.05, shift


@pytest.mark.site
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
@pytest.mark.parametrize("lab", ["you-against-maml", "two-starts"])
def test_the_room_kept_for_a_lab_is_the_one_it_takes(open_page, lab, size):
    width, height = size
    page = open_page("book/index.html", width=width, height=height)
    cell = page.locator(f".cell.tag_lab-{lab} .cell_output")
    kept = float(cell.evaluate("e => parseFloat(getComputedStyle(e).minHeight)"))
    margins = 8  # the lab's own, above and below
    taken = cell.locator(".mlb-lab").bounding_box()["height"] + margins
    assert 0 <= kept - taken <= 16, (kept, taken)


@pytest.mark.site
def test_the_dashed_curve_is_explained(open_page):
    page = open_page("book/index.html")
    legend = page.locator('[data-lab="two-starts"] .mlb-legend').last.inner_text()
    assert "the true wave, which neither network sees" in legend
