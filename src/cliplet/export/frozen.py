"""A PyTorch module that no longer learns as a function of arrays, on a CPU several times faster on ONNX Runtime."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cliplet.encoders.batching import BatchedEncoder
from cliplet.encoders.sessions import Session, open_session
from cliplet.errors import ClipletError
from cliplet.export.folder import export
from cliplet.export.graph import write
from cliplet.export.same_padding import fix_same_padding

Floats = NDArray[np.float32]
Frozen = Callable[[Floats], Floats]
"""Pixels ``[n, 3, h, w]`` to the module's output ``[n, ...]``."""


def frozen(module: nn.Module, size: int, file: Path | None = None) -> Frozen:
    """``module`` as a function of arrays: on ONNX Runtime on a CPU, else (or where it has no ONNX form) as it is.

    Args:
        module: in evaluation mode; its input is ``[n, 3, size, size]``.
        size: side of the input.
        file: where the graph is kept; its name changes whenever the weights do. None keeps it nowhere.
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


def _on_onnx_runtime(module: nn.Module, size: int, file: Path | None) -> Frozen:
    def written(path: Path) -> None:
        fixed = fix_same_padding(module, size).eval()
        write(fixed, {"pixels": torch.zeros(2, 3, size, size)}, {"pixels": {0: "n"}}, path, "fp32")

    session = frozen_graph(written, file)

    def run(pixels: Floats) -> Floats:
        found: Floats = session.run(None, {"pixels": np.ascontiguousarray(pixels)})[0]
        return found

    return run


def frozen_graph(written: Callable[[Path], None], file: Path | None = None) -> Session:
    """A session of a graph.

    Args:
        written: writes the graph to a path.
        file: where the graph is kept, and taken from when it is there; None keeps it nowhere.
    """
    threads = torch.get_num_threads()
    if file is None:
        with tempfile.TemporaryDirectory() as folder:
            written(Path(folder) / "graph.onnx")
            return open_session((Path(folder) / "graph.onnx").read_bytes(), threads)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        written(part)
        os.replace(part, file)
    return open_session(file, threads)


def frozen_encoder(
    encoder: Any, folder: Path, photos: Sequence[Any], captions: Sequence[str]
) -> BatchedEncoder | None:
    """An encoder of our own towers on ONNX Runtime, four times faster on a CPU; None where it cannot be exported.

    Args:
        encoder: a :class:`~cliplet.encoders.torch.TorchEncoder`.
        folder: where the copy is kept, under the encoder's fingerprint.
        photos: some, to compare the copy with the encoder.
        captions: likewise.
    """
    from cliplet.encoders.onnx import OnnxEncoder

    place = folder / f"onnx-{encoder.card.fingerprint}"
    try:
        if not (place / "card.json").is_file():
            export(encoder, place, "fp32", photos=photos, captions=captions)
        return OnnxEncoder(place)
    except (ImportError, ClipletError):  # an extra is missing, or a tower that has no export
        return None
