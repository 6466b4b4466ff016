"""A learned optimiser trained by evolution strategies: particles against one run after the other, and against backpropagation."""

from dataclasses import replace

import pytest
import torch
from package_fixtures import rng

from mlbook import experiments
from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.meta_learners.evolution import evolution_windows
from mlbook.optimizers import LearnedOptimizer, Quadratic
from mlbook.optimizers.evolved import EvolvedOptimizer, given
from mlbook.tasks.optimization_problems import Perturbed, Quadratics

OPTIONS = {"units": 3, "layers": 2, "p": 4.0, "scale": 0.1, "steps": 6, "unroll": 3}


def evolved(**options):
    return EvolvedOptimizer(Quadratic(), **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def small():
    """A learner in float64, its weights and three perturbed problems."""
    its = evolved()
    phi = {name: p.double() for name, p in its.init(rng(1)).meta["params"].items()}
    return its, phi, Perturbed(Quadratics(4), its.windows, its.weights).sample(3, rng(2)).to(torch.float64)


def along(phi, direction, sigma):
    """φ + σ · one row of noise."""
    names = sorted(phi)
    parts = direction.split([phi[name].numel() for name in names])
    return {n: phi[n] + sigma * part.view_as(phi[n]) for n, part in zip(names, parts, strict=True)}


def estimates(its, phi, problems, persistent, sigma):
    options = {"sigma": sigma, "pairs": problems.n_tasks, "persistent": persistent}
    particles = its.population(phi, problems.problems)
    return list(evolution_windows(particles, its.steps, its.unroll, noise=given(problems.noise), **options))


def flat(gradient):
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)])


@pytest.mark.parametrize("persistent", [True, False])
def test_particles_are_runs_one_after_the_other(small, persistent):
    """The losses by ``LearnedOptimizer``'s own loop, window after window."""
    its, phi, problems = small
    sigma, wanted = 0.05, [0.0, 0.0]
    plain = LearnedOptimizer(Quadratic(), **OPTIONS)
    for i in range(3):
        run = plain.unrolled(problems.problems._make(field[i : i + 1] for field in problems.problems))
        slopes = []
        for sign in (1, -1):
            state, own = run.start(), run.start()
            for w in range(2):
                before = state if persistent or w == 0 else own
                moved, total = along(phi, sign * problems.noise[i, w], sigma), 0.0
                state = before
                for t in range(3 * w, 3 * w + 3):
                    state = run.step(moved, run.cut(state), t)
                    total = total + run.loss(moved, state, t + 1)
                    own = run.cut(run.step(phi, run.cut(own), t))
                slopes.append(sign * float(total.detach()) / (2 * sigma))
        for w in range(2):
            credited = problems.noise[i, : w + 1].sum(0) if persistent else problems.noise[i, w]
            wanted[w] = wanted[w] + (slopes[w] + slopes[2 + w]) * credited / 3
    for estimate, gradient in zip(estimates(its, phi, problems, persistent, sigma), wanted, strict=True):
        assert torch.allclose(flat(estimate(phi).gradient), gradient, rtol=1e-9)


def test_a_pair_finds_the_slope_of_truncated_backpropagation_as_sigma_falls(small):
    """ε · g for the window's own gradient, second derivatives kept; the error falls with σ²."""
    its, phi, problems = small
    one = type(problems)(*(field[:1] for field in problems))
    keeping = LearnedOptimizer(Quadratic(), **OPTIONS, second_derivatives=True)
    run = keeping.unrolled(one.problems)
    errors = []
    for sigma in (1e-2, 5e-3, 2.5e-3):
        windows = bilevel.windows(run, 6, 3)
        gaps = []
        for w, (es, exact) in enumerate(zip(estimates(its, phi, one, False, sigma), windows, strict=True)):
            epsilon = one.noise[0, w]
            slope = flat(es(phi).gradient) @ epsilon / epsilon.square().sum()
            wanted = flat(exact(phi).gradient) @ epsilon
            gaps.append(abs(float((slope - wanted) / wanted)))
        errors.append(max(gaps))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.3)


def test_a_meta_step_moves_the_weights_once_a_window(small):
    its, _, _ = small
    state = its.init(rng(1))
    before = {name: p.clone() for name, p in state.meta["params"].items()}
    state, metrics = its.step(state, Perturbed(Quadratics(4), its.windows, its.weights).sample(8, rng(3)))
    assert state.meta_step == 1 and float(metrics["loss"]) > 0
    assert all(s["step"] == 2 for s in state.optimizer.state_dict()["state"].values())
    assert any((state.meta["params"][name] != p).any() for name, p in before.items())
    with pytest.raises(UserError, match="sigma"):
        evolved(sigma=0.0)


def test_the_four_trainings_differ_in_the_estimate_only():
    names = [n for n in experiments.EXPERIMENTS if n.startswith(("pes-opt", "es-opt", "small-opt"))]
    configs = [experiments.config(name, "colab") for name in names]
    assert len(names) == 4
    apart = {"method", "sigma", "persistent", "second_derivatives", "unroll"}
    same = [{k: v for k, v in c["learner"].items() if k not in apart} for c in configs]
    assert all(c == same[0] for c in same)
    for config in configs:  # equal price: a pair is two runs, a derivative that is kept four
        runs = 2 if config["learner"]["method"] == "evolved_optimizer" else 4
        assert config["meta_batch_size"] * runs == 256
    learner = experiments.build_learner(configs[0])
    assert replace(learner, unroll=30).windows == 4
    assert isinstance(experiments.build_tasks(configs[0], "train"), Perturbed)
    assert isinstance(experiments.build_tasks(configs[0], "test"), Quadratics)
