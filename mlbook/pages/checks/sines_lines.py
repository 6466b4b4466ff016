"""What can be known of a sine or a line from a few noisy points: the exact posterior, on a grid.

The task distribution and the noise are known, so Bayes' rule gives the probability that the points came from a line, and the
best prediction (in mean squared error) that any learner could make. A grid over (amplitude, phase) and one over (slope,
level) stand for the uniform priors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.sines_lines import Curves, KnownEpisode, SinesAndLines


@dataclass(frozen=True)
class Posterior:
    """Of T tasks, given their support sets."""

    p_line: Tensor
    """[T], the probability that the task is a line."""
    mean: Tensor
    """[T, n], the mean of the curve at every query: the prediction with the smallest expected square."""
    spread: Tensor
    """[T, n], its standard deviation there (of the curve, without the noise of a target)."""


def posterior(
    tasks: SinesAndLines, support_x: Tensor, support_y: Tensor, x: Tensor, grid: int = 120
) -> Posterior:
    """Exact up to the grid (``grid``² points per kind): support_x, support_y [T, K, 1], x [T, n, 1].

    Raises ``UserError`` without noise, where no point of a grid explains the support set.
    """
    if not tasks.noise > 0:
        raise UserError("the posterior on a grid needs noise on the targets")
    curves = _grid(tasks, grid)
    rows = [_one(tasks, curves, *points) for points in zip(support_x, support_y, x, strict=True)]
    return Posterior(*(torch.stack(column) for column in zip(*rows, strict=True)))


def posterior_curves(
    tasks: SinesAndLines,
    support_x: Tensor,
    support_y: Tensor,
    n: int,
    generator: torch.Generator,
    grid: int = 200,
) -> Curves:
    """``n`` draws from the posterior of one task, support_x, support_y [K, 1]."""
    curves = _grid(tasks, grid)
    drawn = torch.multinomial(
        _weights(tasks, curves, support_x, support_y), n, replacement=True, generator=generator
    )
    return Curves(*(field[drawn] for field in curves))


def _at(curves: Curves, x: Tensor) -> Tensor:
    """All curves at the same points: x [n, 1] -> [curves, n]."""
    return curves.at(x.double().expand(len(curves.is_line), -1, 1)).squeeze(-1)


def _weights(tasks: SinesAndLines, curves: Curves, sx: Tensor, sy: Tensor) -> Tensor:
    """Posterior probabilities [curves], where all are equally probable before."""
    misfit = (_at(curves, sx) - sy.double().flatten()).square().sum(-1)
    return torch.softmax(-misfit / (2 * tasks.noise**2), 0)


def _grid(tasks: SinesAndLines, n: int) -> Curves:
    """The middles of n × n cells of both priors: 2n² curves of equal weight."""

    def middles(bounds: tuple[float, float]) -> Tensor:
        low, high = bounds
        return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n

    sines = torch.cartesian_prod(middles(tasks.amplitude), middles(tasks.phase))
    lines = torch.cartesian_prod(middles(tasks.slope), middles(tasks.level))
    is_line = torch.arange(2).repeat_interleave(n * n).bool()
    return Curves(is_line, *torch.cat([sines, lines]).t())


def _one(
    tasks: SinesAndLines, curves: Curves, sx: Tensor, sy: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """p_line [], mean [n], spread [n] of one task."""

    weight = _weights(tasks, curves, sx, sy)
    # curves of no weight need no prediction
    kept = weight > weight.max() * 1e-7
    curves, weight = Curves(*(field[kept] for field in curves)), weight[kept] / weight[kept].sum()
    values = _at(curves, x)  # [curves, n]
    mean = weight @ values
    spread = (weight @ (values - mean).square()).sqrt()
    return weight[curves.is_line].sum(), mean, spread


def examples(
    tasks: SinesAndLines, seed: int = 11, pool: int = 400, grid: int = 60
) -> dict[str, KnownEpisode]:
    """Three tasks out of ``pool`` drawn ones, each [1, ...]: a clear sine, a clear line, and the one whose kind is least certain.

    Clear: of the tasks with amplitude above 2 (slope above 1) and kind beyond doubt, the one whose best prediction is surest.
    """
    batch = tasks.sample_known(pool, torch.Generator().manual_seed(seed))
    known = posterior(tasks, batch.support_x, batch.support_y, batch.query_x, grid)
    unsure = known.spread.square().mean(1)
    steep = batch.scale.abs() > torch.where(batch.is_line, 1.0, 2.0)

    def clear(kind: Tensor) -> int:
        return int(torch.where(kind & steep, unsure, torch.inf).argmin())

    doubt = torch.where(unsure > tasks.noise**2, (known.p_line - 0.5).abs(), torch.inf)
    chosen = {
        "a clear sine": clear(~batch.is_line),
        "a clear line": clear(batch.is_line),
        "ambiguous": int(doubt.argmin()),
    }
    return {name: KnownEpisode(*(field[i : i + 1] for field in batch)) for name, i in chosen.items()}
