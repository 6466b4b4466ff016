"""One file per algorithm; one protocol for all.

``init(generator) -> State``, ``step(state, episodes, progress) -> (State,
metrics)``, ``path(meta, support_x, support_y, steps)`` -> the parameters after
0, 1, ... inner steps.
"""

from mlbook.meta_learners.backbone import Backbone
from mlbook.meta_learners.base import MetaLearner, State
from mlbook.meta_learners.classifier import Classifier
from mlbook.meta_learners.federated import FederatedAveraging
from mlbook.meta_learners.imaml import IMAML
from mlbook.meta_learners.leo import LEO
from mlbook.meta_learners.leo_regression import LEORegression
from mlbook.meta_learners.linear_head import LinearHead
from mlbook.meta_learners.maml import MAML
from mlbook.meta_learners.nearest_mean import NearestMean
from mlbook.meta_learners.pretraining import joint_training
from mlbook.meta_learners.prototypical import Prototypical
from mlbook.meta_learners.reptile import Reptile

__all__ = [
    "IMAML",
    "FederatedAveraging",
    "LEO",
    "MAML",
    "Backbone",
    "Classifier",
    "LinearHead",
    "LEORegression",
    "MetaLearner",
    "NearestMean",
    "Prototypical",
    "Reptile",
    "State",
    "joint_training",
]
