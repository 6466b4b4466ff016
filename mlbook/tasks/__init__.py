"""Where episodes come from. Every task distribution has one method: ``sample(n_tasks, generator) -> Episode``."""

from mlbook.tasks.episode import ClassPool, Episode, FewShot
from mlbook.tasks.sinusoid import Sinusoids

__all__ = ["ClassPool", "Episode", "FewShot", "Sinusoids"]
