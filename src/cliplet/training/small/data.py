"""What the packaged model's training reads: captions with their targets, feature maps of augmented photos, batches."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.data.images import load_rgb, resize_rgb
from cliplet.encoders.sessions import open_session
from cliplet.errors import InputError
from cliplet.export.graph import import_onnx, trace
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet
from cliplet.training.text_distillation import Captions
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


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """A crop of 60 to 100 % of each photo, half of them mirrored, with other brightness, contrast and saturation.

    ``[n, 3, h, w]`` in -1..1, as in and out; a few become grey.
    """

    def random(low: float, high: float) -> Tensor:
        return torch.empty(len(x)).uniform_(low, high, generator=generator)

    share, ratio = random(0.6, 1.0), random(-0.22, 0.22).exp()
    width, height = (share * ratio).sqrt().clamp_max(1), (share / ratio).sqrt().clamp_max(1)
    place = torch.zeros(len(x), 2, 3)
    place[:, 0, 0] = width * torch.where(random(0, 1) < 0.5, -1.0, 1.0)
    place[:, 1, 1] = height
    place[:, 0, 2], place[:, 1, 2] = random(-1, 1) * (1 - width), random(-1, 1) * (1 - height)
    grid = F.affine_grid(place, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    brightness, contrast, saturation, grey = (
        v[:, None, None, None]
        for v in (random(0.75, 1.25), random(0.75, 1.25), random(0.6, 1.4), random(0, 1) < 0.05)
    )
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * contrast + (mean + 1) * brightness - 1
    colourless = x.mean(dim=1, keepdim=True)
    x = (x - colourless) * torch.where(grey, torch.zeros_like(saturation), saturation) + colourless
    return x.clamp(-1, 1)


def kept_outputs(
    module: nn.Module, photos: Sequence[Any], file: Path, view: int = 0, seed: int = 0, batch: int = 32
) -> NDArray[np.float16]:
    """The outputs of ``module`` for all photos, computed once on ONNX Runtime and kept in ``file`` as fp16.

    View 0 is the photo itself, others are :func:`augmented`.
    """

    def outputs() -> Iterator[NDArray[Any]]:
        generator = torch.Generator().manual_seed(1000 * seed + view)
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "module.onnx"
            example = torch.zeros(1, 3, SIZE, SIZE)
            trace(module.eval(), {"x": example}, {"x": {0: "n"}}, graph, {"y": {0: "n"}})
            session = open_session(graph)
            for start in range(0, len(photos), batch):
                x = normalised(decoded(photos[start : start + batch]))
                x = augmented(x, generator) if view else x
                yield session.run(["y"], {"x": np.ascontiguousarray(x.numpy())})[0]

    return kept_rows(outputs, len(photos), file)


def detector_features(
    detector: Path, layers: Sequence[str], photos: Sequence[Any], file: Path
) -> NDArray[np.float16]:
    """What a YOLOX detector sees in each photo ``[photos, 3 classes + 2 channels]``, computed once and kept.

    For each class the root of the highest score, ``log(1 + n / 10)`` for n boxes above 0.3, and the root of its eight
    best scores' sum; then the mean and the maximum over the photo of every channel of ``layers``. Photos are squashed
    to the detector's square, as the image tower sees them, not letterboxed.

    Args:
        detector: ONNX file with one input ``[1, 3, s, s]`` (BGR, 0..255) and one output ``[1, boxes, 5 + classes]``.
        layers: names of inner tensors ``[1, C, h, w]``; may be empty.
        photos: photos.
        file: where the features are kept.

    Raises:
        InputError: as :func:`detector_graph`.
    """
    graph = detector_graph(detector, layers)

    def outputs() -> Iterator[NDArray[Any]]:
        session = open_session(graph, name=str(detector))
        name, side = session.get_inputs()[0].name, session.get_inputs()[0].shape[-1]
        for photo in photos:
            pixels = resize_rgb(load_rgb(photo_source(photo)), side, "squash", "bilinear")
            bgr = np.asarray(pixels, dtype=np.float32)[:, :, ::-1].transpose(2, 0, 1)[None]
            boxes, *maps = session.run(None, {name: np.ascontiguousarray(bgr)})
            scores = boxes[0][:, 4:5] * boxes[0][:, 5:]  # [boxes, classes]
            parts = [np.sqrt(scores.max(axis=0)), np.log1p((scores > 0.3).sum(axis=0) / 10)]
            parts.append(np.sqrt(np.sort(scores, axis=0)[-8:].sum(axis=0)))
            for found in maps:
                parts += [found[0].mean(axis=(1, 2)), found[0].max(axis=(1, 2))]
            yield np.concatenate(parts)[None]

    return kept_rows(outputs, len(photos), file)


def detector_graph(detector: Path, layers: Sequence[str]) -> bytes:
    """A detector's ONNX graph with inner tensors as further outputs.

    Raises:
        InputError: the file is missing or no ONNX file, its input has no fixed square size, or it lacks such a tensor.
    """
    onnx = import_onnx()
    try:
        model = onnx.load(str(detector))
    except Exception as error:  # of protobuf or the file system
        raise InputError(f"the detector {detector} cannot be read: {error}") from error
    sides = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    if len(sides) != 4 or not sides[2] or sides[2] != sides[3]:
        raise InputError(f"the detector {detector} takes {sides}, not photos of one square size")
    known = {name for node in model.graph.node for name in node.output}
    outputs = {output.name for output in model.graph.output}
    for name in layers:
        if name not in known:
            raise InputError(
                f"{detector} has no tensor {name!r}; take detector_layers from its graph's nodes"
            )
        if name not in outputs:
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            model.graph.output.append(value)
    return bytes(model.SerializeToString())


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


class PairBatches:
    """Stage 2: a random kept view of each photo, mirrored half of the time, and a caption of every training photo.

    Args:
        maps: kept views, each ``[photos, C, h, w]``.
        captions: those of the photos.
        size: photos a batch.
        seed: of everything.
    """

    def __init__(
        self,
        maps: Sequence[NDArray[np.float16]],
        captions: Captions,
        size: int,
        seed: int,
    ) -> None:
        self.maps, self.size, self.seed = maps, size, seed
        rows = captions.of_photos()
        self.order = np.concatenate(rows)
        self.counts = np.array([len(r) for r in rows])
        self.starts = np.cumsum(self.counts) - self.counts
        if not self.counts.all():
            raise InputError(
                f"training photo {int(self.counts.argmin())} (from 0) has no caption; leave it out"
            )
        self.batches = len(rows) // size

    def load(self, epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``first`` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
        for batch in range(first, self.batches):
            rng = np.random.default_rng([self.seed, epoch, batch])
            photos = np.sort(order[batch * self.size : (batch + 1) * self.size])
            place = (rng.random(len(self.counts)) * self.counts).astype(np.int64)
            chosen = self.order[self.starts + place]  # a caption of every photo
            views = rng.integers(len(self.maps), size=len(photos))
            maps = torch.from_numpy(np.stack([self.maps[v][p] for v, p in zip(views, photos, strict=True)]))
            mirrored = torch.from_numpy(rng.random(len(photos)) < 0.5)[:, None, None, None]
            yield {
                "maps": torch.where(mirrored, maps.flip(3), maps),
                "photo": torch.from_numpy(photos),
                "columns": torch.from_numpy(chosen),
            }


def captions_of(pairs: PairSet, tokenizer: Any, target: Floats, photo: NDArray[np.int64]) -> Captions:
    """Captions of a set with their tokens."""
    return Captions(pairs.captions, photo, [e.ids for e in tokenizer.encode_batch(pairs.captions)], target)
