"""The frozen part of an image tower on ONNX Runtime, several times faster on a CPU than the PyTorch module."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cliplet.encoders.sessions import open_session
from cliplet.errors import ClipletError

Floats = NDArray[np.float32]
Frozen = Callable[[Floats], Floats]
"""Pixels ``[n, 3, h, w]`` to the module's output ``[n, ...]``."""


def frozen(module: nn.Module, size: int, file: Path) -> Frozen:
    """``module`` as a function of arrays: on ONNX Runtime on a CPU, else (or where it has no ONNX form) as it is.

    Args:
        module: in evaluation mode; its input is ``[n, 3, size, size]``.
        size: side of the input.
        file: where the graph is kept; its name changes whenever the weights do.
    """
    device = next(module.parameters()).device
    if device.type == "cpu":
        try:
            return _on_onnx_runtime(module, size, file)
        except (ImportError, ClipletError):  # an extra is missing, or a module that has no ONNX form
            pass

    def run(pixels: Floats) -> Floats:
        with torch.inference_mode():
            x = torch.from_numpy(pixels).to(device).contiguous(memory_format=torch.channels_last)
            found: Floats = module(x).float().cpu().numpy()
            return found

    return run


def _on_onnx_runtime(module: nn.Module, size: int, file: Path) -> Frozen:
    from cliplet.export.graph import write
    from cliplet.export.same_padding import fix_same_padding

    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        fixed = fix_same_padding(module, size).eval()
        write(fixed, {"pixels": torch.zeros(2, 3, size, size)}, {"pixels": {0: "n"}}, part, "fp32")
        os.replace(part, file)
    session = open_session(file, torch.get_num_threads())

    def run(pixels: Floats) -> Floats:
        found: Floats = session.run(None, {"pixels": pixels})[0]
        return found

    return run
