"""Small repairs to the built pages."""


def _title_beside_logo(app, config):
    # Not in _config.yml: theme options given there replace all that Jupyter Book sets, the buttons included.
    config.html_theme_options.setdefault("logo", {})["text"] = config.html_title


def _drop_duplicates(app, pagename, templatename, context, doctree):
    """Sphinx and sphinx-thebe register an inline script twice; the second copy is a JavaScript error."""
    files = context.get("script_files")
    if not files:
        return
    seen, keep = set(), []
    for file in files:
        body = getattr(file, "attributes", {}).get("body")
        if body is None or body not in seen:
            keep.append(file)
        seen.add(body)
    files[:] = keep


def setup(app):
    app.connect("config-inited", _title_beside_logo)
    app.connect("html-page-context", _drop_duplicates, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
