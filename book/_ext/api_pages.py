"""Fill the API page: one section per public module, one entry per public function and class.

Docstrings are shown as they are written, as preformatted text. They are meant to be read in an editor, with Greek
letters, shapes and short tables, and turning them into reStructuredText would only break them.
"""

import ast
import importlib
import inspect
import pkgutil

PLACE = "<!-- api -->"
PUBLIC = "<!-- public -->"


def _modules():
    import mlbook

    names = [m.name for m in pkgutil.walk_packages(mlbook.__path__, "mlbook.")]
    return [n for n in sorted(names) if not any(part.startswith("_") for part in n.split("."))]


class _Written:
    """An annotation as it is written in the code, without the quotes that `from __future__` gives it."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


def _unquote(annotation):
    return _Written(annotation) if isinstance(annotation, str) else annotation


def _signature(thing):
    try:
        signature = inspect.signature(thing)
        parameters = [p.replace(annotation=_unquote(p.annotation)) for p in signature.parameters.values()]
        returned = (
            inspect.Signature.empty if inspect.isclass(thing) else _unquote(signature.return_annotation)
        )
        text = str(signature.replace(parameters=parameters, return_annotation=returned))
        ast.parse(f"def f{text}: ...")
    except (TypeError, ValueError, SyntaxError):  # builtins; defaults whose repr is not Python
        return "(...)"
    return text


def _public(module):
    """Functions and classes defined in this module, in the order of its file."""
    things = [
        (name, thing)
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__ == module.__name__
    ]
    return sorted(things, key=lambda pair: inspect.getsourcelines(pair[1])[1])


def _preformatted(docstring):
    fence = "`" * 7
    return [fence + "{code-block} text", ":class: docstring", "", inspect.cleandoc(docstring), fence, ""]


def _entry(module, name, thing):
    kind = "class" if inspect.isclass(thing) else "function"
    doc = thing.__doc__ or ""
    if doc.startswith(f"{name}("):  # a dataclass without a docstring gets its signature as one
        doc = ""
    lines = [f"::::::::{{py:{kind}}} {name}{_signature(thing)}", f":module: {module.__name__}", ""]
    if doc:
        lines += _preformatted(doc)
    return [*lines, "::::::::", ""]


def api_markdown(note_dependency=lambda path: None):
    """The whole reference as MyST text."""
    lines = []
    for name in _modules():
        module = importlib.import_module(name)
        note_dependency(module.__file__)
        things = _public(module)
        if not things and not module.__doc__:
            continue
        lines += [f"## `{name}`", ""]
        if module.__doc__:
            lines += _preformatted(module.__doc__)
        for thing_name, thing in things:
            lines += _entry(module, thing_name, thing)
    return "\n".join(lines)


def public_table():
    """The packages with an `__all__`, and the names in it."""
    import mlbook

    lines = ["| from | import |", "| --- | --- |"]
    for package in pkgutil.iter_modules(mlbook.__path__, "mlbook."):
        if package.name in ("mlbook.__main__", "mlbook.cli", "mlbook.pages"):
            continue
        if names := getattr(importlib.import_module(package.name), "__all__", ()):
            lines.append(f"| `{package.name}` | {', '.join(f'`{name}`' for name in names)} |")
    return "\n".join(lines)


def _fill(app, docname, source):
    if PUBLIC in source[0]:
        source[0] = source[0].replace(PUBLIC, public_table())
    if PLACE in source[0]:
        source[0] = source[0].replace(PLACE, api_markdown(app.env.note_dependency))


def setup(app):
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
