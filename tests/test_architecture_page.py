"""Chapter 17: its figures, and the one problem with five outer variables."""

from types import SimpleNamespace

import pytest
import torch
from chapter_cells import executed, source
from package_fixtures import rng

from mlbook import results
from mlbook.architecture import children, search
from mlbook.architecture import controller as controllers
from mlbook.architecture import table as architecture_table
from mlbook.architecture.search import ControllerSearch
from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.pages import checks
from mlbook.pages.checks import five_variables as five
from mlbook.pages.figures import architecture_figures

# -- by hand -------------------------------------------------------------------------------------------------------------


class ThreeLogits:
    """The controller of the two decisions by hand."""

    def walk(self, theta, take, n):
        x = theta["logits"]
        choices, found = [], []
        for t in range(2):
            asked = x[:1].expand(n) if t == 0 else x[1 + choices[0]]
            log_p = torch.nn.functional.logsigmoid(torch.stack([-asked, asked], 1))
            choices.append(take(t, log_p))
            found.append(log_p)
        return torch.stack(choices, 1), found


def test_two_decisions_by_hand_are_those_of_the_cell_and_of_the_package(capsys):
    its = executed("17", "code-100", given={"torch": torch})
    capsys.readouterr()
    text = source("17", "md-008-77c1b0de").replace("−", "-")
    mean = torch.zeros(3, dtype=torch.float64)
    for a, reward in its["reward_of"].items():
        found = its["estimate"](a, 0.5)
        p = float(its["log_probability"](a).exp().detach())
        numbers = ", ".join(f"{float(g) + 0.0:.2g}" for g in found)
        row = next(line for line in text.splitlines() if line.startswith(f"| {a} |"))
        cells = [cell.strip() for cell in row.split("|")]
        assert (
            cells[2:5] == [f"{p:.2f}", f"{reward:.1f}", f"{reward - 0.5:.1g}"] and cells[6] == f"({numbers})"
        )
        mean += p * found
        theta = {"logits": its["logits"].detach()[None]}
        of_package = controllers.reinforce(
            ThreeLogits(),
            torch.tensor([[a]]),
            torch.tensor([[reward]], dtype=torch.float64),
            torch.tensor([0.5], dtype=torch.float64),
        )(theta)
        assert torch.allclose(-of_package.gradient["logits"][0], found, atol=1e-12)
    assert torch.allclose(mean, its["exact_gradient"], atol=1e-12)
    assert "$(" + r",\ ".join(f"{float(g):.4f}" for g in mean) + ")$" in text


# -- what it says of the searches ------------------------------------------------------------------------------------------


def test_as_learners_the_controllers_differ_and_as_searches_they_do_not():
    nothing = SimpleNamespace(figure=lambda *_, **__: None, table=lambda *_, **__: None)
    figures = SimpleNamespace(search_curves=lambda *_: None)
    given = {
        "torch": torch,
        "table": architecture_table.load(),
        "search": search,
        "controllers": controllers,
        "notebook": nothing,
        "architecture_figures": figures,
    }
    its = executed("17", "code-013", given=given)
    found = its["found"]
    late = {name: float(of["late"].mean()) for name, of in found.items()}
    assert late["LSTM controller"] > 4 * late["random search"], "far more than chance would draw"
    assert late["no baseline"] < 2 * late["random search"], "little more often than a blind draw"
    assert found["no baseline"]["distinct"].mean() < found["random search"]["distinct"].mean(), (
        "the same children again and again"
    )
    lstm, blind = (found[name]["worth"] for name in ("LSTM controller", "random search"))
    for n in (20, 100, 300):
        error = ((lstm[:, n].var() + blind[:, n].var()) / len(lstm)).sqrt()
        assert (lstm[:, n].mean() - blind[:, n].mean()).abs() < 1.96 * error


def test_what_a_relaxed_search_returns_is_of_middle_rank():
    table = architecture_table.load()
    _, meta = results.pretrained("nas-relaxed")
    final = meta["memory"]["drawn"][:, -1]
    seeds = torch.arange(len(final)) % table.seeds
    worth = table.worth(seeds)
    rank = 1 + (worth > worth.gather(1, final[:, None])).sum(1)
    assert len(final) == 10 and 150 < rank.double().median() < 350
    taken = torch.tensor(children.enumerate_space())[final]
    identity = [children.DECISIONS[place][1].index("identity") for place in (0, 1)]
    for place in (0, 1):
        assert (taken[:, place] == identity[place]).double().mean() > 0.5
    blind = worth.mean(1)
    ends = worth.gather(1, final[:, None])[:, 0]
    assert (ends - blind).abs().mean() < 0.05, "no better than one drawn blindly"
    assert 100 * results.run_record("nas-relaxed")["curve"][-1][2] > 100 * ends.max()


# -- five outer variables ------------------------------------------------------------------------------------------------


def double(outer):
    return {k: v.double() for k, v in outer.items()}


@pytest.mark.parametrize("variable", ["initialisation", "rate"])
def test_the_exact_estimates_agree_with_finite_differences(variable, monkeypatch):
    monkeypatch.setattr(five, "FIXED", double(five.FIXED))
    tasks = five.Curves(*(f.double() for f in five.curves(6, rng())))
    outer = {variable: five.FIXED[variable] + 0.1}
    found = five.estimator(variable, tasks, rng())(outer)
    assert float(found.value) == pytest.approx(float(five.objective(tasks, outer)))
    checked = checks.compare_gradient(
        lambda meta: five.objective(tasks, meta[""]),
        {"": found.gradient},
        {"": outer},
        generator=rng(1),
    )
    assert max(c.relative_error for c in checked) < 1e-5


def test_truncation_sees_the_same_value_and_another_gradient():
    tasks, outer = five.curves(8, rng()), {"optimiser": five.FIXED["optimiser"].clone()}
    cut = five.estimator("optimiser", tasks, rng())(outer)
    whole = bilevel.exact(five.Fit(tasks), five.Fit(tasks).steps)(outer)
    assert float(cut.value) == pytest.approx(float(whole.value), rel=1e-5)
    assert checks.relative_distance({"": cut.gradient}, {"": whole.gradient}) > 0.01


def test_the_score_function_of_the_features_is_right_on_average():
    tasks = five.curves(8, rng())
    outer = {"architecture": torch.tensor([0.3, -0.2, 0.1])}

    def expected(point):
        p = point["architecture"].softmax(-1)
        each = torch.stack([five.objective(tasks, {}, {"architecture": one}) for one in torch.eye(3)])
        return (p * each.detach()).sum()

    wanted = bilevel.gradient_of(expected, outer).gradient["architecture"]
    estimate = five.estimator("architecture", tasks, rng(3))
    draws = torch.stack([estimate(outer).gradient["architecture"] for _ in range(400)])
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - wanted).abs() < 4 * error + 1e-4).all()


@pytest.mark.parametrize("variable", five.ESTIMATES)
def test_the_same_loop_learns_every_variable(variable):
    values = [value for value, _ in five.learn(variable, 25, lr=0.08)]
    assert len(values) == 26 and values[-1] < values[0]


def test_a_turned_copy_of_an_odd_curve_is_learned_and_a_mirrored_one_is_not():
    *_, (_, outer) = five.learn("augmentation", 40, lr=0.08)
    as_it_is, turned, mirrored = outer["augmentation"].softmax(-1)
    assert turned > 0.6 > mirrored


def test_an_unknown_variable_is_refused():
    with pytest.raises(UserError, match="outer variable"):
        five.estimator("weather", five.curves(2, rng()), rng())


# -- figures -------------------------------------------------------------------------------------------------------------


def test_the_figures_say_what_they_show():
    table = architecture_table.load()
    one = ControllerSearch(table, 4, 10, learns=False)
    state = one.init(rng())
    state.meta["memory"]["drawn"] = torch.randint(500, (4, 10), generator=rng())
    worth = one.trials(state.meta, 10)
    drawn = [
        architecture_figures.loop(),
        architecture_figures.whole_space(table),
        architecture_figures.search_curves({"random search": worth}, {"random search": worth > 0.5}),
        architecture_figures.relaxation_path([0.1, 0.2], one.picks(state.meta), table.worth(one.seeds)),
        architecture_figures.five_curves({name: [1.0, 0.5] for name in five.ESTIMATES}, five.ESTIMATES),
    ]
    for fig, alt in drawn:
        assert fig.axes and len(alt) > 80 and alt[-1] == "."
