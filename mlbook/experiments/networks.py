"""The networks that experiments name, and the learners of an initialisation around them."""

from __future__ import annotations

import torch
from torch import nn

from mlbook.errors import UserError
from mlbook.meta_learners import IMAML, MAML, Reptile, joint_training
from mlbook.models import MLP, Conv1d4, Conv4, WideResNet
from mlbook.models.conv4 import adapted_names, head_names
from mlbook.tasks import BentSectors

NETWORKS = {
    "mlp": lambda n, size, channels: MLP((1, 40, 40, 1)),
    "mlp_scaled": lambda n, size, channels: MLP((1, 40, 40, 1), init_std=None),
    "mlp_oracle": lambda n, size, channels: MLP((3, 40, 40, 1)),
    "mlp_images": lambda n, size, channels: MLP(
        ((channels or 1) * (size or 28) ** 2, 256, 128, 64, 64, n), batch_norm=True
    ),
    "mlp_reptile": lambda n, size, channels: MLP((1, 64, 64, 1), activation="tanh", init_std=None),
    "conv4_strided": lambda n, size, channels: Conv4(n, size=size or 28, channels=channels or 1),
    "conv4_reptile": lambda n, size, channels: Conv4(
        n, gamma=True, spatial_mean=False, size=size or 28, channels=channels or 1
    ),
    "conv4_pooled": lambda n, size, channels: Conv4(
        n, filters=32, downsample="max_pool", size=size or 84, channels=channels or 3
    ),
    "conv4_pooled_reptile": lambda n, size, channels: Conv4(
        n, filters=32, gamma=True, downsample="max_pool_same", size=size or 84, channels=channels or 3
    ),
    "conv1d": lambda n, size, channels: Conv1d4(n, size=size, channels=channels),
    "mlp_table": lambda n, size, channels: MLP((size, 128, 64, n), init_std=None, batch_norm=True),
    "linear": lambda n, size, channels: MLP((size, n)),
    "mlp_5d": lambda n, size, channels: MLP((5, 40, 40, n), init_std=None),
    "linear_5d": lambda n, size, channels: nn.Linear(5, n, bias=False),
    "linear_plane": lambda n, size, channels: MLP((BentSectors().features, n)),
    "wrn_28_10": lambda n, size, channels: WideResNet(n, depth=28, width=10),
    "wrn_10_4": lambda n, size, channels: WideResNet(n, depth=10, width=4, stride=2),
}
"""By name: (outputs, size, channels) -> network. Size and channels are those of the images, or None for Omniglot's (28, 1) and
miniImageNet's (84, 3), where size may also be (height, width); for ``conv1d``, size is the length of a signal; for ``linear`` and
``mlp_table`` the number of features."""


def channels_and_size(shape: list[int]) -> tuple[int | None, int | tuple[int, int]]:
    """What ``build_model`` wants to know of examples of shape [C, H, W], [C, L] or [D]."""
    if len(shape) == 3:
        return shape[0], (shape[1], shape[2])
    return (shape[0], shape[1]) if len(shape) == 2 else (None, shape[0])


def build_model(
    name: str, outputs: int, size: int | tuple[int, int] | None = None, channels: int | None = None
) -> nn.Module:
    """A network by its name in the experiments; ``UserError`` for an unknown one. The global generator stays as it is."""
    if name not in NETWORKS:
        raise UserError(f"no model is named {name!r}")
    with torch.random.fork_rng(devices=[]):  # modules draw initial values from it
        return NETWORKS[name](outputs, size, channels)


def initialisation_learner(model: nn.Module, options: dict) -> MAML | IMAML | Reptile:
    """MAML, one of its relatives, iMAML, or Reptile, with the options of a configuration's learner."""
    options = dict(options)
    method = options.pop("method", "maml")
    if method == "reptile":
        return Reptile(model, **options)
    joint, adapt = options.pop("joint", False), options.pop("adapt", "all")
    head = head_names(model)
    body = tuple(name for name in adapted_names(model) if name not in head)
    names = {"all": None, "no_beta": adapted_names(model), "head": head, "body": body}[adapt]
    kind = IMAML if method == "imaml" else joint_training if joint else MAML
    return kind(model, names=names, **options)
