"""How good a student is on dev: agreement with the teacher, and retrieval."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cliplet.encoders.base import unit_norm
from cliplet.encoders.torch import TorchEncoder
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.training.distill.student import Student
from cliplet.training.distill.targets import Targets
from cliplet.training.pairs import PairSet

KEEP_BYTES = 1 << 30
"""Prepared dev photos are kept in memory up to this size."""


class DevSet:
    """Dev photos and captions with the teacher's embeddings; measures the student's current weights.

    Args:
        pairs: photos and captions; a side may be empty.
        targets: the teacher's embeddings of view 0 and of the captions.
        encoder: the student as an encoder (it shares the student's weights).
        student: holds the map to the teacher's width.
    """

    def __init__(self, pairs: PairSet, targets: Targets, encoder: TorchEncoder, student: Student) -> None:
        self.encoder, self.student = encoder, student
        self.teacher_images = targets.images[0] if targets.images else np.zeros((0, 1), np.float32)
        good = ~np.isnan(self.teacher_images[:, 0])
        texts = targets.texts
        self.teacher_texts = None if texts is None else np.asarray(texts[pairs.captions_with(good)])
        self.teacher_images = np.asarray(self.teacher_images[good])
        self.pairs = pairs.keep(good)
        self.captions, self.photos, self.photo_of = (
            self.pairs.captions,
            self.pairs.photos,
            self.pairs.photo_of,
        )
        size = encoder.card.image.size
        self._prepared: list[Any] | None = None
        self._keep = len(self.photos) * size * size * 3 <= KEEP_BYTES

    def measure(self, towers: frozenset[str]) -> dict[str, float]:
        """Named numbers, the deciding one under ``score``.

        ``cos_image`` and ``cos_text``: mean cosine to the teacher. ``image-to-text R@1`` and ``text-to-image R@1``,
        in 0..1, where both sides exist; a tower that has not learnt is replaced by the teacher where widths allow.
        The score is the mean of both R@1, or of the cosines where there is no retrieval.

        Args:
            towers: those that learnt in this stage or an earlier one.
        """
        values: dict[str, float] = {}
        images = texts = None
        if "image" in towers and self.photos:
            images = self._images()
            values["cos_image"] = self._agreement(images, self.teacher_images)
        if "text" in towers and self.captions and self.teacher_texts is not None:
            texts = self.encoder.encode_texts(self.captions)
            values["cos_text"] = self._agreement(texts, self.teacher_texts)
        cosines = list(values.values())
        if self.student.same_width:
            images = self.teacher_images if images is None and len(self.teacher_images) else images
            texts = self.teacher_texts if texts is None else texts
        paired = self.photo_of >= 0
        if images is not None and texts is not None and paired.any():
            recalls = recall_at_k(unit_norm(images), unit_norm(texts[paired]), self.photo_of[paired], ks=(1,))
            values |= recalls
            values["score"] = float(np.mean(list(recalls.values())))
        elif cosines:
            values["score"] = float(np.mean(cosines))
        return values

    def _images(self) -> NDArray[np.float32]:
        """The student's embeddings of the dev photos."""
        if not self._keep:
            return self.encoder.encode_images(self.photos)
        if self._prepared is None:
            self._prepared = [self.encoder.prepare_image(p) for p in self.photos]
        size = self.encoder.batch_size
        blocks = [
            self.encoder.embed_images(self._prepared[i : i + size])
            for i in range(0, len(self._prepared), size)
        ]
        return unit_norm(np.concatenate(blocks))

    def _agreement(self, student: NDArray[np.float32], teacher: NDArray[np.float32]) -> float:
        """Mean cosine between the (mapped) student's and the teacher's embeddings."""
        with torch.inference_mode():
            device = self.student.logit_scale.device
            mapped = self.student.map(torch.from_numpy(student).to(device)).float().cpu().numpy()
        return float((unit_norm(mapped) * unit_norm(teacher)).sum(axis=1).mean())
