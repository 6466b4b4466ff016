"""What else can be meta-learned, besides the initialisation. ``bilevel`` has the outer loop that all share."""

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
