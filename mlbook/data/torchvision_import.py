"""The only door to torchvision, which is imported late (it takes longer than torch)."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import torch

_library = None


def torchvision():
    """The torchvision module, also where its compiled part was built for CUDA and torch was not.

    Such a pair fails at import with "operator torchvision::nms does not exist" (pytorch/vision issues 9077, 9085). The two
    operators that torchvision wants to describe are declared first; nothing here calls them.
    """
    global _library
    spec = importlib.util.find_spec("torchvision")
    if spec is not None and _library is None and not hasattr(torch.ops.torchvision, "nms"):
        for compiled in sorted(Path(spec.origin).parent.glob("_C*.so")):
            try:
                torch.ops.load_library(str(compiled))
                break
            except OSError:
                continue
        if not hasattr(torch.ops.torchvision, "nms"):
            _library = torch.library.Library("torchvision", "FRAGMENT")
            _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
