"""CIDEr-D and CIDEr of captions: agreement with the references in rare n-grams (Vedantam et al., CVPR 2015)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cliplet.errors import InputError
from cliplet.metrics._document_frequencies import DocumentFrequencies
from cliplet.metrics.base import Corpus, ReferenceScores
from cliplet.metrics.ngrams import (
    BLOCK_IMAGES,
    MAX_ORDER,
    Block,
    Caption,
    Floats,
    Ints,
    ReferenceOrder,
    blocks,
    check_captions,
    find,
)

__all__ = ["CiderScore", "DocumentFrequencies", "cider"]

Variant = Literal["cider-d", "cider"]

SIGMA = 6.0
_SCALE = 10.0
_FEW_IMAGES = 1000


@dataclass(frozen=True)
class CiderScore:
    """CIDEr-D or CIDEr, 0 to 10."""

    corpus: float
    """Mean over the captions."""
    per_caption: Floats
    """[captions]"""
    documents: int
    """Number of images behind the document frequencies."""
    caveat: str | None
    """What to bear in mind when these frequencies come from few images; None if there is nothing."""


def cider(
    candidates: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    document_frequencies: DocumentFrequencies | None = None,
    *,
    variant: Variant = "cider-d",
    sigma: float = SIGMA,
) -> CiderScore:
    """CIDEr-D (default) or plain CIDEr of tokenised candidates, each against the references of its image.

    ``candidates[i]`` is a list of words, ``references[i]`` a list of such lists (at least one). N-grams are weighed
    by ``document_frequencies``; without them, by the references given here, so that a score depends on the corpus
    it is in: see ``caveat`` in the result. ``cider-d`` clips a candidate's counts and punishes another length;
    ``cider`` is the plain cosine. Both are averaged over n = 1..4 and the references, times 10.

    Reference implementation: pycocoevalcap 1.2 ``Cider()``, which is CIDEr-D; plain CIDEr follows the authors' own
    ``CiderScorer``. Quirk kept: the length that is compared is the number of bigrams, so that a caption of one word
    and an empty one are equally long. No known deviations.
    Raises `InputError` if the numbers of candidates and images differ or an image has no reference.
    """
    check_captions(candidates, references)
    if document_frequencies is None and len(candidates) > BLOCK_IMAGES:
        document_frequencies = DocumentFrequencies.from_references(references)
    per_caption = np.concatenate(
        [
            cider_of_block(block, document_frequencies, variant=variant, sigma=sigma)
            for block in blocks(candidates, references)
        ]
    )
    return cider_score(per_caption, len(candidates), document_frequencies)


def cider_score(per_caption: Floats, images: int, given: DocumentFrequencies | None) -> CiderScore:
    """Put together the result for candidates of ``images`` images; ``given`` are frequencies from elsewhere."""
    documents = given.documents if given else images
    return CiderScore(float(per_caption.mean()), per_caption, documents, small_corpus_caveat(documents))


def count(block: Block, corpus: Corpus) -> Floats:
    """CIDEr-D of a block of images."""
    return cider_of_block(block, corpus.frequencies())


def columns(corpus: Corpus) -> ReferenceScores:
    """CIDEr-D for the table of metrics."""
    score = cider_score(np.concatenate(corpus.parts), len(corpus.words), corpus.frequencies())
    found = ReferenceScores(notes=[score.caveat] if score.caveat and corpus.by_image else [])
    found.add("CIDEr-D", score.per_caption)
    return found


def small_corpus_caveat(documents: int) -> str | None:
    """A sentence on CIDEr with document frequencies from few images, or None if there are enough."""
    if documents == 1:
        return (
            "CIDEr weighs n-grams by how rare they are among the images; with one image every weight, and so every"
            " score, is 0. Give document frequencies from a larger corpus."
        )
    if documents < _FEW_IMAGES:
        return (
            f"CIDEr's document frequencies come from only {documents} images: scores of a small corpus are not"
            " comparable with those of a larger one. Give document frequencies from a larger corpus to compare."
        )
    return None


def cider_of_block(
    block: Block, given: DocumentFrequencies | None, *, variant: Variant = "cider-d", sigma: float = SIGMA
) -> Floats:
    """[images]: the score of each candidate; without given frequencies the block is the whole corpus."""
    idf = given.idf(block) if given else _idf_of(block)
    levels = [
        VectorOrder.build(order, weights, len(block.reference_lengths))
        for order, weights in zip(block.references, idf, strict=True)
    ]
    references = ReferenceVectors.build(levels, block.reference_lengths, block.references_of_image)
    candidates = [
        CandidateOrder(order.caption, order.gram, order.count * weights[order.gram])
        for order, weights in zip(block.candidates, idf, strict=True)
    ]
    images = np.arange(block.images)
    return references.score(candidates, block.candidate_lengths, images, variant=variant, sigma=sigma)


def _idf_of(block: Block) -> list[Floats]:
    """The weights of a block's n-grams if its references are the whole corpus."""
    weights = np.log(float(block.images)) - np.log(np.maximum(np.arange(block.images + 1), 1))
    return [
        weights[np.bincount(order.gram[order.starts[:-1]], minlength=order.width)]
        for order in block.references
    ]


@dataclass(frozen=True)
class CandidateOrder:
    """Weighted n-grams of one length of some candidates, one row per caption and n-gram."""

    caption: Ints  # [rows]
    gram: Ints  # [rows] in the references' numbering; -1 for one that no reference has
    value: Floats  # [rows] count times weight


@dataclass(frozen=True)
class VectorOrder:
    """Weighted n-grams of one length of the references, to be looked up by (image, n-gram)."""

    keys: Ints  # [keys] image * width + gram, sorted
    starts: Ints  # [keys + 1]
    reference: Ints  # [rows]
    value: Floats  # [rows] count times weight
    norm: Floats  # [references] length of each reference's vector
    width: int

    @classmethod
    def build(cls, order: ReferenceOrder, weights: Floats, references: int) -> "VectorOrder":
        """Weigh the counts; ``weights`` [width] are those of the n-grams."""
        value = order.count * weights[order.gram] if len(order.gram) else np.zeros(0)
        return cls(
            order.keys,
            order.starts,
            order.reference,
            value,
            _norm(order.reference, value, references),
            order.width,
        )

    def dot(self, rows: CandidateOrder, image: Ints, to_pair: Ints, pairs: int, clip: bool) -> Floats:
        """[pairs]: products of each candidate's vector with those of its image's references."""
        known = rows.gram >= 0
        caption, value = rows.caption[known], rows.value[known]
        at, found = find(self.keys, image[caption] * self.width + rows.gram[known])
        at, caption, value = at[found], caption[found], value[found]
        start, many = self.starts[at], self.starts[at + 1] - self.starts[at]
        before = np.repeat(np.cumsum(many) - many, many)
        row = np.repeat(start, many) + np.arange(len(before)) - before  # [matches] a reference's row
        caption, value = np.repeat(caption, many), np.repeat(value, many)
        theirs = self.value[row]
        product = (np.minimum(value, theirs) if clip else value) * theirs
        pair = self.reference[row] + to_pair[caption]
        return np.bincount(pair, weights=product, minlength=pairs).astype(np.float64)  # int64 if empty


@dataclass(frozen=True)
class ReferenceVectors:
    """All that CIDEr needs to know of the references of some images; references are sorted by image."""

    orders: tuple[VectorOrder, ...]
    lengths: Ints  # [references] words
    per_image: Ints  # [images] number of references
    first: Ints  # [images] the first of them

    @classmethod
    def build(cls, orders: Sequence[VectorOrder], lengths: Ints, per_image: Ints) -> "ReferenceVectors":
        """Put together the references of some images."""
        return cls(tuple(orders), lengths, per_image, np.cumsum(per_image) - per_image)

    def score(
        self,
        candidates: Sequence[CandidateOrder],
        lengths: Ints,
        image: Ints,
        *,
        variant: Variant = "cider-d",
        sigma: float = SIGMA,
    ) -> Floats:
        """[captions]: CIDEr of captions with these n-grams and lengths (words), each for its image."""
        if variant not in ("cider-d", "cider"):
            raise InputError(f"unknown variant {variant!r} of CIDEr: choose 'cider-d' or 'cider'")
        clip = variant == "cider-d"
        many = self.per_image[image]  # [captions]
        to_pair = (
            np.cumsum(many) - many - self.first[image]
        )  # [captions] from a reference to its pair with it
        caption = np.repeat(np.arange(len(image)), many)  # [pairs]
        reference = np.arange(len(caption)) - to_pair[caption]  # [pairs]
        total = np.zeros(len(caption))
        for order, rows in zip(self.orders, candidates, strict=True):
            dot = order.dot(rows, image, to_pair, len(caption), clip)
            norms = _norm(rows.caption, rows.value, len(image))[caption] * order.norm[reference]
            total += np.divide(dot, norms, out=dot, where=norms != 0)
        if clip:
            # the reference code takes the number of bigrams for the length
            difference = np.maximum(lengths[caption] - 1, 0) - np.maximum(self.lengths[reference] - 1, 0)
            total *= np.exp(-(difference.astype(float) ** 2) / (2 * sigma**2))
        return np.bincount(caption, weights=total, minlength=len(image)) / MAX_ORDER / many * _SCALE


def _norm(owner: Ints, value: Floats, owners: int) -> Floats:
    return np.sqrt(np.bincount(owner, weights=value * value, minlength=owners))
