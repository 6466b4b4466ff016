"""The products behind the convolutional fast engine: right, transposed where they should be, and rounded as they say."""

import pytest
import torch
import torch.nn.functional as F
from package_fixtures import rng

from mlbook.engines.convolutions import Grouped, Patches, choose, product, rounded

T, B, C, FILTERS = 3, 2, 2, 4
CASES = [(side, stride) for side in (6, 7) for stride in (1, 2)]


def setting(side, stride):
    g = rng(side + stride)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    half = -(-side // stride)
    x = draw(B, side, side, T * C).permute(0, 3, 1, 2)
    return x, draw(T, FILTERS, 9 * C), draw(B, half, half, T * FILTERS).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", [Grouped(), Patches()], ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("side, stride", CASES)
def test_every_task_is_convolved_with_its_own_kernels(kind, side, stride):
    x, w, _ = setting(side, stride)
    z = kind.forward(kind.prepare(x, T, stride), w, side, stride)
    for t in range(T):
        kernel = w[t].view(FILTERS, 3, 3, C).permute(0, 3, 1, 2)
        wanted = F.conv2d(x[:, t * C : (t + 1) * C], kernel, stride=stride, padding=1)
        torch.testing.assert_close(z[:, t * FILTERS : (t + 1) * FILTERS], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Grouped(), Patches()], ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("side, stride", CASES)
def test_the_two_gradients_are_the_transposes_of_the_convolution(kind, side, stride):
    x, w, z_bar = setting(side, stride)
    source = kind.prepare(x, T, stride)
    inner = (kind.forward(source, w, side, stride) * z_bar).sum()
    torch.testing.assert_close((kind.weight_gradient(source, z_bar, T, side, stride) * w).sum(), inner)
    torch.testing.assert_close((kind.input_gradient(z_bar, w, side, stride) * x).sum(), inner)


def test_rounding_keeps_as_many_bits_as_it_says():
    x = torch.tensor([1 + 2**-10, 1 + 2**-11 - 2**-20, 1 + 2**-11 + 2**-20, -3.0, 0.0])
    assert rounded(x, "tf32").tolist() == [1 + 2**-10, 1.0, 1 + 2**-10, -3.0, 0.0]
    assert rounded(x, "bf16").tolist() == [1.0, 1.0, 1.0, -3.0, 0.0]
    assert rounded(x, "float32") is x


@pytest.mark.parametrize("precision, bits", [("float32", 22), ("tf32", 10), ("bf16", 7)])
def test_a_product_is_as_exact_as_its_precision(precision, bits):
    a, b = torch.randn(2, 8, 64, generator=rng(1)), torch.randn(2, 64, 8, generator=rng(2))
    exact = torch.bmm(a.double(), b.double())
    error = ((product(a, b, precision).double() - exact).norm() / exact.norm()).item()
    assert 2.0 ** -(bits + 4) < error < 2.0**-bits


def test_rounded_products_are_seen_also_on_a_cpu():
    cpu = torch.device("cpu")
    assert isinstance(choose(cpu, "float32"), Grouped)
    assert choose(cpu, "bf16") == Patches("bf16") and choose(torch.device("cuda"), "tf32") == Patches("tf32")
