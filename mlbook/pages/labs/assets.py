"""What the labs' Python sides share: the widget, its JavaScript and CSS as text, and checks of arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

import anywidget
import traitlets

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


def sources(name: str, *styles: str) -> tuple[str, str]:
    """What a lab has as ``_esm`` and ``_css``: the module of this name, and ``shared.css`` with further style sheets."""
    return module(f"{name}.js"), "".join(text(f"{style}.css") for style in ("shared", *styles))


class Lab(anywidget.AnyWidget):
    """A widget that lives in the reader's browser. Its traits travel in the page: ``setup``, what the module reads once, and
    the state, which follows what the reader does."""

    setup = traitlets.Dict().tag(sync=True)


@cache
def script(name: str) -> str:
    """The same as a plain script that exports nothing: what a web worker is made of, wherever it runs."""
    return re.sub(r"^export (?:default )?", "", module(name), flags=re.MULTILINE)


# -- arguments: each function gives the value as the page takes it, or raises ``UserError`` ------------------------------


def within(value: float, name: str, limits: tuple[float, float]) -> float:
    """A number within the limits."""
    low, high = limits
    if not low <= value <= high:
        raise UserError(f"{name} must lie between {low:g} and {high:g}, not {value}")
    return float(value)


def whole(value: int, name: str, least: int, most: int) -> int:
    """A whole number from ``least`` to ``most``."""
    if value not in range(least, most + 1):
        raise UserError(f"{name} must be a whole number from {least} to {most}, not {value}")
    return int(value)


def one_of(value: str, name: str, names: Iterable[str]) -> str:
    """One of the names."""
    if value not in (known := list(names)):
        raise UserError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    return value


def point(
    values: Sequence[float], name: str, x_range: tuple[float, float], y_range: tuple[float, float]
) -> list[float]:
    """A point (x, y) inside the picture."""
    place, limits = [float(value) for value in values], (x_range, y_range)
    if len(place) != 2 or not all(low <= v <= high for v, (low, high) in zip(place, limits, strict=True)):
        words = [f"{axis} from {low:g} to {high:g}" for axis, (low, high) in zip("xy", limits, strict=True)]
        raise UserError(f"{name} is a point (x, y) with {' and '.join(words)}, not {place}")
    return place


def numbers(values: Sequence[float], name: str, count: int, limits: tuple[float, float]) -> list[float]:
    """``count`` numbers within the limits."""
    found, (low, high) = [float(value) for value in values], limits
    if len(found) != count or not all(low <= value <= high for value in found):
        raise UserError(f"{name} are {count} numbers from {low:g} to {high:g}, not {found}")
    return found
