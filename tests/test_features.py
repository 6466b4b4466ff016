"""From images to features: backbones, augmentation, sets of features on disk, what is measured over them without LEO."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from package_fixtures import files_below, noise_pool, one_line, rng

from mlbook import cli, experiments
from mlbook.data import FeaturePool, feature_sets, pool_files
from mlbook.errors import DataError, UserError
from mlbook.meta_learners import MAML, Backbone, LinearHead
from mlbook.meta_learners.base import MetaLearner, State
from mlbook.models import MLP, Conv4, WideResNet
from mlbook.models.conv4 import count
from mlbook.tasks import Augmented, FewShot, FewShotFeatures, LabelledImages
from mlbook.tasks.crops import jittered
from mlbook.training import feature_extraction as extraction
from mlbook.training.early_stopping import EarlyStopping
from mlbook.training.evaluation import evaluate
from mlbook.training.loop import train


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path))
    return tmp_path


def small_network(outputs=12):
    return WideResNet(outputs, depth=10, width=1, stride=2)


def clusters(n_classes=8, n=40, D=16, seed=0):
    """Features of classes that overlap a little."""
    g = rng(seed)
    centre = torch.randn(n_classes, 1, D, generator=g)
    return FeaturePool(centre + 0.7 * torch.randn(n_classes, n, D, generator=g))


# -- the network ----------------------------------------------------------------------------------------------------


def test_wrn_28_10_has_the_published_number_of_parameters():
    network = WideResNet(10, depth=28, width=10)
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in network.modules()) == 25
    assert round(count(network) / 1e6, 1) == 36.5  # Zagoruyko and Komodakis 2016, table 4


@pytest.mark.parametrize("size", [84, 64])
def test_features_are_averages_over_the_picture(size):
    network = WideResNet(5, depth=10, width=2, stride=2).eval()
    x = torch.rand(2, 3, size, size, generator=rng())
    found = network(x, features=True)
    assert found.shape == (2, 128)
    assert (found >= 0).all()
    torch.testing.assert_close(network(x), network.head(found))


def test_a_depth_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="6n"):
        WideResNet(5, depth=12)


# -- the backbone ---------------------------------------------------------------------------------------------------


def test_a_step_of_the_backbone_is_ordinary_training():
    learner = Backbone(small_network().double(), meta_lr=0.05, momentum=0.9, weight_decay=1e-2)
    state = learner.init(rng())
    plain = small_network().double()
    answer = plain.load_state_dict({**state.meta["params"], **state.meta["running"]}, strict=False)
    assert not answer.missing_keys  # torch adds the count of batches, which this network has no place for
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True)
    images = LabelledImages(noise_pool(channels=3, size=32))
    for n in range(3):
        episodes = images.sample(16, rng(n)).to(torch.float64)
        state, metrics = learner.step(state, episodes)
        plain.train()
        loss = F.cross_entropy(plain(episodes.support_x[:, 0]), episodes.support_y[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(metrics["loss"], loss.detach())
    ours, theirs = {**state.meta["params"], **state.meta["running"]}, plain.state_dict()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor)
    assert not any(p.requires_grad for p in state.meta["params"].values())


def test_features_of_a_trained_backbone_serve_new_classes():
    images = noise_pool(n_classes=20, channels=3, size=32)
    learner = Backbone(small_network(14), n_way=3, meta_lr=0.05)
    state, generator = learner.init(rng()), rng(1)
    for _ in train(
        learner, LabelledImages(images.subset(slice(0, 14))), meta_steps=80, meta_batch_size=28,
        state=state, generator=generator,
    ):  # fmt: skip
        pass
    tasks = FewShot(images.subset(slice(14, 20)), 3, 2, 3)
    assert evaluate(learner, state.meta, tasks, n_tasks=50, steps=0).value > 0.7


def test_features_do_not_depend_on_the_other_images():
    learner = Backbone(small_network())
    meta = learner.init(rng()).meta
    x = torch.rand(4, 3, 32, 32, generator=rng())
    torch.testing.assert_close(learner.features(meta, x)[:1], learner.features(meta, x[:1]))


def test_a_backbone_rounds_to_bfloat16_only_when_told():
    images = LabelledImages(noise_pool(channels=3, size=32)).sample(8, rng())
    exact, rounded = Backbone(small_network()), Backbone(small_network(), precision="bf16")
    state = exact.init(rng())
    other = rounded.init(rng())
    a, b = exact.step(state, images)[1]["loss"], rounded.step(other, images)[1]["loss"]
    assert a != b
    torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
    assert {p.dtype for p in other.meta["params"].values()} == {torch.float32}


@pytest.mark.parametrize("options", [{"precision": "fp8"}, {"model": MLP()}])
def test_a_backbone_that_cannot_be(options):
    with pytest.raises(UserError) as error:
        Backbone(**{"model": small_network(), **options})
    one_line(error.value)


# -- augmentation ---------------------------------------------------------------------------------------------------


def test_every_crop_is_a_part_of_its_image_or_of_its_mirror_image():
    images = LabelledImages(noise_pool(channels=3, size=12))
    tasks = Augmented(images, crop=9, jitter=0.0)
    found = tasks.sample(40, rng())
    whole = images.sample(40, rng())  # the same generator draws the same images first
    assert torch.equal(found.support_y, whole.support_y)
    places = []
    for cut, image in zip(found.support_x[:, 0], whole.support_x[:, 0], strict=True):
        parts = image.unfold(1, 9, 1).unfold(2, 9, 1)  # [3, 4, 4, 9, 9]
        same = [(parts == wanted[:, None, None]).all(-1).all(-1).all(0) for wanted in (cut, cut.flip(-1))]
        places.append((torch.stack(same).nonzero()[0]).tolist())
    assert {mirrored for mirrored, _, _ in places} == {0, 1}
    assert len({(row, column) for _, row, column in places}) > 8


def test_jitter_scales_brightness_contrast_and_saturation():
    x = torch.rand(2, 3, 5, 5, generator=rng()) * 0.2 + 0.4
    one = torch.ones(2, 1, 1, 1)
    torch.testing.assert_close(jittered(x, one, one, one), x)
    torch.testing.assert_close(jittered(x, 1.1 * one, one, one), 1.1 * x)
    flat = jittered(x, one, 0 * one, one)
    torch.testing.assert_close(flat, x.mean((1, 2, 3), keepdim=True).expand_as(x))
    grey = jittered(x, one, one, 0 * one)
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))


@pytest.mark.parametrize("options", [{"crop": 13}, {"crop": 0}, {"crop": 4, "jitter": 1.0}])
def test_an_augmentation_that_cannot_be(options):
    with pytest.raises(UserError) as error:
        Augmented(LabelledImages(noise_pool(size=12, channels=3)), **options)
    one_line(error.value)


# -- sets of features -----------------------------------------------------------------------------------------------


def small_set(uneven=False):
    g = rng(3)
    names = {"train": "abc", "validation": "de", "test": "fg"}
    return {
        split: {c: torch.randn(4 + (uneven and n), 6, generator=g) for n, c in enumerate(its)}
        for split, its in names.items()
    }


@pytest.mark.parametrize("uneven", [False, True])
def test_a_set_of_features_comes_back_as_it_was_saved(folder, uneven):
    splits = small_set(uneven)
    feature_sets.save("mine", splits, {"of": "nothing"})
    assert feature_sets.known() == ["mine"]
    for split, classes in splits.items():
        pool = feature_sets.load("mine", split)
        assert pool.names == tuple(classes)
        assert (pool.counts is not None) == uneven
        for row, (name, its) in enumerate(classes.items()):
            count = len(its)
            assert pool.counts is None or pool.counts[row] == count, name
            torch.testing.assert_close(pool.features[row, :count], its.half())


def test_damaged_features_are_found_out(folder):
    feature_sets.save("mine", small_set(), {"of": "nothing"})
    path = pool_files.split_path(feature_sets.stem("mine"), "test")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        feature_sets.load("mine", "test")
    path.write_bytes(content[:-8])
    with pytest.raises(DataError) as error:
        feature_sets.load("mine", "test")
    one_line(error.value)
    other = pool_files.split_path(feature_sets.stem("mine"), "train")
    path.write_bytes(other.read_bytes())
    with pytest.raises(DataError, match="not the test split"):
        feature_sets.load("mine", "test")


def test_features_that_are_not_there_say_how_they_are_made(folder, capsys):
    for name, how in (
        ("mini-wrn-10-4", "features extract"),
        ("mini-deepmind", "features import mini-deepmind"),
    ):
        with pytest.raises(DataError, match=how):
            feature_sets.load(name, "train")
    assert cli.main(["train", "leo-mini-wrn-10-4-5w1s"]) == 2
    assert "features extract" in one_line(capsys.readouterr().err)
    assert files_below(folder) == []


def embeddings(folder, change=lambda split, content: content):
    """The three pickles of the published features, small in number but of all classes."""
    g = np.random.default_rng(0)
    for split, short in feature_sets.PICKLES.items():
        names = feature_sets.PUBLISHED["mini-deepmind"].names[split]
        keys = [f"{n}{i}-{w}-{w}_{i}.JPEG" for n, w in enumerate(names) for i in range(3)]
        content = {"keys": keys, "embeddings": g.random((len(keys), 640), dtype=np.float32)}
        content["labels"] = [key.split("-")[1] for key in keys]
        with open(folder / f"{short}_embeddings.pkl", "wb") as file:
            pickle.dump(change(split, content), file, protocol=2)


def test_the_published_pickles_are_read(folder, tmp_path, capsys):
    source = tmp_path / "pickles"
    source.mkdir()
    embeddings(source)
    assert cli.main(["features", "import", "mini-deepmind", "--from", str(source)]) == 0
    pool = feature_sets.load("mini-deepmind", "test")
    assert pool.features.shape == (20, 3, 640)
    with open(source / "test_embeddings.pkl", "rb") as file:
        content = pickle.load(file)
    at = [k.split("-")[1] for k in content["keys"]].index(pool.names[7])
    torch.testing.assert_close(pool.features[7, 0], torch.from_numpy(content["embeddings"][at]).half())
    assert cli.main(["features", "verify", "mini-deepmind"]) == 0
    assert cli.main(["features", "list"]) == 0
    assert "mini-deepmind" in capsys.readouterr().out


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("it-ran",)


BAD = {
    "code": (lambda split, c: {**c, "more": Evil()}, "not a"),
    "no keys": (lambda split, c: {"embeddings": c["embeddings"]}, "no keys"),
    "short": (lambda split, c: {**c, "embeddings": c["embeddings"][:, :600]}, "640"),
    "fewer keys": (lambda split, c: {**c, "keys": c["keys"][:-1]}, "keys for"),
    "odd keys": (lambda split, c: {**c, "keys": ["x"] * len(c["keys"])}, "CLASS-FILE"),
    "ragged": (lambda split, c: {**c, "embeddings": [list(v[: 600 + i]) for i, v in enumerate(c["embeddings"])]}, "is not"),
    "no list of keys": (lambda split, c: {**c, "keys": 7}, "is not keys and embeddings"),
    "keys in another encoding": (lambda split, c: {**c, "keys": [k.encode() + b"\xff" for k in c["keys"]]}, "keys of text"),
    "too large": (lambda split, c: {**c, "embeddings": c["embeddings"] * np.float32(1e6)}, "beyond ±65,504"),
    "not finite": (lambda split, c: {**c, "embeddings": c["embeddings"] * np.nan}, "finite"),
    "fewer classes": (
        lambda split, c: {"keys": c["keys"][:6], "embeddings": c["embeddings"][:6]}, "2 classes",
    ),
    "other classes": (
        lambda split, c: {**c, "keys": [k.replace(c["labels"][0], "n00000000") for k in c["keys"]]},
        "n00000000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_pickles_leave_nothing(folder, tmp_path, kind, monkeypatch, capsys):
    change, says = BAD[kind]
    source = tmp_path / "pickles"
    source.mkdir()
    embeddings(source, change)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["features", "import", "mini-deepmind", "--from", str(source)]) == 2
    assert says in one_line(capsys.readouterr().err)
    assert not (folder / "features").exists() and not (tmp_path / "it-ran").exists()


def test_a_backbone_writes_the_features_of_its_images(folder, monkeypatch):
    config = experiments.config(experiments.get("backbone-mini-wrn-10-4"), "quick")
    monkeypatch.setattr(
        experiments.leo, "build_model", lambda *_: WideResNet(64, depth=10, width=1, stride=2)
    )
    pool = noise_pool(n_classes=5, n_examples=16, channels=3, size=32)
    pool = type(pool)(pool.images, names=tuple("abcde")).with_counts(torch.tensor([16, 16, 16, 16, 14]))
    monkeypatch.setattr(experiments.images.mini_imagenet, "load", lambda split: pool)
    learner = experiments.build_learner(config)
    meta = learner.init(rng()).meta
    extraction.extract(config, meta, "small")
    found = feature_sets.load("small", "validation")
    assert found.names == tuple("abcde") and found.counts.tolist() == [16, 16, 16, 16, 14]
    expected = learner.features(meta, pool.images[4, :14] / 255)
    torch.testing.assert_close(found.features[4, :14].float(), expected, rtol=2e-3, atol=1e-3)
    with pytest.raises(UserError, match="named"):
        extraction.extract(config, meta, "a/b")
    with pytest.raises(UserError, match="no backbone"):
        extraction.extract(experiments.config(experiments.get("maml-glyphs-5w1s"), "quick"), meta, "x")


# -- baselines over features ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["centroids", "zero"])
def test_the_linear_head_is_ordinary_gradient_descent(start):
    episodes = FewShotFeatures(clusters(), 3, 2, 5).sample(1, rng())
    x, y = episodes.support_x[0].double(), episodes.support_y[0]
    learner = LinearHead(3, start, scale=4.0, inner_lr=0.5)
    path = list(learner.path({"params": {"scale": torch.tensor(4.0).double()}}, x, y, 3))
    w = torch.zeros(3, 16, dtype=torch.float64)
    if start == "centroids":
        w = torch.stack([4 * F.normalize(x[y == n].mean(0), dim=0) for n in range(3)])
    for params in path:
        torch.testing.assert_close(params["w"], w)
        w = w.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(x @ w.t(), y), w)
        w = (w - 0.5 * slope).detach()


def test_a_step_on_the_support_set_helps_a_head_that_starts_from_zero():
    learner = LinearHead(3, "zero", inner_lr=5.0)
    meta = learner.init(rng()).meta
    found = evaluate(learner, meta, FewShotFeatures(clusters(), 3, 3, 10), n_tasks=50, steps=5)
    assert abs(found.mean[0] - 1 / 3) < 1e-6 < 0.3 < found.mean[5] - found.mean[0]


def test_a_baseline_has_no_meta_training():
    learner = LinearHead()
    with pytest.raises(UserError, match="no meta-training"):
        learner.step(learner.init(rng()), None)
    with pytest.raises(UserError, match="start"):
        LinearHead(start="random")


# -- experiments over features --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder_of_two_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLBOOK_DATA", str(folder))
    for name, size in (("mini-wrn-10-4", 256), ("mini-deepmind", 640)):
        pool = clusters(60, 30, size).features
        parts = {"train": range(25), "validation": range(25, 40), "test": range(40, 60)}
        splits = {split: {f"c{n}": pool[n] for n in its} for split, its in parts.items()}
        feature_sets.save(name, splits, {"of": "clusters"})
    patch.undo()
    return folder


@pytest.fixture
def two_sets(folder_of_two_sets, monkeypatch):
    """Stand-ins for the sets of features that the experiments name: overlapping classes. Nobody writes there."""
    monkeypatch.setenv("MLBOOK_DATA", str(folder_of_two_sets))


NAMES = [name for name, e in experiments.EXPERIMENTS.items() if "features" in e.options]


def test_names_of_the_experiments_over_features():
    assert {"leo-mini-5w1s", "leo-mini-5w5s", "leo-tiered-5w1s", "leo-mini-wrn-28-10-5w1s"} <= set(NAMES)
    for name in NAMES:
        experiment = experiments.get(name)
        assert experiment.test_query == 0 and experiment.presets["paper"].evaluation_tasks == 10_000
    tuned = experiments.get("leo-mini-5w1s").learner
    assert (tuned["dropout"], tuned["kl_weight"], tuned["meta_lr"]) == (0.307651, 0.756143, 2.739071e-4)


@pytest.mark.parametrize("name", [n for n in NAMES if "mini-wrn-10-4" in n] + ["leo-mini-5w1s"])
def test_every_row_over_features_trains_and_is_measured(two_sets, name, tmp_path, capsys):
    steps = [] if name.startswith(("centroid", "finetuning")) else ["--meta-steps", "3"]
    out = tmp_path / "run"
    status = cli.main(["train", name, "--tasks", "10", "--device", "cpu", "--out", str(out), *steps])
    assert status == 0, capsys.readouterr().err
    record = json.loads((out / "record.json").read_text())
    protocol = record["evaluation"]["protocol"]
    assert (
        protocol["queries"] == "all others"
        and protocol["features"] == experiments.get(name).options["features"][0]
    )
    assert ("early_stopping" in record) == (record["config"].get("validate_every") is not None)
    assert cli.main(["evaluate", str(out / "checkpoint.safetensors"), "--tasks", "5"]) == 0


def test_training_on_both_splits_sees_all_their_classes(two_sets):
    def of(name):
        return experiments.config(experiments.get(name), "quick")

    both = experiments.build_tasks(of("leo-mini-wrn-10-4-5w1s-trainval"), "train")
    one = experiments.build_tasks(of("leo-mini-wrn-10-4-5w1s"), "train")
    assert (len(both.tasks.pool.features), len(one.tasks.pool.features)) == (40, 25)


# -- early stopping -------------------------------------------------------------------------------------------------


class Known(MetaLearner):
    """A learner whose score is its parameter: queries below it are classified right."""

    inductive = True

    def path(self, meta, support_x, support_y, steps):
        for _ in range(steps + 1):
            yield meta["params"]

    def predict(self, params, x):
        right = (torch.arange(len(x)) < params["right"]).float()
        return torch.stack([right, 1 - right], 1)


class Zeros:
    def sample(self, n_tasks, generator):
        from mlbook.tasks import Episode

        x = torch.zeros(n_tasks, 10, 1)
        return Episode(x, x[..., 0].long(), x, x[..., 0].long())


def test_the_best_state_is_kept_and_survives_a_resume():
    def at(step, right):
        return State({"params": {"right": torch.tensor(float(right))}}, None, step)

    def fresh():
        return EarlyStopping(Known(), Zeros(), every=10, last=35, inner_steps=0, n_tasks=4)

    best = fresh()
    for step, right in ((5, 9), (10, 3), (20, 7)):  # no look at step 5
        best(at(step, right))
    again = fresh()
    again.restore({k: v.clone() for k, v in best.tensors().items()}, torch.device("cpu"))
    for step, right in ((30, 7), (35, 6)):
        best(at(step, right))
        again(at(step, right))
    assert best.meta["params"]["right"] == again.meta["params"]["right"] == 7
    assert best.record() == again.record()
    assert best.record() == {
        "meta_step": 20,
        "accuracy": pytest.approx(0.7),
        "tasks": 4,
        "looks": [
            [10, pytest.approx(0.3)],
            [20, pytest.approx(0.7)],
            [30, pytest.approx(0.7)],
            [35, pytest.approx(0.6)],
        ],
    }


def with_options(experiment, **options):
    """The experiment with other options of its family."""
    return replace(experiment, options={**experiment.options, **options})


@pytest.mark.parametrize("last", [2, 3, 4])
def test_an_interrupted_run_with_early_stopping_ends_in_the_same_result(
    two_sets, tmp_path, monkeypatch, last
):
    from mlbook.data.tensor_file import load_tensors
    from mlbook.training import runner as running

    changed = with_options(experiments.get("leo-mini-wrn-10-4-5w1s"), validate_every=2)
    monkeypatch.setitem(experiments.EXPERIMENTS, changed.name, changed)
    options = {"meta_steps": 5, "evaluation_tasks": 5, "device": "cpu"}
    whole = running.run(changed.name, out=tmp_path / "a", **options)
    calls = []

    def stop(self, state, look=EarlyStopping.__call__):
        calls.append(state.meta_step)
        if len(calls) == last:
            raise KeyboardInterrupt
        look(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(EarlyStopping, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            running.run(changed.name, out=tmp_path / "b", checkpoint_seconds=0, **options)
    resumed = running.run(changed.name, out=tmp_path / "b", resume=True, **options)
    assert resumed["early_stopping"] == whole["early_stopping"]
    assert [step for step, _ in whole["early_stopping"]["looks"]] == [2, 4, 5]
    a, b = (load_tensors(tmp_path / x / "checkpoint.safetensors")[0] for x in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_meta_sgd_over_features_is_maml_with_learned_rates(two_sets):
    learner = experiments.build_learner(
        experiments.config(experiments.get("metasgd-features-mini-wrn-10-4-5w1s"), "paper")
    )
    assert isinstance(learner, MAML) and learner.learn_inner_lr
    assert count(learner.model) == 256 * 5 + 5
    assert not isinstance(learner.model, Conv4)


def test_one_command_goes_from_pictures_to_leo(folder, tmp_path, monkeypatch, capsys):
    import importlib.util

    from package_fixtures import ROOT

    spec = importlib.util.spec_from_file_location("train_list", ROOT / "tools" / "train_list.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    names = ["backbone-mini-wrn-10-4", "leo-mini-wrn-10-4-5w1s"]
    for name in names:
        experiment = experiments.get(name)
        short = {"quick": replace(experiment.presets["quick"], meta_steps=2, meta_batch_size=4)}
        crop = {"crop": 24} if "crop" in experiment.options else {}
        changed = with_options(replace(experiment, presets=short), **crop)
        monkeypatch.setitem(experiments.EXPERIMENTS, name, changed)
    pool = noise_pool(n_classes=6, n_examples=20, channels=3, size=32)
    pool = type(pool)(pool.images, names=tuple("abcdef"))
    monkeypatch.setattr(experiments.images.mini_imagenet, "load", lambda split: pool)
    options = [
        "--preset",
        "quick",
        "--device",
        "cpu",
        "--tasks",
        "4",
        "--minutes",
        "5",
        "--out",
        str(tmp_path),
    ]
    assert tool.main([*names, *options]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == dict.fromkeys(names, "finished")
    assert feature_sets.load("mini-wrn-10-4", "test").features.shape == (6, 20, 256)
