"""Networks and their parameters; what the docstrings of ``mlbook.models`` claim."""

import pytest
import torch
import torch.nn.functional as F
from package_fixtures import rng
from torch import nn

from mlbook.errors import UserError
from mlbook.models import MLP, Conv4, call, initial_params
from mlbook.models.batch_norm import BatchNorm, batch_statistics
from mlbook.models.conv4 import adapted_names, count, head_names


def random_params(module, seed=0):
    """Parameters in float64, none of them at a special value."""
    g = rng(seed)
    params = {name: p.detach().double() for name, p in module.named_parameters()}
    return {name: p + 0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype) for name, p in params.items()}


# -- sizes and initial values ---------------------------------------------------------------------------------------


def test_parameter_counts_are_those_of_the_official_code():
    assert count(MLP()) == 1_761
    omniglot = Conv4(5, bias=True)
    assert count(omniglot, adapted_names(omniglot)) == 111_749
    mini = Conv4(5, channels=3, filters=32, size=84, downsample="max_pool", bias=True)
    assert count(mini, adapted_names(mini)) == 32_645
    with_scale = Conv4(5, channels=3, filters=32, size=84, downsample="max_pool", bias=True, gamma=True)
    assert count(with_scale) == 32_901  # the "32.9K" of the literature


def test_shapes_of_the_networks():
    for size, options in ((28, {}), (84, {"channels": 3, "filters": 8, "downsample": "max_pool"})):
        module = Conv4(5, size=size, **options)
        x = torch.rand(7, options.get("channels", 1), size, size)
        assert call(module, initial_params(module), x).shape == (7, 5)
    assert call(MLP(), initial_params(MLP()), torch.rand(3, 4, 1)).shape == (3, 4, 1)
    with pytest.raises(UserError, match="downsample must be"):
        Conv4(5, downsample="none")


def test_adapted_and_head_names():
    module = Conv4(5, gamma=True)
    assert head_names(module) == ("head.weight", "head.bias")
    left_out = {name for name, _ in module.named_parameters()} - set(adapted_names(module))
    assert left_out == {f"norms.{i}.{part}" for i in range(4) for part in ("beta", "gamma")}
    assert head_names(MLP()) == ("layers.2.weight", "layers.2.bias")


def test_initial_values_are_the_official_ones():
    params = initial_params(MLP(), rng())
    for name, p in params.items():
        if name.endswith("bias"):
            assert not p.any()
        else:
            assert 0.015 < p.abs().max() <= 0.02  # a normal of 0.01, cut at two deviations
    assert abs(params["layers.1.weight"].std() / 0.0088 - 1) < 0.05
    params = initial_params(Conv4(20, gamma=True), rng())
    bound = (6 / (9 * 64 + 9 * 64)) ** 0.5
    assert 0.99 * bound < params["convs.1.weight"].abs().max() <= bound
    assert abs(params["head.weight"].std() - 1) < 0.06
    assert not params["head.bias"].any() and not params["norms.0.beta"].any()
    assert (params["norms.3.gamma"] == 1).all()


# -- claims ---------------------------------------------------------------------------------------------------------


def test_a_bias_before_batch_norm_has_no_gradient_and_no_effect():
    module = Conv4(3, filters=8, bias=True, gamma=True)
    params = random_params(module)
    x, y = torch.rand(9, 1, 28, 28, generator=rng(), dtype=torch.float64), torch.arange(3).repeat(3)
    gradient = torch.func.grad(lambda p: F.cross_entropy(call(module, p, x), y))(params)
    for i in range(4):
        assert gradient[f"convs.{i}.bias"].abs().max() < 1e-12 < gradient[f"convs.{i}.weight"].abs().max()
    without = {
        name: torch.zeros_like(p) if "convs" in name and "bias" in name else p for name, p in params.items()
    }
    torch.testing.assert_close(call(module, without, x), call(module, params, x), rtol=0, atol=1e-10)


def same_padded_network(params, x):
    """The strided network as TensorFlow computes it: 'SAME' padding puts an odd pixel on the right and below."""
    for i in range(4):
        size = x.shape[-1]
        total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
        low, high = total // 2, total - total // 2
        x = F.conv2d(F.pad(x, (low, high, low, high)), params[f"convs.{i}.weight"], stride=2)
        x = F.batch_norm(x, None, None, None, params[f"norms.{i}.beta"], training=True, eps=1e-3)
        x = F.relu(x)
    return F.linear(x.mean((2, 3)), params["head.weight"], params["head.bias"])


def test_padding_on_both_sides_is_tensorflows_same_padding_on_images_turned_by_180_degrees():
    module = Conv4(5, filters=8)
    params = random_params(module)
    x = torch.rand(10, 1, 28, 28, generator=rng(), dtype=torch.float64)
    turned = {name: p.flip(2, 3) if p.dim() == 4 else p for name, p in params.items()}
    ours = call(module, params, x)
    torch.testing.assert_close(ours, same_padded_network(turned, x.flip(2, 3)), rtol=0, atol=1e-10)
    assert (ours - same_padded_network(params, x)).abs().max() > 1e-3  # not turned, the two differ


@pytest.mark.parametrize("gamma", [False, True])
def test_batch_norm_is_pytorchs(gamma):
    norm = BatchNorm(6, gamma=gamma)
    params = random_params(norm)
    x = 3 + 2 * torch.randn(5, 6, 4, 4, generator=rng(), dtype=torch.float64)
    scale, shift = params.get("gamma"), params["beta"]
    expected = F.batch_norm(x, None, None, scale, shift, training=True, eps=1e-3)
    torch.testing.assert_close(call(norm, params, x), expected, rtol=0, atol=1e-12)

    other = batch_statistics(torch.randn(5, 6, 4, 4, generator=rng(1), dtype=torch.float64))
    expected = F.batch_norm(x, *other, scale, shift, training=False, eps=1e-3)
    torch.testing.assert_close(call(norm, params, x, statistics=other), expected, rtol=0, atol=1e-12)


def test_batch_norm_works_on_vectors_too():
    x = torch.randn(7, 6, generator=rng(), dtype=torch.float64)
    norm = BatchNorm(6).double()
    torch.testing.assert_close(
        norm(x), F.batch_norm(x, None, None, training=True, eps=1e-3), rtol=0, atol=1e-12
    )


def test_collected_statistics_are_those_that_normalise():
    module = Conv4(3, filters=8)
    params = random_params(module)
    x = torch.rand(6, 1, 28, 28, generator=rng(), dtype=torch.float64)
    collected = []
    plain = call(module, params, x)
    assert torch.equal(call(module, params, x, collect=collected), plain)
    assert len(collected) == 4
    torch.testing.assert_close(call(module, params, x, statistics=collected), plain, rtol=0, atol=1e-12)
    # with statistics handed in, an image's logits do not depend on its companions
    alone = call(module, params, x[:1], statistics=collected)
    torch.testing.assert_close(alone, plain[:1], rtol=0, atol=1e-12)
    assert (call(module, params, x[:1]) - plain[:1]).abs().max() > 1e-3


def test_a_network_without_batch_norm_has_biases_and_no_memory_of_the_batch():
    module = Conv4(3, filters=8, batch_norm=False)
    assert module.norms is None and module.convs[0].bias is not None
    x = torch.rand(6, 1, 28, 28)
    params = initial_params(module)
    torch.testing.assert_close(call(module, params, x[:1]), call(module, params, x)[:1])


# -- functional calls -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_call_leaves_running_statistics_alone(norm):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), norm(2, track_running_stats=True))
    stateless = nn.Sequential(module[0], norm(2, track_running_stats=False))
    params = {name: p.detach() for name, p in module.named_parameters()}
    x = torch.rand(4, 1, 6, 6)
    torch.testing.assert_close(call(module, params, x), stateless(x).detach())
    assert int(module[1].num_batches_tracked) == 0 and not module[1].running_mean.any()
    torch.testing.assert_close(call(module.eval(), params, x), module(x).detach())


def test_call_uses_the_given_parameters_and_not_the_modules_own():
    module = MLP()
    params = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    params["layers.2.bias"] = torch.tensor([7.0])
    assert (call(module, params, torch.rand(3, 1)) == 7).all()
    assert not module.layers[2].bias.any()


@pytest.mark.parametrize("make", [MLP, lambda: Conv4(5, filters=4, gamma=True)])
def test_initial_params_leave_the_module_and_the_global_generator_alone(make):
    module = make()
    own = {name: p.detach().clone() for name, p in module.named_parameters()}
    before = torch.get_rng_state()
    a, b, c = (initial_params(module, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, own[name]) for name, p in module.named_parameters())
    assert list(a) == list(own) and all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    assert any(not torch.equal(a[name], own[name]) for name in a)


def test_initial_params_without_a_generator_are_copies_of_the_modules_own():
    module = MLP()
    params = initial_params(module)
    assert all(torch.equal(params[name], p) for name, p in module.named_parameters())
    params["layers.0.bias"] += 1
    assert not module.layers[0].bias.any()
    assert not any(p.requires_grad for p in params.values())
