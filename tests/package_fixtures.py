"""What several tests of the package need: small pools of images, a small Omniglot, one-line errors."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mlbook.data import ClassPool
from mlbook.engines import fast
from mlbook.meta_learners import MAML

ROOT = Path(__file__).resolve().parents[1]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise_pool(n_classes=12, n_examples=8, size=28, channels=1, seed=0, rotations="none"):
    """Classes that can be told apart but not perfectly: a pattern per class, noise per example."""
    g = rng(seed)
    pattern = torch.rand(n_classes, 1, channels, size, size, generator=g)
    noise = torch.rand(n_classes, n_examples, channels, size, size, generator=g)
    return ClassPool((255 * (0.5 * pattern + 0.5 * noise)).to(torch.uint8), rotations)


def counting_pool(n_classes=20, n_examples=12):
    """Every image is one pixel whose value says class and example: see ``who``."""
    value = torch.arange(n_classes * n_examples, dtype=torch.uint8)
    return ClassPool(value.view(n_classes, n_examples, 1, 1, 1))


def who(x, n_examples=12):
    """Class and example of every image of a ``counting_pool``."""
    value = (x.flatten(2) * 255).round().long()[..., 0]
    return value // n_examples, value % n_examples


def one_line(error):
    """The message of an exception, or a captured stderr, which must be one line that says something."""
    text = str(error).rstrip("\n")
    assert text and "\n" not in text, f"not one line: {text!r}"
    assert "Traceback" not in text
    return text


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


class SmallOmniglot:
    """A folder laid out like Omniglot with 5 characters of 3 drawings, and what importing it should give."""

    CHARACTERS = (
        ("images_background", "Early", "character01"),
        ("images_background", "Early", "character02"),
        ("images_background", "Late", "character01"),
        ("images_evaluation", "Other", "character01"),
        ("images_evaluation", "Other", "character02"),
    )
    DRAWINGS = 3

    def __init__(self, folder, monkeypatch=None):
        self.folder = Path(folder)
        g = np.random.default_rng(5)
        stacks = []
        for number, parts in enumerate(self.CHARACTERS):
            place = self.folder.joinpath(*parts)
            place.mkdir(parents=True)
            stack = []
            for drawing in range(self.DRAWINGS):
                paper = Image.fromarray(g.random((105, 105)) < 0.9)
                paper.save(place / f"{number + 1:04}_{drawing + 1:02}.png")
                stack.append(255 - 255 * np.array(paper.resize((28, 28), Image.NEAREST), dtype=np.uint8))
            stacks.append(np.stack(stack))
        self.images = np.stack(stacks)  # [5, 3, 28, 28], ink = 255
        if monkeypatch is not None:
            from mlbook.data import omniglot

            monkeypatch.setattr(omniglot, "CHARACTERS", len(self.CHARACTERS))
            monkeypatch.setattr(omniglot, "DRAWINGS", self.DRAWINGS)
            monkeypatch.setattr(omniglot, "PIXELS_SHA256", hashlib.sha256(self.images.tobytes()).hexdigest())


def with_engine(learner, engine):
    """The learner with one of the engines ``vmap``, ``loop`` (MAML only) and ``fast``."""
    if engine == "fast":
        return fast(learner)
    return replace(learner, engine=engine) if isinstance(learner, MAML) else learner


def check_fast_engine(learner, meta, episodes, **options):
    """The fast gradient against automatic differentiation, tensor by tensor: β and the head must not hide behind the rest."""
    expected, expected_metrics = learner.meta_gradient(meta, episodes)
    gradient, metrics = fast(learner, **options).meta_gradient(meta, episodes)
    assert gradient.keys() == expected.keys()
    for group, tensors in expected.items():
        assert gradient[group].keys() == tensors.keys()
        for name, wanted in tensors.items():
            assert gradient[group][name].shape == wanted.shape
            assert (gradient[group][name] - wanted).norm() < 1e-8 * wanted.norm(), (group, name)
    assert metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        torch.testing.assert_close(metrics[name].double(), value.double(), rtol=1e-6, atol=1e-6)
