"""The figure on the front page: what its JavaScript computes, against PyTorch. tests/test_self_study.py operates it."""

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.meta_learners.inner_loop import adapt
from mlbook.models import MLP, call, initial_params
from mlbook.pages.labs import TwoStarts
from mlbook.pages.labs.two_starts import SHIPPED, STEPS
from mlbook.results import pretrained

SOURCE = """
import { readFileSync as read } from "node:fs";
const bytes = read(data.weights), view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const starts = lab.unpack(view, lab.countParameters(data.setup.sizes));
console.log(JSON.stringify(lab.meet(data.setup, starts, data.task)));
"""


def test_both_starts_meet_the_task_as_in_pytorch(tmp_path):
    widget, network = TwoStarts(), MLP()
    (tmp_path / "weights.bin").write_bytes(widget.weights)
    task = [3.0, 1.1, -4.0, -2.5, 0.3, 1.9, 4.4]
    data = {"setup": widget.setup, "task": task, "weights": str(tmp_path / "weights.bin")}
    found = run_node(tmp_path, widget, SOURCE, data)
    x = torch.tensor(task[2:], dtype=torch.float64)[:, None]
    grid = torch.tensor(widget.setup["query_x"], dtype=torch.float64)[:, None]
    truth = lambda x: task[0] * torch.sin(x - task[1])  # noqa: E731
    for (_, experiment, _), ours in zip(SHIPPED, found, strict=True):
        _, meta = pretrained(experiment)
        theta = {name: value.double() for name, value in meta["params"].items()}
        for step in range(STEPS + 1):
            loss = lambda p: (call(network, p, x) - truth(x)).square().mean()  # noqa: E731
            adapted = adapt(loss, theta, inner_lr=widget.setup["inner_lr"], steps=step)
            curve = call(network, adapted, grid)
            assert_close(ours["curves"][step], curve[:, 0].detach(), 1e-9)
            assert ours["losses"][step] == pytest.approx(
                float((curve - truth(grid)).square().mean()), rel=1e-9
            )


def test_what_the_front_page_says_is_so(tmp_path):
    """Before the first step neither is the better one; after five the meta-learned start is, by far; over many tasks."""
    widget = TwoStarts()
    (tmp_path / "weights.bin").write_bytes(widget.weights)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(60):
        amplitude, phase = (
            2 + 3 * torch.rand(1, generator=generator),
            3.14 * torch.rand(1, generator=generator),
        )
        xs = -5 + 2 * (torch.arange(5) + 0.15 + 0.7 * torch.rand(5, generator=generator))
        task = [float(amplitude), float(phase), *xs.tolist()]
        data = {"setup": widget.setup, "task": task, "weights": str(tmp_path / "weights.bin")}
        errors.append(data)
    source = SOURCE.replace("data.task", "task").replace("console.log(JSON.stringify(lab", "out.push((lab")
    source = "const out = [];\n" + source.replace("out.push", "for (const task of data.tasks) out.push")
    source += "console.log(JSON.stringify(out.map((r) => r.map((s) => s.losses))));"
    many = {**errors[0], "tasks": [data["task"] for data in errors]}
    losses = torch.tensor(run_node(tmp_path, widget, source, many)).mean(0)  # [start, step]
    before, after = losses[:, 0], losses[:, -1]
    assert 0.9 < before[0] / before[1] < 1.1
    assert after[1] < after[0] / 5


def test_own_starts():
    params = initial_params(MLP(), torch.Generator().manual_seed(0))
    widget = TwoStarts({"a": params, "b": params}, inner_lr=0.02)
    assert widget.setup["names"] == ["a", "b"] and widget.setup["inner_lr"] == 0.02
