"""Chapter 3: fixed points on quadratic tasks by independent computations, random class numbers, the classifier baseline."""

import math
import re
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from package_fixtures import noise_pool, one_line, rng

from mlbook.data import glyphs
from mlbook.errors import UserError
from mlbook.meta_learners import nearest_neighbour
from mlbook.meta_learners.inner_loop import adapt
from mlbook.meta_learners.pretraining import classifier_training, features
from mlbook.models import Conv4, call, initial_params
from mlbook.pages.checks import quadratics, relabelling
from mlbook.pages.figures import quadratic_figures
from mlbook.tasks import FewShot

WORLDS = {
    "three tasks": ([3.0, 1.2, 0.4], [-2.5, -0.5, 2.5]),
    "two tasks": ([4.0, 0.5], [0.0, 1.0]),
    "five tasks": ([0.3, 0.9, 2.2, 3.1, 1.0], [1.0, -4.0, 0.2, 7.0, -0.6]),
}
SETTINGS = [(0.05, 1), (0.2, 1), (0.2, 3), (0.3, 2), (0.15, 6)]


def world(name):
    return tuple(torch.tensor(values, dtype=torch.float64) for values in WORLDS[name])


def hand_made_direction(method, curvature, centre, inner_lr, steps):
    """The direction that a method subtracts from θ, with autograd and a loop alone; none of the package is used."""

    def direction(theta):
        total = torch.zeros(())
        for a, c in zip(curvature.tolist(), centre.tolist(), strict=True):
            start = torch.tensor(float(theta), dtype=torch.float64, requires_grad=True)
            x = start
            for _ in range(0 if method == "pretraining" else steps):
                (g,) = torch.autograd.grad(0.5 * a * (x - c) ** 2, x, create_graph=True)
                x = x - inner_lr * (g if method == "maml" else g.detach())
            if method == "reptile":
                total = total + (start - x).detach()
            else:
                (g,) = torch.autograd.grad(0.5 * a * (x - c) ** 2, start)
                total = total + g
        return float(total)

    return direction


def root(direction, low=-60.0, high=60.0):
    """A zero by bisection."""
    at_low = direction(low)
    assert at_low * direction(high) < 0, "no zero between the two ends"
    for _ in range(70):
        middle = (low + high) / 2
        value = direction(middle)
        if (value > 0) == (at_low > 0):
            low = middle
        else:
            high = middle
    return (low + high) / 2


# -- scalar tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("method", quadratics.METHODS)
def test_a_fixed_point_is_where_a_hand_made_direction_vanishes(method, name):
    curvature, centre = world(name)
    for inner_lr, steps in SETTINGS:
        point = quadratics.fixed_point(method, curvature, centre, inner_lr=inner_lr, steps=steps)
        found = root(hand_made_direction(method, curvature, centre, inner_lr, steps))
        assert abs(float(point) - found) < 1e-8


@pytest.mark.parametrize("method", quadratics.METHODS)
def test_descent_with_the_packages_learners_ends_at_the_fixed_point(method):
    for name, (inner_lr, steps) in zip(WORLDS, [(0.2, 3), (0.1, 1), (0.25, 2)], strict=True):
        curvature, centre = world(name)
        weight = quadratics.weights(method, curvature, inner_lr=inner_lr, steps=steps)
        assert quadratics.attracts(method, curvature, inner_lr=inner_lr, steps=steps)
        learner = quadratics.learner(method, inner_lr=inner_lr, steps=steps)
        path = quadratics.descend(
            learner,
            quadratics.episodes(curvature, centre),
            torch.full((1,), 3.0, dtype=torch.float64),
            meta_lr=0.5 / float(weight.mean()),
            meta_steps=40,
        )
        point = quadratics.fixed_point(method, curvature, centre, inner_lr=inner_lr, steps=steps)
        assert abs(float(path[-1]) - float(point)) < 1e-8
        # the mean weight is the slope of the direction: at half its inverse every step halves the distance
        assert float((path[5] - point) / (path[4] - point)) == pytest.approx(0.5, abs=1e-6)


def test_mamls_and_pre_trainings_fixed_points_minimise_the_loss_after_and_before_adaptation():
    curvature, centre = world("three tasks")
    grid = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    for method, steps in (("pretraining", 0), ("maml", 1), ("maml", 4)):
        loss = quadratics.mean_loss(curvature, centre, grid, inner_lr=0.2, steps=steps)
        point = quadratics.fixed_point(method, curvature, centre, inner_lr=0.2, steps=steps)
        assert abs(float(grid[loss.argmin()] - point)) < 1e-3


def test_the_mean_loss_is_that_of_the_inner_loop():
    curvature, centre = world("two tasks")
    start = torch.tensor([0.3, -2.0], dtype=torch.float64)
    expected = []
    for theta in start:
        losses = []
        for a, c in zip(curvature, centre, strict=True):

            def loss(p, a=a, c=c):
                return 0.5 * a * (p["t"] - c) ** 2

            losses.append(loss(adapt(loss, {"t": theta}, inner_lr=0.3, steps=3)))
        expected.append(torch.stack(losses).mean())
    found = quadratics.mean_loss(curvature, centre, start, inner_lr=0.3, steps=3)
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_limits():
    curvature, centre = world("three tasks")

    def at(method, inner_lr, steps):
        return float(quadratics.fixed_point(method, curvature, centre, inner_lr=inner_lr, steps=steps))

    joint = at("pretraining", 0.2, 3)
    for method in quadratics.METHODS:
        assert at(method, 1e-7, 3) == pytest.approx(joint, abs=1e-5)  # α → 0
    assert at("reptile", 0.37, 1) == pytest.approx(joint, abs=1e-12)  # k = 1
    assert at("maml", 0.37, 0) == joint  # N = 0
    assert at("reptile", 0.2, 400) == pytest.approx(float(centre.mean()), abs=1e-9)  # k → ∞
    assert at("maml", 0.2, 200) == pytest.approx(2.5, abs=1e-6)  # N → ∞: the slowest task
    solved = quadratics.weights("maml", curvature, inner_lr=1 / 3, steps=1)
    assert float(solved[0]) == pytest.approx(0, abs=1e-15) and float(solved[1]) > 0.1  # αa = 1
    # outside |1 − αa| < 1 the overshooting task takes everything
    assert at("maml", 0.8, 30) == pytest.approx(-2.5, abs=1e-3)


def test_first_order_maml_runs_away_where_its_weights_sum_to_less_than_zero():
    curvature, centre = world("two tasks")
    options = {"inner_lr": 0.4, "steps": 1}
    assert not quadratics.attracts("fomaml", curvature, **options)
    assert quadratics.attracts("maml", curvature, **options)
    path = quadratics.descend(
        quadratics.learner("fomaml", **options),
        quadratics.episodes(curvature, centre),
        torch.full((1,), 0.5, dtype=torch.float64),
        meta_lr=1.0,
        meta_steps=20,
    )
    point = quadratics.fixed_point("fomaml", curvature, centre, **options)
    distance = [abs(float(p - point)) for p in path]
    assert all(later > earlier for earlier, later in zip(distance, distance[1:], strict=False))


def test_the_loudest_task_of_maml():
    u = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    for N in (1, 2, 5):
        w = quadratics.weights("maml", u, inner_lr=1.0, steps=N)
        assert float(u[w.argmax()]) == pytest.approx(1 / (2 * N + 1), abs=1e-5)


def test_bad_input_is_refused_in_one_line():
    curvature, centre = world("two tasks")
    cases = [
        lambda: quadratics.weights("anil", curvature, inner_lr=0.1, steps=1),
        lambda: quadratics.learner("anil", inner_lr=0.1, steps=1),
        # a single task whose inner step goes exactly to the bottom: every start is as good
        lambda: quadratics.fixed_point("maml", torch.ones(1), torch.ones(1), inner_lr=1.0, steps=1),
        lambda: quadratics.fixed_point(
            "maml", torch.eye(2).expand(3, 2, 2), torch.ones(3, 2), inner_lr=1.0, steps=1
        ),
        lambda: quadratics.episodes(-curvature, centre),
        lambda: quadratics.episodes(torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.ones(1, 2)),
    ]
    for case in cases:
        with pytest.raises(UserError) as caught:
            case()
        one_line(caught.value)


# -- matrices -------------------------------------------------------------------------------------------------------------


def matrix_world(P=3, T=4):
    g = rng(7)
    root = torch.randn(T, P, P, generator=g, dtype=torch.float64)
    return root @ root.mT / P, torch.randn(T, P, generator=g, dtype=torch.float64)


def test_the_episodes_are_the_quadratics():
    A, c = matrix_world()
    episodes = quadratics.episodes(A, c)
    theta = torch.randn(3, generator=rng(1), dtype=torch.float64)
    for t in range(len(A)):
        loss = F.mse_loss(episodes.support_x[t] @ theta, episodes.support_y[t])
        torch.testing.assert_close(loss, 0.5 * (theta - c[t]) @ A[t] @ (theta - c[t]))


@pytest.mark.parametrize("method", quadratics.METHODS)
def test_the_weights_of_matrix_tasks_are_matrices(method):
    A, c = matrix_world()
    options = {"inner_lr": 0.9 / float(torch.linalg.eigvalsh(A).max()), "steps": 3}
    point = quadratics.fixed_point(method, A, c, **options)
    learner = quadratics.learner(method, size=3, **options)
    tasks = quadratics.episodes(A, c)

    def direction(theta):
        return learner.meta_gradient({"params": {"theta": theta}}, tasks)[0]["params"]["theta"].detach()

    # the direction is an affine function of θ: P + 1 values determine it, and its zero, without any formula for the weights
    zero = torch.zeros(3, dtype=torch.float64)
    offset = direction(zero)
    slope = torch.stack([direction(e) - offset for e in torch.eye(3, dtype=torch.float64)], 1)
    torch.testing.assert_close(torch.linalg.solve(slope, -offset), point, rtol=0, atol=1e-8)
    assert quadratics.attracts(method, A, **options)


@pytest.mark.parametrize("method", quadratics.METHODS)
def test_diagonal_matrices_are_separate_scalar_tasks(method):
    curvature, centre = world("three tasks")
    other = curvature.flip(0)
    A = torch.diag_embed(torch.stack([curvature, other], 1))
    c = torch.stack([centre, centre.flip(0) + 1], 1)
    options = {"inner_lr": 0.2, "steps": 2}
    expected = [
        quadratics.fixed_point(method, curvature, c[:, 0], **options),
        quadratics.fixed_point(method, other, c[:, 1], **options),
    ]
    torch.testing.assert_close(quadratics.fixed_point(method, A, c, **options), torch.stack(expected))


def test_matrix_weights_can_leave_the_convex_hull():
    """A weighted mean with matrices need not lie between the bottoms, which a scalar one with positive weights must."""
    A = torch.tensor([[[1.0, 0.9], [0.9, 1.0]], [[1.0, -0.9], [-0.9, 1.0]]], dtype=torch.float64)
    c = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    point = quadratics.fixed_point("pretraining", A, c, inner_lr=0.1, steps=1)
    assert abs(float(point[1])) > 0.5  # both bottoms have a second coordinate of zero


# -- classes numbered at random -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_way", (2, 3, 5))
def test_any_network_that_sees_no_support_set_scores_one_over_n(n_way):
    tasks = FewShot(noise_pool(), n_way, 1, 3)
    for seed in range(3):
        network = Conv4(n_way, filters=4)
        params = initial_params(network, rng(seed))
        episode = tasks.sample(1, rng(seed)).task(0)
        predicted = call(network, params, episode.query_x).argmax(-1)
        every = relabelling.accuracies(predicted, episode.query_y, n_way)
        assert len(every) == math.factorial(n_way)
        assert float(every.mean()) == pytest.approx(1 / n_way, abs=1e-12)


def test_the_accuracy_of_a_numbering_is_that_of_an_ordinary_loop():
    predicted, classes = torch.tensor([2, 0, 1, 1]), torch.tensor([0, 0, 1, 2])
    expected = [
        sum(int(p[c]) == y for c, y in zip(classes.tolist(), predicted.tolist(), strict=True)) / 4
        for p in permutations(range(3))
    ]
    assert relabelling.accuracies(predicted, classes, 3).tolist() == expected
    assert max(expected) > 1 / 3  # one numbering alone proves nothing


def test_random_numbers_for_classes_are_uniform_targets():
    """Value and gradient of the cross-entropy, averaged over all numberings, are those of a target without any label."""
    network = Conv4(4, filters=4, activation="tanh", downsample="average_pool")
    params = {name: p.double() for name, p in initial_params(network, rng()).items()}
    episode = FewShot(noise_pool(), 4, 1, 2).sample(1, rng(1)).task(0).to(torch.float64)

    def permuted(p):
        return relabelling.mean_cross_entropy(call(network, p, episode.query_x), episode.query_y)

    def uniform(p):
        return relabelling.uniform_cross_entropy(call(network, p, episode.query_x))

    (a, value), (b, other) = (torch.func.grad_and_value(f)(params) for f in (permuted, uniform))
    torch.testing.assert_close(value, other)
    assert float(value) >= math.log(4)
    for name in params:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-12)


def test_a_learner_that_sees_the_support_set_is_not_bound_by_it():
    """The support labels move with the numbering, so the predictions do, too: the premise of the theorem fails."""
    episode = FewShot(noise_pool(), 4, 1, 2).sample(5, rng())
    assert float(nearest_neighbour.accuracies(episode).mean()) > 0.5


def test_numberings_of_too_many_classes_are_refused():
    assert relabelling.numberings(1).tolist() == [[0]]
    for n_way in (0, 8):
        with pytest.raises(UserError) as caught:
            relabelling.numberings(n_way)
        one_line(caught.value)


# -- the classifier baseline ----------------------------------------------------------------------------------------------


def test_a_classifier_over_fixed_labels_learns_features_that_tell_new_classes_apart():
    train, test = glyphs.load("train", "none").subset(slice(0, 40)), glyphs.load("test", "none")
    network = Conv4(train.n_classes, filters=16)
    run = list(classifier_training(network, train, epochs=5, batch_size=50, generator=rng()))
    assert len(run) == 5 * 16
    params, loss = run[-1]
    assert loss < 0.8 * math.log(40)
    of = features(network, params, train.images[:, 0] / 255)
    episodes = FewShot(test, 5, 1, 5).sample(40, rng(1))
    untrained = features(network, initial_params(network, rng()), train.images[:, 0] / 255)
    before, after = (float(nearest_neighbour.accuracies(episodes, f).mean()) for f in (untrained, of))
    assert after > before + 0.1
    # the features of an image are its own: they do not change with the images beside it
    x = episodes.query_x[0]
    torch.testing.assert_close(of(x)[:3], of(x[:3]))
    torch.testing.assert_close(of(x).norm(dim=1), torch.ones(len(x)))


def test_features_are_what_the_head_sees():
    network = Conv4(7, filters=6)
    params = initial_params(network, rng())
    images = noise_pool(n_classes=4, n_examples=3).images.flatten(0, 1) / 255
    weight = torch.randn(7, 6, generator=rng(3))
    logits = call(network, {**params, "head.weight": weight}, images)  # batch statistics of the same images
    found = features(network, params, images)(images)
    torch.testing.assert_close(F.normalize(found @ torch.linalg.pinv(weight) @ weight, dim=1), found)
    torch.testing.assert_close(F.normalize(logits @ torch.linalg.pinv(weight).T, dim=1), found)


def test_a_classifier_needs_an_output_for_every_class():
    with pytest.raises(UserError) as caught:
        next(classifier_training(Conv4(5, filters=4), noise_pool(), epochs=1, generator=rng()))
    assert "12" in one_line(caught.value)


# -- figures --------------------------------------------------------------------------------------------------------------


def test_the_picture_of_present_and_potential_shows_what_it_says():
    """Pre-training's start is better before the inner loop, the other one after it: computed, and said in the alt text."""
    fig, alt = quadratic_figures.present_and_potential()
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", alt)]
    start, before, after, other_start, other_before, other_after = numbers[-6:]
    assert before < other_before and other_after < after
    assert len(fig.axes) == 4


def test_every_figure_has_an_alt_text_with_numbers():
    curvature, centre = world("three tasks")
    x = torch.linspace(0, 1, 5)
    figures = [
        quadratic_figures.weights_by_curvature(),
        quadratic_figures.positions(curvature, centre, steps=3),
        quadratic_figures.loss_curves({"maml": (x, x), "reptile": (x, x + 1)}, "α", marked=0.5, log=True),
        quadratic_figures.same_function_other_future(
            x, x, {"MAML": x}, {"MAML": [x], "pre-training": [x]}, [x + 1], 5
        ),
    ]
    for fig, alt in figures:
        assert fig.axes and len(alt) > 80 and "nan" not in alt


def test_with_many_odd_steps_fomaml_may_be_driven_away():
    """Chapter 3's example: the slowest task overshoots, so the sum of FOMAML's weights is negative, and MAML's is not."""
    curvature, options = torch.tensor([3.0, 0.4], dtype=torch.float64), {"inner_lr": 0.6, "steps": 9}
    left = (1 - 0.6 * curvature).abs()
    assert left[0] == left.max() < 1
    assert float(quadratics.weights("fomaml", curvature, **options).sum()) == pytest.approx(-0.37, abs=0.005)
    assert quadratics.attracts("maml", curvature, **options)
    assert not quadratics.attracts("fomaml", curvature, **options)
