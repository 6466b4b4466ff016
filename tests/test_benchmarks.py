"""The benchmark's statistics on made-up times, and a small run of our own contenders; no time is judged."""

import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from importlib import metadata

import numpy as np
import pytest
import torch
from package_fixtures import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_layers import CORE_LIBRARIES, imports

from benchmarks import compare, harness, install_peers
from benchmarks.contenders import (
    OURS,
    PLAIN,
    Contender,
    contenders,
    mlbook,
    sample_data_loader,
    sample_mlbook,
)
from benchmarks.problems import PROBLEMS, Problem, Sampling
from mlbook import results
from mlbook.tasks import Episode

TINY = Problem("sinusoid", 4, 2, 3, 3)


def by_a_factor(*problem):
    """A gradient that is one in a million too long."""
    work = mlbook(*problem)
    return lambda: {name: (1 + 1e-6) * g for name, g in work().items()}


def without_the_last_task(problem, module, episodes):
    """Right for as few tasks as the check in float64 has."""
    few = Episode(*(field[: max(2, harness.CHECK_TASKS)] for field in episodes))
    return mlbook(problem, module, few)


def breaks(*problem):
    def work():
        raise RuntimeError("no such kernel\nand a second line")

    return work


# -- statistics -----------------------------------------------------------------------------------------------------


def test_a_speedup_is_the_median_of_paired_ratios():
    """The second round was disturbed for both: the ratio of medians would be 3."""
    theirs, own = [2.0, 30.0, 6.0], [1.0, 10.0, 2.0]
    assert harness.speedup(theirs, own) == {"median": 3.0, "min": 2.0, "max": 3.0}
    theirs, own = [1.0, 10.0, 3.0], [1.0, 2.0, 3.0]
    assert harness.speedup(theirs, own)["median"] == 1.0  # and the ratio of medians 1.5
    with pytest.raises(ValueError):
        harness.speedup([1.0, 2.0], [1.0])


def test_spread():
    assert harness.spread([3.0, 1.0, 8.0, 2.0]) == {"median": 2.5, "min": 1.0, "max": 8.0}


def test_distance_of_gradients():
    a = np.array([3.0, 4.0])
    assert harness.relative_distance(a, a) == 0
    assert harness.relative_distance(1.01 * a, a) == pytest.approx(0.01)
    assert harness.relative_distance(a[:1], a) == math.inf
    row = {}
    harness.judge(row, "float64", math.nan)
    assert "wrong gradient" in row["error"]


def test_rows_are_compared_with_learn2learn_and_with_the_fastest_peer():
    times = {"learn2learn": [4.0, 4.0], "higher": [2.0, 3.0], "mlbook": [1.0, 1.0]}
    rows = {name: {"seconds": seconds} for name, seconds in times.items()}
    rows["TorchOpt"] = {"error": "failed"}
    harness.compare(rows, {"learn2learn", "higher", "TorchOpt"}, tasks=8)
    ours = rows["mlbook"]
    assert (ours["fastest_peer"], ours["over_fastest_peer"]["median"]) == ("higher", 2.5)
    assert (ours["over_learn2learn"]["median"], ours["tasks_per_second"]) == (4.0, 8.0)
    assert rows["TorchOpt"] == {"error": "failed"}
    alone = {"mlbook": {"seconds": [1.0]}}
    harness.compare(alone, set(), tasks=8)
    assert "over_fastest_peer" not in alone["mlbook"]


def test_the_environment_with_the_peers_has_all_that_the_benchmarks_import():
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    roots = {n.split(".")[0] for f in files for n in imports(f.read_text(encoding="utf-8"), top_level=True)}
    needed = CORE_LIBRARIES | roots - set(sys.stdlib_module_names) - {"benchmarks", "mlbook"}
    assert {{"PIL": "pillow"}.get(name, name) for name in needed} <= set(install_peers.NEEDS)


LOADED = """
import json, sys
import benchmarks.compare, benchmarks.harness, benchmarks.contenders, benchmarks.problems
import mlbook.training.runner, mlbook.data.datasets, PIL.Image
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_what_the_benchmarks_load_comes_with_the_packages_of_that_environment():
    """And what pyproject.toml asks for, as far as the core imports it, is among them."""
    answer = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    there, todo = set(), list(install_peers.NEEDS)
    while todo:
        package = canonicalize_name(todo.pop())
        if package in there:
            continue
        there.add(package)
        try:
            asked = [Requirement(line) for line in metadata.requires(package) or []]
        except metadata.PackageNotFoundError:  # of another system or Python
            continue
        todo += [r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    owners = {
        root: {canonicalize_name(package) for package in packages}
        for root, packages in metadata.packages_distributions().items()
    }
    loaded = {root: owners[root] for root in json.loads(answer.stdout) if root in owners}
    assert {"torch", "safetensors", "filelock", "PIL"} <= set(loaded)
    # what a site's start-up files load is not ours
    bare = subprocess.run(
        [sys.executable, "-c", "import json, sys; print(json.dumps(list(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    started = {name.split(".")[0] for name in json.loads(bare.stdout)}
    assert [root for root, packages in loaded.items() if root not in started and not packages & there] == []
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.findall(r'"([a-z]+)>=', pyproject.split("dependencies = [")[1].split("]")[0])
    assert set(dependencies) & CORE_LIBRARIES == CORE_LIBRARIES <= set(install_peers.NEEDS)


@pytest.mark.parametrize("folder", ("benchmarks", "studies"))
def test_the_readme_names_every_program_of_its_folder(folder):
    """And every record that is kept is of one of them."""
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    programs = {p.stem for p in (ROOT / folder).glob("*.py") if "__main__" in p.read_text(encoding="utf-8")}
    assert programs and all(name in text for name in programs)
    for path in (results.FOLDER / folder).glob("*.json"):
        assert path.stem in programs or path.name in text


# -- problems and contenders ----------------------------------------------------------------------------------------


def test_names_of_problems_are_different():
    assert len({problem.name for problem in PROBLEMS}) == len(PROBLEMS)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_everyone_takes_part_or_is_left_out_with_a_reason(problem):
    chosen, left_out = contenders(problem)
    names = [contender.name for contender in chosen]
    assert len(set(names)) == len(names) and not set(names) & set(left_out)
    assert all(left_out.values())
    if isinstance(problem, Problem):
        assert {"learn2learn", "higher", "TorchOpt", "plain loop", "vmap", "mlbook"} <= {*names, *left_out}


@pytest.mark.parametrize("make", [sample_mlbook, sample_data_loader])
def test_sampled_episodes(make):
    problem = Sampling(tasks=2, classes=9)
    (images,) = problem.build(2, torch.float32)
    which = {images[c, e].numpy().tobytes(): c for c in range(9) for e in range(problem.examples)}
    episodes = make(problem, images)()
    for t in range(2):
        episode = episodes.task(t)
        x = torch.cat([episode.support_x, episode.query_x])
        assert x.dtype == torch.float32
        x = (255 * x).round().to(torch.uint8)
        classes = [which[image.numpy().tobytes()] for image in x]
        assert len({image.numpy().tobytes() for image in x}) == 5 * 16
        labels = torch.cat([episode.support_y, episode.query_y]).tolist()
        assert sorted({*zip(classes, labels, strict=True)}) == sorted(zip(classes[:5], range(5), strict=True))


# -- a small run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    chosen = [
        PLAIN,
        OURS,
        Contender("by a factor", by_a_factor),
        Contender("without a task", without_the_last_task),
        Contender("broken", breaks),
    ]
    return harness.measure(TINY, chosen, rounds=2, seconds=1, threads=1)


def test_right_contenders_are_timed(rows):
    for name in ("plain loop", "mlbook"):
        assert len(rows[name]["seconds"]) == 2 and min(rows[name]["seconds"]) > 0
        assert rows[name]["distance_float64"] < 1e-8
        assert "error" not in rows[name]


def test_wrong_contenders_are_not_timed(rows):
    assert rows["by a factor"]["error"] == "wrong gradient (1.0e-06 in float64)"
    assert rows["without a task"]["distance_float64"] < 1e-8
    assert "in float32" in rows["without a task"]["error"]
    assert rows["broken"] == {"error": "failed: no such kernel"}
    assert not any("seconds" in rows[name] for name in ("by a factor", "without a task", "broken"))


def test_table_and_record(rows, tmp_path):
    entry = {"contenders": rows, "left_out": {"TorchOpt": "a reason"}}
    text = compare.table(TINY.name, entry)
    for word in (TINY.name, "plain loop", "wrong gradient (1.0e-06 in float64)", "left out: a reason"):
        assert word in text
    path = tmp_path / "results" / "compare.json"
    write = partial(compare.write, path)
    write(1, "a", entry)
    write(1, "b", {"contenders": {}})
    write(2, "a", {"contenders": {}})
    write(1, "b", {"date": "later"})
    record = json.loads(path.read_text())
    assert record == {"threads": {"1": {"a": entry, "b": {"date": "later"}}, "2": {"a": {"contenders": {}}}}}
    assert [file.name for file in path.parent.iterdir()] == ["compare.json"]


def test_a_pattern_that_fits_nothing_lists_the_problems(capsys):
    assert compare.main(["--only", "no such problem"]) == 2
    assert capsys.readouterr().out.split() == [problem.name for problem in PROBLEMS]
