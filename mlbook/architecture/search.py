"""Architecture search as meta-learners that ``python -m mlbook train`` knows: a controller, blind chance, and a relaxation.

A meta-batch is S independent searches. Search s takes its rewards from seed s modulo the number of seeds in the table, and all
other seeds judge it. The pick of a search after n children is what it would return then: the child with the highest reward so
far, or, for the relaxation, the likeliest option of every decision. So a run is S trials of a method, and its intervals are over
searches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from mlbook.architecture import children
from mlbook.architecture.children import Characters
from mlbook.architecture.controller import Controller, LSTMController, draw, moving_average, reinforce
from mlbook.architecture.table import ArchitectureTable
from mlbook.errors import UserError
from mlbook.meta_learners.base import AllReduce, Meta, MetaLearner, State, cosine, no_reduce
from mlbook.meta_learners.bilevel import Estimate, Outer, move, outer_step
from mlbook.models.functional import Params
from mlbook.tasks.episode import TaskDistribution


class Draws(NamedTuple):
    """The random numbers of one update of S searches with m children each."""

    uniform: Tensor  # [S, m, T], from [0, 1)

    @property
    def n_tasks(self) -> int:
        """S."""
        return self.uniform.shape[0]


@dataclass(frozen=True)
class Chance(TaskDistribution):
    """Where the random numbers of updates come from: what a distribution of tasks is to other learners."""

    per_update: int = 1
    """m, children of each search."""
    decisions: int = len(children.SIZES)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Draws:
        """Those of ``n_tasks`` searches, on the generator's device."""
        shape = (n_tasks, self.per_update, self.decisions)
        return Draws(torch.rand(shape, generator=generator, device=generator.device))


class Batches(NamedTuple):
    """Drawings for one step of S relaxations: to train w on, and to judge α by."""

    train_x: Tensor  # [S, B, 1, 14, 14]
    train_y: Tensor  # [S, B]
    validation_x: Tensor  # as train_x
    validation_y: Tensor  # as train_y

    @property
    def n_tasks(self) -> int:
        """S."""
        return self.train_x.shape[0]


@dataclass(frozen=True)
class DrawnBatches(TaskDistribution):
    """Mini-batches drawn with replacement."""

    data: Characters
    batch: int = 100
    """Drawings to train on, and as many to validate."""

    def sample(self, n_tasks: int, generator: torch.Generator) -> Batches:
        """Those of ``n_tasks`` searches, on the generator's device."""
        fields, data = [], self.data
        for x, y in ((data.train_x, data.train_y), (data.validation_x, data.validation_y)):
            rows = torch.randint(
                len(y), (n_tasks, self.batch), generator=generator, device=generator.device
            ).cpu()
            fields += [x[rows].to(generator.device), y[rows].to(generator.device)]
        return Batches(*fields)


@dataclass(frozen=True)
class ArchitectureSearch(MetaLearner):
    """S searches in one table. Raises ``UserError`` for fewer than 2 searches or no step."""

    table: ArchitectureTable
    searches: int = 100
    """S."""
    steps: int = 300
    """Updates; with one child per update also the children trained."""
    is_search = True
    inductive = True
    engine = "autograd"
    recordable = False  # rewards are looked up on the CPU

    def __post_init__(self) -> None:
        if self.searches < 2 or self.steps < 1:
            raise UserError("a run needs at least 2 searches and 1 step")

    def one_process_because(self) -> str | None:
        return "computes all its searches at once"

    @property
    def seeds(self) -> Tensor:
        """The seed that rewards each search: [S]."""
        return torch.arange(self.searches) % self.table.seeds

    def picks(self, meta: Meta) -> Tensor:
        """The architecture that every search would return after 1..n children: [S, n], rows of the table."""
        raise NotImplementedError

    def trials(self, meta: Meta, steps: int) -> Tensor:
        """Worth of the pick after 0..``steps`` children, [S, steps + 1].

        Before the first child any architecture could be picked: the mean over the space. After the last one nothing changes.
        """
        worth = self.table.worth(self.seeds)
        found = torch.cat([worth.mean(1, keepdim=True), worth.gather(1, self.picks(meta).cpu())], 1)
        return found[:, torch.arange(steps + 1).clamp_max(found.shape[1] - 1)]


@dataclass(frozen=True)
class ControllerSearch(ArchitectureSearch):
    """REINFORCE with a moving average of rewards as baseline. With ``learns`` False the policy stays uniform: random search."""

    controller: Controller = LSTMController()
    children: int = 1
    """m, drawn per update."""
    meta_lr: float = 0.006
    """Rate of Adam for θ_c."""
    baseline_decay: float | None = 0.9
    """None: no baseline (b = 0)."""
    entropy_bonus: float = 0.01
    """That much of the entropies, in nats, is added to the reward."""
    learns: bool = True

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """Fresh controllers; baselines of 0; and room for the children that will be drawn, rows of the table (−1: none yet)."""
        theta = {k: v.to(device) for k, v in self.controller.init(generator, self.searches).items()}
        memory = {
            "baseline": torch.zeros(self.searches, device=device),
            "drawn": torch.full((self.searches, self.steps * self.children), -1, device=device),
        }
        return State({"params": theta, "memory": memory}, torch.optim.Adam(theta.values(), lr=self.meta_lr))

    def choose(self, theta: Params, uniform: Tensor) -> Tensor:
        """The children of an update, [S, m, T], by numbers ``uniform`` of that shape."""
        if self.learns:
            return vmap(partial(draw, self.controller))(theta, uniform)
        sizes = torch.tensor(self.controller.sizes, device=uniform.device)
        return (uniform * sizes).long()

    def step(
        self,
        state: State,
        draws: Draws,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, dict[str, Tensor]]:
        """Draw m children per search, look their rewards up, move θ_c. Metrics: mean reward as ``accuracy``, 1 − it as ``loss``.

        The first rewards only start the baseline.
        """
        theta, memory = state.meta["params"], state.meta["memory"]
        b, decay = memory["baseline"], self.baseline_decay
        starts = state.meta_step == 0 and decay is not None  # [NAS 1]
        choices = self.choose(theta, draws.uniform)  # [NAS 2]
        rows = row_numbers(choices, self.controller.sizes)
        table = self.table.rewards(self.seeds).to(rows.device)
        rewards = table.gather(1, rows).float()
        if self.learns and not starts:
            bonus = self.entropy_bonus
            estimate = reinforce(self.controller, choices, rewards, b, bonus)
            outer_step(theta, estimate, state.optimizer)
        if decay is not None:
            memory["baseline"] = moving_average(b, rewards, decay, starts)
        at = state.meta_step * self.children
        memory["drawn"][:, at : at + self.children] = rows
        mean = rewards.mean()
        metrics = {"loss": 1 - mean, "accuracy": mean}
        return State(state.meta, state.optimizer, state.meta_step + 1), metrics

    def picks(self, meta: Meta) -> Tensor:
        """Of all children drawn so far the one with the highest reward, [S, n]."""
        drawn = meta["memory"]["drawn"].cpu()
        rewards = self.table.rewards(self.seeds).gather(1, drawn.clamp_min(0)).masked_fill(drawn < 0, -1.0)
        return drawn.gather(1, first_best(rewards))


def first_best(rewards: Tensor) -> Tensor:
    """The position of the highest reward in each prefix, the first of equals: [S, n] -> [S, n]."""
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
class RelaxedSearch(ArchitectureSearch):
    """Every option at once, weighted by softmax(α) (DARTS, Liu et al. 2019): a step of α on validation drawings, then a step of
    the shared weights w on training drawings."""

    classes: int = 50
    meta_lr: float = 0.03
    """Rate of Adam for α."""
    weight_lr: float = 0.015
    """Rate of Adam for w at the start; it falls to zero along a cosine, as the children's."""
    unrolled: float = 0.0
    """ξ. Above 0 the validation loss at w − ξ∇_w L_train(w, α) is differentiated exactly; at 0 w counts as a constant."""

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """α of 0 (all options weigh the same), random w, and room for what each step would pick (−1: none yet)."""
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

    def validation_loss(
        self,
        alpha: Params,
        w: Params,
        batches: Batches,
    ) -> tuple[Tensor, Tensor]:
        """L_val of one search, after a step of w where ξ > 0, and the accuracy of the mixture."""
        if self.unrolled:
            slope = grad(training_loss)(w, alpha, batches)
            w = {name: w[name] - self.unrolled * slope[name] for name in w}
        return mixture_loss(alpha, w, batches.validation_x, batches.validation_y)

    def alpha_estimate(
        self,
        alpha: Outer,
        w: Params,
        batches: Batches,
    ) -> tuple[Estimate, Tensor]:
        """d L_val / dα of every search at weights w, and the mean accuracy of the mixtures. The value is summed over searches."""
        slopes = vmap(grad_and_value(self.validation_loss, has_aux=True))
        gradient, (losses, accuracies) = slopes(alpha, w, batches)
        return Estimate(losses.sum(), gradient), accuracies.mean()

    def step(
        self,
        state: State,
        batches: Batches,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, dict[str, Tensor]]:
        """One step of α, one of w. The metrics are those of the mixtures on the validation drawings, before the step."""
        alpha, w = state.meta["params"], state.meta["weights"]  # [DARTS 1]
        optimizer = state.optimizer
        falling = cosine(progress)
        optimizer.param_groups[1]["lr"] = self.weight_lr * falling
        found, accuracy = self.alpha_estimate(alpha, w, batches)
        move(alpha, found, optimizer)  # [DARTS 3] η = α
        slopes = vmap(grad_and_value(training_loss))
        gradient, losses = slopes(w, alpha, batches)
        move(w, Estimate(losses.sum(), gradient), optimizer)  # [DARTS 4]
        picked = self.discrete(alpha)
        state.meta["memory"]["drawn"][:, state.meta_step] = picked
        metrics = {"loss": found.value / self.searches, "accuracy": accuracy}
        return State(state.meta, optimizer, state.meta_step + 1), metrics

    def discrete(self, alpha: Outer) -> Tensor:
        """The likeliest option of every decision, as a row of the table: [S]."""
        likeliest = [logits.argmax(-1) for logits in alpha.values()]  # [DARTS 5]
        return row_numbers(torch.stack(likeliest, -1), children.SIZES)

    def picks(self, meta: Meta) -> Tensor:
        """What each step would have picked, [S, n]."""
        return meta["memory"]["drawn"]


def mixture_loss(
    alpha: Params,
    w: Params,
    x: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy of one search's network of all options: α [options] per decision, x [B, ...], y [B]."""
    weights = [logits.softmax(-1) for logits in alpha.values()]  # [DARTS 2]
    logits = children.forward(w, weights, x)
    accuracy = (logits.detach().argmax(-1) == y).float().mean()
    return F.cross_entropy(logits, y), accuracy


def training_loss(w: Params, alpha: Params, batches: Batches) -> Tensor:
    """L_train of one search, a number."""
    loss, _ = mixture_loss(alpha, w, batches.train_x, batches.train_y)
    return loss
