"""The page of a reader's own data: an upload, pictures of another kind, and what it says of its numbers."""

import io
import json
import re
import sys
import types
import zipfile

import pytest
from package_fixtures import ROOT

from mlbook.pages.example_pictures import outline

PAGE = json.loads((ROOT / "book/own_data.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in PAGE["cells"] if cell["cell_type"] == "code"]
FOLDER = next(cell for cell in CODE if "PICTURES = None" in cell)


def zipped(classes=12, each=4):
    """The bytes of a zip of class folders inside a folder, as people have them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for label in range(classes):
            for number in range(each):
                picture = io.BytesIO()
                outline(label, number, 40).save(picture, "JPEG")
                archive.writestr(f"holiday/kind {label}/{number}.JPG", picture.getvalue())
        archive.writestr("__MACOSX/holiday/kind 0/._0.JPG", b"rubbish")
    return file.getvalue()


def test_colab_takes_an_upload(tmp_path, monkeypatch, capsys):
    """Colab's dialogue leaves the file in the working folder and returns {name: bytes}."""
    monkeypatch.chdir(tmp_path)

    def upload():
        (tmp_path / "holiday.zip").write_bytes(zipped())
        return {"holiday.zip": zipped()}

    colab = types.ModuleType("google.colab")
    colab.files = types.SimpleNamespace(upload=upload)
    for name, module in (("google", types.ModuleType("google")), ("google.colab", colab)):
        monkeypatch.setitem(sys.modules, name, module)
    names = {}
    exec(FOLDER.replace("UPLOAD = False", "UPLOAD = True"), names)
    assert {split: pool.n_classes for split, pool in names["pools"].items()} == {
        "train": 8,
        "validation": 2,
        "test": 2,
    }
    printed = capsys.readouterr().out
    assert "48 pictures of 12 classes" in printed and "hidden" in printed


def test_a_readers_folder_takes_the_place_of_the_pages_pictures(tmp_path, capsys):
    (tmp_path / "mine.zip").write_bytes(zipped(classes=10))
    names = {}
    exec(FOLDER.replace("PICTURES = None", f"PICTURES = Path({str(tmp_path / 'mine.zip')!r})"), names)
    assert names["pools"]["train"].names[0].startswith("kind ") and "40 pictures" in capsys.readouterr().out


@pytest.mark.site
def test_what_the_page_says_of_its_table_is_what_the_table_says():
    """Pixels below the small network, that below the features; heads no better than the features' nearest mean; signals learned;
    the springs' error halved at least."""
    executed = json.loads((ROOT / "executed/own_data.ipynb").read_text(encoding="utf-8"))
    printed = "".join(
        "".join(output.get("text", ""))
        for cell in executed["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    )
    row = re.compile(r"^(.+?): ([\d.]+) ± ([\d.]+) %$", re.MULTILINE)
    score = {name: (float(mean), float(half)) for name, mean, half in row.findall(printed)}
    pixels, nearest = score["nearest mean of pixels"], score["nearest mean of features"]
    whole = score["MAML, a whole network"]
    assert pixels[0] + pixels[1] < whole[0] - whole[1] and whole[0] + whole[1] < nearest[0] - nearest[1]
    for name in ("MAML, head on the features", "Reptile, head on the features"):
        assert score[name][0] - score[name][1] < nearest[0] + nearest[1]
        assert score[name][0] > whole[0] + whole[1]
    before, after = score["signals, before meta-training"], score["signals, after it"]
    assert before[0] + before[1] < after[0] - after[1]
    errors = dict(
        re.findall(
            r"^(random start|after meta-training): .* ([\d.]+) ± .* inner steps$", printed, re.MULTILINE
        )
    )
    assert float(errors["after meta-training"]) < 0.5 * float(errors["random start"])
