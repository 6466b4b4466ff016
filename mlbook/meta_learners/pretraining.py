"""The baselines that keep meta-learning honest."""

from __future__ import annotations

from torch import nn

from mlbook.meta_learners.maml import MAML


def joint_training(model: nn.Module, **options) -> MAML:
    """Joint pre-training, then fine-tuning: MAML with no inner step in training.

    With N = 0 the meta-loss is the mean loss of the *un-adapted* θ over the tasks, ∇J(θ) = mean ∇L(θ), which is
    what pre-training minimises; at meta-test the same inner loop fine-tunes with ``inner_lr``. Options are those of ``MAML``.
    """
    return MAML(model, **{**options, "inner_steps": 0})
