"""What the labs' Python sides share: their JavaScript and CSS as text for ``_esm`` and ``_css``, and checks of arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from mlbook.errors import UserError

COMMENT = re.compile(r"^[ \t]*(?://[^\n]*|/\*\*.*?\*/)\n", re.MULTILINE | re.DOTALL)
"""Whole lines of comment: they stay in the files and out of the pages."""
IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)


@cache
def text(name: str) -> str:
    """One file of this package."""
    return (files("mlbook.pages.labs") / name).read_text(encoding="utf-8")


@cache
def module(name: str) -> str:
    """A JavaScript file and the files that it imports, as one module without imports.

    A widget's code travels in its state, where no second file can be found. Each file is a module of its own too: the
    names that they export are distinct, so putting one after the other, each once, is all that a bundler would do.
    """
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        source = text(name)
        for other in IMPORT.findall(source):
            if other not in parts:
                add(other)
        parts[name] = COMMENT.sub("", IMPORT.sub("", source))

    add(name)
    return "\n".join(parts.values())


@cache
def script(name: str) -> str:
    """The same as a plain script that exports nothing: what a web worker is made of, wherever it runs."""
    return re.sub(r"^export (?:default )?", "", module(name), flags=re.MULTILINE)


def numbers(values: Sequence[float], name: str, count: int, limits: tuple[float, float]) -> list[float]:
    """``count`` numbers within the limits, or ``UserError``."""
    found, (low, high) = [float(value) for value in values], limits
    if len(found) != count or not all(low <= value <= high for value in found):
        raise UserError(f"{name}: {count} of them, from {low:g} to {high:g}, not {found}")
    return found
