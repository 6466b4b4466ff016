"""Meta-test: what is measured, over which tasks, with which interval and which batch-norm statistics."""

from dataclasses import replace

import pytest
import torch
from package_fixtures import noise_pool, rng

from mlbook.engines import fast
from mlbook.errors import UserError
from mlbook.meta_learners import MAML
from mlbook.models import MLP, Conv4, call
from mlbook.models.batch_norm import Statistics
from mlbook.models.conv4 import adapted_names
from mlbook.tasks import Episode, FewShot, Sinusoids
from mlbook.training.evaluation import evaluate, fixed_episodes, running_statistics, task_scores

N = 5


def images(n_query=2, **options):
    model = Conv4(N, filters=8, size=16, **options)
    learner = MAML(model, names=adapted_names(model), inner_lr=0.3)
    return learner, learner.init(rng()).meta, FewShot(noise_pool(20, size=16), N, 1, n_query)


def waves():
    learner = MAML(MLP((1, 8, 8, 1), init_std=0.5), loss="mse", inner_lr=0.02)
    return learner, learner.init(rng()).meta, Sinusoids(n_query=20)


def test_mean_and_interval_are_those_of_the_tasks():
    learner, meta, tasks = waves()
    result = evaluate(learner, meta, tasks, n_tasks=60, steps=3)
    scores = []
    for episodes in fixed_episodes(tasks, 60, 1):
        for t in range(episodes.n_tasks):
            task = episodes.task(t)
            path = learner.path(meta, task.support_x, task.support_y, 3)
            errors = [learner.predict(params, task.query_x) - task.query_y for params in path]
            scores.append([float((e.double() ** 2).mean()) for e in errors])
    assert len(scores) == 60
    for step in range(4):
        values = [row[step] for row in scores]
        mean = sum(values) / 60
        spread = (sum((v - mean) ** 2 for v in values) / 60) ** 0.5
        assert result.mean[step] == pytest.approx(mean, rel=1e-4)
        assert result.ci95_by_step[step] == pytest.approx(1.96 * spread / 60**0.5, rel=1e-4)


def test_there_is_one_number_per_inner_step_and_the_reported_one_is_named():
    learner, meta, tasks = waves()
    result = evaluate(learner, meta, tasks, n_tasks=10, steps=4, report_step=2)
    assert len(result.mean) == len(result.ci95_by_step) == 5
    assert (result.value, result.interval, result.step) == (result.mean[2], result.ci95_by_step[2], 2)
    assert evaluate(learner, meta, tasks, n_tasks=10, steps=4).step == 4
    as_dict = result.as_dict()
    assert as_dict["mse"] == result.value and as_dict["ci95"] == result.interval and as_dict["tasks"] == 10
    assert as_dict["protocol"] == {"batch_norm": "transductive", "seed": 1}


def test_regression_is_measured_by_squared_error_and_classification_by_accuracy():
    learner, meta, tasks = waves()
    assert evaluate(learner, meta, tasks, n_tasks=5, steps=1).metric == "mse"
    learner, meta, tasks = images()
    result = evaluate(learner, meta, tasks, n_tasks=5, steps=1)
    assert result.metric == "accuracy" and all(0 <= value <= 1 for value in result.mean)
    assert "accuracy" in result.as_dict() and "mse" not in result.as_dict()


def test_the_first_tasks_of_a_longer_evaluation_are_the_same_tasks():
    tasks = Sinusoids()
    long, short, other = (
        [torch.cat(fields) for fields in zip(*fixed_episodes(tasks, n, seed), strict=True)]
        for n, seed in ((60, 1), (30, 1), (60, 2))
    )
    assert long[0].shape[0] == 60 and short[0].shape[0] == 30
    for a, b, c in zip(long, short, other, strict=True):
        assert torch.equal(a[:30], b)
        assert not torch.equal(a, c)
    assert not torch.equal(long[0][:5], long[0][25:30])  # every block has its own seed


def test_an_evaluation_repeats_and_depends_on_its_seed():
    learner, meta, tasks = waves()
    a, b, c = (evaluate(learner, meta, tasks, n_tasks=30, steps=1, seed=seed) for seed in (1, 1, 2))
    assert a == b and a.mean != c.mean and c.protocol["seed"] == 2


def test_a_random_network_that_has_not_adapted_guesses_and_adaptation_helps():
    learner, meta, tasks = images(n_query=4)
    result = evaluate(learner, meta, tasks, n_tasks=100, steps=3)
    assert abs(result.mean[0] - 1 / N) < 4 * result.ci95_by_step[0]
    assert 0.15 < result.mean[0] < 0.28
    assert result.mean[3] > result.mean[0] + 0.1


# -- batch-norm modes -----------------------------------------------------------------------------------------------


def single_queries(episodes):
    """The same tasks with one query each, one such meta-batch per query."""
    for q in range(episodes.query_x.shape[1]):
        yield Episode(
            episodes.support_x,
            episodes.support_y,
            episodes.query_x[:, q : q + 1],
            episodes.query_y[:, q : q + 1],
        )


def alone_and_together(batch_norm, **options):
    """Accuracies [tasks, steps + 1] when every query is judged alone, and when all are judged at once."""
    learner, meta, tasks = images()
    episodes = tasks.sample(20, rng(3))
    options = {"steps": 2, "batch_norm": batch_norm, **options}
    together = task_scores(learner, meta, episodes, **options)
    alone = torch.stack(
        [task_scores(learner, meta, one, **options) for one in single_queries(episodes)]
    ).mean(0)
    return alone, together


def test_transductive_queries_help_each_other():
    alone, together = alone_and_together("transductive")
    assert (alone - together).abs().max() > 0.05


def test_with_support_statistics_a_query_stands_alone():
    alone, together = alone_and_together("support")
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


def test_with_running_statistics_a_query_stands_alone():
    learner, meta, tasks = images()
    running = running_statistics(learner, meta, tasks, steps=1, n_tasks=10)
    alone, together = alone_and_together("running", running=running)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


def test_the_modes_are_different_measurements_and_the_protocol_says_which():
    learner, meta, tasks = images()
    running = running_statistics(learner, meta, tasks, steps=1, n_tasks=25)
    results = {
        mode: evaluate(learner, meta, tasks, n_tasks=50, steps=2, batch_norm=mode, running=running)
        for mode in ("transductive", "support", "running")
    }
    assert len({result.mean for result in results.values()}) == 3
    assert all(result.protocol["batch_norm"] == mode for mode, result in results.items())


def test_support_statistics_are_those_of_the_support_set_under_the_adapted_parameters():
    learner, meta, tasks = images()
    episodes = tasks.sample(6, rng(3))
    scores = task_scores(learner, meta, episodes, steps=2, batch_norm="support")
    for t in range(6):
        task = episodes.task(t)
        for step, params in enumerate(learner.path(meta, task.support_x, task.support_y, 2)):
            # a batch of support and one query, where the statistics of the support images alone normalise
            x, statistics = task.support_x, []
            for i, conv in enumerate(learner.model.convs):
                w = params[f"convs.{i}.weight"]
                x = torch.nn.functional.conv2d(x, w, stride=conv.stride, padding=1)
                statistics.append(Statistics(x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)))
                x = torch.nn.functional.batch_norm(x, None, None, training=True, eps=1e-3)
                x = torch.relu(x + params[f"norms.{i}.beta"].view(-1, 1, 1))
            prediction = call(learner.model, params, task.query_x, statistics=statistics)
            accuracy = (prediction.argmax(-1) == task.query_y).float().mean()
            assert scores[t, step] == pytest.approx(float(accuracy), abs=1e-6)


def test_running_statistics_average_over_adapted_networks():
    learner, meta, tasks = images()
    running = running_statistics(learner, meta, tasks, steps=1, n_tasks=30, seed=4)
    assert len(running) == 4 and all(s.mean.shape == s.variance.shape == (8,) for s in running)
    first = []
    for episodes in fixed_episodes(tasks, 30, 4):
        for t in range(episodes.n_tasks):
            task = episodes.task(t)
            *_, adapted = learner.path(meta, task.support_x, task.support_y, 1)
            x = torch.nn.functional.conv2d(task.query_x, adapted["convs.0.weight"], stride=2, padding=1)
            first.append(torch.stack([x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)]))
    expected = torch.stack(first).mean(0)
    torch.testing.assert_close(torch.stack(list(running[0])), expected, rtol=1e-4, atol=1e-5)


def test_wrong_settings_are_refused():
    learner, meta, tasks = images()
    with pytest.raises(UserError, match="at least 2 tasks"):
        evaluate(learner, meta, tasks, n_tasks=1)
    with pytest.raises(UserError, match="batch_norm must be"):
        evaluate(learner, meta, tasks, n_tasks=2, steps=0, batch_norm="yesterday")
    with pytest.raises(UserError, match="running_statistics"):
        evaluate(learner, meta, tasks, n_tasks=2, steps=0, batch_norm="running")
    learner, meta, tasks = waves()
    with pytest.raises(UserError, match="no batch norm"):
        evaluate(learner, meta, tasks, n_tasks=2, steps=0, batch_norm="support")


def test_an_evaluation_leaves_parameters_and_the_global_generator_alone():
    learner, meta, tasks = images()
    before, state = {n: p.clone() for n, p in meta["params"].items()}, torch.get_rng_state()
    done = []
    evaluate(learner, meta, tasks, n_tasks=30, steps=1, on_progress=done.append)
    assert all(torch.equal(meta["params"][n], p) for n, p in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert done == [25, 30]


def test_first_order_and_engine_do_not_change_an_evaluation():
    learner, meta, tasks = images()
    result = evaluate(learner, meta, tasks, n_tasks=10, steps=2)
    for other in (
        replace(learner, first_order=True),
        replace(learner, engine="loop"),
        fast(learner),
    ):
        assert evaluate(other, meta, tasks, n_tasks=10, steps=2) == result
