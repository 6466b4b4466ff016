"""The engine with one of its parts taken out at a time, and networks of other widths. Every variant lives in its own process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.contenders import OURS, PLAIN, Contender, Work, ours
from benchmarks.problems import IMAGES, NETWORKS, N
from mlbook.engines import conv4_sweeps, convolutions, recursion
from mlbook.models import Conv4

WIDTHS = (8, 16, 32, 64, 128)
for width in WIDTHS:
    NETWORKS[f"strided-{width}"] = partial(Conv4, N, filters=width)
    IMAGES[f"strided-{width}"] = IMAGES["strided"]


def without(part: Callable[[], None], *problem) -> Work:
    part()
    return ours("fast", *problem)


def one_task_at_a_time() -> None:
    conv4_sweeps.chunk_sizes = lambda forms, episodes: (1, 1)


def whole_meta_batch_at_once() -> None:
    conv4_sweeps.chunk_sizes = lambda forms, episodes: (episodes.n_tasks, episodes.n_tasks)


def support_cut_like_query() -> None:
    sizes = conv4_sweeps.chunk_sizes
    conv4_sweeps.chunk_sizes = lambda forms, episodes: (sizes(forms, episodes)[1],) * 2


def products_over_patches() -> None:
    convolutions.choose = lambda device, precision: convolutions.Patches()


def batch_norm_from_plain_operations() -> None:
    def normalise(z, eps):
        mean = z.mean((0, 2, 3), keepdim=True)
        rate = ((z - mean).square().mean((0, 2, 3), keepdim=True) + eps).rsqrt()
        return (z - mean) * rate, rate.flatten()

    conv4_sweeps._normalise_ = normalise
    conv4_sweeps._dots = lambda a, b: (a * b).sum((0, 2, 3))


def sums_in_float32() -> None:
    recursion.zeros = torch.zeros_like
    recursion.over_tasks = lambda x: x.sum(0, keepdim=True)


def activations_computed_again() -> None:
    meta_gradient = conv4_sweeps.meta_gradient

    def recomputing(*arguments, **options):
        return meta_gradient(*arguments, **{**options, "recompute": True})

    conv4_sweeps.meta_gradient = recomputing


AGAIN = Contender(
    "mlbook, activations computed again", partial(without, activations_computed_again), keep_memory=True
)
VARIANTS = [
    PLAIN,
    OURS,
    Contender("freed memory given back at once", OURS.make),
    Contender("one task at a time", partial(without, one_task_at_a_time), keep_memory=True),
    Contender("whole meta-batch at once", partial(without, whole_meta_batch_at_once), keep_memory=True),
    Contender("support sets cut like query sets", partial(without, support_cut_like_query), keep_memory=True),
    Contender("matrix products over patches", partial(without, products_over_patches), keep_memory=True),
    Contender(
        "batch norm from plain operations",
        partial(without, batch_norm_from_plain_operations),
        keep_memory=True,
    ),
    Contender("sums over tasks in float32", partial(without, sums_in_float32), keep_memory=True),
    AGAIN,
]
