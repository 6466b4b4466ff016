"""The same meta-gradients, faster: closed forms and the library's kernels, for the networks of the tables.

``fast(learner)`` is the learner with the fast engine, ``fits(learner)`` says whether there is one, and ``fastest`` chooses for a
device. An engine computes what the learner's own lines say; tests hold both to each other in float64.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

import torch

from mlbook.engines import maml, reptile
from mlbook.engines.maml import FastMAML
from mlbook.engines.reptile import FastReptile
from mlbook.errors import UserError
from mlbook.meta_learners.base import MetaLearner
from mlbook.meta_learners.maml import MAML
from mlbook.meta_learners.reptile import Reptile

__all__ = ["FastMAML", "FastReptile", "fast", "fastest", "fits"]

Learner = TypeVar("Learner", bound=MetaLearner)
KINDS = {MAML: (FastMAML, maml.fits), Reptile: (FastReptile, reptile.fits)}


def fits(learner: MetaLearner) -> bool:
    """Whether there is a fast engine for this learner: its kind, its network and its settings."""
    kind = KINDS.get(type(learner))
    return kind is not None and kind[1](learner)


def fast(learner: Learner, **options) -> Learner:
    """The same learner with the fast engine; ``UserError`` where there is none. options: of ``FastMAML``."""
    kind = KINDS.get(type(learner))
    if kind is None:
        raise UserError(f"there is no fast engine for {type(learner).__name__}")
    values = {field.name: getattr(learner, field.name) for field in fields(learner) if field.name != "engine"}
    return kind[0](**values, **options)


def fastest(learner: MetaLearner, device: torch.device, precision: str = "float32") -> MetaLearner:
    """The same learner with the engine that is fastest on that device.

    precision: of matrix products, for the engines that know one.
    """
    if not fits(learner):
        return learner
    if isinstance(learner, MAML):
        return fast(learner, precision=precision)
    if device.type == "cuda" and learner.optimizer == "adam" and not learner.serial:
        return learner  # a GPU computes the tasks at once
    return fast(learner)
