"""Live labs: widgets whose arithmetic runs in the reader's browser, with or without a kernel.

Python prepares weights and data. Each lab is one JavaScript module put together from the files beside this one: its own
and the shared ones that it imports. ``gallery.CARDS`` lists them all for the book's gallery.
"""

from mlbook.pages.labs.adapt_sinusoid import AdaptSinusoid
from mlbook.pages.labs.architecture_search import ArchitectureSearch
from mlbook.pages.labs.carried_over import CarriedOver
from mlbook.pages.labs.choice_gradients import ChoiceGradients
from mlbook.pages.labs.draw_characters import DrawCharacters
from mlbook.pages.labs.drifting_clients import DriftingClients
from mlbook.pages.labs.find_the_goal import FindTheGoal
from mlbook.pages.labs.four_means import FourMeans
from mlbook.pages.labs.how_far_back import HowFarBack
from mlbook.pages.labs.latent_map import LatentMap
from mlbook.pages.labs.layers_and_steps import LayersAndSteps
from mlbook.pages.labs.missing_factor import MissingFactor
from mlbook.pages.labs.optimizer_race import OptimizerRace
from mlbook.pages.labs.query_batch import QueryBatch
from mlbook.pages.labs.real_episode import RealEpisode
from mlbook.pages.labs.relabel_classes import RelabelClasses
from mlbook.pages.labs.stopped_early import StoppedEarly
from mlbook.pages.labs.train_maml import TrainMaml
from mlbook.pages.labs.two_families import TwoFamilies
from mlbook.pages.labs.two_manifolds import TwoManifolds
from mlbook.pages.labs.two_starts import TwoStarts
from mlbook.pages.labs.two_terms import TwoTerms
from mlbook.pages.labs.which_way import WhichWay
from mlbook.pages.labs.you_against_maml import YouAgainstMaml

__all__ = [
    "AdaptSinusoid",
    "ArchitectureSearch",
    "CarriedOver",
    "ChoiceGradients",
    "DrawCharacters",
    "DriftingClients",
    "FindTheGoal",
    "FourMeans",
    "HowFarBack",
    "LatentMap",
    "LayersAndSteps",
    "MissingFactor",
    "OptimizerRace",
    "QueryBatch",
    "RealEpisode",
    "RelabelClasses",
    "TrainMaml",
    "StoppedEarly",
    "TwoFamilies",
    "TwoManifolds",
    "TwoStarts",
    "TwoTerms",
    "WhichWay",
    "YouAgainstMaml",
]
