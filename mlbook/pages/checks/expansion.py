"""The Taylor expansion of MAML, FOMAML and Reptile for small inner steps, measured term by term.

A task offers k losses L₁ … L_k, one per mini-batch. φ₁ is the initialisation, φᵢ₊₁ = φᵢ − α gᵢ, gᵢ = Lᵢ′(φᵢ); a bar means
"at φ₁": ḡᵢ = Lᵢ′(φ₁), H̄ᵢ = Lᵢ″(φ₁). Greek to Python: φ₁ ``params``, α ``inner_lr``.

Source: Nichol et al. (2018), section 5.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product

import torch
from torch import Tensor
from torch.func import grad, vmap

from mlbook.errors import UserError
from mlbook.models import MLP, call
from mlbook.models.functional import Params, initial_params
from mlbook.pages.checks.gradients import hessian_vector
from mlbook.tasks import Sinusoids

Batch = dict[str, Tensor]
"""The tensors that make a loss out of parameters. Several batches: one more axis in front of every tensor."""
Loss = Callable[[Params, Batch], Tensor]
"""(params, one batch) -> scalar."""

METHODS = ("maml", "fomaml", "reptile")


# -- one sequence of k mini-batches ---------------------------------------------------------------------------------


def inner_sgd(
    loss: Loss,
    params: Params,
    batches: Batch,
    inner_lr: float,
) -> tuple[list[Params], list[Params]]:
    """One SGD step on each of the k batches [k, ...]: the points φ₁ … φ_{k+1} and the gradients g₁ … g_k."""
    points, gradients = [params], []  # [EXACT 1]
    for i in range(length(batches)):  # [EXACT 2]
        g = grad(loss)(points[-1], pick(batches, i))  # [EXACT 3]
        points.append(add(points[-1], g, -inner_lr))  # [EXACT 4]
        gradients.append(g)
    return points, gradients


def meta_gradients(
    loss: Loss,
    params: Params,
    batches: Batch,
    inner_lr: float,
) -> dict[str, Params]:
    """The three exact meta-gradients of one sequence of k batches [k, ...]; the last batch is the query batch of MAML."""
    k = length(batches)
    _, g = inner_sgd(loss, params, batches, inner_lr)

    def last_loss(start: Params) -> Tensor:  # L_k(φ_k) as a function of φ₁
        support = pick(batches, slice(0, k - 1))
        points, _ = inner_sgd(loss, start, support, inner_lr)
        return loss(points[-1], pick(batches, k - 1))

    return {
        "reptile": total(g),  # [EXACT 5]
        "fomaml": g[-1],  # [EXACT 6]
        "maml": grad(last_loss)(params),  # [EXACT 7]
    }


def expanded(
    loss: Loss,
    params: Params,
    batches: Batch,
    inner_lr: float,
    order: int = 1,
) -> dict[str, Params]:
    """The same three, expanded at φ₁ up to α⁰ (``order`` 0) or α¹ (``order`` 1), still without any expectation."""
    if order not in (0, 1):
        raise UserError(f"order must be 0 or 1, not {order}")
    g = vmap(grad(loss), in_dims=(None, 0))(params, batches)  # ḡᵢ, [k, ...]
    last, every = pick(g, -1), {name: t.sum(0) for name, t in g.items()}
    leading = {"maml": last, "fomaml": last, "reptile": every}
    if order == 0:
        return leading

    def Hv(batch: Batch, v: Params) -> Params:
        return hessian_vector(lambda p: loss(p, batch), params, v)

    before = {name: t.cumsum(0) - t for name, t in g.items()}  # Σ_{j<i} ḡⱼ
    inner = vmap(Hv)(batches, before)  # H̄ᵢ Σ_{j<i} ḡⱼ
    own = vmap(Hv, in_dims=(0, None))(batches, last)  # H̄ⱼ ḡ_k
    second = {
        "maml": {name: inner[name][-1] + own[name][:-1].sum(0) for name in g},
        "fomaml": pick(inner, -1),
        "reptile": {name: t.sum(0) for name, t in inner.items()},
    }
    return {name: add(leading[name], second[name], -inner_lr) for name in METHODS}


def coefficients(method: str, k: int) -> tuple[float, float]:
    """(a, b) of the expected meta-gradient a·AvgGrad − b·α·AvgGradInner + O(α²) for k mini-batches."""
    if method not in METHODS or k < 1:
        raise UserError(f"method must be one of {', '.join(METHODS)} and k at least 1, not {method!r}, {k}")
    return {"maml": (1, 2 * (k - 1)), "fomaml": (1, k - 1), "reptile": (k, k * (k - 1) / 2)}[method]


# -- exact expectations over tasks and mini-batches -----------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """T tasks of m mini-batches each. Small enough that an expectation is a finite sum over all that can be drawn."""

    loss: Loss
    params: Params
    """φ₁, float64."""
    batches: Batch
    """Every tensor [T, m, ...]."""

    @property
    def m(self) -> int:
        """Mini-batches of each task."""
        return next(iter(self.batches.values())).shape[1]


def sequences(m: int, k: int, plan: str) -> Tensor:
    """All equally likely draws of k out of m mini-batches, [draws, k], under a sampling plan:

    ``independent`` every step draws afresh, with replacement; ``distinct`` without replacement; ``same`` one batch for all
    k steps; ``separate tail`` one batch for k − 1 steps and an independent one for the last.
    """
    if plan == "independent":
        rows = product(range(m), repeat=k)
    elif plan == "distinct" and k <= m:
        rows = permutations(range(m), k)
    elif plan == "same":
        rows = ((b,) * k for b in range(m))
    elif plan == "separate tail":
        rows = ((b,) * (k - 1) + (c,) for b, c in product(range(m), repeat=2))
    else:
        raise UserError(f"no plan {plan!r} that draws {k} of {m} mini-batches")
    return torch.tensor(list(rows))


def expectation(
    function: Callable[[Params, Batch], object],
    problem: Problem,
    draws: Tensor,
):
    """The mean of ``function(params, batches [k, ...])`` over all tasks and all ``draws`` [draws, k]."""
    drawn = {name: t[:, draws] for name, t in problem.batches.items()}
    rows = {name: t.flatten(0, 1) for name, t in drawn.items()}  # [T·draws, k, ...]
    return mean_of_rows(vmap(function, in_dims=(None, 0))(problem.params, rows))


def expected_meta_gradients(
    problem: Problem,
    draws: Tensor,
    inner_lr: float,
) -> dict[str, Params]:
    """The three exact meta-gradients, averaged over all tasks and draws."""

    def exact(params: Params, batches: Batch) -> dict[str, Params]:
        return meta_gradients(problem.loss, params, batches, inner_lr)

    return expectation(exact, problem, draws)


def average_terms(problem: Problem, draws: Tensor) -> dict[str, Params]:
    """AvgGrad = E[ḡ₁], and AvgGradInner three times: as E[H̄₂ḡ₁], as E[H̄₁ḡ₂] and as ½ ∂E[ḡ₁·ḡ₂] (``draws`` [draws, ≥ 2])."""
    loss = problem.loss

    def terms(params: Params, b: Batch) -> dict[str, Params]:
        g1, g2 = (grad(loss)(params, pick(b, i)) for i in (0, 1))
        return {
            "AvgGrad": g1,
            "H2 g1": hessian_vector(lambda p: loss(p, pick(b, 1)), params, g1),
            "H1 g2": hessian_vector(lambda p: loss(p, pick(b, 0)), params, g2),
            "half the slope of g1.g2": grad(
                lambda p: 0.5 * dot(grad(loss)(p, pick(b, 0)), grad(loss)(p, pick(b, 1)))
            )(params),
        }

    return expectation(terms, problem, draws)


def gradient_moments(problem: Problem, params: Params | None = None) -> dict[str, Tensor]:
    """E_τ‖G_τ‖² with the task gradient G_τ = E[ḡ | τ], and E_τ tr Cov(ḡ | τ), the variance between its mini-batches."""
    params = problem.params if params is None else params
    over_batches = vmap(lambda p, b: flat(grad(problem.loss)(p, b)), in_dims=(None, 0))
    g = vmap(over_batches, in_dims=(None, 0))(params, problem.batches)  # [T, m, P]
    G = g.mean(1, keepdim=True)  # [T, 1, P]
    return {"size": G.square().sum(-1).mean(), "variance": (g - G).square().sum(-1).mean()}


def moment_slopes(problem: Problem) -> dict[str, Params]:
    """½ ∂E‖G_τ‖² and ½ ∂E tr Cov at φ₁: what AvgGradInner is made of, plan by plan."""
    return {
        name: grad(lambda p, name=name: 0.5 * gradient_moments(problem, p)[name])(problem.params)
        for name in ("size", "variance")
    }


def plan_weights(method: str, draws: Tensor, m: int) -> tuple[float, float, float]:
    """(a, b, c) of a·AvgGrad − α·(b·½ ∂E‖G‖² + c·½ ∂E tr Cov) + O(α²) for ``draws`` [draws, k] out of m ≥ 2 mini-batches.

    E[ḡᵢ·ḡⱼ | τ] = ‖G‖² + cᵢⱼ·tr Cov, and cᵢⱼ = (m·qᵢⱼ − 1)/(m − 1) where qᵢⱼ is the share of draws with the same mini-batch at
    steps i and j: 1 if it is always the same, 0 for independent draws, −1/(m − 1) for distinct ones. The plan must treat all
    mini-batches alike, and steps i and j alike.
    """
    k = draws.shape[1]
    same = (draws[:, :, None] == draws[:, None, :]).double().mean(0)  # [k, k]
    c = (m * same - 1) / (m - 1)
    pairs = {"maml": 2 * c[-1, :-1].sum(), "fomaml": c[-1, :-1].sum(), "reptile": c.tril(-1).sum()}
    return (*coefficients(method, k), float(pairs[method]))


# -- reading coefficients and orders off --------------------------------------------------------------------------------


def fit(vector: Params, terms: list[Params]) -> tuple[list[float], float]:
    """Least squares ``vector`` ≈ Σ cᵢ·termsᵢ: the coefficients, and the length of what is left relative to ``vector``."""
    A, b = torch.stack([flat(t) for t in terms], dim=1), flat(vector)
    scale = A.norm(dim=0)  # a small second term must not drown in rounding
    c = torch.linalg.lstsq(A / scale, b[:, None]).solution[:, 0] / scale
    return c.tolist(), float((A @ c - b).norm() / b.norm())


def remainder(exact: Params, terms: list[Params], claimed: list[float]) -> float:
    """‖exact − Σ claimedᵢ·termsᵢ‖."""
    return float((flat(exact) - sum(c * flat(t) for c, t in zip(claimed, terms, strict=True))).norm())


def slope(x: list[float], y: list[float]) -> float:
    """Slope of the least-squares line through (log x, log y): the order of a remainder in x."""
    X, Y = (torch.tensor(v, dtype=torch.float64).log() for v in (x, y))
    X, Y = X - X.mean(), Y - Y.mean()
    return float((X * Y).sum() / X.square().sum())


# -- two problems ---------------------------------------------------------------------------------------------------------


def polynomial_loss(params: Params, batch: Batch) -> Tensor:
    """Mean over n ridge polynomials of degree four, p(u·φ) with p(t) = c₁t + c₂t² + c₃t³ + c₄t⁴; u [n, d], c [n, 4]."""
    t = batch["u"] @ params["phi"]
    return (batch["c"] * torch.stack([t, t**2, t**3, t**4], dim=-1)).sum(-1).mean()


def polynomial_problem(generator: torch.Generator, *, tasks=3, m=3, n=4, d=6) -> Problem:
    """Random polynomial losses: every derivative up to the fourth is there, and no network."""
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    scale = torch.tensor([1.0, 0.5, 0.3, 0.1], dtype=torch.float64)
    return Problem(
        polynomial_loss,
        {"phi": 0.5 * randn(d)},
        {"u": randn(tasks, m, n, d) / d**0.5, "c": scale * randn(tasks, m, n, 4)},
    )


def network_problem(
    generator: torch.Generator, *, tasks=4, m=3, n=4, hidden=8, noise: float | None = None
) -> Problem:
    """Sine waves and a tanh network with a squared error: m mini-batches of n points per task, float64.

    noise: with a number, every mini-batch gets a twin (m becomes 2m), and ±noise·ξ is added to the targets of the two. The mean
    of the task's losses changes by a constant only: the task gradient stays what it was, and the variance between
    mini-batches grows.
    """
    model = MLP((1, hidden, hidden, 1), activation="tanh", init_std=0.7)
    params = {name: p.double() for name, p in initial_params(model, generator).items()}
    data = Sinusoids(m * n, 1).sample(tasks, generator)
    x, y = (t.double().view(tasks, m, n, 1) for t in (data.support_x, data.support_y))
    if noise is not None:
        xi = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        x, y = torch.cat([x, x], dim=1), torch.cat([y + noise * xi, y - noise * xi], dim=1)

    def loss(params: Params, batch: Batch) -> Tensor:
        return (call(model, params, batch["x"]) - batch["y"]).square().mean()

    return Problem(loss, params, {"x": x, "y": y})


# -- algebra on dictionaries --------------------------------------------------------------------------------------------------


def length(batches: Batch) -> int:
    """How many batches there are, k."""
    return next(iter(batches.values())).shape[0]


def pick(batches: Batch, index) -> Batch:
    """One of the batches, or those of a slice."""
    return {name: t[index] for name, t in batches.items()}


def add(a: Params, b: Params, factor: float) -> Params:
    """a + factor · b."""
    return {name: a[name] + factor * b[name] for name in a}


def total(vectors: list[Params]) -> Params:
    """The sum of vectors that are laid out as parameters."""
    return {name: sum(v[name] for v in vectors) for name in vectors[0]}


def mean_of_rows(values):
    """The mean over the first axis of every tensor in a dictionary, or in a dictionary of dictionaries."""
    return values.mean(0) if isinstance(values, Tensor) else {n: mean_of_rows(v) for n, v in values.items()}


def dot(a: Params, b: Params) -> Tensor:
    """⟨a, b⟩, a scalar."""
    return sum((a[name] * b[name]).sum() for name in a)


def flat(params: Params) -> Tensor:
    """One vector [P]."""
    return torch.cat([p.flatten() for p in params.values()])
