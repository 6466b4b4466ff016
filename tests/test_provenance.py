"""Checkpoints know the data that they were trained on: other pictures under the same name are one sentence."""

import json
from dataclasses import replace

import pytest
import torch
from package_fixtures import files_below, one_line, rng

from mlbook import experiments, results
from mlbook.cli import main
from mlbook.data import feature_sets, image_folder, mini_imagenet, omniglot, pool_files, tensor_file
from mlbook.data.tensor_file import load_tensors, save_tensors
from mlbook.errors import DataError
from mlbook.experiments import provenance
from mlbook.models import WideResNet
from mlbook.training import feature_extraction, run_folder
from mlbook.training.runner import load_checkpoint, trained_on


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder and an empty data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))
    return tmp_path


def noise(shape, seed):
    return torch.randint(0, 256, shape, generator=rng(seed), dtype=torch.uint8)


def store_images(name, *, seed=0, size=20, channels=1, classes=(4, 2, 3)):
    """A set of imported pictures, without files of pictures to read it from."""
    splits = {
        split: {
            f"{split}{c}": noise((6, channels, size, size), 100 * seed + 10 * n + c) for c in range(count)
        }
        for n, (split, count) in enumerate(zip(pool_files.SPLITS, classes, strict=True))
    }
    about = {"channels": channels, "size": size, "train_classes": classes[0], "fewest": 6}
    pool_files.save(image_folder.folder() / name, splits, {"about": json.dumps(about)})


def store_mini(*, seed=0, size=84, examples=7):
    splits = {
        split: {w: noise((examples, 3, size, size), 100 * seed + 10 * n + c) for c, w in enumerate(names[:6])}
        for n, (split, names) in enumerate(mini_imagenet.CLASSES.items())
    }
    pool_files.save(mini_imagenet.stem(), splits, {"duplicates": "[]"})


def store_features(name="mini-wrn-10-4", *, seed=0, width=256, **about):
    splits = {
        split: {
            f"{split}{c}": torch.randn(20, width, generator=rng(100 * seed + 10 * n + c)) for c in range(6)
        }
        for n, split in enumerate(pool_files.SPLITS)
    }
    feature_sets.save(name, splits, {"of": "noise", **about})


def train(name, *options, out="run"):
    arguments = [
        "train",
        name,
        "--tasks",
        "2",
        "--meta-steps",
        "2",
        "--device",
        "cpu",
        "--out",
        out,
        *options,
    ]
    return main(arguments)


def evaluate(path="run/checkpoint.safetensors"):
    return main(["evaluate", path, "--tasks", "2", "--device", "cpu"])


def refused(status, capsys):
    out, err = capsys.readouterr()
    assert status == 2 and out == ""
    return one_line(err)


# -- what the files say ---------------------------------------------------------------------------------------------

KINDS = {
    "maml-birds-2w1s": lambda **o: store_images("birds", **o),
    "reptile-birds-2w1s": lambda **o: store_images("birds", **o),
    "maml-mini-5w1s": store_mini,
    "metasgd-features-mini-wrn-10-4-5w1s": store_features,
}


@pytest.mark.parametrize("name", KINDS)
def test_checkpoint_state_and_record_name_the_data(place, name, capsys):
    KINDS[name]()
    assert train(name) == 0
    record = json.loads((place / "run/record.json").read_text())
    assert set(record["data"]) == set(pool_files.SPLITS)
    assert [len(digest) for digest in set(record["data"].values())] == [64, 64, 64]
    assert trained_on(place / "run/checkpoint.safetensors") == record["data"]
    assert trained_on(run_folder.resume_file(place / "run")) == record["data"]
    assert "data" not in record["config"]  # run ids stay as they are
    assert evaluate() == 0


@pytest.mark.parametrize("name", ["maml-sinusoid-5shot", "maml-glyphs-5w1s", "leo-plane-3w1s"])
def test_generated_tasks_have_no_fingerprints(place, name):
    assert train(name) == 0
    assert "data" not in json.loads((place / "run/record.json").read_text())
    assert trained_on(place / "run/checkpoint.safetensors") == {}
    assert evaluate() == 0


def test_fingerprints_are_read_without_the_pictures(place, monkeypatch):
    store_images("birds")
    store_features()
    (place / "data/omniglot.safetensors").write_bytes(b"never read")

    def never(*_):
        raise AssertionError("the pictures were read")

    monkeypatch.setattr(pool_files, "load_tensors", never)
    monkeypatch.setattr(tensor_file, "fingerprint", never)
    config = experiments.config("maml-birds-2w1s", "quick")
    assert set(provenance.digests(config)) == set(pool_files.SPLITS)
    assert provenance.digests(experiments.config("leo-mini-wrn-10-4-5w1s", "quick"))
    found = provenance.digests(experiments.config("maml-omniglot-5w1s", "quick"))
    assert set(found.values()) == {omniglot.PIXELS_SHA256}


def test_what_came_before_the_fingerprints_has_none():
    shipped = sorted(results.PRETRAINED.glob("*.safetensors"))
    assert shipped and all(isinstance(trained_on(path), dict) for path in shipped)
    config, _ = load_checkpoint(shipped[0])
    assert provenance.check(config, {}, "x") is None


# -- other data under the same name ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maml-birds-2w1s", "reptile-birds-2w1s", "nearest-birds-2w1s"])
def test_a_checkpoint_of_other_pictures_is_refused(place, name, capsys):
    store_images("birds")
    assert train(name) == 0
    before = {file: (place / "run" / file).read_bytes() for file in files_below(place / "run")}
    capsys.readouterr()
    store_images("birds", seed=1)
    line = refused(evaluate(), capsys)
    assert "birds" in line and "meta-train classes" in line and "import" in line
    line = refused(train(name, "--resume"), capsys)
    assert "birds" in line and "another --out" in line
    assert {file: (place / "run" / file).read_bytes() for file in files_below(place / "run")} == before
    store_images("birds")  # the pictures of that time
    assert evaluate() == 0 and train(name, "--resume") == 0


OTHERS = {
    "another size": {"size": 24},
    "other colours": {"channels": 3},
    "more classes": {"classes": (5, 2, 3)},
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("fingerprints", [True, False])
def test_pictures_of_another_form_are_one_sentence(place, other, fingerprints, capsys):
    store_images("birds")
    assert train("maml-birds-2w1s") == 0
    path = place / "run/checkpoint.safetensors"
    if not fingerprints:
        forget(path)
    capsys.readouterr()
    store_images("birds", **OTHERS[other])
    line = refused(evaluate(), capsys)
    assert "birds" in line and "train anew" in line
    with pytest.raises(DataError, match="--size 20 --grey"):
        experiments.setup(load_checkpoint(path)[0]).tasks("test")


def forget(path):
    """The file as it was written before there were fingerprints."""
    tensors, header = load_tensors(path)
    save_tensors(path, tensors, {key: value for key, value in header.items() if key != "data"})


def test_files_without_fingerprints_go_on_as_before(place):
    store_images("birds")
    assert train("maml-birds-2w1s") == 0
    forget(place / "run/checkpoint.safetensors")
    forget(place / "run/resume/state.safetensors")
    store_images("birds", seed=1)
    assert evaluate() == 0
    assert train("maml-birds-2w1s", "--resume") == 0


@pytest.mark.parametrize("name", ["maml-birds-2w1s", "reptile-birds-2w1s"])
def test_pictures_that_are_not_here_are_missed_by_what_needs_them_only(place, name, capsys):
    store_images("birds")
    assert train(name) == 0
    capsys.readouterr()
    for path in image_folder.folder().iterdir():
        path.unlink()
    config, meta = load_checkpoint(place / "run/checkpoint.safetensors")
    learner = experiments.setup(config).learner  # the configuration alone is enough
    assert learner.init(rng()).meta.keys() == meta.keys()
    line = refused(evaluate(), capsys)
    assert "not here" in line and "import-images birds --from FOLDER --size 20 --grey" in line
    assert "no experiment is named" in refused(train(name, out="another"), capsys)
    assert not (place / "another").exists()


def test_miniimagenet_of_another_resizing_is_evaluated_with_a_note_and_not_trained_on(place, capsys):
    store_mini()
    assert train("maml-mini-5w1s") == 0
    capsys.readouterr()
    store_mini(seed=1)
    assert evaluate() == 0
    assert "another resizing" in one_line(
        "\n".join(line for line in capsys.readouterr().err.splitlines() if line.startswith("mlbook:"))
    )
    assert "another resizing" not in refused(train("maml-mini-5w1s", "--resume"), capsys)


def test_other_features_are_refused_and_the_same_ones_made_again_are_not(place, capsys):
    name = "metasgd-features-mini-wrn-10-4-5w1s"
    source = {"from": {split: split + "-0123" for split in pool_files.SPLITS}}
    store_features(**source)
    assert train(name) == 0
    store_features(seed=1, **source)  # the same backbone rounded differently
    assert evaluate() == 0 and train(name, "--resume") == 0
    capsys.readouterr()
    store_features(seed=1)
    line = refused(evaluate(), capsys)
    assert "other features mini-wrn-10-4" in line and "backbone" in line
    assert "other features" in refused(train(name, "--resume"), capsys)
    store_features(width=64)
    assert "64 numbers" in refused(train(name, out="another"), capsys)
    assert not (place / "another").exists()


def test_extracted_features_are_known_by_weights_and_pictures(place, monkeypatch):
    monkeypatch.setattr(
        experiments.leo, "build_model", lambda *_: WideResNet(64, depth=10, width=1, stride=2)
    )
    store_mini(size=16)
    config = experiments.config("backbone-mini-wrn-10-4", "quick")
    learner = experiments.build_learner(config)

    def extracted(seed):
        feature_extraction.extract(config, learner.init(rng(seed)).meta, "mine")
        return feature_sets.digests("mine")

    first = extracted(0)
    assert len(set(first.values())) == 3 and extracted(0) == first
    assert set(extracted(1).values()).isdisjoint(first.values())
    store_mini(size=16, seed=1)
    assert set(extracted(0).values()).isdisjoint(first.values())


@pytest.mark.parametrize("damage", ["no json", "[1]", "3"])
def test_fingerprints_that_cannot_be_read_are_one_sentence(place, damage, capsys):
    assert train("maml-sinusoid-5shot") == 0
    capsys.readouterr()
    path = place / "run/checkpoint.safetensors"
    tensors, header = load_tensors(path)
    save_tensors(path, tensors, {**header, "data": damage})
    assert "damaged" in refused(evaluate(), capsys)


def test_a_run_that_trains_for_others_gives_them_its_data(place, monkeypatch):
    store_mini()
    name = "nearest-mini-5w1s"
    few = {"quick": replace(experiments.get(name).presets["quick"], meta_batch_size=4)}
    monkeypatch.setitem(experiments.EXPERIMENTS, name, replace(experiments.get(name), presets=few))
    monkeypatch.setitem(
        experiments.EXPERIMENTS,
        name,
        replace(experiments.get(name), test_query=3, shares_training_with=("finetuning-mini-5w1s",)),
    )
    other = experiments.get("finetuning-mini-5w1s")
    monkeypatch.setitem(experiments.EXPERIMENTS, other.name, replace(other, test_query=3))
    assert train(name) == 0
    records = [json.loads(path.read_text()) for path in sorted((place / "run").glob("record*.json"))]
    assert len(records) == 2 and records[0]["data"] == records[1]["data"] != {}
