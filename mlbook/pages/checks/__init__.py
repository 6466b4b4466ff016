"""Checks that the pages show live: a derivative against finite differences, a formula against an independent computation."""

from mlbook.pages.checks.gradients import (
    Comparison,
    compare_gradient,
    cosine,
    hessian_vector,
    inner_product,
    meta_gradient_by_recursion,
    moved,
    random_direction,
    relative_distance,
    to_float64,
    worst,
)

__all__ = [
    "Comparison",
    "compare_gradient",
    "cosine",
    "hessian_vector",
    "inner_product",
    "meta_gradient_by_recursion",
    "moved",
    "random_direction",
    "relative_distance",
    "to_float64",
    "worst",
]
