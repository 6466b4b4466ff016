"""Parameters outside the module: a network is a function of (params, x)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mlbook.errors import UserError

Params = dict[str, Tensor]


def call(module: nn.Module, params: Params, x: Tensor, **options):
    """``module`` applied to ``x`` with ``params`` in place of its own parameters.

    Refuses modules that would change hidden state during the call (``nn.BatchNorm*`` with running averages in
    training mode): inside ``grad`` and ``vmap`` that state would be wrong without a word. Attention is computed from plain
    matrix products, because the fused kernels have no second derivative.
    """
    for name, child in module.named_modules():
        if getattr(child, "track_running_stats", False) and child.training:
            raise UserError(
                f"module {name!r} updates running statistics as a side effect; use mlbook.models.batch_norm.BatchNorm "
                "or track_running_stats=False"
            )
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.functional_call(module, params, (x,), options)


def initial_params(module: nn.Module, generator: torch.Generator | None = None) -> Params:
    """Fresh parameters, as plain tensors: the module's own ones, or drawn anew with ``generator``.

    The module needs ``reset_parameters(generator)``; its own parameters are left as they are.
    """
    if generator is not None:
        module = copy.deepcopy(module)
        module.reset_parameters(generator)
    return {name: p.detach().clone() for name, p in module.named_parameters()}
