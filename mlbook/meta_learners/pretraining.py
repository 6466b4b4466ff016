"""The baselines that keep meta-learning honest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.data.pools import ClassPool
from mlbook.errors import UserError
from mlbook.meta_learners.maml import MAML
from mlbook.models import Conv4
from mlbook.models.batch_norm import Statistics
from mlbook.models.functional import Params, call, initial_params


def joint_training(model: nn.Module, **options) -> MAML:
    """Joint pre-training, then fine-tuning: MAML with no inner step in
    training.

    With N = 0 the meta-loss is the mean loss of the *un-adapted* θ over the
    tasks, ∇J(θ) = mean ∇L(θ), which is what pre-training minimises; at
    meta-test the same inner loop fine-tunes with ``inner_lr``. Options are
    those of ``MAML``.
    """
    return MAML(model, **{**options, "inner_steps": 0})


def classifier_training(
    model: Conv4,
    pool: ClassPool,
    *,
    epochs: int,
    batch_size: int = 100,
    lr: float = 0.01,
    warm_up: int = 20,
    generator: torch.Generator,
) -> Iterator[tuple[Params, float]]:
    """Pre-training in the ordinary sense: tell all classes of the meta-train
    pool apart, each under one fixed label.

    model: a network with one output per class of ``pool``, on whose device it is
        trained and ``generator`` lives. Adam; ``lr`` rises
        over ``warm_up`` updates and falls linearly to zero over the run. Yields
        the parameters (the same tensors every time, changed in place) and the
        loss after every update. Rotations of the pool are not used. What is
        wanted are the features (see ``features``): the head is of no use for
        new classes. Compare the baselines of Chen et al. 2019, who train a new
        head on the support set instead. Raises ``UserError`` if the network has
        another number of outputs.
    """
    classes, examples = pool.images.shape[:2]
    if model.head.out_features != classes:
        raise UserError(
            f"the network tells {model.head.out_features} classes apart; the pool has {classes}"
        )
    images = pool.images.flatten(0, 1)
    device = images.device
    labels = torch.arange(classes, device=device).repeat_interleave(examples)
    params = {
        name: p.to(device) for name, p in initial_params(model, generator).items()
    }
    # the official head starts from N(0, 1), made for five classes; over
    # hundreds its first losses are enormous
    if "head.weight" in params:
        params["head.weight"] *= 0.1
    for p in params.values():
        p.requires_grad_()
    optimizer = torch.optim.Adam(params.values(), lr=lr)
    total, step = epochs * -(-len(images) // batch_size), 0
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator, device=device)
        for index in order.split(batch_size):
            loss = F.cross_entropy(
                call(model, params, images[index] / 255), labels[index]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = (
                lr * min(1.0, (step + 1) / warm_up) * (1 - step / total)
            )
            optimizer.step()
            step += 1
            yield (
                {name: p.detach() for name, p in params.items()},
                float(loss.detach()),
            )


def headless(model: Conv4, params: Params) -> Params:
    """The parameters of ``model`` with the identity as its head: the network
    then returns what the head would read, [B, D]. ``params`` may lack the head."""
    D = model.head.in_features
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    own = {n: params[n] for n in names if not n.startswith("head.")}
    weight = next(iter(own.values()))
    return {
        **own,
        "head.weight": torch.eye(D).to(weight),
        "head.bias": weight.new_zeros(D),
    }


def features(
    model: Conv4, params: Params, images: Tensor
) -> Callable[[Tensor], Tensor]:
    """The map from images [M, C, H, W] to what the head of ``model`` sees,
    scaled to length 1: [M, D].

    images [n, C, H, W]: meta-train images whose batch-norm statistics are used
        from then on, so that the features of an image do not depend on the
        images beside it.
    """
    body = headless(model, params)
    statistics: list[Statistics] = []
    with torch.no_grad():
        call(model, body, images, collect=statistics)

    def of(x: Tensor) -> Tensor:
        with torch.no_grad():
            return F.normalize(call(model, body, x, statistics=statistics), dim=1)

    return of
