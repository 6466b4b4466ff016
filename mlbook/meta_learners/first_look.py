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

SEEN: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], dict]] = (
    WeakKeyDictionary()
)
"""Of a network that was seen: the shape [...] of its answer to one input, and the
shapes of the parameters that it was given."""


def check(
    learner: InitialisationLearner,
    meta: Meta,
    episodes: Episode,
    *,
    wait: bool = False,
) -> None:
    """``UserError`` unless the sets of ``episodes`` belong together, their targets
    fit the network (shape, type, labels from 0 to N - 1), and θ is this network's.

    The first time the network is called on one support set. Labels on a GPU are
    looked at only then, or with ``wait``: reading them waits for the device.
    """
    check_sets(episodes)
    given = {name: p.shape for name, p in meta["params"].items()}
    outputs, shapes = SEEN.get(learner.model, (None, None))
    if shapes != given:
        check_params(learner.model, given)
    place(learner.model, meta["params"])
    if shapes != given or not fits(learner, outputs, episodes, wait):
        SEEN[learner.model] = look(learner, meta, episodes), given


def check_sets(episodes: Episode) -> None:
    """``UserError`` unless support and query sets are of the same tasks, each with
    at least one support example."""
    T = episodes.n_tasks
    for field in ("support_y", "query_x", "query_y"):
        if len(getattr(episodes, field)) != T:
            raise UserError(
                f"support and query sets must be of equally many tasks; {field} has "
                f"{len(getattr(episodes, field))}, support_x {T}"
            )
    if not T or not episodes.support_x.shape[1]:
        raise UserError(
            "an inner loop needs tasks with support examples; support_x has the "
            f"shape {list(episodes.support_x.shape)}"
        )


def check_classes(episodes: Episode) -> None:
    """``check_sets``, and ``UserError`` unless every example has a class label and
    every query is of a class of the support sets."""
    check_sets(episodes)
    sets = ("support", *episodes[:2]), ("query", *episodes[2:4])
    for which, x, y in sets:
        if y.shape != x.shape[:2] or y.dtype != torch.int64:
            raise UserError(
                f"{which} labels must be torch.int64 of the shape [T, n], "
                f"{list(x.shape[:2])} here, not {y.dtype} of {list(y.shape)}"
            )
    last = int(episodes.support_y.max())
    for y in (episodes.support_y, episodes.query_y):
        if y.numel() and not 0 <= int(y.min()) <= int(y.max()) <= last:
            raise UserError(
                f"labels are the classes of the support sets, here 0 to {last}; "
                f"these are from {int(y.min())} to {int(y.max())}"
            )


def check_params(model: nn.Module, given: dict[str, torch.Size]) -> None:
    """``UserError`` where parameters of these shapes are not those of ``model``."""
    own = {name: p.shape for name, p in model.named_parameters()}
    for name, shape in given.items():
        if own.get(name) != shape:
            its = list(own[name]) if name in own else "no such parameter"
            raise UserError(
                f"the meta-parameters are of another network: {name} has the shape "
                f"{list(shape)}, and here {its}"
            )


def look(
    learner: InitialisationLearner, meta: Meta, episodes: Episode
) -> tuple[int, ...]:
    """The shape of the answer to one input; ``UserError`` where support or query
    targets do not fit it."""
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
    """Whether targets look like answers of that shape, one for every example."""
    for x, y in (episodes[:2], episodes[2:4]):
        if x.shape[:2] != y.shape[:2]:
            return False
    both = [y for y in (episodes.support_y, episodes.query_y) if y.numel()]
    if learner.loss == "mse":
        return all(y.shape[2:] == outputs and y.is_floating_point() for y in both)
    if not all(y.dim() == 2 and y.dtype == torch.int64 for y in both):
        return False
    read = wait or episodes.support_y.device.type == "cpu"
    return not read or all(
        0 <= int(y.min()) <= int(y.max()) < outputs[0] for y in both
    )
