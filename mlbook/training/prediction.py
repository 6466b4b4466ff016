"""New examples, classified by a meta-learner that a few labelled ones have been shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mlbook import experiments
from mlbook.data.files import PassedOver, files_in, shown
from mlbook.data.image_folder import ENDINGS
from mlbook.data.layout import short_names
from mlbook.errors import DataError, UserError
from mlbook.experiments.images import read_picture
from mlbook.meta_learners.base import Meta, MetaLearner
from mlbook.models.batch_norm import BatchNorm
from mlbook.models.mapping import task_by_task
from mlbook.tasks.episode import BatchedEpisode, Episode
from mlbook.tasks.mini_batches import cycled
from mlbook.training.evaluation import predictions, task_path

COSINE = "cosine"
PROBABILITY = "probability"

ALONE = {
    "running": "running averages of meta-training",
    "support": "statistics of the support set",
    "support_and_query": "statistics of the support set and the one picture",
    "transductive": "statistics of all new pictures together",
    "none": "no normalisation",
}
"""What normalises a picture in each batch-norm mode, in words."""


@dataclass(frozen=True)
class Prediction:
    """What a meta-learner says of some pictures."""

    classes: tuple[str, ...]
    images: tuple[str, ...]
    """Names of the pictures."""
    scores: Tensor
    """[pictures, classes], of ``measure``."""
    measure: str
    """``probability``: the softmax of the adapted network's logits, which sum to 1. ``cosine``: with the features of a class, for
    methods that compare features."""
    steps: int
    """Inner steps on the support set."""
    batch_norm: str | None
    """The batch-norm mode (``mlbook.models.batch_norm``); None where nothing is normalised over pictures."""
    notes: tuple[str, ...] = ()
    """What was passed over in the support set."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The class with the largest score, for every picture."""
        return tuple(self.classes[i] for i in self.scores.argmax(1).tolist())

    def as_dict(self) -> dict:
        """All of it as plain values."""
        several = {PROBABILITY: "probabilities", COSINE: "cosines"}[self.measure]
        rows = [
            {
                "image": image,
                "label": label,
                self.measure: max(row),
                several: dict(zip(self.classes, row, strict=True)),
            }
            for image, label, row in zip(self.images, self.labels, self.scores.tolist(), strict=True)
        ]
        its = {"inner_steps": self.steps, "batch_norm": self.batch_norm, "notes": list(self.notes)}
        return its | {"predictions": rows}


def predict(
    config: dict,
    meta: Meta,
    support: Path | str | Mapping[str, Iterable[Path | str]],
    images: Iterable[Path | str],
    *,
    steps: int | None = None,
    batch_norm: str | None = None,
) -> Prediction:
    """Adapt a checkpoint's meta-parameters to a few labelled pictures and classify new ones.

    config, meta: what ``load_checkpoint`` returns, of an experiment on pictures. support: a folder (or archive) with one folder
    per class, or {class: files}. images: files, any number. Pictures of any size and format are prepared as those of the
    experiment's data set. steps: inner steps (default: the experiment's at meta-test). batch_norm: a mode; the default normalises
    each picture together with the support set, so that one picture alone can be classified. Reptile's mini-batches are drawn with
    a fixed seed. Raises ``UserError`` for another number of classes than the network tells apart, ``DataError`` for what is no
    picture.
    """
    learner = experiments.setup(config).learner
    if "features" in config or "shape" in config or learner.metric != "accuracy" or not learner.query_sets:
        raise UserError(
            f"{config['name']} does not classify pictures; predict needs an experiment on pictures"
        )
    passed = PassedOver()
    labelled = _labelled(support, passed)
    learner = _for_classes(learner, config, len(labelled))
    device = next(iter(meta["params"].values())).device

    def tensors(pictures: Iterable[Picture]) -> Tensor:
        return torch.stack([_prepared(config, picture) for picture in pictures]).to(device)

    support_x = tensors(picture for its in labelled.values() for picture in its)
    counts = torch.tensor([len(its) for its in labelled.values()])
    support_y = torch.arange(len(labelled)).repeat_interleave(counts).to(device)
    new = [_read(path) for path in images]
    if not new:
        raise UserError("there are no pictures to classify")
    steps = config["report_step"] if steps is None else steps
    mode = _mode(learner, batch_norm)
    scores = class_scores(
        learner,
        meta,
        support_x,
        support_y,
        tensors(new),
        steps=steps,
        batch_norm=mode,
        mini_batch=config.get("test_batch"),
    )
    compares = learner.inductive and getattr(learner, "adapt", "nearest") == "nearest"
    return Prediction(
        tuple(labelled),
        tuple(name for _, name in new),
        (scores if compares else scores.softmax(1)).cpu(),
        COSINE if compares else PROBABILITY,
        steps,
        "running" if learner.inductive else mode,
        tuple(passed.lines()),
    )


def table(found: Prediction) -> str:
    """A prediction as lines of text: how it was made, then a line for every picture."""
    width = max(len(name) for name in (*found.images, "picture")) + 2
    columns = [max(len(name), 6) + 2 for name in found.classes]
    label = max(len(name) for name in (*found.classes, "label")) + 2
    normalised = f"; batch norm: {ALONE[found.batch_norm]}" if found.batch_norm else ""
    steps = f"{found.steps} inner step{'' if found.steps == 1 else 's'}"
    lines = [f"{found.measure} of each class after {steps}{normalised}", *found.notes]
    head = "".join(f"{name:>{w}}" for name, w in zip(found.classes, columns, strict=True))
    lines.append(f"{'picture':{width}}{'label':{label}}{head}")
    for image, name, row in zip(found.images, found.labels, found.scores.tolist(), strict=True):
        numbers = "".join(f"{value:>{w}.3f}" for value, w in zip(row, columns, strict=True))
        lines.append(f"{image:{width}}{name:{label}}{numbers}")
    return "\n".join(lines)


def class_scores(
    learner: MetaLearner,
    meta: Meta,
    support_x: Tensor,
    support_y: Tensor,
    x: Tensor,
    *,
    steps: int,
    batch_norm: str | None = None,
    mini_batch: int | None = None,
) -> Tensor:
    """Logits [B, N] of new examples x [B, ...] after ``steps`` inner steps on a support set [S, ...] with labels [S].

    Their softmax over N is the probability of each class. batch_norm: as in ``predict``. mini_batch: support examples per inner
    step, for Reptile (default: all). For any learner with a network, and any kind of input. Raises ``UserError`` where labels do
    not fit the network.
    """
    if steps < 0:
        raise UserError(f"the inner steps must not be negative, got {steps}")
    # with nothing to normalise, every mode is the plain call
    mode = _mode(learner, batch_norm) or "transductive"
    episode = Episode(support_x, support_y, x, support_y.new_zeros(len(x)))
    learner.check_episodes(meta, Episode(*(field[None] for field in episode)), wait=True)
    if mini_batch is not None and steps:
        generator = torch.Generator().manual_seed(0)
        order = cycled(1, len(support_x), mini_batch, steps, generator)[0]
        episode = BatchedEpisode(*episode, order.to(x.device))

    def adapt_and_predict() -> Tensor:
        *_, params = task_path(learner, meta, episode, steps)
        return (
            learner.predict(params, x)
            if learner.inductive
            else predictions(learner, params, episode, mode, None)
        )

    with torch.no_grad():  # one task: there is nothing to map, so any network will do
        return task_by_task(learner.model, adapt_and_predict)


def normalises_over_examples(module: nn.Module) -> bool:
    """Whether what a network says of an example depends on the examples beside it."""
    return any(
        isinstance(child, BatchNorm)
        or (
            isinstance(child, nn.modules.batchnorm._BatchNorm)
            and (child.training or child.running_mean is None)
        )
        for child in module.modules()
    )


def _mode(learner: MetaLearner, batch_norm: str | None) -> str | None:
    """The batch-norm mode: the one that is asked for, or one in which an example can stand alone."""
    if learner.inductive:
        if batch_norm not in (None, "running"):
            raise UserError(
                f"each picture is classified by itself here; batch-norm mode {batch_norm} is not for it"
            )
        return None
    if not normalises_over_examples(learner.model):
        if batch_norm is not None:
            raise UserError(
                f"this network normalises nothing over pictures; the mode {batch_norm} means nothing for it"
            )
        return None
    if batch_norm == "running":
        raise UserError(
            "running averages are not kept in a checkpoint; use support, support_and_query or transductive"
        )
    return batch_norm or "support_and_query"


Picture = tuple[bytes, str]
"""The bytes of a file, and what messages call it."""


def _labelled(
    support: Path | str | Mapping[str, Iterable[Path | str]], passed: PassedOver
) -> dict[str, list[Picture]]:
    """The pictures of a support set by class, classes and files in the order of their names."""
    if isinstance(support, Mapping):
        found = {str(name): [_read(path) for path in paths] for name, paths in support.items()}
    else:
        folders: dict[tuple[str, ...], list[Picture]] = {}
        for file in files_in(Path(support), passed):
            name = "/".join(file.path)
            if not name.lower().endswith(ENDINGS):
                passed.add("files that are no pictures it can read", name)
            elif len(file.path) < 2:
                raise DataError(
                    f"{shown(name)} lies in no class folder of {shown(support)}; the layout is CLASS/PICTURE"
                )
            else:
                folders.setdefault(file.path[:-1], []).append((file.read(), name))
        names = short_names(list(folders))
        found = {names[folder]: folders[folder] for folder in sorted(folders)}
    empty = [name for name, its in found.items() if not its]
    if empty or len(found) < 2:
        what = f"class {empty[0]} has no pictures" if empty else f"the support set has {len(found)} classes"
        raise UserError(f"{what}; it needs at least two classes with a picture each")
    return found


def _read(path: Path | str) -> Picture:
    try:
        return Path(path).read_bytes(), str(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{shown(path)} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None


def _prepared(config: dict, picture: Picture) -> Tensor:
    try:
        return read_picture(config, *picture)
    except DataError as error:
        raise DataError(str(error).removesuffix("; nothing was imported")) from None


def _for_classes(learner: MetaLearner, config: dict, n: int) -> MetaLearner:
    """The learner for tasks of n classes; ``UserError`` where its network has outputs for another number."""
    if learner.inductive and "n_way" in {field.name for field in fields(learner)}:
        return replace(learner, n_way=n)
    if n != config["n_way"]:
        name = config["name"].replace(f"{config['n_way']}w", f"{n}w")
        raise UserError(
            f"{config['name']} tells {config['n_way']} classes apart and the support set has {n}; "
            f"give it {config['n_way']}, or train {name}"
        )
    return learner
