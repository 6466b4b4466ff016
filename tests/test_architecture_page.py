"""Chapter 17: its figures, and the one problem with five outer variables."""

import pytest
import torch
from package_fixtures import rng

from mlbook.architecture import table as architecture_table
from mlbook.architecture.search import ControllerSearch
from mlbook.errors import UserError
from mlbook.meta_learners import bilevel
from mlbook.pages import checks
from mlbook.pages.checks import five_variables as five
from mlbook.pages.figures import architecture_figures

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
