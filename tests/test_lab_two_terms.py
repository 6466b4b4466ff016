"""The lab "Two terms": its JavaScript under Node and its page in a browser; PyTorch is the judge of both."""

import itertools
import math

import pytest
import torch
from lab_page import assert_close, run_node

from mlbook.errors import UserError
from mlbook.meta_learners.inner_loop import adapt
from mlbook.pages.labs import TwoTerms

METHODS = ["MAML", "FOMAML", "Reptile"]
TOLERANCE = 1e-9
NEW_BATCHES = [[0.4, -1.1, 0.3, 0.2, 0.9, 0.7], [-0.2, 0.8, -0.4, -0.3, 0.5, 1.9]]


def losses(phi, batches):
    """[S]: each row of phi [S, 2] on the mini-batch in the same row of batches [S, 6]."""
    x, y = phi.unbind(-1)
    a, b, c, d, p, q = batches.unbind(-1)
    return 0.5 * p * (x - a + c * y**2) ** 2 + 0.5 * q * (y - b + d * x**2) ** 2


def truth(batches, phi, k, alpha, same=False):
    """The expected meta-gradients by automatic differentiation through the package's inner loop, all sequences at once."""
    batches, phi = (torch.tensor(v, dtype=torch.float64) for v in (batches, phi))
    indices = range(len(batches))
    sequences = [[i] * k for i in indices] if same else list(itertools.product(indices, repeat=k))
    drawn = batches[torch.tensor(sequences)]  # [S, k, 6]

    def step(params, i):
        return adapt(lambda p: losses(p["phi"], drawn[:, i]).sum(), params, inner_lr=alpha, steps=1)

    def last_loss(phi, first=0):
        params = {"phi": phi}
        for i in range(first, k - 1):
            params = step(params, i)
        return losses(params["phi"], drawn[:, -1]).sum()

    start = params = {"phi": phi.expand(len(drawn), 2)}
    for i in range(k - 1):
        params = step(params, i)
    end = step(params, k - 1)["phi"]
    return {
        "MAML": torch.func.grad(last_loss)(start["phi"]).mean(0),
        "FOMAML": torch.func.grad(lambda phi: last_loss(phi, first=k - 1))(params["phi"]).mean(0),
        "Reptile": ((start["phi"] - end) / alpha).mean(0),
    }


def mean_terms(batches, phi):
    """AvgGrad and AvgGradInner as they are defined: E[ḡ₁] and E[H̄₂ ḡ₁] over all ordered pairs of mini-batches."""
    phi, batches = (torch.tensor(v, dtype=torch.float64) for v in (phi, batches))
    functions = [lambda v, b=b: losses(v[None], b[None])[0] for b in batches]
    gradients = [torch.func.grad(f)(phi) for f in functions]
    hessians = [torch.func.jacrev(torch.func.grad(f))(phi) for f in functions]
    inner = [H @ g for H in hessians for g in gradients]
    return torch.stack(gradients).mean(0), torch.stack(inner).mean(0)


def judge(state, batches):
    """All numbers that the lab shows follow from PyTorch's."""
    phi, k, alpha, method = (state[name] for name in ("phi", "inner_steps", "inner_lr", "method"))
    exact = truth(batches, phi, k, alpha, state["same_batch"])
    for name in METHODS:
        assert_close(state["exact"][name], exact[name], TOLERANCE)
    gradient, inner = mean_terms(batches, phi)
    assert_close(state["gradient"], gradient, TOLERANCE)
    assert_close(state["inner"], inner, TOLERANCE)
    expected = {
        "MAML": (1, 2 * (k - 1) * alpha),
        "FOMAML": (1, (k - 1) * alpha),
        "Reptile": (k, k * (k - 1) * alpha / 2),
    }
    for name, (c1, c2) in expected.items():
        assert state["coefficients"][name] == pytest.approx([c1, c2])
        both = (exact[name] - c1 * gradient + c2 * inner).norm() / (c1 * gradient).norm()
        first = (exact[name] - c1 * gradient).norm() / (c1 * gradient).norm()
        assert state["remainders"][name] == pytest.approx(
            {"both": float(both), "first": float(first)}, abs=1e-10
        )
    c1, c2 = expected[method]
    assert_close(state["terms"]["first"], c1 * gradient, TOLERANCE)
    assert_close(state["terms"]["second"], -c2 * inner, TOLERANCE)
    assert_close(state["terms"]["sum"], c1 * gradient - c2 * inner, TOLERANCE)


# -- the arithmetic --------------------------------------------------------------------------------------------------

EVALUATE = """
    console.log(JSON.stringify(data.map(({ batches, phi, k, alpha, same }) => ({
        exact: lab.exact(batches, phi, k, alpha, same), ...lab.averages(batches, phi),
        derivatives: batches.map((b) => lab.derivatives(b, ...phi)),
    }))));
"""


def test_gradients_and_hessians_equal_pytorch(tmp_path):
    widget = TwoTerms()
    cases = [
        {"batches": batches, "phi": phi, "k": 2, "alpha": 0.1}
        for batches in (widget.setup["batches"], NEW_BATCHES)
        for phi in ([-1.8, 0.5], [0.0, 0.0], [2.7, -2.2])
    ]
    for case, found in zip(cases, run_node(tmp_path, TwoTerms, EVALUATE, cases), strict=True):
        phi = torch.tensor(case["phi"], dtype=torch.float64)
        for batch, ours in zip(case["batches"], found["derivatives"], strict=True):
            b = torch.tensor(batch, dtype=torch.float64)

            def function(v, b=b):
                return losses(v[None], b[None])[0]

            assert ours["loss"] == pytest.approx(float(function(phi)))
            assert_close([ours["gx"], ours["gy"]], torch.func.grad(function)(phi))
            hessian = [[ours["hxx"], ours["hxy"]], [ours["hxy"], ours["hyy"]]]
            assert_close(hessian, torch.func.jacrev(torch.func.grad(function))(phi))
        gradient, inner = mean_terms(case["batches"], case["phi"])
        assert_close(found["gradient"], gradient, TOLERANCE)
        assert_close(found["inner"], inner, TOLERANCE)


@pytest.mark.parametrize("same", [False, True], ids=["independent", "same"])
def test_meta_gradients_equal_autograd_through_the_inner_loop(tmp_path, same):
    batches = TwoTerms().setup["batches"]
    cases = [
        {"batches": b, "phi": phi, "k": k, "alpha": alpha, "same": same}
        for b, phi, k, alpha in (
            (batches, [-1.8, 0.5], 2, 0.05),
            (batches, [1.1, -1.4], 3, 0.2),
            (batches, [0.3, 2.0], 5, 0.1),
            (batches, [-2.5, -0.4], 10, 0.03),
            (NEW_BATCHES, [1.0, 1.0], 7, 0.08),
        )
    ]
    for case, found in zip(cases, run_node(tmp_path, TwoTerms, EVALUATE, cases), strict=True):
        wanted = truth(**case)
        for method in METHODS:
            assert_close(found["exact"][method], wanted[method], TOLERANCE)


def test_the_error_falls_with_the_square_of_the_rate(tmp_path):
    """To a quarter when α is halved with both terms, to a half with the first alone; with one mini-batch for all k losses
    the second term has the wrong value, and its error falls no faster than the first's."""
    source = """
        const error = (k, method, alpha, same) => lab.remainders(data.batches, data.phi, k, alpha, method,
            lab.exact(data.batches, data.phi, k, alpha, same));
        const ratios = [false, true].map((same) => [2, 4, 8].map((k) => lab.METHODS.map((method) => {
            const [all, half] = [2e-4, 1e-4].map((alpha) => error(k, method, alpha, same));
            return [all.both / half.both, all.first / half.first];
        })));
        console.log(JSON.stringify(ratios));
    """
    widget = TwoTerms()
    independent, same = run_node(
        tmp_path, TwoTerms, source, {"batches": widget.setup["batches"], "phi": widget.phi}
    )
    for both, first in itertools.chain(*independent):
        assert both == pytest.approx(4, abs=0.05) and first == pytest.approx(2, abs=0.02)
    for both, first in itertools.chain(*same):
        assert both == pytest.approx(2, abs=0.1) and first == pytest.approx(2, abs=0.1)


def test_overflow_and_small_numbers(tmp_path):
    source = """
        console.log(JSON.stringify([lab.exact(data.batches, [2.9, 2.1], 10, 5).MAML.map(Number.isFinite),
            [0, 0.25, 0.0004, 3.21e-7, NaN].map(lab.scientific), [-3, 0, 12].map((n) => `${lab.power(n)}`)]));
    """
    finite, numbers, powers = run_node(tmp_path, TwoTerms, source, {"batches": TwoTerms().setup["batches"]})
    assert finite == [False, False]
    assert numbers == ["0.00", "0.25", "4.0·10⁻⁴", "3.2·10⁻⁷", "diverged"]
    assert powers == ["10⁻³", "10⁰", "10¹²"]


# -- what Python hands over ------------------------------------------------------------------------------------------


def test_it_opens_without_arguments():
    widget = TwoTerms()
    assert (widget.method, widget.inner_steps, widget.same_batch) == ("MAML", 3, False)
    assert len(widget.setup["batches"]) == 3
    widget.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": NEW_BATCHES[:1]}, "two or three"),
        ({"batches": [[1.0, 2.0]] * 2}, "six numbers"),
        ({"batches": [[math.nan] * 6] * 2}, "finite"),
        ({"method": "Maml"}, "one of MAML, FOMAML, Reptile"),
        ({"inner_steps": 1}, "from 2 to 10"),
        ({"inner_lr": 0.5}, "0.001 and 0.3"),
        ({"inner_lr": math.nan}, "0.001 and 0.3"),
        ({"phi": (0.0, 3.0)}, "from -2.2 to 2.2"),
        ({"phi": (0.0,)}, "from -2.2 to 2.2"),
    ],
)
def test_what_the_lab_cannot_show_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        TwoTerms(**options)


# -- the page --------------------------------------------------------------------------------------------------------

PHI = "φ, where the meta-gradient is taken"


@pytest.mark.site
def test_mouse_sliders_and_choices(open_lab):
    lab = open_lab("two-terms")
    batches = TwoTerms().setup["batches"]
    opening = lab.state()
    judge(opening, batches)
    assert opening["slopes"] == pytest.approx({"both": 2, "first": 1}, abs=0.1)

    x, y = lab.centre(PHI)
    top = lab.root.bounding_box()["y"]  # the page may scroll on the way
    lab.drag(PHI, 60, -45)
    dragged = lab.state()
    assert dragged["phi"][0] > opening["phi"][0] + 0.3 and dragged["phi"][1] > opening["phi"][1] + 0.3
    now = lab.centre(PHI)
    assert (now[0], now[1] - lab.root.bounding_box()["y"]) == pytest.approx((x + 60, y - 45 - top), abs=1.5)
    judge(dragged, batches)

    for method in METHODS:
        lab.control("radio", method).check()
        state = lab.state()
        assert state["method"] == method
        judge(state, batches)
    lab.slide("losses k", 6)
    lab.slide("inner rate α", -2.0)
    state = lab.state()
    assert (state["inner_steps"], state["inner_lr"]) == (6, 0.01)
    judge(state, batches)
    far = state["remainders"]["Reptile"]["both"]
    lab.slide("inner rate α", -1.0)
    failing = lab.state()
    judge(failing, batches)
    assert failing["remainders"]["Reptile"]["both"] > 20 * far, "the expansion is for small αk only"
    lab.control("checkbox", "the same mini-batch for all k losses").check()
    same = lab.state()
    assert same["same_batch"] and same["slopes"]["both"] == pytest.approx(1, abs=0.1)
    judge(same, batches)


@pytest.mark.site
def test_keyboard_alone(open_lab):
    lab = open_lab("two-terms", reduced_motion=True)
    page = lab.page
    batches = TwoTerms().setup["batches"]
    before = lab.state()
    lab.point(PHI).focus()
    lab.assert_marked(lab.point(PHI))
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown", "Delete"):
        page.keyboard.press(key)
    moved = lab.state()
    assert moved["phi"] == pytest.approx([before["phi"][0] + 0.2, before["phi"][1] - 0.5], abs=0.011)
    judge(moved, batches)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "losses k"
    page.keyboard.press("ArrowRight")
    assert lab.state()["inner_steps"] == before["inner_steps"] + 1
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert lab.state()["inner_lr"] < before["inner_lr"]
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert lab.state()["same_batch"]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    state = lab.state()
    assert state["method"] == "FOMAML"
    judge(state, batches)
    page.wait_for_function(
        "document.querySelector('[data-lab=\"two-terms\"] [role=status]').textContent.includes('FOMAML, k = 4')"
    )
    assert "the exact meta-gradient (" in lab.root.locator("svg[role=group]").get_attribute("aria-label")
    assert "Both terms: from" in lab.root.locator("svg[role=img]").get_attribute("aria-label")


@pytest.mark.site
def test_touch_on_a_phone(open_lab):
    lab = open_lab("two-terms", width=390, height=844)
    before = lab.state()["phi"]
    lab.touch(PHI, 50, 30)
    state = lab.state()
    assert state["phi"][0] > before[0] + 0.3 and state["phi"][1] < before[1] - 0.2
    judge(state, TwoTerms().setup["batches"])
    lab.root.locator("summary").tap()
    lab.assert_fits(390)
