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


class BatchedEncoder:
    """An Encoder made of four steps, so that callers can prepare inputs in threads and in bounded batches.

    Subclasses set ``card`` and implement :meth:`prepare_image`, :meth:`embed_images`, :meth:`tokenize` and
    :meth:`embed_tokens`; batching, order and normalisation are done here.
    """

    card: ModelCard
    batch_size: int = 32
    """Images that a tower takes at once; of texts, which are smaller, it takes four times as many."""
    tower_threads: int = 1
    """Batches that the towers may be given at the same time, from as many threads."""

    def prepare_image(self, source: ImageInput) -> Any:
        """Decode and resize one image to the tower's input; raises InputError for a bad one."""
        raise NotImplementedError

    def embed_images(self, prepared: Sequence[Any]) -> NDArray[Any]:
        """Run the image tower on prepared images: ``[n, d]``, any norm."""
        raise NotImplementedError

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Any], NDArray[np.bool_]]:
        """Token sequences of the texts, and which of them had to be cut to the context length."""
        raise NotImplementedError

    def embed_tokens(self, tokens: Sequence[Any]) -> NDArray[Any]:
        """Run the text tower on token sequences: ``[n, d]``, any norm."""
        raise NotImplementedError

    def encode_images(self, images: Sequence[ImageInput]) -> Embeddings:
        """Embed images as unit-norm float32 ``[n, d]``; the first bad image raises InputError."""
        from cliplet.encoders.batching import embedded_images

        blocks = [self.no_rows()]
        for _, vectors, failures in embedded_images(self, images):
            if failures:
                raise next(iter(failures.values()))
            blocks.append(vectors)
        return np.concatenate(blocks)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts as unit-norm float32 ``[n, d]``."""
        return self.encode_texts_counted(texts)[0]

    def encode_texts_counted(self, texts: Sequence[str]) -> tuple[Embeddings, NDArray[np.bool_]]:
        """As :meth:`encode_texts`, with which texts were cut to the context length, bool ``[n]``."""
        from cliplet.encoders.batching import embedded_texts

        out, truncated = self.no_rows(len(texts)), np.zeros(len(texts), dtype=bool)
        for rows, vectors, cut in embedded_texts(self, texts):
            out[rows], truncated[rows] = vectors, cut
        return out, truncated

    def no_rows(self, n: int = 0) -> Embeddings:
        """An array for ``n`` embeddings, not yet filled."""
        return np.empty((n, self.card.embedding_dim), dtype=np.float32)


def unit_norm(vectors: NDArray[Any]) -> Embeddings:
    """Rows scaled to length 1 in float32; a zero row stays zero."""
    rows: Embeddings = np.asarray(vectors, dtype=np.float32)
    norms: Embeddings = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-30), dtype=np.float32)
