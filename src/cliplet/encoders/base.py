"""The one idea that holds cliplet together: an Encoder turns images and texts into comparable unit vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput, open_image
from cliplet.encoders.card import ModelCard
from cliplet.encoders.devices import read_precision, stored_precision
from cliplet.errors import InputError, ModelError

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


class BaseEncoder:
    """An Encoder with all that some can do beyond the protocol, declared and with defaults: nothing is guessed.

    :func:`adapt` gives one for any Encoder. Subclasses set ``card`` and implement :meth:`encode_images_safely` and
    :meth:`encode_texts_safely`.
    """

    card: ModelCard
    raw: bool = False
    """Whether ``normalise=False`` is possible: embeddings of their own length, which some losses compare."""
    sees: bool = True
    """Whether it embeds images; False for one half of a dual encoder."""
    reads: bool = True
    """Whether it embeds texts; False for one half of a dual encoder."""
    library: str = ""
    """Whose PyTorch weights it holds: ``cliplet``, ``open_clip`` or ``transformers``; empty without any."""
    model: Any = None
    """These weights, a ``torch.nn.Module``; None without any."""
    folder: Path | None = None
    """The model folder whose ONNX files it runs; None for others."""
    tower_threads: int = 1
    """Calls that it may be given at the same time, from as many threads."""
    batch_size: int = 0
    """Images that a tower takes at once; 0 where that is its own affair."""
    keeps: bool = False
    """Whether it keeps embeddings on disk."""

    @property
    def device(self) -> str:
        """Where it computes, such as ``cpu`` or ``cuda:0``."""
        return "cpu"

    @property
    def provider(self) -> str:
        """What computes there: an execution provider of ONNX Runtime, or PyTorch; empty where it is not known."""
        return ""

    @property
    def numerics(self) -> str:
        """What changes its numbers beside weights and preprocessing, such as ``cuda bf16``; empty for the usual.

        It is part of the key of kept embeddings; the fingerprint, which says whose they are, is the same.
        """
        return ""

    def to(self, device: str) -> None:
        """Compute on another device from now on; ``auto`` is the best that it can.

        Raises:
            InputError: there is no such device, or this encoder cannot compute there.
        """
        if device not in (self.device, "auto"):
            raise InputError(f"{self.card.name} computes on {self.device} alone, not on {device}")

    def set_precision(self, precision: str) -> None:
        """Compute in another precision from now on: ``fp32``, ``bf16``, ``fp16`` or ``int8``; its card then says so.

        Raises:
            InputError: this encoder cannot.
        """
        if stored_precision(self.card.precision) != {read_precision(precision)}:
            raise InputError(f"{self.card.name} computes in {self.card.precision} alone, not in {precision}")

    def preload(self) -> None:
        """Begin to load in the background what the first call will need; by default nothing."""

    def encode_images_safely(
        self, images: Sequence[ImageInput], normalise: bool = True
    ) -> tuple[Embeddings, dict[int, str]]:
        """Embed what can be embedded.

        Args:
            images: paths, PIL images, arrays or encoded bytes.
            normalise: to length 1; False only for encoders that declare ``raw``.

        Returns:
            float32 ``[n, d]`` with NaN rows for bad images (and those for which the model gives no finite values), and
            their reasons by position.
        """
        raise NotImplementedError

    def encode_texts_safely(
        self, texts: Sequence[str], normalise: bool = True
    ) -> tuple[Embeddings, NDArray[np.bool_], dict[int, str]]:
        """As :meth:`encode_images_safely` for texts, with which of them were cut to the context length, bool ``[n]``.

        An encoder that cannot tell counts none as cut.
        """
        raise NotImplementedError

    def encode_here(
        self, images: Sequence[ImageInput], texts: Sequence[str]
    ) -> tuple[Embeddings, dict[int, str], Embeddings, NDArray[np.bool_]]:
        """Embed a few images and texts in the calling thread, for callers who run several such calls beside each other.

        Returns:
            Images ``[n, d]`` with their reasons, and texts ``[m, d]`` with which were cut, as
            :meth:`encode_images_safely` and :meth:`encode_texts_counted` give them.
        """
        vectors, reasons = self.encode_images_safely(images) if images else (self.no_rows(), {})
        return vectors, reasons, *self.encode_texts_counted(texts)

    def encode_images(self, images: Sequence[ImageInput]) -> Embeddings:
        """Embed images as unit-norm float32 ``[n, d]``; the first bad image raises InputError."""
        vectors, reasons = self.encode_images_safely(images)
        if reasons:
            raise InputError(reasons[min(reasons)])
        return vectors

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts as unit-norm float32 ``[n, d]``; raises InputError where the model gives no finite values."""
        vectors, _, reasons = self.encode_texts_safely(texts)
        if reasons:
            raise InputError(reasons[min(reasons)])
        return vectors

    def encode_texts_counted(self, texts: Sequence[str]) -> tuple[Embeddings, NDArray[np.bool_]]:
        """Embeddings ``[n, d]``, NaN where there is none, and which texts were cut to the context length."""
        vectors, truncated, _ = self.encode_texts_safely(texts)
        return vectors, truncated

    def no_rows(self, n: int = 0) -> Embeddings:
        """NaN in place of ``n`` embeddings that are still to come."""
        return np.full((n, self.card.embedding_dim), np.nan, dtype=np.float32)

    def checked(
        self, vectors: NDArray[Any], count: int, what: str, normalise: bool
    ) -> tuple[Embeddings, dict[int, str]]:
        """What a tower gave for ``count`` images or texts (``what``) as float32 rows, and why some are NaN.

        Raises:
            ModelError: it is not ``count`` rows of the card's width.
            InputError: ``normalise`` is False and the encoder does not declare ``raw``.
        """
        if not normalise and not self.raw:
            raise InputError(f"{self.card.name} gives embeddings of length 1 alone: normalise must be true")
        rows = np.asarray(vectors, dtype=np.float32)
        if rows.shape != (count, self.card.embedding_dim):
            raise ModelError(
                f"{self.card.name} gave embeddings of shape {rows.shape} for {count} {what}s: one row of "
                f"{self.card.embedding_dim} (its card's embedding_dim) for each is needed"
            )
        finite = np.isfinite(rows).all(axis=1)
        if finite.all():
            return (unit_norm(rows) if normalise else rows), {}
        out = self.no_rows(count)
        out[finite] = unit_norm(rows[finite]) if normalise else rows[finite]
        return out, dict.fromkeys(np.flatnonzero(~finite).tolist(), f"the model gave NaN for this {what}")


class WrappedEncoder(BaseEncoder):
    """An encoder around another, with the other's abilities."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = adapt(encoder)
        self.card, self.raw = self.encoder.card, self.encoder.raw
        self.sees, self.reads = self.encoder.sees, self.encoder.reads
        self.library, self.model = self.encoder.library, self.encoder.model

    @property
    def device(self) -> str:
        """Where the inner encoder computes."""
        return self.encoder.device

    @property
    def provider(self) -> str:
        """What computes there."""
        return self.encoder.provider

    @property
    def numerics(self) -> str:
        """The inner encoder's."""
        return self.encoder.numerics

    def to(self, device: str) -> None:
        """Move the inner encoder."""
        self.encoder.to(device)

    def set_precision(self, precision: str) -> None:
        """Set the inner encoder's."""
        self.encoder.set_precision(precision)
        self.card = self.encoder.card

    def preload(self) -> None:
        """Begin to load the inner encoder."""
        self.encoder.preload()


def adapt(encoder: Encoder) -> BaseEncoder:
    """The encoder with all abilities declared: itself, or a stranger's that has the protocol alone, wrapped."""
    return encoder if isinstance(encoder, BaseEncoder) else _Stranger(encoder)


class _Stranger(BaseEncoder):
    """Somebody's Encoder, which has the protocol alone: images are decoded for it, so that a bad one stays one."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.card = encoder, encoder.card

    def encode_images_safely(
        self, images: Sequence[ImageInput], normalise: bool = True
    ) -> tuple[Embeddings, dict[int, str]]:
        out, reasons = self.no_rows(len(images)), {}
        for start in range(0, len(images), 32):
            decoded = {}
            for i in range(start, min(start + 32, len(images))):
                try:
                    decoded[i] = open_image(images[i])
                except InputError as error:
                    reasons[i] = str(error)
            if decoded:
                places = list(decoded)
                rows = self.encoder.encode_images(list(decoded.values()))
                out[places], wrong = self.checked(rows, len(places), "image", normalise)
                reasons.update({places[i]: reason for i, reason in wrong.items()})
        return out, reasons

    def encode_texts_safely(
        self, texts: Sequence[str], normalise: bool = True
    ) -> tuple[Embeddings, NDArray[np.bool_], dict[int, str]]:
        rows, reasons = self.checked(self.encoder.encode_texts(texts), len(texts), "text", normalise)
        return rows, np.zeros(len(texts), dtype=bool), reasons


def unit_norm(vectors: NDArray[Any]) -> Embeddings:
    """Rows scaled to length 1 in float32; a zero row stays zero."""
    rows: Embeddings = np.asarray(vectors, dtype=np.float32)
    norms: Embeddings = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-30), dtype=np.float32)
