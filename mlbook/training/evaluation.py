"""Meta-test: accuracy (or error) after every inner step, over fixed episodes, with an interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.func import vmap

from mlbook.errors import UserError
from mlbook.meta_learners.base import Meta, MetaLearner
from mlbook.meta_learners.losses import check_targets
from mlbook.models.batch_norm import MODES, Statistics, no_statistics
from mlbook.models.functional import Params, call
from mlbook.models.mapping import at_once_or_one_by_one, for_each
from mlbook.tasks.episode import BatchedEpisode, Episode, TaskDistribution
from mlbook.training.finite import refuse_not_finite

BLOCK = 25
"""Episodes are drawn in blocks, each with its own seed: the first 600 of 10,000 tasks are the same 600 tasks, on any
device and for any memory limit."""
LARGEST_SEED = 2**63 // 1_000_003 - 1
"""Of a fixed sequence, so that the seeds of its blocks are 64-bit numbers."""
ALONE_AT_ONCE = 15
"""Queries that are each put beside the support set at the same time; more would only need more memory."""
VALUES_AT_ONCE = 10_000_000
"""Pixels and colours of the tasks that are adapted at the same time; their activations are some hundred times as many bytes."""


@dataclass(frozen=True)
class Evaluation:
    """What a number on a page rests on."""

    metric: str
    """``accuracy`` (0 to 1), ``mse``, ``loss`` of what an optimiser minimises, or ``return`` of an agent."""
    mean: tuple[float | None, ...]
    """Mean over tasks after 0, 1, ..., n inner steps; None for steps that were not scored or whose predictions are not finite."""
    ci95_by_step: tuple[float | None, ...]
    """Half-width of the 95 % interval of each mean: see ``ci95``."""
    tasks: int
    step: int
    """The inner step that is reported."""
    protocol: dict
    """Batch-norm mode, queries per class, split, seed: what makes two numbers comparable."""

    @property
    def value(self) -> float:
        """The score at the reported step."""
        return self.mean[self.step]

    @property
    def interval(self) -> float:
        """Half-width of its 95 % interval."""
        return self.ci95_by_step[self.step]

    def as_dict(self) -> dict:
        """All of it as a run record has it, the score under the name of its metric."""
        return {self.metric: self.value, "ci95": self.interval, **asdict(self)}


@dataclass(frozen=True)
class QueryBatches:
    """Which queries are classified together. Scores under ``transductive`` batch norm depend on it, others do not."""

    images: int
    """Images in a batch; where ``per_class``, of every class."""
    per_class: bool = False
    """Whether every batch holds equally many images of each class; otherwise a batch is drawn without regard to class."""
    seed: int = 0
    """Of the draw; the batches of the same task are the same in every evaluation."""

    def __str__(self) -> str:
        each = " per class" if self.per_class else ", drawn at random" if self.images > 1 else ""
        return f"batches of {self.images}{each}"

    def index(self, query_y: Tensor) -> Tensor:
        """query_y [T, B], labels in blocks of equal length -> [T, batches, images]: the batches as indices into the queries.

        Raises ``UserError`` where the queries do not fill such batches.
        """
        T, B = query_y.shape
        N = int(query_y.max()) + 1 if self.per_class else 1
        if self.images < 1 or (B // N) % self.images:
            raise UserError(f"{B} queries{f' of {N} classes' if N > 1 else ''} cannot be cut into {self}")
        if self.per_class:
            batches = torch.arange(B).view(N, -1, self.images).transpose(0, 1)  # [batches, N, images]
            return batches.reshape(-1, N * self.images).expand(T, -1, -1).to(query_y.device)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(T, B, generator=generator).argsort(1)
        return drawn.view(T, -1, self.images).to(query_y.device)


def ci95(values: Tensor, correction: int = 0) -> Tensor:
    """Half-width of the 95 % interval of a mean over the first axis, [n, ...] -> [...]: 1.96 · standard deviation / √n.

    correction: the standard deviation divides by n − correction; 0, as in the official MAML code, for every score of this book.
    """
    return 1.96 * values.std(0, correction=correction) / len(values) ** 0.5


def mean_and_ci95(values: Tensor) -> tuple[float, float]:
    """The mean of the numbers ``values`` [n] and ``ci95`` of it."""
    return float(values.mean()), float(ci95(values))


STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""The 97.5 % quantile of Student's t for a mean of so many numbers."""


def mean_and_t95(values: Sequence[float]) -> tuple[float, float]:
    """The mean of a few numbers, one per seed for instance, and the half-width of its 95 % interval by Student's t (n − 1).

    ``UserError`` for other than 2 to 10 numbers.
    """
    numbers = torch.as_tensor(values, dtype=torch.float64)
    if len(numbers) not in STUDENT:
        raise UserError(f"this interval is for 2 to {max(STUDENT)} numbers, not for {len(numbers)}")
    return float(numbers.mean()), STUDENT[len(numbers)] * float(numbers.std()) / len(numbers) ** 0.5


def check_listed(tasks: TaskDistribution, n_tasks: int) -> None:
    """``UserError`` where the tasks are listed and there are fewer than ``n_tasks``."""
    listed = getattr(tasks, "n_listed", None)
    if listed is not None and n_tasks > listed:
        raise UserError(f"there are {listed} test tasks; {n_tasks} were asked for")


def fixed_episodes(tasks: TaskDistribution, n_tasks: int, seed: int):
    """Yield the first ``n_tasks`` episodes of the fixed sequence of ``seed``, block by block (on the CPU).

    ``UserError`` where the tasks are listed and there are fewer.
    """
    check_listed(tasks, n_tasks)
    listed = getattr(tasks, "n_listed", None)
    for block, start in enumerate(range(0, n_tasks, BLOCK)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + block)
        episodes = tasks.sample(BLOCK, generator) if listed is None else tasks.at(start, BLOCK, generator)
        if getattr(episodes, "n_tasks", BLOCK) != BLOCK:
            raise UserError(f"sample gave {episodes.n_tasks} tasks; {BLOCK} were asked for")
        keep = min(BLOCK, n_tasks - start)
        yield episodes._make(field[:keep] for field in episodes)


def task_scores(
    learner: MetaLearner,
    meta: Meta,
    episodes: Episode,
    *,
    steps: int,
    batch_norm: str = "transductive",
    running: list[Statistics] | None = None,
    scored_steps: Sequence[int] | None = None,
    query_batches: QueryBatches | None = None,
) -> Tensor:
    """Score of every task after the ``scored_steps`` (default: 0..``steps``): [T, scored steps]; NaN where a prediction is not
    finite.

    Dropout and the like are off, whatever mode the network is in. query_batches: what is classified together (default: all
    queries of a task).
    """
    wanted = range(steps + 1) if scored_steps is None else sorted(set(scored_steps))
    if not learner.query_sets:  # optimisers, agents
        return learner.scores(meta, episodes, steps, wanted)
    together = None if query_batches is None else query_batches.index(episodes.query_y)
    learner.check_episodes(meta, episodes, wait=True)

    def one_task(episode: Episode, together: Tensor | None) -> Tensor:
        path = task_path(learner, meta, episode, steps)
        return torch.stack(
            [
                score(learner, params, episode, batch_norm, running, together)
                for n, params in enumerate(path)
                if n in wanted
            ]
        )

    def one_by_one(episodes: Episode) -> Tensor:
        rows = [None] * episodes.n_tasks if together is None else together
        return torch.stack([one_task(episodes.task(t), rows[t]) for t in range(episodes.n_tasks)])

    def all_at_once(episodes: Episode) -> Tensor:
        in_dims = (0, None if together is None else 0)
        options = {"chunk_size": at_once(episodes), "randomness": "different"}
        return vmap(one_task, in_dims=in_dims, **options)(episodes, together)

    if not learner.vmappable:
        return one_by_one(episodes)
    return at_once_or_one_by_one(getattr(learner, "model", None), "scores", all_at_once, one_by_one, episodes)


def at_once(episodes: Episode) -> int | None:
    """How many tasks are adapted at the same time: all (None), or fewer where their images are large."""
    values = (episodes.support_x[0].numel() + episodes.query_x[0].numel()) * len(episodes.support_x)
    return None if values <= VALUES_AT_ONCE else max(1, len(episodes.support_x) * VALUES_AT_ONCE // values)


def task_path(learner: MetaLearner, meta: Meta, episode: Episode, steps: int) -> Iterator[Params]:
    """The inner loop on one task, on mini-batches where the episode brings an order."""
    options = {"order": episode.order} if isinstance(episode, BatchedEpisode) else {}
    return learner.path(meta, episode.support_x, episode.support_y, steps, **options)


def score(
    learner: MetaLearner,
    params: Params,
    episode: Episode,
    batch_norm: str,
    running: list[Statistics] | None,
    together: Tensor | None = None,
) -> Tensor:
    """Accuracy or mean squared error of ``params`` on the query set of one task, under a batch-norm mode; NaN where a prediction
    is not finite.

    together [batches, images]: indices of the queries that share a batch (default: all do).
    """
    y = episode.query_y
    if batch_norm == "transductive" and together is not None:
        prediction = for_each(lambda batch: learner.predict(params, episode.query_x[batch]), together)
        prediction = prediction.flatten(0, 1)
        y = y[together.flatten()]
    else:
        prediction = predictions(learner, params, episode, batch_norm, running)
    if learner.metric == "mse":
        check_targets("mse", prediction, y)
        return (prediction - y).square().mean()
    accuracy = (prediction.argmax(-1) == y).float().mean()
    # the largest of the logits: a masked class may well have −∞
    return torch.where(prediction.amax(-1).isfinite().all(), accuracy, torch.nan)


def predictions(
    learner: MetaLearner,
    params: Params,
    episode: Episode,
    batch_norm: str,
    running: list[Statistics] | None,
) -> Tensor:
    """What ``params`` say of the query set of one task, [B, N] or [B, 1], under a batch-norm mode."""
    if batch_norm == "transductive":
        return learner.predict(params, episode.query_x)  # [BN 1]
    if batch_norm == "support_and_query":
        support = episode.support_x

        def alone(x: Tensor) -> Tensor:
            together = torch.cat([support, x[None]])
            return learner.predict(params, together)[-1]  # [BN 2]

        return for_each(alone, episode.query_x, ALONE_AT_ONCE)
    model = learner.model
    if batch_norm == "support":
        statistics: list[Statistics] = []
        call(model, params, episode.support_x, collect=statistics)  # [BN 3]
    elif batch_norm == "running":
        if running is None:
            raise UserError("mode running needs what running_statistics gives")
        statistics = running  # [BN 4]
    elif batch_norm == "none":
        statistics = no_statistics(model, episode.query_x)  # [BN 5]
    else:
        allowed = ", ".join(MODES)
        raise UserError(f"batch_norm must be {allowed}, not {batch_norm!r}")
    return call(model, params, episode.query_x, statistics=statistics)  # [BN 6]


def running_statistics(
    learner: MetaLearner,
    meta: Meta,
    tasks: TaskDistribution,
    *,
    steps: int,
    n_tasks: int = 200,
    seed: int = 0,
) -> list[Statistics]:
    """Batch-norm statistics averaged over adapted networks on ``n_tasks`` meta-train tasks: what running averages
    collected in meta-training would converge to at these weights."""

    def one_task(episode: Episode) -> list[Statistics]:
        for params in task_path(learner, meta, episode, steps):  # noqa: B007
            pass
        collected: list[Statistics] = []
        call(learner.model, params, episode.query_x, collect=collected)
        return collected

    total: list[list[Tensor]] = []
    device = next(iter(meta["params"].values())).device
    with torch.no_grad():
        for episodes in fixed_episodes(tasks, n_tasks, seed):
            adapted = vmap(one_task, chunk_size=at_once(episodes))(episodes.to(device))
            for i, layer in enumerate(adapted):
                sums = [field.sum(0) for field in layer]
                if len(total) <= i:
                    total.append(sums)
                else:
                    total[i] = [a + b for a, b in zip(total[i], sums, strict=True)]
    return [Statistics(mean / n_tasks, variance / n_tasks) for mean, variance in total]


def fixed_scores(
    learner: MetaLearner,
    meta: Meta,
    tasks: TaskDistribution,
    *,
    n_tasks: int,
    seed: int = 1,
    on_progress=None,
    **options,
) -> Tensor:
    """``task_scores`` (which has the ``options``) of the fixed tasks of ``seed``: float64 [n_tasks, scored steps]. Rows of two
    calls with the same seed are pairs."""
    if learner.is_search:
        found = learner.trials(meta, options["steps"])
        if n_tasks > len(found):
            raise UserError(f"this run holds {len(found)} searches; {n_tasks} were asked for")
        wanted = options.get("scored_steps")
        return found[:n_tasks] if wanted is None else found[:n_tasks, sorted(set(wanted))]
    device = next(iter(meta["params"].values())).device
    scores: list[Tensor] = []
    with torch.no_grad():
        for episodes in fixed_episodes(tasks, n_tasks, seed):
            scores.append(task_scores(learner, meta, episodes.to(device), **options).cpu())
            if on_progress is not None:
                on_progress(sum(len(s) for s in scores))
    return torch.cat(scores).double()


def evaluate(
    learner: MetaLearner,
    meta: Meta,
    tasks: TaskDistribution,
    *,
    n_tasks: int = 600,
    steps: int = 10,
    report_step: int | None = None,
    seed: int = 1,
    batch_norm: str = "transductive",
    running: list[Statistics] | None = None,
    scored_steps: Sequence[int] | None = None,
    query_batches: QueryBatches | None = None,
    protocol: dict | None = None,
    on_progress=None,
) -> Evaluation:
    """Adapt to each of ``n_tasks`` fixed tasks and score the query set after 0..``steps`` inner steps.

    tasks: a distribution that samples on the CPU; episodes travel to the device of ``meta``.
    report_step: the step that counts (default: the last). scored_steps: the steps to score (default: all), for long inner loops.
    query_batches: the queries that are classified together (default: all of a task).
    on_progress: called with the number of tasks done. Raises ``UserError`` where ``meta`` holds NaN or infinity, or where the
    inner loop leads to predictions that are not finite at the step that counts.
    """
    report_step = steps if report_step is None else report_step
    wanted = list(range(steps + 1)) if scored_steps is None else sorted(set(scored_steps))
    if report_step not in wanted or not 0 <= wanted[0] <= wanted[-1] <= steps:
        raise UserError(
            f"the scored steps must lie between 0 and {steps} and contain {report_step}, the step that counts"
        )
    if n_tasks < 2:
        raise UserError("an interval needs at least 2 tasks")
    judged = learner.query_sets and not learner.is_search
    if judged:
        refuse_not_finite(meta)
    if not learner.has_batch_norm:
        if batch_norm != "transductive":
            raise UserError(
                "this network has no batch norm whose statistics can be chosen (mlbook.models.batch_norm.BatchNorm); the mode "
                f"{batch_norm} means nothing for it"
            )
        if query_batches is not None:
            raise UserError(
                "this network has no batch norm whose statistics can be chosen; its scores do not depend on the batches"
            )
    scores = fixed_scores(
        learner,
        meta,
        tasks,
        n_tasks=n_tasks,
        seed=seed,
        on_progress=on_progress,
        steps=steps,
        batch_norm=batch_norm,
        running=running,
        scored_steps=wanted,
        query_batches=query_batches,
    )
    if judged:
        _refuse_divergence(scores, wanted, report_step)
    shared = {} if query_batches is None else {"query_batches": str(query_batches)}
    return Evaluation(
        metric=learner.metric,
        mean=_by_step(scores.mean(0), wanted, steps),
        ci95_by_step=_by_step(ci95(scores), wanted, steps),
        tasks=n_tasks,
        step=report_step,
        protocol={"batch_norm": batch_norm, "seed": seed, **shared, **(protocol or {})},
    )


def _refuse_divergence(scores: Tensor, scored: list[int], report_step: int) -> None:
    """``UserError`` where the step that counts has scores that are not finite."""
    diverged = ~scores.isfinite()  # [tasks, scored steps]
    if diverged[:, scored.index(report_step)].any():
        first = scored[int(diverged.any(0).float().argmax())]
        raise UserError(
            f"the inner loop diverges: on {int(diverged[:, scored.index(report_step)].sum())} of {len(scores)} tasks the "
            f"predictions at inner step {report_step} are not finite (the first at inner step {first}); lower inner_lr"
        )


def _by_step(values: Tensor, scored: list[int], steps: int) -> tuple[float | None, ...]:
    found = {n: value for n, value in zip(scored, values.tolist(), strict=True) if not math.isnan(value)}
    return tuple(found.get(n) for n in range(steps + 1))
