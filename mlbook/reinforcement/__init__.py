"""Reinforcement learning by policy gradients: environments for many tasks at once, a Gaussian policy, MAML around both."""

from mlbook.reinforcement.cheetah import HalfCheetah
from mlbook.reinforcement.maml_rl import MAMLRL, Derivatives, Exploration, Round, per_task
from mlbook.reinforcement.navigation import Navigation, official_goals
from mlbook.reinforcement.policy import GaussianPolicy, divergence
from mlbook.reinforcement.rollouts import (
    Environment,
    Rollouts,
    RolloutTasks,
    advantages,
    discounted_sums,
    features,
    linear_baseline,
)
from mlbook.reinforcement.sampling import Goals
from mlbook.reinforcement.surrogates import (
    SURROGATES,
    dice_surrogate,
    inner_loss,
    log_surrogate,
    mean_divergence,
    outer_loss,
)
from mlbook.reinforcement.trust_region import Step, conjugate_gradient, dot, plus, trust_region_step

__all__ = [
    "MAMLRL",
    "SURROGATES",
    "Derivatives",
    "Environment",
    "Exploration",
    "GaussianPolicy",
    "Goals",
    "HalfCheetah",
    "Navigation",
    "RolloutTasks",
    "Rollouts",
    "Round",
    "Step",
    "advantages",
    "conjugate_gradient",
    "dice_surrogate",
    "discounted_sums",
    "divergence",
    "dot",
    "features",
    "inner_loss",
    "linear_baseline",
    "log_surrogate",
    "mean_divergence",
    "official_goals",
    "outer_loss",
    "per_task",
    "plus",
    "trust_region_step",
]
