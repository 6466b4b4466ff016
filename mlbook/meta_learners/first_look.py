"""What a network says of its first episode, before it is mapped and
differentiated: errors show here in the shapes that its author knows."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

from mlbook.errors import UserError
from mlbook.meta_learners.base import InitialisationLearner, Meta
from mlbook.meta_learners.losses import check_labels, check_targets
from mlbook.models.functional import place
from mlbook.tasks.episode import Episode

OUTPUTS: WeakKeyDictionary[nn.Module, tuple[int, ...]] = WeakKeyDictionary()
"""The shape [...] of a network's answer to one input, once it was seen."""


def check(
    learner: InitialisationLearner,
    meta: Meta,
    episodes: Episode,
    *,
    wait: bool = False,
) -> None:
    """``UserError`` unless the targets of ``episodes`` fit the network: their
    shape, their type, and labels from 0 to N - 1.

    The first time the network is called on one support set. Labels on a GPU are
    looked at only then, or with ``wait``: reading them waits for the device.
    """
    place(learner.model, meta["params"])
    outputs = OUTPUTS.get(learner.model)
    if outputs is None or not fits(learner, outputs, episodes, wait):
        OUTPUTS[learner.model] = look(learner, meta, episodes)


def look(
    learner: InitialisationLearner, meta: Meta, episodes: Episode
) -> tuple[int, ...]:
    """The shape of the answer to one input; ``UserError`` where support or query
    targets do not fit it."""
    for field in ("support_x", "support_y", "query_x", "query_y"):
        if len(getattr(episodes, field)) != episodes.n_tasks:
            raise UserError(
                f"support and query sets must be of equally many tasks; {field} has "
                f"{len(getattr(episodes, field))}, support_x {episodes.n_tasks}"
            )
    task = episodes.task(0)
    given = {name: p.detach() for name, p in meta["params"].items()}
    with torch.enable_grad():
        prediction = learner.predict(given, task.support_x.detach())
    check_reach(learner.model, prediction)
    prediction = prediction.detach()
    check_targets(learner.loss, prediction, task.support_y)
    if len(task.query_y):
        shape = (len(task.query_x), *prediction.shape[1:])
        check_targets(learner.loss, prediction.new_empty(shape), task.query_y)
    if learner.loss == "cross_entropy":
        check_labels(episodes.support_y, prediction.shape[1])
        check_labels(episodes.query_y, prediction.shape[1])
    return tuple(prediction.shape[1:])


def check_reach(model: nn.Module, prediction: torch.Tensor) -> None:
    """``UserError`` where the forward reached the module's own parameters, although
    it was given others: by a list or a closure, where adapted values never arrive.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    waiting, seen = [prediction.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter):
            name = names.get(id(leaf), "a parameter that is not registered")
            raise UserError(
                f"the forward of {type(model).__name__} does not take {name} from "
                "its attribute (but from a list or a closure, for instance), so "
                "adapted values would not reach it"
            )
        waiting += [before for before, _ in node.next_functions]


def fits(
    learner: InitialisationLearner,
    outputs: tuple[int, ...],
    episodes: Episode,
    wait: bool,
) -> bool:
    """Whether targets look like answers of that shape."""
    both = [y for y in (episodes.support_y, episodes.query_y) if y.numel()]
    if learner.loss == "mse":
        return all(y.shape[2:] == outputs and y.is_floating_point() for y in both)
    if not all(y.dim() == 2 and y.dtype == torch.int64 for y in both):
        return False
    read = wait or episodes.support_y.device.type == "cpu"
    return not read or all(
        0 <= int(y.min()) <= int(y.max()) < outputs[0] for y in both
    )
