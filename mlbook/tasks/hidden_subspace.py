"""Features in which only a few directions tell classes apart: a world where it is known what a decoder should find."""

from __future__ import annotations

import torch
from torch import Tensor

from mlbook.data.pools import FeaturePool
from mlbook.errors import UserError


def hidden_subspace(
    classes: int,
    examples: int,
    features: int,
    hidden: int,
    *,
    noise: float,
    generator: torch.Generator,
    basis: Tensor | None = None,
) -> tuple[FeaturePool, Tensor]:
    """A pool of classes whose centres lie in a random ``hidden``-dimensional subspace of the feature space, and its basis.

    A feature vector is basis · c + noise · e with c ~ N(0, I) for each class (``hidden`` numbers) and e ~ N(0, I) for each
    example (``features`` numbers); it is scaled to length 1 when drawn. basis: orthonormal columns [features, hidden] of
    another pool (meta-test classes live in the subspace of the meta-train classes), or None for a new one. Returns (pool,
    basis).
    """
    if not 0 < hidden <= features:
        raise UserError(f"hidden must be from 1 to features = {features}, got {hidden}")
    if basis is None:
        basis = torch.linalg.qr(torch.randn(features, hidden, generator=generator)).Q
    elif basis.shape != (features, hidden):
        raise UserError(f"basis must be [{features}, {hidden}], got {list(basis.shape)}")
    centre = torch.randn(classes, 1, hidden, generator=generator) @ basis.t()
    return FeaturePool(centre + noise * torch.randn(classes, examples, features, generator=generator)), basis
