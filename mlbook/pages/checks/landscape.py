"""Tasks with two parameters: smooth curved valleys, on which every update can be drawn and every Jacobian written down."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from mlbook.meta_learners.inner_loop import Loss
from mlbook.models.functional import Params
from mlbook.pages.checks.directions import METHODS, Field, four_directions, inner_path_over


@dataclass(frozen=True)
class Valleys:
    """T tasks in the plane, task i with the loss ½·steep·(v − ½·bend·u²)² + ½·flat·u².

    (u, v) are coordinates around the task's best point ``centre``, turned by ``angle``: u along the valley, v across it. With
    ``bend`` 0 the loss is a parabola and its Hessian is the same everywhere. All tensors are float64.
    """

    centre: Tensor  # [T, 2]
    angle: Tensor  # [T], radians
    steep: Tensor  # [T]
    flat: Tensor  # [T]
    bend: Tensor  # [T]

    def tensors(self) -> tuple[Tensor, ...]:
        """What a map over the tasks runs over."""
        return self.centre, self.angle, self.steep, self.flat, self.bend

    def task(self, index: int) -> Loss:
        """The loss of task ``index`` as a function of parameters {"phi": [2]}."""
        return valley(*(t[index] for t in self.tensors()))


def valley(centre: Tensor, angle: Tensor, steep: Tensor, flat: Tensor, bend: Tensor) -> Loss:
    """The loss of one task of ``Valleys``."""

    def loss(params: Params) -> Tensor:
        x, y = params["phi"] - centre
        u, v = x * torch.cos(angle) + y * torch.sin(angle), y * torch.cos(angle) - x * torch.sin(angle)
        return 0.5 * steep * (v - 0.5 * bend * u * u) ** 2 + 0.5 * flat * u * u

    return loss


def two_valleys(bend: float = 0.35) -> Valleys:
    """The tasks of the figures: a steep narrow valley and a flat one, crossing at an angle."""
    numbers = torch.tensor(
        [[0.0, 2.0, 0.4, 3.0, 0.8, bend], [2.6, -0.3, 2.0, 1.2, 0.3, bend]], dtype=torch.float64
    )
    return Valleys(numbers[:, :2], *numbers[:, 2:].unbind(1))


def directions_at(valleys: Valleys, point: Tensor, *, inner_lr: float, k: int) -> dict[str, Tensor]:
    """Mean over the tasks of every method's direction at ``point`` [2]; all k losses of a task are its loss."""

    def one_task(*numbers: Tensor) -> dict[str, Tensor]:
        path = inner_path_over([valley(*numbers)] * k, {"phi": point}, inner_lr)
        return {name: d["phi"] for name, d in four_directions(path).items()}

    return {name: d.mean(0) for name, d in vmap(one_task)(*valleys.tensors()).items()}


def field(valleys: Valleys, method: str, *, inner_lr: float, k: int) -> Field:
    """One method's mean direction as a function of the point [2]."""
    return lambda point: directions_at(valleys, point, inner_lr=inner_lr, k=k)[method]


def follow(
    valleys: Valleys, start: Tensor, *, inner_lr: float, k: int, meta_lr: float, meta_steps: int
) -> dict[str, Tensor]:
    """The initialisation after 0, 1, … ``meta_steps`` of every method, all from ``start``: method -> [meta_steps + 1, 2].

    Reptile's direction is divided by k, so that all four have about the length of one gradient.
    """

    def all_four(point: Tensor) -> Tensor:
        directions = directions_at(valleys, point, inner_lr=inner_lr, k=k)
        return torch.stack([d / k if name == "Reptile" else d for name, d in directions.items()])

    points, own = [start.expand(len(METHODS), 2)], torch.arange(len(METHODS))
    for _ in range(meta_steps):  # each method at its own point, all in one call
        points.append(points[-1] - meta_lr * vmap(all_four)(points[-1])[own, own])
    return dict(zip(METHODS, torch.stack(points, 1), strict=True))


def work_round(direction: Field, centre: Tensor, radius: float, points: int = 72) -> list[float]:
    """∫ F·dφ along a circle (anticlockwise) up to each of ``points`` equally spaced angles, the first value 0 and the last
    one the whole turn, ∮ F·dφ. A gradient gives 0 for the whole turn: one is back at the same height.

    Each stretch counts with the mean of the field's component along the circle at its two ends. For a whole turn that rule
    converges faster than any power of 1/points where the field is smooth.
    """
    t = torch.arange(points + 1, dtype=centre.dtype) * (2 * torch.pi / points)
    outward, along = torch.stack([t.cos(), t.sin()], 1), torch.stack([-t.sin(), t.cos()], 1)
    component = (vmap(direction)(centre + radius * outward) * along).sum(1)
    stretch = (component[1:] + component[:-1]) / 2 * (2 * torch.pi * radius / points)
    return [0.0, *stretch.cumsum(0).tolist()]
