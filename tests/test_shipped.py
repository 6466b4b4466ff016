"""Every shipped checkpoint, evaluated as a reader would: one command, other tasks, the recorded number."""

import json
from pathlib import Path

import pytest
from package_fixtures import ROOT

from mlbook import experiments, results
from mlbook.cli import main
from mlbook.tasks import mini_imagenet, omniglot

NAMES = sorted(path.stem for path in (ROOT / "mlbook" / "pretrained").glob("*.safetensors"))
THERE = {"omniglot": omniglot.available, "mini": mini_imagenet.available}
SEED = 5


@pytest.mark.parametrize("name", NAMES)
def test_one_command_gives_the_recorded_number_within_the_intervals(name, capsys):
    experiment = experiments.get(name)
    if not THERE.get(experiment.dataset, lambda: True)():
        pytest.skip(f"{experiment.dataset} is not imported here")
    tasks = 60 if experiment.learner.get("method") == "reptile" and experiment.n_way > 1 else 150
    assert (
        main(["evaluate", name, "--tasks", str(tasks), "--seed", str(SEED), "--device", "cpu", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    record = results.run_record(name)["evaluation"]
    measure = record["measure"]
    assert found["protocol"] == {**record["protocol"], "seed": SEED}
    # the difference of two means has the root of the sum of squares; 1.6 times 95 % is 99.8 %, for there are many checkpoints
    allowed = 1.6 * (record["ci95"] ** 2 + max(found["ci95"], record["ci95"]) ** 2) ** 0.5
    assert abs(found[measure] - record[measure]) < allowed, (found[measure], record[measure], allowed)


def test_there_is_something_to_ship():
    assert {"maml-omniglot-5w1s", "reptile-omniglot-5w1s", "maml-sinusoid-5shot"} <= set(NAMES)
    assert Path(results.pretrained_path("reptile-omniglot-5w5s")).stem == "reptile-omniglot-5w1s"
