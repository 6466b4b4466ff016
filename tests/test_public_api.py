"""What may be imported from where. A name that goes, or comes, is a decision: change this list, the version and the changelog."""

import importlib
import inspect
import re

import pytest
from package_fixtures import ROOT

import mlbook

PUBLIC = {
    "errors": "CheckpointError DataError StorageError UserError",
    "data": "ClassPool FeaturePool image_folder mini_imagenet omniglot tensor_sets",
    "models": "Conv1d4 Conv4 MLP Params WideResNet call initial_params",
    "tasks": """AlphabetTasks Augmented BatchedEpisode BentSectors ClientRound Clients Episode FewShot FewShotFeatures Finite
        GridSinusoids KnownEpisode LEONoise LabelledImages Lines MiniBatches Mixture NoisyEpisode SinesAndLines Sinusoids
        TaskDistribution Waves""",
    "meta_learners": """Backbone Classifier FederatedAveraging IMAML LEO LEORegression LinearHead MAML MetaLearner NearestMean
        Prototypical Reptile State joint_training""",
    "engines": "FastMAML FastReptile fast fastest fits",
    "experiments": """EXPERIMENTS Experiment Preset Setup build_learner build_model build_tasks config get protocol run_id setup
        trained_by""",
    "training": "Evaluation Prediction class_scores evaluate load_checkpoint predict run train",
    "results": "benchmark ledger pretrained published run_record runs study",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_names_what_may_be_imported_from_it(package):
    module = importlib.import_module(f"mlbook.{package}")
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing) or inspect.ismodule(thing):
            doc = (thing.__doc__ or "").strip()
            assert doc and not doc.startswith(f"{name}("), f"{package}.{name} has no docstring"


def test_every_package_that_is_public_is_named_in_the_packages_docstring():
    named = set(re.findall(r"``(\w+)``", mlbook.__doc__)) - {"__all__"}
    assert named == set(PUBLIC)


def test_the_code_in_the_readme_runs(capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    exec(code, {})
    before, after = re.search(
        r"error ([\d.]+) before adaptation, ([\d.]+) ±", capsys.readouterr().out
    ).groups()
    assert float(after) < 0.5 * float(before)


def test_the_changelog_begins_with_this_version():
    first = re.search(
        r"^## (\d+\.\d+\.\d+)", (ROOT / "book/changelog.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert first[1] == mlbook.__version__
