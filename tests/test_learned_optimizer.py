"""Learned optimisers: the network against PyTorch's own, rivals against torch.optim, gradients by adjoints and differences."""

import json
import math
from dataclasses import replace

import pytest
import torch
from package_fixtures import rng

from mlbook import experiments
from mlbook.augmentation.operations import distorted
from mlbook.cli import main
from mlbook.data import glyphs
from mlbook.errors import UserError
from mlbook.experiments.optimizers import COPIES
from mlbook.optimizers import (
    HAND_DESIGNED,
    Adam,
    Classifier,
    LearnedOptimizer,
    Quadratic,
    RMSprop,
    losses,
    tuned,
)
from mlbook.optimizers.learned_optimizer import log_and_sign
from mlbook.optimizers.rules import SGD
from mlbook.pages import checks
from mlbook.pages.checks import learned_steps
from mlbook.tasks.optimization_problems import Bowls, ImageProblems, QuadraticProblem, Quadratics
from mlbook.training.evaluation import evaluate
from mlbook.training.runner import run


def double(problems):
    return problems.to(torch.float64)


def learner(optimizee=None, **options):
    return LearnedOptimizer(Quadratic() if optimizee is None else optimizee, **{"scale": 0.1, **options})


def double_phi(of, seed=0):
    phi = of.init(rng(seed)).meta["params"]
    return {name: p.double() for name, p in phi.items()}


# -- problems ------------------------------------------------------------------------------------------------------------


def test_quadratics_are_those_of_the_official_code():
    problems = Quadratics().sample(2_000, rng())
    assert problems.W.shape == (2_000, 10, 10) and problems.n_tasks == 2_000
    for field in (problems.W, problems.y):
        assert 0 <= field.min() and field.max() < 1 and abs(float(field.mean()) - 0.5) < 0.01
    assert float(problems.start.std()) == pytest.approx(0.01, rel=0.05)
    one = problems.task(3)
    f = Quadratic().loss(problems.start, problems)
    assert float(f[3]) == pytest.approx(float((one.W @ one.start - one.y).square().sum()))


def test_a_bowl_has_the_curvatures_it_says_and_its_bottom_at_the_origin():
    problems = double(Bowls((0.5, 8.0), 2.0).sample(50, rng()))
    hessian = 2 * problems.W.transpose(1, 2) @ problems.W
    values = torch.linalg.eigvalsh(hessian)
    assert 0.5 - 1e-5 < values.min() and values.max() < 8 + 1e-4 and values.max() > 5
    assert Quadratic().loss(torch.zeros_like(problems.start), problems).abs().max() == 0
    assert problems.start.abs().max() <= 2


@pytest.fixture(scope="module")
def images():
    sizes = Classifier((784, 5, 3), "sigmoid")
    pool = glyphs.load("train")
    return sizes, ImageProblems(pool, sizes.coordinates, steps=6, n_way=3, batch=16)


def test_image_problems_have_all_drawings_of_their_classes(images):
    optimizee, problems = images
    drawn = problems.sample(4, rng())
    examples = problems.pool.n_examples
    assert drawn.x.shape == (4, 3 * examples, 784) and drawn.batches.shape == (4, 6, 16)
    assert drawn.labels[0].bincount().tolist() == [examples] * 3
    assert (
        drawn.start.shape == (4, optimizee.coordinates) and optimizee.coordinates == 784 * 5 + 5 + 5 * 3 + 3
    )
    # the judgement on all images is the mean over the images, and a mini-batch's that over its images
    logits = optimizee.logits(drawn.start, drawn.x)[2]
    wanted = torch.nn.functional.cross_entropy(logits, drawn.labels[2])
    assert torch.allclose(optimizee.judged(drawn.start, drawn)[2], wanted)
    rows = drawn.batches[2, 4]
    wanted = torch.nn.functional.cross_entropy(logits[rows], drawn.labels[2][rows])
    assert torch.allclose(optimizee.loss(drawn.start, drawn, 4)[2], wanted)


def test_one_set_is_the_same_for_all_problems_and_its_splits_are_other_distortions():
    config = experiments.config(experiments.get("learned-optimizer-mlp-one-set"), "quick")
    config |= {"dataset": "glyphs", "n_way": 3}
    drawings = glyphs.load("train").images[:3]
    found = {s: experiments.build_tasks(config, s) for s in ("train", "validation", "test")}
    for tasks in found.values():
        assert tasks.pool.images.shape == (3, drawings.shape[1] * COPIES, *drawings.shape[2:])
        a, b = (tasks.sample(1, rng(seed)) for seed in (0, 1))
        assert torch.equal(a.x.sum(1), b.x.sum(1)) or torch.allclose(a.x.sum(1), b.x.sum(1))
        assert not torch.equal(a.batches, b.batches) and not torch.equal(a.start, b.start)
    again = experiments.build_tasks(config, "train").pool.images
    assert torch.equal(again, found["train"].pool.images)
    assert not torch.equal(again, found["test"].pool.images)
    # the mean of an image's distortions is close to it in place: nothing is turned over or thrown out of the frame
    ink = found["train"].pool.images.float().view(3, drawings.shape[1], COPIES, -1).mean((2, 3))
    assert torch.allclose(ink, drawings.float().flatten(2).mean(2), rtol=0.3)


def test_a_distortion_of_strength_0_is_the_drawing():
    pool = glyphs.load("train")
    same = distorted(pool, 2, 3, 0.0, rng()).images
    assert torch.equal(same, pool.images[:2].repeat_interleave(3, 1))


def test_the_published_network_has_15910_coordinates():
    assert Classifier().coordinates == 784 * 20 + 20 + 20 * 10 + 10 == 15_910
    with pytest.raises(UserError, match="activation"):
        Classifier(activation="step")


# -- rules ---------------------------------------------------------------------------------------------------------------

PEERS = [
    (SGD(0.01), torch.optim.SGD, {"lr": 0.01}),
    (SGD(0.01, 0.9), torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    (SGD(0.01, 0.9, True), torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    (RMSprop(0.01), torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9}),
    (Adam(0.03), torch.optim.Adam, {"lr": 0.03}),
]


@pytest.mark.parametrize(("rule", "peer", "options"), PEERS, ids=lambda v: getattr(v, "__name__", None))
def test_a_rule_is_that_of_torch(rule, peer, options):
    problems = double(Quadratics(4).sample(3, rng()))
    ours = losses(rule, Quadratic(), problems, 12)
    theta = problems.start.clone().requires_grad_()
    optimizer, theirs = peer([theta], **options), []
    for _ in range(13):
        f = Quadratic().loss(theta, problems)
        theirs.append(f.detach())
        (theta.grad,) = torch.autograd.grad(f.sum(), theta)
        optimizer.step()
    assert torch.allclose(ours, torch.stack(theirs, 1), rtol=1e-9, atol=1e-12)


def test_tuning_takes_the_best_rate_and_survives_divergence():
    problems = Quadratics().sample(16, rng())
    best, found = tuned(HAND_DESIGNED["SGD"], Quadratic(), problems, 50)
    assert found[best] == min(found.values()) and found[5.0] == math.inf


# -- the network ---------------------------------------------------------------------------------------------------------


def test_preprocessing_is_the_papers():
    p, gradient = 10.0, torch.tensor([3.0, -1e-3, 1e-4, -1e-6, 0.0, math.exp(-10)], dtype=torch.float64)
    found = log_and_sign(gradient, p)
    for (first, second), g in zip(found.tolist(), gradient.tolist(), strict=True):
        if abs(g) >= math.exp(-p):
            assert (first, second) == (pytest.approx(math.log(abs(g)) / p), math.copysign(1, g))
        else:
            assert (first, second) == (-1, pytest.approx(math.exp(p) * g))


def test_the_network_has_5141_weights_and_is_torchs_lstm():
    mine = learner(p=10.0)
    phi = double_phi(mine)
    assert sum(t.numel() for t in phi.values()) == 5_141
    theirs = torch.nn.LSTM(2, 20, 2).double()
    order = torch.tensor([0, 1, 3, 2])  # torch has the candidate before the output gate
    with torch.no_grad():
        for k, inputs in enumerate((2, 20)):
            weight = phi[f"lstm.{k}.weight"].unflatten(0, (4, 20))[order].flatten(0, 1)
            getattr(theirs, f"weight_ih_l{k}").copy_(weight[:, :inputs])
            getattr(theirs, f"weight_hh_l{k}").copy_(weight[:, inputs:])
            getattr(theirs, f"bias_ih_l{k}").copy_(phi[f"lstm.{k}.bias"].view(4, 20)[order].flatten())
            getattr(theirs, f"bias_hh_l{k}").zero_()
    gradients = torch.randn(7, 3, 2, generator=rng(), dtype=torch.float64)  # steps, problems, coordinates
    rule = mine.rule(phi)
    memory, found = rule.fresh(gradients[0]), []
    for gradient in gradients:
        change, memory = rule.update(gradient, memory)
        found.append(change)
    out, _ = theirs(log_and_sign(gradients.flatten(), 10.0).view(7, 6, 2))
    wanted = 0.1 * (out @ phi["output.weight"][0] + phi["output.bias"])
    assert torch.allclose(torch.stack(found).view(7, 6), wanted, atol=1e-12)


def test_every_coordinate_is_served_alike():
    """Permuting the coordinates of a problem permutes its path; another problem in the batch changes nothing."""
    mine = learner()
    phi = double_phi(mine)
    problems = double(Quadratics(5).sample(3, rng()))
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = QuadraticProblem(problems.W[:, :, order], problems.y, problems.start[:, order])
    a = losses(mine.rule(phi), Quadratic(), problems, 8)
    assert torch.allclose(a, losses(mine.rule(phi), Quadratic(), turned, 8))
    alone = QuadraticProblem(*(field[1:2] for field in problems))
    assert torch.allclose(a[1:2], losses(mine.rule(phi), Quadratic(), alone, 8))


# -- the outer gradient --------------------------------------------------------------------------------------------------


def objective(mine, problems, phi, *, drop):
    """Sum over one unroll from the start, by the training's own code."""
    from mlbook.meta_learners import bilevel

    of = learner(p=mine.p, units=mine.units, steps=mine.steps, unroll=mine.steps, second_derivatives=not drop)
    return bilevel.exact(of.unrolled(problems), of.steps)(phi)


@pytest.mark.parametrize("p", [None, 10.0])
@pytest.mark.parametrize("drop", [True, False], ids=["dropped", "kept"])
def test_autograd_adjoints_and_finite_differences_agree(p, drop):
    mine = learner(p=p, units=6, steps=7)
    phi = double_phi(mine)
    problem = double(Quadratics(4).sample(1, rng(4)))

    def f(theta):
        return Quadratic().loss(theta[None], problem)[0]

    start = problem.start[0]
    auto = objective(mine, problem, phi, drop=drop).gradient
    mine_again = learned_steps.by_adjoints(f, mine.rule, phi, start, 7, second_derivatives=not drop)
    assert checks.relative_distance({"": auto}, {"": mine_again}) < 1e-12

    points, _ = learned_steps.run(f, mine.rule(phi), start, 7)
    gradients = [torch.func.grad(f)(point) for point in points[:-1]]

    def value(meta):
        if drop:
            return learned_steps.loss_with_given_gradients(f, mine.rule, meta[""], start, gradients)
        return learned_steps.summed_loss(f, mine.rule, meta[""], start, 7)

    found = checks.compare_gradient(value, {"": auto}, {"": phi}, generator=rng(2))
    assert max(c.relative_error for c in found) < 1e-6


def test_what_is_dropped_matters():
    mine = learner(units=6, steps=7)
    phi, problem = double_phi(mine), double(Quadratics(4).sample(1, rng(4)))
    kept, dropped = (objective(mine, problem, phi, drop=drop).gradient for drop in (False, True))
    assert checks.relative_distance({"": dropped}, {"": kept}) > 1e-3


def test_the_gradient_of_an_image_problem(images):
    optimizee, problems = images
    drawn = double(problems.sample(2, rng()))
    mine = learner(optimizee, units=4, steps=3, unroll=3, p=10.0, second_derivatives=True)
    from mlbook.meta_learners import bilevel

    phi = double_phi(mine)
    estimate = bilevel.exact(mine.unrolled(drawn), 3)
    gradient = estimate(phi).gradient
    found = checks.compare_gradient(
        lambda meta: estimate(meta[""]).value, {"": gradient}, {"": phi}, generator=rng(1)
    )
    assert max(c.relative_error for c in found) < 1e-5


# -- training ------------------------------------------------------------------------------------------------------------


def test_a_meta_step_is_one_run_with_an_outer_step_after_every_unroll(monkeypatch):
    mine = learner(steps=7, unroll=3)
    state, calls = mine.init(rng()), []
    step = state.optimizer.step
    monkeypatch.setattr(state.optimizer, "step", lambda: (calls.append(1), step())[1])
    state, metrics = mine.step(state, Quadratics(3).sample(4, rng()))
    assert len(calls) == 3 and state.meta_step == 1 and math.isfinite(float(metrics["loss"]))


def test_forty_meta_steps_teach_it_something():
    mine = learner(steps=40, meta_lr=3e-3)
    state, generator = mine.init(rng()), rng(1)
    test = Bowls().sample(200, rng(7))
    before = mine.scores(state.meta, test, 40, [40]).median()
    for _ in range(40):
        state, _ = mine.step(state, Bowls().sample(32, generator))
    after = mine.scores(state.meta, test, 40, [40]).median()
    assert after < before / 5


def test_evaluation_takes_the_same_problems_for_all_and_gives_the_losses_of_every_step():
    mine = learner()
    meta = mine.init(rng()).meta
    found = evaluate(mine, meta, Quadratics(), n_tasks=40, steps=5, seed=3)
    again = evaluate(mine, meta, Quadratics(), n_tasks=40, steps=5, seed=3, scored_steps=[0, 5])
    assert found.metric == "loss" and len(found.mean) == 6 and found.value == again.value == found.mean[5]


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"unroll": 0}, {"units": 0}, {"p": -1.0}, {"meta_lr_decay": "linear"}]
)
def test_bad_settings_are_refused(options):
    with pytest.raises(UserError):
        learner(**options)


# -- as an experiment ----------------------------------------------------------------------------------------------------

NAMES = ("learned-optimizer-quadratic", "learned-optimizer-mlp-glyphs", "pes-optimizer-quadratic")


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_run_ends_in_the_same_weights(name, tmp_path, monkeypatch):
    experiment = experiments.get(name)
    tiny = {"quick": replace(experiment.presets["quick"], meta_batch_size=2, evaluation_tasks=2)}
    learner = {**experiment.learner, "steps": 6, "unroll": 3}
    changed = replace(experiment, presets=tiny, learner=learner, test_steps=6, report_step=6)
    monkeypatch.setitem(experiments.EXPERIMENTS, name, changed)
    options = {"device": "cpu", "meta_steps": 4, "checkpoint_seconds": 0}
    run(name, out=tmp_path / "whole", **options)
    assert run(name, out=tmp_path / "parts", time_limit=1e-9, **options) is None
    run(name, out=tmp_path / "parts", resume=True, **options)
    whole, parts = ((tmp_path / n / "checkpoint.safetensors").read_bytes() for n in ("whole", "parts"))
    assert whole == parts


def test_the_command_line_evaluates_a_checkpoint(tmp_path, capsys):
    arguments = ["train", "learned-optimizer-bowl", "--meta-steps", "2", "--tasks", "4", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    checkpoint = str(tmp_path / "run" / "checkpoint.safetensors")
    capsys.readouterr()
    assert main(["evaluate", checkpoint, "--tasks", "30", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "loss" and found["tasks"] == 30 and found["step"] == 60
    assert found["protocol"]["steps"] == 60


def test_an_unknown_function_is_refused():
    from mlbook.experiments import optimizers

    for model in ("cubic", "mlp_784_10", "mlp_784-x_relu", "cnn_784-10_relu"):
        with pytest.raises(UserError):
            optimizers.optimizee(model)
