"""What the packaged model's training reads: views of photos, what frozen networks see in them, batches of pairs."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cliplet.data.images import load_rgb, resize_rgb
from cliplet.encoders.sessions import open_session
from cliplet.errors import InputError
from cliplet.export.frozen import frozen
from cliplet.export.graph import import_onnx
from cliplet.models.late import LateTower
from cliplet.regions.detector import OnnxDetector
from cliplet.training.computed import computed
from cliplet.training.config import AugmentConfig
from cliplet.training.text_distillation import Captions
from cliplet.training.views import view_images

from .detections import Thing, things

Floats = NDArray[np.float32]
SIZE = 224
BATCH = 32


def pixels(
    photos: Sequence[Any], augment: AugmentConfig, seed: int, numbers: Sequence[int], view: int
) -> Floats:
    """A view of some photos as EfficientNet-Lite expects them: squashed, ``[n, 3, 224, 224]`` in -1..1."""
    images = view_images(photos, augment, seed, numbers, view)
    squashed = np.stack([np.asarray(resize_rgb(image, SIZE, "squash", "bicubic")) for image in images])
    return (squashed.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5


def outputs(
    module: nn.Module,
    photos: Sequence[Any],
    file: Path,
    augment: AugmentConfig = AugmentConfig(),  # noqa: B008 (frozen)
    seed: int = 0,
    view: int = 0,
) -> NDArray[np.float16]:
    """What a frozen module makes of a view of each photo ``[photos, ...]``, computed once and kept in ``file``."""

    @cache
    def session() -> Any:
        return frozen(module.eval(), SIZE)

    def compute(start: int, stop: int) -> NDArray[Any]:
        return session()(pixels(photos, augment, seed, range(start, stop), view))  # type: ignore[no-any-return]

    return computed(file, len(photos), compute, BATCH, np.float16)


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
    session = open_session(detector_graph(detector, layers), name=str(detector))
    name, side = session.get_inputs()[0].name, session.get_inputs()[0].shape[-1]

    def row(photo: Any) -> Floats:
        image = resize_rgb(load_rgb(photo), side, "squash", "bilinear")
        bgr = np.asarray(image, dtype=np.float32)[:, :, ::-1].transpose(2, 0, 1)[None]
        boxes, *maps = session.run(None, {name: np.ascontiguousarray(bgr)})
        scores = boxes[0][:, 4:5] * boxes[0][:, 5:]  # [boxes, classes]
        parts = [np.sqrt(scores.max(axis=0)), np.log1p((scores > 0.3).sum(axis=0) / 10)]
        parts.append(np.sqrt(np.sort(scores, axis=0)[-8:].sum(axis=0)))
        for found in maps:
            parts += [found[0].mean(axis=(1, 2)), found[0].max(axis=(1, 2))]
        return np.concatenate(parts)

    def compute(start: int, stop: int) -> NDArray[Any]:
        return np.stack([row(photo) for photo in photos[start:stop]])

    return computed(file, len(photos), compute, BATCH, np.float16)


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
    names = {output.name for output in model.graph.output}
    for name in layers:
        if name not in known:
            raise InputError(
                f"{detector} has no tensor {name!r}; take detector_layers from its graph's nodes"
            )
        if name not in names:
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            model.graph.output.append(value)
    return bytes(model.SerializeToString())


def check_kinds(detector: Path, kinds: int) -> None:
    """Raise InputError where a YOLOX detector does not know so many kinds of things."""
    known = open_session(detector, name=str(detector)).get_outputs()[0].shape[-1] - 5
    if known != kinds:
        raise InputError(f"{detector} knows {known} kinds of things; near_names needs COCO's {kinds}")


def found_by(detector: OnnxDetector, photos: Sequence[Any]) -> list[list[Thing]]:
    """What a detector finds on each photo."""
    found = []
    for photo in photos:
        image = load_rgb(photo)
        found.append(things(detector.propose(image), *image.size))
    return found


def known_features(
    body: Any, first: int, block: int, maps: NDArray[np.float16], file: Path, batch: int = 64
) -> NDArray[np.float16]:
    """What the classifier knows of photos, from kept maps: its pooled features and its probabilities.

    Returns:
        ``[photos, width + classes]``, computed once and kept in ``file``.
    """

    @cache
    def late() -> LateTower:
        tower = LateTower(body, first, 1, 0.0, block).eval()
        tower.head = nn.Identity()  # type: ignore[assignment]
        return tower

    @torch.inference_mode()
    def compute(start: int, stop: int) -> NDArray[Any]:
        pooled = late().features(torch.from_numpy(np.array(maps[start:stop])))
        return torch.cat([pooled, body.classifier(pooled).softmax(dim=1)], dim=1).numpy()

    return computed(file, len(maps), compute, batch, np.float16)


def captions_of(texts: Sequence[str], tokenizer: Any, target: Floats, photo: NDArray[np.int64]) -> Captions:
    """Captions with their tokens."""
    return Captions(list(texts), photo, [e.ids for e in tokenizer.encode_batch(list(texts))], target)


class PairBatches:
    """A random kept view of each photo, mirrored half of the time, and a caption of every training photo.

    Args:
        maps: kept views, each ``[photos, C, h, w]``.
        known: what the classifier knows of each view, each ``[photos, width + classes]``.
        captions: those of the photos.
        size: photos a batch.
        seed: of everything.

    Raises:
        InputError: a photo has no caption.
    """

    def __init__(
        self,
        maps: Sequence[NDArray[np.float16]],
        known: Sequence[NDArray[np.float16]],
        captions: Captions,
        size: int,
        seed: int,
    ) -> None:
        self.maps, self.known, self.size, self.seed = maps, known, size, seed
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
            chosen_views = list(zip(views, photos, strict=True))
            maps = torch.from_numpy(np.stack([self.maps[v][p] for v, p in chosen_views]))
            known = torch.from_numpy(np.stack([self.known[v][p] for v, p in chosen_views]))
            mirrored = torch.from_numpy(rng.random(len(photos)) < 0.5)[:, None, None, None]
            yield {
                "maps": torch.where(mirrored, maps.flip(3), maps),
                "known": known,
                "photo": torch.from_numpy(photos),
                "columns": torch.from_numpy(chosen),
            }
