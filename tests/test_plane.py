"""Tasks in the plane: bent sectors, and their features."""

import math
from dataclasses import replace

import pytest
import torch
from package_fixtures import one_line, rng

from mlbook import experiments
from mlbook.errors import UserError
from mlbook.meta_learners import LEO, MAML
from mlbook.tasks import BentSectors, LEONoise
from mlbook.tasks.plane import REACH, bumps, nearest_mean


def turns(points, bend):
    """The sector coordinate of points: the angle with the bend taken out."""
    r = points.norm(dim=-1)
    return torch.atan2(points[..., 1], points[..., 0]) - bend * r, r


def test_features_are_bumps_on_a_grid_of_length_one():
    x = bumps(torch.tensor([[[0.0, 0.0], [1.0, -2.0]]], dtype=torch.float64))
    assert x.shape == (1, 2, 49) and torch.allclose(x.norm(dim=-1), torch.ones(1, 2, dtype=torch.float64))
    assert x[0, 0].argmax() == 24 and x[0, 1].argmax() == 1 * 7 + 4  # row of x2 = -2, column of x1 = 1
    assert x[0, 0, 25] / x[0, 0, 24] == pytest.approx(math.exp(-1 / (2 * 0.8**2)))


def test_classes_are_sectors_with_one_bend():
    tasks = BentSectors(k_shot=3, n_query=60)
    support, query = tasks.points(40, rng())
    assert support.shape == (40, 3, 3, 2) and query.shape == (40, 3, 60, 2)
    points = torch.cat([support, query], 2)
    angle, r = turns(points, tasks.bend)
    assert r.min() > 0.6 - 1e-6 and r.max() < 2.8 + 1e-6 and points.abs().max() < REACH
    first = angle[:, :, :1]
    offset = torch.remainder(angle - first + math.pi, 2 * math.pi) - math.pi
    width = offset.amax(2) - offset.amin(2)
    assert width.max() < math.pi * 0.9 and width.mean() == pytest.approx(2 * math.pi / 3 * 0.9, rel=0.05)
    assert 2 * math.pi - width.sum(1).max() > 0
    # no point of another class lies between two of a class
    for t in range(5):
        for n in range(3):
            low, high = offset[t, n].min(), offset[t, n].max()
            others = torch.cat([angle[t, m] for m in range(3) if m != n]) - first[t, n]
            others = torch.remainder(others + math.pi, 2 * math.pi) - math.pi
            assert not ((others > low) & (others < high)).any()


def test_episodes_have_the_fields_that_features_of_images_have():
    tasks = BentSectors(k_shot=2, n_query=4)
    batch = tasks.sample(5, rng())
    assert batch.support_x.shape == (5, 6, 49) and batch.query_x.shape == (5, 12, 49)
    assert batch.support_y[0].tolist() == [0, 0, 1, 1, 2, 2] and batch.query_y.dtype == torch.int64
    support, query = tasks.points(5, rng())
    again = tasks.episode(support[1], query[1])
    assert torch.equal(again.support_x, batch.support_x[1]) and torch.equal(again.query_y, batch.query_y[1])
    shapes = LEO(features=49, n_way=3, latent=2).noise_shapes
    noisy = LEONoise(tasks, shapes).sample(5, rng())
    assert noisy.z_noise.shape == (5, 3, 2, 2) and noisy.w_noise.shape == (5, 6, 3, 2, 49)
    with pytest.raises(UserError) as error:
        replace(tasks, n_way=4)
    assert "more than a turn" in one_line(error.value)


def test_the_nearest_mean_sees_no_bend():
    support, query = BentSectors(k_shot=1, n_query=30).points(200, rng())
    right = (nearest_mean(support, query) == torch.arange(3)[:, None]).float().mean()
    assert 0.65 < right < 0.75
    straight, query = BentSectors(k_shot=1, n_query=30, bend=0.0).points(200, rng())
    assert (nearest_mean(straight, query) == torch.arange(3)[:, None]).float().mean() > right + 0.03


def test_the_experiments_build_what_they_name():
    config = experiments.config(experiments.get("leo-plane-3w1s"), "paper")
    learner = experiments.build_learner(config)
    assert isinstance(learner, LEO) and (learner.features, learner.n_way, learner.latent) == (49, 3, 2)
    assert isinstance(experiments.build_tasks(config, "train"), LEONoise)
    assert experiments.build_tasks(config, "test") == BentSectors(1, 30)
    three = experiments.config(experiments.get("leo-plane-3w3s"), "paper")
    assert experiments.build_tasks(three, "test").k_shot == 3 and three["k_shot"] == 1
    other = experiments.config(experiments.get("metasgd-plane-3w1s"), "paper")
    assert isinstance(experiments.build_learner(other), MAML)
    assert isinstance(experiments.build_tasks(other, "train"), BentSectors)
