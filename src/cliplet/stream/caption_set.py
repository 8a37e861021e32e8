"""How varied the captions of a stream are: sums and sketches of each part, put together in memory that does not grow.

Length, repetition and novelty are sums over captions, and so exact. The numbers of different words and word pairs are
exact up to :data:`KEPT`, beyond that estimated from the smallest hashes (a k-minimum-values sketch, Bar-Yossef et al.
2002, RANDOM; an error of about 0.8 %). Captions of one image are compared, and photos found again, within a block of
rows that were scored together.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.metrics.bleu import bleu, bleu_of_sums
from cliplet.metrics.diversity import self_retrieval
from cliplet.metrics.ngrams import MAX_ORDER, Caption, NgramCounts, count_ngrams

KEPT = 16_384
"""Hashes of a sketch."""
POOL = 1_000
"""Photos of a block, at most, among which each caption's own is looked for: those whose names have the smallest
hashes."""
ALIKE, TOGETHER = 20, 100
"""Captions of an image that are compared with each other, at most, the first of a block; and images at a time."""
_SUMS = ("captions", "words", "bigrams", "novel", "hits", "asked")

Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]


def text_hash(text: str) -> int:
    """64 bits of a text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def caption_hashes(captions: Sequence[Caption]) -> Hashes:
    """64 bits of each tokenised caption."""
    return np.array([text_hash(" ".join(caption)) for caption in captions], np.uint64)


@dataclass
class Distinct:
    """The number of different hashes seen."""

    hashes: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    """The smallest, sorted."""
    cut: bool = False
    """Whether there were more."""

    def add(self, hashes: Hashes, cut: bool = False) -> None:
        """See more; ``cut``: these are the smallest of more."""
        both = np.union1d(self.hashes, hashes)
        self.cut = self.cut or cut or len(both) > KEPT
        self.hashes = both[:KEPT]

    def count(self) -> int:
        """How many, exact unless ``cut``."""
        if not self.cut:
            return len(self.hashes)
        return round((len(self.hashes) - 1) * 2**64 / int(self.hashes[-1]))


@dataclass
class CaptionSet:
    """Captions as a set; parts are added to each other."""

    sums: Floats = field(default_factory=lambda: np.zeros(len(_SUMS)))
    """Captions, words, word pairs, captions that are not among those of training, photos found again, and captions for
    which they were looked for."""
    repeated: Floats = field(default_factory=lambda: np.zeros((2, MAX_ORDER)))
    """For n = 1..4: the sum over captions of the share of n-grams that repeat an earlier one, and how many have any."""
    mutual: Floats = field(default_factory=lambda: np.zeros(2 * MAX_ORDER + 2))
    """Sums of BLEU's counts of captions against the others of their image."""
    pool: int = 0
    """Photos among which one was looked for, at most."""
    words: Distinct = field(default_factory=Distinct)
    """Different words."""
    pairs: Distinct = field(default_factory=Distinct)
    """Different word pairs."""

    def add_block(
        self, captions: Sequence[Caption], images: Sequence[Any], known: Hashes | None = None
    ) -> None:
        """Add tokenised captions, each of its image; ``known``: sorted hashes of the captions of training."""
        if not len(captions):
            return
        counts = count_ngrams(captions)
        totals = []
        for n, order in enumerate(counts.orders, start=1):
            total = np.maximum(counts.lengths - n + 1, 0)
            different = np.bincount(order.caption, minlength=len(captions))
            some = total > 0
            self.repeated[:, n - 1] += (1 - different[some] / total[some]).sum(), some.sum()
            totals.append(int(total.sum()))
        self._see(counts)
        new = 0
        if known is not None:
            hashes = caption_hashes(captions)
            at = np.minimum(np.searchsorted(known, hashes), max(len(known) - 1, 0))
            new = int((known[at] != hashes).sum()) if len(known) else len(hashes)
        self.sums += len(captions), totals[0], totals[1], new, 0, 0
        by_image: dict[Any, list[int]] = {}
        for place, image in enumerate(images):
            by_image.setdefault(image, []).append(place)
        several = [[captions[i] for i in places[:ALIKE]] for places in by_image.values() if len(places) > 1]
        for start in range(0, len(several), TOGETHER):
            groups = several[start : start + TOGETHER]
            candidates = [caption for group in groups for caption in group]
            others = [[*group[:k], *group[k + 1 :]] for group in groups for k in range(len(group))]
            self.mutual += bleu(candidates, others).statistics.addends().sum(axis=0)

    def add_found(self, images: NDArray[Any], captions: NDArray[Any], names: Sequence[str]) -> None:
        """Look for each caption's photo among those of its block, by unit vectors ``[n, d]``, a row a caption."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        chosen = sorted(rows, key=text_hash)[:POOL]
        if not chosen:
            return
        order = [row for name in chosen for row in rows[name]]
        owner = [number for number, name in enumerate(chosen) for _ in rows[name]]
        share = self_retrieval(images[[rows[name][0] for name in chosen]], captions[order], owner)
        self.sums += 0, 0, 0, 0, share * len(order), len(order)
        self.pool = max(self.pool, len(chosen))

    def _see(self, counts: NgramCounts) -> None:
        words = np.array([text_hash(word) for word in counts.words], np.uint64)
        self.words.add(words)
        two = counts.orders[1]
        if len(two.last):
            self.pairs.add(_mixed(words[two.prefix], words[two.last]))

    def add(self, other: "CaptionSet") -> None:
        """Add another part's."""
        self.sums += other.sums
        self.repeated += other.repeated
        self.mutual += other.mutual
        self.pool = max(self.pool, other.pool)
        self.words.add(other.words.hashes, other.words.cut)
        self.pairs.add(other.pairs.hashes, other.pairs.cut)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, for a file."""
        return {
            "set_sums": self.sums, "set_repeated": self.repeated, "set_mutual": self.mutual,
            "set_flags": np.array([self.pool, self.words.cut, self.pairs.cut], np.int64),
            "set_words": self.words.hashes, "set_pairs": self.pairs.hashes,
        }  # fmt: skip

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> "CaptionSet":
        """What :meth:`arrays` gave."""
        pool, words, pairs = (int(flag) for flag in arrays["set_flags"])
        return cls(
            arrays["set_sums"], arrays["set_repeated"], arrays["set_mutual"], pool,
            Distinct(arrays["set_words"], bool(words)), Distinct(arrays["set_pairs"], bool(pairs)),
        )  # fmt: skip

    def measures(self, with_training: bool) -> dict[str, float | int]:
        """Each measure by its name, as :func:`cliplet.scoring.diversity.caption_diversity` calls it."""
        captions, words, pairs, novel, hits, asked = self.sums.tolist()
        if not captions:
            return {}
        repeated = self.repeated[0] / np.maximum(self.repeated[1], 1)
        found: dict[str, float | int] = {
            "mean length": words / captions,
            "vocabulary": self.words.count(),
            "distinct-1": self.words.count() / max(words, 1),
            "distinct-2": self.pairs.count() / max(pairs, 1),
            "repeated words": float(repeated[0]),
            "repeated 4-grams": float(repeated[3]),
        }
        if with_training:
            found["novel captions"] = novel / captions
        if self.mutual.any():
            found["mutual BLEU-4"] = float(bleu_of_sums(self.mutual)[3])
        if asked:
            found[f"self-retrieval R@1 among {self.pool}"] = hits / asked
        return found

    def notes(self) -> list[str]:
        """What is exact, what estimated, and within what captions and photos were compared."""
        cut = [
            name
            for name, one in (("vocabulary and distinct-1", self.words), ("distinct-2", self.pairs))
            if one.cut
        ]
        said = [f"{' and '.join(cut)} are estimates from {KEPT} hashes, good to about 0.8 %"] if cut else []
        if self.mutual.any():
            said.append(
                f"mutual BLEU compares the captions of an image that stand in one block of a part, the first {ALIKE}"
            )
        if self.sums[5]:
            said.append(
                f"self-retrieval looks for each caption's photo among at most {POOL} photos of its block"
            )
        return said


def _mixed(a: Hashes, b: Hashes) -> Hashes:
    """64 bits of each pair of 64 bits (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        x = a * np.uint64(0x9E3779B97F4A7C15) + b
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
