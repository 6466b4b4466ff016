"""Which queries share a batch: how they are cut, and that scores are those of a plain loop over the batches."""

import pytest
import torch
import torch.nn.functional as F
from package_fixtures import noise_pool, rng

from mlbook.engines import fast
from mlbook.errors import UserError
from mlbook.meta_learners import MAML, Reptile
from mlbook.models import MLP, Conv4, call
from mlbook.models.batch_norm import BatchNorm, no_statistics
from mlbook.models.conv4 import adapted_names
from mlbook.tasks import FewShot, Sinusoids
from mlbook.training.evaluation import (
    QueryBatches,
    evaluate,
    fixed_episodes,
    fixed_scores,
    running_statistics,
)

N, Q = 3, 4


def setting(n_query=Q, gamma=False):
    model = Conv4(N, filters=8, size=16, gamma=gamma)
    learner = MAML(model, names=adapted_names(model), inner_lr=0.3)
    meta = learner.init(rng()).meta
    for name, p in meta["params"].items():
        if name.endswith("beta"):
            p.uniform_(-1, 1, generator=rng())
    return learner, meta, FewShot(noise_pool(20, size=16), N, 1, n_query)


def labels(tasks=2, n_query=Q):
    return torch.arange(N).repeat_interleave(n_query).expand(tasks, -1)


# -- how the queries are cut ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batches", [QueryBatches(2, True), QueryBatches(3), QueryBatches(1), QueryBatches(12)]
)
def test_every_query_is_in_exactly_one_batch(batches):
    index = batches.index(labels(tasks=5))
    assert index.shape[0] == 5 and index.shape[2] == batches.images * (N if batches.per_class else 1)
    assert torch.equal(index.flatten(1).sort(1).values, torch.arange(N * Q).expand(5, -1))


def test_batches_per_class_hold_as_many_images_of_every_class():
    y = labels()
    for m in (1, 2, 4):
        for batch in QueryBatches(m, per_class=True).index(y)[0]:
            assert torch.equal(y[0, batch].bincount(minlength=N), torch.full((N,), m))


def test_random_batches_do_not_look_at_the_class_and_repeat_with_the_seed():
    y = labels(tasks=200)
    index = QueryBatches(3).index(y)
    counts = torch.nn.functional.one_hot(y.gather(1, index.flatten(1)).view(index.shape), N).sum(2)
    balanced = (counts == 1).all(-1).double().mean()
    assert 0.15 < balanced < 0.45  # 4·4·4 of C(12, 3) = 220 ways, 0.29; always or never would be by design
    assert torch.equal(index, QueryBatches(3).index(y))
    assert not torch.equal(index, QueryBatches(3, seed=1).index(y))
    assert not torch.equal(index[0], index[1])  # tasks are cut independently


@pytest.mark.parametrize("batches", [QueryBatches(3, True), QueryBatches(5), QueryBatches(0)])
def test_queries_that_do_not_fill_the_batches_are_refused(batches):
    with pytest.raises(UserError, match="cannot be cut"):
        batches.index(labels())


# -- scores ---------------------------------------------------------------------------------------------------------


def plain_logits(learner, params, x, reference=None):
    """The network written out once more, with layer by layer the statistics of the batch, or of `reference` ([n, ...]), or, where
    that is 0, none at all."""
    x = x if reference is None or isinstance(reference, int) else torch.cat([reference, x])
    for i in range(4):
        x = F.conv2d(x, params[f"convs.{i}.weight"], stride=2, padding=1)
        if reference is None:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        elif isinstance(reference, int):
            mean, variance = torch.zeros(x.shape[1]), torch.ones(x.shape[1]) - 1e-3
        else:
            mean = x[: len(reference)].mean((0, 2, 3))
            variance = x[: len(reference)].var((0, 2, 3), correction=0)
        normal = (x - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-3).sqrt()
        x = (normal + params[f"norms.{i}.beta"].view(-1, 1, 1)).relu()
    logits = x.mean((2, 3)) @ params["head.weight"].T + params["head.bias"]
    return logits if reference is None or isinstance(reference, int) else logits[len(reference) :]


CUTS = [QueryBatches(2, True), QueryBatches(1, True), QueryBatches(3), QueryBatches(1), QueryBatches(12)]


@pytest.mark.parametrize("batches", CUTS, ids=str)
def test_scores_are_those_of_a_plain_loop_over_tasks_and_batches(batches):
    learner, meta, tasks = setting()
    found = fixed_scores(learner, meta, tasks, n_tasks=8, steps=2, scored_steps=[2], query_batches=batches)
    (episodes,) = fixed_episodes(tasks, 8, 1)
    index = batches.index(episodes.query_y)
    for t in range(8):
        task = episodes.task(t)
        *_, params = learner.path(meta, task.support_x, task.support_y, 2)
        right = 0
        for batch in index[t]:
            logits = plain_logits(learner, params, task.query_x[batch])
            right += int((logits.argmax(1) == task.query_y[batch]).sum())
        assert found[t, 0] == pytest.approx(right / (N * Q), abs=1e-6)


def test_all_in_one_batch_is_the_ordinary_evaluation_and_smaller_batches_are_not():
    learner, meta, tasks = setting()
    options = {"n_tasks": 30, "steps": 1}
    ordinary = evaluate(learner, meta, tasks, **options)
    whole = evaluate(learner, meta, tasks, **options, query_batches=QueryBatches(Q, per_class=True))
    one_each = evaluate(learner, meta, tasks, **options, query_batches=QueryBatches(1, per_class=True))
    assert whole.mean == ordinary.mean and one_each.mean != ordinary.mean
    assert "query_batches" not in ordinary.protocol
    assert one_each.protocol["query_batches"] == "batches of 1 per class"


@pytest.mark.parametrize("mode", ["support", "support_and_query", "running", "none"])
def test_in_the_other_modes_the_batches_do_not_matter(mode):
    learner, meta, tasks = setting()
    running = running_statistics(learner, meta, tasks, steps=1, n_tasks=10)
    options = {"n_tasks": 10, "steps": 1, "batch_norm": mode, "running": running}
    scores = [
        fixed_scores(learner, meta, tasks, **options, query_batches=batches) for batches in (None, *CUTS)
    ]
    assert all(torch.equal(scores[0], other) for other in scores[1:])


@pytest.mark.parametrize("mode", ["support", "support_and_query", "none"])
def test_the_modes_are_those_of_the_plain_network(mode):
    learner, meta, tasks = setting()
    found = fixed_scores(learner, meta, tasks, n_tasks=8, steps=1, scored_steps=[1], batch_norm=mode)
    (episodes,) = fixed_episodes(tasks, 8, 1)
    for t in range(8):
        task = episodes.task(t)
        *_, params = learner.path(meta, task.support_x, task.support_y, 1)
        if mode == "support_and_query":
            together = [torch.cat([task.support_x, x[None]]) for x in task.query_x]
            logits = torch.stack([plain_logits(learner, params, x)[-1] for x in together])
        else:
            logits = plain_logits(learner, params, task.query_x, task.support_x if mode == "support" else 0)
        accuracy = (logits.argmax(1) == task.query_y).double().mean()
        assert found[t, 0] == pytest.approx(float(accuracy), abs=1e-6)


def test_learners_that_take_one_task_at_a_time_are_scored_by_batches_too():
    model = Conv4(N, filters=8, size=16, gamma=True, spatial_mean=False)
    slow = Reptile(model, inner_lr=0.05, inner_steps=2)
    by_kernels = fast(slow)
    meta = slow.init(rng()).meta
    tasks = FewShot(noise_pool(20, size=16), N, 1, Q)
    options = {"n_tasks": 6, "steps": 1, "query_batches": QueryBatches(3)}
    a, b = (fixed_scores(learner, meta, tasks, **options) for learner in (slow, by_kernels))
    assert {slow.vmappable, by_kernels.vmappable} == {False, True}
    torch.testing.assert_close(a, b)


def test_without_statistics_batch_norm_hands_its_input_on():
    norm = BatchNorm(3, gamma=True)
    x = torch.randn(5, 3, 4, 4, generator=rng())
    (statistics,) = no_statistics(norm, x)
    torch.testing.assert_close(norm(x, statistics), x)
    model = Conv4(N, filters=8, size=16)
    assert len(no_statistics(model, x)) == 4
    double = no_statistics(model, x.double())[0]
    assert double.mean.dtype == torch.float64


def test_without_any_normalisation_call_equals_the_network_without_batch_norm():
    torch.manual_seed(0)
    with_norm, without = Conv4(N, filters=8, size=16), Conv4(N, filters=8, size=16, batch_norm=False)
    params = {name: p.detach() for name, p in with_norm.named_parameters() if not name.startswith("norms")}
    biases = {f"convs.{i}.bias": torch.zeros(8) for i in range(4)}
    x = torch.rand(5, 1, 16, 16, generator=rng())
    full = dict(with_norm.named_parameters())
    plain = call(without, {**params, **biases}, x)
    torch.testing.assert_close(call(with_norm, full, x, statistics=no_statistics(with_norm, x)), plain)


def test_a_network_without_batch_norm_has_nothing_that_batches_could_change():
    learner = MAML(MLP((1, 8, 1), init_std=0.5), loss="mse")
    with pytest.raises(UserError, match="do not depend on the batches"):
        evaluate(learner, learner.init(rng()).meta, Sinusoids(), n_tasks=2, query_batches=QueryBatches(1))


def test_tasks_adapted_a_few_at_a_time_score_the_same(monkeypatch):
    learner, meta, tasks = setting()
    options = {"n_tasks": 10, "steps": 1}
    for batches in (None, QueryBatches(3)):
        whole = fixed_scores(learner, meta, tasks, **options, query_batches=batches)
        monkeypatch.setattr("mlbook.training.evaluation.VALUES_AT_ONCE", 1)
        assert torch.equal(fixed_scores(learner, meta, tasks, **options, query_batches=batches), whole)
        monkeypatch.undo()
