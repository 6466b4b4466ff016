"""The lab "Drifting clients": its arithmetic under Node, then the lab on its page; PyTorch is the judge of both."""

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.federated import corrected as with_shift
from mlbook.meta_learners.inner_loop import inner_path
from mlbook.pages.labs import DriftingClients
from mlbook.pages.labs.drifting_clients import CLIENTS

CENTRES = [[-2.4, -0.6], [1.6, -1.6]]
STATES = [
    {"steps": 1, "rate": 0.1, "outer_rate": 1.0, "momentum": 0.0, "corrected": False},
    {"steps": 7, "rate": 0.35, "outer_rate": 0.4, "momentum": 0.0, "corrected": False},
    {"steps": 12, "rate": 0.05, "outer_rate": 0.7, "momentum": 0.9, "corrected": False},
    {"steps": 5, "rate": 0.2, "outer_rate": 1.0, "momentum": 0.0, "corrected": True},
]


def judged(state, theta, centres, rounds):
    """The path of θ and the clients' first steps, by the package's inner loop and torch's own outer optimiser."""
    theta = torch.tensor(theta, dtype=torch.float64)
    optimizer = torch.optim.SGD(
        [theta], state["outer_rate"], momentum=state["momentum"], nesterov=state["momentum"] > 0
    )
    losses = [client.loss(centre) for client, centre in zip(CLIENTS, centres, strict=True)]
    controls, path, first = torch.zeros(2, 2, dtype=torch.float64), [theta.clone()], None
    for _ in range(rounds):
        c, locals_ = controls.mean(0), []
        for k, loss in enumerate(losses):
            own = with_shift(loss, {"phi": c - controls[k]}) if state["corrected"] else loss
            points = inner_path(own, {"phi": theta.clone()}, inner_lr=state["rate"], steps=state["steps"])
            locals_.append(torch.stack([p["phi"] for p in points]))
        first = torch.stack(locals_) if first is None else first
        ends = torch.stack([local[-1] for local in locals_])
        controls = controls - c + (theta - ends) / (state["steps"] * state["rate"])
        theta.grad = theta - ends.mean(0)
        optimizer.step()
        path.append(theta.clone())
    return torch.stack(path), first


def in_node(tmp_path, expression, states=STATES):
    source = f"""console.log(JSON.stringify(data.states.map((state) => {{
        const clients = data.clients.map((shape, i) => ({{ ...shape, centre: data.centres[i] }}));
        return {expression};
    }})));"""
    data = {"clients": DriftingClients().setup["clients"], "centres": CENTRES, "states": states}
    return run_node(tmp_path, DriftingClients, source, data)


def test_rounds_equal_pytorch(tmp_path):
    found = in_node(tmp_path, "lab.averaged(clients, [3.2, 2.3], state, 6)")
    for state, ours in zip(STATES, found, strict=True):
        path, first = judged(state, [3.2, 2.3], CENTRES, 6)
        assert_close(ours["path"], path)
        assert_close(ours["first"], first)


def test_resting_point_joint_minimum_and_loss(tmp_path):
    rest = "lab.restingPoint(clients, state.steps, state.rate)"
    expression = f"[{rest}, lab.jointMinimum(clients), lab.jointLoss(clients, [0.3, -2])]"
    for state, (rest, best, loss) in zip(STATES, in_node(tmp_path, expression), strict=True):
        path, _ = judged({**state, "outer_rate": 1.0, "momentum": 0.0, "corrected": False}, rest, CENTRES, 1)
        assert_close(path[1], rest)  # a round leaves it where it is
        losses = [client.loss(centre) for client, centre in zip(CLIENTS, CENTRES, strict=True)]

        def mean(phi, losses=losses):
            return sum(its({"phi": phi}) for its in losses) / 2

        at = torch.tensor(best, dtype=torch.float64)
        assert torch.func.grad(mean)(at).abs().max() < 1e-12
        assert loss == pytest.approx(float(mean(torch.tensor([0.3, -2.0], dtype=torch.float64))))


def test_more_local_steps_lead_to_the_midpoint_and_the_correction_to_the_minimum(tmp_path):
    """What the page says of the lab as it opens."""
    base = {**STATES[0], "rate": 0.6}
    states = [{**base, "steps": u} for u in (1, 5, 20, 60)]
    rests = torch.tensor(in_node(tmp_path, "lab.restingPoint(clients, state.steps, state.rate)", states))
    [best] = torch.tensor(in_node(tmp_path, "lab.jointMinimum(clients)", states[:1]))
    assert_close(rests[0], best)
    off = (rests - best).norm(dim=1)
    assert bool((off[1:] > off[:-1]).all())
    middle = torch.tensor(CENTRES).mean(0)
    assert (rests[-1] - middle).norm() < 0.01
    scaffold = [{**STATES[3], "steps": 60, "rate": 0.1}]
    [ours] = in_node(tmp_path, "lab.averaged(clients, [3.2, 2.3], state, 60)", scaffold)
    assert (torch.tensor(ours["path"][-1]) - best).norm() < 0.01


def test_wrong_arguments_are_one_sentence():
    for wrong in ({"steps": 61}, {"rate": 1.0}, {"momentum": 1.0}, {"centres": [[0, 0]]}, {"theta": (9, 0)}):
        with pytest.raises(UserError):
            DriftingClients(**wrong)


@pytest.fixture
def lab(open_lab):
    return open_lab("drifting-clients")


@pytest.mark.site
def test_the_lab_follows_slider_mouse_and_keyboard(lab):
    def judge():
        now = lab.state()
        path, first = judged(now, now["theta"], now["centres"], 8)
        assert_close(now["path"][:9], path, 1e-7)
        assert_close(now["first"], first, 1e-7)
        return now

    few = judge()
    lab.slide("local steps u", 30)
    many = judge()
    assert many["needed"] is not None
    assert few["needed"] is None or many["needed"] < few["needed"]  # None: not there within the rounds
    lab.press("60 steps, corrected")
    assert judge()["rest"] == judge()["best"]
    lab.drag("Minimum of client A", 60, -40)
    assert judge()["centres"][0] != many["centres"][0]
    lab.point("The first model θ").press("Shift+ArrowLeft")
    assert judge()["theta"][0] == pytest.approx(many["theta"][0] - 0.5)
    lab.press("Reset")
    assert judge()["theta"] == few["theta"]
