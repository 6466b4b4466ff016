"""Drawings that lie with clients: the same ones dealt by alphabet, by drawer or at random; and small tasks of one alphabet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.errors import UserError
from mlbook.tasks.episode import ClientRound, Episode, TaskDistribution
from mlbook.tasks.mini_batches import cycled

DEALS = ("alphabets", "drawers", "random")
INK_MEAN, INK_STD = 0.08, 0.2
"""Of Omniglot's pixels after the averaging below, roughly; constants, so that no client has to tell its own."""
PIXELS = 14 * 14


def as_numbers(drawings: Tensor) -> Tensor:
    """uint8 [..., 28, 28], ink = 255 -> float32 [..., 196]: averaged to 14×14, ink around zero."""
    small = F.avg_pool2d(drawings.flatten(0, -3)[:, None].float() / 255, 2)
    return ((small - INK_MEAN) / INK_STD).view(*drawings.shape[:-2], PIXELS)


def chosen(
    alphabets: Sequence[Tensor], clients: int, per_alphabet: int, generator: torch.Generator
) -> Tensor:
    """As many alphabets as clients, and so many characters of each, drawn without replacement: uint8 [characters, 20, 28, 28],
    alphabet by alphabet."""
    if clients > len(alphabets):
        raise UserError(f"{clients} clients need as many alphabets; there are {len(alphabets)}")
    picked = []
    for i in torch.randperm(len(alphabets), generator=generator)[:clients].tolist():
        if per_alphabet > len(alphabets[i]):
            raise UserError(f"an alphabet has {len(alphabets[i])} characters; {per_alphabet} were asked for")
        picked.append(alphabets[i][torch.randperm(len(alphabets[i]), generator=generator)[:per_alphabet]])
    return torch.cat(picked)


def deal(drawings: Tensor, clients: int, how: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Equally many drawings for each client, x [clients, n, ...], with the numbers of their characters, y [clients, n].

    drawings [characters, clients, ...]: as many drawings of a character as clients, and the characters in ``clients`` groups of
    equal size. how: ``alphabets``, a group each; ``drawers``, one drawing of every character each; ``random``.
    """
    characters = len(drawings)
    if how not in DEALS:
        raise UserError(f"drawings are dealt by {', '.join(DEALS)}, not by {how!r}")
    if drawings.shape[1] != clients or characters % clients:
        raise UserError(
            f"{clients} clients need {clients} drawings of each character and a multiple of {clients} characters; these are "
            f"{characters} characters with {drawings.shape[1]} drawings"
        )
    y = torch.arange(characters)[:, None].expand(characters, clients)
    if how == "drawers":
        return drawings.transpose(0, 1), y.T
    x, y = drawings.flatten(0, 1), y.flatten()
    if how == "random":
        order = torch.randperm(len(y), generator=generator)
        x, y = x[order], y[order]
    return x.unflatten(0, (clients, -1)), y.view(clients, -1)


@dataclass(frozen=True)
class Clients(TaskDistribution):
    """Clients with data of their own, which go through it in mini-batches.

    x [clients, n, ...], y [clients, n]: the data; of client c the first ``sizes[c]`` examples are real, the rest is padding
    (None: all are). batch, steps: examples per local step, and local steps in a round.
    """

    x: Tensor
    y: Tensor
    batch: int
    steps: int
    sizes: Tensor | None = None

    def __post_init__(self) -> None:
        if min(self.batch, self.steps) < 1:
            raise UserError(f"batch and steps must be at least 1, not {self.batch} and {self.steps}")
        if (
            self.sizes is not None
            and not 0 < int(self.sizes.min()) <= int(self.sizes.max()) <= self.x.shape[1]
        ):
            raise UserError(f"sizes must be from 1 to {self.x.shape[1]}, the examples there is room for")

    def to(self, device: torch.device | str) -> Clients:
        sizes = None if self.sizes is None else self.sizes.to(device)
        return replace(self, x=self.x.to(device), y=self.y.to(device), sizes=sizes)

    def sample(self, n_tasks: int, generator: torch.Generator) -> ClientRound:
        """A round of ``n_tasks`` clients: all in their order, or so many of them drawn without replacement.

        Their weights are n_k divided by the mean n of the round, so the mean weight is 1.
        """
        C, n, device = *self.x.shape[:2], self.x.device
        if n_tasks > C:
            raise UserError(f"a round of {n_tasks} clients needs as many; there are {C}")
        number = torch.arange(C, device=device)
        if n_tasks < C:
            number = torch.rand(C, generator=generator, device=device).argsort()[:n_tasks]
        if self.sizes is None:
            order = cycled(n_tasks, n, self.batch, self.steps, generator)
            weight = torch.ones(n_tasks, device=device)
        else:
            sizes = self.sizes[number]
            order = torch.stack(
                [cycled(1, int(size), self.batch, self.steps, generator)[0] for size in sizes]
            )
            weight = sizes / sizes.float().mean()
        x, y = self.x[number], self.y[number]
        return ClientRound(x, y, x[:, :0], y[:, :0], order, weight, number)


@dataclass(frozen=True)
class InOrder(TaskDistribution):
    """A list of tasks, which begins again at its end: a test on every client."""

    episodes: Episode

    def to(self, device: torch.device | str) -> InOrder:
        return replace(self, episodes=self.episodes.to(device))

    @property
    def n_listed(self) -> int:
        return self.episodes.n_tasks

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """The first ``n_tasks`` of them; the generator is not used."""
        return self.at(0, n_tasks, generator)

    def at(self, start: int, n_tasks: int, generator: torch.Generator) -> Episode:
        """The same from number ``start`` on."""
        index = torch.arange(start, start + n_tasks, device=self.episodes.support_x.device) % self.n_listed
        return self.episodes._make(field[index] for field in self.episodes)


@dataclass(frozen=True)
class AlphabetTasks(TaskDistribution):
    """N-way K-shot tasks whose characters are of one alphabet, which is drawn anew for every task.

    alphabets: [characters, drawings, ...] each, with different numbers of characters.
    """

    alphabets: tuple[Tensor, ...]
    n_way: int
    k_shot: int
    n_query: int

    def __post_init__(self) -> None:
        fewest = min(len(alphabet) for alphabet in self.alphabets)
        drawings = self.alphabets[0].shape[1]
        if self.n_way > fewest or self.k_shot + self.n_query > drawings or min(self.n_way, self.k_shot) < 1:
            raise UserError(
                f"{self.n_way}-way tasks with {self.k_shot} + {self.n_query} drawings do not fit alphabets of {fewest} "
                f"characters with {drawings} drawings"
            )

    def to(self, device: torch.device | str) -> AlphabetTasks:
        return replace(self, alphabets=tuple(a.to(device) for a in self.alphabets))

    def sample(self, n_tasks: int, generator: torch.Generator) -> Episode:
        """x [T, N·K or N·Q, ...], y [T, N·K or N·Q], labels from 0 to N − 1 in every task."""
        N, K, Q, device = self.n_way, self.k_shot, self.n_query, generator.device
        support, query = [], []
        for i in torch.randint(len(self.alphabets), (n_tasks,), generator=generator, device=device).tolist():
            alphabet = self.alphabets[i]
            characters = torch.randperm(len(alphabet), generator=generator, device=device)[:N]
            drawings = torch.rand(N, alphabet.shape[1], generator=generator, device=device).argsort(1)
            x = alphabet[characters[:, None], drawings[:, : K + Q]]
            support.append(x[:, :K].flatten(0, 1))
            query.append(x[:, K:].flatten(0, 1))
        labels = torch.arange(N, device=device)[:, None]
        support_y, query_y = (labels.expand(N, n).reshape(1, -1).expand(n_tasks, -1) for n in (K, Q))
        return Episode(torch.stack(support), support_y, torch.stack(query), query_y)
