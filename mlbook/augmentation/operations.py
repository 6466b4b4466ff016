"""Augmentations of image batches as differentiable tensor operations, and policies that draw among them.

An operation has a strength s from 0 (nothing happens) to 1. A sub-policy is a pair of operations, each with a probability of
being applied and a magnitude, which is the strength where it is. A policy is a distribution over all pairs (DADA, section 3.1:
15 operations, 105 pairs; here 10 and 45).
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mlbook.data.pools import ClassPool
from mlbook.errors import UserError
from mlbook.models.functional import Params

OPERATIONS = (
    "rotate", "shear_x", "shear_y", "shift_x", "shift_y", "scale", "contrast", "invert", "noise", "cutout",
)  # fmt: skip
"""In the order in which they are applied. The first six are one affine map."""
PAIRS = tuple(combinations(range(len(OPERATIONS)), 2))
MOST = {
    "rotate": math.radians(40), "shear_x": 0.5, "shear_y": 0.5, "shift_x": 0.4, "shift_y": 0.4, "scale": 0.5,
    "contrast": 0.9, "invert": 1.0, "noise": 0.5, "cutout": 0.4,
}  # fmt: skip
"""What strength 1 stands for: radians; shear; shift and half the cut-out's side in half image widths; logarithm of the factor;
change of the contrast's factor; share of the inverted image; standard deviation."""


class Chance(NamedTuple):
    """What an augmentation draws for every image besides the policy's own choices."""

    sign: Tensor  # [B, operations], −1 or 1
    centre: Tensor  # [B, 2] of the cut-out, −1 to 1
    noise: Tensor  # [B, 1, H, W], standard normal

    @classmethod
    def draw(cls, images: Tensor, generator: torch.Generator) -> Chance:
        """For images [B, C, H, W]; drawn on the generator's device, then moved to that of the images."""
        B, H, W = len(images), *images.shape[-2:]
        options = {"generator": generator, "device": generator.device}
        uniform = torch.rand(B, len(OPERATIONS) + 2, **options).to(images)
        noise = torch.randn(B, 1, H, W, **options).to(images)
        return cls(1 - 2 * (uniform[:, :-2] < 0.5).to(images.dtype), 2 * uniform[:, -2:] - 1, noise)


def augment(images: Tensor, strength: Tensor, chance: Chance) -> Tensor:
    """images [B, C, H, W] with every operation at its strength [B, operations]; differentiable in both.

    The affine map takes each pixel of the result to a place of the original, read by bilinear interpolation; what lies outside
    is 0. Pixels are not clipped to [0, 1].
    """
    s = dict(zip(OPERATIONS, strength.unbind(1), strict=True))
    by = {name: MOST[name] * s[name] * chance.sign[:, i] for i, name in enumerate(OPERATIONS)}
    zoom, cos, sin = by["scale"].exp(), by["rotate"].cos(), by["rotate"].sin()
    one, kx, ky = torch.ones_like(zoom), by["shear_x"], by["shear_y"]
    turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    lean_x, lean_y = (
        torch.stack(rows, 1).view(-1, 2, 2) for rows in ([one, kx, 0 * one, one], [one, 0 * one, ky, one])
    )
    linear = zoom[:, None, None] * (turn @ lean_x @ lean_y)
    shift = torch.stack([by["shift_x"], by["shift_y"]], 1)[:, :, None]
    grid = F.affine_grid(torch.cat([linear, shift], 2), list(images.shape), align_corners=False)
    x = F.grid_sample(images, grid, align_corners=False)

    def wide(value: Tensor) -> Tensor:
        return value[:, None, None, None]

    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * wide(1 + by["contrast"])
    x = x + wide(MOST["invert"] * s["invert"]) * (1 - 2 * x)
    x = x + wide(MOST["noise"] * s["noise"]) * chance.noise
    return x * (1 - _hole(images, MOST["cutout"] * s["cutout"], chance.centre))


AFFINE = 6
"""The number of affine operations. They come first; they move ink and do not change it."""


def distorted(
    pool: ClassPool, classes: int, copies: int, strength: float, generator: torch.Generator
) -> ClassPool:
    """The first ``classes`` classes of a pool, each drawing replaced by ``copies`` affine distortions of it.

    Each of the six affine operations has a strength uniform on [0, ``strength``]. Images [classes, examples · copies, C, H, W].
    """
    images = pool.images[:classes].repeat_interleave(copies, 1)
    x = images.flatten(0, 1).float() / 255
    chosen = torch.zeros(len(x), len(OPERATIONS))
    chosen[:, :AFFINE] = strength * torch.rand(len(x), AFFINE, generator=generator)
    x = augment(x, chosen, Chance.draw(x, generator)).clamp(0, 1)
    return ClassPool((255 * x).round().to(torch.uint8).view(images.shape))


def _hole(images: Tensor, half: Tensor, centre: Tensor) -> Tensor:
    """1 in squares of half side ``half`` [B] (in half image widths), with an edge one pixel wide: [B, 1, H, W]."""
    sides = []
    for axis, n in ((1, images.shape[-2]), (0, images.shape[-1])):
        place = (2 * torch.arange(n, device=images.device, dtype=images.dtype) + 1) / n - 1
        inside = (half[:, None] - (place[None] - centre[:, axis : axis + 1]).abs()) * n / 2
        sides.append((inside + 0.5).clamp(0, 1))
    return (sides[0][:, :, None] * sides[1][:, None, :] * (half > 0)[:, None, None])[:, None]


# -- policies ----------------------------------------------------------------------------------------------------------


def start_policy(device: torch.device | str = "cpu") -> Params:
    """The policy that DADA starts from, as in the official code: nearly equal choices, probabilities and magnitudes of a half.

    ``logits`` [pairs]; ``probability`` [pairs, 2], as logits; ``magnitude`` [pairs, 2], from 0 to 1.
    """
    S = len(PAIRS)
    return {
        "logits": torch.full((S,), 1e-3, device=device),
        "probability": torch.zeros(S, 2, device=device),
        "magnitude": torch.full((S, 2), 0.5, device=device),
    }


def random_policy(generator: torch.Generator) -> Params:
    """Logits of choices and probabilities N(0, 2²), magnitudes uniform on [0, 1)."""
    S = len(PAIRS)
    draw = {"generator": generator, "device": generator.device}
    return {
        "logits": 2 * torch.randn(S, **draw),
        "probability": 2 * torch.randn(S, 2, **draw),
        "magnitude": torch.rand(S, 2, **draw),
    }


SURE = 30.0
"""A logit whose probability is 1 (or, with the other sign, 0) in single precision."""


def rand_augment(count: int, magnitude: float) -> Params:
    """RandAugment (Cubuk et al. 2020) as a policy: ``count`` different operations, equally likely, always applied, at one
    magnitude.

    The original draws with replacement, and its list has the identity in it. Raises ``UserError`` unless ``count`` is 1 or 2 and
    ``magnitude`` lies between 0 and 1.
    """
    if count not in (1, 2) or not 0 <= magnitude <= 1:
        raise UserError(
            f"RandAugment takes 1 or 2 operations at a magnitude from 0 to 1, not {count} at {magnitude}"
        )
    policy = start_policy()
    policy["probability"] += SURE
    if count == 1:
        # of every pair keep the operation that was kept less often so far; weight the pairs so that all come equally often
        kept, often = [], [0] * len(OPERATIONS)
        for i, j in PAIRS:
            kept.append(0 if often[i] <= often[j] else 1)
            often[(i, j)[kept[-1]]] += 1
        for k, slot in enumerate(kept):
            policy["probability"][k, 1 - slot] = -SURE
            policy["logits"][k] = -math.log(often[PAIRS[k][slot]])
    policy["magnitude"].fill_(magnitude)
    return policy


def no_augmentation(device: torch.device | str = "cpu") -> Params:
    """The policy that never applies an operation."""
    policy = start_policy(device)
    policy["probability"] -= SURE
    return policy


def strengths(choice: Tensor, on: Tensor, magnitude: Tensor) -> Tensor:
    """Strength of every operation, [B, operations], where image b gets the pair with index ``choice``[b].

    on [B, 2]: 1 where an operation of the pair is applied, else 0. magnitude [B, 2]: of the pair. Differentiable in both.
    """
    pairs = torch.tensor(PAIRS, device=choice.device)[choice]  # [B, 2]
    return torch.zeros(len(choice), len(OPERATIONS), device=choice.device, dtype=magnitude.dtype).scatter(
        1, pairs, on * magnitude
    )


def draw_strengths(policy: Params, n: int, generator: torch.Generator) -> Tensor:
    """n independent draws from the policy, as strengths [n, operations]. The generator's device draws, the policy's has them."""
    where, p = policy["logits"].device, policy["logits"].softmax(0).to(generator.device)
    choice = torch.multinomial(p, n, replacement=True, generator=generator).to(where)
    p = policy["probability"][choice].sigmoid()
    on = (torch.rand(n, 2, generator=generator, device=generator.device).to(where) < p).to(p.dtype)
    return strengths(choice, on, policy["magnitude"][choice])


def usage(policy: Params) -> Tensor:
    """How often each operation is applied, [operations]: Σ over pairs of the pair's probability times the operation's."""
    p = policy["logits"].softmax(0)[:, None] * policy["probability"].sigmoid()
    pairs = torch.tensor(PAIRS, device=p.device)
    return torch.zeros(len(OPERATIONS), device=p.device, dtype=p.dtype).index_add(
        0, pairs.flatten(), p.flatten()
    )


def mean_magnitude(policy: Params) -> Tensor:
    """Mean magnitude of each operation, [operations]; a pair counts as often as it applies the operation."""
    p = policy["logits"].softmax(0)[:, None] * policy["probability"].sigmoid()
    pairs = torch.tensor(PAIRS, device=p.device).flatten()
    total = torch.zeros(len(OPERATIONS), device=p.device, dtype=p.dtype).index_add(
        0, pairs, (p * policy["magnitude"]).flatten()
    )
    return total / usage(policy).clamp_min(1e-12)
