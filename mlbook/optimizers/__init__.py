"""Optimisers, hand-designed and learned, and what they minimise (chapter 15)."""

from mlbook.optimizers.learned_optimizer import LearnedOptimizer
from mlbook.optimizers.optimizees import Classifier, Quadratic
from mlbook.optimizers.rules import HAND_DESIGNED, SGD, Adam, RMSprop, losses, tuned

__all__ = [
    "HAND_DESIGNED",
    "SGD",
    "Adam",
    "Classifier",
    "LearnedOptimizer",
    "Quadratic",
    "RMSprop",
    "losses",
    "tuned",
]
