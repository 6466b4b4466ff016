"""Where episodes come from. Every task distribution has one method: ``sample(n_tasks, generator) -> Episode``."""

from mlbook.tasks.augmentation import Augmented
from mlbook.tasks.embeddings import FeaturePool, FewShotFeatures, Noisy
from mlbook.tasks.episode import BatchedEpisode, ClassPool, Episode, FewShot, LabelledImages
from mlbook.tasks.families import Finite, Lines, Mixture, Waves
from mlbook.tasks.mini_batches import MiniBatches
from mlbook.tasks.plane import BentSectors
from mlbook.tasks.sines_lines import KnownEpisode, NoisyPoints, SinesAndLines, WithNoise
from mlbook.tasks.sinusoid import GridSinusoids, Sinusoids

__all__ = [
    "Augmented",
    "BatchedEpisode",
    "BentSectors",
    "ClassPool",
    "Episode",
    "FeaturePool",
    "FewShot",
    "FewShotFeatures",
    "Finite",
    "GridSinusoids",
    "KnownEpisode",
    "LabelledImages",
    "Lines",
    "MiniBatches",
    "Mixture",
    "Noisy",
    "NoisyPoints",
    "SinesAndLines",
    "Sinusoids",
    "Waves",
    "WithNoise",
]
