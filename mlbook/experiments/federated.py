"""Federated averaging and its relatives on drawings that lie with clients, and Reptile beside it.

Options of this family: ``clients``, how the drawings are dealt: ``alphabets``, ``drawers`` or ``random`` give the same drawings
of the same characters, under labels that all clients share; ``personal`` gives every client a task of its own, labels from 0.
``client_batch``, drawings per local step; ``population``, how many clients there are (for Reptile, which draws a new task every
time, it says nothing).

The seed of a run chooses the alphabets and characters, too: an interval over seeds is one over data.
"""

from __future__ import annotations

import torch

from mlbook.data import alphabets
from mlbook.experiments.experiment import Experiment, Preset
from mlbook.meta_learners import FederatedAveraging, MetaLearner, Reptile
from mlbook.models import MLP
from mlbook.tasks import AlphabetTasks, Clients, Episode, MiniBatches
from mlbook.tasks.clients import DEALS, PIXELS, InOrder, as_numbers, chosen, deal
from mlbook.tasks.episode import TaskDistribution

MODEL, HIDDEN = "mlp_196_100", 100
CLIENTS, CHARACTERS, DRAWERS = 15, 5, 15
"""Of the shared labels: alphabets and clients, characters of each, and drawers to learn from; the other five are the test."""


def learner(config: dict) -> FederatedAveraging | Reptile:
    outputs = config["n_way"] * (1 if config["clients"] == "personal" else CLIENTS)
    options = dict(config["learner"])
    kind = {"federated": FederatedAveraging, "reptile": Reptile}[options.pop("method")]
    with torch.random.fork_rng(devices=[]):  # modules draw initial values from it
        model = MLP((PIXELS, HIDDEN, outputs), init_std=None)
    return kind(model, **options)


def tasks(config: dict, learner: MetaLearner, split: str) -> TaskDistribution:
    """Rounds for ``train``, else the clients that are tested: for ``personal`` new ones, of alphabets of the evaluation part."""
    generator = torch.Generator().manual_seed(config["seed"])
    batch, steps = config["client_batch"], config["learner"]["inner_steps"]
    if config["clients"] != "personal":
        return _shared_labels(config, split, batch, steps, generator)
    if split != "train":
        return _alphabet_tasks(config, "evaluation", config["test_shot"], config["test_query"])
    few = _alphabet_tasks(config, "background", config["k_shot"], 0)
    if config["learner"]["method"] == "reptile":
        return MiniBatches(few, batch, steps)
    fixed = few.sample(config["population"], generator)
    return Clients(fixed.support_x, fixed.support_y, batch, steps)


def _shared_labels(
    config: dict, split: str, batch: int, steps: int, generator: torch.Generator
) -> TaskDistribution:
    known = list(alphabets.load(config["dataset"], "background").values())
    drawings = as_numbers(chosen(known, CLIENTS, config["n_way"], generator))
    x, y = deal(drawings[:, :DRAWERS], CLIENTS, config["clients"], generator)
    if split == "train":
        return Clients(x, y, batch, steps)
    by_alphabet = drawings.unflatten(0, (CLIENTS, -1))
    y = torch.arange(len(drawings)).view(CLIENTS, -1, 1).expand(-1, -1, drawings.shape[1])
    parts = [
        t[:, :, part].flatten(1, 2)
        for part in (slice(DRAWERS), slice(DRAWERS, None))
        for t in (by_alphabet, y)
    ]
    return InOrder(Episode(*parts))


def _alphabet_tasks(config: dict, part: str, k_shot: int, n_query: int) -> AlphabetTasks:
    known = alphabets.load(config["dataset"], part).values()
    return AlphabetTasks(tuple(as_numbers(a) for a in known), config["n_way"], k_shot, n_query)


def protocol(config: dict) -> dict:
    """What has to be the same for two accuracies to be compared."""
    if config["clients"] == "personal":
        return {
            "dataset": config["dataset"],
            "split": "new clients, of alphabets of the evaluation part",
            "k_shot": config["test_shot"],
            "queries": config["test_query"],
            "n_way": config["n_way"],
            "batch_norm": "not used",
        }
    return {
        "dataset": config["dataset"],
        "split": "drawings by unseen drawers",
        "n_way": config["n_way"] * CLIENTS,
        "batch_norm": "not used",
    }


def _shared(name: str, dataset: str, clients: str, steps: int, **learner) -> Experiment:
    """75 characters of 15 alphabets, 15 clients with 75 drawings each, 400 local steps in all; tested after 0 to 10 steps of
    fine-tuning on one alphabet's drawings. The result is that of the averaged model itself, step 0."""
    rounds = 400 // steps
    return Experiment(
        name=name,
        family="federated",
        dataset=dataset,
        model=MODEL,
        learner={"method": "federated", "inner_lr": 0.1, "inner_steps": steps, **learner},
        n_way=CHARACTERS,
        k_shot=DRAWERS,
        n_query=0,
        test_query=5,
        test_steps=10,
        report_step=0,
        scored_steps=(0, 1, 5, 10),
        options={"clients": clients, "client_batch": 25, "population": CLIENTS},
        presets={
            "quick": Preset(max(1, 100 // steps), CLIENTS, evaluation_tasks=CLIENTS),
            "colab": Preset(rounds, CLIENTS, evaluation_tasks=CLIENTS),
            "paper": Preset(rounds, CLIENTS, evaluation_tasks=CLIENTS),
        },
    )


def _personal(
    name: str, method: str, steps: int, population: int, rounds: int | None = None, **learner
) -> Experiment:
    """Five characters of one alphabet are a client; 10 clients in a round, 2,000 local steps of each of the ten in all. Tested as
    Reptile is: new clients, five drawings of each character, ten steps on all of them."""
    rounds = rounds or 2_000 // steps
    return Experiment(
        name=name,
        family="federated",
        dataset="omniglot",
        model=MODEL,
        learner={"method": method, "inner_lr": 0.1, "inner_steps": steps, **learner},
        n_way=CHARACTERS,
        k_shot=20,
        n_query=0,
        test_shot=5,
        test_query=15,
        test_steps=50,
        report_step=10,
        scored_steps=(0, 1, 2, 5, 10, 20, 50),
        options={"clients": "personal", "client_batch": 10, "population": population},
        presets={
            "quick": Preset(min(rounds, 200 // steps), 10, evaluation_tasks=100),
            "colab": Preset(rounds, 10, evaluation_tasks=600),
            "paper": Preset(rounds, 10, evaluation_tasks=600),
        },
    )


def rows() -> list[Experiment]:
    """The presets ``colab`` and ``paper`` are the same: no paper has these runs."""
    nesterov, control = {"meta_lr": 0.7, "momentum": 0.9}, {"control_variates": CLIENTS}
    found = [_shared(f"fedavg-omniglot-{how}", "omniglot", how, 20) for how in DEALS]
    found += [_personal(f"fedavg-omniglot-{n}-clients", "federated", 20, n) for n in (60, 600, 3_000)]
    return [
        *found,
        _shared("fedsgd-omniglot-alphabets", "omniglot", "alphabets", 1),
        _shared("scaffold-omniglot-alphabets", "omniglot", "alphabets", 20, **control),
        _shared("nesterov-omniglot-alphabets", "omniglot", "alphabets", 20, **nesterov),
        _shared("nesterov-omniglot-random", "omniglot", "random", 20, **nesterov),
        _shared("fedavg-glyphs-alphabets", "glyphs", "alphabets", 20),
        _shared("scaffold-glyphs-alphabets", "glyphs", "alphabets", 20, **control),
        _personal("fedsgd-omniglot-3000-clients", "federated", 1, 3_000),
        _personal("reptile-omniglot-new-clients", "reptile", 20, 0),
        _personal("untrained-omniglot-new-clients", "federated", 1, 60, rounds=1, meta_lr=0.0),
    ]
