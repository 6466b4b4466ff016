"""Federated averaging: clients take a few steps of ordinary training on data
that stays with them, and a server averages what comes back.

Greek to Python: w ``theta`` or ``meta["params"]``, η ``inner_lr``, u local steps
``inner_steps``, w_k ``models``, n_k/n ``weight``, outer rate ``meta_lr``, outer
momentum μ ``momentum``, control variates c_k ``controls``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from mlbook.errors import UserError
from mlbook.meta_learners import first_look
from mlbook.meta_learners.base import (
    AllReduce,
    InitialisationLearner,
    Meta,
    Metrics,
    State,
    leaves,
    no_reduce,
    outer_step,
)
from mlbook.meta_learners.inner_loop import Loss, adapt, inner_path
from mlbook.meta_learners.losses import LOSSES
from mlbook.models.functional import Params, learning
from mlbook.models.mapping import at_once_or_one_by_one
from mlbook.tasks.episode import ClientRound


def federated_round(
    clients: Sequence[Sequence[Loss]],
    sizes: Sequence[int],
    theta: Params,
    *,
    inner_lr: float,
) -> Params:
    """One round of federated averaging: w ← Σ (n_k/n)·w_k.

    clients: for each client its losses, one per local step; they may take
        different numbers of steps.
    sizes n_k: how many examples each client has.

    Source: McMahan et al. (2017), algorithm 1, with all clients in the round.
    """
    n = sum(sizes)
    mean = {name: torch.zeros_like(p) for name, p in theta.items()}
    for losses, n_k in zip(clients, sizes, strict=True):  # [FEDAVG 2]
        steps = len(losses)
        local = adapt(losses, theta, inner_lr=inner_lr, steps=steps)  # [FEDAVG 3]
        mean = {k: m + n_k / n * local[k] for k, m in mean.items()}  # [FEDAVG 4]
    return mean


def pseudo_gradient(theta: Params, models: Params, weight: Tensor) -> Params:
    """Δ, the mean over clients of weight_k·(θ − w_k): what an outer optimiser takes
    in a gradient's place.

    models: the clients' parameters, stacked: [T, ...]. weight [T], with mean 1.
    """

    def mean(start: Tensor, local: Tensor) -> Tensor:
        share = weight.view(-1, *[1] * start.dim())
        return (share * (start - local)).mean(0)

    return {name: mean(theta[name], models[name]) for name in theta}


def corrected(loss: Loss, shift: Params) -> Loss:
    """The loss whose gradient is that of ``loss`` plus ``shift``: SCAFFOLD's local
    step y ← y − η(g_k(y) − c_k + c) is a plain step on it with c − c_k."""

    def moved(params: Params) -> Tensor:
        linear = [(params[name] * shift[name]).sum() for name in params]
        return loss(params) + torch.stack(linear).sum()

    return moved


@dataclass(frozen=True)
class FederatedAveraging(InitialisationLearner):
    """FedAvg (McMahan et al. 2017), with an outer optimiser and a correction.

    With one local step it is synchronous SGD on large batches; with an outer rate
    ε below 1 it is batched Reptile; with Nesterov momentum outside it is the outer
    loop of DiLoCo (Douillard et al. 2023), whose inner optimiser is AdamW; with
    control variates it is SCAFFOLD (Karimireddy et al. 2020, option II, all
    clients in every round).
    """

    inner_lr: float = 0.1
    """η."""
    inner_steps: int = 20
    """u, local steps in a round."""
    meta_lr: float = 1.0
    """The outer rate."""
    momentum: float = 0.0
    """μ of the outer Nesterov momentum; 0: plain gradient descent on Δ."""
    control_variates: int = 0
    """SCAFFOLD: the number of clients, each with a control variate; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_steps < 1:
            raise UserError(
                f"inner_steps must be at least 1, got {self.inner_steps}"
            )
        if not 0 <= self.momentum < 1:
            raise UserError(
                f"momentum must be at least 0 and below 1, got {self.momentum}"
            )

    @property
    def recordable(self) -> bool:
        return False  # SGD cannot read a rate from the device's memory

    def one_process_because(self) -> str | None:
        reason = "keeps the control variates of all clients in one place"
        return reason if self.control_variates else None

    def init(
        self, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> State:
        """θ (see ``draw``); control variates are zero."""
        meta = self.draw(generator, device)  # [FEDAVG 1]
        optimizer = torch.optim.SGD(
            leaves(meta),
            lr=self.meta_lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
        )
        if C := self.control_variates:
            fresh = {n: p.new_zeros(C, *p.shape) for n, p in meta["params"].items()}
            meta["controls"] = fresh
        return State(meta, optimizer)

    def loss_on(self, x: Tensor, y: Tensor) -> Loss:
        """The mean loss on one mini-batch, as a function of the parameters."""

        def loss(params: Params) -> Tensor:
            return LOSSES[self.loss](self.predict(params, x), y)

        return loss

    def path(self, meta: Meta, support_x: Tensor, support_y: Tensor, steps: int):
        """Fine-tuning on one client: parameters after 0, 1, ..., ``steps`` steps on
        all of its data."""
        loss = self.loss_on(support_x, support_y)
        return inner_path(loss, meta["params"], inner_lr=self.inner_lr, steps=steps)

    def local_model(
        self, theta: Params, client: ClientRound, shift: Params | None = None
    ) -> Params:
        """w_k: θ after u local steps of one client, corrected by ``shift``."""
        if len(client.order) < self.inner_steps:
            raise UserError(
                f"{self.inner_steps} local steps need as many mini-batches, not "
                f"{len(client.order)}"
            )
        losses = []
        for index in client.order[: self.inner_steps]:
            loss = self.loss_on(client.support_x[index], client.support_y[index])
            losses.append(corrected(loss, shift) if shift else loss)
        steps, rate = len(losses), self.inner_lr
        return adapt(losses, theta, inner_lr=rate, steps=steps)  # [FEDAVG 3]

    def local_models(
        self, theta: Params, clients: ClientRound, shifts: Params
    ) -> Params:
        """The w_k of all clients of a round, stacked [T, ...]; shifts [T, ...], or
        empty."""

        def at_once(clients: ClientRound) -> Params:
            over_clients = vmap(
                self.local_model, (None, 0, 0), randomness="different"
            )
            return over_clients(theta, clients, shifts)

        def one_by_one(clients: ClientRound) -> Params:
            models = [
                self.local_model(
                    theta, clients.task(t), {n: s[t] for n, s in shifts.items()}
                )
                for t in range(clients.n_tasks)
            ]
            return {n: torch.stack([m[n] for m in models]) for n in theta}

        kind = "first-order gradient"
        with learning():
            return at_once_or_one_by_one(
                self.model, kind, at_once, one_by_one, clients
            )

    def shifts(self, meta: Meta, clients: ClientRound) -> Params:
        """c − c_k of the clients of a round; empty without control variates."""
        if not self.control_variates:
            return {}
        if clients.n_tasks != self.control_variates:
            raise UserError(
                f"with {self.control_variates} control variates all "
                f"{self.control_variates} clients take part in every round, not "
                f"{clients.n_tasks}"
            )
        numbers = clients.number
        return {n: c.mean(0) - c[numbers] for n, c in meta["controls"].items()}

    def check_episodes(
        self, meta: Meta, episodes: ClientRound, *, wait: bool = False
    ) -> None:
        first_look.check(self, meta, episodes, wait=wait)

    def step(
        self,
        state: State,
        episodes: ClientRound,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, Metrics]:
        """One round; arguments as in ``MetaLearner.step``. The metrics are those of
        the model that the clients receive, on their first mini-batches."""
        self.check_episodes(state.meta, episodes)
        theta, clients = state.meta["params"], episodes
        shifts = self.shifts(state.meta, clients)
        models = self.local_models(theta, clients, shifts)  # [FEDAVG 2]
        for name, shift in shifts.items():  # c_k ← c_k − c + (θ − w_k)/(uη)
            scale = self.inner_steps * self.inner_lr
            control = (theta[name] - models[name]) / scale - shift
            state.meta["controls"][name][clients.number] = control
        delta = pseudo_gradient(theta, models, clients.weight)
        metrics = self.first_metrics(theta, clients)
        gradient, metrics = all_reduce({"params": delta}, metrics)
        return outer_step(state, gradient, lr=self.meta_lr), metrics  # [FEDAVG 4]

    @torch.no_grad()
    def first_metrics(self, theta: Params, clients: ClientRound) -> Metrics:
        """Loss and accuracy of θ on the first mini-batch of every client."""
        first = clients.order[:, 0]
        rows = torch.arange(len(first), device=first.device)[:, None]
        x = clients.support_x[rows, first].flatten(0, 1)
        y = clients.support_y[rows, first].flatten(0, 1)
        prediction = self.predict(theta, x)
        return self.metrics(LOSSES[self.loss](prediction, y), prediction, y)
