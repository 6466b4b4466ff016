"""RELAX (Grathwohl et al. 2018) for categorical choices: the score function
with a differentiable control variate.

b = H(z) is the option with the largest z = log p + Gumbel noise. With z̃ drawn
from the distribution of z given b,

    ĝ = (f(b) − c(z̃)) ∇ log p(b) + ∇c(z) − ∇c(z̃)

has the mean ∇E[f(b)] for every function c of z, and c is trained to make its
variance small. f need not be differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.bilevel import (
    Estimate,
    Estimator,
    Outer,
    gradient_at,
    leaves_of,
)

Control = Callable[[Tensor], Tensor]
"""c: scores z [n, K] -> [n]."""


class Draw(NamedTuple):
    """n choices of K options with what RELAX needs of them."""

    choice: Tensor  # [n, K] one-hot
    log_probability: Tensor  # [n], of the choice
    z: Tensor  # [n, K], choice = argmax z
    conditioned: Tensor  # [n, K]: z̃, another draw of z given the choice


def inside(uniform: Tensor) -> Tensor:
    """Numbers from [0, 1) moved off 0 and 1, so that their logarithms are
    finite."""
    limits = torch.finfo(uniform.dtype)
    return uniform.clamp(limits.tiny, 1 - limits.eps)


def draw_choices(logits: Tensor, u: Tensor, v: Tensor) -> Draw:
    """logits [K] or [n, K]; u, v [n, K] uniform and independent. z and z̃ are
    differentiable in ``logits``.

    Given that b is the largest, z_b is distributed like a standard Gumbel
    variable (the p_i sum to 1), and each other z_i like a Gumbel variable of
    mean log p_i that is cut off above z_b: appendix of Tucker et al. (2017).
    """
    log_p = logits.log_softmax(-1).expand_as(u)
    z = log_p - torch.log(-torch.log(inside(u)))  # [RELAX 1]
    largest = z.detach().argmax(-1, keepdim=True)
    choice = torch.zeros_like(u).scatter(-1, largest, 1.0)  # [RELAX 1] b = H(z)
    hidden = -torch.log(inside(v))  # −log v
    top = (hidden * choice).sum(-1, keepdim=True)
    others = -torch.log(hidden * torch.exp(-log_p) + top)
    is_top = choice.bool()
    conditioned = torch.where(is_top, -torch.log(top), others)  # [RELAX 2] z̃
    return Draw(choice, (choice * log_p).sum(-1), z, conditioned)


def surrogate(drawn: Draw, f: Tensor, control: Control) -> Tensor:
    """[n]: numbers whose gradient is ĝ of every draw.

    f [n] counts as a constant. The parameters of ``control`` are reached
    through ĝ, so that the size of ĝ can be differentiated in them.
    """
    weight = f.detach() - control(drawn.conditioned.detach())
    held = weight * drawn.log_probability
    return held + control(drawn.z) - control(drawn.conditioned)  # [RELAX 3]


def soft_loss_control(
    loss: Callable[[Tensor], Tensor],
    temperature: Tensor | float,
    scale: Tensor | float = 1.0,
) -> Control:
    """c(z) = scale · loss(softmax(z / temperature)), the control variate of
    REBAR (Tucker et al. 2017).

    Raises ``UserError`` for a temperature that is not positive.
    """
    if not float(temperature) > 0:
        raise UserError(
            f"the temperature must be positive, got {float(temperature)}"
        )
    return lambda z: scale * loss((z / temperature).softmax(-1))


def relax(
    name: str,
    loss: Callable[[Tensor], Tensor],
    control: Control,
    *,
    samples: int,
    generator: torch.Generator,
) -> Estimator:
    """As ``bilevel.score_function`` for logits η[name] [K]: the mean of ĝ over
    ``samples`` choices.

    loss: one-hot [n, K] -> [n].
    """

    def estimate(outer: Outer) -> Estimate:
        point, logits = leaves_of(outer), outer[name]
        shape = (samples, logits.shape[-1])
        options = {
            "generator": generator,
            "dtype": logits.dtype,
            "device": logits.device,
        }
        u, v = torch.rand(shape, **options), torch.rand(shape, **options)
        drawn = draw_choices(point[name], u, v)
        with torch.no_grad():
            f = loss(drawn.choice)
        gradient = gradient_at(surrogate(drawn, f, control).mean(), point).gradient
        return Estimate(f.mean(), gradient)

    return estimate
