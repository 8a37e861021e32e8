"""YOLO-family detectors as ONNX files, run by ONNX Runtime: letterbox, decode, class-aware suppression."""

import ast
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.encoders.providers import choose_provider
from cliplet.encoders.sessions import open_session
from cliplet.errors import InputError, ModelError
from cliplet.regions.base import Floats, Regions, clipped
from cliplet.regions.coco import COCO_CLASSES
from cliplet.regions.nms import suppress

Kind = Literal["yolox", "yolov8"]
PADDING = 114
STRIDES = (8, 16, 32)


class OnnxDetector:
    """A detector of the YOLO family.

    Two kinds of file are understood, told apart by the shape of the output:

    - ``yolox``: output ``[1, N, 5 + C]`` (centre, size, objectness, classes), input BGR 0..255, the photo in the upper
      left corner. Outputs on the grid (YOLOX's usual export) and in pixels (``--decode_in_inference``) both work.
    - ``yolov8`` (also YOLOv9, YOLO11): output ``[1, 4 + C, N]`` (centre, size, classes), input RGB 0..1, the photo in
      the middle.

    Args:
        path: the ONNX file. Class names are read from its metadata, as ultralytics writes them; else 80 classes are
            COCO's.
        score: lowest score (objectness times class) of a box.
        iou: overlap above which the less sure of two boxes of one class is dropped.
        kind: when the shape does not tell.
        size: side of the input where the file leaves it open.
        limit: boxes a photo, at most.
        device: where it computes (:mod:`cliplet.encoders.providers`); default the CPU.

    Raises:
        InputError: this machine has no such device.
        ModelError: no such file, not a detector of these kinds.

    Reference implementations: YOLOX's ``demo/ONNXRuntime``, ultralytics' ``YOLOv8-ONNXRuntime``. Deviation: photos are
    resized with Pillow's bilinear filter, not OpenCV's, so scores differ in the third digit.
    """

    def __init__(
        self,
        path: str | Path,
        score: float = 0.3,
        iou: float = 0.45,
        kind: Kind | None = None,
        size: int = 640,
        limit: int = 100,
        device: str | None = None,
    ) -> None:
        self.path, self.score, self.iou, self.limit = Path(path), score, iou, limit
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from error
        where = choose_provider(device, [self.path])
        self._session = open_session(
            content, name=str(path), provider=where.provider, provider_options=where.options
        )
        taken, given = self._session.get_inputs(), self._session.get_outputs()
        if len(taken) != 1 or len(taken[0].shape) != 4 or len(given[0].shape) != 3:
            raise ModelError(
                f"{path} is no YOLO detector: one input [1, 3, h, w] and an output [1, N, 5 + classes] or "
                "[1, 4 + classes, N] were expected"
            )
        fixed = [n if isinstance(n, int) else size for n in taken[0].shape[2:]]
        self.height, self.width = fixed
        self._input = taken[0].name
        self._type = np.float16 if "float16" in taken[0].type else np.float32
        rows, columns = (n if isinstance(n, int) else None for n in given[0].shape[1:])
        self.kind: Kind = kind or _kind_of(rows, columns)
        self._names = _class_names(self._session.get_modelmeta().custom_metadata_map)
        digest = hashlib.blake2b(content, digest_size=6).hexdigest()
        self.name = f"{self.path.stem}-{digest}-{self.kind}-score{score}-iou{iou}-{self.width}x{self.height}"

    def propose(self, image: Image.Image, photo: str = "") -> Regions:
        """Boxes of one upright RGB photo, the surest first."""
        pixels, scale, left, top = self._letterbox(image)
        output = self._session.run(None, {self._input: pixels})[0].astype(np.float32)
        boxes, scores = self._decode(output[0])
        labels = (
            scores.argmax(axis=1).astype(np.int64) if scores.size else np.zeros(len(boxes), dtype=np.int64)
        )
        best = scores.max(axis=1) if scores.size else np.zeros(len(boxes), dtype=np.float32)
        sure = best >= self.score
        boxes, best, labels = boxes[sure], best[sure], labels[sure]
        boxes = (boxes - np.array([left, top, left, top], dtype=np.float32)) / scale
        boxes, good = clipped(boxes, image.width, image.height)
        boxes, best, labels = boxes[good], best[good], labels[good]
        kept = suppress(boxes, best, labels, self.iou)[: self.limit]
        names = self._names or (COCO_CLASSES if scores.shape[1] == len(COCO_CLASSES) else ())
        return Regions(boxes[kept], best[kept], labels[kept], names)

    def _letterbox(self, image: Image.Image) -> tuple[NDArray[Any], float, int, int]:
        """The photo scaled into the input, the scale, and where its corner lies: ``[1, 3, h, w]``."""
        scale = min(self.width / image.width, self.height / image.height)
        width, height = max(1, int(image.width * scale)), max(1, int(image.height * scale))
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        middle = self.kind == "yolov8"
        left = round((self.width - width) / 2 - 0.1) if middle else 0
        top = round((self.height - height) / 2 - 0.1) if middle else 0
        canvas = np.full((self.height, self.width, 3), PADDING, dtype=np.uint8)
        canvas[top : top + height, left : left + width] = np.asarray(image.convert("RGB"))
        pixels: NDArray[Any] = canvas.transpose(2, 0, 1)[None].astype(np.float32)
        pixels = pixels / 255 if middle else pixels[:, ::-1]
        return np.ascontiguousarray(pixels, dtype=self._type), scale, left, top

    def _decode(self, output: Floats) -> tuple[Floats, Floats]:
        """Boxes ``[N, 4]`` in pixels of the input and the scores of their classes ``[N, C]``."""
        if self.kind == "yolov8":
            output = output.T  # [N, 4 + C]
            return _corners(output[:, :4]), output[:, 4:]
        place = output[:, :4].copy()
        if np.median(np.abs(place[:, :2])) < 8:  # cells, not pixels
            grid, stride = _grid(self.height, self.width)
            if len(grid) != len(place):
                raise ModelError(
                    f"{self.path} gives {len(place)} boxes where strides 8, 16, 32 have {len(grid)} cells"
                )
            place[:, :2] = (place[:, :2] + grid) * stride
            place[:, 2:] = np.exp(place[:, 2:]) * stride
        return _corners(place), output[:, 4:5] * output[:, 5:]


def _kind_of(rows: int | None, columns: int | None) -> Kind:
    """Boxes are many and values few: what the longer side counts are the boxes."""
    if rows is None or columns is None:
        known = rows if columns is None else columns
        if known is None:
            raise InputError("the detector's output has no fixed shape; say kind='yolox' or kind='yolov8'")
        many = known > 1000
        return "yolox" if (rows is not None) == many else "yolov8"
    return "yolox" if rows > columns else "yolov8"


def _class_names(metadata: dict[str, str]) -> tuple[str, ...]:
    """``names`` of the metadata, which ultralytics writes as a Python dictionary."""
    try:
        names = ast.literal_eval(metadata.get("names", ""))
        return tuple(str(names[i]) for i in range(len(names)))
    except (ValueError, SyntaxError, KeyError, TypeError):
        return ()


def _corners(place: Floats) -> Floats:
    """Centre and size ``[N, 4]`` as left, top, right, bottom."""
    half = place[:, 2:] / 2
    return np.concatenate([place[:, :2] - half, place[:, :2] + half], axis=1)


def _grid(height: int, width: int) -> tuple[Floats, Floats]:
    """Column and row of each output cell ``[N, 2]``, and its stride ``[N, 1]``."""
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((len(cells[-1]), 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)
