"""The one idea that holds cliplet together: an Encoder turns images and texts into comparable unit vectors."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.encoders.card import ModelCard

Embeddings = NDArray[np.float32]


@runtime_checkable
class Encoder(Protocol):
    """Anything that embeds images and texts in one space; all of cliplet sees nothing but this."""

    card: ModelCard

    def encode_images(self, images: Sequence[ImageInput]) -> Embeddings:
        """Embed images (paths, PIL images, arrays or encoded bytes) as unit-norm float32 ``[n, d]``."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts as unit-norm float32 ``[n, d]``."""
        ...


def unit_norm(vectors: NDArray[Any]) -> Embeddings:
    """Rows scaled to length 1 in float32; a zero row stays zero."""
    rows: Embeddings = np.asarray(vectors, dtype=np.float32)
    norms: Embeddings = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-30), dtype=np.float32)
