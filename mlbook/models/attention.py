"""Two networks that read a context and answer queries, with no weight changed in
between: layers of linear self-attention, and a small transformer.

Both take a context x [..., K, D], y [..., K, 1] and queries x [..., B, D], and give
values [..., B, 1]. Context points and queries attend to the context alone, so queries
do not see each other, and the order of the context makes no difference.

Linear attention follows von Oswald et al. 2023 (Transformers learn in-context by
gradient descent), section 3. The transformer is ours: it has the parts of a usual
one without positions and without a causal mask.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.errors import UserError
from mlbook.models.functional import Params

MATRICES = ("query", "key", "value", "projection")


# -- linear attention ------------------------------------------------------------


def attend(layer: Params, context: Tensor, tokens: Tensor) -> Tensor:
    """One layer of linear self-attention: e ← e + P · mean over the context of
    v_j (k_j · q), without softmax, bias or normalisation.

    layer: four matrices [E, E]. context [..., K, E]; tokens [..., n, E] -> the same.
    """
    keys = context @ layer["key"].T
    values = context @ layer["value"].T
    queries = tokens @ layer["query"].T
    memory = keys.transpose(-1, -2) @ values / context.shape[-2]  # [ATTN 2]
    return tokens + queries @ memory @ layer["projection"].T  # [ATTN 3]


def answers(
    params: Params,
    context_x: Tensor,
    context_y: Tensor,
    x: Tensor,
) -> Tensor:
    """What layers of linear attention say of the queries x [..., B, D]: [..., B, 1].

    params: each of ``MATRICES`` as [layers, D + 1, D + 1].
    """
    K = context_x.shape[-2]
    context = torch.cat([context_x, context_y], -1)  # [ATTN 1]
    asked = torch.cat([x, torch.zeros_like(x[..., :1])], -1)  # [ATTN 1]
    tokens = torch.cat([context, asked], -2)
    for n in range(len(params["query"])):
        layer = {name: params[name][n] for name in MATRICES}
        tokens = attend(layer, tokens[..., :K, :], tokens)
    return -tokens[..., K:, -1:]  # [ATTN 4]


def gradient_step_layers(
    features: int, rate: float, layers: int = 1, dtype: torch.dtype = torch.float64
) -> Params:
    """Matrices with which linear attention takes one step of gradient descent per
    layer, from w = 0, on the loss ½ mean (w·x_j − y_j)² of the context.

    rate: η. Keys and queries read x, values read −y, and the projection multiplies
    by η (von Oswald et al. 2023, proposition 1 with W₀ = 0; their projection divides
    by K as well, which ``attend`` does here).
    """
    reads_x = torch.diag(torch.tensor([1.0] * features + [0.0], dtype=dtype))
    reads_y = torch.diag(torch.tensor([0.0] * features + [-1.0], dtype=dtype))
    one = {
        "query": reads_x,
        "key": reads_x,
        "value": reads_y,
        "projection": rate * torch.eye(features + 1, dtype=dtype),
    }
    return {name: matrix.expand(layers, -1, -1).clone() for name, matrix in one.items()}


class LinearAttention(nn.Module):
    """Layers of linear self-attention over tokens (x, y), each with four matrices.

    init_std: standard deviation of the first values of all entries.
    """

    def __init__(self, features: int, layers: int = 1, init_std: float = 0.1) -> None:
        super().__init__()
        if features < 1 or layers < 1:
            raise UserError("linear attention needs at least one feature and one layer")
        self.features, self.init_std = features, init_std
        shape = (layers, features + 1, features + 1)
        for name in MATRICES:
            setattr(self, name, nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        for matrix in self.parameters():
            nn.init.normal_(matrix, std=self.init_std, generator=generator)

    def forward(self, x: Tensor, context_x: Tensor, context_y: Tensor) -> Tensor:
        """Queries x [..., B, D] -> [..., B, 1]."""
        return answers(dict(self.named_parameters()), context_x, context_y, x)


# -- a small transformer -----------------------------------------------------------


class Block(nn.Module):
    """Attention to the context with softmax, then two layers at each token, each
    after a layer norm and added to what was there."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.projection = nn.Linear(width, width, bias=False)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def apart(self, z: Tensor) -> Tensor:
        """[..., n, width] -> [..., heads, n, width / heads]."""
        return z.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def forward(self, tokens: Tensor, K: int) -> Tensor:
        """tokens [..., n, width], the first K of them the context."""
        z = self.norm(tokens)
        context = z[..., :K, :]
        queries = self.apart(self.query(z))
        keys, values = self.apart(self.key(context)), self.apart(self.value(context))
        size = math.sqrt(queries.shape[-1])
        weights = (queries @ keys.transpose(-1, -2) / size).softmax(-1)
        read = (weights @ values).transpose(-2, -3).flatten(-2)
        tokens = tokens + self.projection(read)
        z = F.gelu(self.wide(self.second_norm(tokens)))
        return tokens + self.narrow(z)


class ContextTransformer(nn.Module):
    """A transformer over the tokens (x, y, 0) of the context and (x, 0, 1) of the
    queries.

    Weights and biases start as PyTorch starts those of ``nn.Linear``.
    """

    def __init__(self, features: int = 1, width: int = 64, layers: int = 3, heads: int = 2) -> None:
        super().__init__()
        if features < 1 or layers < 1 or heads < 1 or width % heads:
            raise UserError(
                f"a transformer needs a feature, a layer, and a width that its heads "
                f"divide; got {features}, {layers}, {width} for {heads} heads"
            )
        self.features = features
        self.read_in = nn.Linear(features + 2, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.read_out = nn.Linear(width, 1)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                if module.bias is not None:
                    nn.init.uniform_(module.bias, -bound, bound, generator=generator)

    def forward(self, x: Tensor, context_x: Tensor, context_y: Tensor) -> Tensor:
        """Queries x [..., B, D] -> [..., B, 1]."""
        K = context_x.shape[-2]
        told = torch.cat([context_x, context_y, torch.zeros_like(context_y)], -1)
        none = torch.zeros_like(x[..., :1])
        tokens = torch.cat([told, torch.cat([x, none, none + 1], -1)], -2)
        tokens = self.read_in(tokens)
        for block in self.blocks:
            tokens = block(tokens, K)
        return self.read_out(self.norm(tokens[..., K:, :]))
