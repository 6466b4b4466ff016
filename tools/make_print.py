"""The whole book on one page, to print or to save as PDF: _build/html/book/complete.html.

    python tools/make_print.py            # after the site is built; tools/build_book.py calls it
    python tools/make_print.py --pdf      # and print it into _build/mlbook.pdf with a headless Chromium (`make pdf`)

The pages are put one after the other in the order of the table of contents, which stands in front. Links between pages become
links within this one; a lab, which needs a reader's hands, becomes its picture with its title and address; solutions stand
open; code that only draws is left out. The PDF is printed twice: Chromium cannot number a table of contents, so the first
printing tells on which page each heading has come to stand.
"""

import base64
import io
import re
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import lighter_svg
import minify_html
import yaml
from bs4 import BeautifulSoup
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
HTML = ROOT / "_build/html"
LEFT_OUT = {
    "book/progress",
    "book/print",
    "book/api",
    "book/labs",
    "book/status",
}  # what is of use on the site only, and a long listing
DROPPED = (
    "script, .figure-tools, .headerlink, .study-check, .study-end, details.hide.above-input, .sd-stretched-link, button, "
    ".book-map, .guess-cover, .quiz-why, .sd-summary-state-marker"
)
# Classes that scripts look for; of the others those stay that a style sheet asks for.
KEPT = {"math", "amsmath", "mathjax_ignore", "tex2jax_ignore"}
# In colour: comments, keywords and names that are defined. All other code has the colour of text.
PLAIN = re.compile(r'<span class="(?!c1"|k"|kn"|ow"|nf"|nc")[a-z]{1,3}\d?">([^<]*)</span>')


# What is wider than the sheet is set smaller. A table is measured by itself: its box may scroll.
FIT = """() => {
  for (const box of document.querySelectorAll("article :is(div.math, .amsmath, table)")) {
    const around = box.parentElement.closest("li, dd, blockquote, div.admonition, .sd-summary-content, details, article");
    const { paddingLeft, paddingRight } = getComputedStyle(around);
    const room = around.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight);
    for (let size = 98, i = 0; i < 4; i++) {  // paddings do not shrink with the letters: once may not be enough
      const width = Math.max(box.scrollWidth, box.offsetWidth);
      if (width <= room) break;
      box.style.fontSize = `${(size = Math.max(40, Math.floor((size * room) / width)))}%`;
    }
  }
}"""
FILL = """(pages) => {
  for (const link of document.querySelectorAll(".print-toc a")) {
    link.parentElement.querySelector(".print-page").textContent = pages[link.getAttribute("href").slice(1)] ?? "";
  }
}"""


def parts():
    """[(caption of a part, names of its pages)], the front page first."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found = [("", [toc["root"]])]
    found += [(part["caption"], [chapter["file"] for chapter in part["chapters"]]) for part in toc["parts"]]
    return [(caption, [name for name in names if name not in LEFT_OUT]) for caption, names in found]


def documents():
    return [name for _, names in parts() for name in names]


def lab_of(view, page):
    """The card of the lab whose view this is: of the labs of its page the one under its heading, or the only one."""
    from mlbook.pages.labs.gallery import CARDS

    places = [(place, card) for card in CARDS for place in (card.page, *card.other_pages)]
    here = [(place.partition("#")[2], card) for place, card in places if place.partition("#")[0] == page]
    headings = [section.get("id", "") for section in view.find_parents("section")]
    for heading, card in sorted(here, key=lambda pair: pair[0] not in headings):
        if heading in headings or len(here) == 1:
            return card
    return None


def still(soup, card, page):
    """The picture of a lab with its title and address."""
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["html"]["baseurl"]
    heading = card.page.partition("#")[2] if card.page.partition("#")[0] == page else ""
    address += f"book/{page}.html" + (f"#{heading}" if heading else "")
    figure = soup.new_tag("figure", attrs={"class": "print-lab"})
    picture = {"src": f"../_static/labs/{card.name}.png", "alt": f"Picture of the lab “{card.title}”"}
    figure.append(soup.new_tag("img", attrs=picture))
    words = soup.new_tag("figcaption")
    title = soup.new_tag("b")
    title.string = f"Lab: {card.title}. "
    link = soup.new_tag("a", attrs={"href": address})
    link.string = address
    words.extend([title, f"{card.sentence} It runs at ", link])
    figure.append(words)
    return figure


def lighter(source):
    """The address of a figure in fewer bytes: drawings by tools/lighter_svg.py, pictures as WebP with small losses."""
    if source.startswith("data:image/svg+xml,"):
        svg = lighter_svg.lighter(unquote(source.partition(",")[2]))
        return "data:image/svg+xml," + quote(svg, safe=" '/:=;,()!*+-._~?$@|[]{}<>&")
    if not source.startswith("data:image/"):
        return source
    buffer = io.BytesIO()
    picture = base64.b64decode(source.partition(",")[2])
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((1000, 1000))
    image.save(buffer, "WEBP", quality=50, method=6)
    smaller = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return min(source, smaller, key=len)


def article(soup, name, names):
    """The article of one page, made fit to stand beside the others."""
    page = name.rsplit("/", 1)[-1]
    pages = {other.rsplit("/", 1)[-1] for other in names}
    found = soup.select_one("article.bd-article")
    for view in found.find_all("script", type="application/vnd.jupyter.widget-view+json"):
        card = lab_of(view, page)
        if card:
            note = still(soup, card, page)
        else:
            note = soup.new_tag("p", attrs={"class": "print-lab"})
            note.string = f"What moves here lives on the site, on the page {page}.html."
        (view.find_parent(class_="cell") or view).replace_with(note)
    for node in found.select(DROPPED):
        node.decompose()
    for row in found.select(
        "table.ledger details"
    ):  # 380 rows: paper has the one line of each, the site what unfolds
        row.replace_with(*row.summary.contents)
    for box in found.select(".pst-scrollable-table-container"):  # paper does not scroll
        box.unwrap()
    for node in found.find_all(True):  # one walk: every `select` is a walk of its own, and slower
        if node.name == "section" and node.get("id", "").endswith("-content"):  # of boxes: the same in each
            del node["id"]
        if node.name == "details":
            node["open"] = ""
        if node.name == "img":
            node["src"] = lighter(node["src"])
        if node.name == "p" and node.parent.name in ("td", "th") and len(node.parent.find_all("p")) == 1:
            node.unwrap()
            continue
        for idle in ("title", "loading", *(name for name in node.attrs if name.startswith("data-"))):
            del node[idle]
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


def without_idle_names(articles, sheets):
    """Take off the ids to which no link leads (sections keep theirs, for the table of contents) and the classes that no
    style sheet asks for. ``sheets`` is the text of all style sheets."""
    nodes = [node for article in articles for node in article.find_all(True)]
    wanted = {node["href"][1:] for node in nodes if node.get("href", "").startswith("#")}
    for attribute in ("for", "aria-labelledby", "aria-describedby"):
        wanted.update(part for node in nodes for part in node.get(attribute, "").split())
    classes = KEPT | set(re.findall(r"\.(-?[A-Za-z_][\w-]*)", sheets))
    parts = set(re.findall(r"""\[class[~|^$*]?=["']?([^"'\]]+)""", sheets))
    for node in nodes:
        if node.name != "section" and node.get("id", "") not in wanted:
            del node["id"]
        if node.get("class"):
            asked = (k for k in node["class"] if k in classes or any(part in k for part in parts))
            node["class"] = [
                "r" if kind == "text-right" else kind for kind in asked
            ]  # of some thousand cells
            if not node["class"]:
                del node["class"]


def contents(articles):
    """The table of contents: parts, pages and their sections, with a place for the number of the page."""

    def line(anchor, heading, depth):
        for tool in heading.select(".headerlink"):
            tool.decompose()
        words = heading.decode_contents().strip()
        link = f'<a href="#{anchor}">{words}</a>'
        return f'<li class="toc-{depth}">{link}<span class="print-dots"></span><span class="print-page"></span></li>'

    lines = []
    for caption, names in parts():
        if caption:
            lines.append(f'<li class="toc-part">{caption}</li>')
        for name in names:
            page = articles[name]
            lines.append(line(page["id"], page.find("h1"), "chapter"))
            sections = [heading for heading in page.find_all("h2") if heading.find_parent("section")]
            lines += [line(h.find_parent("section")["id"], h, "section") for h in sections]
    return f'<nav class="print-toc" aria-label="Contents"><h2>Contents</h2><ol>{"".join(lines)}</ol></nav>'


def mathjax(head):
    """The scripts that set formulas: the settings and the one that fetches MathJax."""
    scripts = [s for s in head.select("script") if "mathjax" in f"{s.get('src', '')}{s.string or ''}".lower()]
    return scripts if any(".js" in f"{s.get('src', '')}{s.string or ''}" for s in scripts) else []


def main():
    names = documents()
    soups = {
        name: BeautifulSoup((HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for name in names
    }
    # The head of a page with formulas brings MathJax with the book's settings.
    head, scripts = next((s.head, found) for s in soups.values() if (found := mathjax(s.head)))
    keep = [str(node) for node in head.select('meta[charset], meta[name="viewport"], link[rel="stylesheet"]')]
    keep += [str(node) for node in scripts]
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    title, author = settings["title"], settings["author"]
    articles = {name: article(soups[name], name, names) for name in names}
    linked = [
        HTML / "book" / link["href"].partition("?")[0] for link in head.select('link[rel="stylesheet"]')
    ]
    sheets = [path.read_text(encoding="utf-8") for path in [*linked, HTML / "_static/print.css"]]
    without_idle_names(articles.values(), "\n".join(sheets))
    # BeautifulSoup writes four letters for a bracket, also where an attribute may have it, as in a drawing.
    brackets = re.compile(r'(?<=src=")data:image/svg[^"]*')
    body = PLAIN.sub(r"\1", "\n".join(str(part) for part in articles.values()))
    body = brackets.sub(lambda m: m[0].replace("&lt;", "<").replace("&gt;", ">"), body)
    front = f'<header class="print-title"><h1>{title}</h1><p>{author}</p></header>'
    page = f"""<!DOCTYPE html>
<html lang="en" data-content_root="../" data-theme="light" data-mode="light">
<head>{"".join(keep)}<link rel="stylesheet" href="../_static/print.css"><title>{title}: the whole book</title></head>
<body class="print-edition"><main class="bd-main bd-content">{front}{contents(articles)}{body}</main></body>
</html>
"""
    page = minify_html.minify(page)
    (HTML / "book/complete.html").write_text(page, encoding="utf-8")
    return HTML / "book/complete.html"


def pages_of(pdf):
    """{anchor: number of its page}, from the names that Chromium gives the places to which links lead."""
    objects = {int(n): body for n, body in re.findall(rb"\n(\d+) 0 obj\s*(.*?)\nendobj", pdf, re.DOTALL)}

    def leaves(number):
        kids = re.search(rb"/Kids\s*\[(.*?)\]", objects[number], re.DOTALL)
        if not kids:
            return [number]
        return [leaf for kid in re.findall(rb"(\d+) 0 R", kids[1]) for leaf in leaves(int(kid))]

    catalog = next(body for body in objects.values() if re.search(rb"/Type\s*/Catalog", body))
    order = {leaf: i for i, leaf in enumerate(leaves(int(re.search(rb"/Pages (\d+) 0 R", catalog)[1])), 1)}
    places = rb"/([^\s/\[\]<>()]+)\s*\[(\d+) 0 R\s*/XYZ"
    found = {}
    for body in objects.values():
        for name, leaf in re.findall(places, body):
            name = re.sub(rb"#([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), name)
            found[name.decode("utf-8", "replace")] = order[int(leaf)]
    return found


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
        page.set_viewport_size({"width": 672, "height": 1000})  # what an A4 sheet holds between its margins
        page.emulate_media(media="print")
        page.evaluate(FIT)
        settings = dict(
            format="A4",
            margin=dict.fromkeys(("top", "right", "bottom", "left"), "16mm"),
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=number,
            print_background=True,
            outline=True,
            tagged=True,
        )
        numbers = pages_of(page.pdf(**settings))
        page.evaluate(FILL, numbers)
        page.pdf(path=str(target), **settings)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
    if "--pdf" in sys.argv[1:]:
        to_pdf(ROOT / "_build/mlbook.pdf")
