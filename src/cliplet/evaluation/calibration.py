"""From a cosine to a probability: the *match*, measured on photos with captions.

Every caption meets its own photo once and a wrong text takes its place once, so that half of the mix is right. Of the
wrong texts half are another photo's caption, a quarter the caption with one word swapped
(:mod:`cliplet.evaluation.hard_negatives`) and a quarter the caption of a like photo: one of the five photos whose
captions share most words with its own (cosine of tf-idf). A caption without a listed word to swap meets a like photo's
caption instead. A wrong text that stands among the photo's own captions is never drawn.

The match at a cosine is the share of right ones there: means of equal-count bins of cosines, made monotone by pooling
neighbours (isotonic regression: Barlow et al. 1972; for classifiers Zadrozny and Elkan 2002), and straight lines
between. Each collection weighs the same. The calibration error (Naeini et al. 2015: mean distance of match and share
over ten equal-count bins) is measured on photos that the curve has not seen, in five folds.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import Encoder
from cliplet.encoders.card import MatchSpec
from cliplet.encoders.embed import embed_texts
from cliplet.errors import InputError
from cliplet.evaluation.hard_negatives import hard_negatives
from cliplet.scoring.match import matches

Floats = NDArray[np.float64]
KINDS = ("own", "another photo's", "one wrong word", "a like photo's")
"""The kinds of captions in the mix; the first is right."""
MIX = "half own, a quarter another photo's, an eighth with one wrong word, an eighth a like photo's caption"
LEAST_PHOTOS = 50
KNOTS = 24
"""Equal-count bins before neighbours are pooled."""
LEAST_STEP = 1e-3
"""By how much the share grows from knot to knot at least."""
FOLDS = 5
BINS = 10
LIKE = 5


@dataclass(frozen=True)
class Mix:
    """The mix of one collection."""

    name: str
    """The collection's name."""
    cosine: Floats
    """[pairs]."""
    kind: NDArray[np.int64]
    """[pairs] place in KINDS."""
    photo: NDArray[np.int64]
    """[pairs] number of the photo."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """[pairs] whether the caption is the photo's own."""
        return np.asarray(self.kind == 0)


@dataclass(frozen=True)
class Calibration:
    """A measured match."""

    spec: MatchSpec
    """What goes into the card."""
    mixes: list[Mix]
    """What it was measured on."""
    held_out: list[Floats]
    """For each mix the match of each pair, from the other folds' photos."""

    def errors(self) -> dict[str, float]:
        """Calibration error of each collection, 0 to 1, on photos that the curve had not seen."""
        return {
            mix.name: calibration_error(match, mix.right)
            for mix, match in zip(self.mixes, self.held_out, strict=True)
        }

    def kept(self, at_least: float) -> dict[str, dict[str, float]]:
        """For each collection the share of each kind of caption whose held-out match is at least this."""
        return {
            mix.name: {
                kind: float((match[mix.kind == k] >= at_least).mean())
                for k, kind in enumerate(KINDS)
                if (mix.kind == k).any()
            }
            for mix, match in zip(self.mixes, self.held_out, strict=True)
        }


def calibrate(mixes: Sequence[Mix]) -> Calibration:
    """Measure the match on these collections, each with the same weight."""
    held_out = [np.full(len(mix.cosine), np.nan) for mix in mixes]
    for fold in range(FOLDS):
        curve = _curve([(m.cosine[m.photo % FOLDS != fold], m.right[m.photo % FOLDS != fold]) for m in mixes])
        for mix, match in zip(mixes, held_out, strict=True):
            here = mix.photo % FOLDS == fold
            match[here] = matches(MatchSpec(*curve), mix.cosine[here])
    names = " and ".join(f"{mix.name} ({len(np.unique(mix.photo))} photos)" for mix in mixes)
    spec = MatchSpec(*_curve([(mix.cosine, mix.right) for mix in mixes]), f"{names}: {MIX}")
    return Calibration(spec, list(mixes), held_out)


def mix_captions(
    name: str,
    encoder: Encoder,
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    captions: Sequence[str],
    caption_image: NDArray[np.int64],
    prefix: str = "",
    seed: int = 0,
) -> Mix:
    """The mix of one collection.

    Args:
        name: the collection's name.
        encoder: the model; it embeds the captions with a wrong word.
        images: unit rows ``[photos, d]``.
        texts: unit rows ``[captions, d]``, with the prefix.
        captions: the captions ``[captions]``.
        caption_image: each caption's photo, ``[captions]``.
        prefix: what goes before captions.
        seed: of the draws.

    Raises:
        InputError: there are fewer than 50 photos.
    """
    n = len(images)
    if n < LEAST_PHOTOS:
        raise InputError(
            f"{name}: {n} photos with captions are too few to calibrate; give at least {LEAST_PHOTOS}"
        )
    rng = np.random.default_rng(seed)
    own = [np.flatnonzero(caption_image == i) for i in range(n)]
    words_of = [[captions[int(t)] for t in own[i]] for i in range(n)]
    said, like = [set(some) for some in words_of], like_photos(words_of, LIKE)
    swapped = _swapped(captions, caption_image, n, rng, seed)
    kind = rng.choice([1, 1, 2, 3], len(captions))  # of the wrong text that takes each caption's place
    kind[(kind == 2) & np.array([text is None for text in swapped])] = 3
    false = np.zeros(len(captions))
    words = np.flatnonzero(kind == 2)
    vectors = embed_texts(encoder, [swapped[int(t)] or "" for t in words], prefix)
    false[words] = np.einsum("nd,nd->n", images[caption_image[words]], vectors, dtype=np.float64)
    usable = kind == 2
    for t in np.flatnonzero(kind != 2):
        photo = int(caption_image[t])
        other = _drawn(photo, like[photo] if kind[t] == 3 else None, own, captions, said, n, rng)
        if other is not None:
            usable[t], false[t] = True, float(images[photo] @ texts[other])
    right = np.einsum("nd,nd->n", images[caption_image], texts, dtype=np.float64)
    rows = np.flatnonzero(usable)
    return Mix(
        name,
        np.concatenate([right[rows], false[rows]]),
        np.concatenate([np.zeros(len(rows), dtype=np.int64), kind[rows]]),
        np.concatenate([caption_image[rows], caption_image[rows]]),
    )


def like_photos(captions: Sequence[Sequence[str]], most: int) -> NDArray[np.int64]:
    """For each photo the ``most`` others whose captions share most words with its own, nearest first.

    Cosine of term frequency times log(photos / document frequency); the captions of a photo are one document. Returns
    numbers of photos ``[photos, most]``.
    """
    documents = [Counter(re.findall(r"\w+", " ".join(own).lower())) for own in captions]
    df = Counter(word for document in documents for word in document)
    places = {word: i for i, word in enumerate(df)}
    table = np.zeros((len(documents), len(places)), dtype=np.float32)
    for row, document in zip(table, documents, strict=True):
        for word, count in document.items():
            row[places[word]] = count * math.log(len(documents) / df[word])
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
    found = np.empty((len(table), most), dtype=np.int64)
    for i, row in enumerate(table):
        near = table @ row
        near[i] = -1
        found[i] = np.argsort(-near, kind="stable")[:most]
    return found


def calibration_error(match: NDArray[Any], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean distance of match and share of right ones over equal-count bins of the match, 0 to 1."""
    order = np.argsort(match, kind="stable")
    parts = np.array_split(order, bins)
    return float(sum(len(p) * abs(match[p].mean() - right[p].mean()) for p in parts if len(p)) / len(match))


def _swapped(
    captions: Sequence[str], caption_image: NDArray[np.int64], n: int, rng: np.random.Generator, seed: int
) -> list[str | None]:
    """Each caption with one word swapped, of a kind drawn by ``rng``; None where no word can be."""
    books: Mapping[str, list[str]] = {str(i): [] for i in range(n)}
    for caption, photo in zip(captions, caption_image, strict=True):
        books[str(photo)].append(caption)
    made: dict[tuple[str, str], list[str]] = {}
    for negative in hard_negatives(books, seed=seed):
        made.setdefault((negative.image, negative.true), []).append(negative.false)
    options = [made.get((str(p), c), []) for p, c in zip(caption_image, captions, strict=True)]
    return [some[int(rng.integers(len(some)))] if some else None for some in options]


def _drawn(
    photo: int,
    near: NDArray[np.int64] | None,
    own: Sequence[NDArray[np.int64]],
    captions: Sequence[str],
    said: Sequence[set[str]],
    n: int,
    rng: np.random.Generator,
) -> int | None:
    """The number of another photo's caption that is not among the photo's own; None after 20 tries."""
    for _ in range(20):
        other = int(rng.choice(near)) if near is not None else int(rng.integers(n - 1))
        other += near is None and other >= photo
        text = int(rng.choice(own[other]))
        if captions[text] not in said[photo]:
            return text
    return None


def _curve(parts: Sequence[tuple[Floats, NDArray[np.bool_]]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots (cosines, probabilities) of the share of right ones; each part weighs the same."""
    x = np.concatenate([cosine for cosine, _ in parts])
    y = np.concatenate([right for _, right in parts]).astype(np.float64)
    w = np.concatenate([np.full(len(cosine), 1 / len(cosine)) for cosine, _ in parts])
    x, place = np.unique(x.round(4), return_inverse=True)  # equal cosines stay together
    # [distinct cosines]: weight, and weight of right ones
    w, y = (np.bincount(place, some).astype(np.float64) for some in (w, w * y))
    bins = np.minimum((np.cumsum(w) / w.sum() * KNOTS).astype(int), KNOTS - 1)
    blocks: list[tuple[float, float, float]] = []  # weight, mean cosine, share of right ones
    for b in np.unique(bins):
        here = bins == b
        total = w[here].sum()
        blocks.append((total, (w * x)[here].sum() / total, y[here].sum() / total))
        while len(blocks) > 1 and blocks[-1][2] - blocks[-2][2] < LEAST_STEP:  # pooled until the shares grow
            (wa, xa, ya), (wb, xb, yb) = blocks[-2:]
            blocks[-2:] = [(wa + wb, (wa * xa + wb * xb) / (wa + wb), (wa * ya + wb * yb) / (wa + wb))]
    if len(blocks) < 2:
        raise InputError(
            "the model's cosines tell nothing of right and wrong captions here: no match can be measured"
        )
    cosines, shares = (tuple(round(block[k], 4) for block in blocks) for k in (1, 2))
    return _ended(cosines, shares)


def _ended(
    cosines: tuple[float, ...], shares: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The knots with both ends: 0 one step below the first, and the last step's slope on to a cosine of 1."""
    slope = (shares[-1] - shares[-2]) / (cosines[-1] - cosines[-2])
    top = min(1.0, shares[-1] + slope * (1 - cosines[-1]))
    if cosines[-1] < 1 and top > shares[-1]:
        cosines, shares = (*cosines, 1.0), (*shares, round(top, 4))
    if shares[0] > 0 and cosines[0] > -1:
        cosines, shares = (-1.0, *cosines), (0.0, *shares)
    return cosines, shares
