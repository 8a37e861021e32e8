"""Lets torchvision be imported beside a torch that it was not built for, as often found on CPU machines.

Its compiled operators (non-maximum suppression) cannot be loaded then; CLIP's preprocessing does not use them.
"""

import subprocess
import sys
from typing import Any

_KEPT_ALIVE: list[Any] = []


def needed() -> bool:
    """Whether a plain ``import torchvision`` fails for want of its operators (tried in a process of its own)."""
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    return "torchvision::nms does not exist" in tried.stderr


def declare_operators() -> None:
    """Declare the operators; call before the first import of torchvision."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT_ALIVE.append(library)
