"""All tasks at once where torch can, one after the other where it cannot.

``torch.func.vmap`` maps most networks over tasks. It cannot map recurrent layers, a forward that looks at values (``if x.sum() >
0``, ``.item()``), or one that changes tensors in place which are not its own; and where it lacks a rule for an operator it loops
over tasks, operator by operator. Such a network is tried once and then computed task by task, by ordinary autograd, which can
differentiate whatever PyTorch can.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mlbook.errors import UserError
from mlbook.models.functional import learning

Result = TypeVar("Result")
Episodes = TypeVar("Episodes", bound=tuple)
Kind = Literal["gradient", "first-order gradient", "loss", "scores"]

_PLAIN: ContextVar[bool] = ContextVar("plain", default=False)
_MAPPED: WeakKeyDictionary[nn.Module, dict[Kind, bool]] = WeakKeyDictionary()
"""What was found out about a network: whether torch can map this kind of computation over tasks."""

NO_SECOND_DERIVATIVE = re.compile(
    r"derivative for '?\S+ is not implemented|[Dd]ouble backward|once_differentiable|not differentiable twice"
)
CHECKPOINTED = "activation checkpointing computes with the network's own parameters, not with adapted ones"


def is_mapped(module: nn.Module, *kinds: Kind) -> bool:
    """Whether torch can map these computations with the network over tasks, as far as was seen."""
    known = _MAPPED.get(module, {})
    return all(known.get(kind, True) for kind in kinds)


def at_once_or_one_by_one(
    module: nn.Module | None,
    kind: Kind,
    at_once: Callable[[Episodes], Result],
    one_by_one: Callable[[Episodes], Result],
    episodes: Episodes,
    *,
    compare: bool = False,
) -> Result:
    """``at_once(episodes)``, or ``one_by_one(episodes)`` by ordinary autograd for a network that torch cannot map over tasks.

    What is found out is remembered for this network and kind of computation, and said once on the log. A network that fails
    either way raises the error of the second, which is that of its own forward. Without a module there is no second way.
    compare: both ways must give the first task of a new network the same gradient.
    """
    if module is None:
        return at_once(episodes)
    if not is_mapped(module, kind):
        return task_by_task(module, lambda: one_by_one(episodes))
    known = _MAPPED.setdefault(module, {})
    new, reason = kind not in known, None
    try:
        with _no_operator_loops() if new else nullcontext():
            result = at_once(episodes)
    except (UserError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # torch says in many ways, and with many types, what it cannot do
        reason = _first_sentence(error)
    if reason is None and new and compare and not type(module).__module__.startswith("mlbook."):
        reason = _difference(module, at_once, one_by_one, episodes)
    if reason is None:
        known[kind] = True
        return result
    result = task_by_task(module, lambda: one_by_one(episodes))
    if all(known.values()):
        logging.getLogger("mlbook").warning(
            "%s is computed task by task, which takes longer: torch cannot map it over tasks (%s)",
            type(module).__name__,
            reason,
        )
    known[kind] = False
    return result


def _difference(module: nn.Module, at_once: Callable, one_by_one: Callable, episodes: Episodes) -> str | None:
    """What is wrong if both ways differ on the first task, with dropout off. ``torch.func`` has been wrong without a word: a
    derivative that an author did not write is zero to it."""
    first = episodes._make(field[:1] for field in episodes)

    def plainly() -> Tensor:
        return _flat(task_by_task(module, lambda: one_by_one(first))[0])

    with learning(False):
        expected, mapped = plainly(), _flat(at_once(first)[0])
        tolerance = 30 * torch.finfo(expected.dtype).eps ** 0.5 * expected.norm()
        if not (mapped - expected).norm() > tolerance or (plainly() - expected).norm() > tolerance:
            return None  # equal, not finite either way, or a network that draws random numbers of its own
    return "its gradient would be another one"


def _flat(group: dict) -> Tensor:
    return torch.cat([t.flatten() for t in _tensors(group)])


def task_by_task(module: nn.Module, function: Callable[[], Result]) -> Result:
    """``function()`` with ordinary autograd in place of ``torch.func``; ``UserError`` where derivatives are missing."""
    token = _PLAIN.set(True)
    try:
        # a checkpointed layer runs again in the backward pass, when the module has its own parameters back
        with torch.autograd.graph.disable_saved_tensors_hooks(CHECKPOINTED):
            return function()
    except (RuntimeError, NotImplementedError) as error:
        if CHECKPOINTED in str(error) or "torch.utils.checkpoint" in str(error):
            raise UserError(f"{CHECKPOINTED}; switch it off in {type(module).__name__}") from error
        if NO_SECOND_DERIVATIVE.search(str(error)):
            raise UserError(
                f"{type(module).__name__} has no second derivative ({_first_sentence(error)}); MAML needs it unless "
                "first_order=True"
            ) from error
        raise
    finally:
        _PLAIN.reset(token)


def for_each(function: Callable[[Tensor], Tensor], items: Tensor, chunk_size: int | None = None) -> Tensor:
    """``function`` of every row of ``items``, stacked: by ``vmap``, or row by row within ``task_by_task``."""
    if _PLAIN.get():
        return torch.stack([function(item) for item in items])
    return torch.func.vmap(function, chunk_size=chunk_size, randomness="different")(items)


def grad(function: Callable, has_aux: bool = False) -> Callable:
    """``torch.func.grad`` of a function whose first argument is a group of tensors; within ``task_by_task`` the same by ordinary
    autograd."""
    transformed = torch.func.grad(function, has_aux=has_aux)

    def gradient(group, *rest):
        if _PLAIN.get():
            return _plain_gradient(function, has_aux, group, *rest)
        return transformed(group, *rest)

    return gradient


def _plain_gradient(function: Callable, has_aux: bool, group: dict, *rest):
    nested = any(t.requires_grad for t in _tensors(group)) and torch.is_grad_enabled()

    def to_differentiate(t: Tensor) -> Tensor:
        return t if nested and t.requires_grad else t.detach().requires_grad_()

    with torch.enable_grad():
        group = _with_tensors(to_differentiate, group)
        found = function(group, *rest)
        value, aux = found if has_aux else (found, None)
        inputs = list(_tensors(group))
        slopes = [torch.zeros_like(t) for t in inputs]
        if value.requires_grad:
            if not nested:
                _refuse_missing_derivatives(value)
            slopes = torch.autograd.grad(
                value, inputs, create_graph=nested, allow_unused=True, materialize_grads=True
            )
    each = iter(slopes)
    gradient = _with_tensors(lambda _: next(each), group)
    return (gradient, aux) if has_aux else gradient


def _refuse_missing_derivatives(value: Tensor) -> None:
    """Raise what ``backward`` would where an author wrote no second derivative (``once_differentiable``): ``autograd.grad``
    passes by the node that stands for it, as if that derivative were zero."""
    todo, seen = [value.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("Error"):
            raise RuntimeError("a function is marked with @once_differentiable")
        seen.add(node)
        todo += [following for following, _ in node.next_functions]


def _tensors(group: dict) -> Iterator[Tensor]:
    for value in group.values():
        if isinstance(value, dict):
            yield from _tensors(value)
        else:
            yield value


def _with_tensors(function: Callable[[Tensor], Tensor], group: dict) -> dict:
    return {
        name: _with_tensors(function, value) if isinstance(value, dict) else function(value)
        for name, value in group.items()
    }


@contextmanager
def _no_operator_loops() -> Iterator[None]:
    """An error where torch would loop over tasks operator by operator: a loop over whole tasks is faster."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="There is a performance drop")
        yield


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.split(r"(?<=[a-z)])\. ", lines[0])[0].rstrip(".")
