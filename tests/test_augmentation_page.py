"""Chapter 16: its figures, and what its text says of recorded searches and of published numbers."""

import pytest
import torch
from chapter_cells import executed, source

from mlbook import results
from mlbook.augmentation import operations as A
from mlbook.meta_learners import relax
from mlbook.pages.checks import choice_gradients as cg
from mlbook.pages.figures import augmentation_figures as figures

SEEDS = 5


def test_the_draw_by_hand_is_that_of_the_cell_and_of_the_package(capsys):
    its = executed("16", "code-100")
    capsys.readouterr()
    text = source("16", "md-010")
    for number in (*its["parts"][:2], -its["parts"][2]):
        assert f"={number:.3f}$" in text
    total = sum(its["parts"])
    assert f"\\hat g=0.288+0.264-0.122={total:.3f}$" in text
    for number in (*its["z"].tolist(), *its["z_tilde"].tolist()):
        assert f"| {number:.3f} |".replace("-", "−") in text

    problem = cg.Options(outputs=(1.0, 3**0.5), target=0.0, logits=(0.0, 0.0))  # costs 1 and 3
    logits = problem.pi.requires_grad_()

    def control(z):
        return 1 + 2 * torch.sigmoid(z[..., 1] - z[..., 0])

    drawn = relax.draw_choices(logits, its["u"][None], its["v"][None])
    number = relax.surrogate(drawn, problem.loss(drawn.choice), control).sum()
    package = torch.autograd.grad(number, logits)[0][1]
    assert float(package) == pytest.approx(total, abs=1e-12)
    assert float(problem.gradient()[1]) == pytest.approx(0.5), "the truth that the text names"


def accuracies(name):
    """Of all full runs on Omniglot, by seed."""
    its = [r for r in results.runs() if r["experiment"] == name and r["preset"] == "paper"]
    return torch.tensor([r["evaluation"]["accuracy"] for r in sorted(its, key=lambda r: r["config"]["seed"])])


@pytest.fixture(scope="module")
def learned():
    names = ("dada-search", "dada-search-exact-magnitudes")
    return {name: results.pretrained(name)[1]["params"] for name in names}


def test_the_learned_policy_beats_random_ones_in_every_pair_of_seeds():
    mine, theirs = accuracies("dada-search-exact-magnitudes"), accuracies("augment-random")
    assert len(mine) == len(theirs) == SEEDS
    assert mine.min() > theirs.max()
    error = ((mine.var() + theirs.var()) / SEEDS).sqrt()
    assert mine.mean() - theirs.mean() > 2.78 * error


def test_its_mean_is_above_that_of_rand_augment():
    mine, theirs = accuracies("dada-search-exact-magnitudes"), accuracies("augment-rand-augment")
    assert len(theirs) >= 2 and theirs.max() - theirs.min() < 1e-6, "one and the same candidate"
    assert mine.mean() > theirs.mean() > accuracies("augment-random").mean()


def test_straight_through_ends_below_its_start_in_all_seeds():
    assert len(accuracies("dada-search")) >= 2
    assert accuracies("dada-search").max() < accuracies("augment-even").min()


def test_the_unbiased_estimators_cannot_be_told_apart():
    relax, reinforce = accuracies("dada-search-exact-magnitudes"), accuracies("dada-search-reinforce")
    assert len(relax) == len(reinforce) == SEEDS
    apart = reinforce - relax
    assert apart.min() < 0 < apart.max(), "now below, now above"
    assert apart.mean().abs() < 2.78 * apart.std() / SEEDS**0.5
    assert apart.mean().abs() < 0.5 * (relax.max() - relax.min())


def test_gumbel_softmax_ends_below_both_with_every_seed_and_not_above_random_policies():
    gumbel, theirs = accuracies("dada-search-gumbel"), accuracies("augment-random")
    assert len(gumbel) == SEEDS
    for name in ("dada-search-exact-magnitudes", "dada-search-reinforce"):
        assert (accuracies(name) - gumbel).min() > 0
    error = ((gumbel.var() + theirs.var()) / SEEDS).sqrt()
    assert gumbel.mean() - theirs.mean() < 2.78 * error


def test_seeds_lie_further_apart_than_the_intervals_over_tasks():
    its = [r["evaluation"] for r in results.runs() if r["experiment"] == "dada-search-exact-magnitudes"]
    spread = torch.tensor([e["accuracy"] for e in its])
    assert spread.max() - spread.min() > 2 * max(e["ci95"] for e in its)


def test_what_the_policies_are(learned):
    invert = A.OPERATIONS.index("invert")
    for policy in learned.values():
        assert A.usage(policy)[invert] < 0.03
        assert policy["logits"].softmax(0).max() > 0.2
    shifts = [A.OPERATIONS.index(name) for name in ("shift_x", "shift_y")]
    exact = learned["dada-search-exact-magnitudes"]
    assert sorted(A.usage(exact).topk(2).indices.tolist()) == shifts
    assert (A.mean_magnitude(exact)[shifts] < 0.6).all()
    magnitudes = A.mean_magnitude(learned["dada-search"])
    assert sum(float(m) > 0.75 for m in magnitudes) >= 8


def test_the_published_table_says_what_the_text_says():
    published = results.published_augmentation()
    pairs = [(r["DADA"], r["AutoAugment"]) for r in published["errors"]]
    assert sum(a < b for a, b in pairs) == 1 and sum(a > b for a, b in pairs) == len(pairs) - 2
    gaps = [r["Cutout"] - r["DADA"] for r in published["errors"] if r["Cutout"] is not None]
    among = [max(r[m] for m in M) - min(r[m] for m in M) for r in published["errors"] if (M := found(r))]
    assert sum(gaps) / len(gaps) > sum(among) / len(among)
    values = torch.tensor(published["cifar10_policy"]["values"])
    assert values.shape == (25, 4) and (values - 0.5).abs().mean() < 0.08


def found(row):
    return [m for m in ("AutoAugment", "PBA", "Fast AutoAugment", "DADA") if row[m] is not None]


def test_what_is_said_of_the_lab():
    """Opening state: a scale takes almost nothing away. All outputs above the wanted value: more than half."""
    g = torch.Generator().manual_seed(2)
    u, v = (torch.rand(5_000, 4, generator=g, dtype=torch.float64) for _ in range(2))
    for outputs, target, low, high in (
        ((-1.0, -0.2, 0.6, 1.4), 0.2, 0.9, 1.0),
        ((0.4, 0.8, 1.3, 2.0), 0.0, 0.0, 0.5),
    ):
        problem = cg.Options(outputs, target)
        variances = [
            cg.measured(cg.estimates(problem, "RELAX", u, v, 0.5, scale), problem.gradient()).variance
            for scale in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0)
        ]
        assert low < min(variances) / variances[0] < high and variances[-1] > 1.1 * variances[0]


def test_the_figures_say_what_they_show(learned):
    image = torch.rand(1, 14, 14, generator=torch.Generator().manual_seed(0))
    curves = {name: [0.1, 0.2] for name in figures.LOOKS}
    drawn = [
        figures.operations(image),
        figures.draws(image, {"a": A.start_policy(), "b": learned["dada-search"]}),
        figures.bilevel_step(),
        figures.over_temperature([0.1, 1.0], curves, curves, 0.05),
        figures.policy_bars({"start": A.start_policy(), "learned": learned["dada-search"]}),
        figures.over_seeds({"DADA": [(0.8, 0.01), (0.81, 0.01)], "none": [(0.7, 0.01)]}),
    ]
    for fig, alt in drawn:
        assert fig.axes and len(alt) > 40
