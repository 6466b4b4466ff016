"""What chapter 18 says of recorded runs, held to the records."""

import statistics

from mlbook import results

BASE = "imaml-sinusoid-5shot"


def errors(name):
    """Of one variant after 16 steps, by seed."""
    records = [r for r in results.runs() if r["experiment"] == name and r["preset"] == "colab"]
    return {r["config"]["seed"]: r["evaluation"]["mean"][16] for r in records}


def half(values):
    """Half of the 95 % interval over three seeds."""
    assert len(values) == 3
    return 4.303 * statistics.stdev(values) / 3**0.5


def test_sine_waves():
    implicit, unrolled = errors(BASE), errors(f"{BASE}-unrolled")
    first, weak = errors(f"{BASE}-first-order"), errors(f"{BASE}-weak-pull")
    assert set(implicit) == set(unrolled) == set(first) == {0, 1, 2}
    clear = [first[s] - unrolled[s] for s in range(3)]
    assert statistics.mean(clear) > half(clear)
    unclear = [first[s] - implicit[s] for s in range(3)]
    assert min(unclear) > 0 and statistics.mean(unclear) < half(unclear)
    between = [statistics.mean(v.values()) for v in (unrolled, implicit, first)]
    assert between == sorted(between)
    scatter = [statistics.stdev(v.values()) for v in (implicit, unrolled, first)]
    assert max(scatter) == scatter[0]
    assert min(weak.values()) > 2 * max(implicit.values())


def test_omniglot_is_short_and_first_order_is_ahead():
    found = [results.run_record(f"imaml-omniglot-5w1s{end}") for end in ("", "-first-order")]
    assert [(r["meta_steps"], r["config"]["meta_batch_size"]) for r in found] == [(200, 4)] * 2
    implicit, first = (r["evaluation"]["accuracy"] for r in found)
    assert first > implicit


def test_memory_and_time():
    rows = {(r["contender"], r["inner_steps"]): r for r in results.benchmark("unrolling")["rows"]}
    unrolled, implicit = (rows[name, 64] for name in ("unrolled", "implicit, 5 CG steps"))
    assert unrolled["memory_mib"] > 5 * implicit["memory_mib"] and unrolled["median"] > implicit["median"]
    assert implicit["memory_mib"] < 2 * rows["implicit, 5 CG steps", 1]["memory_mib"]
    assert rows["unrolled", 64]["memory_mib"] > 20 * rows["unrolled", 1]["memory_mib"]
