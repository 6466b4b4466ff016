"""Where episodes come from. Every task distribution has one method: ``sample(n_tasks, generator) -> Episode``."""

from mlbook.tasks.episode import BatchedEpisode, ClassPool, Episode, FewShot, LabelledImages
from mlbook.tasks.families import Finite, Lines, Mixture, Waves
from mlbook.tasks.mini_batches import MiniBatches
from mlbook.tasks.sinusoid import GridSinusoids, Sinusoids

__all__ = [
    "BatchedEpisode",
    "ClassPool",
    "Episode",
    "FewShot",
    "Finite",
    "GridSinusoids",
    "LabelledImages",
    "Lines",
    "MiniBatches",
    "Mixture",
    "Sinusoids",
    "Waves",
]
