"""The whole book on one page, to print or to save as PDF: _build/html/book/complete.html.

    python tools/make_print.py            # after the site is built; tools/build_book.py calls it
    python tools/make_print.py --pdf      # and print it into _build/mlbook.pdf with a headless Chromium (`make pdf`)

The pages are put one after the other in the order of the table of contents. Links between pages become links within this one;
labs, which need a reader's hands, become a line that says where they are; solutions stand open; code that only draws is left out.
"""

import re
import sys
from pathlib import Path

import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
LEFT_OUT = {
    "book/progress",
    "book/print",
    "book/api",
    "book/labs",
}  # what is of use on the site only, and a long listing
DROPPED = "script, .figure-tools, .headerlink, .study-check, .study-end, details.hide.above-input, .sd-stretched-link, button, .book-map"


def documents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [name for name in names if name not in LEFT_OUT]


def article(soup, name, names):
    """The article of one page, made fit to stand beside the others."""
    page = name.rsplit("/", 1)[-1]
    pages = {other.rsplit("/", 1)[-1] for other in names}
    found = soup.select_one("article.bd-article")
    for view in found.find_all("script", type="application/vnd.jupyter.widget-view+json"):
        note = soup.new_tag("p", attrs={"class": "print-lab"})
        note.string = f"A lab stands here. It lives on the site, on the page {page}.html."
        (view.find_parent(class_="cell") or view).replace_with(note)
    for node in found.select(DROPPED):
        node.decompose()
    for node in found.find_all(True):  # one walk: every `select` is a walk of its own, and slower
        if node.name == "section" and node.get("id", "").endswith("-content"):  # of boxes: the same in each
            del node["id"]
        if node.name == "details":
            node["open"] = ""
        for attribute in ("id", "for", "aria-labelledby", "aria-describedby"):
            if node.get(attribute):
                node[attribute] = " ".join(f"{page}--{part}" for part in node[attribute].split())
        target, _, anchor = node.get("href", "").partition("#")
        if node.name != "a" or "href" not in node.attrs or re.match(r"\w+:", target):
            continue
        other = target.removesuffix(".html") or page
        if other in pages:
            node["href"] = f"#{other}--{anchor}" if anchor else f"#{other}"
    found["id"] = page
    return found


def main():
    names = documents()
    soups = {
        name: BeautifulSoup((HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for name in names
    }
    first = soups[names[0]]
    # A chapter's head: it brings MathJax with the book's settings, which the front page does without.
    head = next(
        soup
        for name, soup in soups.items()
        if soup.select_one('script[src*="mathjax"], script[src*="MathJax"]')
    ).head
    keep = [str(node) for node in head.select('meta[charset], meta[name="viewport"], link[rel="stylesheet"]')]
    scripts = [s for s in head.select("script") if "mathjax" in f"{s.get('src', '')}{s.string or ''}".lower()]
    keep += [str(node) for node in scripts]
    title = first.select_one("title").text.strip()
    body = "\n".join(str(article(soups[name], name, names)) for name in names)
    page = f"""<!DOCTYPE html>
<html lang="en" data-content_root="../" data-theme="light" data-mode="light">
<head>{"".join(keep)}<title>{title}: the whole book</title></head>
<body class="print-edition"><main class="bd-main bd-content">{body}</main></body>
</html>
"""
    (HTML / "book/complete.html").write_text(page, encoding="utf-8")
    return HTML / "book/complete.html"


def to_pdf(target):
    """Print the page with a headless Chromium."""
    sys.path.insert(0, str(ROOT / "tests"))
    import browser

    with browser.serve_site() as address, browser.start_browser() as chromium:
        page = browser.new_page(chromium)
        browser.open_and_settle(page, address + "book/complete.html")
        if page.problems:
            sys.exit("the page is not whole:\n" + "\n".join(page.problems))
        number = (
            '<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>'
        )
        page.pdf(
            path=str(target),
            format="A4",
            margin=dict.fromkeys(("top", "right", "bottom", "left"), "16mm"),
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=number,
            print_background=True,
        )
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
    if "--pdf" in sys.argv[1:]:
        to_pdf(ROOT / "_build/mlbook.pdf")
