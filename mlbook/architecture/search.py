"""Architecture search as meta-learners that ``python -m mlbook train`` knows: a controller, blind chance, and a relaxation.

A meta-batch is S independent searches. Search s is rewarded from seed s mod seeds of the table and judged by all others.
What a search would hand over after n children is its pick: the one with the highest reward so far (the relaxation: the most
likely option of every decision). A run is therefore S trials of a method, and its intervals are over searches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from mlbook.architecture import children
from mlbook.architecture.children import Characters
from mlbook.architecture.controller import Controller, LSTMController, draw, moving_average, reinforce
from mlbook.architecture.table import ArchitectureTable
from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.meta_learners.base import AllReduce, Meta, MetaLearner, State, no_reduce
from mlbook.models.functional import Params
from mlbook.tasks.episode import TaskDistribution


class Draws(NamedTuple):
    """What chance brings to one update of S searches."""

    uniform: Tensor  # [S, m, T], from [0, 1)

    @property
    def n_tasks(self) -> int:
        return self.uniform.shape[0]


@dataclass(frozen=True)
class Chance(TaskDistribution):
    """The random numbers that children are drawn by; ``per_update`` of them for each search."""

    per_update: int = 1
    decisions: int = len(children.SIZES)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Draws:
        shape = (n_tasks, self.per_update, self.decisions)
        return Draws(torch.rand(shape, generator=generator, device=generator.device))


class Batches(NamedTuple):
    """Drawings for one step of S relaxations: to train w on, and to judge α by."""

    train_x: Tensor  # [S, B, 1, 14, 14]
    train_y: Tensor  # [S, B]
    validation_x: Tensor
    validation_y: Tensor

    @property
    def n_tasks(self) -> int:
        return self.train_x.shape[0]


@dataclass(frozen=True)
class DrawnBatches(TaskDistribution):
    """Mini-batches drawn with replacement."""

    data: Characters
    batch: int = 100

    def sample(self, n_tasks: int, generator: torch.Generator) -> Batches:
        fields, data = [], self.data
        for x, y in ((data.train_x, data.train_y), (data.validation_x, data.validation_y)):
            rows = torch.randint(
                len(y), (n_tasks, self.batch), generator=generator, device=generator.device
            ).cpu()
            fields += [x[rows].to(generator.device), y[rows].to(generator.device)]
        return Batches(*fields)


@dataclass(frozen=True)
class _Search(MetaLearner):
    """What all searches have in common."""

    table: ArchitectureTable
    searches: int = 100
    steps: int = 300
    """Updates; with one child per update also the children trained."""
    metric = "accuracy"
    is_search = True
    vmappable = True
    inductive = True
    engine = "autograd"
    fast_engine_fits = False
    recordable = False
    """As a CUDA graph: rewards are looked up on the CPU."""

    def __post_init__(self) -> None:
        if self.searches < 2 or self.steps < 1:
            raise UserError("a run needs at least 2 searches and 1 step")

    @property
    def seeds(self) -> Tensor:
        """The seed that rewards each search: [S]."""
        return torch.arange(self.searches) % self.table.seeds

    def picks(self, meta: Meta) -> Tensor:
        """The architecture that every search would hand over after 1..n children: [S, n], rows of the table."""
        raise NotImplementedError

    def trials(self, meta: Meta, steps: int) -> Tensor:
        """Worth of the pick after 0..``steps`` children: [S, steps + 1]. After none it is any architecture, the mean of the
        space; behind the end of the run it stays."""
        worth = self.table.worth(self.seeds)
        found = torch.cat([worth.mean(1, keepdim=True), worth.gather(1, self.picks(meta).cpu())], 1)
        return found[:, torch.arange(steps + 1).clamp_max(found.shape[1] - 1)]


@dataclass(frozen=True)
class ControllerSearch(_Search):
    """REINFORCE with a moving average of rewards as baseline; with ``learns`` False the same draws under a policy that stays
    uniform: random search."""

    controller: Controller = LSTMController()
    children: int = 1
    """m, drawn per update."""
    meta_lr: float = 0.006
    baseline_decay: float | None = 0.9
    """None: no baseline (b = 0)."""
    entropy_bonus: float = 0.01
    learns: bool = True

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        theta = {k: v.to(device) for k, v in self.controller.init(generator, self.searches).items()}
        memory = {
            "baseline": torch.zeros(self.searches, device=device),
            "drawn": torch.full((self.searches, self.steps * self.children), -1, device=device),
        }
        return State({"params": theta, "memory": memory}, torch.optim.Adam(theta.values(), lr=self.meta_lr))

    def meta_lr_at(self, progress: float) -> float:
        return self.meta_lr

    def step(
        self, state: State, draws: Draws, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        """Draw m children per search, look their rewards up, move θ_c. The first rewards only start the baseline."""
        theta, memory = state.meta["params"], state.meta["memory"]
        first = state.meta_step == 0  # [NAS 1]
        if self.learns:
            choices = vmap(lambda w, u: draw(self.controller, w, u))(theta, draws.uniform)  # [NAS 2]
        else:
            sizes = torch.tensor(self.controller.sizes, device=draws.uniform.device)
            choices = (draws.uniform * sizes).long()
        rows = row_numbers(choices, self.controller.sizes)
        rewards = self.table.rewards(self.seeds).to(rows.device).gather(1, rows).float()
        if self.learns and not (first and self.baseline_decay is not None):
            estimate = reinforce(self.controller, choices, rewards, memory["baseline"], self.entropy_bonus)
            bilevel.outer_step(theta, estimate, state.optimizer)
        if self.baseline_decay is not None:
            memory["baseline"] = moving_average(memory["baseline"], rewards, self.baseline_decay, first)
        at = state.meta_step * self.children
        memory["drawn"][:, at : at + self.children] = rows
        mean = rewards.mean()
        return State(state.meta, state.optimizer, state.meta_step + 1), {"loss": 1 - mean, "accuracy": mean}

    def picks(self, meta: Meta) -> Tensor:
        drawn = meta["memory"]["drawn"].cpu()
        rewards = self.table.rewards(self.seeds).gather(1, drawn.clamp_min(0)).masked_fill(drawn < 0, -1.0)
        return drawn.gather(1, first_best(rewards))


def first_best(rewards: Tensor) -> Tensor:
    """[S, n] -> for every prefix the position of its highest reward, of equals the first."""
    best = rewards.cummax(1).values
    rises = torch.cat([torch.ones_like(best[:, :1], dtype=torch.bool), best[:, 1:] > best[:, :-1]], 1)
    places = torch.arange(rewards.shape[1]).expand_as(rewards)
    return torch.where(rises, places, 0).cummax(1).values


def row_numbers(choices: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """choices [..., T] -> rows of the table [...]."""
    rows = torch.zeros_like(choices[..., 0])
    for t, size in enumerate(sizes):
        rows = rows * size + choices[..., t]
    return rows


@dataclass(frozen=True)
class RelaxedSearch(_Search):
    """Every option at once, weighted by softmax(α) (Liu et al. 2019): a step of α on validation drawings, a step of the shared
    weights w on training drawings.

    ``unrolled`` ξ > 0 differentiates the validation loss at w − ξ∇_w L_train(w, α) exactly; 0 takes w as a constant.
    """

    classes: int = 50
    meta_lr: float = 0.03
    weight_lr: float = 0.015
    """Falls to zero along a cosine, as the children's."""
    unrolled: float = 0.0

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        starts = [children.initial(None, self.classes, generator) for _ in range(self.searches)]
        w = {name: torch.stack([start[name] for start in starts]).to(device) for name in starts[0]}
        alpha = {f"{t}": torch.zeros(self.searches, n, device=device) for t, n in enumerate(children.SIZES)}
        optimizer = torch.optim.Adam(
            [
                {"params": list(alpha.values()), "lr": self.meta_lr},
                {"params": list(w.values()), "lr": self.weight_lr},
            ]
        )
        drawn = torch.full((self.searches, self.steps), -1, device=device)
        return State({"params": alpha, "weights": w, "memory": {"drawn": drawn}}, optimizer)

    def meta_lr_at(self, progress: float) -> float:
        return self.meta_lr

    def alpha_estimate(self, w: Params, batches: Batches) -> tuple[bilevel.Estimator, dict[str, Tensor]]:
        """The estimate of d L_val / dα at shared weights w, and a place where it leaves the accuracy of the mixtures."""
        seen: dict[str, Tensor] = {}

        def validation_loss(_point: bilevel.Outer, decided: list[Tensor]) -> Tensor:
            there = w
            if self.unrolled:
                start = {name: tensor.detach().requires_grad_() for name, tensor in w.items()}
                training, _ = _loss(decided, start, batches.train_x, batches.train_y)
                slopes = torch.autograd.grad(training, list(start.values()), create_graph=True)
                there = {n: t - self.unrolled * g for (n, t), g in zip(start.items(), slopes, strict=True)}
            total, seen["accuracy"] = _loss(decided, there, batches.validation_x, batches.validation_y)
            return total

        return bilevel.relaxed(lambda a, _: _soft(a), validation_loss, samples=1, generator=None), seen

    def step(
        self, state: State, batches: Batches, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        """One step of α, one of w. The metrics are those of the mixtures on the validation drawings of the step."""
        alpha, w = state.meta["params"], state.meta["weights"]  # [DARTS 1]
        state.optimizer.param_groups[1]["lr"] = self.weight_lr * 0.5 * (1 + math.cos(math.pi * progress))
        estimate, seen = self.alpha_estimate(w, batches)
        found = bilevel.outer_step(alpha, estimate, state.optimizer)  # [DARTS 3] η = α
        decided = _soft(alpha)

        def training_loss(point: bilevel.Outer) -> Tensor:
            return _loss(decided, point, batches.train_x, batches.train_y)[0]

        bilevel.outer_step(
            w, lambda point: bilevel.gradient_of(training_loss, point), state.optimizer
        )  # [DARTS 4]
        state.meta["memory"]["drawn"][:, state.meta_step] = self.discrete(alpha)
        metrics = {"loss": found / self.searches, "accuracy": seen["accuracy"]}
        return State(state.meta, state.optimizer, state.meta_step + 1), metrics

    def discrete(self, alpha: bilevel.Outer) -> Tensor:
        """The most likely option of every decision, as a row of the table: [S]."""
        return row_numbers(
            torch.stack([a.argmax(-1) for a in alpha.values()], -1), children.SIZES
        )  # [DARTS 5]

    def picks(self, meta: Meta) -> Tensor:
        return meta["memory"]["drawn"]


def _soft(alpha: bilevel.Outer) -> list[Tensor]:
    """Weights of the options of every decision, summing to 1: [S, options] each."""
    return [tensor.softmax(-1) for tensor in alpha.values()]  # [DARTS 2]


def _loss(decided: list[Tensor], w: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over searches of the mean cross-entropy, and the mean accuracy."""
    logits = vmap(children.forward)(w, decided, x)
    accuracy = (logits.detach().argmax(-1) == y).float().mean()
    return F.cross_entropy(logits.flatten(0, 1), y.flatten()) * len(x), accuracy
