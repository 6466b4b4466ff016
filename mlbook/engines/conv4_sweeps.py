"""The meta-gradient of MAML for the two Conv4 networks by hand: the same mathematics as ``maml.py``, several times faster.

Automatic differentiation of the inner loop builds a graph of the backward pass and walks it backwards. Here the outer
derivative is the recursion of chapter 5, v ← v − α·H·v (``recursion.py``), and the product H·v is the derivative of the gradient
along v (Pearlmutter's R-operator, 1994): one more sweep forward and one backward, each in closed form.

One layer computes, with s the choice of 2×2 max-pooling (or nothing, in the strided network):

    z = W∗x      x̂ = (z − mean z)·r,  r = 1/sqrt(var z + eps)      y = relu(s(x̂) + β)

A bar (z̄) is the derivative of the loss with respect to a quantity, ``z_bar``; a dot (ż) the derivative of a quantity along v,
``z_d``. Images lie as [B, T·C, h, w] with the channels last in memory, so that one grouped convolution serves all tasks of a
chunk and batch norm sees T·C channels. ``tests/test_conv4_sweeps.py`` holds everything against ``maml.py`` in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlbook.engines import convolutions, recursion
from mlbook.engines.recursion import Weights
from mlbook.models.conv4 import Conv4
from mlbook.models.functional import Params
from mlbook.tasks.episode import Episode

aten = torch.ops.aten
LAYERS = 4
CHUNK_BYTES = 8 * 2**20
"""A chunk has as many tasks as have first-layer activations of this size together, and at least one."""


def fits(model: nn.Module) -> bool:
    """Whether the closed forms are those of this network: Conv4 of square images with batch norm without γ, ReLU, no biases."""
    return (
        isinstance(model, Conv4)
        and model.square
        and model.downsample in ("stride", "max_pool")
        and model.norms is not None
        and model.norms[0].gamma is None
        and model.spatial_mean == (model.downsample == "stride")
        and model.activation is torch.relu
        and model.convs[0].bias is None
    )


@dataclass
class Layer:
    """What a sweep forward leaves for the others, and ``backward`` for ``hessian_vector``."""

    source: Tensor  # the input x as the convolution reads it
    side: int  # of the input
    xhat: Tensor  # normalised pre-activation x̂
    rate: Tensor  # r, one per task and filter
    chosen: Tensor  # s(x̂)
    index: Tensor | None  # where max-pooling found it
    y: Tensor
    z_bar: Tensor | None = None
    p: Tensor | None = None  # ȳ where the ReLU passes: the derivative with respect to s(x̂)
    P: Tensor | None = None  # its mean over the positions of x̂
    q: Tensor | None = None  # the mean of p·s(x̂) over them


@dataclass
class Sweep:
    layers: list[Layer] = field(default_factory=list)
    features: Tensor | None = None  # what the classifier reads, [T, B, features]
    delta: Tensor | None = None  # gradient of the loss with respect to the logits, [T, B, N]
    probabilities: Tensor | None = None
    logits: Tensor | None = None


@dataclass(frozen=True)
class Conv4Sweeps:
    """The three sweeps for ``recursion``. Weights: W [T, filters, 9·C], rows ordered (ky, kx, channel); β [T, filters];
    H [T, features, N], features ordered (y, x, filter); b [T, N]."""

    pool: bool
    """Max-pooling 2×2 behind stride 1 instead of stride 2."""
    filters: int
    eps: float
    adapted: tuple[str, ...]
    convolution: convolutions.Convolution

    @property
    def stride(self) -> int:
        return 1 if self.pool else 2

    def prepare(self, x: Tensor) -> tuple[Tensor, int]:
        """Images x [T, B, C, H, W] as the first convolution reads them, and their side."""
        T, B, C, H, W = x.shape
        lined_up = x.permute(1, 3, 4, 0, 2).reshape(B, H, W, T * C).permute(0, 3, 1, 2)
        return self.convolution.prepare(lined_up, T, self.stride), H

    def forward(self, w: Weights, x: tuple[Tensor, int], y: Tensor, scale: float) -> Sweep:
        """y [T, B]; loss: scale × mean cross-entropy."""
        T, B = y.shape
        sweep = Sweep()
        source, side = x
        for i in range(LAYERS):
            z = self.convolution.forward(source, _tasks(w[f"W{i}"], T), side, self.stride)
            xhat, rate = _normalise_(z, self.eps)
            chosen, index = self._choose(xhat)
            out = (chosen + _channels(w[f"beta{i}"], T)).clamp_min_(0)
            sweep.layers.append(Layer(source, side, xhat, rate, chosen, index, out))
            side = out.shape[-1]
            if i < LAYERS - 1:
                source = self.convolution.prepare(out, T, self.stride)
        sweep.features = self._to_features(out, T)
        sweep.logits = _product(sweep.features, _tasks(w["H"], T)) + w["b"][:, None]
        sweep.probabilities = torch.softmax(sweep.logits, -1)
        target = y[..., None] == torch.arange(sweep.logits.shape[-1], device=y.device)
        sweep.delta = (sweep.probabilities - target.to(sweep.probabilities.dtype)) * (scale / B)
        return sweep

    def backward(self, w: Weights, sweep: Sweep, everything: bool) -> Weights:
        """Gradient of the loss in every task: [T, ...] for all adapted weights, and for the others if ``everything``."""
        T = len(sweep.delta)
        g = {"H": _product(sweep.features.mT, sweep.delta), "b": sweep.delta.sum(1)}
        wanted = set(w) if everything else set(self.adapted)
        lowest = min((i for i in range(LAYERS) if {f"W{i}", f"beta{i}"} & wanted), default=LAYERS)
        y_bar = self._from_features(_product(sweep.delta, _tasks(w["H"], T).mT), sweep.layers[-1].y)
        for i in reversed(range(lowest, LAYERS)):
            layer = sweep.layers[i]
            n = layer.xhat[:, 0].numel()
            p = aten.threshold_backward(y_bar, layer.y, 0)
            sum_p, sum_px = _sums(p, layer.chosen)
            P, q, r = sum_p / n, sum_px / n, layer.rate
            # batch norm backwards: z̄ = r·(sᵀp − P − x̂·q)
            z_bar = self._spread(torch.addcmul(_c(-r * P), layer.xhat, _c(-r * q)), layer.index, p * _c(r))
            layer.p, layer.P, layer.q, layer.z_bar = p, P, q, z_bar
            if f"beta{i}" in wanted:
                g[f"beta{i}"] = sum_p.view(T, -1)
            if f"W{i}" in wanted:
                g[f"W{i}"] = self.convolution.weight_gradient(layer.source, z_bar, T, layer.side, self.stride)
            if i > lowest:
                y_bar = self.convolution.input_gradient(z_bar, _tasks(w[f"W{i}"], T), layer.side, self.stride)
        return {name: value for name, value in g.items() if name in wanted}

    def hessian_vector(self, w: Weights, v: Weights, sweep: Sweep, scale: float) -> Weights:
        """H·v of the loss of ``sweep`` (after ``backward``): the derivative of its gradient along v, for all weights.

        v has the weights that move; the others stand still.
        """
        T, B, _ = sweep.delta.shape
        conv, stride = self.convolution, self.stride
        moved, f_d = self._along(w, v, sweep)
        head = _tasks(w["H"], T)
        logits_d = torch.zeros_like(sweep.logits)
        if f_d is not None:
            logits_d = _product(f_d, head)
        if "H" in v:
            logits_d = logits_d + _product(sweep.features, v["H"])
        if "b" in v:
            logits_d = logits_d + v["b"][:, None]
        p = sweep.probabilities
        delta_d = p * (logits_d - (p * logits_d).sum(-1, keepdim=True)) * (scale / B)

        h = {"H": _product(sweep.features.mT, delta_d), "b": delta_d.sum(1)}
        if f_d is not None:
            h["H"] = h["H"] + _product(f_d.mT, sweep.delta)
        f_bar_d = _product(delta_d, head.mT)
        if "H" in v:
            f_bar_d = f_bar_d + _product(sweep.delta, v["H"].mT)
        y_bar_d = self._from_features(f_bar_d, sweep.layers[-1].y)
        for i in reversed(range(LAYERS)):
            layer = sweep.layers[i]
            n, r, P, q = layer.xhat[:, 0].numel(), layer.rate, layer.P, layer.q
            p_d = aten.threshold_backward(y_bar_d, layer.y, 0)
            sum_p, sum_px = _sums(p_d, layer.chosen)
            h[f"beta{i}"] = sum_p.view(T, -1)
            P_d, q_d = sum_p / n, sum_px / n
            if moved[i] is None:
                z_bar_d = self._spread(
                    torch.addcmul(_c(-r * P_d), layer.xhat, _c(-r * q_d)), layer.index, p_d * _c(r)
                )
            else:
                source_d, z_d, mean, g, chosen_d = moved[i]
                # z̄ = r·(sᵀp − P − x̂·q) along v, with ṙ = −r²·g and x̂˙ as above
                q_d = q_d + _dots(layer.p, chosen_d) / n
                a = r * r * g
                dense = torch.addcmul(
                    _c(a * P - r * P_d + r * r * q * mean), layer.xhat, _c(2 * a * q - r * q_d)
                )
                dense.addcmul_(z_d, _c(-r * r * q))
                z_bar_d = self._spread(dense, layer.index, (p_d * _c(r)).addcmul_(layer.p, _c(-a)))
            h[f"W{i}"] = conv.weight_gradient(layer.source, z_bar_d, T, layer.side, stride)
            if moved[i] is not None and source_d is not None:
                h[f"W{i}"] += conv.weight_gradient(source_d, layer.z_bar, T, layer.side, stride)
            if i:
                y_bar_d = conv.input_gradient(z_bar_d, _tasks(w[f"W{i}"], T), layer.side, stride)
                if f"W{i}" in v:
                    y_bar_d = y_bar_d + conv.input_gradient(layer.z_bar, v[f"W{i}"], layer.side, stride)
        return {name: h[name] for name in w}

    def _along(self, w: Weights, v: Weights, sweep: Sweep) -> tuple[list[tuple | None], Tensor | None]:
        """The sweep forward along v. For every layer (ẋ, ż, mean ż, g, derivative of s(x̂)) or None where nothing moves, and the
        derivative of the features."""
        T = len(sweep.delta)
        conv, stride = self.convolution, self.stride
        moved, source_d = [], None  # the images do not move
        for i, layer in enumerate(sweep.layers):
            z_d = None
            if f"W{i}" in v:
                z_d = conv.forward(layer.source, v[f"W{i}"], layer.side, stride)
            if source_d is not None:
                through = conv.forward(source_d, _tasks(w[f"W{i}"], T), layer.side, stride)
                z_d = through if z_d is None else z_d.add_(through)
            moved.append(None)
            y_d = None
            if z_d is not None:
                # x̂˙ = r·(ż − mean ż − x̂·g) with g = mean(x̂·ż)
                n, r = layer.xhat[:, 0].numel(), layer.rate
                sum_z, sum_zx = _sums(z_d, layer.xhat)
                mean, g = sum_z / n, sum_zx / n
                y_d = torch.addcmul(_c(-r * mean), layer.chosen, _c(-r * g))
                y_d.addcmul_(self._chosen_of(z_d, layer.index), _c(r))
                moved[i] = (source_d, z_d, mean, g, y_d)
            if f"beta{i}" in v:
                y_d = _channels(v[f"beta{i}"], T) + (torch.zeros_like(layer.y) if y_d is None else y_d)
            source_d = None
            if y_d is not None:
                y_d = aten.threshold_backward(y_d, layer.y, 0)
                if i < LAYERS - 1:
                    source_d = conv.prepare(y_d, T, stride)
        return moved, None if y_d is None else self._to_features(y_d, T)

    def metrics(self, sweep: Sweep, y: Tensor) -> dict[str, Tensor]:
        loss = F.cross_entropy(sweep.logits.flatten(0, 1), y.flatten())
        return {"loss": loss, "accuracy": (sweep.logits.argmax(-1) == y).to(loss.dtype).mean()}

    def _choose(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """s(x) and where it was found: the largest of 2×2 values, or x itself."""
        return aten.max_pool2d_with_indices(x, [2, 2], [2, 2]) if self.pool else (x, None)

    def _chosen_of(self, x: Tensor, index: Tensor | None) -> Tensor:
        """The values of x at the chosen positions."""
        if index is None:
            return x
        B, C, h, w = index.shape
        found = _rows(x).gather(1, _rows(index))
        return found.view(B, h, w, C).permute(0, 3, 1, 2)

    def _spread(self, x: Tensor, index: Tensor | None, values: Tensor) -> Tensor:
        """x plus sᵀ(values); the memory of x is used."""
        if index is None:
            return x.add_(values)
        B, C, h, w = x.shape
        rows = _rows(x).scatter_add_(1, _rows(index), _rows(values))
        return rows.view(B, h, w, C).permute(0, 3, 1, 2)

    def _to_features(self, y: Tensor, T: int) -> Tensor:
        """y [B, T·C, h, w] -> [T, B, features]: the mean over space (strided), or all positions."""
        B = len(y)
        if not self.pool:
            return y.mean((2, 3)).view(B, T, -1).transpose(0, 1)
        return y.permute(0, 2, 3, 1).reshape(B, -1, T, self.filters).permute(2, 0, 1, 3).flatten(2)

    def _from_features(self, f_bar: Tensor, like: Tensor) -> Tensor:
        """The transpose of ``_to_features``, in the shape of ``like``."""
        B, TC, h, w = like.shape
        T = len(f_bar)
        if not self.pool:
            flat = f_bar.transpose(0, 1).reshape(B, 1, 1, TC).expand(B, h, w, TC) / (h * w)
        else:
            flat = f_bar.view(T, B, h, w, -1).permute(1, 2, 3, 0, 4).reshape(B, h, w, TC)
        return flat.permute(0, 3, 1, 2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Batched a·b for the small matrices of the classifier, as a sum of products: the libraries' rounding depends on where in
    memory a matrix lies. (That of grouped convolutions depends on the number of groups, less often.)"""
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)


def _tasks(w: Tensor, T: int) -> Tensor:
    return w.expand(T, *w.shape[1:])


def _channels(w: Tensor, T: int) -> Tensor:
    """One value per task and filter, to be added to images [B, T·C, h, w]."""
    return _c(_tasks(w, T).reshape(-1))


def _c(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _rows(x: Tensor) -> Tensor:
    """[B, C, h, w] with channels last -> [B, h·w, C], a view."""
    B, C, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(B, h * w, C)


def _normalise_(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x̂, on a CPU in the memory of z, and r."""
    if z.device.type != "cpu":
        xhat, _, rate = aten.native_batch_norm(z, None, None, None, None, True, 0.0, eps)
        return xhat, rate
    mean, rate = z.new_empty(z.shape[1]), z.new_empty(z.shape[1])
    aten.native_batch_norm.out(
        z, None, None, None, None, True, 0.0, eps, out=z, save_mean=mean, save_invstd=rate
    )
    return z, rate


def _sums(t: Tensor, xhat: Tensor) -> tuple[Tensor, Tensor]:
    """Σt and Σt·x̂ of every channel."""
    return t.sum((0, 2, 3)), _dots(t, xhat)


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Σa·b of every channel: on a CPU without writing the product down, as batch norm's backward pass does."""
    if a.device.type != "cpu":
        return (a * b).sum((0, 2, 3))
    zero, one = a.new_zeros(a.shape[1]), a.new_ones(a.shape[1])
    only = [False, True, False]
    return aten.native_batch_norm_backward(a, b, None, None, None, zero, one, True, 0.0, only)[1]


def weight_name(name: str) -> str:
    """The name here of a parameter of ``Conv4``."""
    part, *rest = name.split(".")
    if part == "head":
        return "H" if rest[0] == "weight" else "b"
    return ("W" if part == "convs" else "beta") + rest[0]


def to_weights(params: Params, features: int) -> Weights:
    """Parameters of ``Conv4`` with a tasks axis of 1; ``features``: positions that the classifier reads per filter."""
    weights = {}
    for name, p in params.items():
        if p.dim() == 4:
            p = p.permute(0, 2, 3, 1).flatten(1)
        elif p.dim() == 2:
            p = p.view(len(p), -1, features).permute(2, 1, 0).reshape(-1, len(p))
        weights[weight_name(name)] = p[None]
    return weights


def from_weights(weights: Weights, features: int) -> Params:
    """The inverse of ``to_weights``."""
    params = {}
    for name, w in weights.items():
        w = w[0]
        if name[0] == "W":
            params[f"convs.{name[1:]}.weight"] = w.view(len(w), 3, 3, -1).permute(0, 3, 1, 2).contiguous()
        elif name.startswith("beta"):
            params[f"norms.{name[4:]}.beta"] = w
        elif name == "H":
            params["head.weight"] = w.view(features, -1, w.shape[1]).permute(2, 1, 0).reshape(w.shape[1], -1)
        else:
            params["head.bias"] = w
    return params


def network(
    model: Conv4,
    names: tuple[str, ...] | None,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> Conv4Sweeps:
    """The closed forms of ``model``; ``names``: the parameters that the inner loop moves (default: all)."""
    names = tuple(name for name, _ in model.named_parameters()) if names is None else names
    adapted = tuple(weight_name(name) for name in names)
    return Conv4Sweeps(
        model.downsample == "max_pool",
        model.convs[0].out_channels,
        model.norms[0].eps,
        adapted,
        convolutions.choose(torch.device(device), precision),
    )


def meta_gradient(
    model: Conv4,
    params: Params,
    episodes: Episode,
    *,
    inner_lr: float | Params,
    steps: int,
    names: tuple[str, ...] | None = None,
    inner_scale: float = 1.0,
    first_order: bool = False,
    chunks: tuple[int, int] | None = None,
    recompute: bool = False,
    precision: str = "float32",
) -> tuple[Params, Params | None, dict[str, Tensor]]:
    """∇J(θ) for a meta-batch, the gradient of learned rates (or None), and query loss and accuracy; arguments as in ``MAML``.

    inner_scale: factor on the mean support loss (the number of classes for ``class_sum``). chunks, recompute: see ``recursion``;
    by default a chunk is what fits the cache on a CPU, and everything on a GPU.
    """
    forms = network(model, names, episodes.support_x.device, precision)
    features = model.head.in_features // forms.filters
    if chunks is None and episodes.support_x.device.type == "cpu":
        chunks = chunk_sizes(forms, episodes)
    gradient = recursion.meta_gradient(
        forms,
        to_weights(params, features),
        episodes,
        inner_lr=to_weights(inner_lr, features) if isinstance(inner_lr, dict) else inner_lr,
        steps=steps,
        inner_scale=inner_scale,
        first_order=first_order,
        chunks=chunks,
        recompute=recompute,
    )
    rates = gradient.rates and from_weights(gradient.rates, features)
    return from_weights(gradient.weights, features), rates, gradient.metrics


def displacement(
    model: Conv4, params: Params, episodes: Episode, *, inner_lr: float, steps: int
) -> tuple[Params, dict[str, Tensor]]:
    """Mean over tasks of θ − θᴺ on the support sets, all parameters moving, and mean metrics before the last step."""
    forms = network(model, None, episodes.support_x.device)
    features = model.head.in_features // forms.filters
    on_cpu = episodes.support_x.device.type == "cpu"
    mean, metrics = recursion.displacement(
        forms,
        to_weights(params, features),
        episodes.support_x,
        episodes.support_y,
        inner_lr=inner_lr,
        steps=steps,
        chunk=chunk_sizes(forms, episodes)[0] if on_cpu else None,
    )
    return from_weights(mean, features), metrics


def chunk_sizes(forms: Conv4Sweeps, episodes: Episode) -> tuple[int, int]:
    """How many support sets and how many query sets have first-layer activations of ``CHUNK_BYTES`` together, at least one."""
    side = -(-episodes.support_x.shape[-1] // forms.stride)
    image = side**2 * forms.filters * episodes.support_x.element_size()
    support, query = (
        max(1, CHUNK_BYTES // (image * x.shape[1])) for x in (episodes.support_x, episodes.query_x)
    )
    return support, query
