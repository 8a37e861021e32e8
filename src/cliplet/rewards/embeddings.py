"""Embeddings for rewards: those of images made once, those of captions made once for each different caption."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.data.text import scrub
from cliplet.encoders.base import Embeddings, Encoder, unit_norm
from cliplet.encoders.batching import encode_images_safely
from cliplet.errors import InputError, ModelError

REMEMBERED = 16_384
"""Captions whose embeddings are kept between calls (512 float32 values each: 32 MB)."""
_SHOWN_FAILURES = 3


class ImageEmbeddings:
    """The unit vectors of images by id.

    Args:
        ids: n different image ids.
        vectors: ``[n, d]``, any norm; row i belongs to ``ids[i]``.

    Raises:
        InputError: no images, ids that repeat, another number of rows, or a row with NaN or without direction.
    """

    def __init__(self, ids: Sequence[Hashable], vectors: NDArray[Any]) -> None:
        self.rows = {image: row for row, image in enumerate(ids)}
        vectors = np.asarray(vectors)
        if not len(ids):
            raise InputError("there are no images: give at least one image embedding")
        if vectors.ndim != 2 or len(vectors) != len(ids):
            raise InputError(
                f"image embeddings of shape {vectors.shape} do not fit {len(ids):,} images: one row for each is needed"
            )
        if len(self.rows) != len(ids):
            raise InputError("the same image id stands twice among the image embeddings")
        self.vectors: Embeddings = unit_norm(vectors)
        bad = ~(np.isfinite(self.vectors).all(axis=1) & self.vectors.any(axis=1))
        if bad.any():
            raise InputError(
                f"the embedding of image {ids[int(np.flatnonzero(bad)[0])]!r} is not a direction (zeros or NaN)"
            )

    @classmethod
    def given(
        cls,
        embeddings: Mapping[Hashable, NDArray[Any]] | NDArray[Any],
        order: Sequence[Hashable] | None = None,
    ) -> "ImageEmbeddings":
        """From a mapping of vectors, or from an array whose rows stand in ``order`` (by default 0, 1, 2, ...)."""
        if not isinstance(embeddings, Mapping):
            return cls(range(len(embeddings)) if order is None else order, embeddings)
        shapes = {np.shape(vector) for vector in embeddings.values()}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise InputError(
                f"image embeddings must be vectors of one length, not of shapes {sorted(shapes)}"
            )
        return cls(list(embeddings), np.stack(list(embeddings.values())) if embeddings else np.zeros((0, 0)))

    @classmethod
    def encoded(cls, encoder: Encoder, photos: Mapping[Hashable, ImageInput]) -> "ImageEmbeddings":
        """Encode photos (paths, PIL images, arrays, bytes) by id, once.

        Raises:
            InputError: photos that cannot be read; all are counted and the first ones named.
        """
        vectors, reasons = encode_images_safely(encoder, list(photos.values()))
        if reasons:
            ids = list(photos)
            first = [
                f"{ids[place]!r}: {reason}" for place, reason in sorted(reasons.items())[:_SHOWN_FAILURES]
            ]
            raise InputError(f"{len(reasons):,} of {len(ids):,} photos cannot be used: {'; '.join(first)}")
        return cls(list(photos), vectors)


class CaptionEmbeddings:
    """An encoder's text side with the model's prompt prefix, and a bounded memory of captions already seen.

    Rewards that share one object encode a caption once between them. Threads may share it too; a forked or spawned
    process starts with what was remembered or with nothing.

    Args:
        encoder: any Encoder.
        remember: captions whose embeddings are kept; when they are more, the memory starts afresh.
    """

    def __init__(self, encoder: Encoder, remember: int = REMEMBERED) -> None:
        self.encoder = encoder
        self._prefix = encoder.card.text.prompt_prefix
        self._remember = remember
        self._memory: dict[str, Embeddings] = {}  # without a lock, which a fork could copy while it is held

    def __call__(self, captions: Sequence[str]) -> Embeddings:
        """Unit vectors ``[n, d]``; equal captions are encoded once, remembered ones not at all.

        Raises:
            ModelError: the model gives NaN for a caption, or another number of vectors than captions.
        """
        places: dict[str, int] = {}
        rows = [
            places.setdefault(caption, len(places)) for caption in captions
        ]  # [n] among the different ones
        memory = self._memory
        known = {caption: vector for caption in places if (vector := memory.get(caption)) is not None}
        new = [caption for caption in places if caption not in known]
        if new:
            vectors = self.encoder.encode_texts([self._prefix + scrub(caption) for caption in new])
            self._check(vectors, new)
            known.update(zip(new, vectors, strict=True))
            self._keep(new, vectors)
        different = np.stack([known[caption] for caption in places])
        return different[rows]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_memory": {}}

    def _check(self, vectors: Embeddings, captions: list[str]) -> None:
        name = self.encoder.card.name
        if len(vectors) != len(captions):
            raise ModelError(f"{name} gave {len(vectors)} embeddings for {len(captions)} captions")
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            raise ModelError(f"{name} gave NaN for the caption {captions[int(np.flatnonzero(bad)[0])]!r}")

    def _keep(self, new: list[str], vectors: Embeddings) -> None:
        memory = self._memory if len(self._memory) + len(new) <= self._remember else {}
        room = max(0, self._remember - len(memory))
        memory.update((caption, vector.copy()) for caption, vector in zip(new[:room], vectors, strict=False))
        self._memory = memory
