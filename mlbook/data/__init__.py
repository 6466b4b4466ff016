"""What lies on disk and in memory: data sets, pools of classes, and the files of tensors that hold them."""

from mlbook.data import image_folder, mini_imagenet, omniglot, tensor_sets
from mlbook.data.pools import ClassPool, FeaturePool

__all__ = ["ClassPool", "FeaturePool", "image_folder", "mini_imagenet", "omniglot", "tensor_sets"]
