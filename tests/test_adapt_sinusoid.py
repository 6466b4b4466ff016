"""The lab "Adapt a sinusoid": its JavaScript under Node gives PyTorch's numbers, and Python hands over what it should."""

import functools
import math

import lab_page
import pytest
import torch
from torch import nn

from mlbook.errors import CheckpointError, UserError
from mlbook.meta_learners.inner_loop import inner_path
from mlbook.models import MLP, call, initial_params
from mlbook.pages.labs import AdaptSinusoid, adapt_sinusoid

MODEL = MLP()
SIZES = [1, 40, 40, 1]
START_NAMES = ["MAML", "FOMAML", "pre-trained", "random"]
POINTS = [[-4.2, 1.3], [-1.0, -2.0], [0.25, 0.5], [1.75, 3.0], [4.5, -0.75]]


def random_params(seed):
    """Weights large enough that every layer, bias and closed ReLU counts in the comparison."""
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(p.shape, generator=generator) * (0.3 if p.ndim > 1 else 0.5)
        for n, p in initial_params(MODEL).items()
    }


def double(params):
    return {name: p.double() for name, p in params.items()}


def mse(params, xs, ys):
    x = torch.tensor(xs, dtype=next(iter(params.values())).dtype)[:, None]
    return nn.functional.mse_loss(call(MODEL, params, x), torch.tensor(ys, dtype=x.dtype)[:, None])


def flat(params):
    return torch.cat([params[name].flatten() for name, _ in MODEL.named_parameters()]).tolist()


def run_node(tmp_path, source, data):
    return lab_page.run_node(tmp_path, AdaptSinusoid, source, data)


assert_close = functools.partial(lab_page.assert_close, tolerance=1e-5)


# -- the arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forward_and_gradient_equal_pytorch(tmp_path, dtype):
    xs, ys = [p[0] for p in POINTS], [p[1] for p in POINTS]
    starts = [{n: p.to(dtype) for n, p in random_params(seed).items()} for seed in range(3)]
    source = """
        console.log(JSON.stringify(data.thetas.map((theta) => {
            const { loss, gradient } = lab.lossAndGradient(data.sizes, theta, data.xs, data.ys);
            return { loss, gradient: [...gradient], values: lab.predict(data.sizes, theta, data.xs) };
        })));
    """
    data = {"sizes": SIZES, "thetas": [flat(params) for params in starts], "xs": xs, "ys": ys}
    for found, params in zip(run_node(tmp_path, source, data), starts, strict=True):
        gradient, loss = torch.func.grad_and_value(mse)(params, xs, ys)
        assert_close([found["loss"]], [float(loss)])
        assert_close(found["gradient"], flat(gradient))
        assert_close(
            found["values"], call(MODEL, params, torch.tensor(xs, dtype=dtype)[:, None])[:, 0].tolist()
        )


@pytest.mark.parametrize("points", [POINTS, POINTS[:1], POINTS + [[x / 2, -1.0] for x in range(5)]], ids=len)
def test_ten_inner_steps_equal_pytorch(tmp_path, points):
    """From the bytes that the widget carries to the losses that the reader sees, for all shipped starts."""
    widget = AdaptSinusoid(points=points)
    source = """
        const length = lab.countParameters(data.setup.sizes), bytes = Uint8Array.from([7, ...data.bytes]);
        const starts = lab.unpack(new DataView(bytes.buffer, 1), length);   // not aligned to four bytes on purpose
        console.log(JSON.stringify(starts.map((theta) => {
            const { path, support, query } = lab.adaptation(data.setup, theta, data.state);
            return { support, query, values: path.map((theta) => lab.predict(data.setup.sizes, theta, data.setup.query_x)) };
        })));
    """
    state = {name: getattr(widget, name) for name in ("points", "inner_lr", "amplitude", "phase")}
    found = run_node(tmp_path, source, {"setup": widget.setup, "state": state, "bytes": list(widget.weights)})
    starts, _ = adapt_sinusoid.shipped_initialisations()
    assert widget.setup["names"] == list(starts) == START_NAMES
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    query_x = widget.setup["query_x"]
    query_y = [widget.amplitude * math.sin(x - widget.phase) for x in query_x]
    for ours, params in zip(found, starts.values(), strict=True):
        path = list(inner_path(lambda p: mse(p, xs, ys), double(params), inner_lr=widget.inner_lr, steps=10))
        x = torch.tensor(query_x, dtype=torch.float64)[:, None]
        for values, p in zip(ours["values"], path, strict=True):
            assert_close(values, call(MODEL, p, x)[:, 0].tolist())
        assert_close(ours["support"], [float(mse(p, xs, ys)) for p in path])
        assert_close(ours["query"], [float(mse(p, query_x, query_y)) for p in path])


def test_divergence_is_shown_and_not_hidden(tmp_path):
    source = """
        const x = [0, 1, 2, 3], plot = Object.assign(Object.create(lab.Plot.prototype),
            { domain: [0, 3], range: [0.01, 100], log: true, width: 300, height: 100 });
        console.log(JSON.stringify([NaN, Infinity, 0, 0.0123, -1.5, 12.34, 1234.5, 4e20].map(lab.format)
            .concat(plot.path(x, [1, 1e300, NaN, 1]))));
    """
    *words, path = run_node(tmp_path, source, {})
    assert words == ["diverged", "diverged", "0.00", "0.012", "−1.50", "12.3", "1235", "diverged"]
    assert path == "M0.0 50.0L100.0 -200.0"


def test_a_new_point_goes_into_the_widest_gap(tmp_path):
    source = "console.log(JSON.stringify(data.map((points) => lab.widestGap(points, [-5, 5]))))"
    assert run_node(tmp_path, source, [[[4, 0]], [[-4, 0], [4, 0]], [[-5, 0], [-1, 0], [5, 0]]]) == [
        -0.5,
        0,
        2,
    ]


# -- what Python hands over ------------------------------------------------------------------------------------------


def test_weights_round_trip():
    params = random_params(0)
    widget = AdaptSinusoid({"mine": params, "random": adapt_sinusoid.random_initialisation()})
    assert len(widget.weights) == 2 * 4 * 1761
    assert torch.frombuffer(bytearray(widget.weights), dtype=torch.float32)[:1761].tolist() == flat(params)
    assert widget.setup["colours"] == ["other-1", "random"]
    state = widget.get_state()
    assert "export default" in state["_esm"] and ".mlb-lab" in state["_css"]
    widget.close()


def test_it_opens_alive_and_on_the_curve():
    widget = AdaptSinusoid()
    assert widget.step == 1 and len(widget.points) == 5 and widget.inner_lr == 0.001
    assert widget.initialisation == "MAML"
    for x, y in widget.points:
        assert y == widget.amplitude * math.sin(x - widget.phase)
    assert all("meta-steps" in note for note in widget.setup["notes"][:3])
    widget.close()


def test_random_initialisation_is_fixed_and_standard():
    first, again, other = (adapt_sinusoid.random_initialisation(seed) for seed in (0, 0, 1))
    assert flat(first) == flat(again) != flat(other)
    for name, p in first.items():
        bound = 1 / math.sqrt(1 if name.startswith("layers.0") else 40)
        assert 0 < p.abs().max() <= bound and (p.numel() < 10 or p.abs().max() > 0.9 * bound)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initialisations": {}}, "at least one"),
        ({"initialisations": {"a": {"weight": torch.zeros(3)}}}, "network MLP"),
        ({"initialisations": {"a": {n: p * math.nan for n, p in random_params(0).items()}}}, "finite"),
        ({"initialisations": {f"{i}": random_params(i) for i in range(7)}}, "six"),
        ({"initialisation": "Maml"}, "one of MAML, FOMAML, pre-trained, random"),
        ({"step": 11}, "from 0 to 10"),
        ({"inner_lr": math.nan}, "inner_lr"),
        ({"amplitude": 5.5}, "amplitude must lie between 0.1 and 5"),
        ({"phase": -1.0}, "phase must lie between 0 and 3.14"),
        ({"points": []}, "1 to 10"),
        ({"points": [(0.0, 0.0)] * 11}, "1 to 10"),
        ({"points": [(6.0, 0.0)]}, "from -5 to 5"),
        ({"points": [(0.0, 0.0, 0.0)]}, "from -5 to 5"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        AdaptSinusoid(**options)


def test_a_missing_checkpoint_is_named(monkeypatch):
    monkeypatch.setitem(adapt_sinusoid.SHIPPED, "MAML", ("maml-sinusoid-77shot", ""))
    with pytest.raises(CheckpointError, match="maml-sinusoid-77shot"):
        AdaptSinusoid()
