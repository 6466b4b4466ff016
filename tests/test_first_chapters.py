"""Chapters 1 to 3: what their text says of records and published numbers, and the picture of three methods as arrows."""

import math
import re

import torch

from mlbook import results
from mlbook.pages.checks.directions import inner_path_over
from mlbook.pages.checks.landscape import two_valleys
from mlbook.pages.figures import comparison_figures

START = torch.tensor([-1.8, 1.2], dtype=torch.float64)


def test_the_three_arrows_are_gradients_of_one_path():
    """Reptile's arrow leads to where the path ends, pre-training's along its first step, first-order MAML's along its second."""
    valleys = two_valleys()
    points = inner_path_over([valleys.task(0)] * 3, {"phi": START}, 0.2).points
    fig, alt = comparison_figures.three_sums(valleys, START, inner_lr=0.2)
    said = dict(re.findall(r"along (g\S+) at (-?\d+) degrees", alt))
    for title, (begin, end) in {"g_1": (0, 1), "g_2": (1, 2), "g_1+g_2+g_3": (0, 3)}.items():
        x, y = points[end]["phi"] - points[begin]["phi"]
        assert int(said[title]) == round(math.degrees(math.atan2(y, x))), title
    assert fig.axes and len(said) == 3


def test_pre_training_beside_its_published_row():
    """Chapter 3: ours ends above the published row, and the gap to MAML is many times that; the oracle is right before a step."""
    published = results.published()["pretraining-sinusoid-5shot"]["by_step"]
    ours, maml, oracle = (
        results.run_record(f"{name}-sinusoid-5shot")["evaluation"]["mean"]
        for name in ("pretraining", "maml", "oracle")
    )
    above = ours[10] - published["10"]
    assert 0 < above < (ours[10] - maml[10]) / 5
    assert oracle[0] < 0.005


def test_how_the_published_baselines_were_adapted_matters():
    """Chapter 3: with one example per class fine-tuning ends near chance, nearest neighbours much closer to MAML."""
    tuned, nearest, maml = (
        results.published()[f"{name}-mini-5w1s"]["value"] for name in ("finetuning", "nearest", "maml")
    )
    assert tuned - 0.2 < 0.1 and maml - nearest < (maml - tuned) / 2
    ours, neighbours = (
        results.run_record(f"{name}-mini-5w1s")["evaluation"] for name in ("finetuning", "nearest")
    )
    assert abs(ours["accuracy"] - tuned - 0.11) < 0.005  # "eleven points above the published one"
    assert (
        abs(ours["accuracy"] - neighbours["accuracy"]) < ours["ci95"]
    )  # "level with our nearest neighbours"


def test_what_meta_training_repays():
    """Chapter 1: five points are too few to train from scratch; with more, thousands of tasks repay the meta-training."""
    paid = results.study("break_even")
    assert not paid["scratch"]["5"]["reached"]
    for points in ("20", "100"):
        saved = paid["scratch"][points]["cost"] - paid["adaptation"]["cost"]
        assert 1_000 < paid["meta_training"]["cost"] / saved < 100_000
