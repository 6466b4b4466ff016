"""What an experiment is: plain values, and how long each preset trains."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    dataset: str
    """``sinusoid``, ``sinusoid_grid``, ``sinusoid_or_line``, ``plane``, ``omniglot``, ``glyphs``, ``mini``
    (miniImageNet) or the name of imported images; for learned optimisers also ``quadratic`` and ``bowl``; or an
    environment: ``navigation``, ``cheetah_direction``, ``cheetah_velocity``."""
    model: str
    """A name that ``build_model`` knows."""
    learner: dict
    """Arguments of MAML, or of the class that ``method`` names (``reptile``, ``classifier``, ``backbone``, ``leo``,
    ``leo_regression``, ``linear_head``, ``learned_optimizer``, ``dada``, ``augmentations``, ``architecture_search``); MAML's
    ``adapt`` is ``all``, ``no_beta`` (all but batch norm's β) or ``head``."""
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
    reported_steps: tuple[int, ...] = ()
    """Inner steps that the published row names, where they are several."""
    published: str | None = None
    """Key of the row in ``results/published.json``."""
    preparation: str | None = None
    """``reptile``: classes, rotations and colours as in the official Reptile code (``omniglot.load_as_reptile``).
    ``one_set``: the same images for all problems (``optimizers.one_set``)."""
    image: tuple[int, int, int] | None = None
    """(channels, size, meta-train classes) of imported images, where the model's name does not say them."""
    inner_batch: int | None = None
    """Support examples per inner step in meta-training, where they are not all of them."""
    test_batch: int | None = None
    """The same at meta-test."""
    test_batch_norm: str | None = None
    """Batch-norm mode at meta-test, where it is not ``transductive``."""
    scored_steps: tuple[int, ...] | None = None
    """Inner steps at meta-test whose score is recorded, where they are not all of them."""
    features: tuple[str, int] | None = None
    """Name of a set of features (``tasks.feature_sets``) and their number; tasks are made of these instead of images."""
    train_on: str | None = None
    """``train+validation`` where meta-training takes the classes of both splits."""
    validate_every: int | None = None
    """Meta-steps between two looks at meta-validation tasks; the best of these states is the result (early stopping)."""
    crop: int | None = None
    """Side of the squares that a backbone is trained on, cut out of the images at random."""
    shares_training_with: tuple[str, ...] = ()
    """Experiments with the very same meta-training and another protocol: one training gives the records of all."""
    world: dict | None = None
    """Options of the environment, where they are not its defaults (reinforcement learning)."""
