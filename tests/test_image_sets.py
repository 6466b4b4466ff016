"""miniImageNet and folders of pictures: read from every form they come in, all or nothing, one line when something is wrong."""

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from package_fixtures import files_below, one_line, rng
from PIL import Image

from mlbook import cli, experiments
from mlbook.data import ClassPool, image_folder, mini_imagenet, pictures, pool_files
from mlbook.data.pickles import load_arrays
from mlbook.errors import DataError, UserError
from mlbook.experiments.imported import METHODS
from mlbook.tasks import FewShot, LabelledImages

SMALL = {
    "train": ["n01532829", "n01558993", "n03888605"],
    "validation": ["n01855672", "n03535780"],
    "test": ["n01930112", "n01981276"],
}
FOLDER = {"train": "train", "validation": "val", "test": "test"}


class SmallMini:
    """Seven classes of four pictures; one picture of a validation class is that of a meta-train class."""

    def __init__(self, root: Path):
        self.root = root
        noise = np.random.default_rng(0)
        self.images = {
            w: noise.integers(0, 256, (4, 84, 84, 3), dtype=np.uint8) for ws in SMALL.values() for w in ws
        }
        self.images["n03535780"][2] = self.images["n03888605"][1]
        for split, wordnets in SMALL.items():
            for w in wordnets:
                folder = root / FOLDER[split] / w
                folder.mkdir(parents=True)
                for i, image in enumerate(self.images[w]):
                    Image.fromarray(image).save(folder / f"{w}{i:08}.png")

    def pickles(self, folder: Path, layout: int) -> Path:
        folder.mkdir()
        for split, wordnets in SMALL.items():
            data = np.concatenate([self.images[w] for w in wordnets])
            numbers = {w: list(range(4 * i, 4 * i + 4)) for i, w in enumerate(wordnets)}
            if layout == 1:
                content = {"image_data": data, "class_dict": numbers}
            else:
                labels = [i for i in range(len(wordnets)) for _ in range(4)]
                content = {
                    "data": data,
                    "labels": labels,
                    "catname2label": {w: i for i, w in enumerate(wordnets)},
                }
            (folder / f"mini-{split}.pkl").write_bytes(pickle.dumps(content, protocol=2))
        return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(mini_imagenet, "CLASSES", SMALL)
    monkeypatch.setattr(mini_imagenet, "SPLIT_OF", {w: s for s, ws in SMALL.items() for w in ws})
    monkeypatch.setattr(mini_imagenet, "PICTURES", 4)
    return SmallMini(tmp_path / "mini")


def archives(small, tmp_path):
    """Three archives, meta-train in two of them, in one folder."""
    folder = tmp_path / "archives"
    folder.mkdir()
    with tarfile.open(folder / "a.tar.xz", "w:xz") as tar:
        for w in SMALL["train"][:2]:
            tar.add(small.root / "train" / w, f"mini/train/{w}")
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        for w in SMALL["train"][2:]:
            for path in sorted((small.root / "train" / w).iterdir()):
                archive.write(path, f"mini/train/{w}/{path.name}")
    with tarfile.open(folder / "c.tar.gz", "w:gz") as tar:
        tar.add(small.root / "val", "mini/val")
        tar.add(small.root / "test", "mini/test")
    return folder


def flat(small, tmp_path):
    """All pictures in one folder, the class in the name, as beside the published lists."""
    folder = tmp_path / "flat" / "images"
    folder.mkdir(parents=True)
    for path in small.root.rglob("*.png"):
        shutil.copy(path, folder / path.name)
    return folder.parent


SOURCES = {
    "class folders": lambda small, tmp: [small.root],
    "a folder of archives": lambda small, tmp: [archives(small, tmp)],
    "the archives by name": lambda small, tmp: sorted(archives(small, tmp).iterdir()),
    "one folder per split": lambda small, tmp: [small.root / s for s in ("train", "val", "test")],
    "one folder": lambda small, tmp: [flat(small, tmp)],
    "pickles with image_data": lambda small, tmp: [small.pickles(tmp / "pickles", 1)],
    "pickles with labels": lambda small, tmp: sorted(small.pickles(tmp / "pickles", 2).iterdir()),
}


@pytest.mark.parametrize("form", SOURCES)
def test_mini_imagenet_is_read_from_every_form_it_comes_in(small, tmp_path, form):
    mini_imagenet.import_from(SOURCES[form](small, tmp_path))
    for split, wordnets in SMALL.items():
        pool = mini_imagenet.load(split, as_published=True)
        assert pool.names == tuple(wordnets) and pool.images.dtype == torch.uint8 and pool.counts is None
        for w, images in zip(wordnets, pool.images, strict=True):
            assert torch.equal(images, torch.from_numpy(small.images[w]).permute(0, 3, 1, 2)), (form, w)


def test_what_meta_training_has_seen_is_left_out_of_meta_validation_only(small):
    mini_imagenet.import_from(small.root)
    assert mini_imagenet.about() == "1 identical pairs in train and validation"
    pool = mini_imagenet.load("validation")
    assert pool.counts.tolist() == [4, 3]
    kept = torch.from_numpy(small.images["n03535780"][[0, 1, 3]]).permute(0, 3, 1, 2)
    assert torch.equal(pool.images[1, :3], kept) and not pool.images[1, 3].any()
    assert (
        mini_imagenet.load("train").counts is None
        and mini_imagenet.load("validation", as_published=True).counts is None
    )
    # and what was left out is never drawn
    episodes = FewShot(pool, 2, 2, 1).sample(200, rng())
    assert episodes.support_x.flatten(2).amax(2).min() > 0 and episodes.query_x.flatten(2).amax(2).min() > 0
    with pytest.raises(UserError) as error:
        FewShot(pool, 2, 2, 2)
    assert "4 examples; n03535780 of the meta-validation split has 3" in one_line(error.value)


class Runs:
    def __reduce__(self):
        return (os.system, ("touch was_run",))


def short_of_images(small, tmp_path):
    next(iter((small.root / "train" / "n01532829").iterdir())).unlink()
    return [small.root], "class n01532829 has 3 pictures instead of 4"


def another_size(small, tmp_path):
    path = small.root / "test" / "n01930112" / "n0193011200000001.png"
    Image.open(path).resize((100, 75)).save(path)
    return [small.root], "n0193011200000001.png is 100×75, not 84×84"


def wrong_split(small, tmp_path):
    (small.root / "test" / "n01532829").mkdir()
    for path in (small.root / "train" / "n01532829").iterdir():
        path.rename(small.root / "test" / "n01532829" / path.name)
    return [small.root], "class n01532829 lies in test/ but is a meta-train class"


def missing_class(small, tmp_path):
    shutil.rmtree(small.root / "val" / "n01855672")
    return [small.root], "1 of the 100 classes of miniImageNet are missing (n01855672)"


def strange_class(small, tmp_path):
    (small.root / "val" / "n01855672").rename(small.root / "val" / "cats")
    for path in (small.root / "val" / "cats").iterdir():
        path.rename(path.with_name("x" + path.name))
    return [small.root], "is of no class of miniImageNet"


def truncated(small, tmp_path):
    folder = archives(small, tmp_path)
    path = folder / "c.tar.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return [folder], "c.tar.gz is truncated or not an archive"


def not_a_picture(small, tmp_path):
    (small.root / "train" / "n01532829" / "n0153282900000000.png").write_bytes(b"not a picture")
    return [small.root], "n0153282900000000.png is not a readable image"


def the_same_twice(small, tmp_path):
    return [small.root, small.root / "test"], "holds class n01930112 a second time"


def too_long_a_path(small, tmp_path):
    return [tmp_path / ("x" * 5000)], "cannot be read (File name too long)"


def nothing_there(small, tmp_path):
    return [tmp_path / "nowhere"], "nowhere does not exist"


def empty(small, tmp_path):
    (tmp_path / "empty").mkdir()
    return [tmp_path / "empty"], "holds no pictures"


def code_in_a_pickle(small, tmp_path):
    folder = small.pickles(tmp_path / "pickles", 1)
    (folder / "mini-train.pkl").write_bytes(pickle.dumps({"image_data": Runs(), "class_dict": {}}))
    return [folder], "mini-train.pkl is not a pickle of plain arrays (it asks for posix.system"


def truncated_pickle(small, tmp_path):
    path = small.pickles(tmp_path / "pickles", 2) / "mini-test.pkl"
    path.write_bytes(path.read_bytes()[:1000])
    return [path.parent], "mini-test.pkl is not a pickle of plain arrays"


def another_pickle(small, tmp_path):
    path = small.pickles(tmp_path / "pickles", 1) / "mini-train.pkl"
    path.write_bytes(pickle.dumps({"x": [1, 2]}))
    return [path.parent], "has neither image_data and class_dict nor"


def float_pickle(small, tmp_path):
    path = small.pickles(tmp_path / "pickles", 1) / "mini-train.pkl"
    path.write_bytes(pickle.dumps({"image_data": np.zeros((4, 84, 84, 3)), "class_dict": {}}))
    return [path.parent], "holds float64 images"


def outside_pickle(small, tmp_path):
    path = small.pickles(tmp_path / "pickles", 1) / "mini-test.pkl"
    content = pickle.loads(path.read_bytes())
    content["class_dict"]["n01930112"][3] = 99
    path.write_bytes(pickle.dumps(content))
    return [path.parent], "names picture 99 of 8"


def ragged_pickle(small, tmp_path):
    path = small.pickles(tmp_path / "pickles", 1) / "mini-test.pkl"
    content = pickle.loads(path.read_bytes())
    content["image_data"] = [np.zeros((84, 84 + i, 3)).tolist() for i in range(2)]
    path.write_bytes(pickle.dumps(content))
    return [path.parent], "mini-test.pkl is not a pickle of miniImageNet"


def odd_numbers_pickle(small, tmp_path):
    path = small.pickles(tmp_path / "pickles", 1) / "mini-test.pkl"
    content = pickle.loads(path.read_bytes())
    content["class_dict"]["n01930112"] = ["one", "two"]
    path.write_bytes(pickle.dumps(content))
    return [path.parent], "mini-test.pkl is not a pickle of miniImageNet"


def list_of_classes_pickle(small, tmp_path):
    path = small.pickles(tmp_path / "pickles", 2) / "mini-validation.pkl"
    content = pickle.loads(path.read_bytes())
    content["catname2label"] = ["n01855672"]
    path.write_bytes(pickle.dumps(content))
    return [path.parent], "mini-validation.pkl is not a pickle of miniImageNet"


def encrypted_archive(small, tmp_path):
    folder = archives(small, tmp_path)
    content = bytearray((folder / "b.zip").read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + at] |= 1
    (folder / "b.zip").write_bytes(content)
    return [folder], "b.zip is encrypted"


def unknown_method(small, tmp_path):
    folder = archives(small, tmp_path)
    content = bytearray((folder / "b.zip").read_bytes())
    for magic, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(magic) + at] = 9  # Deflate64
    (folder / "b.zip").write_bytes(content)
    return [folder], "b.zip is packed in a way that Python cannot unpack"


def too_large_a_picture(small, tmp_path):
    path = small.root / "test" / "n01930112" / "n0193011200000001.png"
    header = bytearray(path.read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    path.write_bytes(header)
    return [small.root], "n0193011200000001.png has too many pixels"


DAMAGES = [
    short_of_images, another_size, wrong_split, missing_class, strange_class, truncated, not_a_picture, the_same_twice,
    nothing_there, empty, code_in_a_pickle, truncated_pickle, another_pickle, float_pickle, outside_pickle, ragged_pickle,
    too_long_a_path, odd_numbers_pickle, list_of_classes_pickle, encrypted_archive, unknown_method, too_large_a_picture,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_mini_imagenet_is_refused_with_one_line_and_leaves_nothing(
    small, tmp_path, damage, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    sources, says = damage(small, tmp_path)
    assert cli.main(["data", "import", "mini-imagenet", "--from", *map(str, sources)]) == 2
    line = one_line(capsys.readouterr().err)
    assert says in line, line
    assert not (tmp_path / "data").exists() or not files_below(tmp_path / "data")
    assert not (tmp_path / "was_run").exists()


def test_a_failed_import_leaves_the_good_data_as_it_was(small, tmp_path):
    mini_imagenet.import_from(small.root)
    before = {name: (tmp_path / "data" / name).read_bytes() for name in files_below(tmp_path / "data")}
    assert len(before) == 3
    shutil.rmtree(small.root / "val")
    with pytest.raises(DataError):
        mini_imagenet.import_from(small.root)
    assert before == {
        name: (tmp_path / "data" / name).read_bytes() for name in files_below(tmp_path / "data")
    }


def test_a_damaged_split_is_refused(small):
    mini_imagenet.import_from(small.root)
    path = pool_files.split_path(mini_imagenet.stem(), "test")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        mini_imagenet.load("test")
    assert "is damaged" in one_line(error.value)
    path.write_bytes(pool_files.split_path(mini_imagenet.stem(), "train").read_bytes())
    with pytest.raises(DataError):  # meta-train in the place of meta-test
        mini_imagenet.load("test")
    path.unlink()
    with pytest.raises(DataError) as error:
        mini_imagenet.load("train")
    assert "not there yet" in one_line(error.value)


def test_a_pickle_of_arrays_is_read_and_nothing_else(tmp_path):
    content = {
        "a": np.arange(6).reshape(2, 3),
        "b": [1, "two", None, 3.5],
        "c": np.float32(2),
        "d": np.array(["x"], dtype=object),
    }
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        found = load_arrays(path)
        assert np.array_equal(found["a"], content["a"]) and found["b"] == content["b"] and found["c"] == 2
        for bad in (Runs(), eval, io.BytesIO, Path("x")):
            path.write_bytes(pickle.dumps({"a": bad}, protocol=protocol))
            with pytest.raises(DataError) as error:
                load_arrays(path)
            assert "nothing was imported" in one_line(error.value)
    assert not Path("was_run").exists()
    for content in (b"", b"PK\x03\x04 no pickle", b"\x80\x05"):
        path.write_bytes(content)
        with pytest.raises(DataError):
            load_arrays(path)


def test_the_split_is_that_of_ravi_and_larochelle():
    assert [len(its) for its in mini_imagenet.CLASSES.values()] == [64, 16, 20]
    assert len(mini_imagenet.SPLIT_OF) == 100
    assert all(its == sorted(its) for its in mini_imagenet.CLASSES.values())


@pytest.mark.skipif(not mini_imagenet.available(), reason="miniImageNet is not imported here")
def test_the_real_mini_imagenet():
    assert mini_imagenet.about() == "2 identical pairs in train; 6 identical pairs in train and validation"
    pool = mini_imagenet.load("test")
    assert pool.images.shape == (20, 600, 3, 84, 84) and pool.counts is None
    validation = mini_imagenet.load("validation")
    counts = dict(zip(validation.names, validation.counts.tolist(), strict=True))
    assert {name: n for name, n in counts.items() if n < 600} == {"n02950826": 599, "n03535780": 595}


# -- pictures of one's own ------------------------------------------------------------------------------------------


def coloured_folders(root: Path, n_classes=12, pictures=8, seed=0, ending="jpg"):
    """Classes of pictures that a network can tell apart, in several sizes and modes: a colour per class, and noise."""
    noise = np.random.default_rng(seed)
    for c in range(n_classes):
        folder = root / f"kind{c:02}"
        folder.mkdir(parents=True)
        colour = noise.integers(0, 256, 3)
        for i in range(pictures + c % 3):
            size = (40 + 10 * (i % 3), 50)
            pixels = np.clip(colour + noise.normal(0, 40, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.{ending}")
    return root


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))
    return tmp_path


def test_a_folder_of_class_folders_becomes_a_benchmark(data, capsys):
    """Import, train, evaluate, list: the same commands as for the two sets of the book."""
    coloured_folders(data / "pictures")
    assert (
        cli.main(["data", "import-images", "colours", "--from", str(data / "pictures"), "--size", "32"]) == 0
    )
    assert "classes train 8, validation 2, test 2" in capsys.readouterr().out
    assert cli.main(["data", "list"]) == 0 and "colours" in capsys.readouterr().out
    assert cli.main(["data", "verify", "colours"]) == 0
    capsys.readouterr()
    assert cli.main(["experiments"]) == 0 and "METHOD-colours-NwKs" in capsys.readouterr().out
    out = str(data / "run")
    train = [
        "train",
        "maml-colours-2w1s",
        "--meta-steps",
        "12",
        "--tasks",
        "40",
        "--device",
        "cpu",
        "--out",
        out,
    ]
    assert cli.main(train) == 0
    assert "over 40 meta-test tasks (batch_norm transductive" in capsys.readouterr().out
    record = json.loads((data / "run" / "record.json").read_text())
    assert record["config"]["image"] == [3, 32, 8] and record["config"]["n_query"] == 5
    assert record["evaluation"]["protocol"]["dataset"] == "colours"
    assert record["evaluation"]["accuracy"] > 0.7  # two colours: chance is one half
    checkpoint = str(data / "run" / "checkpoint.safetensors")
    assert cli.main(["evaluate", checkpoint, "--tasks", "40", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == record["evaluation"]["accuracy"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_pictures_of_ones_own(data, method):
    coloured_folders(data / "pictures", n_classes=12, pictures=5)
    image_folder.import_from("colours", data / "pictures", size=20, grey=True)
    config = experiments.config(experiments.get(f"{method}-colours-2w2s"), "quick", meta_steps=2)
    learner = experiments.build_learner(config)
    tasks, test = experiments.build_tasks(config, "train"), experiments.build_tasks(config, "test")
    state = learner.init(rng())
    for _ in range(2):
        state, metrics = learner.step(state, tasks.sample(2, rng(1)))
    assert torch.isfinite(metrics["loss"])
    episode = test.sample(1, rng(2)).task(0)
    options = {"order": episode.order} if hasattr(episode, "order") else {}
    *_, last = learner.path(state.meta, episode.support_x, episode.support_y, 1, **options)
    assert learner.predict(last, episode.query_x).shape == (len(episode.query_y), 2)


def test_splits_are_the_folders_or_64_16_20(data):
    for split, names in (("train", "abc"), ("val", "de"), ("test", "fg")):
        for name in names:
            (data / "own" / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (20, 20), (i, 0, 0)).save(data / "own" / split / name / f"{i}.png")
    assert image_folder.import_from("own", data / "own", size=20) == {"train": 3, "validation": 2, "test": 2}
    assert image_folder.load("own", "validation").names == ("d", "e")
    coloured_folders(data / "many", n_classes=25, pictures=2)
    assert image_folder.import_from("many", data / "many", size=16) == {
        "train": 16,
        "validation": 4,
        "test": 5,
    }
    names = [image_folder.load("many", split).names for split in pool_files.SPLITS]
    assert sorted(sum(names, ())) == sorted(p.name for p in (data / "many").iterdir())
    assert list(sum(names, ())) != sorted(sum(names, ()))  # shuffled
    before = names
    image_folder.import_from("many", data / "many", size=16)
    assert before == [
        image_folder.load("many", split).names for split in pool_files.SPLITS
    ]  # and always in the same way


def test_pictures_are_cut_to_their_central_square():
    def pixels(image, **options):
        content = io.BytesIO()
        image.save(content, "png")
        return pictures.square(content.getvalue(), "x.png", 16, options.get("grey", False))

    wide = Image.new("RGB", (48, 16), "red")
    wide.paste("blue", (16, 0, 32, 16))
    assert (pixels(wide).permute(1, 2, 0) == torch.tensor([0, 0, 255])).all()
    assert (
        pixels(Image.new("RGBA", (16, 16), (0, 0, 0, 0))) == 255
    ).all()  # white lies under what is transparent
    assert pixels(Image.new("L", (32, 32), 77)).unique().tolist() == [77]
    assert pixels(wide, grey=True).shape == (1, 16, 16)
    assert pixels(Image.new("P", (16, 16))).shape == (3, 16, 16)


def loose_picture(root):
    Image.new("RGB", (20, 20)).save(root / "alone.png")
    return "alone.png lies in no class folder"


def single_picture(root):
    for path in sorted((root / "kind03").iterdir())[1:]:
        path.unlink()
    return "class kind03 has 1 picture"


def broken_picture(root):
    (root / "kind03" / "1.jpg").write_bytes(b"\xff\xd8\xff broken")
    return "kind03/1.jpg is not a readable image"


def half_split(root):
    (root / "train").mkdir()
    (root / "kind01").rename(root / "train" / "kind01")
    return "some class folders lie in train, val or test and"


def few_classes(root):
    for n in range(3, 12):
        shutil.rmtree(root / f"kind{n:02}")
    return "gives 0 meta-validation classes"


@pytest.mark.parametrize("damage", [loose_picture, single_picture, broken_picture, half_split, few_classes])
def test_a_bad_folder_is_refused_with_one_line_and_leaves_nothing(data, damage, capsys):
    says = damage(coloured_folders(data / "pictures"))
    assert cli.main(["data", "import-images", "colours", "--from", str(data / "pictures")]) == 2
    assert says in one_line(capsys.readouterr().err)
    assert not files_below(data / "data") if (data / "data").exists() else True
    assert image_folder.imported() == []


@pytest.mark.parametrize("name", ["mini", "omniglot", "Birds", "a-b", "sinusoids", "../x", ""])
def test_a_bad_name_is_refused(data, name, capsys):
    coloured_folders(data / "pictures", n_classes=7, pictures=2)
    assert cli.main(["data", "import-images", name, "--from", str(data / "pictures")]) == 2
    assert "the name must be small letters" in one_line(capsys.readouterr().err)


def test_the_header_says_what_the_pictures_are(data):
    coloured_folders(data / "pictures", pictures=5)
    image_folder.import_from("colours", data / "pictures", size=16, grey=True)
    pool = image_folder.load("colours", "train")
    assert image_folder.shape("colours") == (*pool.images.shape[2:4], len(pool.images)) == (1, 16, 8)
    assert (
        image_folder.fewest("colours")
        == min(image_folder.load("colours", s).fewest[0] for s in pool_files.SPLITS)
        == 5
    )
    path = pool_files.split_path(image_folder.folder() / "colours", "train")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError) as error:
        image_folder.shape("colours")
    assert "is damaged" in one_line(error.value)


def test_classes_too_small_for_the_episode_are_named(data, capsys):
    coloured_folders(data / "pictures", pictures=3)
    image_folder.import_from("colours", data / "pictures", size=16)
    assert cli.main(["train", "maml-colours-2w5s", "--device", "cpu", "--out", str(data / "run")]) == 2
    assert "need 6 examples; kind" in one_line(capsys.readouterr().err)
    assert cli.main(["train", "maml-colors-2w1s", "--device", "cpu", "--out", str(data / "run")]) == 2
    assert "no experiment is named" in one_line(capsys.readouterr().err)
    assert not (data / "run").exists()


# -- pools with classes of different sizes --------------------------------------------------------------------------


def test_padding_is_never_drawn():
    images = torch.zeros(4, 6, 1, 2, 2, dtype=torch.uint8)
    counts = torch.tensor([6, 3, 4, 5])
    for c, n in enumerate(counts):
        images[c, :n] = 1 + torch.arange(n)[:, None, None, None]  # 0 is padding
    pool = ClassPool(images, names=("a", "b", "c", "d")).with_counts(counts)
    episodes = FewShot(pool, 4, 2, 1).sample(300, rng())
    drawn = torch.cat([episodes.support_x, episodes.query_x], 1)
    assert drawn.min() > 0
    # each of a class's pictures is drawn about equally often, and none twice in an episode
    one = LabelledImages(pool).sample(6000, rng())
    value, label = (255 * one.support_x[:, 0, 0, 0, 0]).round().long(), one.support_y[:, 0]
    assert value.min() == 1
    for c, n in enumerate(counts):
        share = torch.bincount(value[label == c], minlength=7)[1:].double() / (label == c).sum()
        assert share[:n].min() > 0.6 / n and not share[n:].any()
    both = torch.stack([episodes.support_x[:, ::2, 0, 0, 0], episodes.support_x[:, 1::2, 0, 0, 0]])
    assert (both[0] != both[1]).all()
    assert pool.subset([0]).counts is None and pool.subset([1, 2]).counts.tolist() == [3, 4]


def test_labelled_images_carry_the_number_of_their_class():
    pool = ClassPool(
        torch.arange(5, dtype=torch.uint8)[:, None, None, None, None].expand(5, 3, 1, 2, 2).contiguous()
    )
    for rotations, classes in (("none", 5), ("per_task", 5), ("as_classes", 20)):
        turned = ClassPool(pool.images, rotations)
        drawn = LabelledImages(turned).sample(400, rng())
        assert drawn.support_x.shape == (400, 1, 1, 2, 2) and drawn.query_x.shape[1] == 0
        label = drawn.support_y[:, 0]
        assert label.unique().tolist() == list(range(classes))
        shown = (255 * drawn.support_x[:, 0, 0, 0, 0]).round().long()
        assert torch.equal(shown, label // 4 if rotations == "as_classes" else label)


def test_files_of_two_imports_are_not_one_set(tmp_path, monkeypatch):
    """A process that is killed between two renames leaves them; the old file has its name until the new one takes it."""
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "data"))

    def content(value):
        classes = {name: torch.full((2, 1, 4, 4), value, dtype=torch.uint8) for name in ("a", "b")}
        return {split: {split + n: x for n, x in classes.items()} for split in pool_files.SPLITS}

    stem = tmp_path / "data/birds"
    pool_files.save(stem, content(1), {})
    assert int(pool_files.load(stem, "test", what="birds")[0].images.max()) == 1
    done = []

    def killed(source, target):
        if str(target).endswith("validation.safetensors"):
            raise KeyboardInterrupt  # nothing after it runs but what always does
        done.append(target)
        os.rename(source, target)

    monkeypatch.setattr("mlbook.data.pool_files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        pool_files.save(stem, content(2), {})
    monkeypatch.undo()
    assert len(done) == 4 and pool_files.available(stem)  # three files were written whole, one was exchanged
    for split in pool_files.SPLITS:
        with pytest.raises(DataError, match="of two imports"):
            pool_files.load(stem, split, what="birds")
    pool_files.save(stem, content(2), {})
    assert int(pool_files.load(stem, "train", what="birds")[0].images.min()) == 2
