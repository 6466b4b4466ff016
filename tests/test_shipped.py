"""Every shipped checkpoint, evaluated as a reader would: one command, other tasks, the recorded number."""

import json
from pathlib import Path

import pytest

from mlbook import experiments, results
from mlbook.cli import main
from mlbook.data import feature_sets, mini_imagenet, omniglot
from mlbook.experiments.leo import over_features
from mlbook.training.runner import evaluate_config

NAMES = sorted(path.stem for path in results.PRETRAINED.glob("*.safetensors"))
THERE = {"omniglot": omniglot.available, "mini": mini_imagenet.available}
SEED = 5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_one_command_gives_the_recorded_number_within_the_intervals(name, capsys):
    experiment = experiments.get(name)
    features = experiment.options.get("features")
    if features and not feature_sets.available(features[0]):
        pytest.skip(f"the features {features[0]} were not extracted here; the next test has a sample of them")
    if not THERE.get(experiment.dataset, lambda: True)():
        pytest.skip(f"{experiment.dataset} is not imported here")
    slow = experiment.dataset == "mini" or (
        experiment.learner.get("method") == "reptile" and experiment.n_way > 1
    )
    tasks = 40 if slow else 100
    if experiment.n_way > 1 and experiment.learner.get("method") == "learned_optimizer":
        tasks = 6  # each is a training of a network
    if experiment.learner.get("method") == "architecture_search":
        tasks = results.run_record(name)["evaluation"]["tasks"]  # the searches that the run consists of
    assert (
        main(["evaluate", name, "--tasks", str(tasks), "--seed", str(SEED), "--device", "cpu", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    record = results.run_record(name)["evaluation"]
    metric = record["metric"]
    assert found["protocol"] == {**record["protocol"], "seed": SEED}
    # the difference of two means has the root of the sum of squares; 1.6 times 95 % is 99.8 %, for there are many checkpoints
    allowed = 1.6 * (record["ci95"] ** 2 + max(found["ci95"], record["ci95"]) ** 2) ** 0.5
    assert abs(found[metric] - record[metric]) < allowed, (found[metric], record[metric], allowed)


@pytest.mark.parametrize("name", [name for name in NAMES if "features" in experiments.get(name).options])
def test_on_the_sample_of_features_a_checkpoint_does_about_as_recorded(name):
    """The sample has a tenth of the pictures that the record is of."""
    pool, about = feature_sets.sample()
    features = experiments.get(name).options["features"][0]
    assert about["sample"].endswith(f"of {features}")
    config, meta = results.pretrained(name)
    found = evaluate_config(config, meta, over_features(config, pool, test=True), n_tasks=200, seed=SEED)
    record = results.run_record(name)["evaluation"]["accuracy"]
    assert abs(found.value - record) < 1.6 * found.interval + 0.02, (found.value, record)


def test_there_is_something_to_ship():
    assert {"maml-omniglot-5w1s", "reptile-omniglot-5w1s", "maml-sinusoid-5shot"} <= set(NAMES)
    assert Path(results.pretrained_path("reptile-omniglot-5w5s")).stem == "reptile-omniglot-5w1s"
