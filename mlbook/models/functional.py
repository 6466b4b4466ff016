"""Parameters outside the module: a network is a function of (params, x)."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase

from mlbook.errors import UserError

Params = dict[str, Tensor]

_LEARNING: ContextVar[bool] = ContextVar("learning", default=False)
_PLACED: WeakKeyDictionary[nn.Module, dict] = WeakKeyDictionary()
"""Copies of what a module holds itself, where its parameters travelled without it: see ``place``."""
WITHOUT_TENSORS = ("torch.nn.modules.", "mlbook.")
"""Where modules come from that keep no tensors beside parameters and buffers."""
AVERAGES = ("running_mean", "running_var", "num_batches_tracked")
"""The buffers of torch's normalisation with ``track_running_stats``."""


def call(module: nn.Module, params: Params, x: Tensor, **options) -> Tensor:
    """``module`` applied to ``x`` with ``params`` in place of its own parameters; afterwards the module is as it was before.

    What ``params`` lack (frozen parameters, buffers) the module gives, copied to the device of ``params`` where it lies on
    another one. Buffers and other tensors that the forward changes are copies, and attributes that it sets are set back: every
    call starts from the same module. Normalisation with running averages (``nn.BatchNorm*``, ``nn.InstanceNorm*``) takes the
    statistics of ``x`` in training mode and leaves the averages alone; in eval mode it takes the averages. All else, dropout for
    instance, is in eval mode outside ``learning``, and as the module has it within. Attention is computed from plain matrix
    products and recurrent layers without cuDNN and oneDNN, whose fused kernels have no second derivative. Raises ``UserError``
    where the forward changes its parameters or does not return one dense tensor.
    """
    learning = _LEARNING.get()
    modules = list(module.modules())
    before = [(m.__dict__, m.__dict__.copy(), m._buffers, m._buffers.copy()) for m in modules]
    own = [(m._parameters, m._parameters.copy()) for m in modules]
    n_parameters, held, recurrent, foreign, in_place = 0, False, False, False, False
    try:
        for child, (state, _, buffers, _) in zip(modules, before, strict=True):
            if isinstance(child, _NormBase):
                if child.training and child.track_running_stats:
                    state["track_running_stats"] = False
                    buffers.update(dict.fromkeys(AVERAGES))
            elif not learning and state["training"] and not (buffers and _has_averages(buffers)):
                state["training"] = False
            recurrent = recurrent or isinstance(child, nn.RNNBase)
            held = held or bool(buffers)
            in_place = in_place or state.get("inplace", False)
            n_parameters += sum(map(_is_there, state["_parameters"].values()))
            if not type(child).__module__.startswith(WITHOUT_TENSORS):
                foreign = True
                state.update({n: v.clone() for n, v in state.items() if isinstance(v, Tensor)})
        given = {**rest_of(module, params), **params} if held or n_parameters > len(params) else params
        versions = [p._version for p in params.values()] if foreign else []
        if foreign or in_place:
            x = x.clone()  # what the forward does to it stays here
        with _differentiable_kernels(recurrent):
            output = torch.func.functional_call(module, given, (x,), options)
    finally:
        for state, saved, buffers, saved_buffers in before:
            if len(state) > len(saved):
                state.clear()
            state.update(saved)
            if buffers or saved_buffers:
                buffers.clear()
                buffers.update(saved_buffers)
        # torch gives a module that is there twice the values of one place back at the other
        for parameters, kept in own:
            parameters.update(kept)
    if foreign and versions != [p._version for p in params.values()]:
        raise UserError(
            f"the forward of {type(module).__name__} changes its parameters in place; it must not"
        )
    if not isinstance(output, Tensor) or output.layout is not torch.strided:
        found = f"a {output.layout} tensor" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise UserError(
            f"the forward of {type(module).__name__} returns {found}; wrap it in a module that returns one dense tensor, "
            "logits [B, N] or values [B, out]"
        )
    return output


@contextmanager
def learning(on: bool = True) -> Iterator[None]:
    """Within it ``call`` leaves dropout and the like on, in modules that are in training mode: for meta-gradients."""
    token = _LEARNING.set(on)
    try:
        yield
    finally:
        _LEARNING.reset(token)


@contextmanager
def _differentiable_kernels(recurrent: bool) -> Iterator[None]:
    """Every operator as one that can be differentiated twice."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    libraries = (torch.backends.cudnn, torch.backends.mkldnn) if recurrent else ()
    enabled = [library.enabled for library in libraries]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for library in libraries:
            library.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for library, was in zip(libraries, enabled, strict=True):
            library.enabled = was
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _has_averages(buffers: dict[str, Tensor | None]) -> bool:
    """Whether this is somebody's own normalisation: nothing collects its averages here, so its mode stays."""
    return any(name.startswith("running_") for name in buffers)


def _is_there(parameter: Tensor | None) -> bool:
    return parameter is not None


# -- what the module holds itself ----------------------------------------------------------------------------------


def place(module: nn.Module, params: Params) -> None:
    """Keep copies of the buffers and frozen parameters of ``module`` beside ``params``, if those lie on another device or have
    another type. Without it every call copies them. Call it outside ``grad`` and ``vmap``."""
    if (target := _elsewhere(module, params)) is None:
        return
    placed = _PLACED.setdefault(module, {})
    for name, tensor in _own(module, params):
        key = (name, *target)
        if not _is_copy_of(placed.get(key), tensor):
            placed[key] = (tensor, tensor._version, _moved(tensor, module, *target))


def rest_of(module: nn.Module, params: Params) -> Params:
    """The parameters that ``params`` lack, where they have to be moved or are not frozen, and copies of all buffers."""
    target = _elsewhere(module, params)
    buffers = {name for name, _ in module.named_buffers()}
    placed = {} if target is None else _PLACED.get(module, {})
    given = {}
    for name, tensor in _own(module, params):
        if target is not None:
            found = placed.get((name, *target))
            tensor = found[2] if _is_copy_of(found, tensor) else _moved(tensor, module, *target)
        if name in buffers:
            tensor = tensor.clone()
        if target is not None or name in buffers or tensor.requires_grad:
            given[name] = tensor.detach()
    return given


def _own(module: nn.Module, params: Params) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in module.named_parameters() if name not in params)
    yield from module.named_buffers()


def _elsewhere(module: nn.Module, params: Params) -> tuple[torch.device, torch.dtype] | None:
    """Device and type of ``params``, if they are not those of the module's own parameters."""
    for name, own in module.named_parameters():
        if name in params:
            given = params[name]
            same = (given.device, given.dtype) == (own.device, own.dtype)
            return None if same else (given.device, given.dtype)
    return None


def _moved(tensor: Tensor, module: nn.Module, device: torch.device, dtype: torch.dtype) -> Tensor:
    """As ``nn.Module.to`` would: real numbers of the parameters' type follow it, all others keep their own."""
    follows = tensor.dtype == next(module.parameters()).dtype
    return tensor.detach().to(device, dtype if follows else tensor.dtype)


def _is_copy_of(entry: tuple[Tensor, int, Tensor] | None, tensor: Tensor) -> bool:
    if entry is None:
        return False
    source, version, _ = entry
    return source is tensor and version == tensor._version


# -- initial values ------------------------------------------------------------------------------------------------


def initial_params(module: nn.Module, generator: torch.Generator | None = None) -> Params:
    """The parameters that learning starts from, as plain tensors; the module's own ones are left as they are.

    A module whose ``reset_parameters`` takes a ``generator`` (all of this package) is drawn anew, on the generator's device. Any
    other module starts at its present values: a new one is random already (seed it with ``torch.manual_seed``), and a pretrained
    one has to stay what it is. Frozen parameters (``requires_grad`` is False) are not among them: ``call`` takes the module's
    own. Raises ``UserError`` where nothing is left to learn.
    """
    check_trainable(module)
    if generator is not None and _can_be_drawn(module):
        module = copy.deepcopy(module).to(generator.device)
        module.reset_parameters(generator)
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def _can_be_drawn(module: nn.Module) -> bool:
    reset = getattr(module, "reset_parameters", None)
    return callable(reset) and "generator" in inspect.signature(reset).parameters


def check_trainable(module: nn.Module) -> None:
    """``UserError`` unless ``module`` is a network whose parameters can be learned."""
    if not isinstance(module, nn.Module):
        raise UserError(f"the network must be a torch.nn.Module, not {type(module).__name__}")
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(
            "a compiled torch.jit module keeps its parameters inside; give the module it was made from"
        )
    parameters = list(module.parameters())
    if any(nn.parameter.is_lazy(p) for p in (*parameters, *module.buffers())):
        raise UserError(
            f"{type(module).__name__} has lazy parameters without a shape; call it once on an input first"
        )
    if not any(p.requires_grad for p in parameters):
        why = (
            "all its parameters are frozen (requires_grad is False)" if parameters else "it has no parameters"
        )
        raise UserError(f"there is nothing to learn in {type(module).__name__}: {why}")
    for name, p in module.named_parameters():
        if p.requires_grad and p.is_complex():
            raise UserError(f"parameter {name} is complex; the learners here adapt real numbers")
    for name, part in module.named_modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.max_norm is not None:
            raise UserError(
                f"{name or type(part).__name__} has a max_norm: its forward changes the parameters that it is given; "
                "take max_norm away"
            )


def check_names(module: nn.Module, names: tuple[str, ...] | None) -> None:
    """``UserError`` unless ``names`` are parameters of ``module`` that can be learned (None: all of them)."""
    if names is None:
        return
    if isinstance(names, str) or not names:
        raise UserError(
            f"names must be a tuple with at least one name of a parameter, not {names!r}; None means all"
        )
    known = {name: p.requires_grad for name, p in module.named_parameters()}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4) or list(known)[:3]
            raise UserError(
                f"{type(module).__name__} has no parameter {name!r} for names; near it are {', '.join(near)}"
            )
        if not known[name]:
            raise UserError(f"{name} in names is frozen (requires_grad is False): it cannot be adapted")
