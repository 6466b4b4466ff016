"""3×3 convolutions of many tasks at once, each task with weights of its own: two ways to the same three products.

Images lie as [B, T·C, h, w], channels last in memory; weights as [T, filters, 9·C] with rows (ky, kx, channel); padding is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten
PRECISIONS = ("float32", "tf32", "bf16")


class Convolution(Protocol):
    def prepare(self, x: Tensor, tasks: int, stride: int) -> Tensor:
        """x in the form that the other functions read as ``source``."""
        ...

    def forward(self, source: Tensor, w: Tensor, side: int, stride: int) -> Tensor: ...

    def weight_gradient(
        self, source: Tensor, z_bar: Tensor, tasks: int, side: int, stride: int
    ) -> Tensor: ...

    def input_gradient(self, z_bar: Tensor, w: Tensor, side: int, stride: int) -> Tensor: ...


class Grouped:
    """One convolution with a group per task: the faster way on the CPU that ``benchmarks.savings`` was run on."""

    def prepare(self, x: Tensor, tasks: int, stride: int) -> Tensor:
        return _channels_last(x)

    def forward(self, source: Tensor, w: Tensor, side: int, stride: int) -> Tensor:
        return F.conv2d(source, _kernel(w), None, stride, 1, 1, len(w))

    def weight_gradient(self, source: Tensor, z_bar: Tensor, tasks: int, side: int, stride: int) -> Tensor:
        C = source.shape[1] // tasks
        shape = _kernel(z_bar.new_empty(1).expand(tasks, z_bar.shape[1] // tasks, 9 * C))
        g = _backward(z_bar, source, shape, stride, tasks, [False, True, False])[1]
        return g.permute(0, 2, 3, 1).reshape(tasks, -1, 9 * C)

    def input_gradient(self, z_bar: Tensor, w: Tensor, side: int, stride: int) -> Tensor:
        C = w.shape[2] // 9
        like = _like(z_bar, (len(z_bar), len(w) * C, side, side))
        return _backward(z_bar, like, _kernel(w), stride, len(w), [True, False, False])[0]


@dataclass(frozen=True)
class Patches:
    """Matrix products over all 3×3 patches of a task: for GPUs and their matrix units."""

    precision: str = "float32"

    def prepare(self, x: Tensor, tasks: int, stride: int) -> Tensor:
        """All patches, [T, B·h'·w', 9·C]."""
        B, TC, h, w = x.shape
        C, H, W = TC // tasks, _half(h, stride), _half(w, stride)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).view(B, h + 2, w + 2, tasks, C)
        b, y, x_, t, c = padded.stride()
        view = padded.as_strided((tasks, B, H, W, 3, 3, C), (t, b, stride * y, stride * x_, y, x_, c))
        return view.reshape(tasks, B * H * W, 9 * C)

    def forward(self, source: Tensor, w: Tensor, side: int, stride: int) -> Tensor:
        T, n, _ = source.shape
        H = _half(side, stride)
        z = source.new_empty(n, T, w.shape[1])
        if self.precision == "float32" or (self.precision == "tf32" and source.is_cuda):
            torch.bmm(source, w.mT, out=z.transpose(0, 1))
        else:
            z.transpose(0, 1).copy_(product(source, w.mT, self.precision))
        return z.view(n // H**2, H, H, -1).permute(0, 3, 1, 2)

    def weight_gradient(self, source: Tensor, z_bar: Tensor, tasks: int, side: int, stride: int) -> Tensor:
        return product(_by_task(z_bar, tasks).mT, source, self.precision)

    def input_gradient(self, z_bar: Tensor, w: Tensor, side: int, stride: int) -> Tensor:
        T, C, H = len(w), w.shape[2] // 9, z_bar.shape[-1]
        B = len(z_bar)
        g = product(_by_task(z_bar, T), w, self.precision).view(T, B, H, H, 3, 3, C)
        g = g.permute(1, 2, 3, 0, 4, 5, 6)
        padded = z_bar.new_zeros(B, side + 2, side + 2, T, C)
        span = stride * (H - 1) + 1
        for ky in range(3):
            for kx in range(3):
                padded[:, ky : ky + span : stride, kx : kx + span : stride].add_(g[..., ky, kx, :])
        inside = padded[:, 1 : side + 1, 1 : side + 1].reshape(B, side, side, T * C)
        return inside.permute(0, 3, 1, 2)


def choose(device: torch.device, precision: str) -> Convolution:
    """The faster way on that device; with rounded factors the products have to be seen, so it is ``Patches``."""
    return Grouped() if device.type == "cpu" and precision == "float32" else Patches(precision)


def rounded(x: Tensor, precision: str) -> Tensor:
    """x as a matrix unit reads it: 23 bits of mantissa (float32), 10 (tf32) or 7 (bf16), rounded to nearest.

    On a GPU tf32 is a switch of the library and x stays as it is; on a CPU the rounding is done here, so that its effect can be
    measured anywhere.
    """
    if precision == "bf16":
        return x.to(torch.bfloat16)
    if precision == "tf32" and x.device.type == "cpu" and x.dtype == torch.float32:
        return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return x


def product(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """Batched a·b of rounded factors; sums are kept in float32 and, for bf16, rounded once at the end."""
    if precision == "bf16" and a.device.type == "cpu":
        exact = torch.bmm(rounded(a, precision).to(a.dtype), rounded(b, precision).to(b.dtype))
        return exact.to(torch.bfloat16).to(a.dtype)
    return torch.bmm(rounded(a, precision), rounded(b, precision)).to(a.dtype)


def _kernel(w: Tensor) -> Tensor:
    """[T, filters, 9·C] -> [T·filters, C, 3, 3], channels last in memory."""
    T, filters, n = w.shape
    C = n // 9
    w = w.reshape(T * filters, 3, 3, C).permute(0, 3, 1, 2)
    return w.as_strided(w.shape, (9 * C, 1, 3 * C, C)) if w.stride(0) else w


def _channels_last(x: Tensor) -> Tensor:
    """x with the strides of channels last, also where there is one channel and torch calls both orders contiguous."""
    x = x.contiguous(memory_format=torch.channels_last)
    B, C, h, w = x.shape
    return x.as_strided(x.shape, (C * h * w, 1, C * w, C))


def _like(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of that shape with channels last and no memory of its own."""
    return x.new_empty(1).expand(shape)


def _backward(z_bar: Tensor, x: Tensor, w: Tensor, stride: int, groups: int, mask: list[bool]):
    return aten.convolution_backward(
        _channels_last(z_bar), x, w, None, [stride, stride], [1, 1], [1, 1], False, [0, 0], groups, mask
    )


def _by_task(z: Tensor, tasks: int) -> Tensor:
    """[B, T·C, h, w] -> [T, B·h·w, C], a view."""
    B, TC, h, w = z.shape
    return z.permute(0, 2, 3, 1).reshape(B * h * w, tasks, -1).transpose(0, 1)


def _half(side: int, stride: int) -> int:
    return (side + stride - 1) // stride
