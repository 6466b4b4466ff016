"""Every page of the built book, in a real browser that can reach nothing but this machine."""

import html
import re

import pytest
import yaml
from book_labels import Book
from browser import HTML, ROOT, audit, by_night, new_page, open_and_settle, weights
from chapter_numbers import chapter_number
from fontTools.ttLib import TTFont

pytestmark = pytest.mark.site

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
DOCNAMES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
PAGES = [f"{name}.html" for name in DOCNAMES]
CHAPTERS = [name for name in DOCNAMES if chapter_number(name)]

UNRENDERED = """() => [...document.querySelectorAll('.math')]
    .filter(e => !e.querySelector('mjx-container')).map(e => e.textContent.slice(0, 80))"""
# MathJax shows an unknown macro in red instead of failing.
TEX_ERRORS = """() => [...document.querySelectorAll('mjx-merror, mjx-mtext[style*="color: red"]')]
    .map(e => e.closest('mjx-container').parentElement.textContent.slice(0, 80) || 'merror')"""
# Delimiters outside code mean that maths, a role or a directive was not recognised.
RAW_MARKUP = r"""() => {
    const walker = document.createTreeWalker(document.querySelector('.bd-article'), NodeFilter.SHOW_TEXT);
    const found = [];
    for (let node; (node = walker.nextNode()); ) {
        if (node.parentElement.closest('pre, code, script, style, mjx-container, .anywidget, .widget-subarea')) continue;
        if (/\$\$|\\\(|\\\[|\{[a-z]+(:[a-z]+)?\}`|:::|\\begin\{/.test(node.data)) found.push(node.data.trim().slice(0, 80));
    }
    return found;
}"""
MISSING_ALT = """() => [...document.querySelectorAll('.bd-article img')]
    .filter(e => !(e.getAttribute('alt') || '').trim()).map(e => e.outerHTML.slice(0, 120))"""
OVERFLOW = """() => {
    const root = document.documentElement;
    if (root.scrollWidth <= root.clientWidth + 1) return [];
    const wide = [...document.querySelectorAll('.bd-main *')].filter(e => {
        if (e.getBoundingClientRect().right <= root.clientWidth + 1) return false;
        for (let p = e.parentElement; p; p = p.parentElement)
            if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
        return true;
    });
    return [`${root.scrollWidth} px wide`, ...wide.slice(0, 5).map(e => e.outerHTML.slice(0, 120))];
}"""
HEADINGS = """() => [...document.querySelectorAll('.bd-article h1, .bd-article h2, .bd-article h3, .bd-article h4, .bd-article h5, .bd-article h6')]
    .filter(e => !e.closest('.widget-subarea, .cell_output')).map(e => [Number(e.tagName[1]), e.textContent])"""  # noqa: E501
# WCAG 2 contrast of text and the ground behind it, for every element with text of its own: prose, code, menus, labs.
# Value: how much of the demanded ratio is there (4.5, or 3 for large text), least first.
CONTRASTS = """() => {
    const parse = s => { const n = s.match(/[\\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
    const light = c => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
                         return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
    const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
    const ground = e => {
        const layers = [];
        for (let p = e; p; p = p.parentElement) {
            const c = parse(getComputedStyle(p).backgroundColor);
            if (c[3] > 0) layers.push(c);
            if (c[3] === 1) break;
        }
        return layers.reduceRight((below, c) => over(c, below), [255, 255, 255, 1]);
    };
    const hasText = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    const seen = new Map();
    for (const e of document.body.querySelectorAll('*')) {
        if (!hasText(e) || e.closest('svg, mjx-container, script, style, noscript, [hidden], [aria-hidden="true"]')) continue;
        if (!e.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
        const box = e.getBoundingClientRect();
        if (box.width < 2 || box.height < 2) continue;
        const style = getComputedStyle(e), back = ground(e), text = over(parse(style.color), back);
        const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        const [a, b] = [light(back), light(text)].sort((x, y) => y - x);
        const share = (a + 0.05) / (b + 0.05) / (large ? 3 : 4.5);
        const key = `${e.tagName} ${style.color} ${back}`;
        if (!seen.has(key)) seen.set(key, [share, `${key} ${e.className}: ${e.textContent.trim().slice(0, 60)}`]);
    }
    return [...seen.values()].sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture(scope="module")
def book():
    return Book(ROOT)


def test_assets_are_the_sites_own():
    """With CDN links every page would fail below; this says why in one line."""
    assert (ROOT / "book/_static/vendor/complete").exists(), (
        "the site was built with CDN links: tools/vendor.py could not fetch the browser libraries"
    )


@pytest.fixture(scope="module")
def tab(browser):
    page = new_page(browser)
    yield page
    page.context.close()


@pytest.fixture(scope="module", params=PAGES)
def page(site, tab, request):
    """A page of the book, loaded once for all questions: loading is what takes the time."""
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(color_scheme="light")
    tab.problems.clear()
    return open_and_settle(tab, site + request.param)


def test_a_page_is_complete_and_its_text_readable(page):
    """Everything is there, nothing is asked of another host, maths and widgets are drawn."""
    assert page.problems == []
    assert page.evaluate(UNRENDERED) == []
    assert page.evaluate(TEX_ERRORS) == []
    assert page.evaluate(RAW_MARKUP) == []
    assert page.evaluate(MISSING_ALT) == []
    assert len(page.inner_text(".bd-article")) > 200, "the page is almost empty"
    weight = weights(page)
    assert weight["without"] < 1_500_000 and weight["with"] < 5_000_000, weight
    check_headings(page.evaluate(HEADINGS))
    check_contrasts(page, "light")
    assert audit(page) == []


def test_a_page_is_readable_by_night(page):
    by_night(page)
    check_contrasts(page, "dark")
    assert page.problems == []


def test_nothing_sticks_out_on_a_phone(page):
    """At 390 px, in the article or in the menus. The labs' own tests load their pages at this width."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate(OVERFLOW) == []
    assert page.problems == []


def check_headings(headings):
    """One title, and no level skipped on the way down."""
    levels = [level for level, _ in headings]
    assert levels and levels[0] == 1 and levels.count(1) == 1, headings
    jumps = [headings[i + 1] for i in range(len(levels) - 1) if levels[i + 1] > levels[i] + 1]
    assert jumps == [], "a level is skipped"


def check_contrasts(page, theme):
    """WCAG AA for body text."""
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    contrasts = page.evaluate(CONTRASTS)
    assert contrasts, "no text found"
    assert [pair for pair in contrasts if pair[0] < 1] == []


def test_no_cell_of_a_table_packs_numbers():
    """Numbers after several steps have a column each, not slashes between them."""
    packed = []
    for page in PAGES:
        cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", (HTML / page).read_text(encoding="utf-8"), re.DOTALL)
        words = [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in cells]
        packed += [
            (page, text) for text in words if re.fullmatch(r"[−–-]?[\d.,±% −–-]* / [\d.,±% −–/-]*", text)
        ]
    assert packed == []


@pytest.mark.parametrize("docname", CHAPTERS)
def test_first_paint_waits_for_no_script_of_ours(docname):
    """MathJax and our own scripts are fetched beside the page, not before it."""
    text = (HTML / f"{docname}.html").read_text(encoding="utf-8")
    ours = re.findall(r'<script[^>]*src="[^"]*(?:mathjax/|js/self_study|js/glossary)[^"]*"[^>]*>', text)
    assert len(ours) == 2 and all(re.search(r"\b(defer|async)\b", tag) for tag in ours), ours
    late = re.findall(r"DOMContentLoaded.{,120}src: .[^']*mathjax/", text)
    assert len(late) == 1, "MathJax comes after the labs"


def test_icons_are_the_few_that_are_shown():
    """Every icon of a page is in a font, and the fonts weigh little: each page fetches them."""
    (folder,) = (HTML / "_static" / "vendor" / "fontawesome").iterdir()
    style = (folder / "css" / "all.min.css").read_text(encoding="utf-8")
    fonts = {path.name: TTFont(path) for path in (folder / "webfonts").iterdir()}
    assert sum(path.stat().st_size for path in (folder / "webfonts").iterdir()) < 20_000 and len(fonts) == 3
    drawn = {code for font in fonts.values() for code in font.getBestCmap()}
    theme = "".join(path.read_text(encoding="utf-8") for path in (HTML / "_static" / "styles").glob("*.css"))
    boxes = {ord(icon) for icon in re.findall(r"--pst-icon-[\w-]+:\s*[\"'](.)[\"']", theme)}
    assert len(boxes) > 8 and boxes <= drawn, "icons of admonitions"
    page = (HTML / "book" / "04_maml.html").read_text(encoding="utf-8")
    icons = set(re.findall(r'class="fa[srb]? (fa-[\w-]+)', page)) | set(
        re.findall(r"fa-(?:solid|brands) (fa-[\w-]+)", page)
    )
    assert len(icons) > 8
    for icon in icons - {"fa-solid", "fa-brands", "fa-lg"}:
        code = re.search(rf'\.{icon}:before[^{{]*\{{content:"\\([0-9a-f]+)"', style)
        assert code and int(code[1], 16) in drawn, icon
    assert "/webfonts/" not in page, "the page waits for no font"


def test_front_door(open_page):
    """The address of the site itself leads to the book."""
    page = open_page("")
    page.wait_for_url("**/book/index.html")
    assert page.problems == []


def test_search_finds_a_word(open_page):
    page = open_page("search.html?q=gradient")
    page.wait_for_selector("#search-results li a")
    assert page.problems == []


def test_labs_of_every_page_are_ours():
    """A picture of a widget's fallback text would pass unnoticed: the page must not contain one."""
    for path in PAGES:
        text = (HTML / path).read_text(encoding="utf-8")
        assert "Failed to display Jupyter Widget" not in text, path


@pytest.mark.parametrize("docname", CHAPTERS)
def test_chapter_numbers_and_colab_button(docname, book):
    """Chapter 4 is called 4, and its button opens its own Colab copy."""
    text = (HTML / f"{docname}.html").read_text(encoding="utf-8")
    number = chapter_number(docname)
    heading = re.search(r'<h1><span class="section-number">(.*?)</span>(.*?)<a class', text).groups()
    assert heading[0] == f"{number}. " and not heading[1].startswith(f"{number}."), heading
    assert f'href="{book.link_to(docname)}"' in text
    assert text.count("https://colab.research.google.com") == 1


def test_colab_copies_number_things_as_the_site_does(book):
    """tools/book_labels.py counts equations, algorithms and exercises by itself; the site is the judge."""
    pages = {name: (HTML / f"{name}.html").read_text(encoding="utf-8") for name in DOCNAMES}
    compared = 0
    for label, (kind, number, _, url) in book.references.items():
        docname = url.removeprefix(book.site).split(".html")[0]
        anchor = re.escape(url.rsplit("#", 1)[-1])
        if kind == "Equation":
            shown = re.search(rf'id="{anchor}">\s*<span class="eqno">\(([\d.]+)\)', pages[docname])
        elif kind == "Exercise" or kind in {"Algorithm", "Theorem", "Definition", "Lemma", "Proposition"}:
            shown = re.search(
                rf'id="{anchor}">\s*<p class="admonition-title">.*?{kind} ([\d.]+)', pages[docname]
            )
        elif kind in {"Fig.", "Table"}:
            shown = re.search(
                rf'id="{anchor}">.*?<span class="caption-number">{kind} ([\d.]+)', pages[docname], re.S
            )
        else:
            continue
        assert shown, f"{label}: no {kind} {number} with this label on {docname}"
        assert shown.group(1).rstrip(".") == number, (
            f"{label} is {kind} {shown.group(1)} on the site, {number} here"
        )
        compared += 1
    if CHAPTERS:
        assert compared
