"""Prototypical networks: a metric baseline without an inner loop (Snell et al.
2017).

Greek to Python: θ ``meta["params"]``, β ``meta_lr``, the embedding f
``features``, the prototypes c ``prototypes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.errors import UserError
from mlbook.meta_learners.base import (
    AllReduce,
    InitialisationLearner,
    Meta,
    Metrics,
    State,
    leaves,
    no_reduce,
    outer_step,
    running_mean,
)
from mlbook.meta_learners.classifier import RUNNING, running_of
from mlbook.meta_learners.pretraining import headless
from mlbook.models import conv4_kernels
from mlbook.models.conv4 import head_names
from mlbook.models.functional import Params, call
from mlbook.tasks.episode import Episode


def class_means(features: Tensor, y: Tensor, n_way: int) -> Tensor:
    """Features [S, D] with labels [S] -> the mean of each class, [N, D]."""
    members = F.one_hot(y, n_way).to(features.dtype)  # [S, N]
    return members.t() @ features / members.sum(0)[:, None]


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """‖x_i − c_j‖² of x [B, D] and centres [N, D]: [B, N]."""
    return (x[:, None, :] - centres).square().sum(-1)


def as_linear(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """The linear classifier that prototypes [N, D] are: weight 2c [N, D] and
    bias −‖c‖² [N].

    −‖x − c‖² = 2c·x − ‖c‖² − ‖x‖², and the last term is the same for all
    classes (Snell et al. 2017, section 2.4).
    """
    return 2 * prototypes, -prototypes.square().sum(1)


@dataclass(frozen=True)
class Prototypical(InitialisationLearner):
    """Prototypical networks (Snell et al. 2017): a query gets the class whose
    mean support feature is nearest, and the features are trained for that.

    model: a Conv4, whose head is not used. In training the support set and the
        queries of a task are normalised together and running averages are kept;
        at meta-test every image is embedded alone, with these averages.
    """

    n_way: int = 5
    """Classes of a meta-test task. A task of meta-training may have more."""
    meta_lr: float = 1e-3
    """β, rate of Adam at the start."""
    halvings: int = 10
    """β is halved so many times in the course of a run, at equal distances."""
    momentum: float = 0.1
    """How far the running averages move in a step."""
    engine = "library"
    shared_result = "each process normalises its own tasks"
    inductive = True
    recordable = False
    adapt = "prototypes"
    """What happens to a support set (see ``Classifier``)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not conv4_kernels.fits(self.model):
            raise UserError(
                "prototypical networks need a Conv4 with batch norm, ReLU and no "
                "biases"
            )
        if not all(p.requires_grad for p in self.model.parameters()):
            raise UserError(
                "prototypical networks train their whole network; parts of this "
                "one are frozen (requires_grad is False)"
            )

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """θ without a head, averages of a standard normal, a fresh Adam."""
        drawn = self.draw(generator, device)["params"]  # [PROTO 1]
        head = head_names(self.model)
        meta = {"params": {n: p for n, p in drawn.items() if n not in head}}
        optimizer = torch.optim.Adam(leaves(meta), lr=self.meta_lr)
        for group, fill in zip(RUNNING, (0.0, 1.0), strict=True):
            meta[group] = {
                f"norms.{i}": torch.full_like(norm.beta, fill, device=device)
                for i, norm in enumerate(self.model.norms)
            }
        return State(meta, optimizer)

    def meta_lr_at(self, progress: float) -> float:
        return self.meta_lr * 0.5 ** int(self.halvings * progress)

    def task_loss(self, meta: Meta, episode: Episode) -> tuple[Tensor, Metrics]:
        """The loss of one task's queries, and what to report of it. The running
        averages in ``meta`` are moved in place."""
        S, N = len(episode.support_y), int(episode.support_y.max()) + 1
        x = torch.cat([episode.support_x, episode.query_x])
        cut = conv4_kernels.patches(self.model, x)
        body, running = headless(self.model, meta["params"]), running_of(meta)
        moving = running, self.momentum
        f = conv4_kernels.logits(self.model, body, cut, *moving)  # [PROTO 2]
        prototypes = class_means(f[:S], episode.support_y, N)  # [PROTO 3]
        logits = -squared_distances(f[S:], prototypes)  # [PROTO 4]
        loss = F.cross_entropy(logits, episode.query_y)  # [PROTO 5]
        return loss, self.metrics(loss, logits, episode.query_y)

    def step(
        self,
        state: State,
        episodes: Episode,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, Metrics]:
        """One step of Adam on the mean loss of T tasks; arguments as in
        ``MetaLearner.step``."""

        def gradient_of(task: Episode) -> tuple[Meta, Metrics]:
            params = {
                n: p.detach().requires_grad_()
                for n, p in state.meta["params"].items()
            }
            loss, metrics = self.task_loss({**state.meta, "params": params}, task)
            found = torch.autograd.grad(loss, list(params.values()))
            return {"params": dict(zip(params, found, strict=True))}, metrics

        T = episodes.n_tasks
        each = (gradient_of(episodes.task(t)) for t in range(T))
        gradient, metrics = all_reduce(*running_mean(each, T))
        lr = self.meta_lr_at(progress)
        return outer_step(state, gradient, lr=lr), metrics  # [PROTO 6]

    def features(self, params: Params, x: Tensor) -> Tensor:
        """f of x [B, C, H, W] under the running averages, each image alone:
        [B, D]."""
        body = headless(self.model, params)
        running = running_of(params, "running.")
        return call(self.model, body, x, statistics=running)

    def path(
        self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int
    ) -> Iterator[Params]:
        """The network and the prototypes of one task; there is no inner loop, so
        they are the same after 0, 1, ..., ``steps`` steps."""
        params = dict(meta["params"])
        for group in RUNNING:
            params |= {f"running.{group}.{n}": t for n, t in meta[group].items()}
        f = self.features(params, support_x)
        params["prototypes"] = class_means(f, support_y, self.n_way)
        for _ in range(steps + 1):
            yield params

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """−‖f(x) − c‖² for each class, [B, N]; its softmax is the probability."""
        return -squared_distances(self.features(params, x), params["prototypes"])
