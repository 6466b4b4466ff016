"""Two bilevel problems about data: which training examples are labelled wrongly, and how much every weight should decay.

A linear classifier W [D + 1, N] is trained on examples of which a share has the label of another class. The outer variables are
one weight per example, σ(a_i), or the logarithm of one decay per entry of W; both are judged by the loss on a small clean set
(data hyper-cleaning: Franceschi et al. 2017; weights as sigmoids as in later work). The inner problem is convex.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.augmentation.operations import distorted
from mlbook.data.pools import ClassPool
from mlbook.meta_learners.bilevel import Estimator, Outer
from mlbook.meta_learners.implicit import conjugate_gradient, implicit
from mlbook.models import Params

DECAY = 1e-2
"""Of every weight, where decays are not the outer variable; what makes the minimum one point."""


@dataclass(frozen=True)
class Cleaning:
    """x [n, D + 1] with a last column of ones, y [n]; the three sets show other drawings of the same characters."""

    x: Tensor
    y: Tensor
    """As given to the training, with wrong labels."""
    wrong: Tensor
    """[n], which labels are wrong."""
    clean_x: Tensor
    clean_y: Tensor
    """The outer loss is taken on these."""
    test_x: Tensor
    test_y: Tensor
    n_way: int

    @classmethod
    def drawn(
        cls,
        pool: ClassPool,
        seed: int,
        *,
        n_way: int = 5,
        copies: int = 4,
        wrong: float = 0.5,
        clean: int = 4,
    ) -> Cleaning:
        """``n_way`` characters, their drawings cut into 10 to train on, ``clean`` ones and 6 for the test, each with slightly
        distorted copies, at 14 × 14 pixels. The share ``wrong`` of the training labels becomes another class."""
        g = torch.Generator().manual_seed(seed)
        characters = pool.images[torch.randperm(len(pool.images), generator=g)[:n_way]]
        sets = []
        for first, last in ((0, 10), (10, 10 + clean), (14, 20)):
            images = distorted(ClassPool(characters[:, first:last]), n_way, copies, 0.3, g).images
            flat = F.avg_pool2d(images.flatten(0, 1).double() / 255, 2).flatten(1)
            x = torch.cat([flat, torch.ones_like(flat[:, :1])], 1)
            sets.append((x, torch.arange(n_way).repeat_interleave(len(x) // n_way)))
        (x, truth), clean, test = sets
        is_wrong = torch.zeros(len(x), dtype=torch.bool)
        is_wrong[torch.randperm(len(x), generator=g)[: round(wrong * len(x))]] = True
        shift = torch.randint(1, n_way, (len(x),), generator=g)
        return cls(x, (truth + is_wrong * shift) % n_way, is_wrong, *clean, *test, n_way)

    # -- the inner problem -----------------------------------------------------------------------------------------------

    def inner_loss(self, outer: Outer, params: Params) -> Tensor:
        """Mean weighted cross-entropy and ½·decay·W²; ``weight`` [n] and ``log_decay`` [D + 1, N] as far as η has them."""
        each = F.cross_entropy(self.x @ params["W"], self.y, reduction="none")
        weights = outer["weight"].sigmoid() if "weight" in outer else 1.0
        decay = outer["log_decay"].exp() if "log_decay" in outer else DECAY
        return (weights * each).mean() + (decay * params["W"].square()).sum() / 2

    def outer_loss(self, outer: Outer, params: Params) -> Tensor:
        """Mean cross-entropy on the clean set."""
        return F.cross_entropy(self.clean_x @ params["W"], self.clean_y)

    def solver(self, steps: int = 60) -> ManyStarts:
        """η -> W near the minimum, from where the last call ended."""
        return ManyStarts(self, steps)

    def estimator(self, steps: int = 60, cg_steps: int = 10) -> Estimator:
        """Of the outer gradient, for ``bilevel.outer_step``."""
        solve = partial(conjugate_gradient, steps=cg_steps, tolerance=0.0)
        return implicit(self.solver(steps), self.inner_loss, self.outer_loss, solve)

    def accuracy(self, params: Params) -> float:
        """On the test set."""
        return float(((self.test_x @ params["W"]).argmax(1) == self.test_y).double().mean())


class ManyStarts:
    """Gradient descent with momentum on the inner problem, warm from call to call (Lorraine et al. 2020 do the same)."""

    def __init__(self, problem: Cleaning, steps: int) -> None:
        self.problem, self.steps = problem, steps
        self.params = {"W": problem.x.new_zeros(problem.x.shape[1], problem.n_way)}

    def __call__(self, outer: Outer) -> Params:
        p, W, speed = self.problem, self.params["W"], torch.zeros_like(self.params["W"])
        weights = outer["weight"].sigmoid() if "weight" in outer else torch.ones_like(p.x[:, 0])
        decay = outer["log_decay"].exp() if "log_decay" in outer else DECAY
        truth = F.one_hot(p.y, p.n_way).to(p.x.dtype)
        rate = 1 / (
            0.5 * float(weights.mean()) * float(p.x.square().sum(1).mean())
            + float(torch.as_tensor(decay).max())
        )
        for _ in range(self.steps):
            residual = ((p.x @ W).softmax(1) - truth) * weights[:, None] / len(p.x)
            speed = 0.9 * speed - rate * (p.x.T @ residual + decay * W)
            W = W + speed
        self.params = {"W": W}
        return self.params
