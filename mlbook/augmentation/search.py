"""Search for a policy of data augmentation: DADA (Li et al. 2020), and random policies and RandAugment with the same budget.

A task is a small set of images (``tasks.small_sets``), and a child is a small network that is trained on it from scratch. DADA
moves the policy ψ (logits π of pairs, logits β of applying each operation, magnitudes m) at every step of the child θ. It looks
at how one step of the child on augmented images changes the loss on held-back images:

    J(ψ) = E_{c, b}[ L_val(θ − ζ ∇L_train(θ; c, b, m)) ],
    −ζ ‖g‖ (L_train(θ⁺; c, b, m) − L_train(θ⁻; c, b, m)) / 2ε,   θ± = θ ± ε g/‖g‖,   g = ∇L_val(θ'),

where the second line, f in the code, has to first order in ζ the same derivative in ψ (equations 12 and 13 of the paper).
It is small where the gradient on augmented training images points the same way as the gradient on held-back ones. One draw (c, b)
serves all training images of a child; the T children of a meta-batch have T draws. Each child step has one outer step.

Children are rows θ [T, P] of one batch, and the loss of a child depends on its own row only. So the gradient of the summed losses
holds the gradients of all children, and no ``vmap`` is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
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
from mlbook.meta_learners.base import AllReduce, Meta, MetaLearner, State, leaves, no_reduce
from mlbook.meta_learners.bilevel import Estimate, Outer, gradient_at, leaves_of, move, over_processes
from mlbook.meta_learners.relax import Draw, draw_choices, surrogate
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
        """θ_0 of n children, [n, P] on ``device``: weights N(0, 2 / inputs), biases 0."""
        parts, sizes = [], self.network.sizes
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            weights = (2 / a) ** 0.5 * torch.randn(n, a * b, generator=generator, device=generator.device)
            parts += [weights, torch.zeros_like(weights[:, :b])]
        return torch.cat(parts, 1).to(device)

    def losses(self, theta: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of every child: theta [T, P], x [T, B, C, H, W], labels [T, B] -> [T]."""
        return self.network.cross_entropy(theta, x.flatten(2), labels)

    def accuracy(self, theta: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """Of every child, [T]; arguments as for ``losses``."""
        return (self.network.logits(theta, x.flatten(2)).argmax(-1) == labels).float().mean(1)

    def slopes(self, theta: Tensor, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [T] and their gradients in θ [T, P], both without a graph."""
        point = theta.detach().requires_grad_()
        with torch.enable_grad():
            losses = self.losses(point, x, labels)
            (gradient,) = torch.autograd.grad(losses.sum(), point)
        return losses.detach(), gradient

    def train(
        self, policy: Params, problems: SmallSet, steps: int, scored: Sequence[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Train every child under a fixed policy, which draws anew for each image.

        Returns θ [T, P], and the accuracies [T] on held-back images after each of the ``scored`` steps. Start and chance depend
        on the problems only, so they are the same under every policy.
        """
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
            _, gradient = self.slopes(theta, x, problems.labels)
            velocity = self.momentum * velocity + gradient
            theta = theta - self.rate * velocity
        return theta, found


def generator_of(problems: SmallSet) -> torch.Generator:
    """A generator seeded by the first problem. It draws on the CPU: children then see the same numbers on every device."""
    return torch.Generator().manual_seed(int(problems.seed[0]))


class PolicySearch(MetaLearner):
    """A search whose result, a policy, is judged by children that are trained with it."""

    query_sets = False
    inductive = True
    engine = "autograd"
    recordable = False  # the random numbers of a child come from the seed of its task
    shared_result = "each process trains its children with random numbers of its own"

    def policy(self, meta: Meta) -> Params:
        """The policy found."""
        raise NotImplementedError

    def scores(self, meta: Meta, problems: SmallSet, steps: int, scored: Sequence[int]) -> Tensor:
        """Accuracy on held-back images after the ``scored`` of ``steps`` child steps: [T, len(scored)]."""
        _, found = self.child.train(self.policy(meta), problems, steps, scored)
        return torch.stack([found[n] for n in scored], 1)


class Uniform(NamedTuple):
    """Random numbers from [0, 1) for one sub-policy of each of T children."""

    u: Tensor  # [T, pairs], for the pair's z
    v: Tensor  # [T, pairs], for its z̃
    w: Tensor  # [T, 2, 2], for the z of "not applied" and "applied"
    q: Tensor  # [T, 2, 2], for its z̃

    @classmethod
    def draw(cls, n_tasks: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Uniform:
        """Drawn on the generator's device, then moved to ``device``."""
        shapes = (n_tasks, len(PAIRS)), (n_tasks, len(PAIRS)), (n_tasks, 2, 2), (n_tasks, 2, 2)
        return cls(*(torch.rand(s, generator=generator, device=generator.device).to(device) for s in shapes))


class SubPolicy(NamedTuple):
    """What was drawn for each of T children."""

    pair: Draw  # of K = pairs options
    applied: Draw  # of the 2 options "not applied" and "applied", for 2 operations: [T, 2, 2]
    index: Tensor  # [T], of the pair
    magnitude: Tensor  # [T, 2]


class Effect(NamedTuple):
    """What one step on augmented images does to each of T children."""

    f: Tensor
    """[T], differentiable in the images: the change of the validation loss, to first order in ζ."""
    training: Tensor
    """∇L_train, [T, P]."""
    value: Tensor
    """L_val(θ'), mean over children."""


@dataclass(frozen=True)
class DADA(PolicySearch):
    """A meta-step: fresh children on the T tasks of a meta-batch, and ``steps`` child steps, each with one step of Adam for ψ.

    Raises ``UserError`` for a setting that makes no sense.
    """

    child: Child
    steps: int = 100
    estimator: Literal["relax", "gumbel", "reinforce"] = "relax"
    """Of dJ/dπ and dJ/dβ. ``gumbel``: the choice is hard forward and soft backward, where it weighs the augmented image."""
    magnitudes: Literal["straight_through", "exact"] = "straight_through"
    """Backward, every pixel counts as m itself, as in the paper; or the operations are differentiated."""
    temperature: float = 0.5
    """Of soft choices."""
    hidden: int = 100
    """Units of the control variates."""
    meta_lr: float = 1e-2
    """Rate of Adam for ψ: 0.005 in the official code, whose searches have many more steps."""
    epsilon: float = 1e-2
    """ε of the difference quotient."""

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
        """The even policy; random control variates whose outputs are 0; Adam with the moments of the official code."""
        meta = {"params": start_policy(device)}
        if self.estimator == "relax":
            meta["control"] = {}
            for name, inputs in (("pair", len(PAIRS)), ("on", len(PAIRS) + 2)):
                first = torch.randn(self.hidden, inputs, generator=generator, device=generator.device)
                meta["control"][f"{name}.0"] = (first / inputs**0.5).to(device)
                meta["control"][f"{name}.1"] = torch.zeros(self.hidden, device=device)
        return State(meta, torch.optim.Adam(leaves(meta), lr=self.meta_lr, betas=(0.5, 0.999)))

    def policy(self, meta: Meta) -> Params:
        """ψ."""
        return meta["params"]

    def draw(self, psi: Outer, chance: Uniform) -> SubPolicy:
        """A pair of operations for every child, and which of the two are applied; z and z̃ are differentiable in ψ."""
        logits, beta, m = psi["logits"], psi["probability"], psi["magnitude"]
        pair = draw_choices(logits, chance.u, chance.v)  # [DADA 2] k ~ softmax(π)
        index = pair.choice.argmax(1)
        beta = beta[index]  # [T, 2]
        options = torch.stack([torch.zeros_like(beta), beta], -1)  # not, or applied
        applied = draw_choices(options, chance.w, chance.q)  # [DADA 2] b ~ σ(β)
        return SubPolicy(pair, applied, index, m[index])

    def augmented(
        self,
        drawn: SubPolicy,
        problems: SmallSet,
        chance: Chance,
    ) -> Tensor:
        """Training images under the sub-policies, [T, M, C, H, W]. Differentiable in m, and under ``gumbel`` in π and β."""
        images, m = problems.x.flatten(0, 1), drawn.magnitude
        on = drawn.applied.choice[..., 1]
        if self.estimator == "gumbel":
            soft = self.soft(drawn.applied.z)[..., 1]
            on = on + soft - soft.detach()
        used = m if self.magnitudes == "exact" else m.detach()
        strength = strengths(drawn.index, on, used)
        strength = strength.repeat_interleave(problems.x.shape[1], 0)
        x = augment(images, strength, chance).view_as(problems.x)  # [DADA 3]
        if self.magnitudes == "straight_through":
            nothing = (on.detach() * (m - m.detach())).sum(1)  # 0, its slope is not
            x = x + nothing.view(-1, 1, 1, 1, 1)  # [DADA 3]
        if self.estimator == "gumbel":
            weight = (drawn.pair.choice * self.soft(drawn.pair.z)).sum(1)
            one = 1 + weight - weight.detach()
            x = x * one.view(-1, 1, 1, 1, 1)
        return x

    def soft(self, z: Tensor) -> Tensor:
        """The soft choice that stands for argmax z: same shape, sums to 1 over the options."""
        return (z / self.temperature).softmax(-1)

    def effect(self, theta: Tensor, x: Tensor, problems: SmallSet) -> Effect:
        """What a step on training images x [T, M, C, H, W] does to children θ [T, P]."""
        child, labels = self.child, problems.labels
        held_x, held_labels = problems.held_x, problems.held_labels
        _, training = child.slopes(theta, x.detach(), labels)
        ahead = theta - child.rate * training  # [DADA 4] θ' = θ − ζ ∇L_train
        losses, g = child.slopes(ahead, held_x, held_labels)  # [DADA 4] ∇L_val(θ')
        size = g.norm(dim=1).clamp_min(1e-12)
        aside = self.epsilon * g / size[:, None]
        up = child.losses(theta + aside, x, labels)
        down = child.losses(theta - aside, x, labels)
        f = -child.rate * size * (up - down) / (2 * self.epsilon)  # [DADA 4]
        return Effect(f, training, losses.sum() / len(theta))

    def score(self, drawn: SubPolicy, f: Tensor, control: Outer) -> Tensor:
        """A number whose gradient is the estimate of dJ/dπ and dJ/dβ by scores. f [T] without a graph."""
        pair, applied = drawn.pair, drawn.applied
        log_p_applied = applied.log_probability.sum(1)
        if self.estimator == "reinforce":
            # the baseline: mean of the other children
            others = (f.sum() - f) / max(1, len(f) - 1)
            return ((f - others) * (pair.log_probability + log_p_applied)).mean()

        def of_pair(z: Tensor) -> Tensor:
            return control_variate(control, "pair", self.soft(z))

        def of_applied(z: Tensor) -> Tensor:
            seen = torch.cat([pair.choice, self.soft(z)[..., 1]], 1)
            return control_variate(control, "on", seen)

        # for π, b is part of the noise of f; for β, the pair is given
        applied = applied._replace(log_probability=log_p_applied)
        of_pi = surrogate(pair, f, of_pair)  # [DADA 5]
        of_beta = surrogate(applied, f, of_applied)  # [DADA 5]
        return (of_pi + of_beta).mean()

    def estimate(
        self,
        outer: Outer,
        theta: Tensor,
        problems: SmallSet,
        generator: torch.Generator,
    ) -> tuple[Estimate, Tensor]:
        """Mean L_val(θ') over children with an estimate of dJ/dψ, and θ's training gradients [T, P] on the images drawn.

        outer: ψ, and the control variates as ``control/NAME``.
        """
        psi, control = separate(outer)
        uniform = Uniform.draw(len(theta), generator, theta.device)
        chance = Chance.draw(problems.x.flatten(0, 1), generator)
        drawn = self.draw(psi, uniform)
        x = self.augmented(drawn, problems, chance)
        f, training, value = self.effect(theta, x, problems)
        number = f.mean()
        if self.estimator != "gumbel":
            number = number + self.score(drawn, f.detach(), control)
        relax = self.estimator == "relax"
        gradient = gradient_at(number, psi, create_graph=relax).gradient
        if relax:  # the square differs from the variance by a constant
            on_pi, on_beta = gradient["logits"], gradient["probability"]
            square = on_pi.square().sum() + on_beta.square().sum()
            gradient |= gradient_at(square, control).gradient  # [DADA 6]
        gradient = {name: g.detach() for name, g in gradient.items()}
        return Estimate(value, gradient), training

    def step(
        self,
        state: State,
        problems: SmallSet,
        progress: float = 0.0,
        all_reduce: AllReduce = no_reduce,
    ) -> tuple[State, dict[str, Tensor]]:
        """One search on T fresh children. Metrics: mean validation loss on the way, accuracy on held-back images at the end."""
        meta, child, total = state.meta, self.child, 0.0
        generator, combine = generator_of(problems), over_processes(all_reduce)
        outer = together(meta)
        theta = child.start(problems.n_tasks, generator, problems.x.device)
        velocity = torch.zeros_like(theta)
        for _ in range(self.steps):  # [DADA 1]
            found, training = self.estimate(outer, theta, problems, generator)
            total = total + move(outer, combine(found), state.optimizer)  # [DADA 7]
            meta["params"]["magnitude"].clamp_(0, 1)
            velocity = child.momentum * velocity + training
            theta = theta - child.rate * velocity  # [DADA 8]
        accuracy = child.accuracy(theta, problems.held_x, problems.held_labels)
        metrics = {"loss": total / self.steps, "accuracy": accuracy.mean()}
        return State(meta, state.optimizer, state.meta_step + 1), metrics


CONTROL = "control/"
"""What the names of control variates begin with, where these stand beside ψ in one outer variable."""


def together(meta: Meta) -> Outer:
    """ψ and the weights of the control variates, where there are any, as one outer variable (the same tensors)."""
    return meta["params"] | {CONTROL + name: t for name, t in meta.get("control", {}).items()}


def separate(outer: Outer) -> tuple[Outer, Outer]:
    """ψ, and the weights of the control variates, for derivatives to be taken at."""
    control = {name: t for name, t in outer.items() if name.startswith(CONTROL)}
    psi = {name: t for name, t in outer.items() if name not in control}
    return leaves_of(psi), leaves_of(control)


def control_variate(control: Outer, name: str, inputs: Tensor) -> Tensor:
    """[T, inputs] -> [T]: one hidden layer of tanh, as in the official code."""
    return torch.tanh(inputs @ control[f"{CONTROL}{name}.0"].T) @ control[f"{CONTROL}{name}.1"]


@dataclass(frozen=True)
class CandidatePolicies(PolicySearch):
    """Trial of whole policies. Each meta-step trains children with some of the candidates, in turn, on the tasks of a meta-batch;
    the candidate with the highest mean accuracy on held-back images wins.

    Raises ``UserError`` for a setting that makes no sense.
    """

    child: Child
    steps: int = 100
    candidates: Literal["none", "even", "random", "rand_augment"] = "random"
    """No augmentation; the policy that DADA starts from; random policies; or RandAugment in all its 20 settings."""
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

    def policies(self, generator: torch.Generator) -> list[Params]:
        """All candidates."""
        if self.candidates == "none":
            return [no_augmentation()]
        if self.candidates == "even":
            return [start_policy()]
        if self.candidates == "random":
            return [random_policy(generator) for _ in range(self.count)]
        return [rand_augment(n, m / 10) for n in (1, 2) for m in range(1, 11)]

    def init(self, generator: torch.Generator, device: torch.device | str = "cpu") -> State:
        """All candidates, stacked, with the summed accuracies and the number of trials of each."""
        policies = self.policies(generator)
        params = {name: torch.stack([p[name] for p in policies]).to(device) for name in policies[0]}
        for name in ("total", "trials"):
            params[name] = torch.zeros(len(policies), device=device)
        return State({"params": params}, torch.optim.SGD(leaves({"params": params}), lr=0.0))

    def candidate(self, meta: Meta, i: int) -> Params:
        """Policy i."""
        return {name: meta["params"][name][i] for name in ("logits", "probability", "magnitude")}

    def policy(self, meta: Meta) -> Params:
        """The candidate with the highest mean accuracy so far."""
        mean = meta["params"]["total"] / meta["params"]["trials"].clamp_min(1)
        return self.candidate(meta, int(mean.argmax()))

    def step(
        self, state: State, problems: SmallSet, progress: float = 0.0, all_reduce: AllReduce = no_reduce
    ) -> tuple[State, dict[str, Tensor]]:
        """Try ``at_once`` candidates on T fresh children each. Metrics: mean loss and accuracy on held-back images at the end."""
        params, found = state.meta["params"], []
        n = len(params["total"])
        for k in range(min(self.at_once, n)):
            i = (state.meta_step * self.at_once + k) % n
            policy = self.candidate(state.meta, i)
            theta, scores = self.child.train(policy, problems, self.steps, (self.steps,))
            loss = self.child.losses(theta, problems.held_x, problems.held_labels).mean()
            _, metrics = all_reduce({}, {"loss": loss, "accuracy": scores[self.steps].mean()})
            params["total"][i] += metrics["accuracy"]
            params["trials"][i] += 1
            found.append(metrics)
        means = {name: torch.stack([m[name] for m in found]).mean() for name in ("loss", "accuracy")}
        return State(state.meta, state.optimizer, state.meta_step + 1), means
