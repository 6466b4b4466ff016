"""What stands behind chapter 9: a latent step in two ways, the KL term, the world with a hidden subspace, the figures."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from package_fixtures import ROOT, one_line, rng

from mlbook import results
from mlbook.errors import UserError
from mlbook.meta_learners.leo import LEO
from mlbook.pages.checks import latent_steps
from mlbook.pages.figures import leo_diagrams, leo_figures
from mlbook.pages.labs.latent_map import shipped_leo
from mlbook.tasks import BentSectors, FewShotFeatures, LEONoise
from mlbook.tasks.hidden_subspace import hidden_subspace
from studies import latent_space

CHAPTER = ROOT / "book/09_leo.ipynb"
N, K, D, LATENT = 3, 2, 12, 4


def learner_meta_task(**options):
    """A learner with rates of its own for every dimension, in float64, and one task."""
    learner = LEO(features=D, n_way=N, latent=LATENT, latent_steps=2, finetuning_steps=1, **options)
    g = rng(3)
    meta = learner.init(g).meta
    meta["rates"]["latent"] = 0.2 + torch.rand(LATENT, generator=g)
    for p in meta["params"].values():
        p += 0.3 * torch.randn(p.shape, generator=g)
    meta = {group: {n: t.double() for n, t in ts.items()} for group, ts in meta.items()}
    pool, _ = hidden_subspace(6, 8, D, 3, noise=0.5, generator=g)
    return learner, meta, FewShotFeatures(pool, N, K, 2).sample(1, g).to(torch.float64).task(0)


# -- latent steps -----------------------------------------------------------------------------------------------------


def test_a_latent_step_of_the_means_is_a_preconditioned_step_exactly():
    learner, meta, task = learner_meta_task()
    z = torch.randn(N, LATENT, generator=rng(), dtype=torch.float64)
    stepped, formula = latent_steps.mean_step_two_ways(learner, meta, z, task.support_x, task.support_y)
    assert torch.allclose(stepped, formula, rtol=1e-10, atol=1e-13) and stepped.norm() > 1e-2


def test_it_is_the_step_that_the_inner_loop_takes():
    learner, meta, task = learner_meta_task()
    first, second, *_ = learner.inner(meta, task)
    stepped, _ = latent_steps.mean_step_two_ways(learner, meta, first["z"], task.support_x, task.support_y)
    assert torch.allclose(second["w"][:, 0] - first["w"][:, 0], stepped, atol=1e-12)


def test_it_is_a_plain_step_of_a_small_classifier_over_decoded_features():
    learner, meta, task = learner_meta_task()
    z = torch.randn(N, LATENT, generator=rng(), dtype=torch.float64)
    W = latent_steps.mean_decoder(learner, meta["params"])
    stepped, _ = latent_steps.mean_step_two_ways(learner, meta, z, task.support_x, task.support_y)
    small = latent_steps.weight_gradient(learner, z, task.support_x @ W, task.support_y)
    assert torch.allclose(-(meta["rates"]["latent"] * small) @ W.t() / K, stepped, atol=1e-12)  # K copies


def test_the_preconditioner_has_the_rank_of_the_latent_space():
    learner, meta, _ = learner_meta_task()
    P = latent_steps.preconditioner(learner, meta)
    assert P.shape == (D, D) and torch.allclose(P, P.t())
    assert int(torch.linalg.matrix_rank(P)) == LATENT
    assert torch.linalg.eigvalsh(P).min() > -1e-12
    # orthogonal columns: one eigenvalue per latent dimension, its rate times its squared length
    W = torch.linalg.qr(torch.randn(D, LATENT, generator=rng(), dtype=torch.float64)).Q * torch.arange(
        1.0, LATENT + 1
    )
    meta["params"]["decoder"][:D] = W
    values = torch.linalg.eigvalsh(latent_steps.preconditioner(learner, meta))[-LATENT:]
    expected = (meta["rates"]["latent"] * torch.arange(1.0, LATENT + 1) ** 2).sort().values
    assert torch.allclose(values, expected)


def test_with_sampled_weights_the_formula_holds_to_first_order():
    learner, meta, task = learner_meta_task()
    z = torch.randn(N, LATENT, generator=rng(), dtype=torch.float64)
    noise = torch.randn(N, K, D, generator=rng(1), dtype=torch.float64)
    errors = []
    for scale in (1e-1, 1e-2, 1e-3):
        smaller = {**meta, "rates": {**meta["rates"], "latent": scale * meta["rates"]["latent"]}}
        exact, first = latent_steps.sampled_step_two_ways(
            learner, smaller, z, noise, task.support_x, task.support_y
        )
        errors.append(latent_steps.relative_size(first, exact))
    assert errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1] and errors[2] < 1e-2


def test_the_share_in_a_span():
    vectors = torch.tensor([[1.0, 0, 0], [1.0, 1, 0], [2.0, 1, 0]])  # a plane, though three vectors
    assert latent_steps.share_in_span(torch.tensor([[3.0, -2, 0]]), vectors) == pytest.approx(1)
    assert latent_steps.share_in_span(torch.tensor([[0.0, 3, 4]]), vectors) == pytest.approx(9 / 25)


# -- the KL term ------------------------------------------------------------------------------------------------------


def test_the_closed_form_of_the_kl_term_is_that_of_torch():
    mean, sigma = torch.randn(N, LATENT, generator=rng()), 0.2 + torch.rand(N, LATENT, generator=rng(1))
    q, p = torch.distributions.Normal(mean, sigma), torch.distributions.Normal(0.0, 1.0)
    assert latent_steps.kl_closed_form(mean, sigma) == pytest.approx(
        float(torch.distributions.kl_divergence(q, p).mean()), rel=1e-5
    )


def test_one_sample_has_it_as_its_mean():
    mean, sigma = torch.randn(N, LATENT, generator=rng()), 0.2 + torch.rand(N, LATENT, generator=rng(1))
    samples = latent_steps.kl_one_sample(mean, sigma, torch.randn(200_000, N, LATENT, generator=rng(2)))
    error = float(samples.std()) / math.sqrt(len(samples))
    assert float(samples.mean()) == pytest.approx(
        float(latent_steps.kl_closed_form(mean, sigma)), abs=4 * error
    )


def test_one_sample_is_what_the_learner_computes():
    learner, meta, _ = learner_meta_task(dropout=0.0)
    pool, _ = hidden_subspace(6, 8, D, 3, noise=0.5, generator=rng())
    tasks = LEONoise(FewShotFeatures(pool, N, K, 2), learner.noise_shapes)
    batch = tasks.sample(1, rng(1)).to(torch.float64)
    task = batch.task(0)
    mean, sigma = learner.encode(meta["params"], task.support_x)
    assert learner.task_terms(meta, task)["kl"] == pytest.approx(
        float(latent_steps.kl_one_sample(mean, sigma, task.z_noise.movedim(1, 0)).mean())
    )


# -- the world --------------------------------------------------------------------------------------------------------


def test_class_centres_lie_in_the_subspace_and_noise_does_not():
    pool, basis = hidden_subspace(50, 400, D, 3, noise=0.5, generator=rng())
    assert torch.allclose(basis.t() @ basis, torch.eye(3), atol=1e-5)
    centre = pool.features.mean(1)
    assert latent_steps.share_in_span(centre, basis.t()) > 0.97
    within = pool.features - centre[:, None]
    assert within.square().mean().sqrt() == pytest.approx(0.5, rel=0.02)
    other, same = hidden_subspace(5, 6, D, 3, noise=0.1, generator=rng(1), basis=basis)
    assert same is basis and latent_steps.share_in_span(other.features.mean(1), basis.t()) > 0.9


def test_bad_sizes_are_refused():
    for options, words in (
        ({"hidden": 0}, "hidden must be"),
        ({"hidden": 3, "basis": torch.eye(3)}, "basis must be"),
    ):
        with pytest.raises(UserError) as error:
            hidden_subspace(5, 6, D, noise=0.1, generator=rng(), **options)
        assert words in one_line(error.value)


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_have_an_alt_text_with_what_they_show():
    path = [torch.randn(N, 2, generator=rng(i)) for i in range(3)]
    drawn = [
        leo_diagrams.structure(),
        leo_diagrams.idea(),
        leo_diagrams.pairs(3, 2),
        leo_figures.by_dimension({"LEO": [(8, 0.5, 0.01), (16, 0.6, 0.01)]}, "features", mark=6),
        leo_figures.codes([("a task", path, torch.ones(N, 2))]),
        leo_figures.compass(*torch.randn(1, 30, generator=rng()), torch.randn(30, 2), torch.randn(30, 2)),
        leo_figures.kl_samples(torch.randn(500, generator=rng()), 0.0),
    ]
    for fig, alt in drawn:
        assert len(alt) > 50 and fig.axes
    assert "12 cells" in drawn[2][1] and "60.0 % at 16" in drawn[3][1]


def test_the_world_needs_what_the_page_says():
    """Gradient descent on all weights does better in the subspace: the premise of the chapter's first experiment."""
    learner = replace(LEO(features=48, n_way=5, latent=4), dropout=0.0)
    pool, basis = hidden_subspace(60, 16, 48, 4, noise=0.5, generator=rng())
    batch = FewShotFeatures(pool, 5, 1, 10).sample(100, rng(1))
    scores = {}
    for name, P in (("all", torch.eye(48)), ("subspace", basis @ basis.t())):
        right = 0
        for t in range(100):
            x, y = batch.support_x[t] @ P, batch.support_y[t]
            w = -latent_steps.weight_gradient(learner, torch.zeros(5, 48), x, y)
            right += int(((batch.query_x[t] @ P) @ w.t()).argmax(1).eq(batch.query_y[t]).sum())
        scores[name] = right / 5000
    assert scores["subspace"] > scores["all"] + 0.05


# -- sentences of the page that rest on records -------------------------------------------------------------------------


def terms():
    return results.study("latent_space")["sections"]["terms"]


def end(row):
    return row["accuracy"][10], row["ci95"][10]


def level(a, b):
    return abs(end(a)[0] - end(b)[0]) < end(a)[1] + end(b)[1]


def test_the_sentences_on_the_kl_term():
    rows = terms()
    base, off, strong = rows["all terms"], rows["KL off"], rows["KL × 100"]
    assert off["sigma"] < 0.05 * base["sigma"] and off["code"] > 3 * base["code"]
    assert off["accuracy"][0] > base["accuracy"][0] + 0.05 and end(off)[0] < end(base)[0] - 2 * end(base)[1]
    assert abs(strong["accuracy"][0] - 0.2) < 0.03 and strong["code"] < 0.15 * base["code"]
    assert level(strong, base)


def test_the_sentences_on_the_penalty():
    rows = terms()
    base, off, strong = rows["all terms"], rows["penalty off"], rows["penalty × 10"]
    unstopped = rows["penalty × 10, no stop-gradient"]
    assert off["moved"] > base["moved"] > strong["moved"] > unstopped["moved"]
    assert off["accuracy"][0] < base["accuracy"][0] - 0.1 < strong["accuracy"][0] - 0.15
    assert end(strong)[0] < end(base)[0] - end(base)[1] and level(off, base)
    assert min(rows.values(), key=end) is unstopped
    assert unstopped["latent_rate"] < 0.4 * min(
        row["latent_rate"] for row in rows.values() if row is not unstopped
    )


def test_the_sentences_on_the_regulariser():
    rows = terms()
    base, strong = rows["all terms"], rows["orthogonality × 100"]
    assert rows["orthogonality off"]["correlation"] > base["correlation"] > 5 * strong["correlation"]
    assert level(rows["orthogonality off"], base) and level(strong, base) and level(rows["L2 off"], base)
    assert rows["L2 × 10,000"]["length"] < 0.9 * base["length"]


def test_the_sentences_on_widths():
    widths = results.study("latent_space")["sections"]["features"]
    narrow, wide = widths["8"], widths["640"]
    weights = {width: max(row["all weights"]["accuracy"]) for width, row in widths.items()}
    assert list(weights.values()) == sorted(weights.values(), reverse=True)
    assert weights["8"] > max(narrow["known subspace"]["accuracy"]) - 0.06
    assert weights["640"] < max(wide["known subspace"]["accuracy"]) - 0.2
    for row in widths.values():
        assert row["Meta-SGD"]["accuracy"][-1] < max(row["all weights"]["accuracy"]) + 0.03
    assert all(
        row["LEO"]["accuracy"][-1] > weights[width] for width, row in widths.items() if int(width) >= 64
    )
    # "within a few points of the method that knows the subspace", and never ahead of it once its rate is tuned
    for row in widths.values():
        behind = max(row["known subspace"]["accuracy"]) - row["LEO"]["accuracy"][-1]
        assert 0 < behind < 0.03 and row["known subspace"]["rate"] in latent_space.REFERENCE_RATES
        assert (
            abs(row["neighbour in the subspace"]["accuracy"][0] - max(row["known subspace"]["accuracy"]))
            < 0.01
        )


def test_the_relation_network_by_hand():
    """The table of pairs, and the means and raw spreads below it."""
    cells = {c["id"]: "".join(c["source"]) for c in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]}
    text = next(source for source in cells.values() if "### The relation network by hand" in source)
    table = [
        [float(n.replace("−", "-")) for n in re.findall(r"−?[\d.]+", line)]
        for line in re.findall(r"^\| [AB]: .*", text, re.M)
    ]
    h = torch.tensor([1.0, 3.0, -2.0, 0.0])
    assert torch.tensor(table)[:, 0].tolist() == h.tolist()
    assert torch.equal(torch.tensor(table)[:, 1:5], h[:, None] - h[None])
    assert torch.equal(torch.tensor(table)[:, 5], h - h.mean())
    names = {}
    exec(cells["code-leo-relation-by-hand"], names)
    mean, s = names["averaged"](h)
    assert mean.tolist() == [1.5, -1.5] and "=1.5$ and $\\mu_B^e=-1.5$" in text
    assert s.tolist() == pytest.approx([0.25, -0.05]) and "=0.25$ and $s_B^e=-0.05$" in text
    assert names["averaged"](torch.tensor([1.0, 3, 7, 9]))[0][0] == -3


def test_the_sentences_on_lengths():
    lengths = results.study("latent_space")["sections"]["codes"]
    first, adapted, tuned = (
        {int(n): row["accuracy"][step] for n, row in lengths.items()} for step in (0, 5, 10)
    )
    assert adapted[1] < adapted[2] - 0.1 < adapted[4] - 0.2 < adapted[6] - 0.2
    assert all(adapted[n] < tuned[n] - 0.01 for n in (1, 2, 4)) and tuned[4] < tuned[6] - 0.05
    assert abs(tuned[16] - tuned[6]) < 0.01 and first[16] > first[6] + 0.1


def test_the_sentences_on_the_plane():
    evaluations = {
        name: results.run_record(f"{name}-3w1s")["evaluation"]
        for name in ("leo-plane", "leo-plane-unpenalised", "metasgd-plane")
    }
    with_it, without, sgd = (evaluation["mean"] for evaluation in evaluations.values())
    width = evaluations["leo-plane"]["ci95"] + evaluations["leo-plane-unpenalised"]["ci95"]
    assert with_it[10] - with_it[0] < 0.01 and without[1] - without[0] > 0.8 * (without[10] - without[0])
    assert abs(with_it[10] - without[10]) < width and min(with_it[10], without[10]) > max(sgd) + 0.1


def test_the_sentences_on_the_lab():
    """Other codes move along, a code is a direction in mirror writing, and exchanged codes come back in few steps."""
    learner, meta = shipped_leo()
    tasks = BentSectors(k_shot=1, n_query=30)
    support, query = tasks.points(40, rng(3))
    batch = tasks.episode(support, query)
    moved, together, right = [], [], []
    for t in range(40):
        task = batch.task(t)
        first = next(learner.inner(meta, task))["z"]
        dragged = support[t].clone()
        dragged[0] += torch.tensor([0.8, 0.0])
        other = learner.encode(meta["params"], tasks.episode(dragged, query[t]).support_x)[0]
        moved.append((other - first).norm(dim=1))
        middle = query[t].mean(1)
        together.append(torch.atan2(first[:, 1], first[:, 0]) + torch.atan2(middle[:, 1], middle[:, 0]))
        z, scores = first[[1, 0, 2]], []
        for _ in range(6):
            w = learner.decode(meta["params"], z, None, 1)
            scores.append((learner.logits(w, task.query_x).argmax(1) == task.query_y).float().mean())
            step = torch.func.grad(
                lambda z, task=task: learner.support_loss(
                    learner.decode(meta["params"], z, None, 1), task.support_x, task.support_y
                )
            )(z)
            z = z - meta["rates"]["latent"] * step
        right.append(torch.stack(scores))
    assert (meta["rates"]["finetuning"] < 0).any()
    assert (torch.stack(moved).mean(0) > 0.2).all()
    assert (1j * torch.cat(together)).exp().mean().abs() > 0.85
    right = torch.stack(right).mean(0)
    assert right[0] < 0.5 and right[5] > 0.8


def test_the_sentences_on_sines_and_lines():
    record = results.study("sines_lines")
    for group in record["groups"].values():
        leo, maml = group["leo"], group["maml"]
        assert maml["worse"] > 0.75 and maml["difference"]["mean"] > maml["difference"]["ci95"]
        assert leo["mean"] > 1.5 * group["best"]["mean"] and leo["mean"] > 4 * leo["median"]
    waves = record["groups"]["sines"]["maml"]["by_step"]
    assert min(step["mean"] for step in waves[1:]) > waves[0]["mean"] - waves[0]["ci95"]
    lines = record["groups"]["lines"]["maml"]["by_step"]
    assert lines[-1]["mean"] < 0.1 * lines[0]["mean"]


def test_the_sentences_on_the_spread_of_curves():
    record = results.study("sines_lines")
    found = record["calibration"]["end"]
    assert found["error"] == sorted(found["error"])
    ratios = [e / s for e, s in zip(found["error"], found["spread"], strict=True)]
    assert min(ratios) > 1.2 and min(ratios[: len(ratios) // 2]) > 2.5
    everything, ambiguous = (record["groups"][g] for g in ("all", "ambiguous"))
    share = ambiguous["tasks"] * ambiguous["leo"]["mean"] / (everything["tasks"] * everything["leo"]["mean"])
    assert share > 0.4 > 3 * ambiguous["tasks"] / everything["tasks"]
