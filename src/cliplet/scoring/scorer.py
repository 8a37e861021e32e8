"""Scoring: images, captions and optional references in; one number a caption out."""

import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput, noted
from cliplet.data.text import caption_problem, shown
from cliplet.encoders.base import Embeddings, Encoder
from cliplet.encoders.batching import encode_images_safely, encode_texts_counted
from cliplet.encoders.card import MatchSpec
from cliplet.encoders.registry import load, placed
from cliplet.errors import InputError
from cliplet.metrics.clipscore import (
    Preset,
    a_clip_score,
    find_preset,
    pair_cosines,
    ref_a_clip_score,
    ref_clip_score,
    ref_mix_score,
)
from cliplet.scoring.inputs import Photos, check_labels, read_rows, row_count, text_pairs
from cliplet.scoring.match import load_match, matches, without_content
from cliplet.scoring.result import Floats, ScoreResult
from cliplet.scoring.totals import Totals, of_all_processes

CHUNK = 1024
"""Rows scored together; memory does not grow with the number of rows beyond their scores."""
REMEMBERED = 16_384
"""Embeddings of images, and of texts, remembered between chunks so that repeats are encoded once."""
NAN = "the model gave NaN for this caption"
"""Why a row has no score although its caption is good; its image's reason comes from the encoder."""

Progress = Callable[[int, int], None]


class Scorer:
    """Scores captions with one model and one preset.

    Args:
        model: an Encoder, or what :func:`cliplet.load` takes; default the packaged model.
        preset: ``paper`` (CLIPScore), ``torchmetrics`` (100 * cos) or ``cosine``.
        cache: True for the user's cache folder, or a folder; embeddings are then kept on disk.
        match: how a cosine becomes a match, or the file of ``cliplet calibrate --out``; default what the card has.
        device: where the model computes, as :func:`cliplet.load` takes it; an Encoder is moved there.
        precision: in which precision, likewise; an Encoder is set to it.

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
        match: MatchSpec | str | Path | None = None,
        device: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.preset = find_preset(preset)
        if model is None or isinstance(model, (str, Path)):
            self.encoder = load(model, device, precision)
        else:
            self.encoder = placed(model, device, precision)
        self.encoder.preload()
        card = self.encoder.card
        self.match = load_match(match, card) if isinstance(match, (str, Path)) else match or card.match
        if cache:
            from cliplet.encoders.cache import CachedEncoder, EmbeddingCache

            self.encoder = CachedEncoder(self.encoder, EmbeddingCache(None if cache is True else cache))
        self.reset()

    def score(
        self,
        images: ImageInput | Iterable[ImageInput],
        captions: str | Iterable[str],
        references: str | Iterable[str | Iterable[str] | None] | None = None,
        progress: Progress | None = None,
        embeddings: bool = False,
    ) -> ScoreResult:
        """Score captions against images, row by row.

        Lists, NumPy and PyTorch arrays, Series, columns and generators are read by position, in order and once.

        Args:
            images: n images (paths, PIL images, arrays, tensors, encoded bytes, ...), or one for all captions.
            captions: n captions, or one for all images.
            references: for each row its reference captions (None or empty: it has none; a string: one). For one caption
                a flat list of strings is its references.
            progress: called with (rows done, rows in all) now and then.
            embeddings: keep those of images and captions in the result, one a row.

        Returns:
            A ScoreResult of n rows, in order. Bad rows are NaN with their reason; nothing is raised for them, not even
            where all fail alike.

        Raises:
            InputError: the lengths do not match, a container has no order, or its rows may belong together in two ways.
            ModelError: the model gives another number of embeddings than it was asked for.
        """
        given = read_rows(images, captions, references)
        n, notes = len(given.captions), given.notes
        cosine, best = np.full(n, np.nan, dtype=np.float32), np.full(n, np.nan, dtype=np.float32)
        truncated = np.zeros(n, dtype=bool)
        failures: list[str | None] = [caption_problem(c) for c in given.captions]
        image_memory, text_memory = _Memory(), _Memory()
        kept = None
        if embeddings:
            kept = np.full((2, n, self.encoder.card.embedding_dim), np.nan, np.float32)  # images, captions
        for start in range(0, n, CHUNK):
            chunk = range(start, min(start + CHUNK, n))
            photos = self._photos(given.images, chunk, failures, image_memory)
            rows = list(photos)
            if rows:
                vectors, cut = self._texts([given.captions[i] for i in rows], text_memory)  # [rows, d]
                if kept is not None:
                    kept[0, rows], kept[1, rows] = np.stack(list(photos.values())), vectors
                cosine[rows], truncated[rows] = pair_cosines(np.stack(list(photos.values())), vectors), cut
                _fail_nan(rows, vectors, failures, cosine)
                if given.references is not None:
                    groups = [given.references[i] for i in rows]
                    best[rows] = self._best_reference(vectors, groups, text_memory)
            if progress is not None:
                progress(chunk.stop, n)
        given.images.finish()
        if text_memory.bad_references:
            notes.append(
                f"the model gave NaN for {text_memory.bad_references} references, which were left out"
            )
        notes += image_memory.heard()
        with_references = best if given.references is not None else None
        result = self._result(cosine, with_references, truncated, failures, notes)
        if kept is not None:
            result = replace(result, image_embeddings=kept[0], text_embeddings=kept[1])
        return self._with_match(result, given.captions)

    def text_similarity(self, first: str | Iterable[str], second: str | Iterable[str]) -> ScoreResult:
        """Cosines of pairs of texts, with the model's prompt prefix where the preset has it.

        Args:
            first: n texts, or one.
            second: n texts, or one for all.

        Returns:
            A ScoreResult whose ``score`` and ``cosine`` are the cosines, -1 to 1, float32 ``[n]``. For a caption and a
            reference it is the ``reference_cosine`` of :meth:`score`.

        Raises:
            InputError: the lengths do not match.
        """
        notes = check_labels({"the first texts": first, "the second texts": second})
        a, b = text_pairs(first, second)
        cosine: Floats = np.full(len(a), np.nan, dtype=np.float32)
        truncated = np.zeros(len(a), dtype=bool)
        failures = [caption_problem(x) or caption_problem(y) for x, y in zip(a, b, strict=True)]
        memory = _Memory()
        for start in range(0, len(a), CHUNK):
            rows = [i for i in range(start, min(start + CHUNK, len(a))) if failures[i] is None]
            if rows:
                (x, cut), (y, also_cut) = (self._texts([t[i] for i in rows], memory) for t in (a, b))
                cosine[rows], truncated[rows] = pair_cosines(x, y), cut | also_cut
                _fail_nan(rows, x + y, failures, cosine)
        return self._result(cosine, None, truncated, failures, notes, self._cosine_preset())

    def image_similarity(
        self, first: ImageInput | Iterable[ImageInput], second: ImageInput | Iterable[ImageInput]
    ) -> ScoreResult:
        """Cosines of pairs of images.

        Args:
            first: n images of any kind that :meth:`score` takes, or one.
            second: n images, or one for all.

        Returns:
            A ScoreResult whose ``score`` and ``cosine`` are the cosines, -1 to 1, float32 ``[n]``.

        Raises:
            InputError: the lengths do not match.
        """
        notes = check_labels({"the first images": first, "the second images": second})
        n = row_count(first, second)
        a, b = Photos(first, n, "others"), Photos(second, n, "others")
        cosine, memory = np.full(n, np.nan, dtype=np.float32), _Memory()
        failures: list[str | None] = [None] * n
        for start in range(0, n, CHUNK):
            chunk = range(start, min(start + CHUNK, n))
            x, y = (self._photos(images, chunk, failures, memory) for images in (a, b))
            rows = [i for i in x if i in y]
            if rows:
                cosine[rows] = pair_cosines(np.stack([x[i] for i in rows]), np.stack([y[i] for i in rows]))
        a.finish()
        b.finish()
        notes += memory.heard()
        return self._result(cosine, None, np.zeros(n, dtype=bool), failures, notes, self._cosine_preset())

    def update(
        self,
        images: ImageInput | Iterable[ImageInput],
        captions: str | Iterable[str],
        references: str | Iterable[str | Iterable[str] | None] | None = None,
    ) -> ScoreResult:
        """Score a batch as :meth:`score` does and add it to the running totals that :meth:`compute` reads."""
        result = self.score(images, captions, references)
        self._totals.add(result)
        return result

    def compute(self) -> dict[str, float]:
        """The mean of each score over all rows added since the last :meth:`reset`, with ``rows`` and ``failed``.

        Where torch.distributed is initialised, the totals of all processes are summed (each must call this) and every
        process gets the same values. Rows that a distributed sampler repeats to even out the processes count twice.
        """
        return Totals.together(of_all_processes(self._totals)).means(self.preset)

    def reset(self) -> None:
        """Forget the running totals."""
        self._totals = Totals()

    def _photos(
        self, images: Photos, rows: range, failures: list[str | None], memory: "_Memory"
    ) -> dict[int, Embeddings]:
        """Unit vectors by row, in order; why a row has none goes into ``failures``. Repeats are encoded once."""
        found: dict[int, Embeddings] = {}
        for block, items, keys in images.blocks(rows, failures):
            new = {key: item for key, item in zip(keys, items, strict=True) if key not in memory}
            unread = {key: str(item) for key, item in new.items() if isinstance(item, InputError)}
            memory.update(unread)
            new = {key: item for key, item in new.items() if key not in unread}
            if new:
                with noted(new.values()) as heard:
                    vectors, reasons = encode_images_safely(self.encoder, list(new.values()))
                memory.notes.update(note for note in heard.values() if note)
                memory.update((key, reasons.get(i, vectors[i])) for i, key in enumerate(new))
            for i, vector in zip(block, memory.take(keys), strict=True):
                if isinstance(vector, str):
                    failures[i] = vector
                else:
                    found[i] = vector
            del items, new  # before the next block is drawn
        return found

    def _texts(self, texts: Iterable[str], memory: "_Memory") -> tuple[Embeddings, NDArray[np.bool_]]:
        """Unit vectors ``[n, d]`` and which texts were cut; repeats are encoded once."""
        prefix = self.encoder.card.text.prompt_prefix if self.preset.with_prefix else ""
        keys = [prefix + text for text in texts]
        new = list(dict.fromkeys(key for key in keys if key not in memory))
        if new:
            vectors, truncated = encode_texts_counted(self.encoder, new)
            memory.update((key, (vectors[i], bool(truncated[i]))) for i, key in enumerate(new))
        found = memory.take(keys)
        return np.stack([vector for vector, _ in found]), np.array([cut for _, cut in found], dtype=bool)

    def _best_reference(self, captions: Embeddings, groups: list[list[str]], memory: "_Memory") -> Floats:
        best = np.full(len(groups), np.nan, dtype=np.float32)
        texts = [r for refs in groups for r in refs]
        if not texts:
            return best
        vectors, _ = self._texts(texts, memory)
        good = _finite(vectors)
        memory.bad_references += int((~good).sum())
        start = 0
        for row, refs in enumerate(groups):
            own = vectors[start : start + len(refs)][good[start : start + len(refs)]]
            if len(own):
                best[row] = (own @ captions[row]).max()
            start += len(refs)
        return best

    def _with_match(self, result: ScoreResult, captions: Sequence[object]) -> ScoreResult:
        """The result with the calibrated match, where the model has one for texts as the preset gives them."""
        if not self.match or (result.card.text.prompt_prefix and not result.preset.with_prefix):
            return result
        match, empty = matches(self.match, result.cosine), without_content(captions, result.failures)
        match[list(empty)] = 0
        notes = result.notes
        if empty:
            i, why = next(iter(empty.items()))
            n = f"{len(empty)} captions say" if len(empty) > 1 else "1 caption says"
            notes = [*notes, f"{n} nothing about any photo, so match is 0: {shown(captions[i])}: {why}"]
        return replace(result, match=match, without_content=empty, notes=notes)

    def _cosine_preset(self) -> Preset:
        return replace(find_preset("cosine"), with_prefix=self.preset.with_prefix)

    def _result(
        self,
        cosine: Floats,
        best: Floats | None,
        truncated: NDArray[np.bool_],
        failures: list[str | None],
        notes: list[str],
        preset: Preset | None = None,
    ) -> ScoreResult:
        spec = self.encoder.card.score
        aligned: dict[str, Any] = {}
        if preset is None and self.encoder.card.alignment:  # not for similarities of two texts or two images
            aligned = {"a_clip_score": a_clip_score(cosine)}
            if best is not None:
                aligned["ref_a_clip_score"] = ref_a_clip_score(cosine, best)
        preset = preset or self.preset
        with_references: dict[str, Any] = {
            "reference_cosine": best,
            "ref_clip_score": ref_clip_score(cosine, best, spec.w),
            "ref_mix_score": ref_mix_score(cosine, best, spec.reference_weight, spec.w),
        } if best is not None else {}  # fmt: skip
        return ScoreResult(
            score=preset.apply(cosine, spec.w),
            cosine=cosine,
            failures=failures,
            truncated=truncated,
            preset=preset,
            card=self.encoder.card,
            device=self.encoder.device,
            provider=self.encoder.provider,
            notes=notes,
            **with_references,
            **aligned,
        )


def score(
    image: ImageInput,
    caption: str,
    model: Encoder | str | Path | None = None,
    preset: str = "paper",
) -> float:
    """Score one caption against one image.

    Args:
        image: a path, a PIL image, an array, a tensor or encoded bytes.
        caption: the caption.
        model: an Encoder, or what :func:`cliplet.load` takes; default the packaged model.
        preset: ``paper``, ``torchmetrics`` or ``cosine``.

    Returns:
        The preset's score; 0 to the model's w for ``paper``.

    Raises:
        InputError: the image or the caption cannot be used.

    Example:
        >>> import cliplet
        >>> cliplet.score("dog.jpg", "a dog on the beach")  # doctest: +SKIP
    """
    if model is None or isinstance(model, (str, Path)):
        scorer = _scorer(None if model is None else str(model), preset, os.getpid())
    else:
        scorer = Scorer(model, preset)
    result = scorer.score([image], [caption])
    if result.failures[0] is not None:
        raise InputError(result.failures[0])
    return float(result.score[0])


@lru_cache(maxsize=4)
def _scorer(model: str | None, preset: str, process: int) -> Scorer:
    """One a process: a forked child must not wait for threads that only its parent has."""
    return Scorer(model, preset)


class _Memory(OrderedDict[Hashable, Any]):
    """The embeddings used last, at most REMEMBERED beyond those in hand, and what was noticed on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: Counter[str] = Counter()
        self.bad_references = 0

    def heard(self) -> list[str]:
        """What decoding said, with how many photos it was said of."""
        return [f"{n} photo{'s' if n > 1 else ''}: {note}" for note, n in self.notes.items()]

    def take(self, keys: list[Any]) -> list[Any]:
        values = [self[key] for key in keys]
        while len(self) > REMEMBERED:
            self.popitem(last=False)
        return values


def _finite(vectors: Embeddings) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(vectors).all(axis=1))


def _fail_nan(rows: list[int], texts: Embeddings, failures: list[str | None], cosine: Floats) -> None:
    """Rows whose text has no finite embedding fail."""
    for i, good in zip(rows, _finite(texts), strict=True):
        if not good:
            failures[i], cosine[i] = NAN, np.nan
