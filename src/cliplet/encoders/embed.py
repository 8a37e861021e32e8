"""Embeddings of many photos and texts with any Encoder, with what failed counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cliplet.data.images import ImageInput
from cliplet.encoders.base import Embeddings, Encoder, adapt
from cliplet.encoders.batching import encode_images_safely
from cliplet.errors import InputError

Progress = Callable[[int, int], None]
CHUNK = 512


@dataclass(frozen=True)
class EmbeddedPhotos:
    """Embeddings of the photos that could be read."""

    embeddings: Embeddings
    """[kept, d]."""
    kept: np.ndarray
    """[kept] which of the given photos they are."""
    failures: dict[int, str]
    """Position to reason for the others."""


def embed_photos(
    encoder: Encoder,
    photos: Sequence[ImageInput | None],
    names: Sequence[str],
    progress: Progress | None = None,
    missing: Mapping[str, str] | None = None,
) -> EmbeddedPhotos:
    """Embed photos in chunks; one that is None has its reason in ``missing``, by name, or was not found.

    Raises:
        InputError: none is left.
    """
    blocks, kept = [], []
    why = missing or {}
    failures = {i: f"{n}: {why.get(n, 'not found')}" for i, n in enumerate(names) if photos[i] is None}
    present = [i for i, photo in enumerate(photos) if photo is not None]
    for start in range(0, len(present), CHUNK):
        chunk = present[start : start + CHUNK]
        vectors, reasons = encode_images_safely(encoder, [photos[i] for i in chunk])  # type: ignore[misc]
        good = [n for n in range(len(chunk)) if n not in reasons]
        blocks.append(vectors[good])
        kept += [chunk[n] for n in good]
        failures |= {chunk[n]: reason for n, reason in reasons.items()}
        if progress is not None:
            progress(start + len(chunk), len(present))
    if not kept:
        first = next(iter(failures.values()), "there are none")
        raise InputError(f"no photo could be used: {first}")
    return EmbeddedPhotos(np.concatenate(blocks), np.array(kept, dtype=np.int64), failures)


def embed_texts(
    encoder: Encoder, texts: Sequence[str], prefix: str = "", progress: Progress | None = None
) -> Embeddings:
    """Embed texts [n, d]; equal texts are encoded once. Raises InputError where the model gives NaN."""
    encoder = adapt(encoder)
    distinct = list(dict.fromkeys(texts))
    step = 8 * CHUNK
    blocks = []
    for start in range(0, len(distinct), step):
        blocks.append(encoder.encode_texts([prefix + t for t in distinct[start : start + step]]))
        if progress is not None:
            progress(min(start + step, len(distinct)), len(distinct))
    vectors = (
        np.concatenate(blocks) if blocks else np.empty((0, encoder.card.embedding_dim), dtype=np.float32)
    )
    place = {t: i for i, t in enumerate(distinct)}
    return vectors[[place[t] for t in texts]]
