"""What the packaged model's training reads: captions with their targets, feature maps of augmented photos, batches."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliplet.data.images import load_rgb, resize_rgb
from cliplet.training.logs import Progress
from cliplet.training.views import photo_source

Floats = NDArray[np.float32]
SIZE = 224


def decoded(photos: Sequence[Any]) -> NDArray[np.uint8]:
    """Photos squashed to the tower's input: uint8 ``[n, 224, 224, 3]``."""
    return np.stack(
        [np.asarray(resize_rgb(load_rgb(photo_source(p)), SIZE, "squash", "bicubic")) for p in photos]
    )


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 ``[n, h, w, 3]`` -> what EfficientNet-Lite expects, ``[n, 3, h, w]`` in -1..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)


def kept_rows(blocks: Callable[[], Iterator[NDArray[Any]]], rows: int, file: Path) -> NDArray[np.float16]:
    """Blocks of rows put below each other, computed once and kept in ``file`` as fp16."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        bar = Progress(file.stem, rows)
        part, out, done = file.with_suffix(".part"), None, 0
        for block in blocks():
            if out is None:
                out = np.lib.format.open_memmap(part, "w+", np.float16, (rows, *block.shape[1:]))
            out[done : done + len(block)] = block
            done += len(block)
            bar.update(done)
        assert out is not None
        assert done == rows
        out.flush()
        del out  # Windows replaces no file that is open
        os.replace(part, file)
    return np.asarray(np.load(file, mmap_mode="r"))
