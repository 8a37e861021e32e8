"""Detectors of the ultralytics library (YOLOv8, YOLO11, ...).

**Licence.** ultralytics and its weights are AGPL-3.0: whoever offers software or a service that uses them must offer
its source under that licence, or buy another one from the company. cliplet neither ships nor needs it; the YOLOX
detector of :mod:`cliplet.regions.detector` (Apache-2.0) does the same work. Install it yourself if its terms suit you:
``pip install ultralytics``.
"""

from typing import Any

import numpy as np
from PIL import Image

from cliplet.errors import InputError, ModelError
from cliplet.regions.base import Regions, clipped


class UltralyticsDetector:
    """Boxes of an ultralytics model, which does its own letterbox, decoding and suppression.

    Args:
        model: what ``ultralytics.YOLO(...)`` returns.
        name: says which weights.
        score: lowest score of a box.
        iou: overlap above which the less sure of two boxes of one class is dropped.
    """

    def __init__(self, model: Any, name: str, score: float = 0.3, iou: float = 0.45) -> None:
        self._model, self.score, self.iou = model, score, iou
        self.name = f"ultralytics-{name}-score{score}-iou{iou}"

    @classmethod
    def from_name(cls, weights: str, score: float = 0.3, iou: float = 0.45) -> "UltralyticsDetector":
        """Open weights such as ``yolov8x.pt`` (fetched by the library) or a file.

        Raises:
            InputError: the library is not installed.
            ModelError: the weights cannot be opened.
        """
        try:
            from ultralytics import YOLO  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise InputError(
                "ultralytics is not installed: pip install ultralytics (AGPL-3.0: read its terms first), or use a "
                "YOLOX detector as an .onnx file"
            ) from None
        try:
            return cls(YOLO(weights), weights, score, iou)
        except Exception as error:  # the library raises many kinds
            raise ModelError(f"ultralytics cannot open {weights!r}: {error}") from error

    def propose(self, image: Image.Image, photo: str = "") -> Regions:
        """Boxes of one upright RGB photo, the surest first."""
        result = self._model.predict(image, conf=self.score, iou=self.iou, verbose=False)[0]
        boxes, scores, labels = (_array(getattr(result.boxes, n)) for n in ("xyxy", "conf", "cls"))
        boxes, good = clipped(boxes.reshape(-1, 4).astype(np.float32), image.width, image.height)
        order = np.argsort(-scores, kind="stable")
        order = order[good[order]]
        names = tuple(str(result.names[i]) for i in sorted(result.names))
        return Regions(boxes[order], scores[order].astype(np.float32), labels[order].astype(np.int64), names)


def _array(values: Any) -> Any:
    """A tensor, on whatever device, or an array."""
    return values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)
