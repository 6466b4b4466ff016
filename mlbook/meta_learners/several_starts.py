"""Several initialisations instead of one: every task adapts from the start that
suits it.

Meta-training gives a task to the start whose *query* loss after adaptation is
smallest, and only that start learns from it. At meta-test the query labels are
not known, and the *support* loss after adaptation decides. Compare the mixtures
of Jerfel et al. 2019, who assign tasks softly and add starts as needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, State, leaves, map_leaves
from mlbook.meta_learners.losses import LOSSES
from mlbook.meta_learners.maml import MAML
from mlbook.models.mapping import at_once_or_one_by_one
from mlbook.tasks.episode import Episode


def losses_after(
    learner: MAML, meta: Meta, episodes: Episode, steps: int
) -> tuple[Tensor, Tensor]:
    """Support and query loss of every task after ``steps`` inner steps from
    ``meta``: [T] and [T]."""

    def one_task(episode: Episode) -> tuple[Tensor, Tensor]:
        *_, adapted = learner.path(
            meta, episode.support_x, episode.support_y, steps
        )
        loss = LOSSES[learner.loss]
        support = loss(
            learner.predict(adapted, episode.support_x), episode.support_y
        )
        return support, loss(
            learner.predict(adapted, episode.query_x), episode.query_y
        )

    def one_by_one(episodes: Episode) -> tuple[Tensor, Tensor]:
        tasks = map(episodes.task, range(episodes.n_tasks))
        found = [torch.stack(one_task(task)) for task in tasks]
        return tuple(torch.stack(found, dim=1))

    def at_once(episodes: Episode) -> tuple[Tensor, Tensor]:
        return vmap(one_task, randomness="different")(episodes)

    with torch.no_grad():
        return at_once_or_one_by_one(
            learner.model, "scores", at_once, one_by_one, episodes
        )


@dataclass(frozen=True)
class SeveralStarts:
    """MAML with several initialisations, each trained on the tasks that do best
    from it."""

    learner: MAML
    n_starts: int = 2
    random_steps: int = 20
    """Meta-steps with random groups at the beginning: equal starts would stay
    equal."""

    def __post_init__(self) -> None:
        if self.n_starts < 1:
            raise UserError(f"n_starts must be at least 1, not {self.n_starts}")

    def split(self, meta: Meta) -> list[State]:
        """Copies of one trained start, each with an outer optimiser of its
        own."""
        states = []
        for _ in range(self.n_starts):
            copy = map_leaves(torch.clone, meta)
            optimizer = torch.optim.Adam(leaves(copy), lr=self.learner.meta_lr)
            states.append(State(copy, optimizer))  # [STARTS 1]
        return states

    def group(
        self, metas: Sequence[Meta], episodes: Episode, *, by: str = "query"
    ) -> Tensor:
        """The start with the smallest loss after adaptation, for every task:
        [T]. ``by`` ``query`` in meta-training, ``support`` at meta-test."""
        if by not in ("support", "query"):
            raise UserError(f"by must be support or query, not {by!r}")
        which = 0 if by == "support" else 1
        losses = [
            losses_after(self.learner, meta, episodes, self.learner.inner_steps)[
                which
            ]
            for meta in metas
        ]
        return torch.stack(losses).argmin(0)  # [STARTS 2]

    def step(
        self,
        states: list[State],
        episodes: Episode,
        meta_step: int,
        progress: float,
        generator: torch.Generator,
    ) -> list[State]:
        """One meta-step: divide the meta-batch, then an ordinary MAML step of
        every start on its share."""
        if meta_step < self.random_steps:
            group = torch.randint(
                self.n_starts,
                (episodes.n_tasks,),
                generator=generator,
                device=generator.device,
            )
        else:
            group = self.group([state.meta for state in states], episodes)
        for m in range(self.n_starts):
            if (mine := group == m).any():
                part = Episode(*(field[mine] for field in episodes))
                step = self.learner.step
                states[m], _ = step(states[m], part, progress)  # [STARTS 3]
        return states

    def meta_test(
        self, metas: Sequence[Meta], episodes: Episode
    ) -> tuple[Tensor, Tensor]:
        """Query loss of every task from the start that its support set chooses
        [T], and the choices [T]."""
        choice = self.group(metas, episodes, by="support")  # [STARTS 4]
        losses = [
            losses_after(self.learner, meta, episodes, self.learner.inner_steps)[1]
            for meta in metas
        ]
        return torch.stack(losses).gather(0, choice[None])[0], choice
