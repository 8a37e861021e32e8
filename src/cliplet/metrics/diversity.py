"""Fluency and diversity of captions: what reference-based scores do not see, and what rewards tend to spoil."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike

from cliplet.errors import InputError
from cliplet.metrics.bleu import bleu
from cliplet.metrics.ngrams import Caption, Floats, count_ngrams

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class DiversityScore:
    """Measures of a set of captions, one value for the whole set."""

    mean_length: float
    """Words per caption."""
    vocabulary: int
    """Number of different words."""
    distinct_1: float
    """Different words as a share of all words, in [0, 1] (Li et al., NAACL 2016). Falls as the set grows."""
    distinct_2: float
    """Different bigrams as a share of all bigrams, in [0, 1]."""
    repeated: tuple[float, float, float, float]
    """For n = 1..4: the share of a caption's n-grams that repeat an earlier one of the same caption, mean over the
    captions that have any, in [0, 1] (seq-rep-n of Welleck et al., ICLR 2020)."""
    empty: int
    """Number of captions without a word."""
    novel: float | None
    """Share of captions that are not, word for word, among the training captions; None without these."""


def diversity(captions: Sequence[Caption], training: Iterable[Caption] | None = None) -> DiversityScore:
    """Length, vocabulary, distinct-n, repetition and novelty of tokenised captions (lists of words).

    ``training`` are the tokenised captions that the captioner learned from. A measure without anything to count
    (no bigrams at all, say) is 0. Raises `InputError` if there are no captions.
    """
    if not len(captions):
        raise InputError("there are no captions to measure")
    if str in set(map(type, captions)):
        raise InputError("captions must be lists of words; tokenise them first")
    counts = count_ngrams(captions)
    repeated, distinct = [], []
    for n, order in enumerate(counts.orders, start=1):
        total = np.maximum(counts.lengths - n + 1, 0)  # [captions] n-grams
        different = np.bincount(order.caption, minlength=len(captions))
        some = total > 0
        repeated.append(float((1 - different[some] / total[some]).mean()) if some.any() else 0.0)
        distinct.append(order.distinct / max(int(total.sum()), 1))
    one, two, three, four = repeated
    novel = None
    if training is not None:
        known = set(map(tuple, training))
        novel = sum(tuple(caption) not in known for caption in captions) / len(captions)
    return DiversityScore(
        mean_length=float(counts.lengths.mean()),
        vocabulary=len(counts.words),
        distinct_1=distinct[0],
        distinct_2=distinct[1],
        repeated=(one, two, three, four),
        empty=int((counts.lengths == 0).sum()),
        novel=novel,
    )


def mutual_bleu(captions_of_images: Sequence[Sequence[Caption]]) -> tuple[float, float, float, float]:
    """BLEU-1..4 of every caption of an image against the image's other captions; lower is more diverse.

    ``captions_of_images[i]`` are several captions of image i (lists of words), all by the captioner under test.
    Each caption is a candidate with the others of its image as references, and the result is the corpus-level BLEU
    over all of them, in [0, 1] (mBleu of Shetty et al., ICCV 2017; Self-BLEU takes all captions for references).
    Images with fewer than two captions are left out; raises `InputError` if none has two.
    """
    images = [captions for captions in captions_of_images if len(captions) > 1]
    if not images:
        raise InputError("mutual BLEU needs at least two captions for some image")
    candidates = list(chain.from_iterable(images))
    others = [[*captions[:k], *captions[k + 1 :]] for captions in images for k in range(len(captions))]
    return bleu(candidates, others).corpus


def self_retrieval(
    image_embeddings: ArrayLike, caption_embeddings: ArrayLike, image_of_caption: ArrayLike | None = None
) -> float:
    """Recall at 1 of finding each caption's own image among all images, in [0, 1]; higher is more specific.

    ``image_embeddings`` [n, d] and ``caption_embeddings`` [m, d] are unit-norm, from any Encoder;
    ``image_of_caption`` [m] says whose caption each is, by default caption i is image i's. When k images tie for
    the best score, one of them being the caption's own, it counts 1/k. Memory: about 1,024 x n scores at a time.
    """
    images, captions = np.asarray(image_embeddings), np.asarray(caption_embeddings)
    owner = np.arange(len(captions)) if image_of_caption is None else np.asarray(image_of_caption)
    if images.ndim != 2 or captions.ndim != 2 or images.shape[1] != captions.shape[1]:
        raise InputError(f"embeddings must be [n, d] and [m, d], not {images.shape} and {captions.shape}")
    if not len(captions) or len(owner) != len(captions) or owner.min() < 0 or owner.max() >= len(images):
        raise InputError(
            f"{len(captions)} captions and {len(images)} images do not fit: every caption needs its image"
        )
    hits = 0.0
    for first in range(0, len(captions), _ROWS_AT_ONCE):
        scores: Floats = captions[first : first + _ROWS_AT_ONCE] @ images.T  # [rows, n]
        own = owner[first : first + _ROWS_AT_ONCE]
        best = scores.max(axis=1)
        ties = (scores == best[:, None]).sum(axis=1)
        hits += float(((scores[np.arange(len(own)), own] == best) / np.maximum(ties, 1)).sum())
    return hits / len(captions)
