"""What a shared link shows: a card per page with its title, its first words and the picture of its lab; the address of each
page (canonical, sitemap); a page for addresses that do not exist.

sphinxext-opengraph and sphinx-notfound-page do the work; here stands what they need to know, all from the one address in
_config.yml. The sitemap is written here: sphinx-sitemap lists only the pages that a build has written anew.
"""

import html
import re
from pathlib import Path
from urllib.parse import urlparse

from docutils import nodes

LONGEST = 200  # characters of a description; networks cut longer ones

NO_SUCH_PAGE = "There is no such page"
MISSING = (
    "<h1>{title}</h1>\n"
    '<p>The address may be old or mistyped. The <a href="{root}book/index.html">front page</a> has the map of the book, and the '
    '<a href="{root}search.html">search</a> finds words in all chapters.</p>'
)


def _configure(app, config):
    address = config.html_baseurl
    config.ogp_site_url = address
    config.ogp_site_name = config.html_title
    config.ogp_social_cards = {"enable": False}  # the pictures are those of the labs
    config.ogp_enable_meta_description = True
    root = urlparse(address).path
    config.notfound_context = {
        "title": NO_SUCH_PAGE,
        "body": MISSING.format(title=NO_SUCH_PAGE, root=root),
    }
    config.notfound_urls_prefix = root


def _pictures():
    """{page: (file of the picture, what it shows)}: the first lab of each page."""
    from mlbook.pages.labs.gallery import CARDS

    found = {}
    for card in CARDS:
        page = card.page.split("#")[0]
        found.setdefault(page, (f"labs/{card.name}.png", f"{card.title}: {card.sentence}"))
    return found


def _words(node):
    """The text of a node without its formulas."""
    return "".join(
        text.astext() for text in node.findall(nodes.Text) if not isinstance(text.parent, nodes.math)
    )


def _description(doctree):
    """What a chapter teaches, or the first paragraph of another page, cut to a description's length."""
    text = ""
    for box in doctree.findall(nodes.admonition):
        if box[0].astext() == "You will be able to":
            text = " ".join(_words(item) for item in box.findall(nodes.list_item))
            text = text[:1].upper() + text[1:]
            break
    else:
        for paragraph in doctree.findall(nodes.paragraph):
            if len(paragraph.astext()) > 60 and isinstance(paragraph.parent, (nodes.section, nodes.document)):
                text = _words(paragraph)
                break
    text = re.sub(r"\s+([;:,.])", r"\1", " ".join(text.split()))
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"


def _add_card(app, pagename, templatename, context, doctree):
    pictures = _pictures()
    name = pagename.rsplit("/", 1)[-1]
    file, alt = pictures.get(name, pictures["index"])
    context["meta"] = {**(context.get("meta") or {})}
    context["meta"].setdefault("og:image", f"{app.config.html_baseurl}_static/{file}")
    context["meta"].setdefault("og:image:alt", alt)
    if doctree is not None and (description := _description(doctree)):
        context["meta"]["og:description"] = description
        context["metatags"] += f'<meta name="description" content="{html.escape(description)}" />\n'


def _write_sitemap(app, exception):
    if exception or app.builder.format != "html":
        return
    pages = (
        f"{app.config.html_baseurl}{app.builder.get_target_uri(name)}" for name in sorted(app.env.found_docs)
    )
    urls = "\n".join(f"<url><loc>{html.escape(page)}</loc></url>" for page in pages)
    head = (
        '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    )
    Path(app.outdir, "sitemap.xml").write_text(f"{head}\n{urls}\n</urlset>\n", encoding="utf-8")


def setup(app):
    for name in ("sphinxext.opengraph", "notfound.extension"):
        app.setup_extension(name)
    app.connect("config-inited", _configure, priority=1)
    app.connect("html-page-context", _add_card, priority=1)
    app.connect("build-finished", _write_sitemap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
