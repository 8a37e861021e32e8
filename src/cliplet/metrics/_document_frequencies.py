"""Document frequencies: in how many images' references each n-gram occurs. CIDEr weighs n-grams with them."""

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import InputError
from cliplet.metrics import ngrams
from cliplet.metrics.ngrams import (
    MAX_ORDER,
    Block,
    Caption,
    Floats,
    Ints,
    NgramCounts,
    NgramIndex,
    count_ngrams,
    distinct,
)

_FORMAT = 1


@dataclass(frozen=True)
class DocumentFrequencies:
    """How many images have each n-gram (n = 1..4) in some reference; an image is a document."""

    index: NgramIndex
    counts: tuple[Ints, ...]
    """For n = 1..4, [n-grams]: the number of images, by the index's numbers."""
    documents: int
    """Number of images."""
    source: str = ""
    """Where they come from, in words."""

    @property
    def log_ref_len(self) -> float:
        """Natural logarithm of the number of images: the weight of an n-gram that none or one of them has."""
        return float(np.log(float(self.documents)))

    @classmethod
    def from_references(
        cls, references: Sequence[Sequence[Caption]], source: str = ""
    ) -> "DocumentFrequencies":
        """Count over tokenised references: ``references[i]`` are the captions of image i, each a list of words.

        Raises `InputError` if there are none.
        """
        if not len(references):
            raise InputError("document frequencies need the references of at least one image; there are none")
        index = NgramIndex()
        counts = [np.zeros(0, np.int64) for _ in range(MAX_ORDER)]
        for first in range(0, len(references), ngrams.BLOCK_IMAGES):
            block = references[first : first + ngrams.BLOCK_IMAGES]
            if any(isinstance(caption, str) for captions in block for caption in captions):
                raise InputError("references must be lists of words: tokenise them first")
            image = np.repeat(np.arange(len(block)), np.fromiter(map(len, block), np.int64, len(block)))
            found = count_ngrams(list(chain.from_iterable(block)))
            numbers = index.lookup(found, add=True)
            for n, order in enumerate(found.orders):
                width = max(order.distinct, 1)
                pairs = distinct(image[order.caption] * width + order.gram)  # an image counts once
                documents = np.bincount(pairs % width, minlength=order.distinct)
                grown = np.zeros(index.sizes()[n], np.int64)
                grown[: len(counts[n])] = counts[n]
                grown[numbers[n]] += documents[: order.distinct]
                counts[n] = grown
        return cls(index, tuple(counts), len(references), source)

    def idf(self, counts: NgramCounts | Block) -> list[Floats]:
        """For n = 1..4 and each distinct n-gram of ``counts``: log(images) - log(max(1, images that have it))."""
        return [
            self.log_ref_len - self._log_frequency(n, numbers)
            for n, numbers in enumerate(self.index.lookup(counts))
        ]

    def _log_frequency(self, n: int, numbers: Ints) -> Floats:
        known = numbers >= 0
        frequency = np.ones(len(numbers))
        frequency[known] = np.maximum(self.counts[n][numbers[known]], 1)
        return np.log(frequency)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file (a NumPy archive without pickles) that `load` reads; an existing one is replaced."""
        keys = self.index.export()
        arrays: dict[str, Ints | NDArray[np.uint8] | NDArray[np.int32]] = {
            "format": np.array(_FORMAT),
            "documents": np.array(self.documents),
            "source": np.frombuffer(self.source.encode(), np.uint8),
            "words": np.frombuffer("\n".join(self.index.words).encode("utf-8", "surrogatepass"), np.uint8),
            **{f"keys{n + 2}": key for n, key in enumerate(keys)},
            **{f"counts{n + 1}": count.astype(np.int32) for n, count in enumerate(self.counts)},
        }
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            os.replace(temporary, path)
        except OSError as error:
            raise InputError(f"{path}: cannot write the document frequencies: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DocumentFrequencies":
        """Read a file that `save` wrote. Raises `InputError` if it is not there or is something else."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot read the document frequencies: {error.strerror}") from error
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                if int(archive["format"]) != _FORMAT:
                    raise ValueError(f"format {int(archive['format'])}")
                text = archive["words"].tobytes().decode("utf-8", "surrogatepass")
                words = text.split("\n") if text else []
                keys = [archive[f"keys{n}"].astype(np.int64) for n in range(2, MAX_ORDER + 1)]
                counts = tuple(archive[f"counts{n}"].astype(np.int64) for n in range(1, MAX_ORDER + 1))
                documents, source = int(archive["documents"]), archive["source"].tobytes().decode()
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is not a document-frequency file of cliplet; make one with 'cliplet df' ({error})"
            ) from error
        return cls(NgramIndex.restore(words, keys), counts, documents, source)
