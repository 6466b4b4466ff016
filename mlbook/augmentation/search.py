"""Search for a policy of data augmentation: DADA (Li et al. 2020), and random policies and RandAugment with the same budget.

A task is a small set of images (``tasks.small_sets``); the child is a small network that is trained on it from scratch. DADA
moves the policy ψ (logits π of pairs, logits β of applying each operation, magnitudes m) with every step of the child θ, by how
one step of the child on augmented images changes the loss on held-back images:

    J(ψ) = E_{c, b}[ L_val(θ − ζ ∇L_train(θ; c, b, m)) ],
    −ζ ‖g‖ (L_train(θ⁺; c, b, m) − L_train(θ⁻; c, b, m)) / 2ε,   θ± = θ ± ε g/‖g‖,   g = ∇L_val(θ'),

where the second line, f in the code, has to first order in ζ the same derivative in ψ (equations 12 and 13 of the paper).
It is small where the augmented training images pull θ the same way as the held-back ones. One draw (c, b) serves a whole
mini-batch of a child; the T children of a meta-batch make T draws at once. Every child step has one outer step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.augmentation.operations import (
    PAIRS,
    Chance,
    augment,
    draw_strengths,
    no_augmentation,
    rand_augment,
    random_policy,
    start_policy,
    strengths,
)
from mlbook.errors import UserError
from mlbook.meta_learners.base import AllReduce, Meta, MetaLearner, State, no_reduce
from mlbook.meta_learners.bilevel import Estimate, Outer, gradient_of, outer_step
from mlbook.meta_learners.relax import draw_choices, surrogate
from mlbook.models.functional import Params
from mlbook.optimizers.optimizees import Classifier
from mlbook.tasks.small_sets import SmallSet


@dataclass(frozen=True)
class Child:
    """How the small network is trained: gradient descent with momentum on all training images, augmented anew at each step."""

    network: Classifier
    rate: float = 0.1
    """ζ."""
    momentum: float = 0.9

    def start(self, n: int, generator: torch.Generator, device) -> Tensor:
        """θ_0 [n, P]: weights N(0, 2 / inputs), biases 0."""
        parts, sizes = [], self.network.sizes
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            weights = (2 / a) ** 0.5 * torch.randn(n, a * b, generator=generator, device=device)
            parts += [weights, torch.zeros(n, b, device=device)]
        return torch.cat(parts, 1)

    def losses(self, theta: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of every child [T]; theta [T, P], x [T, B, C, H, W]."""
        logits = self.network.logits(theta, x.flatten(2))
        return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)

    def accuracy(self, theta: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        return (self.network.logits(theta, x.flatten(2)).argmax(-1) == labels).float().mean(1)

    def gradient(self, theta: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        point = theta.detach().requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self.losses(point, x, labels).sum(), point)
        return found

    def train(
        self, policy: Params, problems: SmallSet, steps: int, scored: Sequence[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Every child under a fixed policy, which draws for each image by itself: θ [T, P], and the accuracies [T] on held-back
        images after the ``scored`` steps. The same problems meet the same start and the same chance under every policy."""
        generator = generator_of(problems)
        T, M = problems.labels.shape
        theta = self.start(T, generator, problems.x.device)
        velocity, images, found = torch.zeros_like(theta), problems.x.flatten(0, 1), {}
        for n in range(steps + 1):
            if n in scored:
                found[n] = self.accuracy(theta, problems.held_x, problems.held_labels)
            if n == steps:
                break
            chance = Chance.draw(images, generator)
            x = augment(images, draw_strengths(policy, T * M, generator), chance).view_as(problems.x)
            velocity = self.momentum * velocity + self.gradient(theta, x, problems.labels)
            theta = theta - self.rate * velocity
        return theta, found


def generator_of(problems: SmallSet) -> torch.Generator:
    return torch.Generator(problems.x.device).manual_seed(int(problems.seed[0]))


class _Search(MetaLearner):
    """What all searches have in common: the policy found is judged by children that are trained with it."""

    metric = "accuracy"
    query_sets = False
    vmappable = True
    inductive = True
    engine = "autograd"
    fast_engine_fits = False
    recordable = False
    """Random numbers of a child come from the seed of its task."""

    def meta_lr_at(self, progress: float) -> float:
        return self.meta_lr

    def policy(self, meta: Meta) -> Params:
        raise NotImplementedError

    def scores(self, meta: Meta, problems: SmallSet, steps: int, scored: Sequence[int]) -> Tensor:
        """Accuracy on held-back images after the ``scored`` of ``steps`` child steps: [T, len(scored)]."""
        _, found = self.child.train(self.policy(meta), problems, steps, scored)
        return torch.stack([found[n] for n in scored], 1)


@dataclass(frozen=True)
class DADA(_Search):
    """A meta-step: fresh children on the T tasks of a meta-batch, ``steps`` child steps, each with one step of Adam for ψ."""

    child: Child
    steps: int = 100
    estimator: Literal["relax", "gumbel", "reinforce"] = "relax"
    """Of dJ/dπ and dJ/dβ. ``gumbel``: the hard choice forward, the soft one backward, which weighs the augmented image."""
    magnitudes: Literal["straight_through", "exact"] = "straight_through"
    """Whether every pixel counts as m itself backward, as in the paper, or the operations are differentiated."""
    temperature: float = 0.5
    hidden: int = 100
    """Units of the control variates."""
    meta_lr: float = 1e-2
    """0.005 in the official code, for searches of many more steps."""
    epsilon: float = 1e-2

    def __post_init__(self) -> None:
        for name, known in (
            ("estimator", ("relax", "gumbel", "reinforce")),
            ("magnitudes", ("straight_through", "exact")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.steps < 1 or not self.temperature > 0:
            raise UserError("steps must be at least 1 and the temperature positive")

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """The even policy, control variates at random with outputs of 0, Adam with the moments of the official code."""
        meta = {"params": start_policy(device)}
        if self.estimator == "relax":
            control = {}
            for name, inputs in (("pair", len(PAIRS)), ("on", len(PAIRS) + 2)):
                first = (
                    torch.randn(self.hidden, inputs, generator=generator, device=generator.device)
                    / inputs**0.5
                )
                control |= {
                    f"{name}.0": first.to(device),
                    f"{name}.1": torch.zeros(self.hidden, device=device),
                }
            meta["control"] = control
        tensors = [meta[group][name] for group in sorted(meta) for name in sorted(meta[group])]
        return State(meta, torch.optim.Adam(tensors, lr=self.meta_lr, betas=(0.5, 0.999)))

    def policy(self, meta: Meta) -> Params:
        return meta["params"]

    def _control(self, outer: Outer, name: str, inputs: Tensor) -> Tensor:
        """[T, inputs] -> [T]: one hidden layer of tanh, as in the official code."""
        return torch.tanh(inputs @ outer[f"control/{name}.0"].T) @ outer[f"control/{name}.1"]

    def estimate(
        self, outer: Outer, theta: Tensor, problems: SmallSet, generator: torch.Generator
    ) -> tuple[Estimate, Tensor]:
        """Mean L_val(θ') over children with an estimate of dJ/dψ, and θ's training gradients [T, P] on the images drawn.

        outer: ψ, and the control variates as ``control/NAME``."""
        T, M = problems.labels.shape
        S, options = len(PAIRS), {"generator": generator, "device": theta.device}
        u, v = torch.rand(T, S, **options), torch.rand(T, S, **options)
        w, q = torch.rand(T, 2, 2, **options), torch.rand(T, 2, 2, **options)
        chance = Chance.draw(problems.x.flatten(0, 1), generator)
        found: list[Tensor] = []

        def one_number(psi: Outer) -> Tensor:
            """A number whose gradient in ψ is the estimate."""
            pair = draw_choices(psi["logits"], u, v)  # [DADA 2] k ~ Cat(softmax π)
            index = pair.choice.argmax(1)
            beta = psi["probability"][index]  # [T, 2]
            # a Bernoulli variable is a choice between "not" and "yes"
            apply = draw_choices(
                torch.stack([torch.zeros_like(beta), beta], -1), w, q
            )  # [DADA 2] b ~ Bernoulli(σ(β))
            on, magnitude = apply.choice[..., 1], psi["magnitude"][index]
            soft_pair = (pair.z / self.temperature).softmax(-1)
            if self.estimator == "gumbel":
                soft_on = (apply.z / self.temperature).softmax(-1)[..., 1]
                on = on + soft_on - soft_on.detach()
            images = problems.x.flatten(0, 1)
            used = magnitude if self.magnitudes == "exact" else magnitude.detach()
            x = augment(images, strengths(index, on, used).repeat_interleave(M, 0), chance).view_as(
                problems.x
            )  # [DADA 3]
            if self.magnitudes == "straight_through":
                x = (
                    x + (on.detach() * (magnitude - magnitude.detach())).sum(1)[:, None, None, None, None]
                )  # [DADA 3]
            if self.estimator == "gumbel":
                weight = (pair.choice * soft_pair).sum(1)
                x = x * (1 + weight - weight.detach())[:, None, None, None, None]
            f = self._pull(theta, x, problems, found)  # [T]
            total = f.mean()  # in m, and under "gumbel" in π and β
            if self.estimator == "gumbel":
                return total
            value = f.detach()
            if self.estimator == "reinforce":
                advantage = value - (value.sum() - value) / max(
                    1, T - 1
                )  # the mean of the other children is the baseline
                return total + (advantage * (pair.log_probability + apply.log_probability.sum(1))).mean()

            def control_pair(z: Tensor) -> Tensor:
                return self._control(outer_control, "pair", (z / self.temperature).softmax(-1))

            def control_on(z: Tensor) -> Tensor:
                soft = (z / self.temperature).softmax(-1)[..., 1]
                return self._control(outer_control, "on", torch.cat([pair.choice, soft], 1))

            # π by the choice alone (b counts as noise of f), β given the choice
            both = apply._replace(log_probability=apply.log_probability.sum(1))
            return (
                total + (surrogate(pair, value, control_pair) + surrogate(both, value, control_on)).mean()
            )  # [DADA 5]

        outer_control = {n: t.detach().requires_grad_() for n, t in outer.items() if n.startswith("control/")}
        psi = {n: t.detach().requires_grad_() for n, t in outer.items() if not n.startswith("control/")}
        relax = self.estimator == "relax"
        number = one_number(psi)
        gradient = dict(
            zip(
                psi,
                torch.autograd.grad(
                    number, list(psi.values()), create_graph=relax, allow_unused=True, materialize_grads=True
                ),
                strict=True,
            )
        )
        if relax:  # the control variates make the estimate's square small, which differs from its variance by a constant
            spread = gradient["logits"].square().sum() + gradient["probability"].square().sum()
            steer = torch.autograd.grad(spread, list(outer_control.values()))  # [DADA 6]
            gradient |= dict(zip(outer_control, steer, strict=True))
        training, value = found
        return Estimate(value.mean(), {n: g.detach() for n, g in gradient.items()}), training

    def _pull(self, theta: Tensor, x: Tensor, problems: SmallSet, found: list[Tensor]) -> Tensor:
        """f of every child [T], differentiable in x; appends the training gradients and L_val(θ') to ``found``."""
        training = self.child.gradient(theta, x.detach(), problems.labels)
        ahead = theta - self.child.rate * training  # [DADA 4] θ' = θ − ζ ∇L_train
        at = gradient_of(
            lambda p: self.child.losses(p["theta"], problems.held_x, problems.held_labels).sum(),
            {"theta": ahead},
        )
        g = at.gradient["theta"]
        size = g.norm(dim=1).clamp_min(1e-12)
        aside = self.epsilon * g / size[:, None]
        up, down = (self.child.losses(theta + s * aside, x, problems.labels) for s in (1, -1))
        found += [training, at.value / len(theta)]
        return -self.child.rate * size * (up - down) / (2 * self.epsilon)  # [DADA 4]

    def step(
        self, state: State, problems: SmallSet, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        """One search on T fresh children. Metrics: mean validation loss on the way, accuracy at the end."""
        meta, generator = state.meta, generator_of(problems)
        outer = {**meta["params"], **{f"control/{n}": t for n, t in meta.get("control", {}).items()}}
        theta = self.child.start(problems.n_tasks, generator, problems.x.device)
        velocity, total = torch.zeros_like(theta), 0.0

        def shared(found: Estimate) -> Estimate:
            gradient, metrics = all_reduce({"params": found.gradient}, {"loss": found.value})
            return Estimate(metrics["loss"], gradient["params"])

        for _ in range(self.steps):  # [DADA 1]
            training = None

            def estimator(outer: Outer, theta: Tensor = theta) -> Estimate:
                nonlocal training
                found, training = self.estimate(outer, theta, problems, generator)
                return found

            total = total + outer_step(outer, estimator, state.optimizer, shared)  # [DADA 7] ψ moves
            meta["params"]["magnitude"].clamp_(0, 1)
            velocity = self.child.momentum * velocity + training
            theta = theta - self.child.rate * velocity  # [DADA 8] θ moves
        accuracy = self.child.accuracy(theta, problems.held_x, problems.held_labels).mean()
        return State(meta, state.optimizer, state.meta_step + 1), {
            "loss": total / self.steps,
            "accuracy": accuracy,
        }


@dataclass(frozen=True)
class CandidatePolicies(_Search):
    """Trial of whole policies: each meta-step trains children with some of the candidates, in turn, on the tasks of a meta-batch,
    and the one of the highest mean accuracy on held-back images is taken."""

    child: Child
    steps: int = 100
    candidates: Literal["none", "even", "random", "rand_augment"] = "random"
    """``even``: DADA's first policy alone."""
    count: int = 30
    """Of random policies."""
    at_once: int = 3
    """Candidates that a meta-step trains children with."""
    meta_lr: float = 0.0

    def __post_init__(self) -> None:
        if self.candidates not in ("none", "even", "random", "rand_augment"):
            raise UserError(f"candidates must be none, even, random or rand_augment, not {self.candidates!r}")
        if min(self.steps, self.count, self.at_once) < 1:
            raise UserError("steps, count and at_once must be at least 1")

    def _all(self, generator: torch.Generator) -> list[Params]:
        if self.candidates == "none":
            return [no_augmentation()]
        if self.candidates == "even":
            return [start_policy()]
        if self.candidates == "random":
            return [random_policy(generator) for _ in range(self.count)]
        return [rand_augment(n, m / 10) for n in (1, 2) for m in range(1, 11)]

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        policies = self._all(generator)
        params = {name: torch.stack([p[name] for p in policies]).to(device) for name in policies[0]}
        params |= {
            "total": torch.zeros(len(policies), device=device),
            "trials": torch.zeros(len(policies), device=device),
        }
        return State({"params": params}, torch.optim.SGD([params[n] for n in sorted(params)], lr=0.0))

    def policy(self, meta: Meta) -> Params:
        params = meta["params"]
        best = int((params["total"] / params["trials"].clamp_min(1)).argmax())
        return {name: params[name][best] for name in ("logits", "probability", "magnitude")}

    def step(
        self, state: State, problems: SmallSet, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        params, found = state.meta["params"], []
        R = len(params["total"])
        for k in range(min(self.at_once, R)):
            i = (state.meta_step * self.at_once + k) % R
            policy = {name: params[name][i] for name in ("logits", "probability", "magnitude")}
            theta, scores = self.child.train(policy, problems, self.steps, (self.steps,))
            loss = self.child.losses(theta, problems.held_x, problems.held_labels).mean()
            _, metrics = all_reduce({}, {"loss": loss, "accuracy": scores[self.steps].mean()})
            params["total"][i] += metrics["accuracy"]
            params["trials"][i] += 1
            found.append(metrics)
        means = {name: torch.stack([m[name] for m in found]).mean() for name in ("loss", "accuracy")}
        return State(state.meta, state.optimizer, state.meta_step + 1), means
