"""What chapters 11 and 14 say of recorded runs is what the records say."""

from mlbook import results


def accuracy(name):
    evaluation = results.run_record(name)["evaluation"]
    return evaluation["accuracy"], evaluation["ci95"]


def test_the_sentences_on_inner_gradients():
    names = ["g1", "g2", "mean2", "sum2", "g4", "mean4", "sum4"]
    found = {name: accuracy(f"reptile-gradients-{name}") for name in names}
    assert len({results.run_record(f"reptile-gradients-{name}")["meta_steps"] for name in names}) == 1
    value, width = ({name: pair[i] for name, pair in found.items()} for i in (0, 1))
    # joint training is last by a wide margin, and one later gradient makes most of the difference
    assert min(value[n] for n in names if n != "g1") > value["g1"] + 0.1
    assert value["g2"] - value["g1"] > value["sum4"] - value["g2"]
    # level: within the intervals
    assert abs(value["g4"] - value["g2"]) < width["g4"] + width["g2"]
    assert abs(value["g4"] - value["mean4"]) < width["g4"] + width["mean4"]
    assert value["sum4"] > max(value["mean4"], value["g4"]) + 0.05


def test_the_sentences_on_tails():
    shared, separate, reptile = (
        accuracy(name)[0] for name in ("fomaml-tail-shared", "fomaml-tail-separate", "reptile-tail-shared")
    )
    assert shared + 0.05 < reptile < separate and shared + 0.1 < separate


def test_omniglot_at_full_length_is_within_the_published_intervals():
    for cell in ("5w1s", "5w5s"):
        for protocol in ("", "-transductive"):
            name = f"reptile-omniglot-{cell}{protocol}"
            record = results.run_record(name)
            assert record["preset"] == "paper" and results.deviations(record) == "none"
            assert record["evaluation"]["tasks"] >= 1000
            assert abs(record["evaluation"]["accuracy"] - results.published()[name]["value"]) < 0.007


def test_the_sentences_on_full_length_rows_side_by_side():
    error, width = {}, {}
    for method in ("maml", "fomaml", "reptile"):
        evaluation = results.run_record(f"{method}-sinusoid-5shot")["evaluation"]
        error[method], width[method] = evaluation["mse"], evaluation["ci95"]
    assert abs(error["maml"] - error["fomaml"]) < min(width["maml"], width["fomaml"])
    assert error["reptile"] > max(error["maml"], error["fomaml"]) + width["reptile"]
    reptile, maml = (
        results.run_record(name)["evaluation"]
        for name in ("reptile-omniglot-5w1s-transductive", "maml-omniglot-5w1s")
    )
    assert (reptile["step"], reptile["protocol"]["rotated"]) == (50, False)
    assert (maml["step"], maml["protocol"]["rotated"]) == (3, True)
    assert reptile["protocol"]["batch_norm"] == maml["protocol"]["batch_norm"] == "transductive"
