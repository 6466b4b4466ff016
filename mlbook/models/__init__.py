"""Plain ``nn.Module`` networks, called through one function with explicit parameters."""

from mlbook.models.conv4 import Conv4
from mlbook.models.functional import Params, call, initial_params
from mlbook.models.mlp import MLP

__all__ = ["MLP", "Conv4", "Params", "call", "initial_params"]
