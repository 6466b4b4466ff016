"""Who is measured: every function turns a network and a meta-batch into a call that returns the meta-gradient by name.

The peers are written as in their own MAML examples: one task after the other, one backward pass per task, gradients added up
in ``.grad``. (TorchOpt's example makes one pass at the end, which keeps the graphs of all tasks; here it gets one per task too.)
They are imported late, where they are called.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.problems import INNER_LR, N, Problem, Sampling
from mlbook.data import ClassPool
from mlbook.engines import fast
from mlbook.meta_learners import MAML, Reptile
from mlbook.meta_learners.losses import LOSSES
from mlbook.models import MLP
from mlbook.tasks import Episode, FewShot

Work = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class Contender:
    name: str
    make: Callable[..., Work]
    """(problem, *what its ``build`` gives) -> the call that is timed."""
    keep_memory: bool = False
    """Call ``mlbook.training.memory.keep_freed_memory`` first, as ``python -m mlbook train`` does."""
    peer: bool = False


def loss_of(problem: Problem) -> str:
    return "mse" if problem.network == "sinusoid" else "cross_entropy"


def gradients(module: nn.Module, tasks: int) -> dict[str, Tensor]:
    """What was added up in ``.grad``, over the number of tasks."""
    return {name: p.grad / tasks for name, p in module.named_parameters()}


def learn2learn(problem: Problem, module: nn.Module, episodes: Episode) -> Work:
    import learn2learn as l2l

    loss = LOSSES[loss_of(problem)]
    maml = l2l.algorithms.MAML(module, lr=INNER_LR, first_order=problem.order < 2)

    def adapted(support_x: Tensor, support_y: Tensor):
        learner = maml.clone()
        for _ in range(problem.steps):
            learner.adapt(loss(learner(support_x), support_y))
        return learner

    def work():
        module.zero_grad()
        for t in range(episodes.n_tasks):
            support_x, support_y, query_x, query_y = episodes.task(t)
            loss(adapted(support_x, support_y)(query_x), query_y).backward()
        return gradients(module, episodes.n_tasks)

    def reptile():
        ends = [adapted(x, y) for x, y in zip(episodes.support_x, episodes.support_y, strict=True)]
        return mean_displacement(module, [end.module for end in ends])

    return work if problem.order else reptile


def higher(problem: Problem, module: nn.Module, episodes: Episode) -> Work:
    """First order: the gradient at the adapted parameters, which stands in for the one at θ.

    A list of layers that ``higher`` has patched cannot be sliced, as ``MLP`` does: the same layers go into a ``Sequential``.
    """
    import higher as library

    loss, optimizer = LOSSES[loss_of(problem)], torch.optim.SGD(module.parameters(), lr=INNER_LR)
    network = module
    if isinstance(module, MLP):
        network = nn.Sequential(*(part for layer in module.layers for part in (layer, nn.ReLU())))[:-1]

    def work():
        module.zero_grad()
        for t in range(episodes.n_tasks):
            support_x, support_y, query_x, query_y = episodes.task(t)
            with library.innerloop_ctx(
                network, optimizer, copy_initial_weights=False, track_higher_grads=problem.order == 2
            ) as (functional, inner):
                for _ in range(problem.steps):
                    inner.step(loss(functional(support_x), support_y))
                query_loss = loss(functional(query_x), query_y)
                if problem.order == 2:
                    query_loss.backward()
                    continue
                ends = torch.autograd.grad(query_loss, list(functional.parameters()))
                for p, g in zip(module.parameters(), ends, strict=True):
                    p.grad = g if p.grad is None else p.grad + g
        return gradients(module, episodes.n_tasks)

    return work


def torchopt(problem: Problem, module: nn.Module, episodes: Episode) -> Work:
    import torchopt as library

    loss, optimizer = LOSSES[loss_of(problem)], library.MetaSGD(module, lr=INNER_LR)

    def work():
        module.zero_grad()
        start = library.extract_state_dict(module, by="reference", detach_buffers=True)
        optimizer_start = library.extract_state_dict(optimizer, by="reference")
        for t in range(episodes.n_tasks):
            support_x, support_y, query_x, query_y = episodes.task(t)
            for _ in range(problem.steps):
                optimizer.step(loss(module(support_x), support_y))
            loss(module(query_x), query_y).backward()
            library.recover_state_dict(module, start)
            library.recover_state_dict(optimizer, optimizer_start)
        return gradients(module, episodes.n_tasks)

    return work


def ours(engine: str, problem: Problem, module: nn.Module, episodes: Episode) -> Work:
    options = {"loss": loss_of(problem), "inner_lr": INNER_LR, "inner_steps": problem.steps}
    if problem.order:
        learner = MAML(module, first_order=problem.order == 1, **options)
    else:
        learner = Reptile(module, **options)
    if engine == "fast":
        learner = fast(learner)
    elif problem.order:
        learner = replace(learner, engine=engine)
    meta = {"params": {name: p.detach() for name, p in module.named_parameters()}}
    return lambda: learner.meta_gradient(meta, episodes)[0]["params"]


def mlbook(*problem) -> Work:
    return ours("fast", *problem)


def vmap(*problem) -> Work:
    return ours("vmap", *problem)


def plain_loop(problem: Problem, module: nn.Module, episodes: Episode) -> Work:
    """MAML: functional autograd, task by task. Reptile: a copy of the network per task and ``torch.optim.SGD``."""
    if problem.order:
        return ours("loop", problem, module, episodes)
    loss = LOSSES[loss_of(problem)]

    def work():
        ends = []
        for x, y in zip(episodes.support_x, episodes.support_y, strict=True):
            ends.append(copy.deepcopy(module))
            optimizer = torch.optim.SGD(ends[-1].parameters(), lr=INNER_LR)
            for _ in range(problem.steps):
                optimizer.zero_grad()
                loss(ends[-1](x), y).backward()
                optimizer.step()
        return mean_displacement(module, ends)

    return work


def mean_displacement(module: nn.Module, ends: list[nn.Module]) -> dict[str, Tensor]:
    with torch.no_grad():
        each = [dict(end.named_parameters()) for end in ends]
        return {n: sum(p - end[n] for end in each) / len(ends) for n, p in module.named_parameters()}


def sample_mlbook(problem: Sampling, images: Tensor, rotations: str = "none") -> Callable:
    tasks, g = FewShot(ClassPool(images, rotations), N, 1, 15), torch.Generator().manual_seed(0)
    return lambda: tasks.sample(problem.tasks, g)


def sample_mlbook_rotated(*problem) -> Callable:
    """With a random rotation per class, as training has it; the others leave it out."""
    return sample_mlbook(*problem, rotations="per_task")


class ImageDataset(torch.utils.data.Dataset):
    """Single images with their class: (float32 [1, 28, 28] in [0, 1], int)."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.examples = images.flatten(0, 1), images.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i].float() / 255, i // self.examples


def sample_learn2learn(
    problem: Sampling, images: Tensor, dataset_of=ImageDataset, extra=lambda dataset: []
) -> Callable:
    import learn2learn as l2l

    labels = {i: i // images.shape[1] for i in range(images.shape[0] * images.shape[1])}
    dataset, t = l2l.data.MetaDataset(dataset_of(images), indices_to_labels=labels), l2l.data.transforms
    chain = [t.NWays(dataset, N), t.KShots(dataset, 16), t.LoadData(dataset), t.RemapLabels(dataset)]
    tasks = l2l.data.Taskset(dataset, [*chain, t.ConsecutiveLabels(dataset), *extra(dataset)])

    def episode() -> Episode:
        x, y = tasks.sample()
        x, y = x.unflatten(0, (N, 16)), y.unflatten(0, (N, 16))
        halves = x[:, :1], y[:, :1], x[:, 1:], y[:, 1:]
        return Episode(*(half.flatten(0, 1) for half in halves))

    return lambda: [episode() for _ in range(problem.tasks)]


class OpenedImages(ImageDataset):
    """The same as PIL images of the size of the files, opened, scaled and turned into a tensor one by one."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        big = torch.nn.functional.interpolate(images.flatten(0, 1).float(), size=(105, 105)).to(torch.uint8)
        self.opened = [Image.fromarray(image.numpy()) for image in big[:, 0]]

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        small = np.asarray(self.opened[i].resize((28, 28), Image.Resampling.LANCZOS), dtype=np.float32)
        return torch.from_numpy(small / 255)[None], i // self.examples


def sample_learn2learn_opened(problem: Sampling, images: Tensor) -> Callable:
    """As its own Omniglot benchmark does: PIL scales every image, a random rotation per class goes through PIL once more."""
    from learn2learn.vision.transforms import RandomClassRotation

    return sample_learn2learn(
        problem,
        images,
        dataset_of=OpenedImages,
        extra=lambda dataset: [RandomClassRotation(dataset, [0.0, 90.0, 180.0, 270.0])],
    )


class NumpyEpisodes(torch.utils.data.IterableDataset):
    """Whole episodes cut from one array, one after the other without end."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.random = images.numpy(), np.random.default_rng(0)

    def __iter__(self):
        labels = np.arange(N)
        while True:
            classes = self.random.choice(len(self.images), N, replace=False)
            examples = self.random.random((N, self.images.shape[1])).argsort(1)[:, :16]
            x = self.images[classes[:, None], examples].astype(np.float32) / 255
            yield x[:, 0], labels, x[:, 1:].reshape(-1, *x.shape[2:]), labels.repeat(15)


def sample_data_loader(problem: Sampling, images: Tensor) -> Callable:
    episodes = iter(torch.utils.data.DataLoader(NumpyEpisodes(images), batch_size=problem.tasks))
    return lambda: Episode(*next(episodes))


PLAIN = Contender("plain loop", plain_loop)
OURS = Contender("mlbook", mlbook, keep_memory=True)


def contenders(problem: Problem | Sampling) -> tuple[list[Contender], dict[str, str]]:
    """Who takes part, and who does not, with the reason."""
    if isinstance(problem, Sampling):
        return [
            Contender("learn2learn", sample_learn2learn_opened, peer=True),
            Contender("learn2learn, tensors in memory", sample_learn2learn, peer=True),
            Contender("DataLoader over numpy episodes", sample_data_loader, peer=True),
            Contender("mlbook", sample_mlbook, keep_memory=True),
            Contender("mlbook, with rotations", sample_mlbook_rotated, keep_memory=True),
        ], {}
    chosen, left_out = [Contender("learn2learn", learn2learn, peer=True)], {}
    if problem.network != "sinusoid":
        chosen.append(Contender("learn2learn, same allocator setting", learn2learn, keep_memory=True))
    if problem.order:
        chosen.append(Contender("higher", higher, peer=True))
    if problem.order == 2:
        chosen.append(Contender("TorchOpt", torchopt, peer=True))
    elif problem.order == 1:
        left_out["TorchOpt"] = "its MetaSGD always keeps the graph of the inner gradients: no first order"
    else:
        left_out = dict.fromkeys(("higher", "TorchOpt"), "made for gradients through the inner loop")
    chosen.append(PLAIN)
    if problem.network in ("sinusoid", "strided") or (problem.queries, problem.steps) == (5, 1):
        chosen.append(Contender("vmap", vmap))
    else:
        left_out["vmap"] = "up to more than 8 GiB and slower than a loop; measured at 5 queries and one step"
    return [*chosen, OURS], left_out
