"""Live labs: widgets whose arithmetic runs in the reader's browser, with or without a kernel.

Python prepares weights and data. Each lab is one JavaScript module put together from the files beside this one: its own
and the shared ones that it imports. ``gallery.CARDS`` lists them all for the book's gallery.
"""

from mlbook.widgets.adapt_sinusoid import AdaptSinusoid
from mlbook.widgets.architecture_search import ArchitectureSearch
from mlbook.widgets.carried_over import CarriedOver
from mlbook.widgets.choice_gradients import ChoiceGradients
from mlbook.widgets.draw_characters import DrawCharacters
from mlbook.widgets.find_the_goal import FindTheGoal
from mlbook.widgets.four_means import FourMeans
from mlbook.widgets.latent_map import LatentMap
from mlbook.widgets.missing_factor import MissingFactor
from mlbook.widgets.optimizer_race import OptimizerRace
from mlbook.widgets.query_batch import QueryBatch
from mlbook.widgets.real_episode import RealEpisode
from mlbook.widgets.two_families import TwoFamilies
from mlbook.widgets.two_manifolds import TwoManifolds
from mlbook.widgets.two_starts import TwoStarts
from mlbook.widgets.two_terms import TwoTerms
from mlbook.widgets.which_way import WhichWay

__all__ = [
    "AdaptSinusoid",
    "ArchitectureSearch",
    "CarriedOver",
    "ChoiceGradients",
    "DrawCharacters",
    "FindTheGoal",
    "FourMeans",
    "LatentMap",
    "MissingFactor",
    "OptimizerRace",
    "QueryBatch",
    "RealEpisode",
    "TwoFamilies",
    "TwoManifolds",
    "TwoStarts",
    "TwoTerms",
    "WhichWay",
]
