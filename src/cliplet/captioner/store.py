"""A store of captions with their embeddings, to find those that lie nearest to a photo."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from cliplet.data.text import caption_problem
from cliplet.encoders.base import Embeddings, Encoder
from cliplet.encoders.batching import encode_texts_safely
from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.metrics.cider import DocumentFrequencies
from cliplet.metrics.tokenizer.ptb import tokenize_many

FORMAT = 1
BLOCK = 256
"""Photos whose similarities to all captions are held at once; fewer where there are many captions."""
SIMILARITIES = 2**25
"""Similarities that are held at once."""


@dataclass(frozen=True)
class CaptionStore:
    """Captions, their embeddings by one model, and the photo that each belongs to."""

    captions: list[str]
    """Every caption."""
    embeddings: Embeddings
    """Unit rows ``[n, d]``."""
    owner: NDArray[np.int64]
    """Number of each caption's photo ``[n]``; photos are the documents of CIDEr's frequencies."""
    model: str
    """Name of the model that embedded them."""
    fingerprint: str
    """Its fingerprint."""

    @classmethod
    def build(cls, encoder: Encoder, groups: Sequence[Sequence[str]]) -> "CaptionStore":
        """Embed the captions of each photo; what is no caption is left out.

        Raises:
            InputError: no caption is left.
        """
        kept = [(i, c) for i, group in enumerate(groups) for c in group if caption_problem(c) is None]
        if not kept:
            raise InputError("there are no captions to put into a store")
        owner, captions = np.array([i for i, _ in kept], dtype=np.int64), [c for _, c in kept]
        prefix = encoder.card.text.prompt_prefix
        rows, _, reasons = encode_texts_safely(encoder, [prefix + c for c in captions])
        good = np.array([i not in reasons for i in range(len(captions))])
        captions = [c for c, ok in zip(captions, good, strict=True) if ok]
        if not captions:
            raise InputError(f"no caption can be embedded; the first reason: {reasons[0]}")
        return cls(captions, rows[good], owner[good], encoder.card.name, encoder.card.fingerprint)

    def nearest(self, queries: Embeddings, k: int) -> NDArray[np.int64]:
        """Rows of the k captions nearest to each photo by cosine, nearest first: ``[m, d]`` -> ``[m, k]``."""
        k = min(k, len(self.captions))
        found = np.zeros((len(queries), k), dtype=np.int64)
        block = max(1, min(BLOCK, SIMILARITIES // len(self.captions)))
        for start in range(0, len(queries), block):
            scores = queries[start : start + block] @ self.embeddings.T  # [b, n]
            top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
            found[start : start + block] = np.take_along_axis(top, order, axis=1)
        return found

    @cached_property
    def words(self) -> list[list[str]]:
        """Each caption's words, as the n-gram metrics see them."""
        return tokenize_many(self.captions, joined=False)

    @cached_property
    def frequencies(self) -> DocumentFrequencies:
        """In how many photos' captions each n-gram occurs."""
        groups: dict[int, list[list[str]]] = {}
        for photo, words in zip(self.owner.tolist(), self.words, strict=True):
            groups.setdefault(photo, []).append(words)
        return DocumentFrequencies.from_references(list(groups.values()), f"a store of {len(groups)} photos")

    def with_captions(self, captions: Sequence[str], embeddings: Embeddings) -> "CaptionStore":
        """A larger store: each of the new captions is of a photo of its own."""
        first = int(self.owner.max()) + 1
        owner = np.concatenate([self.owner, np.arange(first, first + len(captions))])
        rows = np.concatenate([self.embeddings, embeddings])
        return CaptionStore([*self.captions, *captions], rows, owner, self.model, self.fingerprint)

    def save(self, path: str | Path) -> None:
        """Write one ``.npz`` file, whole or not at all; it holds no pickles."""
        about = {
            "format": FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "captions": self.captions,
        }
        text = np.frombuffer(json.dumps(about, ensure_ascii=False).encode("utf-8", "replace"), dtype=np.uint8)
        content = io.BytesIO()
        np.savez_compressed(
            content, about=text, embeddings=self.embeddings.astype(np.float32), owner=self.owner
        )
        write_atomically(path, content.getvalue())

    @classmethod
    def load(cls, path: str | Path, encoder: Encoder | None = None) -> "CaptionStore":
        """Read a store.

        Args:
            path: what :meth:`save` wrote.
            encoder: the model that will embed the photos.

        Raises:
            InputError: no such file, it is damaged, or another model than ``encoder`` embedded it.
        """
        try:
            if Path(path).exists() and not is_zipfile(path):
                raise ValueError("it is no .npz file")
            with np.load(path, allow_pickle=False) as content:
                about = json.loads(content["about"].tobytes().decode("utf-8"))
                embeddings, owner = content["embeddings"], content["owner"]
            if about["format"] != FORMAT or not len(about["captions"]) == len(embeddings) == len(owner):
                raise ValueError("its parts do not fit")
            store = cls(list(about["captions"]), embeddings, owner, about["model"], about["fingerprint"])
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such store; `cliplet caption store` makes one") from None
        except Exception as error:  # zip, numpy and json raise many kinds
            raise InputError(
                f"{path} is not a store of captions: {error}; `cliplet caption store` makes one"
            ) from error
        if encoder is not None and encoder.card.fingerprint != store.fingerprint:
            raise InputError(
                f"{path} was embedded by {store.model} ({store.fingerprint}), not by {encoder.card.name} "
                f"({encoder.card.fingerprint}): make the store again with this model"
            )
        return store
