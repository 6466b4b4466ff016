"""The list of all labs, from which the book's gallery is made: each widget of this package is in it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Card:
    """One lab in the gallery."""

    widget: str
    """Name of its class in ``mlbook.pages.labs``."""
    title: str
    sentence: str
    """What to try, in one sentence."""
    page: str
    """The page that it lives in, as ``04_maml``, and the heading above it there: ``04_maml#play-first``."""
    other_pages: tuple[str, ...] = ()
    """Other pages with the same lab."""
    opens: dict = field(default_factory=dict)
    """Arguments for the widget in the picture, where its first state shows little."""

    @property
    def name(self) -> str:
        """``carried-over`` for ``CarriedOver``: the name of its picture."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in self.widget)[1:]


CARDS = (
    Card(
        "YouAgainstMaml",
        "You against MAML",
        "Sketch a sine wave through five of its points, then see how near MAML comes with the same five.",
        "index#you-against-maml",
        opens={
            "sketch": (
                *((-5.0, 1.9), (-4.6, 2.8), (-4.1, 3.3), (-3.5, 2.9), (-3.0, 1.7), (-2.6, 0.5), (-2.0, -1.2)),
                *((-1.4, -2.6), (-0.9, -3.2), (-0.5, -3.1), (0.1, -2.2), (0.7, -0.6), (1.3, 1.3), (1.9, 3.0)),
                *((2.3, 3.9), (2.7, 3.6), (3.2, 1.8), (3.7, 0.5), (4.3, -1.6), (5.0, -2.6)),
            ),
            "done": True,
        },
    ),
    Card(
        "TwoStarts",
        "Two starts meet new tasks",
        "Watch a pre-trained and a meta-learned start take the same five gradient steps on one new sine wave after the other.",
        "index#what-a-gradient-step-does",
        opens={},
    ),
    Card(
        "CarriedOver",
        "What is carried over?",
        "Choose what a learner keeps of the bus lines it knows, take training lines away, and see which column notices.",
        "01_learning_to_learn#play-first",
        opens={"learner": "both"},
    ),
    Card(
        "DrawCharacters",
        "Draw three characters",
        "Draw your own classes with one example each, and let MAML or Reptile tell which of them your query is.",
        "02_tasks_and_episodes#play-first",
    ),
    Card(
        "FourMeans",
        "Four means of three tasks",
        "Bend and move three parabolas until pre-training, FOMAML, MAML and Reptile want four different starts.",
        "03_pretraining_or_meta_learning#play-first",
    ),
    Card(
        "AdaptSinusoid",
        "Adapt a sinusoid",
        "Put down a few points of a sine wave and step: from which start does gradient descent find the rest of it?",
        "04_maml#play-first",
        other_pages=("11_reptile#play-first",),
        opens={"step": 5},
    ),
    Card(
        "TrainMaml",
        "Train MAML",
        "Slide through a training of MAML, and see where its inner step comes to fit a wave and where it stops being linear.",
        "reproducing_maml#where-the-loss-falls",
        opens={"meta_step": 3_600},
    ),
    Card(
        "MissingFactor",
        "The missing factor",
        "Raise the inner rate until 1 − αH turns negative, and see which way FOMAML then walks.",
        "05_second_derivative#play-first",
        opens={"alpha": 0.35},
    ),
    Card(
        "QueryBatch",
        "Who is in the batch?",
        "Put query images into a batch and take them out: the weights stay as they are, the answers do not.",
        "06_images#play-first",
    ),
    Card(
        "FindTheGoal",
        "Find the goal",
        "Hide a goal, let a meta-learned agent explore, and give it one gradient step from its own rollouts.",
        "07_reinforcement_learning#play-first",
        opens={"step": 1},
    ),
    Card(
        "TwoFamilies",
        "One start or two",
        "Pull two families of lines apart, and find out when one common start is no longer enough.",
        "08_limits#play-first",
    ),
    Card(
        "LatentMap",
        "A map of classifiers",
        "Move the code of a class on LEO's map by hand, then let the latent steps do it better.",
        "09_leo#play-first",
        opens={"latent": 5, "shots": 3},
    ),
    Card(
        "RealEpisode",
        "One real task",
        "Pick five of twenty kinds of photographs, and see what LEO adds to the nearest centroid, step by step.",
        "10_leo_images#play-first",
        opens={"latent": 5, "finetuning": 5},
    ),
    Card(
        "TwoTerms",
        "The two terms of a meta-gradient",
        "Let the inner rate shrink, and compare how fast each term of the expansion gives way to the truth.",
        "12_expansion#play-first",
    ),
    Card(
        "TwoManifolds",
        "Between solution manifolds",
        "Bend the solution sets of two tasks, and watch where Reptile comes to rest between them.",
        "13_solution_manifolds#play-first",
    ),
    Card(
        "WhichWay",
        "Which way does φ move?",
        "Drag φ between two tasks until the updates of the four methods point in four directions.",
        "14_side_by_side#play-first",
        opens={"alpha": 0.3, "steps": 3},
    ),
    Card(
        "OptimizerRace",
        "A race of optimisers",
        "Shape a surface and send a trained recurrent network down it, against four rules with rates that you set.",
        "15_learned_optimizers#play-first",
    ),
    Card(
        "HowFarBack",
        "How far back?",
        "Cut an outer gradient in windows and see its sign turn, and what persistent evolution strategies pay to keep it.",
        "reproducing_evolution#play-first",
    ),
    Card(
        "ChoiceGradients",
        "The estimator playground",
        "Drag what four options give, and see which estimate of a choice's gradient is off, and which only trembles.",
        "16_augmentation#play-first",
    ),
    Card(
        "ArchitectureSearch",
        "A controller sharpens",
        "Let a controller train children one by one, watch its five decisions sharpen, and race it against blind chance.",
        "17_architecture#play-first",
        opens={"step": 180},
    ),
    Card(
        "StoppedEarly",
        "Stopped early",
        "Stop an inner loop early and see which of three gradients is still right, and for what.",
        "18_implicit_gradients#play-first",
    ),
    Card(
        "LayersAndSteps",
        "Layers and steps",
        "Drag points, stack layers of attention, and find how many gradient steps draw the same line.",
        "19_in_context#play-first",
        opens={"layers": 3, "steps": 3},
    ),
    Card(
        "DriftingClients",
        "Drifting clients",
        "Let two clients take more and more local steps, and see their average leave the minimum of their mean loss.",
        "20_federated#play-first",
        opens={"steps": 20},
    ),
    Card(
        "RelabelClasses",
        "One task, 120 orders",
        "Let the classes of a task change places: the weights and the drawings stay, and the score moves.",
        "21_what_the_score_hides#play-first",
    ),
)
"""In the order of the book."""
