"""Point the Colab button at the chapter's Colab copy.

MyST boxes, citations and cross-references are raw text in Colab. tools/make_colab.py writes copies without them, and
the Pages workflow pushes those to a branch of their own; the button leads there. The address comes from _config.yml.
"""

from chapter_numbers import chapter_number

COLAB = "https://colab.research.google.com"
FURTHER = ("own_data", "engine")
"""Pages beside the chapters that have a copy."""


def has_copy(docname):
    """Whether tools/make_colab.py writes a copy of a page."""
    return bool(chapter_number(docname)) or docname.rsplit("/", 1)[-1] in FURTHER


def colab_url(repository, branch, docname):
    """The address at which Colab opens the copy of one chapter."""
    path = repository.removeprefix("https://github.com/").strip("/")
    return f"{COLAB}/github/{path}/blob/{branch}/{docname.rsplit('/', 1)[-1]}.ipynb"


def _rewrite(app, pagename, templatename, context, doctree):
    repository = app.config.html_theme_options.get("repository_url", "")
    target = colab_url(repository, app.config.colab_branch, pagename)

    def visit(buttons):
        for button in [*buttons]:
            if button.get("url", "").startswith(COLAB):
                button["url"] = target
                if not has_copy(pagename):
                    buttons.remove(button)
            visit(button.get("buttons", []))

    visit(context.get("header_buttons", []))


def setup(app):
    app.add_config_value("colab_branch", "colab", "html")
    app.connect("html-page-context", _rewrite, priority=600)  # after the theme has made its buttons (501)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
