"""Scoring: images, captions and optional references in; one number a caption out."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import ImageInput, StoredPhoto
from cliplet.data.text import caption_problem
from cliplet.encoders.base import Embeddings, Encoder, adapt
from cliplet.encoders.batching import encode_images_safely, encode_texts_counted
from cliplet.encoders.card import ModelCard
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.metrics.clipscore import Preset, find_preset, pair_cosines, ref_clip_score, ref_mix_score
from cliplet.versions import versions

CHUNK = 1024
"""Rows scored together; memory does not grow with the number of rows beyond their scores."""
REMEMBERED = 16_384
"""Embeddings of images, and of texts, remembered between chunks so that repeats are encoded once."""

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ScoreResult:
    """Scores of n captions; a row that could not be scored is NaN and its reason stands in ``failures``."""

    score: Floats
    """The preset's score, float32 ``[n]``."""
    cosine: Floats
    """Cosine of caption and image, float32 ``[n]``, -1 to 1."""
    failures: list[str | None]
    """Why a row has no score; None where it has one."""
    truncated: NDArray[np.bool_]
    """Whether the caption was longer than the model's context, bool ``[n]``."""
    preset: Preset
    """How ``score`` was made from ``cosine``."""
    card: ModelCard
    """The model's card."""
    reference_cosine: Floats | None = None
    """Largest cosine of caption and any reference, float32 ``[n]``; NaN without references."""
    ref_clip_score: Floats | None = None
    """RefCLIPScore, float32 ``[n]``."""
    ref_mix_score: Floats | None = None
    """RefMixScore, float32 ``[n]``."""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Model, fingerprint, preset, w, prefix, preprocessing, precision, versions, and counts of rows."""
        card = self.card
        facts: dict[str, Any] = {
            "model": card.name,
            "fingerprint": card.fingerprint,
            "preset": self.preset.name,
            "score": self.preset.column,
            "w": card.score.w if self.preset.factor is None else self.preset.factor,
            "prompt_prefix": card.text.prompt_prefix if self.preset.with_prefix else "",
            "preprocessing": {
                "image": f"{card.image.resize} {card.image.size} {card.image.interpolation}",
                "context_length": card.text.context_length,
            },
            "precision": card.precision,
            "versions": versions(),
            "rows": len(self.failures),
            "failed": sum(f is not None for f in self.failures),
            "truncated": int(self.truncated.sum()),
        }
        if self.reference_cosine is not None:
            scored = np.array([f is None for f in self.failures], dtype=bool)
            facts["reference_weight"] = card.score.reference_weight
            facts["without_references"] = int((scored & np.isnan(self.reference_cosine)).sum())
        return facts

    @property
    def mean(self) -> float:
        """The corpus score over rows that could be scored."""
        return self.preset.corpus(self.score)

    def columns(self) -> dict[str, Floats]:
        """Every score by its name in outputs."""
        named: dict[str, Floats] = {self.preset.column: self.score, "cosine": self.cosine}
        if (
            self.reference_cosine is not None
            and self.ref_clip_score is not None
            and self.ref_mix_score is not None
        ):
            named |= {
                "RefCLIPScore": self.ref_clip_score,
                "RefMixScore": self.ref_mix_score,
                "reference cosine": self.reference_cosine,
            }
        return named


class Scorer:
    """Scores captions with one model and one preset.

    Args:
        model: an Encoder, or what :func:`cliplet.load` takes; default the packaged model.
        preset: ``paper`` (CLIPScore), ``torchmetrics`` (100 * cos) or ``cosine``.
        cache: True for the user's cache folder, or a folder; embeddings are then kept on disk.

    Example:
        >>> from cliplet import Scorer
        >>> result = Scorer().score(["dog.jpg", "missing.jpg"], ["a dog on the beach", "a cat"])  # doctest: +SKIP
        >>> result.score, result.failures  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Encoder | str | Path | None = None,
        preset: str = "paper",
        cache: bool | str | Path | None = None,
    ) -> None:
        self.preset = find_preset(preset)
        self.encoder = adapt(load(model) if model is None or isinstance(model, (str, Path)) else model)
        self.encoder.preload()
        if cache:
            from cliplet.encoders.cache import CachedEncoder, EmbeddingCache

            self.encoder = CachedEncoder(self.encoder, EmbeddingCache(None if cache is True else cache))

    def score(
        self,
        images: ImageInput | Sequence[ImageInput],
        captions: str | Sequence[str],
        references: Sequence[Sequence[str] | None] | None = None,
        progress: Progress | None = None,
    ) -> ScoreResult:
        """Score captions against images, row by row.

        Args:
            images: n images (paths, PIL images, arrays, encoded bytes), or one image for all captions.
            captions: n captions, or one.
            references: for each row its reference captions (None or empty: it has none).
            progress: called with (rows done, rows in all) now and then.

        Returns:
            A ScoreResult of n rows, in order. Bad rows are NaN with their reason; nothing is raised for them.

        Raises:
            InputError: the lengths do not match.
        """
        captions = [captions] if isinstance(captions, str) else captions
        if _is_one_image(images):
            images = [cast(ImageInput, images)] * len(captions)
        images = cast(Sequence[ImageInput], images)
        _check_lengths(images, captions, references)
        n, with_references = len(captions), references is not None
        cosine = np.full(n, np.nan, dtype=np.float32)
        best = np.full(n, np.nan, dtype=np.float32)
        truncated = np.zeros(n, dtype=bool)
        failures: list[str | None] = [caption_problem(c) for c in captions]
        image_memory, text_memory = _Memory(), _Memory()
        for start in range(0, n, CHUNK):
            rows = [i for i in range(start, min(start + CHUNK, n)) if failures[i] is None]
            photos = self._images([images[i] for i in rows], image_memory)
            for i, photo in zip(rows, photos, strict=True):
                failures[i] = photo if isinstance(photo, str) else None
            rows, photos = _drop_failed(rows, photos)
            if rows:
                texts = self._texts([captions[i] for i in rows], text_memory)
                vectors = np.stack([t.vector for t in texts])  # [rows, d]
                cosine[rows] = pair_cosines(np.stack(photos), vectors)
                truncated[rows] = [t.truncated for t in texts]
                if references is not None:
                    best[rows] = self._best_reference(vectors, [references[i] for i in rows], text_memory)
            if progress is not None:
                progress(min(start + CHUNK, n), n)
        return self._result(cosine, best if with_references else None, truncated, failures)

    def _images(self, images: list[ImageInput], memory: "_Memory") -> list[Any]:
        """Each image's unit vector, or the reason why it has none; repeats are encoded once."""
        keys = [_image_identity(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in memory}
        if new:
            vectors, reasons = encode_images_safely(self.encoder, list(new.values()))
            memory.update((key, reasons.get(i, vectors[i])) for i, key in enumerate(new))
        return memory.take(keys)

    def _texts(self, texts: Iterable[str], memory: "_Memory") -> list["_Text"]:
        prefix = self.encoder.card.text.prompt_prefix if self.preset.with_prefix else ""
        keys = [prefix + text for text in texts]
        new = list(dict.fromkeys(key for key in keys if key not in memory))
        if new:
            vectors, truncated = encode_texts_counted(self.encoder, new)
            memory.update((key, _Text(vectors[i], bool(truncated[i]))) for i, key in enumerate(new))
        return memory.take(keys)

    def _best_reference(
        self, captions: Embeddings, references: list[Sequence[str] | None], memory: "_Memory"
    ) -> Floats:
        usable = [[r for r in (refs or ()) if caption_problem(r) is None] for refs in references]
        texts = iter(self._texts([r for refs in usable for r in refs], memory))
        best = np.full(len(usable), np.nan, dtype=np.float32)
        for row, refs in enumerate(usable):
            vectors = [next(texts).vector for _ in refs]
            if vectors:
                best[row] = (np.stack(vectors) @ captions[row]).max()
        return best

    def _result(
        self,
        cosine: Floats,
        best: Floats | None,
        truncated: NDArray[np.bool_],
        failures: list[str | None],
    ) -> ScoreResult:
        spec = self.encoder.card.score
        with_references = {
            "reference_cosine": best,
            "ref_clip_score": ref_clip_score(cosine, best, spec.w),
            "ref_mix_score": ref_mix_score(cosine, best, spec.reference_weight, spec.w),
        } if best is not None else {}  # fmt: skip
        return ScoreResult(
            score=self.preset.apply(cosine, spec.w),
            cosine=cosine,
            failures=failures,
            truncated=truncated,
            preset=self.preset,
            card=self.encoder.card,
            **with_references,
        )


def score(
    image: ImageInput,
    caption: str,
    model: str | Path | None = None,
    preset: str = "paper",
) -> float:
    """Score one caption against one image.

    Args:
        image: a path, a PIL image, an array or encoded bytes.
        caption: the caption.
        model: what :func:`cliplet.load` takes; default the packaged model.
        preset: ``paper``, ``torchmetrics`` or ``cosine``.

    Returns:
        The preset's score; 0 to the model's w for ``paper``.

    Raises:
        InputError: the image or the caption cannot be used.

    Example:
        >>> import cliplet
        >>> cliplet.score("dog.jpg", "a dog on the beach")  # doctest: +SKIP
    """
    result = _scorer(None if model is None else str(model), preset).score([image], [caption])
    if result.failures[0] is not None:
        raise InputError(result.failures[0])
    return float(result.score[0])


@lru_cache(maxsize=4)
def _scorer(model: str | None, preset: str) -> Scorer:
    return Scorer(model, preset)


@dataclass(frozen=True)
class _Text:
    vector: Embeddings
    truncated: bool


class _Memory(OrderedDict[Hashable, Any]):
    """The embeddings used last, at most REMEMBERED beyond the chunk in hand."""

    def take(self, keys: list[Any]) -> list[Any]:
        values = [self[key] for key in keys]
        while len(self) > REMEMBERED:
            self.popitem(last=False)
        return values


def _drop_failed(rows: list[int], photos: list[Any]) -> tuple[list[int], list[Any]]:
    kept = [(i, photo) for i, photo in zip(rows, photos, strict=True) if not isinstance(photo, str)]
    return [i for i, _ in kept], [photo for _, photo in kept]


def _is_one_image(images: object) -> bool:
    return isinstance(
        images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, StoredPhoto)
    ) and not (isinstance(images, np.ndarray) and images.ndim == 4)


def _image_identity(image: ImageInput) -> Hashable:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    if isinstance(image, bytes):
        return image
    return id(image)


def _check_lengths(images: Sequence[Any], captions: Sequence[Any], references: Sequence[Any] | None) -> None:
    if len(images) != len(captions):
        raise InputError(
            f"{len(images)} images but {len(captions)} captions: give one image for each caption"
        )
    if references is not None and len(references) != len(captions):
        raise InputError(
            f"{len(references)} lists of references but {len(captions)} captions: give one list for each caption"
        )
    if references is not None and any(isinstance(r, str) for r in references):
        raise InputError("each row's references must be a list of strings, not one string")
