"""Episodes, sinusoids and generated glyphs."""

import math

import pytest
import torch
from package_fixtures import counting_pool, rng, who

from mlbook.data import ClassPool, glyphs
from mlbook.errors import UserError
from mlbook.meta_learners.nearest_neighbour import accuracies, nearest_neighbour
from mlbook.tasks import Episode, FewShot, Sinusoids

# -- few-shot episodes ----------------------------------------------------------------------------------------------


def test_an_episode_has_the_shapes_and_types_that_are_promised():
    pool = ClassPool(torch.randint(256, (9, 7, 3, 6, 5), dtype=torch.uint8))
    episode = FewShot(pool, n_way=4, k_shot=2, n_query=3).sample(6, rng())
    assert episode.n_tasks == 6
    assert episode.support_x.shape == (6, 8, 3, 6, 5) and episode.query_x.shape == (6, 12, 3, 6, 5)
    assert episode.support_y.shape == (6, 8) and episode.query_y.shape == (6, 12)
    assert episode.support_x.dtype == episode.query_x.dtype == torch.float32
    assert episode.support_y.dtype == episode.query_y.dtype == torch.int64
    assert episode.support_x.min() >= 0 and episode.support_x.max() <= 1
    one = episode.task(5)
    assert torch.equal(one.query_x, episode.query_x[5]) and one.support_y.shape == (8,)


def test_labels_are_class_major():
    episode = FewShot(counting_pool(), n_way=3, k_shot=2, n_query=4).sample(2, rng())
    assert episode.support_y.tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    assert episode.query_y.tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * 2


def test_classes_of_a_task_are_distinct_and_support_and_query_are_disjoint():
    episode = FewShot(counting_pool(), n_way=5, k_shot=3, n_query=9).sample(300, rng())  # all 12 examples
    support_class, support_example = who(episode.support_x)
    query_class, query_example = who(episode.query_x)
    for t in range(300):
        by_label = [set(support_class[t, episode.support_y[t] == n].tolist()) for n in range(5)]
        assert all(len(classes) == 1 for classes in by_label)  # one label, one class
        assert len(set.union(*by_label)) == 5  # five labels, five classes
        for n in range(5):
            assert set(query_class[t, episode.query_y[t] == n].tolist()) == by_label[n]
            support = support_example[t, episode.support_y[t] == n].tolist()
            query = query_example[t, episode.query_y[t] == n].tolist()
            assert len(set(support)) == 3 and len(set(query)) == 9 and not set(support) & set(query)


def test_classes_examples_and_labels_are_used_uniformly():
    tasks, N, C, E = 4000, 5, 20, 12
    episode = FewShot(counting_pool(C, E), n_way=N, k_shot=1, n_query=1).sample(tasks, rng(3))
    classes, examples = who(episode.support_x)
    # drawn without replacement, a count has variance n·p·(1 − p); the sum is near χ² with 19 degrees (99.9 %: 43.8)
    p = N / C
    observed = torch.bincount(classes.flatten(), minlength=C).double()
    assert ((observed - tasks * p) ** 2 / (tasks * p * (1 - p))).sum() < 43.8
    expected = tasks * N / E
    observed = torch.bincount(examples.flatten(), minlength=E).double()
    assert ((observed - expected) ** 2 / expected).sum() < 31.3  # 11 degrees
    # a class gets every label equally often: 20 × 5 cells, 76 degrees of freedom (99.9 %: 120.6)
    cells = torch.bincount((classes * N + episode.support_y).flatten(), minlength=C * N).double()
    expected = tasks / C
    assert ((cells - expected) ** 2 / expected).sum() < 120.6


def test_the_same_seed_gives_the_same_episodes_and_nothing_else_is_seeded():
    tasks = FewShot(counting_pool(), n_way=5, k_shot=1, n_query=2)
    before = torch.get_rng_state()
    a, b, c = tasks.sample(8, rng(1)), tasks.sample(8, rng(1)), tasks.sample(8, rng(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a.support_x, c.support_x)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_goes_on_where_it_stands():
    tasks, g = FewShot(counting_pool(), n_way=5, k_shot=1, n_query=2), rng(1)
    assert not torch.equal(tasks.sample(8, g).support_x, tasks.sample(8, g).support_x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_episodes_are_born_on_the_device_of_the_pool():
    tasks = FewShot(counting_pool().to("cuda"), n_way=5, k_shot=1, n_query=2)
    episode = tasks.sample(4, torch.Generator("cuda").manual_seed(0))
    assert {field.device.type for field in episode} == {"cuda"}
    with pytest.raises(RuntimeError):
        tasks.sample(4, rng())  # a generator of the CPU


def test_moving_an_episode_leaves_class_labels_whole_numbers():
    episode = FewShot(counting_pool(), n_way=2, k_shot=1, n_query=1).sample(1, rng()).to(torch.float64)
    assert episode.support_x.dtype == torch.float64 and episode.support_y.dtype == torch.int64
    assert Sinusoids().sample(1, rng()).to(torch.float64).support_y.dtype == torch.float64


# -- rotations ------------------------------------------------------------------------------------------------------


def turned(pool):
    """All images of the pool in all four rotations: [classes, examples, 4, pixels]."""
    x = pool.images.float() / 255
    return torch.stack([x.rot90(r, (-2, -1)) for r in range(4)], dim=2).flatten(3)


def identify(pool, x):
    """Class and rotation of every image x [..., C, H, W], found by comparison with every image of the pool."""
    table = turned(pool)
    matches = (x.flatten(-3)[..., None, None, None, :] == table).all(-1)  # [..., classes, examples, 4]
    assert (matches.flatten(-3).sum(-1) == 1).all(), "an image that is none of the pool's in any rotation"
    index = matches.flatten(-3).int().argmax(-1)
    return index // (4 * pool.n_examples), index % 4


def square_pool(rotations, n_classes=5):
    return ClassPool(
        torch.randint(256, (n_classes, 4, 1, 5, 5), dtype=torch.uint8, generator=rng(8)), rotations
    )


def test_the_rows_of_a_pool_are_its_images_in_four_rotations():
    images = torch.randint(256, (2, 3, 1, 5, 5), dtype=torch.uint8, generator=rng())
    rows = ClassPool(images, rotations="per_task").rows
    assert rows.shape == (4 * 2 * 3, 25) and rows.dtype == torch.uint8
    for turns in range(4):
        part = rows[turns * 6 : turns * 6 + 6].view(2, 3, 1, 5, 5)
        assert torch.equal(part, images.rot90(turns, (-2, -1)))
    assert torch.equal(ClassPool(images).rows, images.view(6, 25))


def test_per_task_turns_a_class_once_per_task_and_uses_all_four_rotations():
    pool = square_pool("per_task")
    assert pool.n_classes == 5
    episode = FewShot(pool, n_way=5, k_shot=2, n_query=2).sample(200, rng())
    classes, turns = identify(pool, torch.cat([episode.support_x, episode.query_x], 1))
    labels = torch.cat([episode.support_y, episode.query_y], 1)
    for t in range(200):
        assert len(set(classes[t].tolist())) == 5  # no character twice in a task
        for n in range(5):
            assert len(set(turns[t, labels[t] == n].tolist())) == 1
    share = torch.bincount(turns.flatten(), minlength=4) / turns.numel()
    assert (share - 0.25).abs().max() < 0.05


def test_as_classes_makes_every_rotation_a_class_of_its_own():
    pool = square_pool("as_classes", n_classes=3)
    assert pool.n_classes == 12
    episode = FewShot(pool, n_way=12, k_shot=1, n_query=3).sample(
        10, rng()
    )  # 12-way: all of them in every task
    classes, turns = identify(pool, episode.support_x)
    for t in range(10):
        assert set(zip(classes[t].tolist(), turns[t].tolist(), strict=True)) == {
            (c, r) for c in range(3) for r in range(4)
        }
    query_classes, query_turns = identify(pool, episode.query_x)
    assert torch.equal(query_classes, classes.repeat_interleave(3, 1))
    assert torch.equal(query_turns, turns.repeat_interleave(3, 1))


def test_two_rotations_of_a_character_may_meet_only_as_classes():
    tasks = FewShot(square_pool("as_classes"), n_way=5, k_shot=1, n_query=1).sample(100, rng())
    classes, _ = identify(square_pool("as_classes"), tasks.support_x)
    assert any(len(set(row.tolist())) < 5 for row in classes)


# -- pools and wrong settings ---------------------------------------------------------------------------------------


def test_a_subset_keeps_images_names_and_rotations():
    pool = ClassPool(torch.arange(8, dtype=torch.uint8).view(4, 2, 1, 1, 1), "per_task", tuple("abcd"))
    part = pool.subset(slice(1, 3))
    assert part.names == ("b", "c") and part.rotations == "per_task"
    assert torch.equal(part.images, pool.images[1:3])
    assert pool.subset([3, 0]).names == ("d", "a")
    assert torch.equal(pool.subset([3, 0]).images, pool.images[[3, 0]])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_way": 1000}, "1000 classes; the pool has 20"),
        ({"n_way": 0}, "n_way must be at least 1"),
        ({"k_shot": 0}, "k_shot must be at least 1"),
        ({"n_query": -1}, "n_query must be at least 0"),
        ({"k_shot": 8, "n_query": 5}, "13 examples; a class of the pool has 12"),
    ],
)
def test_a_way_or_shot_that_the_pool_cannot_give_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        FewShot(counting_pool(), **{"n_way": 5, "k_shot": 1, "n_query": 1, **settings})


def test_a_way_as_large_as_the_pool_and_all_examples_are_possible():
    FewShot(counting_pool(), n_way=20, k_shot=6, n_query=6).sample(2, rng())


def test_a_pool_refuses_what_is_not_a_pool():
    with pytest.raises(UserError, match="uint8"):
        ClassPool(torch.zeros(2, 2, 1, 4, 4, dtype=torch.int64))
    with pytest.raises(UserError, match="examples, ...]; got float32"):
        ClassPool(torch.zeros(2, 2))
    with pytest.raises(UserError, match="uint8"):
        ClassPool(torch.zeros(2, 2, 4, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match="square"):
        ClassPool(torch.zeros(2, 2, 1, 4, 5, dtype=torch.uint8), "per_task")
    with pytest.raises(UserError, match="rotations must be"):
        ClassPool(torch.zeros(2, 2, 1, 4, 4, dtype=torch.uint8), "sometimes")


# -- sinusoids ------------------------------------------------------------------------------------------------------


def test_targets_are_sine_waves_within_the_official_ranges():
    episode = Sinusoids(k_shot=10, n_query=15).sample(2000, rng())
    assert episode.support_x.shape == episode.support_y.shape == (2000, 10, 1)
    assert episode.query_x.shape == episode.query_y.shape == (2000, 15, 1)
    x = torch.cat([episode.support_x, episode.query_x], 1).double()
    y = torch.cat([episode.support_y, episode.query_y], 1).double()
    assert x.min() >= -5 and x.max() <= 5 and x.min() < -4.99 and x.max() > 4.99
    # A·sin(x − φ) = (A·cos φ)·sin x − (A·sin φ)·cos x: a linear fit finds A and φ, support and query together
    basis = torch.cat([x.sin(), -x.cos()], -1)
    fit = torch.linalg.lstsq(basis, y).solution[..., 0]
    assert (basis @ fit[..., None] - y).abs().max() < 1e-5
    amplitude, phase = fit.norm(dim=1), torch.atan2(fit[:, 1], fit[:, 0])
    assert 0.1 <= amplitude.min() < 0.12 and 4.98 < amplitude.max() <= 5 + 1e-5
    assert abs(amplitude.mean() - 2.55) < 0.1 and abs(phase.mean() - math.pi / 2) < 0.06
    assert -1e-4 <= phase.min() < 0.01 and math.pi - 0.01 < phase.max() <= math.pi + 1e-4


def test_y_is_exactly_amplitude_times_sine_of_x_minus_phase():
    tasks = Sinusoids()
    amplitude, phase = tasks.sample_tasks(50, rng(4))
    episode = tasks.sample(50, rng(4))  # draws the same tasks first
    for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y)):
        assert torch.equal(y, amplitude.view(-1, 1, 1) * torch.sin(x - phase.view(-1, 1, 1)))


def test_the_oracle_is_told_amplitude_and_phase_of_the_same_task():
    told, plain = Sinusoids(oracle=True).sample(50, rng(4)), Sinusoids().sample(50, rng(4))
    amplitude, phase = Sinusoids().sample_tasks(50, rng(4))
    for x, without in ((told.support_x, plain.support_x), (told.query_x, plain.query_x)):
        assert x.shape == (50, 5, 3)
        assert torch.equal(x[..., :1], without)
        assert torch.equal(x[..., 1], amplitude[:, None].expand(-1, 5))
        assert torch.equal(x[..., 2], phase[:, None].expand(-1, 5))
    assert torch.equal(told.support_y, plain.support_y)


def test_sinusoids_are_seeded_and_need_points():
    a, b = Sinusoids().sample(3, rng(1)), Sinusoids().sample(3, rng(1))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    with pytest.raises(UserError):
        Sinusoids(k_shot=0)


# -- generated glyphs -----------------------------------------------------------------------------------------------


def test_glyphs_are_the_same_every_time_and_touch_no_global_generator():
    before = torch.get_rng_state()
    again = glyphs._drawings.__wrapped__()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again, glyphs.load("all").images[:, :, 0])


def test_glyph_splits_are_disjoint_and_complete():
    pools = {split: glyphs.load(split) for split in ("train", "validation", "test")}
    assert {split: pool.n_classes for split, pool in pools.items()} == {
        "train": 400,
        "validation": 50,
        "test": 150,
    }
    names = [name for pool in pools.values() for name in pool.names]
    assert len(set(names)) == 600 == len(glyphs.load("all").names)
    assert all(pool.images.shape[1:] == (20, 1, 28, 28) for pool in pools.values())
    assert all("generated" in name for name in names)
    with pytest.raises(UserError, match="split must be"):
        glyphs.load("dev")


def test_glyphs_are_ink_on_paper():
    images = glyphs.load("all").images
    assert set(images.unique().tolist()) == {0, 255}
    ink = (images == 255).double().mean((1, 2, 3, 4))
    assert ink.min() > 0.03 and ink.max() < 0.5


def test_glyphs_are_neither_trivial_nor_hopeless():
    """One-shot, five-way, by the nearest support image in pixel space."""
    episode = FewShot(glyphs.load("test"), n_way=5, k_shot=1, n_query=5).sample(200, rng(1))
    distance = torch.cdist(episode.query_x.flatten(2), episode.support_x.flatten(2))
    accuracy = (distance.argmin(-1) == episode.query_y).double().mean()
    assert 0.4 < accuracy < 0.9
    assert accuracies(episode).mean() == pytest.approx(float(accuracy), abs=0.005)


def test_the_nearest_neighbour_takes_the_label_of_the_nearest_support_image():
    support = torch.tensor([0.0, 4.0, 10.0, 14.0]).view(1, 4, 1, 1, 1)
    query = torch.tensor([1.0, 9.0, 6.0]).view(1, 3, 1, 1, 1)
    episode = Episode(support, torch.tensor([[0, 0, 1, 1]]), query, torch.tensor([[0, 1, 1]]))
    assert nearest_neighbour(episode).tolist() == [[0, 1, 0]]
    assert accuracies(episode).tolist() == [pytest.approx(2 / 3)]
    assert nearest_neighbour(episode, lambda x: (x % 10).flatten(1)).tolist() == [[0, 0, 0]]
