"""MAML for reinforcement learning: the environment, the estimators, every derivative, the trust region, whole runs."""

import json
import sys

import numpy as np
import pytest
import torch
from package_fixtures import one_line, rng

from mlbook import experiments, results
from mlbook.cli import main
from mlbook.data.tensor_file import load_tensors
from mlbook.errors import UserError
from mlbook.pages.checks.policy_gradients import (
    Walk,
    meta_gradient_with_frozen_noise,
    return_gradient_by_differences,
    return_gradient_by_scores,
)
from mlbook.reinforcement import (
    MAMLRL,
    GaussianPolicy,
    Goals,
    HalfCheetah,
    Navigation,
    Rollouts,
    RolloutTasks,
    advantages,
    conjugate_gradient,
    discounted_sums,
    divergence,
    features,
    linear_baseline,
    mean_divergence,
    official_goals,
    per_task,
    plus,
)
from mlbook.reinforcement.maml_rl import Derivatives
from mlbook.training.evaluation import evaluate, fixed_episodes
from mlbook.training.runner import evaluate_setup, run

F64 = torch.float64


def small(**options):
    """A learner of few parameters and short trajectories."""
    environment = options.pop("environment", Navigation(horizon=6))
    policy = GaussianPolicy(environment.observation_size, 2, hidden=(5,), init_log_std=-0.5)
    return MAMLRL(environment, policy, **options)


def tasks_of(learner, n_tasks=3, trajectories=7, rounds=3, seed=0, dtype=F64):
    return Goals(learner.environment, trajectories, rounds).sample(n_tasks, rng(seed)).to(dtype)


def params_of(learner, seed=1, dtype=F64):
    """Away from special values: the biases are not zero."""
    g = rng(seed)
    return {
        n: (p + 0.2 * torch.randn(p.shape, generator=g)).to(dtype)
        for n, p in learner.policy.initial(g).items()
    }


def direction_of(params, seed=2):
    g = rng(seed)
    return {n: torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in params.items()}


# -- the environment ------------------------------------------------------------------------------------------------


def one_by_one(environment, policy, params, goal, noise):
    """A trajectory written as one would say it, in numpy."""
    s, rewards = np.zeros(2), []
    g = goal.numpy()
    for e in noise:
        observation = np.concatenate([s, g]) if environment.goal_visible else s
        action = policy.act(params, torch.tensor(observation)[None], e[None])[0].numpy()
        s = s + np.clip(0.1 * action, -0.1, 0.1)
        distance = np.sqrt(((s - g) ** 2).sum())
        rewards.append(-(distance**2) if environment.reward == "squared" else -distance)
        if np.abs(s - g).max() < 0.01:
            break
    return rewards


@pytest.mark.parametrize("options", [{}, {"reward": "squared"}, {"goal_visible": True}])
def test_rollouts_are_the_trajectories_of_the_official_environment(options):
    environment = Navigation(horizon=40, **options)
    learner = small(environment=environment)
    tasks = tasks_of(learner, 2, 5, 1)
    # near goals and small steps: some trajectories end early
    params = {n: 0.1 * p - 2.3 * (n == "log_std") for n, p in params_of(learner).items()}
    tasks = tasks._replace(goal=tasks.goal * 0.05)
    found = environment.roll(learner.policy, params, tasks.goal, tasks.noise[:, 0])
    ended = 0
    for t in range(2):
        for m in range(5):
            expected = one_by_one(environment, learner.policy, params, tasks.goal[t], tasks.noise[t, 0, m])
            assert int(found.mask[t, m].sum()) == len(expected)
            assert found.rewards[t, m, : len(expected)].tolist() == pytest.approx(expected, abs=1e-12)
            assert found.rewards[t, m, len(expected) :].abs().sum() == 0
            ended += len(expected) < 40
    assert ended > 0, "no trajectory ended: the case was not tested"


def test_the_official_goals_are_those_of_numpys_seed_1():
    np.random.seed(1)  # noqa: NPY002 — what the official script does
    expected = np.random.uniform(-0.5, 0.5, size=(40, 2))  # noqa: NPY002
    assert np.allclose(official_goals().numpy(), expected, atol=1e-7)
    assert official_goals()[0].tolist() == pytest.approx([-0.082978, 0.220324], abs=1e-6)


def test_goals_fill_the_square_and_the_same_seed_gives_the_same_rollouts():
    goal = Navigation().sample_goals(4000, rng(0))
    assert goal.abs().max() <= 0.5 and goal.mean(0).abs().max() < 0.02
    assert goal.var(0).tolist() == pytest.approx([1 / 12, 1 / 12], rel=0.05)
    learner = small()
    first, second = (tasks_of(learner, seed=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    returns = [learner.scores({"params": params_of(learner)}, e, 2, range(3)) for e in (first, second)]
    assert torch.equal(*returns)


def test_tasks_do_not_disturb_each_other():
    """The batched inner loop is that of each task alone."""
    learner = small(inner_lr=0.3)
    meta, tasks = {"params": params_of(learner)}, tasks_of(learner)
    together = learner.scores(meta, tasks, 2, range(3))
    for t in range(3):
        alone = learner.scores(meta, tasks.task(t), 2, range(3))
        assert torch.allclose(alone, together[t : t + 1], atol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Navigation(reward="cubed"),
        lambda: Navigation(horizon=0),
        lambda: HalfCheetah(task="fly"),
        lambda: HalfCheetah(horizon=5000),
        lambda: GaussianPolicy(hidden=()),
        lambda: Goals(Navigation(), trajectories=1),
        lambda: small(surrogate="magic"),
        lambda: small(outer="ppo"),
        lambda: small(inner_steps=-1),
        lambda: small(max_kl=0.0),
    ],
)
def test_bad_settings_get_one_clear_sentence(wrong):
    with pytest.raises(UserError) as caught:
        wrong()
    one_line(caught.value)


# -- baseline and advantages ----------------------------------------------------------------------------------------


def rollouts_of(learner, seed=5):
    tasks = tasks_of(learner, seed=seed)
    return learner.environment.roll(learner.policy, params_of(learner), tasks.goal, tasks.noise[:, 0])


def test_the_baseline_is_the_regularised_fit_of_each_task():
    rollouts = rollouts_of(small(environment=Navigation(horizon=12)))
    found = linear_baseline(rollouts, 0.9)
    x, y = features(rollouts.observations), discounted_sums(rollouts.rewards, 0.9)
    assert x.shape[-1] == 8
    for t in range(3):
        a, b = x[t].reshape(-1, 8).numpy(), y[t].reshape(-1).numpy()
        weights = np.linalg.solve(a.T @ a + 1e-5 * np.eye(8), a.T @ b)
        assert np.allclose(found[t].reshape(-1).numpy(), a @ weights, atol=1e-6)


def test_advantages_are_generalised_advantage_estimates():
    discount, gae = 0.9, 0.7
    rollouts = rollouts_of(small())
    rollouts = rollouts._replace(mask=rollouts.mask.clone(), rewards=rollouts.rewards.clone())
    rollouts.mask[0, 0, 4:] = 0
    rollouts.rewards[0, 0, 4:] = 0
    value = linear_baseline(rollouts, discount)
    found = advantages(rollouts, discount=discount, gae=gae, standardise=False)
    for t, m, length in ((0, 0, 4), (1, 2, 6)):
        r, v = rollouts.rewards[t, m].tolist(), [*value[t, m, :length].tolist(), 0.0]
        delta = [r[i] + discount * v[i + 1] - v[i] for i in range(length)]
        expected = [
            sum((discount * gae) ** (k - i) * delta[k] for k in range(i, length)) for i in range(length)
        ]
        assert found[t, m, :length].tolist() == pytest.approx(expected, abs=1e-10)
    assert found[0, 0, 4:].abs().sum() == 0
    scaled = advantages(rollouts, discount=discount, gae=gae)
    for t in range(3):
        taken = scaled[t][rollouts.mask[t] > 0]
        assert float(taken.mean()) == pytest.approx(0, abs=1e-9)
        assert float(taken.std(correction=0)) == pytest.approx(1, abs=1e-6)


# -- gradients ------------------------------------------------------------------------------------------------------


def test_the_score_function_gives_the_gradient_of_the_return():
    """Against differences of rollouts with the same noise, in which no probability occurs."""
    learner = small(environment=Navigation(horizon=4, ends=False))
    params = params_of(learner)
    tasks = tasks_of(learner, 2, 40_000, 1)
    values, noise = [], []
    for seed in (3, 4, 5):
        direction = direction_of(params, seed)
        scores = return_gradient_by_scores(learner, params, tasks, direction)
        differences = return_gradient_by_differences(learner, params, tasks, direction)
        allowed = 4 * (scores.error**2 + differences.error**2) ** 0.5
        assert abs(scores.value - differences.value) < allowed
        values.append(abs(differences.value))
        noise.append(allowed)
    assert max(values) > 1.5 * max(noise), "too noisy to show anything"


def test_the_inner_gradient_is_the_score_function_estimate():
    """The gradient that the inner step follows, written out: −mean over steps of ∇log π · Â."""
    learner = small()
    params, tasks = per_task(params_of(learner), 3), tasks_of(learner)
    found = learner.collect(params, tasks, 0)
    gradient = learner.inner(params, found).gradient
    for t in range(3):
        own = {n: p[t].clone().requires_grad_() for n, p in params.items()}
        total = {n: torch.zeros_like(p) for n, p in own.items()}
        for m in range(7):
            for h in range(6):
                o, a = found.rollouts.observations[t, m, h], found.rollouts.actions[t, m, h]
                normal = torch.distributions.Normal(
                    learner.policy.mean(own, o[None])[0], own["log_std"].exp()
                )
                score = torch.autograd.grad(normal.log_prob(a).sum(), list(own.values()))
                for n, s in zip(own, score, strict=True):
                    total[n] -= s * found.advantage[t, m, h]
        for n in own:
            assert torch.allclose(gradient[n][t], total[n] / found.rollouts.mask[t].sum(), atol=1e-12)


def test_both_surrogates_have_the_same_gradient():
    params, tasks = per_task(params_of(small()), 3), tasks_of(small())
    found = small().collect(params, tasks, 0)
    log, dice = (small(surrogate=s).inner(params, found).gradient for s in ("log", "dice"))
    for n in log:
        assert torch.allclose(log[n], dice[n], atol=1e-12)


def test_only_dice_has_the_second_derivative_of_the_return():
    """On the walk, whose derivatives are known."""
    walk, theta = Walk(), 0.2
    walks = walk.sample(theta, 200_000, rng(0))
    for kind in ("log", "dice"):
        first, second = walk.estimates(kind, theta, walks)
        assert abs(first.value - walk.gradient(theta)) < 4 * first.error < 0.05 * walk.gradient(theta)
        if kind == "dice":
            assert abs(second.value - walk.second_derivative()) < 4 * second.error < 5
        else:
            assert abs(second.value) < 4 * second.error < 1  # nothing of −28 is left
    without = walk.sample(theta, 200_000, rng(1), baseline=False)
    _, log = walk.estimates("log", theta, without)
    _, dice = walk.estimates("dice", theta, without)
    assert abs(log.value) > 10 * log.error  # it depends on the baseline, which no derivative of J does
    assert abs(dice.value - walk.second_derivative()) < 4 * dice.error
    t = torch.arange(1, walk.horizon + 1)
    ahead, behind = (
        -((t * at - walk.goal) ** 2 + t * walk.sigma**2).sum() for at in (theta + 1e-3, theta - 1e-3)
    )
    assert walk.gradient(theta) == pytest.approx(float(ahead - behind) / 2e-3, rel=1e-3)


@pytest.mark.parametrize("surrogate", ["log", "dice"])
@pytest.mark.parametrize("inner_steps", [0, 1, 2])
def test_the_meta_gradient_is_the_difference_quotient_with_frozen_noise(surrogate, inner_steps):
    learner = small(inner_lr=0.4, inner_steps=inner_steps, surrogate=surrogate)
    params, tasks = params_of(learner), tasks_of(learner)
    for seed in (6, 7):
        check = meta_gradient_with_frozen_noise(learner, params, tasks, direction_of(params, seed))
        assert check.claimed == pytest.approx(check.measured, rel=1e-5, abs=1e-9)


def test_first_order_drops_the_hessian():
    options = {"inner_lr": 0.4, "inner_steps": 1}
    params, tasks = params_of(small()), tasks_of(small())
    direction = direction_of(params)
    check = meta_gradient_with_frozen_noise(small(first_order=True, **options), params, tasks, direction)
    assert abs(check.claimed / check.measured - 1) > 0.01
    full = meta_gradient_with_frozen_noise(small(**options), params, tasks, direction)
    assert full.measured == check.measured


# -- the trust region -----------------------------------------------------------------------------------------------


def test_conjugate_gradients_solve_a_linear_system():
    g = rng(3)
    root = torch.randn(6, 6, generator=g, dtype=F64)
    matrix, b = root @ root.T + 0.1 * torch.eye(6, dtype=F64), torch.randn(6, generator=g, dtype=F64)
    x = conjugate_gradient(lambda v: {"x": matrix @ v["x"]}, {"x": b}, steps=12)
    assert torch.allclose(matrix @ x["x"], b, atol=1e-6)


def test_the_divergence_is_that_of_torchs_normal_distributions():
    g = rng(4)
    mean, log_std, new_mean, new_log_std = torch.randn(4, 5, 3, generator=g, dtype=F64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()),
        torch.distributions.Normal(new_mean, new_log_std.exp()),
    ).sum(-1)
    assert torch.allclose(divergence(mean, log_std, new_mean, new_log_std), expected)


def curvature_parts(learner, params, tasks):
    rounds, inner, adapted = learner.explore(params, tasks)
    old = {n: p.detach() for n, p in adapted.items()}
    return rounds, inner, old


@pytest.mark.parametrize("surrogate", ["log", "dice"])
def test_the_curvature_is_that_of_the_divergence_of_the_adapted_policies(surrogate):
    """KL(θ + εv) = ½ε² vᵀ(JᵀFJ)v + O(ε³), with the inner step taken anew on the same data."""
    learner = small(inner_lr=0.4, surrogate=surrogate, curvature_every=1)
    params, tasks = params_of(learner), tasks_of(learner)
    rounds, inner, old = curvature_parts(learner, params, tasks)
    kl = Derivatives(lambda p: mean_divergence(learner.policy, old, p, rounds[-1].rollouts), old)
    v = direction_of(params)
    image = learner.pull_back(inner, kl.times(learner.push_forward(inner, per_task(v, 3))))
    product = sum(float((image[n].mean(0) * v[n]).sum()) for n in v)
    step = 1e-4
    both = [float(learner.judge(plus(params, s * step, v), rounds, old)[1]) for s in (1, -1)]
    assert product == pytest.approx(sum(both) / step**2, rel=1e-3)
    assert float(learner.judge(params, rounds, old)[1]) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("options", [{}, {"first_order": True}, {"inner_steps": 0}, {"inner_steps": 2}])
def test_a_step_stays_in_the_trust_region_and_lowers_the_loss(options):
    for max_kl in (0.01, 0.001):
        learner = small(inner_lr=0.4, max_kl=max_kl, curvature_every=1, **options)
        state = learner.init(rng(0))
        # fresh biases are 0 and so is the first state: each unit of the first layer would stand on its kink
        before = params_of(learner, dtype=torch.float32)
        state.meta["params"] = {n: p.clone() for n, p in before.items()}
        tasks = tasks_of(learner, 5, 20, dtype=torch.float32)
        rounds, inner, old = curvature_parts(learner, before, tasks)
        state, metrics = learner.step(state, tasks)
        loss, kl = learner.judge(state.meta["params"], rounds, old)
        assert 0 < float(kl) <= max_kl * (1 + 1e-4)
        assert float(kl) > 0.2 * max_kl, "a step so short is no use of the region"
        assert float(loss) < float(metrics["loss"])
        assert float(metrics["kl"]) == pytest.approx(float(kl), rel=1e-3)


def test_the_plain_outer_step_is_adam_on_the_meta_gradient():
    learner = small(outer="gradient", meta_lr=1e-2, inner_lr=0.4)
    state = learner.init(rng(0))
    before = {n: p.clone() for n, p in state.meta["params"].items()}
    state, _ = learner.step(state, tasks_of(learner, dtype=torch.float32))
    moved = {n: (p - before[n]).abs().max() for n, p in state.meta["params"].items()}
    assert all(float(m) == pytest.approx(1e-2, rel=1e-3) for m in moved.values())  # Adam's first step
    assert state.meta_step == 1


def test_a_few_meta_steps_teach_to_adapt():
    learner = MAMLRL(Navigation(horizon=20), GaussianPolicy(hidden=(20,)), inner_lr=0.5)
    state, g = learner.init(rng(0)), rng(1)
    goals = Goals(learner.environment, 20, 2)
    gains = []
    for _ in range(25):
        state, metrics = learner.step(state, goals.sample(20, g))
        gains.append(float(metrics["after"] - metrics["before"]))
    assert np.mean(gains[-5:]) > np.mean(gains[:5]) + 1


# -- runs, evaluation, ledger ---------------------------------------------------------------------------------------


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    options = {"preset": "quick", "meta_steps": 3, "device": "cpu", "evaluation_tasks": 2}
    whole = run("maml-navigation-2d", out=tmp_path / "whole", **options)
    assert run("maml-navigation-2d", out=tmp_path / "parts", time_limit=1e-6, **options) is None
    parts = run("maml-navigation-2d", out=tmp_path / "parts", resume=True, **options)
    a, b = (load_tensors(tmp_path / p / "checkpoint.safetensors")[0] for p in ("whole", "parts"))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert whole["evaluation"] == parts["evaluation"] and whole["curve"] == parts["curve"]
    assert whole["curve_columns"] == ["meta_step", "loss", "before", "after", "kl"]
    assert whole["official_goals"]["tasks"] == 40 and len(whole["official_goals"]["mean"]) == 4
    evaluation = whole["evaluation"]
    assert evaluation["metric"] == "return" and evaluation["return"] == evaluation["mean"][3]
    row = results.ours(whole)
    assert row["return"] == evaluation["mean"] and row["official_goals"] == whole["official_goals"]
    line = results.as_text([{"experiment": "x", "published": None, "ours": row}]).splitlines()[1]
    assert f"{row['return'][3]:.2f}" in line and "step 3" in line
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError):
        run("maml-navigation-2d", out=tmp_path / "two", **options)


def test_each_of_the_official_goals_is_scored_once():
    """Forty tasks are more than one block of an evaluation."""
    setup = experiments.setup(experiments.config(experiments.get("maml-navigation-2d"), "quick"))
    (tasks,) = setup.listed_tasks().values()
    blocks = list(fixed_episodes(tasks, tasks.n_listed, 1))
    assert len(blocks) > 1 and torch.equal(torch.cat([block.goal for block in blocks]), official_goals())
    with pytest.raises(UserError, match="there are 40 test tasks; 41 were asked for"):
        list(fixed_episodes(tasks, 41, 1))


@pytest.mark.parametrize("name", ["maml", "pretrained"])
def test_the_recorded_returns_at_the_official_goals_come_again(name):
    config, meta = results.pretrained(f"{name}-navigation-2d")
    setup = experiments.setup(config)
    (tasks,) = setup.listed_tasks().values()
    found = evaluate_setup(setup, meta, tasks, n_tasks=tasks.n_listed).as_dict()
    recorded = results.run_record(f"{name}-navigation-2d")["official_goals"]
    assert found["mean"] == pytest.approx(recorded["mean"], abs=0.2) and recorded["tasks"] == 40


def test_the_oracle_is_not_adapted_and_the_random_policy_not_trained(tmp_path):
    assert experiments.get("oracle-navigation-2d").test_steps == 0
    record = run("random-navigation-2d", preset="quick", device="cpu", out=tmp_path, evaluation_tasks=2)
    assert record["meta_steps"] == 0
    config = experiments.config(experiments.get("oracle-navigation-2d"), "quick")
    assert experiments.build_learner(config).policy.observation_size == 4


def test_evaluation_scores_each_step_on_fresh_rollouts():
    learner = small(environment=Navigation(horizon=8))
    found = evaluate(
        learner,
        {"params": params_of(learner, dtype=torch.float32)},
        Goals(learner.environment, 5, 3),
        n_tasks=30,
        steps=2,
    )
    assert found.metric == "return" and len(found.mean) == 3 and found.as_dict()["return"] == found.mean[2]


def test_the_published_row_has_four_returns():
    row = results.published()["maml-navigation-2d"]
    assert row["by_step"] == {"0": -40.41, "1": -11.68, "2": -3.33, "3": -3.23}
    # the published start fits the reward of the code: standing still would give about −38 by distance, −17 by its square
    g = Navigation().sample_goals(200_000, rng(0))
    assert -100 * float(g.norm(dim=1).mean()) == pytest.approx(-38.3, abs=0.3)
    assert -100 * float(g.square().sum(1).mean()) == pytest.approx(-16.7, abs=0.3)


# -- the half-cheetah -----------------------------------------------------------------------------------------------


def test_without_the_simulator_there_is_one_clear_sentence(monkeypatch, capsys, tmp_path):
    from mlbook.reinforcement import cheetah

    cheetah.environments.cache_clear()
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    out = ["--preset", "quick", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", "maml-cheetah-direction", *out]) == 2
    assert "mlbook[rl]" in one_line(capsys.readouterr().err.splitlines()[-1])


class TestHalfCheetah:
    @pytest.fixture(autouse=True)
    def simulator(self):
        pytest.importorskip("gymnasium", reason='needs the extra: pip install "mlbook[rl]"')
        pytest.importorskip("mujoco", reason='needs the extra: pip install "mlbook[rl]"')

    @pytest.mark.parametrize("task", ["direction", "velocity"])
    def test_rollouts_are_those_of_single_environments(self, task):
        import gymnasium

        environment = HalfCheetah(task, horizon=5)
        policy = GaussianPolicy(17, 6, hidden=(8,))
        tasks = Goals(environment, 2, 1).sample(3, rng(0)).to(F64)
        params = {n: p.double() for n, p in policy.initial(rng(1)).items()}
        found = environment.roll(policy, params, tasks.goal, tasks.noise[:, 0], tasks.reset[:, 0])
        assert isinstance(found, Rollouts) and found.observations.shape == (3, 2, 5, 17)
        env = gymnasium.make("HalfCheetah-v5")
        for t in range(3):
            for m in range(2):
                o, _ = env.reset(seed=int(tasks.reset[t, 0, m]))
                for h in range(5):
                    assert np.allclose(o, found.observations[t, m, h].numpy(), atol=1e-9)
                    a = found.actions[t, m, h].clamp(-1, 1).numpy().astype(np.float32)
                    o, _, _, _, info = env.step(a)
                    v, g = info["x_velocity"], float(tasks.goal[t])
                    gain = g * v if task == "direction" else -abs(v - g)
                    assert float(found.rewards[t, m, h]) == pytest.approx(
                        gain - 0.05 * float((a**2).sum()), abs=1e-6
                    )

    def test_goals_are_two_directions_or_a_range_of_speeds(self):
        assert set(HalfCheetah("direction").sample_goals(50, rng(0)).flatten().tolist()) == {-1.0, 1.0}
        speeds = HalfCheetah("velocity").sample_goals(500, rng(0))
        assert 0 <= float(speeds.min()) < 0.1 and 1.9 < float(speeds.max()) <= 2

    def test_the_same_command_trains_it(self, tmp_path, capsys):
        args = ["--preset", "quick", "--device", "cpu", "--out", str(tmp_path / "run"), "--tasks", "2"]
        assert main(["train", "maml-cheetah-velocity", *args]) == 0
        record = json.loads((tmp_path / "run" / "record.json").read_text())
        assert record["evaluation"]["protocol"]["reward"] == "velocity"
        assert (
            main(["evaluate", str(tmp_path / "run" / "checkpoint.safetensors"), "--tasks", "2", "--json"])
            == 0
        )
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["metric"] == "return"


def test_tasks_keep_their_seeds_when_they_are_cast():
    tasks = Goals(Navigation(horizon=2), 2, 1).sample(2, rng(0)).to(F64)
    assert isinstance(tasks, RolloutTasks) and tasks.reset.dtype == torch.int64 and tasks.noise.dtype == F64
