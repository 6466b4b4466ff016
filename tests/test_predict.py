"""New pictures, classified after adaptation: the same as a script that knows Pillow and torch alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from package_fixtures import noise_pool, one_line, rng
from PIL import Image, ImageOps
from torch import nn

from mlbook.cli import main
from mlbook.data import image_folder, mini_imagenet
from mlbook.data.tensor_file import load_tensors
from mlbook.errors import UserError
from mlbook.meta_learners import MAML, NearestMean
from mlbook.pages.example_pictures import make_pictures, outline
from mlbook.tasks import FewShot
from mlbook.training import class_scores, evaluate, load_checkpoint, predict
from mlbook.training.evaluation import fixed_scores

SIZE = 32


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an imported set, a trained checkpoint of it, labelled pictures and new ones of several kinds."""
    place = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLBOOK_DATA", str(place / "data"))
        image_folder.import_from("kinds", make_pictures(place / "kinds", classes=16, each=4), size=SIZE)
        for name in ("maml-kinds-3w1s", "nearest-kinds-3w1s", "reptile-kinds-3w1s"):
            command = ["train", name, "--meta-steps", "3", "--tasks", "2", "--out", str(place / name)]
            assert main([*command, "--device", "cpu"]) == 0
    for label in (1, 5, 9):
        (place / f"labelled/kind-{label}").mkdir(parents=True)
        for number in (50, 51):
            outline(label, number).save(place / f"labelled/kind-{label}/{number}.png")
    photograph = outline(5, 60, size=90).resize((120, 80))
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph.save(place / "phone.jpg", exif=turned)
    deep = np.asarray(outline(1, 61).convert("L"), dtype=np.uint16) * 257
    Image.fromarray(deep).save(place / "deep.png")
    outline(9, 62).save(place / "plain.png")
    return place


def by_pillow(path, size=SIZE):
    """A picture [3, size, size] from 0 to 1."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    image = ImageOps.fit(image.convert("RGB"), (min(image.size),) * 2).resize((size, size), Image.LANCZOS)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255


def by_torch(checkpoint, support, labels, new, *, rate, steps, n_way):
    """Softmax for one picture: the max-pooled network of MAML, its inner loop and its batch norm, written out."""
    tensors, _ = load_tensors(checkpoint)
    params = {name.removeprefix("params/"): t.clone().requires_grad_() for name, t in tensors.items()}

    def network(p, x):
        for i in range(4):
            x = F.conv2d(x, p[f"convs.{i}.weight"], padding=1)
            x = F.batch_norm(x, None, None, bias=p[f"norms.{i}.beta"], training=True, eps=1e-3)
            x = F.max_pool2d(F.relu(x), 2)
        return F.linear(x.flatten(1), p["head.weight"], p["head.bias"])

    moving = [name for name in params if "beta" not in name]
    for _ in range(steps):
        loss = n_way * F.cross_entropy(network(params, support), labels)
        gradient = torch.autograd.grad(loss, [params[name] for name in moving])
        moved = {n: (params[n] - rate * g).detach() for n, g in zip(moving, gradient, strict=True)}
        params = {**params, **moved}
        params = {name: p.detach().requires_grad_() for name, p in params.items()}
    return network(params, torch.cat([support, new[None]]))[-1].softmax(0).detach()


@pytest.mark.parametrize("picture", ["plain.png", "phone.jpg", "deep.png"])
def test_one_picture_is_what_an_independent_script_says(place, picture, monkeypatch):
    """The data set is not needed for it, and neither are other pictures."""
    monkeypatch.setenv("MLBOOK_DATA", str(place / "nowhere"))
    checkpoint = place / "maml-kinds-3w1s/checkpoint.safetensors"
    config, meta = load_checkpoint(checkpoint)
    found = predict(config, meta, place / "labelled", [place / picture])
    files = sorted((place / "labelled").rglob("*.png"))
    expected = by_torch(
        checkpoint,
        torch.stack([by_pillow(path) for path in files]),
        torch.tensor([0, 0, 1, 1, 2, 2]),
        by_pillow(place / picture),
        rate=0.01,
        steps=10,
        n_way=3,
    )
    assert found.classes == ("kind-1", "kind-5", "kind-9") and found.batch_norm == "support_and_query"
    torch.testing.assert_close(found.scores[0], expected, atol=2e-4, rtol=0)
    assert float(found.scores.sum()) == pytest.approx(1, abs=1e-5)
    assert found.labels == (found.classes[int(expected.argmax())],)


@pytest.mark.skipif(not mini_imagenet.available(), reason="miniImageNet is not there")
def test_a_picture_of_mini_imagenet_is_what_an_independent_script_says(tmp_path, monkeypatch):
    """The shipped checkpoint, five meta-test classes, one picture at its size and one enlarged."""
    from mlbook import results

    pool = mini_imagenet.load("test")
    for row in range(5):
        folder = tmp_path / "labelled" / pool.names[row]
        folder.mkdir(parents=True)
        Image.fromarray(pool.images[row, 0].permute(1, 2, 0).numpy()).save(folder / "a.png")
    new = Image.fromarray(pool.images[3, 7].permute(1, 2, 0).numpy())
    new.save(tmp_path / "new.png")
    new.resize((300, 200)).save(tmp_path / "large.png")
    monkeypatch.setenv("MLBOOK_DATA", str(tmp_path / "nowhere"))
    config, meta = results.pretrained("maml-mini-5w1s")
    pictures = [tmp_path / "new.png", tmp_path / "large.png"]
    found = predict(config, meta, tmp_path / "labelled", pictures)
    support = torch.stack([by_pillow(path, 84) for path in sorted((tmp_path / "labelled").rglob("*.png"))])
    for row, path in zip(found.scores, pictures, strict=True):
        expected = by_torch(
            results.pretrained_path("maml-mini-5w1s"),
            support,
            torch.arange(5),
            by_pillow(path, 84),
            rate=0.01,
            steps=10,
            n_way=5,
        )
        torch.testing.assert_close(row, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["maml-kinds-3w1s", "reptile-kinds-3w1s", "nearest-kinds-3w1s"])
def test_other_pictures_beside_it_change_nothing(place, name):
    config, meta = load_checkpoint(place / name / "checkpoint.safetensors")
    pictures = [place / "plain.png", place / "phone.jpg", place / "deep.png"]
    together = predict(config, meta, place / "labelled", pictures)
    alone = [predict(config, meta, place / "labelled", [picture]).scores[0] for picture in pictures]
    torch.testing.assert_close(together.scores, torch.stack(alone), atol=1e-5, rtol=0)
    again = predict(config, meta, place / "labelled", pictures)
    assert torch.equal(together.scores, again.scores)
    by_files = {label.name: sorted(label.iterdir()) for label in sorted((place / "labelled").iterdir())}
    assert torch.equal(predict(config, meta, by_files, pictures).scores, together.scores)


def test_features_are_compared_for_any_number_of_classes(place):
    config, meta = load_checkpoint(place / "nearest-kinds-3w1s/checkpoint.safetensors")
    known = sorted((place / "labelled").rglob("*.png"))
    found = predict(config, meta, {"a": known[:1], "b": known[2:]}, known)
    assert found.measure == "cosine" and found.batch_norm == "running"
    assert found.labels[0] == "a" and set(found.labels[2:]) == {"b"}
    assert found.scores[0, 0] == pytest.approx(1, abs=1e-5)


def test_the_command_prints_a_table_or_json(place, capsys):
    (place / "labelled/.ipynb_checkpoints").mkdir(exist_ok=True)
    (place / "labelled/.ipynb_checkpoints/x.png").write_bytes(b"")
    command = ["predict", str(place / "maml-kinds-3w1s/checkpoint.safetensors"), "--device", "cpu"]
    command += [
        "--support",
        str(place / "labelled"),
        "--images",
        str(place / "plain.png"),
        str(place / "phone.jpg"),
    ]
    assert main(command) == 0
    head, note, names, *rows = capsys.readouterr().out.splitlines()
    assert "10 inner steps" in head and "support set and the one picture" in head and "hidden" in note
    assert names.split() == ["picture", "label", "kind-1", "kind-5", "kind-9"] and len(rows) == 2
    assert main([*command, "--json", "--steps", "2", "--batch-norm", "support"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inner_steps"] == 2 and found["batch_norm"] == "support"
    for row, line in zip(found["predictions"], rows, strict=True):
        assert row["image"] in line and sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]


def bad(place):
    """{what: (arguments, words of the sentence)}"""
    loose = place / "loose"
    loose.mkdir(exist_ok=True)
    outline(1, 1).save(loose / "x.png")
    (place / "text.png").write_text("not a picture")
    one = place / "labelled/kind-1"
    maml = str(place / "maml-kinds-3w1s/checkpoint.safetensors")
    labelled, plain = place / "labelled", place / "plain.png"
    return {
        "two classes for a network of three": (maml, place / "two", plain, (), "3 classes apart"),
        "a picture in no class folder": (maml, loose, plain, (), "no class folder"),
        "one class": (maml, one.parent.parent / "single", plain, (), "has 1 classes"),
        "no support": (maml, place / "absent", plain, (), "does not exist"),
        "no picture": (maml, labelled, place / "absent.png", (), "cannot be read"),
        "text": (maml, labelled, place / "text.png", (), "not a readable image"),
        "a folder as a picture": (maml, labelled, labelled, (), "cannot be read"),
        "an unknown mode": (maml, labelled, plain, ("--batch-norm", "yesterday"), "batch_norm must be"),
        "running averages": (maml, labelled, plain, ("--batch-norm", "running"), "not kept"),
        "negative steps": (maml, labelled, plain, ("--steps", "-1"), "must not be negative"),
        "functions": ("maml-sinusoid-5shot", labelled, plain, (), "does not classify pictures"),
        "features": ("leo-mini-wrn-10-4-5w1s", labelled, plain, (), "does not classify pictures"),
        "no checkpoint": (str(place / "no.safetensors"), labelled, plain, (), "no checkpoint"),
    }


CASES = (
    "two classes for a network of three",
    "a picture in no class folder",
    "one class",
    "no support",
    "no picture",
    "text",
    "a folder as a picture",
    "an unknown mode",
    "running averages",
    "negative steps",
    "functions",
    "features",
    "no checkpoint",
)


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_is_one_sentence(place, capsys, case):
    for folder, labels in (("two", (1, 5)), ("single", (1,))):
        for label in labels:
            (place / folder / f"kind-{label}").mkdir(parents=True, exist_ok=True)
            outline(label, 1).save(place / folder / f"kind-{label}/1.png")
    cases = bad(place)
    assert set(cases) == set(CASES)
    name, support, image, more, words = cases[case]
    capsys.readouterr()
    status = main(
        ["predict", name, "--support", str(support), "--images", str(image), "--device", "cpu", *more]
    )
    out, err = capsys.readouterr()
    assert status == 2 and out == "" and words in one_line(err)


# -- any learner, any network ------------------------------------------------------------------------------------------


def test_class_scores_of_a_network_of_ones_own():
    """One example by itself, beside the support set where batch norm needs company."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    maml = MAML(network, inner_lr=0.1)
    meta = maml.init(rng()).meta
    support, labels, new = torch.randn(6, 4), torch.arange(3).repeat(2), torch.randn(5, 4)
    together = class_scores(maml, meta, support, labels, new, steps=3)
    alone = torch.cat([class_scores(maml, meta, support, labels, x[None], steps=3) for x in new])
    torch.testing.assert_close(together, alone)
    transductive = class_scores(maml, meta, support, labels, new, steps=3, batch_norm="transductive")
    assert (transductive - together).abs().max() > 1e-3
    plain = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(UserError, match="normalises nothing"):
        class_scores(
            MAML(plain), MAML(plain).init(rng()).meta, support, labels, new, steps=1, batch_norm="support"
        )


class Recurrent(nn.Module):
    """What torch cannot map over examples, with batch norm behind it."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.LSTM(4, 8, batch_first=True), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.first(x)[0][:, -1]))


class Looking(nn.Module):
    """A forward that looks at values, with batch norm behind it."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x):
        x = x.mean(1)
        return self.head(self.norm(x if x.sum().item() > 0 else -x))


@pytest.mark.parametrize("network", [Recurrent, Looking])
def test_a_network_that_cannot_be_mapped_classifies_one_example(network):
    torch.manual_seed(0)
    learner = MAML(network(), inner_lr=0.1)
    meta = learner.init(rng()).meta
    support, labels, new = torch.randn(6, 5, 4), torch.arange(3).repeat(2), torch.randn(2, 5, 4)
    together = class_scores(learner, meta, support, labels, new, steps=2)
    alone = torch.cat([class_scores(learner, meta, support, labels, x[None], steps=2) for x in new])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("labels", [torch.arange(6), torch.zeros(6), torch.arange(3)])
def test_labels_that_do_not_fit_are_one_sentence(labels):
    learner = MAML(nn.Linear(4, 3))
    with pytest.raises(UserError) as error:
        class_scores(learner, learner.init(rng()).meta, torch.randn(6, 4), labels, torch.randn(2, 4), steps=1)
    one_line(error.value)
    nearest = NearestMean(nn.Flatten())
    with pytest.raises(UserError, match="class 1 has no support example"):
        class_scores(
            nearest, nearest.init().meta, torch.randn(2, 4), torch.tensor([0, 2]), torch.randn(1, 4), steps=0
        )


def test_the_nearest_mean_is_what_its_name_says():
    pool = noise_pool()
    tasks = FewShot(pool, 5, 3, 4)
    for normalise in (False, True):
        learner = NearestMean(nn.Flatten(), normalise=normalise)
        scores = fixed_scores(learner, learner.init().meta, tasks, n_tasks=25, seed=1, steps=0)
        episodes = tasks.sample(25, torch.Generator().manual_seed(1_000_003))
        for score, t in zip(scores[:, 0], range(25), strict=True):
            s, q = (x.flatten(1).double() for x in (episodes.support_x[t], episodes.query_x[t]))
            if normalise:
                s, q = (x / x.norm(dim=1, keepdim=True) for x in (s, q))
            means = torch.stack([s[3 * c : 3 * c + 3].mean(0) for c in range(5)])
            nearest = (q[:, None] - means).square().sum(2).argmin(1)
            assert float(score) == pytest.approx(float((nearest == episodes.query_y[t]).double().mean()))
    with pytest.raises(UserError, match="not meta-trained"):
        learner.step(learner.init(), episodes)


def test_the_nearest_mean_leaves_its_network_alone():
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16)).eval()
    network[2].running_mean.fill_(0.3)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    learner = NearestMean(network)
    result = evaluate(learner, learner.init().meta, FewShot(noise_pool(), 5, 1, 4), n_tasks=10, steps=0)
    assert 0.2 < result.value <= 1
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not network.training


def test_pictures_of_a_page_are_always_the_same(tmp_path):
    make_pictures(tmp_path / "a", classes=2, each=2)
    make_pictures(tmp_path / "b", classes=2, each=2)
    files = sorted(Path(tmp_path / "a").rglob("*.png"))
    assert len(files) == 4
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    assert np.asarray(outline(0, 0)).tolist() != np.asarray(outline(1, 0)).tolist()
