"""What a search for an augmentation policy and a search for an architecture have in common as meta-learners."""

from __future__ import annotations


class Search:
    """A search in which children are trained, and which is judged by the accuracy of children.

    A subclass has ``meta_lr``, and ``scores`` or ``trials`` for the evaluation.
    """

    metric = "accuracy"
    vmappable = True
    inductive = True
    engine = "autograd"
    fast_engine_fits = False
    can_be_captured = False
    """As a CUDA graph: no, because a meta-step needs the CPU, for rewards that are looked up or for seeds of children."""

    def meta_lr_at(self, progress: float) -> float:
        """The outer rate, which stays the same."""
        return self.meta_lr
