"""Chapter 21: all numberings of a task's classes, a head without places, and what moves in the inner loop; all in float64."""

import pytest
import torch
import torch.nn.functional as F

from mlbook import experiments, results
from mlbook.engines import fast
from mlbook.errors import UserError
from mlbook.meta_learners import MAML
from mlbook.meta_learners.inner_loop import gradient_of
from mlbook.models import Conv4, call
from mlbook.models.conv4 import adapted_names, head_names
from mlbook.pages.checks import relative_distance
from mlbook.tasks import Episode
from mlbook.training.relabelling import accuracies, relabelled_logits, relabellings, shared_head, spread
from mlbook.training.what_moves import (
    PARTS,
    layer_outputs,
    linear_cka,
    put_back,
    put_back_scores,
    similarities,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


MODEL = Conv4(3, filters=4, size=12)
LEARNER = MAML(MODEL, inner_lr=0.5, names=adapted_names(MODEL))


def a_start(seed=0):
    meta = LEARNER.init(rng(seed)).meta
    return {group: {n: p.double() for n, p in tensors.items()} for group, tensors in meta.items()}


def a_task(k_shot=2, queries=4, seed=1):
    x = torch.rand(3, k_shot + queries, 1, 12, 12, generator=rng(seed), dtype=torch.float64)
    y = torch.arange(3)
    support, query = x[:, :k_shot].flatten(0, 1), x[:, k_shot:].flatten(0, 1)
    return Episode(support, y.repeat_interleave(k_shot), query, y.repeat_interleave(queries))


# -- numberings ------------------------------------------------------------------------------------------------------


def test_all_numberings_once():
    found = relabellings(4)
    assert found.shape == (24, 4) and torch.equal(found[0], torch.arange(4))
    assert len({tuple(row) for row in found.tolist()}) == 24
    with pytest.raises(UserError, match="for 1 to 6 classes, not for 7"):
        relabellings(7)


@pytest.mark.parametrize("batch_norm", ["transductive", "support"])
def test_other_numbers_are_other_rows_of_the_head(batch_norm):
    """To number the classes anew is to permute the rows of the head before the inner loop, and to read them back."""
    meta, task = a_start(), a_task()
    found = relabelled_logits(LEARNER, meta, task, steps=2, batch_norm=batch_norm)
    assert found.shape == (6, 12, 3)
    for numbers, logits in zip(relabellings(3), found, strict=True):
        rows = {n: p[numbers] if n.startswith("head") else p for n, p in meta["params"].items()}
        *_, adapted = LEARNER.path({"params": rows}, task.support_x, task.support_y, 2)
        statistics = []
        call(MODEL, adapted, task.support_x, collect=statistics)
        options = {} if batch_norm == "transductive" else {"statistics": statistics}
        torch.testing.assert_close(
            logits, call(MODEL, adapted, task.query_x, **options), rtol=1e-9, atol=1e-9
        )
    assert (found[1:] - found[0]).abs().amax((1, 2)).min() > 1e-3  # it matters
    right = accuracies(found, task.query_y)
    assert right.shape == (6,) and torch.equal(right[0], (found[0].argmax(1) == task.query_y).float().mean())


def test_a_shared_head_has_no_order():
    meta, task = shared_head(a_start()), a_task()
    assert torch.equal(meta["params"]["head.weight"][0], a_start()["params"]["head.weight"].mean(0))
    found = relabelled_logits(LEARNER, meta, task, steps=3)
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=1e-10, atol=1e-10)
    with pytest.raises(UserError, match="there is no classifier among the parameters"):
        shared_head(meta, ("classifier",))


def test_the_first_step_of_a_shared_head_makes_prototypes_and_leaves_the_body_alone():
    meta, task, alpha = shared_head(a_start()), a_task(), 0.5
    params = meta["params"]

    def loss(p):
        return F.cross_entropy(call(MODEL, p, task.support_x), task.support_y)

    gradient = gradient_of(loss, params, tuple(params))
    body = [g for n, g in gradient.items() if n not in head_names(MODEL)]
    assert max(float(g.abs().max()) for g in body) < 1e-14
    *_, adapted = LEARNER.path(meta, task.support_x, task.support_y, 1)
    outputs = []
    call(MODEL, params, task.support_x, outputs=outputs)
    f = outputs[-1].mean((2, 3))
    prototypes = torch.stack([f[task.support_y == c].mean(0) for c in range(3)])
    wanted = params["head.weight"] + alpha / 3 * (prototypes - f.mean(0))
    torch.testing.assert_close(adapted["head.weight"], wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(adapted["head.bias"], params["head.bias"], rtol=1e-12, atol=1e-12)


def test_the_variance_of_a_score_has_two_parts():
    scores = torch.rand(7, 6, generator=rng(), dtype=torch.float64)
    found = spread(scores)
    torch.testing.assert_close(found.within**2 + found.between**2, scores.var(correction=0))
    assert found.worst < found.mean < found.best
    torch.testing.assert_close(found.best, scores.max(1).values.mean())


# -- what moves ------------------------------------------------------------------------------------------------------


def test_cka_is_its_formula_and_keeps_what_it_should():
    x = torch.randn(50, 4, generator=rng(), dtype=torch.float64)
    y = torch.randn(50, 6, generator=rng(1), dtype=torch.float64) + x[:, :1]
    centre = torch.eye(50, dtype=torch.float64) - 1 / 50
    k, m = centre @ (x @ x.t()) @ centre, centre @ (y @ y.t()) @ centre
    torch.testing.assert_close(linear_cka(x, y), (k * m).sum() / (k.norm() * m.norm()))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=rng(2), dtype=torch.float64)).Q
    torch.testing.assert_close(linear_cka(x, 3 * y @ turn + 1), linear_cka(x, y))
    torch.testing.assert_close(linear_cka(y, y), torch.ones((), dtype=torch.float64))
    stretch = torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 20], dtype=torch.float64))
    assert (linear_cka(x, y @ stretch) - linear_cka(x, y)).abs() > 0.01  # other linear maps do count
    few = linear_cka(x[:5], torch.randn(5, 40, generator=rng(3), dtype=torch.float64))
    many = linear_cka(x, torch.randn(50, 40, generator=rng(3), dtype=torch.float64))
    assert few > many + 0.1  # the bias of few rows
    with pytest.raises(UserError, match="the same inputs"):
        linear_cka(x, y[:3])


def test_outputs_of_the_layers():
    params, x = a_start()["params"], a_task().query_x
    found = layer_outputs(MODEL, params, x)
    assert [tuple(t.shape) for t in found] == [(432, 4), (108, 4), (48, 4), (12, 4), (12, 3)]
    torch.testing.assert_close(found[-1], call(MODEL, params, x))
    last = found[3].view(12, 1, 4).mean(1)
    torch.testing.assert_close(F.linear(last, params["head.weight"], params["head.bias"]), found[-1])
    torch.testing.assert_close(similarities(MODEL, params, params, x), torch.ones(5, dtype=torch.float64))


def test_parts_are_put_back():
    meta, task = a_start(), a_task()
    *_, adapted = LEARNER.path(meta, task.support_x, task.support_y, 2)
    back = put_back(adapted, meta["params"], ("convs.0", "head"))
    for name, p in back.items():
        source = meta["params"] if name.startswith(("convs.0", "head")) else adapted
        assert p is source[name] or torch.equal(p, source[name])
    found = put_back_scores(LEARNER, meta, task, steps=2)
    assert found.shape == (len(PARTS),)
    untouched = (call(MODEL, meta["params"], task.query_x).argmax(1) == task.query_y).float().mean()
    assert torch.equal(found[-1], untouched)


def test_boil_moves_the_body_and_anil_the_head():
    """The three learners differ in what the inner loop moves, and all have the gradient of their own loss."""
    moved = {}
    for method in ("maml", "anil", "boil"):
        learner = experiments.build_learner(experiments.config(f"{method}-omniglot-5w1s", "paper"))
        moved[method] = set(learner.names)
    head = {"head.weight", "head.bias"}
    assert moved["anil"] == head and moved["boil"] == moved["maml"] - head
    body = tuple(n for n in adapted_names(MODEL) if not n.startswith("head"))
    learner = MAML(MODEL, inner_lr=0.5, names=body)
    meta, task = a_start(), a_task()
    *_, adapted = learner.path(meta, task.support_x, task.support_y, 1)
    assert torch.equal(adapted["head.weight"], meta["params"]["head.weight"])
    assert not torch.equal(adapted["convs.3.weight"], meta["params"]["convs.3.weight"])
    episodes = Episode(*(field[None] for field in task))
    one, _ = learner.meta_gradient(meta, episodes)
    other, _ = fast(learner).meta_gradient(meta, episodes)
    assert relative_distance(one, other) < 1e-9


def test_what_moves_the_logits_to_first_order():
    """The derivative of a query's logits in the inner rate: a part of the head and one of the body."""
    meta, task = a_start(), a_task()
    params = meta["params"]
    head = {n: p for n, p in params.items() if n.startswith("head")}
    body = {n: p for n, p in params.items() if n.startswith("convs")}

    def features(b, x):
        outputs = []
        call(MODEL, {**params, **b}, x, outputs=outputs)
        return outputs[-1].mean((2, 3))

    def jacobian(x):  # [B, D, parameters of the body]
        found = torch.func.jacrev(lambda b: features(b, x))(body)
        return torch.cat([j.flatten(2) for j in found.values()], 2)

    f, f_query = features(body, task.support_x), features(body, task.query_x)
    W = head["head.weight"]
    e = (f @ W.t() + head["head.bias"]).softmax(1) - F.one_hot(task.support_y, 3)
    by_head = -(f_query @ f.t() + 1) @ e / len(e)
    J, J_query = jacobian(task.support_x), jacobian(task.query_x)
    step = torch.einsum("idp,id->p", J, e @ W)
    by_body = -torch.einsum("qdp,p->qd", J_query, step) @ W.t() / len(e)

    def logits(alpha, names):
        rates = {n: torch.full_like(params[n], alpha) for n in names}
        learner = MAML(MODEL, names=names)
        *_, adapted = learner.path({**meta, "inner_lr": rates}, task.support_x, task.support_y, 1)
        return call(MODEL, adapted, task.query_x)

    small = 1e-6
    for names, wanted in (
        (tuple(head), by_head),
        (tuple(body), by_body),
        ((*head, *body), by_head + by_body),
    ):
        slope = (logits(small, names) - logits(-small, names)) / (2 * small)
        torch.testing.assert_close(slope, wanted, rtol=1e-5, atol=1e-6)


# -- what the chapter says of the record -----------------------------------------------------------------------------


STUDY = results.study("what_the_score_hides")


def test_what_it_says_of_moving():
    """On miniImageNet the head does the work, on Omniglot module 4; similarity says the same of both."""
    rows = STUDY["moves"]
    for name in ("maml-omniglot-5w1s", "fomaml-omniglot-5w1s"):
        nothing, *_, three, body, head, _ = (v["mean"] for v in rows[name]["put_back"])
        assert abs(three - nothing) < 0.01  # modules 1 to 3 need not move
        assert body < 0.3  # near chance
        assert 0 < nothing - head < 0.06  # a few points
        assert rows[name]["row_length"] > 2 * rows[name]["feature_length"]
    anil, boil = (rows[f"{name}-omniglot-5w1s"] for name in ("anil", "boil"))
    assert anil["meta_steps"] == boil["meta_steps"] == 2_000
    assert boil["put_back"][0]["mean"] > anil["put_back"][0]["mean"] + 0.15
    mini = rows["maml-mini-5w1s"]
    nothing, *_, body, head, _ = mini["put_back"]
    assert body["mean"] > nothing["mean"] - nothing["ci95"]  # nothing is lost
    assert head["mean"] < 0.2 + 0.06
    assert mini["feature_length"] > 40 * mini["row_length"]
    for name in ("maml-omniglot-5w1s", "fomaml-omniglot-5w1s", "maml-mini-5w1s"):
        assert rows[name]["cka"][3] > 0.9 and rows[name]["cka"][4] < 0.6
        assert rows[name]["images"] == 280


def test_what_it_says_of_the_number_of_classes():
    rows = STUDY["diversity"]["rows"]

    def of(method, classes, key):
        return torch.tensor(
            [r[key]["mean"] for r in rows if (r["method"], r["classes"]) == (method, classes)]
        )

    proto = {n: of("prototypical network", n, "new") for n in (20, 100, 1100)}
    assert all(len(values) == 3 for values in proto.values())
    assert of("prototypical network", 20, "own").min() > 0.92 and abs(proto[20].mean() - 0.74) < 0.005
    gains = proto[100] - proto[20]
    assert 0.025 < gains.min() and gains.max() < 0.06
    assert proto[1100].mean() - proto[100].mean() < proto[1100].max() - proto[1100].min()
    maml = torch.cat([of("MAML", n, "new") for n in (20, 100, 1100)])
    assert len(maml) == 3 and maml.max() - maml.min() < 0.018  # half an interval over tasks


def test_what_it_says_of_orders_and_equal_rows():
    orders = STUDY["numberings"]
    maml, anil, mini = (orders[n] for n in ("maml-omniglot-5w1s", "anil-omniglot-5w1s", "maml-mini-5w1s"))
    assert anil["range"]["mean"] - anil["range"]["ci95"] > 0.195 and anil["tasks"] == 100
    for row in (maml, mini):
        assert 0.05 < row["range"]["mean"] < 0.095
    assert (maml["tasks"], mini["tasks"]) == (8, 4) and (maml["orders"], mini["orders"]) == (120, 24)
    for row in (maml, anil, mini):
        assert row["within"] < row["between"]
        assert 0 <= row["together"] - row["mean"] < 0.011
    own, shared = ([v["mean"] for v in maml[f"{kind}_head"]] for kind in ("own", "shared"))
    assert shared[0] < 0.5 * own[0] < shared[1] and shared[2] > 0.85
    for mine, alike in zip(anil["own_head"], anil["shared_head"], strict=True):
        assert alike["mean"] >= mine["mean"]


def test_what_it_says_of_baselines():
    rows = {row["method"]: row for row in STUDY["baselines"]["rows"]}
    alone = rows["MAML, support statistics"]
    assert abs(alone["difference"]) < alone["difference_ci95"]
    together, each = rows["MAML, all queries in a batch"], rows["MAML, one query of each class in a batch"]
    assert 0.015 < together["difference"] < each["difference"] < 0.035
    pixels, untrained = rows["pixels"], rows["random features"]
    assert abs(pixels["accuracy"] - untrained["accuracy"]) < pixels["ci95"]
    maml, proto = (results.run_record(f"{name}-omniglot-5w1s") for name in ("maml", "proto"))
    assert (maml["meta_steps"], proto["meta_steps"]) == (14_000, 1_500)
    assert 85 < maml["seconds"] / 60 < 95 and proto["seconds"] < 360
    classifier = results.run_record("nearest-omniglot-5w1s")
    last = [row[2] for row in classifier["curve"][-40:]]
    assert classifier["meta_steps"] == 5_000 and 0.03 < sum(last) / len(last) < 0.05
