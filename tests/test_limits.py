"""Chapter 8: tasks in families, several starts, exact optima, discrete choices, losses without slope."""

import math

import pytest
import torch
from package_fixtures import rng

from mlbook.errors import UserError
from mlbook.meta_learners import MAML
from mlbook.meta_learners.inner_loop import adapt
from mlbook.meta_learners.several_starts import SeveralStarts, losses_after
from mlbook.models import MLP, call
from mlbook.models.choice import SineChoice, SineReal, SineRounded, enumerate_choices, waves_of
from mlbook.pages.checks import estimators, linear_tasks, task_distances, two_families
from mlbook.pages.figures import limits_figures
from mlbook.tasks import Episode, Finite, Lines, Mixture, Waves
from mlbook.tasks.support_sets import NoisySupport, Prefixes

# -- tasks ------------------------------------------------------------------------------------------------------------


def test_waves_and_lines_are_what_they_say():
    episode, omega = Waves((1, 3), 6, 4).sample_labelled(50, rng())
    assert episode.support_x.shape == (50, 6, 1) and episode.query_y.shape == (50, 4, 1)
    assert set(omega.tolist()) == {1.0, 3.0}
    x, y = episode.support_x[..., 0].double(), episode.support_y[..., 0].double()
    basis = torch.stack([torch.sin(omega[:, None] * x), torch.cos(omega[:, None] * x)], -1)
    fit = torch.linalg.lstsq(basis, y[..., None]).solution
    assert torch.allclose((basis @ fit)[..., 0], y, atol=1e-4)
    amplitude = fit.square().sum((1, 2)).sqrt()
    assert 0.5 - 1e-3 < amplitude.min() and amplitude.max() < 2 + 1e-3
    lines = Lines(5, 5).sample(20, rng())
    slopes = lines.support_y.diff(dim=1) / lines.support_x.diff(dim=1)
    assert (slopes - slopes[:, :1]).abs().max() < 1e-2 and slopes.abs().max() < 1.01


def test_a_mixture_takes_whole_tasks_and_tells_the_family():
    low, high = Lines(3, 2, bounds=(0.0, 0.1)), Lines(3, 2, bounds=(5.0, 5.1))
    episode, label = Mixture((low, high)).sample_labelled(200, rng())
    slope = (episode.query_y[:, 1] - episode.query_y[:, 0]) / (episode.query_x[:, 1] - episode.query_x[:, 0])
    assert torch.equal((slope[:, 0] > 2).long(), label) and 60 < int(label.sum()) < 140
    assert torch.equal(Mixture((low, high)).sample(200, rng()).support_y, episode.support_y)


def test_a_finite_set_repeats_its_tasks():
    pool = Finite(Waves(), 3, rng())
    drawn = pool.sample(40, rng(1))
    assert len({tuple(row.tolist()) for row in drawn.support_x[:, :, 0]}) == 3
    assert pool.episodes.n_tasks == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Waves(k_shot=0), "at least 1"),
        (lambda: Lines(n_query=0), "at least 1"),
        (lambda: Mixture(()), "at least one family"),
        (lambda: Finite(Waves(), 0, rng()), "at least one task"),
        (lambda: SeveralStarts(MAML(MLP(), loss="mse"), 0), "n_starts"),
        (lambda: two_families.expected_error("two", 1, 1, 1, 0.5), "starts must be one of"),
        (lambda: task_distances.two_groups(torch.zeros(1, 1)), "at least two"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


# -- exact optima -----------------------------------------------------------------------------------------------------

MODEL = linear_tasks.TanhFeatures(12, seed=3)


@pytest.mark.parametrize("steps", [0, 1, 7, 400])
@pytest.mark.parametrize("on", ["query", "support"])
def test_the_closed_form_is_the_inner_loop(steps, on):
    episodes = Waves(1, 6, 5).sample(4, rng(2)).to(torch.float64)
    theta = torch.randn(13, generator=rng(3), dtype=torch.float64)
    design = linear_tasks.after_adaptation(MODEL, episodes, inner_lr=0.07, steps=steps, on=on)
    for t in range(4):
        e = episodes.task(t)
        loss = lambda p, e=e: (call(MODEL, p, e.support_x) - e.support_y).square().mean()  # noqa: E731
        adapted = adapt(loss, {"theta": theta}, inner_lr=0.07, steps=steps)
        x, y = (e.query_x, e.query_y) if on == "query" else (e.support_x, e.support_y)
        residual = (call(MODEL, adapted, x) - y)[:, 0]
        assert torch.allclose(design.matrix[t] @ theta - design.target[t], residual, atol=1e-9)


def test_the_best_start_is_a_minimum_of_the_packages_maml():
    episodes = Mixture((Waves(), Lines())).sample(60, rng()).to(torch.float64)
    design = linear_tasks.after_adaptation(MODEL, episodes, inner_lr=0.1, steps=3)
    theta = linear_tasks.best_start(design, ridge=1e-9)
    learner = MAML(MODEL, loss="mse", inner_lr=0.1, inner_steps=3)
    value = lambda t: float(learner.meta_loss({"params": {"theta": t}}, episodes)[0])  # noqa: E731
    assert value(theta) == pytest.approx(float(design.losses(theta).mean()), abs=1e-12)
    for seed in range(5):
        assert value(theta + 0.05 * torch.randn(13, generator=rng(seed), dtype=torch.float64)) > value(theta)


def test_starts_by_turns_never_get_worse_and_need_no_names():
    bank, names = Mixture((Waves(1), Waves(3))).sample_labelled(200, rng(4))
    design = linear_tasks.after_adaptation(MODEL, bank, inner_lr=0.1, steps=1)
    starts, history = linear_tasks.starts_by_turns(design, 3, rng(5))
    assert starts.shape == (3, 13) and len(history) > 2
    assert all(b <= a + 1e-6 for a, b in zip(history[:-1], history[1:], strict=True))
    one, _ = linear_tasks.starts_by_turns(design, 1, rng(5))
    assert torch.allclose(one[0], linear_tasks.best_start(design))
    support = linear_tasks.after_adaptation(MODEL, bank, inner_lr=0.1, steps=1, on="support")
    losses, choice = linear_tasks.chosen_losses(starts, support, design)
    by_hand = torch.stack([support.losses(s) for s in starts]).argmin(0)
    assert torch.equal(choice, by_hand)
    assert torch.allclose(losses[7], design.losses(starts[by_hand[7]])[7])


# -- the closed form of two families ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "s", "noise", "steps"),
    [(2.0, 0.5, 0.6, 3), (0.5, 0.5, 0.6, 3), (1.0, 1.2, 1.0, 8), (0.0, 0.4, 0.3, 1)],
)
def test_expected_errors_against_a_simulation(m, s, noise, steps):
    n, g = 200_000, rng(6)
    side = 2 * torch.randint(2, (n,), generator=g) - 1
    c = s * torch.randn(n, 2, generator=g, dtype=torch.float64)
    c[:, 0] += m * side
    estimate = c + noise * torch.randn(n, 2, generator=g, dtype=torch.float64)
    r = two_families.kept(0.1, steps)
    nearer = torch.where(estimate[:, 0] > 0, m, -m)
    assert float((nearer != m * side).double().mean()) == pytest.approx(
        two_families.wrong_share(m, s, noise) if m else 0.0, abs=0.005
    )
    for name, first in {"one": 0 * nearer, "known": m * side, "chosen": nearer}.items():
        start = torch.stack([first.double(), 0 * nearer], 1)
        errors = (estimate + r * (start - estimate) - c).square().sum(1)
        half = 4 * float(errors.std()) / n**0.5
        assert float(errors.mean()) == pytest.approx(
            two_families.expected_error(name, m, s, noise, r), abs=half
        )


def test_without_spread_and_noise_nobody_is_wrong():
    assert two_families.wrong_share(1.0, 0.0, 0.0) == 0.0
    assert two_families.expected_error("chosen", 1.0, 0.0, 0.0, 0.5) == 0.0
    assert two_families.expected_error("one", 1.0, 0.0, 0.0, 0.5) == 0.25


def test_the_greedy_rate():
    """Equation 8-greedy: the best rate for one step is a ratio of sums, for many the reciprocal mean of the extremes."""
    a, d = torch.tensor([4.0, 0.25], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    rates = torch.linspace(0.0, 0.6, 60_001, dtype=torch.float64)

    def best(N):
        return float(rates[(a * d**2 * (1 - rates[:, None] * a) ** (2 * N)).sum(1).argmin()])

    assert best(1) == pytest.approx(float((a**2 * d**2).sum() / (a**3 * d**2).sum()), abs=1e-4)
    assert best(400) == pytest.approx(2 / 4.25, abs=2e-3)


# -- several starts by meta-training ----------------------------------------------------------------------------------


def several(**options):
    learner = MAML(MLP((1, 8, 1), init_std=None), loss="mse", inner_lr=0.05, meta_lr=0.01)
    return SeveralStarts(learner, **options)


def test_a_start_learns_from_its_own_tasks_only():
    method = several(random_steps=0)
    common = method.learner.init(rng()).meta
    states = method.split(common)
    assert states[0].meta["params"]["layers.0.weight"] is not states[1].meta["params"]["layers.0.weight"]
    for p in states[1].meta["params"].values():
        p.add_(3.0)  # now nobody wants the second start
    before = [{n: p.clone() for n, p in s.meta["params"].items()} for s in states]
    episodes = Waves().sample(6, rng(1))
    assert method.group([s.meta for s in states], episodes).tolist() == [0] * 6
    states = method.step(states, episodes, 0, 0.0, rng(2))
    moved = [
        any(not torch.equal(s.meta["params"][n], b[n]) for n in b)
        for s, b in zip(states, before, strict=True)
    ]
    assert moved == [True, False] and [s.meta_step for s in states] == [1, 0]


def test_query_labels_decide_in_training_and_not_at_meta_test():
    method = several()
    metas = [method.learner.init(rng(seed)).meta for seed in (0, 1)]
    e = Waves().sample(40, rng(3))
    other = e._replace(query_y=-e.query_y)
    assert torch.equal(method.group(metas, e, by="support"), method.group(metas, other, by="support"))
    assert not torch.equal(method.group(metas, e), method.group(metas, other))
    losses, choice = method.meta_test(metas, e)
    support, query = losses_after(method.learner, metas[int(choice[5])], e, 1)
    assert losses[5] == query[5]
    assert support[5] <= losses_after(method.learner, metas[1 - int(choice[5])], e, 1)[0][5]
    with pytest.raises(UserError, match="support or query"):
        method.group(metas, e, by="both")


def test_random_groups_part_equal_starts():
    method = several(random_steps=3)
    states, generator = method.split(method.learner.init(rng()).meta), rng(2)
    for step in range(3):  # Adam's first step knows signs only, so one is not enough
        states = method.step(states, Waves().sample(12, rng(step)), step, 0.0, generator)
    a, b = (s.meta["params"]["layers.0.weight"] for s in states)
    assert not torch.equal(a, b)


# -- distances --------------------------------------------------------------------------------------------------------


def test_distances_between_tasks():
    learner = MAML(MLP((1, 16, 1), init_std=None), loss="mse", inner_lr=0.05)
    meta = learner.init(rng()).meta
    e = Waves().sample(5, rng(1))
    e = Episode(*(torch.cat([f, f[:1]]) for f in e))  # the sixth task is the first once more
    x = torch.linspace(-3, 3, 20)[:, None]
    for d in (
        task_distances.gradient_distance(learner, meta, e),
        task_distances.function_distance(learner, meta, e, steps=3, x=x),
    ):
        assert d.shape == (6, 6) and torch.allclose(d, d.T, atol=1e-5)
        assert d[0, 5] < 1e-3 < d[0, 1:5].min()
    by_hand = [
        call(learner.model, list(learner.path(meta, e.support_x[t], e.support_y[t], 3))[-1], x)
        for t in (0, 1)
    ]
    rms = float((by_hand[0] - by_hand[1]).square().mean().sqrt())
    assert float(d[0, 1]) == pytest.approx(rms, rel=1e-4)


def test_groups_and_neighbours():
    places = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1]])
    distance, labels = torch.cdist(places, places), torch.tensor([0, 0, 0, 1, 1])
    assert task_distances.neighbours_agree(distance, labels) == 1.0
    assert task_distances.agreement(task_distances.two_groups(distance), labels) == 1.0
    assert task_distances.agreement(torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1])) == 0.5
    assert task_distances.neighbours_agree(distance, torch.tensor([0, 1, 0, 1, 0])) < 0.5


# -- choices ----------------------------------------------------------------------------------------------------------


def test_enumeration_finds_every_frequency():
    e, k = Waves((1, 2, 3, 4), 8, 6, phase=(0.0, 2 * math.pi)).sample_labelled(60, rng(8))
    errors, amplitude = enumerate_choices(e.support_x, e.support_y, 4)
    assert torch.equal(errors.argmin(1) + 1.0, k)
    t = 3
    right = int(k[t]) - 1
    fit = (waves_of(e.query_x[t], 4)[:, right] * amplitude[t, right]).sum(-1, keepdim=True)
    assert torch.allclose(fit, e.query_y[t], atol=0.05)


def test_the_models_with_a_choice():
    x = torch.linspace(-2, 2, 9)[:, None]
    p = {
        "score": torch.tensor([0.0, 30.0, 0.0]),
        "amplitude": torch.tensor([[9.0, 9.0], [0.5, -1.0], [9.0, 9.0]]),
    }
    wanted = 0.5 * torch.sin(2 * x) - torch.cos(2 * x)
    for model in (SineChoice(3), SineRounded(3)):
        assert torch.allclose(call(model, p, x), wanted, atol=1e-5)
    q = {"omega": torch.tensor([2.2]), "amplitude": torch.tensor([0.5, -1.0])}
    assert torch.allclose(call(SineReal(rounded=True), q, x), wanted, atol=1e-6)
    slope = torch.func.grad(lambda q, m: call(m, q, x).square().sum())
    assert float(slope(q, SineReal(rounded=True))["omega"]) == 0.0 != float(slope(q, SineReal())["omega"])
    assert torch.func.grad(lambda p: call(SineRounded(3), p, x).sum())(p)["score"].abs().max() == 0


# -- losses without slope ---------------------------------------------------------------------------------------------


def test_the_score_function_estimator_is_right_in_the_mean():
    z, cost = (
        torch.randn(4, generator=rng(), dtype=torch.float64),
        torch.tensor([0.3, 1.0, 0.0, 2.0]).double(),
    )
    exact = torch.func.grad(lambda z: estimators.expected_cost(z, cost))(z)
    spread = {}
    for baseline in (False, True):
        draws = estimators.score_function_draws(z, cost, 40_000, rng(1), baseline=baseline)
        assert ((draws.mean(0) - exact).abs() < 4 * draws.std(0) / 200).all()
        spread[baseline] = float(draws.var(0).sum())
    assert spread[True] < spread[False]


def test_zero_one_losses():
    logits, labels = torch.randn(30, 3, generator=rng()), torch.randint(3, (30,), generator=rng(1))
    value, slope = torch.func.grad_and_value(estimators.zero_one_loss)(logits, labels)[::-1]
    assert float(value) == pytest.approx(float((logits.argmax(1) != labels).float().mean()))
    assert slope.abs().max() == 0
    exact = torch.func.grad(estimators.expected_zero_one_loss)(logits.double(), labels)
    noise = torch.rand(6000, 30, 3, generator=rng(2), dtype=torch.float64)
    draws = torch.func.vmap(
        lambda n: torch.func.grad(estimators.sampled_zero_one_loss)(logits.double(), labels, n)
    )(noise)
    off = (draws.mean(0) - exact) / (draws.std(0) / 6000**0.5)
    assert off.abs().max() < 4.5


# -- figures ----------------------------------------------------------------------------------------------------------


def test_pieces_are_cut_where_the_curve_jumps():
    x = torch.linspace(0, 1, 11)
    y = x + (x > 0.45) * 3.0
    parts = limits_figures.pieces(x, y, jump=1.0)
    assert [len(p[0]) for p in parts] == [5, 6]
    assert len(limits_figures.pieces(x, x, jump=1.0)) == 1


def test_figures_say_what_they_show():
    fig, alt = limits_figures.panels(
        {"left": {"a": [(1, 2.0), (2, math.inf), (4, 0.5)]}, "right": {"b": [(1, 3.0)]}}, "n", "error"
    )
    assert len(fig.axes) == 2 and "left, a: 2 at 1, 0.5 at 4" in alt and "right, b: 3 at 1" in alt
    omega = torch.linspace(0, 6, 61)
    fig, alt = limits_figures.valleys_of_frequency(omega, torch.cos(2 * omega), 3.0, [(1.0, 0.25)])
    assert "25 % from 1" in alt and "2 valleys" in alt


def test_what_is_drawn_from_others_moves_with_them():
    pool = Finite(Waves(), 3, rng())
    for tasks in (Mixture((pool, pool)), Prefixes(pool), NoisySupport(pool, 0.1)):
        inner = tasks.to("meta")
        inner = inner.families[1] if isinstance(inner, Mixture) else inner.tasks
        assert inner.episodes.support_x.device.type == "meta"
    assert pool.episodes.support_x.device.type == "cpu"
