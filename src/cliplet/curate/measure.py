"""What curation wants to know of each pair: scores, hashes of the photo, its embedding, facts of the caption.

A pure function of photos and captions; parts, resume and engines are :mod:`cliplet.stream`'s.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from numpy.typing import NDArray
from PIL import Image

from cliplet.curate.captions import caption_facts, caption_key
from cliplet.data.duplicates import difference_hash
from cliplet.data.images import ImageInput, open_image, read_file, to_rgb
from cliplet.data.records import CaptionEntry
from cliplet.encoders.base import BaseEncoder
from cliplet.encoders.batching import decoding_threads, encode_texts_counted
from cliplet.errors import InputError
from cliplet.metrics.clipscore import pair_cosines
from cliplet.scoring.match import matches
from cliplet.scoring.scorer import NAN, Scorer

CHUNK = 256
"""Pairs measured together: so many photos are in memory at once."""

SCHEMA = pyarrow.schema(
    [
        ("source", pyarrow.string()),
        ("where", pyarrow.string()),
        ("image", pyarrow.string()),
        ("caption", pyarrow.string()),
        ("extra", pyarrow.string()),
        ("reason", pyarrow.string()),
        ("score", pyarrow.float32()),
        ("cosine", pyarrow.float32()),
        ("match", pyarrow.float32()),
        ("truncated", pyarrow.bool_()),
        ("bytes", pyarrow.int64()),
        ("width", pyarrow.int32()),
        ("height", pyarrow.int32()),
        ("photo", pyarrow.binary(16)),
        ("content", pyarrow.binary(16)),
        ("pixels", pyarrow.binary(16)),
        ("look", pyarrow.binary()),
        ("embedding", pyarrow.binary()),
        ("caption_key", pyarrow.binary(16)),
        ("words", pyarrow.int32()),
        ("name", pyarrow.string()),
        ("empty", pyarrow.string()),
    ]
)
"""A measured pair: its place; why it could not be scored; scores; the photo's identity, size and hashes (of its bytes,
of its pixels as decoded, its looks); its embedding as float16 bytes, at the photo's first pair in a part; the caption's
key, number of words, and why it is a name or says nothing."""


class Pair(NamedTuple):
    """A caption and its photo, as they were read."""

    source: str
    """The file that it comes from, as outputs call it."""
    entry: CaptionEntry
    """The caption."""
    photo: ImageInput | None
    """None where it was not found."""
    photo_name: str
    """Which photo it is: rows of one name share a photo, they do not repeat it."""
    reason: str | None
    """Why it cannot be scored, as far as is known without its photo."""


@dataclass(frozen=True)
class Look:
    """A photo as it was read."""

    image: Image.Image | None = None
    """Decoded."""
    reason: str | None = None
    """Why it could not be."""
    facts: dict[str, Any] | None = None
    """Bytes, width, height and hashes, as far as it was read."""


def look_at(photo: ImageInput, at_least: int | None) -> Look:
    """Read and decode a photo once, for its hashes and for the model; ``at_least`` as :func:`open_image` takes it."""
    facts: dict[str, Any] = {}
    try:
        content = _content(photo)
        facts |= {"bytes": len(content), "content": _hash(content)}
        image = open_image(content, at_least)
        with Image.open(io.BytesIO(content)) as header:
            facts["width"], facts["height"] = header.size
        facts["pixels"] = _hash(f"{image.mode} {image.size} ".encode() + image.tobytes())
        facts["look"] = difference_hash(to_rgb(image)) or None
    except InputError as error:
        return Look(None, _named(str(error), photo), facts)
    return Look(image, None, facts)


def _content(photo: ImageInput) -> bytes:
    if isinstance(photo, bytes):
        return photo
    try:
        return read_file(photo) if not hasattr(photo, "read_bytes") else photo.read_bytes()  # type: ignore[arg-type]
    except OSError as error:
        raise InputError(f"{photo} cannot be read: {error.strerror or error}") from None


def _named(reason: str, photo: ImageInput) -> str:
    """A reason with the photo's name where decoding knew only its number of bytes."""
    return reason if isinstance(photo, bytes) or not reason.startswith("image of") else f"{photo}: {reason}"


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


class Measurer:
    """Measures pairs with one scorer."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        encoder: BaseEncoder = scorer.encoder
        self.encoder = encoder
        # model folders take large JPEGs decoded at a fraction of their size, never below twice the input
        self.at_least = 2 * encoder.card.image.size if encoder.folder is not None else None

    def tables(self, pairs: Sequence[Pair], seen: set[bytes]) -> Iterator[pyarrow.Table]:
        """The pairs of one part, measured, :data:`CHUNK` at a time; what is wrong with one stays in its row.

        ``seen``: the photos of the part whose embedding was written; those of these pairs are added.
        """
        with ThreadPoolExecutor(decoding_threads()) as pool:
            for start in range(0, len(pairs), CHUNK):
                batch = self._chunk(pairs[start : start + CHUNK], seen, pool)
                yield pyarrow.Table.from_batches([batch], SCHEMA)

    def _chunk(
        self, pairs: Sequence[Pair], seen: set[bytes], pool: ThreadPoolExecutor
    ) -> pyarrow.RecordBatch:
        keys = [_hash(pair.photo_name.encode("utf-8", "surrogatepass")) for pair in pairs]
        photos = [pair.photo for pair in pairs]
        distinct = {key: photo for key, photo in zip(keys, photos, strict=True) if photo is not None}
        looks = dict(
            zip(distinct, pool.map(lambda p: look_at(p, self.at_least), distinct.values()), strict=True)
        )
        vectors, reasons = self._photo_vectors(looks)
        cosine, truncated, nan = self._cosines(pairs, keys, vectors)
        preset, card = self.scorer.preset, self.encoder.card
        known = self.scorer.match and not (card.text.prompt_prefix and not preset.with_prefix)
        match = matches(self.scorer.match, cosine) if known else np.full(len(pairs), np.nan, np.float32)
        rows = []
        for i, (pair, key) in enumerate(zip(pairs, keys, strict=True)):
            row: dict[str, Any] = {"photo": key, **(looks[key].facts or {} if key in looks else {})}
            row["reason"] = pair.reason or reasons.get(key) or (NAN if i in nan else None)
            row |= _caption_columns(pair)
            if key in vectors and key not in seen:
                seen.add(key)
                row["embedding"] = vectors[key].astype(np.float16).tobytes()
            if row["reason"] is None:
                row |= {"cosine": cosine[i], "truncated": bool(truncated[i])}
                if known:
                    row["match"] = 0.0 if row["empty"] else match[i]
            rows.append(row)
        scores = preset.apply(cosine, card.score.w)
        for row, score in zip(rows, scores, strict=True):
            if row["reason"] is None:
                row["score"] = score
        return pyarrow.RecordBatch.from_pylist([_plain(row) for row in rows], SCHEMA)

    def _photo_vectors(
        self, looks: dict[bytes, Look]
    ) -> tuple[dict[bytes, NDArray[np.float32]], dict[bytes, str]]:
        """Embeddings by photo, and why others have none."""
        reasons = {key: look.reason for key, look in looks.items() if look.reason is not None}
        good = {key: look.image for key, look in looks.items() if look.image is not None}
        if not good:
            return {}, reasons
        vectors, wrong = self.encoder.encode_images_safely(list(good.values()))
        reasons |= {key: wrong[i] for i, key in enumerate(good) if i in wrong}
        return {key: vectors[i] for i, key in enumerate(good) if i not in wrong}, reasons

    def _cosines(
        self, pairs: Sequence[Pair], keys: Sequence[bytes], vectors: dict[bytes, NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], set[int]]:
        """Cosine of each pair (NaN without one), which captions were cut, and for which the model gave NaN."""
        cosine, truncated = np.full(len(pairs), np.nan, np.float32), np.zeros(len(pairs), dtype=bool)
        rows = [i for i, pair in enumerate(pairs) if pair.reason is None and keys[i] in vectors]
        if not rows:
            return cosine, truncated, set()
        prefix = self.encoder.card.text.prompt_prefix if self.scorer.preset.with_prefix else ""
        texts, cut = encode_texts_counted(self.encoder, [f"{prefix}{pairs[i].entry.caption}" for i in rows])
        cosine[rows] = pair_cosines(np.stack([vectors[keys[i]] for i in rows]), texts)
        truncated[rows] = cut
        return cosine, truncated, {i for i in rows if np.isnan(cosine[i])}


def _caption_columns(pair: Pair) -> dict[str, Any]:
    entry = pair.entry
    found: dict[str, Any] = {
        "source": pair.source,
        "where": entry.where,
        "image": str(entry.image),
        "extra": json.dumps(dict(entry.extra)) if entry.extra else None,
        "empty": None,
    }
    if isinstance(entry.caption, str):
        found["caption"] = entry.caption
    if entry.problem is None:
        words, name, empty, _ = caption_facts(entry.caption, None)
        found |= {"words": words, "name": name, "empty": empty, "caption_key": caption_key(entry.caption)}
    return found


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what Arrow can hold: broken characters as their code, numbers as Python's."""
    for name, value in row.items():
        if isinstance(value, str) and not value.isascii():
            row[name] = value.encode("utf-8", "backslashreplace").decode()
        elif isinstance(value, np.generic):
            row[name] = value.item()
    return row
