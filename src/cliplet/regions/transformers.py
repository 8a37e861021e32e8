"""Object detectors of Transformers: DETR, RT-DETR, YOLOS, Conditional DETR, ..."""

from typing import Any

import numpy as np
from PIL import Image

from cliplet.encoders._torch_common import torch_device
from cliplet.errors import MissingExtraError, ModelError
from cliplet.models.compat import prepare_torchvision
from cliplet.regions.base import Regions, clipped


class TransformersDetector:
    """Boxes of an ``AutoModelForObjectDetection`` with its own processor.

    Args:
        model: the model, in evaluation mode.
        processor: its image processor.
        name: says which weights.
        score: lowest score of a box. These models need no suppression; some give a box twice all the same.
    """

    def __init__(self, model: Any, processor: Any, name: str, score: float = 0.3) -> None:
        self._model, self._processor, self.score = model.eval(), processor, score
        self.name = f"transformers-{name}-score{score}"

    @classmethod
    def from_name(cls, name: str, score: float = 0.3, device: str = "cpu") -> "TransformersDetector":
        """Open ``owner/name`` (fetched by the library) or a local folder, on ``device``.

        Raises:
            InputError: this machine has no such device.
            MissingExtraError: Transformers is not installed.
            ModelError: the model cannot be opened.
        """
        try:
            prepare_torchvision()
            from transformers import AutoImageProcessor, AutoModelForObjectDetection
        except ImportError as error:
            raise MissingExtraError(f"a detector of Transformers ({error})", "hub") from error
        place = torch_device(device)
        try:
            model = AutoModelForObjectDetection.from_pretrained(name).to(place)
            processor = AutoImageProcessor.from_pretrained(name)
        except Exception as error:  # the library raises many kinds
            raise ModelError(f"Transformers cannot open the detector {name!r}: {error}") from error
        return cls(model, processor, name, score)

    def propose(self, image: Image.Image, photo: str = "") -> Regions:
        """Boxes of one upright RGB photo, the surest first."""
        import torch

        with torch.inference_mode():
            batch = self._processor(images=image, return_tensors="pt")
            out = self._model(**{key: tensor.to(self._model.device) for key, tensor in batch.items()})
            found = self._processor.post_process_object_detection(
                out, threshold=self.score, target_sizes=[(image.height, image.width)]
            )[0]
        found = {key: tensor.cpu().numpy() for key, tensor in found.items()}
        boxes, good = clipped(found["boxes"].reshape(-1, 4), image.width, image.height)
        scores = found["scores"].astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        order = order[good[order]]
        classes = self._model.config.id2label
        names = tuple(str(classes[i]) for i in sorted(classes))
        return Regions(boxes[order], scores[order], found["labels"].astype(np.int64)[order], names)
