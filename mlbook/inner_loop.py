"""The inner loop: gradient descent on the support set of one task. Training, evaluation, labs and tests all call it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mlbook.models.functional import Params

Loss = Callable[[Params], Tensor]


def inner_path(
    support_loss: Loss,
    params: Params,
    *,
    inner_lr: float | Params,
    steps: int,
    names: tuple[str, ...] | None = None,
    first_order: bool = False,
) -> Iterator[Params]:
    """Yield θ⁰, θ¹, …, θᴺ of one task: θⁿ⁺¹ = θⁿ − α ∇L_S(θⁿ).

    support_loss L_S: params -> scalar loss on the task's support set.
    params θ⁰: dict of tensors; the yielded dicts have the same keys and shapes.
    inner_lr α: one rate, or one tensor per adapted parameter (Meta-SGD).
    steps N: number of gradient steps (0 is allowed).
    names: the parameters that move (default: all); the others are handed on unchanged (ANIL, batch norm's β).
    first_order: treat every inner gradient as a constant for the outer derivative (FOMAML).

    Source: MAML (Finn et al. 2017), algorithms 1 and 2; Meta-SGD (Li et al. 2017), equation 2; ANIL (Raghu et al. 2020).
    """
    names = tuple(params) if names is None else names
    rates = inner_lr if isinstance(inner_lr, dict) else dict.fromkeys(names, inner_lr)
    yield params
    for _ in range(steps):
        fixed, moving = params, {name: params[name] for name in names}
        gradient = torch.func.grad(lambda moving, fixed=fixed: support_loss({**fixed, **moving}))(
            moving
        )  # [MAML 5]
        if first_order:
            gradient = {name: g.detach() for name, g in gradient.items()}  # [FOMAML 5]
        params = {
            **fixed,
            **{name: moving[name] - rates[name] * gradient[name] for name in names},
        }  # [MAML 6]
        yield params


def adapt(support_loss: Loss, params: Params, **options) -> Params:
    """The last point θᴺ of ``inner_path``, which has the arguments."""
    return deque(inner_path(support_loss, params, **options), maxlen=1).pop()
