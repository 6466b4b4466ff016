"""Where episodes come from. Every task distribution has one method: ``sample(n_tasks, generator) -> Episode``."""

from mlbook.tasks.episode import BatchedEpisode, ClassPool, Episode, FewShot, LabelledImages
from mlbook.tasks.mini_batches import MiniBatches
from mlbook.tasks.sinusoid import GridSinusoids, Sinusoids

__all__ = [
    "BatchedEpisode",
    "ClassPool",
    "Episode",
    "FewShot",
    "GridSinusoids",
    "LabelledImages",
    "MiniBatches",
    "Sinusoids",
]
