"""What else can be meta-learned, besides the initialisation. ``bilevel`` has the outer loop that all share."""

from mlbook.beyond.learned_optimizer import LearnedOptimizer
from mlbook.beyond.optimizees import Classifier, Quadratic
from mlbook.beyond.rules import HAND_DESIGNED, SGD, Adam, RMSprop, losses, tuned

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
