"""The outer loop, and what a run of it needs: evaluation, checkpoints, several processes, CUDA graphs, records."""

from mlbook.training.evaluation import evaluate
from mlbook.training.loop import train
from mlbook.training.runner import load_checkpoint, run

__all__ = ["evaluate", "load_checkpoint", "run", "train"]
