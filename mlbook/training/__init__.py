"""The outer loop, and what a run of it needs: evaluation, checkpoints, several processes, CUDA graphs, records."""

from mlbook.training.evaluation import Evaluation, evaluate
from mlbook.training.loop import train
from mlbook.training.prediction import Prediction, class_scores, predict
from mlbook.training.runner import load_checkpoint, run

__all__ = [
    "Evaluation",
    "Prediction",
    "class_scores",
    "evaluate",
    "load_checkpoint",
    "predict",
    "run",
    "train",
]
