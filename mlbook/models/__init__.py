"""Plain ``nn.Module`` networks, called through one function with explicit parameters."""

from mlbook.models.conv1d import Conv1d4
from mlbook.models.conv4 import Conv4
from mlbook.models.functional import Params, call, initial_params
from mlbook.models.mlp import MLP
from mlbook.models.wide_resnet import WideResNet

__all__ = ["MLP", "Conv1d4", "Conv4", "Params", "WideResNet", "call", "initial_params"]
