"""Arguments that a learner cannot mean: words that it does not know, and rates
below zero."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mlbook.errors import UserError


def check(learner: object) -> None:
    """``UserError`` unless every argument that is declared as a ``Literal`` is one
    of its words, and every rate (``…lr…``) is a finite number from 0 on.

    ``engine`` is left to ``MAML.check_engine``, which says where the others are.
    """
    for name, kind in kinds(type(learner)).items():
        value = getattr(learner, name)
        words = get_args(kind) if get_origin(kind) is Literal else None
        if words and name != "engine" and value not in words:
            raise UserError(
                f"{name} must be one of {', '.join(words)}, not {value!r}"
            )
        if kind is float and "lr" in name.split("_") and not 0 <= value < math.inf:
            raise UserError(f"{name} must be a finite rate from 0 on, got {value}")


@cache
def kinds(learner: type) -> dict[str, Any]:
    """The type of every argument."""
    hints = get_type_hints(learner)
    return {field.name: hints[field.name] for field in fields(learner)}
