"""Where episodes come from. Every task distribution has one method: ``sample(n_tasks, generator) -> Episode``."""

from mlbook.tasks.clients import AlphabetTasks, Clients
from mlbook.tasks.crops import Augmented
from mlbook.tasks.episode import BatchedEpisode, ClientRound, Episode, TaskDistribution
from mlbook.tasks.families import Finite, Lines, Mixture, Waves
from mlbook.tasks.few_shot import FewShot, FewShotFeatures, LabelledImages
from mlbook.tasks.leo_noise import LEONoise, NoisyEpisode
from mlbook.tasks.mini_batches import MiniBatches
from mlbook.tasks.plane import BentSectors
from mlbook.tasks.sines_lines import KnownEpisode, SinesAndLines
from mlbook.tasks.sinusoid import GridSinusoids, Sinusoids

__all__ = [
    "AlphabetTasks",
    "Augmented",
    "BatchedEpisode",
    "BentSectors",
    "ClientRound",
    "Clients",
    "Episode",
    "FewShot",
    "FewShotFeatures",
    "Finite",
    "GridSinusoids",
    "KnownEpisode",
    "LEONoise",
    "LabelledImages",
    "Lines",
    "MiniBatches",
    "Mixture",
    "NoisyEpisode",
    "SinesAndLines",
    "Sinusoids",
    "TaskDistribution",
    "Waves",
]
