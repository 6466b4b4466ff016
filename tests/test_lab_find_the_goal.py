"""The lab "Find the goal": its arithmetic against the package, then the lab on its page under a reader's hands."""

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.pages.labs import FindTheGoal
from mlbook.pages.labs.coded_weights import rounded
from mlbook.pages.labs.find_the_goal import STARTS, STEPS, TRAJECTORIES, starts
from mlbook.reinforcement import MAMLRL, GaussianPolicy, Navigation, RolloutTasks

OPENING = {"goal": [0.35, 0.3], "start": "meta-learned", "seed": 1, "step": 0, "inner_lr": 0.5}
STATES = [
    {**OPENING, "step": 3},
    {**OPENING, "goal": [-0.42, 0.11], "seed": 7, "step": 2, "inner_lr": 0.3},
    {**OPENING, "start": "pre-trained", "goal": [0.02, -0.03], "step": 1},
    {**OPENING, "start": "random", "goal": [-0.5, -0.5], "step": 2, "inner_lr": 1.0},
]


def in_node(tmp_path, expression, data):
    """`expression` over each value `state` of `data`, with `setup` and `thetas` as the lab has them."""
    widget = FindTheGoal()
    names = list(STARTS)
    source = f"""
      const setup = data.setup, all = lab.unpackHalf(new DataView(Uint8Array.from(data.bytes).buffer));
      const each = all.length / {len(names)};
      const thetas = Object.fromEntries(data.names.map((n, i) => [n, all.slice(i * each, (i + 1) * each)]));
      console.log(JSON.stringify(data.values.map((state) => ({expression}))));"""
    found = run_node(
        tmp_path,
        widget,
        source,
        {"setup": widget.setup, "bytes": list(widget.weights), "names": names, "values": data},
    )
    widget.close()
    return found


def noise_of(tmp_path, seeds):
    """The lab's own random numbers, [n, M, H, 2]."""
    numbers = in_node(tmp_path, "[...lab.gaussians(state, setup.trajectories * setup.horizon * 2)]", seeds)
    return torch.tensor(numbers, dtype=torch.float64).view(len(seeds), TRAJECTORIES, -1, 2)


def judged(tmp_path, state):
    """The same rounds by the package, in double precision, from the weights that the page has."""
    noise = noise_of(tmp_path, [1000 * state["seed"] + n for n in range(state["step"] + 1)])
    environment = Navigation()
    learner = MAMLRL(environment, GaussianPolicy(), inner_lr=state["inner_lr"])
    params = rounded(starts()[0][state["start"]])
    goal = torch.tensor([state["goal"]], dtype=torch.float64)
    tasks = RolloutTasks(goal, noise[None], torch.zeros(1, len(noise), TRAJECTORIES, dtype=torch.int64))
    return list(learner.path({"params": params}, tasks, state["step"]))


# -- the arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES, ids=lambda s: f"{s['start']}-{s['step']}")
def test_rounds_equal_pytorch(tmp_path, state):
    found = in_node(
        tmp_path,
        """lab.roundsOf(setup, thetas, state).map(({theta, exploration: e, judged: j}) => ({
             theta: [...theta], actions: [...e.actions], observations: [...e.values[0]], returns: j.returns,
             rewards: [...j.rewards], taken: [...j.taken], advantage: [...lab.advantages(setup, e, j)]}))""",
        [state],
    )[0]
    wanted = judged(tmp_path, state)
    assert len(found) == state["step"] + 1
    for mine, (params, round_) in zip(found, wanted, strict=True):
        flat = torch.cat([p[0].flatten() for p in params.values()])
        assert_close(mine["theta"], flat, 1e-6)
        rollouts = round_.rollouts
        taken = torch.tensor(mine["taken"]).view(TRAJECTORIES, -1)
        assert torch.equal(taken.double(), rollouts.mask[0].double())
        for name in ("rewards", "actions", "observations"):
            numbers = torch.tensor(mine[name], dtype=torch.float64).view(*taken.shape, -1)
            theirs = getattr(rollouts, name)[0].view(*taken.shape, -1)
            # after the end the page walks on and the package stands still; nothing is learned from there
            assert_close(numbers * taken[..., None], theirs * taken[..., None], 1e-6)
        assert_close(mine["returns"], rollouts.returns()[0], 1e-6)
        assert_close(mine["advantage"], round_.advantage[0].flatten(), 1e-5)


def test_the_lab_is_one_step_from_the_goal(tmp_path):
    """What the chapter says of the lab: one step brings the meta-learned policy near, and the others not."""
    goals = [[0.35, 0.3], [-0.4, 0.2], [0.1, -0.45]]
    data = [{**OPENING, "goal": g, "start": s, "step": 1} for s in STARTS for g in goals]
    found = in_node(
        tmp_path, "lab.roundsOf(setup, thetas, state).map((r) => lab.mean(r.judged.returns))", data
    )
    gain = {s: [b - a for a, b in found[3 * i : 3 * i + 3]] for i, s in enumerate(STARTS)}
    assert min(gain["meta-learned"]) > 10
    assert all(m > p for m, p in zip(gain["meta-learned"], gain["pre-trained"], strict=True))


def test_the_noise_is_standard_normal(tmp_path):
    noise = noise_of(tmp_path, [1, 2, 1000])
    assert noise.mean().abs() < 0.03 and noise.std() == pytest.approx(1, abs=0.03)
    assert noise.abs().max() < 6 and not torch.equal(noise[0], noise[1])
    assert (noise**4).mean() == pytest.approx(3, abs=0.3)


def test_rounds_that_are_known_are_kept(tmp_path):
    """A dragged goal costs no rollouts, and a further step no earlier one."""
    source = """(() => { const a = lab.roundsOf(setup, thetas, state), moved = {...state, goal: [0.1, 0.1], step: 0};
      const b = lab.roundsOf(setup, thetas, moved, a), c = lab.roundsOf(setup, thetas, {...state, step: 2}, a);
      const fresh = lab.roundsOf(setup, thetas, moved);
      const said = [b, fresh, a].map((rounds) => String(rounds[0].judged.returns));
      return [b[0].exploration === a[0].exploration, c[1] === a[1], c.length, said[0] === said[1], said[0] === said[2]]; })()"""
    assert in_node(tmp_path, source, [{**OPENING, "step": 1}]) == [[True, True, 3, True, False]]


def test_equations_are_solved(tmp_path):
    system = {"A": [[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]], "b": [1.0, -2.0, 0.5]}
    found = in_node(tmp_path, "[...lab.solve(state.A, state.b)]", [system])[0]
    A, b = (torch.tensor(system[k], dtype=torch.float64) for k in "Ab")
    assert_close(found, torch.linalg.solve(A, b))


# -- what Python hands over ------------------------------------------------------------------------------------------


def test_it_opens_without_arguments():
    widget = FindTheGoal()
    assert {name: getattr(widget, name) for name in OPENING} == OPENING
    assert widget.setup["steps"] == STEPS and len(widget.weights) < 70_000
    widget.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": (0.6, 0)}, "from -0.5 to 0.5"),
        ({"goal": (0,)}, "point"),
        ({"start": "lucky"}, "start must be one of"),
        ({"seed": 0}, "from 1 to 999"),
        ({"step": 4}, "from 0 to 3"),
        ({"inner_lr": 1.5}, "inner_lr"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        FindTheGoal(**options)


# -- on the page -----------------------------------------------------------------------------------------------------


def judge(state, tmp_path):
    """All numbers that the page says."""
    wanted = judged(tmp_path, {name: state[name] for name in OPENING})
    assert_close(state["returns"], wanted[-1][1].rollouts.returns()[0], 1e-5)
    means = [float(r.rollouts.returns().mean()) for _, r in wanted]
    assert_close([row["mean"] for row in state["rows"]], means, 1e-5)


@pytest.mark.site
def test_mouse_buttons_and_slider(open_lab, tmp_path):
    lab = open_lab("find-the-goal")
    opening = lab.state()
    assert {name: opening[name] for name in OPENING} == OPENING
    judge(opening, tmp_path)
    assert lab.root.locator(".mlb-trajectory").count() == TRAJECTORIES
    lab.press("Gradient step ▶")
    after = lab.state()
    assert after["step"] == 1 and after["rows"][1]["mean"] > after["rows"][0]["mean"] + 10
    judge(after, tmp_path)
    for _ in range(2):
        lab.press("Gradient step ▶")
    assert lab.state()["step"] == 3 and lab.control("button", "Gradient step ▶").is_disabled()
    lab.press("One gradient step back")
    assert lab.state()["step"] == 2
    lab.drag("Goal", -80, 60)
    moved = lab.state()
    assert moved["step"] == 0 and moved["goal"][0] < 0.3 and moved["goal"][1] < 0.25
    judge(moved, tmp_path)
    lab.slide("inner rate α", 0.2)
    lab.press("Explore again")
    lab.press("Gradient step ▶")
    state = lab.state()
    assert (state["inner_lr"], state["seed"], state["step"]) == (0.2, 2, 1)
    judge(state, tmp_path)
    lab.root.get_by_role("radio", name="pre-trained").check()
    state = lab.state()
    assert (state["start"], state["step"]) == ("pre-trained", 0)
    judge(state, tmp_path)
    lab.press("New goal")
    assert all(-0.5 <= v <= 0.5 for v in lab.state()["goal"])
    lab.press("Reset")
    assert lab.state() == opening


@pytest.mark.site
def test_keyboard_alone(open_lab, tmp_path):
    lab = open_lab("find-the-goal", reduced_motion=True)
    page = lab.page
    lab.point("Goal").focus()
    for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowRight"):
        page.keyboard.press(key)
    state = lab.state()
    assert state["goal"] == pytest.approx([0.5, 0.2], abs=1e-9)
    judge(state, tmp_path)
    lab.control("button", "Gradient step ▶").focus()
    page.keyboard.press("Enter")
    assert lab.state()["step"] == 1
    page.wait_for_function(
        f"document.querySelector('{lab.selector} [role=status]').textContent.includes('After 1 gradient step')"
    )
    assert lab.state()["said"] in lab.root.text_content()


@pytest.mark.site
def test_touch_on_a_phone(open_lab, tmp_path):
    lab = open_lab("find-the-goal", width=390, height=844)
    lab.touch("Goal", -60, 40)
    state = lab.state()
    assert state["goal"][0] < 0.3
    lab.control("button", "Gradient step ▶").tap()
    judge(lab.state(), tmp_path)
    lab.control("button", "Reset").tap()
    assert lab.state()["goal"] == OPENING["goal"]
