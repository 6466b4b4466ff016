"""Examples of any shape as pools and as imported sets: images, signals and tables, drawn as they are, trained by name."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from package_fixtures import files_below, one_line, rng
from safetensors.numpy import save_file

from mlbook import cli, experiments
from mlbook.data import ClassPool, image_folder, own_sets, pool_files, tensor_sets
from mlbook.errors import DataError, UserError
from mlbook.experiments.imported import OF_ARRAYS
from mlbook.models import Conv1d4, Conv4
from mlbook.models.batch_norm import batch_statistics
from mlbook.tasks import FewShot, LabelledImages

SHAPES = {"table": (7,), "signal": (2, 30), "image": (3, 20, 16)}


def examples(shape, n_classes=12, n=6, seed=0):
    """Classes that can be told apart: x [n_classes·n, ...] float32, in mixed order, and labels."""
    g = np.random.default_rng(seed)
    centre = g.normal(0, 3, (n_classes, *shape))
    labels = g.permutation(np.repeat(np.arange(n_classes) * 10, n))
    return (centre[labels // 10] + g.normal(0, 0.3, (len(labels), *shape))).astype(np.float32), labels


# -- pools ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("form", ["tensor", "array", "list"])
def test_real_numbers_are_drawn_as_they_are(kind, form):
    x, labels = examples(SHAPES[kind])
    given = {"tensor": torch.from_numpy(x), "array": x.astype(np.float64), "list": x.tolist()}[form]
    names = labels if form == "array" else torch.from_numpy(labels) if form == "tensor" else labels.tolist()
    pool = ClassPool.from_tensors(given, names)
    assert (
        pool.images.shape == (12, 6, *SHAPES[kind])
        and pool.images.dtype == torch.float32
        and pool.counts is None
    )
    assert pool.names == tuple(str(10 * c) for c in range(12))
    episode = FewShot(pool, 5, 2, 3).sample(4, rng())
    assert episode.support_x.shape == (4, 10, *SHAPES[kind]) and episode.query_x.shape == (
        4,
        15,
        *SHAPES[kind],
    )
    rows = {tuple(row.flatten()) for row in x}
    drawn = [tuple(row.flatten().tolist()) for row in episode.support_x.flatten(0, 1).numpy()]
    assert all(row in rows for row in drawn)
    one = LabelledImages(pool).sample(50, rng())
    assert one.support_x.shape == (50, 1, *SHAPES[kind])
    for row, label in zip(one.support_x[:, 0].numpy(), one.support_y[:, 0].tolist(), strict=True):
        assert any(np.array_equal(row, other) for other in x[labels == 10 * label])


def test_the_same_numbers_are_drawn_whatever_the_type():
    """A pool of uint8 and one of the same numbers from 0 to 1 give the same episodes from one generator, to the bit."""
    g = np.random.default_rng(1)
    x = g.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    labels = np.concatenate([np.repeat(np.arange(11), 5), np.arange(5)])  # classes of five and six
    whole, real = ClassPool.from_tensors(x, labels), ClassPool.from_tensors(torch.from_numpy(x) / 255, labels)
    assert (
        whole.images.dtype == torch.uint8
        and whole.counts.tolist() == real.counts.tolist() == [6] * 5 + [5] * 6
    )
    for tasks in (lambda pool: FewShot(pool, 5, 1, 2), LabelledImages):
        for one, other in zip(tasks(whole).sample(20, rng()), tasks(real).sample(20, rng()), strict=True):
            assert torch.equal(one, other)


def test_labels_may_be_texts_and_classes_of_unequal_size_are_padded():
    x = torch.arange(14.0).view(7, 2)
    pool = ClassPool.from_tensors(x, ["owl", "crow", "owl", "crow", "owl", "é", "é"])
    assert pool.names == ("crow", "owl", "é") and pool.counts.tolist() == [2, 3, 2]
    assert pool.images[1].tolist() == [[0, 1], [4, 5], [8, 9]] and not pool.images[0, 2].any()
    assert FewShot(pool, 3, 1, 1).sample(100, rng()).support_x.shape == (100, 3, 2)
    assert ClassPool.from_tensors(x, np.array([b"a", b"a", b"b", b"b", b"b", b"c", b"c"])).names == (
        "a",
        "b",
        "c",
    )


def test_splits_by_label_and_by_share():
    x, labels = examples((4,))
    pools = ClassPool.from_tensors(
        x, labels, {"train": range(0, 80, 10), "test": [80, 90], "validation": [110, 100]}
    )
    assert {s: p.names for s, p in pools.items()} == {
        "train": tuple(str(10 * c) for c in range(8)), "test": ("80", "90"), "validation": ("100", "110"),
    }  # fmt: skip
    assert [pools[split].split for split in pools] == ["train", "test", "validation"]
    with pytest.raises(UserError, match="3-way episodes need 3 classes; the meta-test split has 2"):
        FewShot(pools["test"], 3, 1, 1)
    shares = ClassPool.from_tensors(x, labels, (0.5, 0.25, 0.25))
    assert [p.n_classes for p in shares.values()] == [6, 3, 3]
    assert len(set().union(*(p.names for p in shares.values()))) == 12
    again = ClassPool.from_tensors(x, labels, (0.5, 0.25, 0.25))
    assert [p.names for p in again.values()] == [p.names for p in shares.values()]


def zeros(*shape):
    return torch.zeros(*shape)


FOUR = [0, 0, 1, 1]
BAD = {
    "lengths": (zeros(4, 2), [0, 0, 1], None, "4 examples and 3 labels"),
    "nothing": (zeros(0, 2), [], None, "no examples"),
    "nan": (
        torch.tensor([[0.0], [1.0], [float("nan")], [2.0]]),
        FOUR,
        None,
        "1 of 4 examples hold numbers that are not finite",
    ),
    "infinite": (np.array([[0.0], [1e300], [0.0], [2.0]]), FOUR, None, "the first is number 1"),
    "one example": (zeros(4, 2), [0, 0, 0, 7], None, "class 7 has 1 example"),
    "one text": (zeros(3, 2), ["a", "b", "b"], None, "class a has 1 example"),
    "whole numbers": (zeros(4, 2).long(), FOUR, None, "x holds int64"),
    "truth values": (np.zeros((4, 2), bool), FOUR, None, "x holds bool"),
    "complex": (torch.zeros(4, 2, dtype=torch.complex64), FOUR, None, "x holds complex64"),
    "texts": (np.array([["a"]] * 4), FOUR, None, "x is not an array of numbers"),
    "ragged": ([[1.0], [1.0, 2.0], [1.0], [1.0]], FOUR, None, "x is not an array of numbers"),
    "flat": (zeros(4), FOUR, None, r"x has the shape \[4\]"),
    "empty examples": (zeros(4, 0), FOUR, None, r"x has the shape \[4, 0\]"),
    "bytes that are no images": (zeros(4, 3).to(torch.uint8), FOUR, None, "uint8 is for images"),
    "labels of two dimensions": (
        zeros(4, 2),
        [[0], [0], [1], [1]],
        None,
        r"labels must have the shape \[n\]",
    ),
    "real labels": (
        zeros(4, 2),
        [0.0, 0.0, 1.0, 1.0],
        None,
        "labels must be whole numbers or texts, not float64",
    ),
    "labels of two kinds": (zeros(4, 2), [0, 0, "a", "a"], None, "not both"),
    "a label in two splits": (
        zeros(4, 2),
        FOUR,
        {"train": [0, 1], "test": [1]},
        "class 1 is in the splits train and test",
    ),
    "a label in no split": (zeros(4, 2), FOUR, {"train": [0]}, "class 1 is in no split"),
    "an unknown label": (zeros(4, 2), FOUR, {"train": [0, 1, 2]}, "names class 2, which has no examples"),
    "an unknown split": (zeros(4, 2), FOUR, {"train": [0], "val": [1]}, "not 'val'"),
    "an empty split": (zeros(4, 2), FOUR, {"train": [0, 1], "test": []}, "the split test has no classes"),
    "two shares": (zeros(4, 2), FOUR, (0.5, 0.5), "three shares"),
    "shares beyond one": (zeros(4, 2), FOUR, (0.5, 0.5, 0.5), "three shares"),
    "too few for the shares": (zeros(4, 2), FOUR, (0.5, 0.0, 0.5), "the split validation has no classes"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_makes_no_pool_is_one_sentence(bad):
    x, labels, splits, says = BAD[bad]
    with pytest.raises(UserError, match=says) as refused:
        ClassPool.from_tensors(x, labels, splits)
    one_line(refused.value)


def test_only_square_images_are_turned_and_only_whole_numbers_inverted():
    pool = ClassPool(torch.rand(3, 4, 1, 6, 6), "per_task")
    assert FewShot(pool, 2, 1, 1).sample(2, rng()).support_x.shape == (2, 2, 1, 6, 6)
    with pytest.raises(UserError, match="square"):
        ClassPool(torch.rand(3, 4, 6, 6), "per_task")
    with pytest.raises(UserError, match="negative"):
        pool.inverted()


# -- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 15, 16, 100, 129])
def test_a_network_for_signals_of_any_length(length):
    model = Conv1d4(5, channels=3, size=length, filters=8)
    x, collected = torch.randn(6, 3, length, generator=rng()), []
    logits = model(x, collect=collected)
    assert logits.shape == (6, 5) and len(collected) == 4
    torch.testing.assert_close(model(x, collected), logits)
    mean, variance = batch_statistics(model.convs[0](x))
    torch.testing.assert_close(collected[0].mean, mean)
    assert collected[0].variance.shape == variance.shape == (8,)


def test_a_network_for_signals_is_drawn_by_its_generator():
    state = torch.get_rng_state()
    models = [Conv1d4(5, channels=3, size=20) for _ in range(2)]
    torch.set_rng_state(state)
    for model in models:
        model.reset_parameters(rng(3))
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_conv4_takes_images_that_are_not_square():
    model = Conv4(5, channels=3, size=(20, 33), downsample="max_pool", filters=8)
    assert model(torch.zeros(2, 3, 20, 33)).shape == (2, 5) and model.head.in_features == 8 * 1 * 2
    with pytest.raises(UserError, match="at least 16"):
        Conv4(5, size=(40, 15), downsample="max_pool")


# -- from the command line ------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))
    return tmp_path


def saved(path, **arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    return path


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("kind", SHAPES)
def test_arrays_are_imported_listed_verified_and_trained(data, capsys, kind, ending):
    x, y = examples(SHAPES[kind])
    path = saved(data / f"mine.{ending}", x=x, y=y, other=np.zeros(3))
    command = ["data", "import-tensors", "mine", "--from", str(path)]
    assert cli.main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"mine: {kind}s of" in said and "float32, taken as they are; classes shuffled and cut" in said
    assert "nothing was written" in said and not (data / "data").exists()
    assert cli.main(command) == 0
    proposed = capsys.readouterr().out.split("python -m mlbook ")[-1].split()
    assert proposed == ["train", "maml-mine-2w1s"]
    assert len(files_below(data / "data")) == 3
    shape = list(SHAPES[kind])
    assert cli.main(["data", "list"]) == 0 and f"imported arrays of shape {shape}" in capsys.readouterr().out
    assert (
        cli.main(["data", "verify", "mine"]) == 0
        and "classes train 8, validation 2, test 2" in capsys.readouterr().out
    )
    assert cli.main(["experiments"]) == 0
    assert (
        f"METHOD-mine-NwKs with any N and K; METHOD is one of {', '.join(OF_ARRAYS)}\n"
        in capsys.readouterr().out
    )
    run = str(data / "run")
    options = ["--meta-steps", "5", "--tasks", "30", "--device", "cpu", "--out", run]
    assert cli.main([*proposed, *options]) == 0
    record = json.loads((data / "run" / "record.json").read_text())
    assert record["config"]["shape"] == shape and "image" not in record["config"]
    assert record["evaluation"]["accuracy"] > 0.7  # two of two classes that lie far apart
    capsys.readouterr()
    assert (
        cli.main(["evaluate", f"{run}/checkpoint.safetensors", "--tasks", "30", "--device", "cpu", "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["accuracy"] == record["evaluation"]["accuracy"]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("method", OF_ARRAYS)
def test_every_method_steps_on_arrays(data, kind, method):
    x, y = examples(SHAPES[kind])
    tensor_sets.import_from("mine", saved(data / "mine.npz", x=x, y=y))
    names = [f"{method}-mine-2w2s"] + ([f"{method}-mine-2w2s-transductive"] if method == "reptile" else [])
    for name in names:
        config = experiments.config(name, "quick", meta_steps=2)
        setup = experiments.setup(config)
        state = setup.learner.init(rng())
        state, metrics = setup.learner.step(state, setup.tasks("train").sample(2, rng(1)))
        assert torch.isfinite(metrics["loss"])
        episode = setup.tasks("test").sample(1, rng(2)).task(0)
        options = {"order": episode.order} if hasattr(episode, "order") else {}
        *_, last = setup.learner.path(state.meta, episode.support_x, episode.support_y, 1, **options)
        assert setup.learner.predict(last, episode.query_x).shape == (len(episode.query_y), 2)
    for other in ("nearest", "finetuning"):
        with pytest.raises(UserError, match="no experiment is named"):
            experiments.get(f"{other}-mine-2w2s")


def test_images_of_bytes_are_drawn_from_0_to_1(data):
    g = np.random.default_rng(0)
    x, y = g.integers(0, 256, (48, 3, 24, 17), dtype=np.uint8), np.repeat(np.arange(12), 4)
    tensor_sets.import_from("mine", saved(data / "mine.npz", x=x, y=y))
    pool = own_sets.load("mine", "test")
    episode = FewShot(pool, 2, 1, 1).sample(1, rng())
    assert 0.99 < episode.support_x.max() <= 1
    for name, images in zip(pool.names, pool.images, strict=True):
        assert np.array_equal(images.numpy(), x[y == int(name)])


@pytest.mark.parametrize("form", [np.str_, np.bytes_, "number"])
def test_the_file_may_say_the_splits(data, form):
    x, y = examples((5,), n_classes=7)
    names = np.array(["train", "train", "train", "validation", "validation", "test", "test"])[y // 10]
    split = (
        np.array([("train", "validation", "test").index(n) for n in names])
        if form == "number"
        else names.astype(form)
    )
    text = np.array([f"bird {label}" for label in y])
    assert tensor_sets.import_from("mine", saved(data / "mine.npz", x=x, y=text, split=split)) == {
        "train": 3, "validation": 2, "test": 2,
    }  # fmt: skip
    assert own_sets.load("mine", "test").names == ("bird 50", "bird 60")
    found = tensor_sets.read("mine", data / "mine.npz")
    assert "the splits are those of the file" in found.lines()[0]


class Runs:
    def __reduce__(self):
        return (os.system, ("touch was_run",))


GOOD = dict(zip("xy", examples((4,)), strict=True))


def npz(path, **arrays):
    return saved(path / "mine.npz", **{**GOOD, **arrays})


def truncated(path):
    file = npz(path)
    file.write_bytes(file.read_bytes()[:300])
    return file, "cannot be read"


def flipped(path):
    file = npz(path)
    content = bytearray(file.read_bytes())
    content[400] ^= 1
    file.write_bytes(content)
    return file, "cannot be read"


def code(path):
    with zipfile.ZipFile(path / "mine.npz", "w") as archive:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.array([Runs()], dtype=object), allow_pickle=True)
        archive.writestr("x.npy", buffer.getvalue())
        archive.writestr("y.npy", buffer.getvalue())
    return path / "mine.npz", "it holds Python objects, which could run code"


def a_pickle(path):
    (path / "mine.npz").write_bytes(pickle.dumps(Runs()))
    return path / "mine.npz", "it holds Python objects, which could run code"


def a_single_array(path):
    with open(path / "mine.npz", "wb") as file:
        np.save(file, np.zeros(3))
    return path / "mine.npz", "cannot be read"


def half_a_safetensors(path):
    file = saved(path / "mine.safetensors", **GOOD)
    file.write_bytes(file.read_bytes()[:-10])
    return file, "cannot be read"


REFUSED = {
    truncated.__name__: truncated, flipped.__name__: flipped, code.__name__: code, a_pickle.__name__: a_pickle,
    a_single_array.__name__: a_single_array, half_a_safetensors.__name__: half_a_safetensors,
    "missing": lambda p: (p / "nowhere.npz", "does not exist"),
    "a folder": lambda p: ((p / "folder.npz").mkdir() or p / "folder.npz", "does not exist or is no file"),
    "another ending": lambda p: (p / "mine.csv", "from a .npz or .safetensors file"),
    "no x": lambda p: (saved(p / "mine.npz", images=GOOD["x"], y=GOOD["y"]), "has no array x (it has: images, y)"),
    "no y": lambda p: (saved(p / "mine.safetensors", x=GOOD["x"]), "has no array y"),
    "lengths": lambda p: (npz(p, y=GOOD["y"][1:]), "72 examples and 71 labels"),
    "nan": lambda p: (npz(p, x=np.full_like(GOOD["x"], np.nan)), "not finite"),
    "five dimensions": lambda p: (npz(p, x=np.zeros((72, 2, 2, 2, 2))), "it must be [n, C, H, W]"),
    "channels last": lambda p: (npz(p, x=np.zeros((72, 20, 20, 3))), "with the channels last"),
    "small images": lambda p: (npz(p, x=np.zeros((72, 3, 20, 8))), "need at least 16×16"),
    "few classes": lambda p: (npz(p, y=GOOD["y"] // 40), "the split validation has no classes"),
    "one class in a split": lambda p: (npz(p, y=GOOD["y"] // 20), "gives 1 meta-validation classes"),
    "a split of another length": lambda p: (npz(p, split=np.array(["train"])), "both must be [n]"),
    "an unknown split": lambda p: (npz(p, split=np.array(["dev"] * 72)), "not 'dev'"),
    "a number beyond": lambda p: (npz(p, split=np.full(72, 3)), "split must be 0, 1 or 2"),
    "real splits": lambda p: (npz(p, split=np.zeros(72)), "split must be texts or whole numbers"),
    "a class in two splits": lambda p: (npz(p, split=np.arange(72) % 3), "is in the splits train and"),
    "no test": lambda p: (npz(p, split=GOOD["y"] // 70), "gives 0 meta-test classes"),
    "one split": lambda p: (npz(p, split=np.full(72, 2)), "gives 0 meta-train classes"),
}  # fmt: skip


@pytest.mark.parametrize("damage", REFUSED)
def test_what_is_no_set_of_arrays_is_refused_with_one_line_and_leaves_nothing(
    data, damage, capsys, monkeypatch
):
    monkeypatch.chdir(data)
    source, says = REFUSED[damage](data)
    assert cli.main(["data", "import-tensors", "mine", "--from", str(source)]) == 2
    line = one_line(capsys.readouterr().err)
    assert says in line, line
    assert not (data / "data").exists() and not (data / "was_run").exists()


def test_a_name_is_one_set(data):
    x, y = examples((4,))
    tensor_sets.import_from("mine", saved(data / "mine.npz", x=x, y=y))
    assert own_sets.imported() == ["mine"] and own_sets.array_shape("mine") == (4,)
    with pytest.raises(UserError, match="the name must be"):
        tensor_sets.import_from("mini", data / "mine.npz")
    path = pool_files.split_path(image_folder.folder() / "mine", "test")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        own_sets.load("mine", "test")
