"""Bounded batches for encoders: photos decoded in threads beside the model, texts grouped by length."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.encoders.base import BaseEncoder, Embeddings, Encoder, adapt
from cliplet.errors import DeviceMemoryError, InputError

T = TypeVar("T")
R = TypeVar("R")
_ImageBatch = tuple[list[int], list[Any], dict[int, InputError]]
_TextBatch = tuple[NDArray[np.int64], list[Any], NDArray[np.bool_]]

TEXTS_PER_IMAGE = 2
"""How many texts a batch holds for each image that it would: 16 captions' states stay in a core's own cache."""
AHEAD = 256
"""Images decoded beyond the batch in hand, at most."""
_SHARES = 4
"""Batches of images for each thread at least, so that the threads end together."""
TEXT_BLOCK = 4096
"""Texts tokenised together and sorted by length, so that a batch holds captions of like length."""

_limit = 0


class BatchedEncoder(BaseEncoder):
    """An Encoder made of four steps, so that callers can prepare inputs in threads and in bounded batches.

    Subclasses set ``card`` and implement :meth:`prepare_image`, :meth:`embed_images`, :meth:`tokenize` and
    :meth:`embed_tokens`; batching, order and normalisation are done here.
    """

    batch_size: int = 32
    """Images that a tower takes at once; of texts, which are smaller, it takes twice as many. Where the memory does
    not suffice for that, batches are halved until they fit."""

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

    def size_batches(self) -> None:
        """Set ``batch_size`` by the memory of the device, where it can be told; by default nothing."""

    def encode_images(self, images: Sequence[ImageInput]) -> Embeddings:
        """Embed images as unit-norm float32 ``[n, d]``; the first bad image raises InputError."""
        blocks = [self.no_rows()]
        for _, vectors, reasons in embedded_images(self, images, True):
            if reasons:
                raise InputError(reasons[min(reasons)])
            blocks.append(vectors)
        return np.concatenate(blocks)

    def encode_images_safely(
        self, images: Sequence[ImageInput], normalise: bool = True
    ) -> tuple[Embeddings, dict[int, str]]:
        """``[n, d]`` with NaN rows for bad images, and their reasons by position."""
        out, reasons = self.no_rows(len(images)), {}
        for positions, vectors, wrong in embedded_images(self, images, normalise):
            out[positions] = vectors
            reasons.update(wrong)
        return out, reasons

    def encode_texts_safely(
        self, texts: Sequence[str], normalise: bool = True
    ) -> tuple[Embeddings, NDArray[np.bool_], dict[int, str]]:
        """``[n, d]``, which texts were cut to the context length, and the reasons of those without an embedding."""
        out, truncated, reasons = self.no_rows(len(texts)), np.zeros(len(texts), dtype=bool), {}
        for rows, vectors, cut, wrong in embedded_texts(self, texts, normalise):
            out[rows], truncated[rows] = vectors, cut
            reasons.update(wrong)
        return out, truncated, reasons

    def encode_here(
        self, images: Sequence[ImageInput], texts: Sequence[str]
    ) -> tuple[Embeddings, dict[int, str], Embeddings, NDArray[np.bool_]]:
        """Decode and run both towers in the calling thread, without threads of its own."""
        vectors, reasons = self.no_rows(len(images)), {}
        for start in range(0, len(images), self.batch_size):
            batch = _prepared_here(self, images, range(start, min(start + self.batch_size, len(images))))
            positions, rows, wrong = _embed_images(self, batch, True)
            vectors[positions] = rows
            reasons.update(wrong)
        encoded, truncated = self.no_rows(len(texts)), np.zeros(len(texts), dtype=bool)
        for text_batch in text_batches(self, texts):
            chosen, rows, cut, _ = _embed_texts(self, text_batch, True)
            encoded[chosen], truncated[chosen] = rows, cut
        return vectors, reasons, encoded, truncated


def decoding_threads() -> int:
    """Threads that decode photos beside the model: as many as cores, at most 16; or as :func:`limit_threads` said."""
    return _limit or max(1, min(16, os.cpu_count() or 1))


def limit_threads(encoder: Encoder, threads: int) -> None:
    """Let this process decode, and ``encoder`` compute, on so many threads alone, for several processes side by side.

    What a library does inside (PyTorch, ONNX Runtime) is set by OMP_NUM_THREADS before it is imported. Batches are then
    those of one thread, whatever ``threads``: an embedding may depend in its last digits on what it is computed with.
    """
    global _limit
    _limit = max(1, min(16, threads))
    adapt(encoder).tower_threads = max(1, min(threads, adapt(encoder).tower_threads))


def prepared_batches(encoder: BatchedEncoder, images: Sequence[ImageInput]) -> Iterator[_ImageBatch]:
    """Yield (positions, prepared images, failures by position) in order, ``encoder.batch_size`` at a time.

    At most three batches, and at most one and :data:`AHEAD` images, are decoded ahead, so memory does not grow with
    the number of images.
    """
    if len(images) == 1:  # no threads for the one-photo case: it starts faster
        prepared, failure = _prepare(encoder, images[0])
        yield ([0], [prepared], {}) if failure is None else ([], [], {0: failure})
        return
    size = encoder.batch_size
    with ThreadPoolExecutor(decoding_threads()) as pool:
        sources = enumerate(images)
        pending: deque[tuple[int, Future[tuple[Any, InputError | None]]]] = deque(
            (i, pool.submit(_prepare, encoder, source))
            for i, source in islice(sources, min(3 * size, size + AHEAD))
        )
        try:
            while pending:
                positions, ready, failures = [], [], {}
                for _ in range(min(size, len(pending))):
                    position, future = pending.popleft()
                    prepared, failure = future.result()
                    if failure is None:
                        positions.append(position)
                        ready.append(prepared)
                    else:
                        failures[position] = failure
                    pending.extend((i, pool.submit(_prepare, encoder, s)) for i, s in islice(sources, 1))
                yield positions, ready, failures
        finally:
            for _, future in pending:
                future.cancel()


def _prepare(encoder: BatchedEncoder, source: ImageInput) -> tuple[Any, InputError | None]:
    try:
        return encoder.prepare_image(source), None
    except InputError as error:
        return None, error


def text_batches(encoder: BatchedEncoder, texts: Sequence[str]) -> Iterator[_TextBatch]:
    """Yield (rows, token sequences, truncated) with texts of like length together."""
    for start in range(0, len(texts), TEXT_BLOCK):
        tokens, truncated = encoder.tokenize(list(texts[start : start + TEXT_BLOCK]))
        order = np.argsort(
            [-len(t) for t in tokens], kind="stable"
        )  # the longest first: threads end together
        size = TEXTS_PER_IMAGE * encoder.batch_size
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            yield start + chosen, [tokens[i] for i in chosen], truncated[chosen]


def embedded_images(
    encoder: BatchedEncoder, images: Sequence[ImageInput], normalise: bool
) -> Iterator[tuple[list[int], Embeddings, dict[int, str]]]:
    """Yield (positions, vectors, reasons by position) in order; rows of the reasons are NaN or left out."""

    def embed(batch: _ImageBatch) -> tuple[list[int], Embeddings, dict[int, str]]:
        return _embed_images(encoder, batch, normalise)

    encoder.size_batches()
    threads, n = encoder.tower_threads, len(images)
    if (
        threads > 1 and n > encoder.batch_size
    ):  # each thread decodes what it embeds: no more threads than cores
        shares = (
            1 if _limit else _SHARES * threads
        )  # processes side by side give the same bytes on any threads
        size = max(1, min(encoder.batch_size, n // shares))
        parts = (range(start, min(start + size, n)) for start in range(0, n, size))
        yield from _in_threads(lambda part: embed(_prepared_here(encoder, images, part)), parts, threads)
        return
    yield from _in_threads(embed, prepared_batches(encoder, images), encoder.tower_threads)


def embedded_texts(
    encoder: BatchedEncoder, texts: Sequence[str], normalise: bool
) -> Iterator[tuple[NDArray[np.int64], Embeddings, NDArray[np.bool_], dict[int, str]]]:
    """Yield (rows, vectors, truncated, reasons by row)."""

    def embed(batch: _TextBatch) -> tuple[NDArray[np.int64], Embeddings, NDArray[np.bool_], dict[int, str]]:
        return _embed_texts(encoder, batch, normalise)

    yield from _in_threads(embed, text_batches(encoder, texts), encoder.tower_threads)


def _embed_images(
    encoder: BatchedEncoder, batch: _ImageBatch, normalise: bool
) -> tuple[list[int], Embeddings, dict[int, str]]:
    positions, prepared, failures = batch
    reasons = {i: str(error) for i, error in failures.items()}
    if not prepared:
        return positions, encoder.no_rows(), reasons
    vectors, wrong = _in_parts(encoder, encoder.embed_images, prepared, "image", normalise)
    return positions, vectors, reasons | {positions[i]: reason for i, reason in wrong.items()}


def _embed_texts(
    encoder: BatchedEncoder, batch: _TextBatch, normalise: bool
) -> tuple[NDArray[np.int64], Embeddings, NDArray[np.bool_], dict[int, str]]:
    rows, tokens, truncated = batch
    vectors, wrong = _in_parts(encoder, encoder.embed_tokens, tokens, "text", normalise)
    return rows, vectors, truncated, {int(rows[i]): reason for i, reason in wrong.items()}


def _in_parts(
    encoder: BatchedEncoder,
    embed: Callable[[list[Any]], NDArray[Any]],
    items: list[Any],
    what: str,
    normalise: bool,
) -> tuple[Embeddings, dict[int, str]]:
    """``embed`` of all items, in one batch if the memory suffices for it, else in as many as it takes.

    Returns:
        float32 ``[n, d]`` and why some rows are NaN. How many fitted is remembered for the next batches.
    """
    fits: dict[str, int] = encoder.__dict__.setdefault("_fits", {})
    blocks, reasons, start = [], {}, 0
    while start < len(items):
        size = min(fits.get(what, len(items)), len(items) - start)
        given, lack = None, ""
        try:
            given = embed(items[start : start + size])
        except DeviceMemoryError as error:
            lack = str(error)  # what the failed batch took is free only outside this block
        if given is not None:
            block, wrong = encoder.checked(given, size, what, normalise)
            reasons.update({start + i: reason for i, reason in wrong.items()})
        elif size > 1:
            fits[what] = size // 2
            continue
        else:
            block = encoder.no_rows(1)
            reasons[start] = f"one {what} alone does not fit the memory of {encoder.device}: {lack}"
        blocks.append(block)
        start += size
    return (blocks[0] if len(blocks) == 1 else np.concatenate(blocks)), reasons


def _prepared_here(encoder: BatchedEncoder, images: Sequence[ImageInput], positions: range) -> _ImageBatch:
    found, ready, failures = [], [], {}
    for i in positions:
        prepared, failure = _prepare(encoder, images[i])
        if failure is None:
            found.append(i)
            ready.append(prepared)
        else:
            failures[i] = failure
    return found, ready, failures


def _in_threads(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """``map`` in order, on ``threads`` threads, with at most one item waiting for each."""
    items = iter(items)
    first = list(islice(items, 2))
    if threads == 1 or len(first) < 2:
        yield from map(function, chain(first, items))
        return
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(function, item) for item in chain(first, islice(items, 2 * threads - 2)))
        try:
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(items, 1))
        finally:
            for future in pending:
                future.cancel()


def encode_images_safely(
    encoder: Encoder, images: Sequence[ImageInput], normalise: bool = True
) -> tuple[Embeddings, dict[int, str]]:
    """Embed with any Encoder what can be embedded: ``[n, d]`` with NaN rows for bad images, and their reasons."""
    return adapt(encoder).encode_images_safely(images, normalise)


def encode_texts_counted(encoder: Encoder, texts: Sequence[str]) -> tuple[Embeddings, NDArray[np.bool_]]:
    """Embed texts with any Encoder, ``[n, d]`` with NaN rows where it fails, and say which were cut."""
    return adapt(encoder).encode_texts_counted(texts)


def encode_texts_safely(
    encoder: Encoder, texts: Sequence[str], normalise: bool = True
) -> tuple[Embeddings, NDArray[np.bool_], dict[int, str]]:
    """Embed texts with any Encoder: ``[n, d]``, which were cut, and why some have no embedding (their rows are NaN)."""
    return adapt(encoder).encode_texts_safely(texts, normalise)
