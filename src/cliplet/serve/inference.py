"""The work of one batch: photos and texts of several requests through the towers together, each scored for itself."""

import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import ImageInput, noted
from cliplet.data.text import caption_problem
from cliplet.encoders.base import BaseEncoder, Embeddings, WrappedEncoder
from cliplet.errors import InputError
from cliplet.scoring.result import ScoreResult
from cliplet.scoring.scorer import Scorer

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
"""Formats that are taken, where Pillow can read them; what runs other programs, such as EPS, is not."""
PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif")
"""Pillow's modules for them; HEIF is a package of its own, pillow-heif."""


@dataclass
class Work:
    """What one request wants to have encoded and scored."""

    photos: list[bytes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    references: list[str] | None = None
    preset: str | None = None
    """The preset to score all texts against the one photo; None: embeddings alone."""


@dataclass
class Done:
    """What came of it."""

    photos: Embeddings
    reasons: dict[int, str]
    """Why photos have no embedding, by position."""
    texts: Embeddings
    truncated: NDArray[np.bool_]
    result: ScoreResult | None = None
    notes: list[str] = field(default_factory=list)


class TooManyPixels(InputError):
    """A photo that is larger than the service decodes."""


class Inference:
    """One worker thread's door to the model."""

    def __init__(self, encoder: BaseEncoder, max_pixels: int) -> None:
        self.encoder, self.max_pixels = encoder, max_pixels
        self._known = _Known(encoder)
        self._scorers: dict[str, Scorer] = {}

    def run(self, works: Sequence[Work]) -> list[Done | Exception]:
        """Each request's outcome; an exception belongs to its own request alone."""
        outcomes: dict[int, Exception] = {}
        for i, work in enumerate(works):
            try:
                for photo in work.photos:
                    check_photo(photo, self.max_pixels)
            except InputError as error:
                outcomes[i] = error
        good = [i for i in range(len(works)) if i not in outcomes]
        photos = [photo for i in good for photo in works[i].photos]
        wanted = {i: self._texts(works[i]) for i in good}
        texts = list(
            dict.fromkeys(text for own in wanted.values() for text in own if not caption_problem(text))
        )
        with noted(photos) as heard:
            vectors, reasons, encoded, truncated = self.encoder.encode_here(photos, texts)
        at = {text: row for row, text in enumerate(texts)}
        start = 0
        done: list[Done | Exception] = []
        for i, work in enumerate(works):
            if i in outcomes:
                done.append(outcomes[i])
                continue
            stop = start + len(work.photos)
            own = Done(
                vectors[start:stop],
                {j - start: reasons[j] for j in range(start, stop) if j in reasons},
                self._rows(encoded, [at.get(text) for text in wanted[i]]),
                np.array([text in at and truncated[at[text]] for text in wanted[i]], dtype=bool),
                notes=[note for photo in work.photos if (note := heard[id(photo)])],
            )
            done.append(self._scored(work, own, wanted[i]))
            start = stop
        return done

    def _texts(self, work: Work) -> list[str]:
        """All texts of a request as the model gets them."""
        texts = [*work.texts, *(work.references or [])]
        if work.preset is None:
            return texts
        preset = self._scorer(work.preset).preset
        prefix = self.encoder.card.text.prompt_prefix if preset.with_prefix else ""
        return [text if caption_problem(text) else prefix + text for text in texts]

    def _rows(self, encoded: Embeddings, rows: Iterable[int | None]) -> Embeddings:
        found = [encoded[row] if row is not None else self.encoder.no_rows(1)[0] for row in rows]
        return np.stack(found) if found else self.encoder.no_rows()

    def _scored(self, work: Work, done: Done, texts: list[str]) -> Done | Exception:
        if work.preset is None:
            return done
        if done.reasons:
            return InputError(done.reasons[0])
        self._known.now(work.photos[0], done, texts)
        references = [work.references] * len(work.texts) if work.references else None
        try:
            done.result = self._scorer(work.preset).score(work.photos[0], work.texts, references)
        except Exception as error:
            return error
        finally:
            self._known.forget()
        return done

    def _scorer(self, preset: str) -> Scorer:
        if preset not in self._scorers:
            self._scorers[preset] = Scorer(self._known, preset)
        return self._scorers[preset]


@cache
def readable_formats() -> list[str]:
    """Those of ``FORMATS`` that this installation reads."""
    for plugin in PLUGINS:
        with suppress(ImportError):
            import_module(f"PIL.{plugin}ImagePlugin")
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def check_photo(photo: bytes, max_pixels: int) -> None:
    """Look at a photo's header.

    Raises:
        InputError: it is not one of the formats that are taken.
        TooManyPixels: it is larger than ``max_pixels``.
    """
    readable = readable_formats()
    try:
        with Image.open(io.BytesIO(photo), formats=readable) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise TooManyPixels(f"the photo has more than {max_pixels:,} pixels: scale it down first") from None
    except Exception:  # Pillow's readers raise many kinds on damaged files
        shown = ", ".join(name for name in readable if name != "MPO")
        raise InputError(
            f"the photo is not of a format that is taken ({shown}), or its header is damaged"
        ) from None
    if width * height > max_pixels:
        raise TooManyPixels(
            f"the photo has {width} x {height} pixels, more than {max_pixels:,}: scale it down first"
        )


class _Known(WrappedEncoder):
    """The encoder for one request's scorer: it gives what the batch has already encoded, and encodes the rest."""

    def __init__(self, encoder: BaseEncoder) -> None:
        super().__init__(encoder)
        self._photo: bytes | None = None
        self._photo_vector: Any = None
        self._texts: dict[str, tuple[Any, bool]] = {}

    def now(self, photo: bytes, done: Done, texts: list[str]) -> None:
        self._photo, self._photo_vector = photo, done.photos[0]
        self._texts = {text: (done.texts[i], bool(done.truncated[i])) for i, text in enumerate(texts)}

    def forget(self) -> None:
        self._photo, self._photo_vector, self._texts = None, None, {}

    def encode_images_safely(
        self, images: Sequence[ImageInput], normalise: bool = True
    ) -> tuple[Embeddings, dict[int, str]]:
        if all(image is self._photo for image in images):
            return np.stack([self._photo_vector] * len(images)), {}
        return self.encoder.encode_images_safely(images, normalise)

    def encode_texts_safely(
        self, texts: Sequence[str], normalise: bool = True
    ) -> tuple[Embeddings, NDArray[np.bool_], dict[int, str]]:
        found = [self._texts.get(text) for text in texts]
        if all(item is not None for item in found):
            rows = [item for item in found if item is not None]
            return np.stack([row for row, _ in rows]), np.array([cut for _, cut in rows], dtype=bool), {}
        return self.encoder.encode_texts_safely(texts, normalise)
