"""What an experiment is: plain values, how long each preset trains, and what a configuration is made into."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from types import ModuleType

from mlbook.errors import UserError
from mlbook.experiments import provenance
from mlbook.meta_learners.base import MetaLearner
from mlbook.tasks.episode import TaskDistribution


@dataclass(frozen=True)
class Preset:
    """How long and in which variant an experiment is trained."""

    meta_steps: int
    meta_batch_size: int
    evaluation_tasks: int = 600
    options: dict = field(default_factory=dict)
    """Changes to the experiment's learner options; whatever differs from the published recipe stands here."""
    n_query: int | None = None
    """Queries per class in meta-training, where they differ from the experiment's."""


@dataclass(frozen=True)
class Experiment:
    """One row of a results table. Everything but ``presets`` is the same in every preset."""

    name: str
    family: str
    """The module of this package that knows what the configuration means."""
    dataset: str
    """A data set, a family of functions or an environment; the family knows which."""
    model: str
    """Name of the network (``networks.NETWORKS``) or of another thing that is trained."""
    learner: dict
    """Arguments of the meta-learner. ``method`` names its class (default: MAML), the rest goes to the constructor."""
    k_shot: int
    """Support examples per class (or points) in meta-training."""
    n_query: int
    """Queries per class (or points) in meta-training."""
    presets: dict[str, Preset]
    n_way: int = 1
    test_shot: int | None = None
    """Support examples per class (or points) at meta-test, where they differ from ``k_shot``."""
    test_query: int = 1
    """Queries per class (or points) at meta-test; 0 for all examples that are not in the support set."""
    test_steps: int = 10
    """Inner steps at meta-test; all are recorded."""
    report_step: int = 10
    """The inner step whose score is the result."""
    scored_steps: tuple[int, ...] | None = None
    """Inner steps at meta-test whose score is recorded, where they are not all of them."""
    published: str | None = None
    """Key of the row in ``results/published.json``."""
    shares_training_with: tuple[str, ...] = ()
    """Experiments with the very same meta-training and another protocol: one training gives the records of all."""
    options: dict = field(default_factory=dict)
    """What only the family knows; each module of a family lists its own."""

    def preset(self, name: str) -> Preset:
        """The preset of that name; ``UserError`` if there is none."""
        if name not in self.presets:
            raise UserError(f"{self.name} has the presets {', '.join(self.presets)}, not {name!r}")
        return self.presets[name]

    def config(self, preset: str, *, meta_steps: int | None = None, seed: int = 0) -> dict:
        """All values that determine a run, as plain JSON types."""
        chosen = self.preset(preset)
        apart = ("family", "presets", "published", "shares_training_with", "options")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        # a key that once held what nobody read; run ids depend on it
        values |= {"reported_steps": (), **self.options}
        values = {key: value for key, value in values.items() if value is not None}
        values["learner"] = {**self.learner, **chosen.options}
        if chosen.n_query is not None:
            values["n_query"] = chosen.n_query
        values |= {
            "preset": preset,
            "meta_steps": chosen.meta_steps if meta_steps is None else meta_steps,
            "meta_batch_size": chosen.meta_batch_size,
            "seed": seed,
        }
        return json.loads(json.dumps(values))


def run_id(config: dict) -> str:
    """Twelve hexadecimal digits that change with any value of the configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Setup:
    """What a configuration is made into, once."""

    config: dict
    family: ModuleType
    """The module of this package whose functions know the configuration."""
    learner: MetaLearner

    def tasks(self, split: str, **changes) -> TaskDistribution:
        """Tasks of ``train``, ``validation`` or ``test``, on the CPU; ``DataError`` when the data set is not there.

        changes: values of the configuration that are others for these tasks, ``test_query`` for instance.
        """
        return self.family.tasks({**self.config, **changes}, self.learner, split)

    def listed_tasks(self) -> dict[str, TaskDistribution]:
        """Lists of further meta-test tasks that a finished run is scored on, by their key in its record."""
        of_family = getattr(self.family, "listed_tasks", None)
        return {} if of_family is None else of_family(self.config, self.learner)

    @property
    def protocol(self) -> dict:
        """What has to be the same for two results to be compared."""
        return self.family.protocol(self.config)

    @property
    def identity(self) -> dict[str, str]:
        """What the files of this run carry: the experiment, the preset and the run id."""
        config = self.config
        return {"experiment": config["name"], "preset": config["preset"], "run": run_id(config)}

    @property
    def data(self) -> dict[str, str]:
        """Fingerprints of the data that is here, by split: see ``provenance.digests``."""
        return provenance.digests(self.config)
