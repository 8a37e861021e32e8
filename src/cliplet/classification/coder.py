"""A photo's class by all texts of each class: CODER's neighbour scores, corrected.

CODER (Yi et al. 2024, arXiv 2404.17753; their released code) reads a photo by its cosines to many texts of each class,
``A`` attributes and ``G`` analogues beside the names ``N`` and synonyms ``S``:

    s_c = mean( { cos(x, t) : t in A_c and G_c } and { max of cos(x, t) : t in N_c and S_c } )

Photos whose first two classes are near each other are judged again, among their five best classes, by texts ``T(c, o)``
that say how c differs from o:

    r_c = mean over o of [ mean cos(x, T(c, o)) - mean cos(x, T(o, c)) ]

What is different here. (1) The released gate reads the true label (``gap < threshold and label in the top five``), with
a threshold for each data set; ours is the gap alone, with one threshold. (2) Each text is standardised by its cosines
to unlabelled photos, so that a text that is near to every photo counts no more than others, and a class with few texts
is read by the same scale as one with many. (3) Every kind of text has a weight (:class:`Rule`), however many texts a
class has of it; ``per_text`` gives the mean over texts above. Not compared with the published tables, whose texts are
others.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.background import Background
from cliplet.classification.bank import TEXT_KINDS, TextBank
from cliplet.encoders.base import Embeddings
from cliplet.errors import InputError

Standardise = Literal["none", "mean", "spread"]
Synonyms = Literal["best", "mean", "none"]
Floats32 = NDArray[np.float32]
TOP = 5
"""Classes among which the second stage chooses."""
CLIP_TEMPERATURE = 0.01
"""In cosines: the logit scale of 100 that CLIP's training ends at."""


@dataclass(frozen=True)
class Rule:
    """How the texts of a class become its score. The defaults were chosen on photos that no result is reported on."""

    names: float = 1.0
    """Weight of the names."""
    attributes: float = 1.0
    """Weight of the mean of the attributes."""
    analogues: float = 1.0
    """Weight of the mean of the analogues."""
    sentences: float = 1.0
    """Weight of the mean of the sentences."""
    synonyms: Synonyms = "best"
    """What counts of a class's name and synonyms: the ``best``, their ``mean``, or ``none`` but the name."""
    per_text: bool = False
    """Whether the weights are those of single texts, as CODER counts them, not of kinds."""
    standardise: Standardise = "spread"
    """By unlabelled photos, where there are any: subtract each text's mean cosine to them (``mean``) and divide by its
    standard deviation too (``spread``)."""
    gate: float = 0.1
    """Photos whose two best classes differ by less than this share of the softmax are judged again by the texts
    against other classes, where there are any; 0 for never."""

    def __post_init__(self) -> None:
        for name in ("names", "attributes", "analogues", "sentences", "gate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
                raise InputError(f"{name} must be a number from 0 up, not {value!r}")
        if not any((self.names, self.attributes, self.analogues, self.sentences)):
            raise InputError("a rule needs one weight above 0")
        if self.standardise not in get_args(Standardise):
            raise InputError(f"standardise must be one of {', '.join(get_args(Standardise))}")
        if self.synonyms not in get_args(Synonyms):
            raise InputError(f"synonyms must be one of {', '.join(get_args(Synonyms))}")


@dataclass(frozen=True)
class TextHead:
    """Scores of C classes for unit vectors of photos: ``x @ linear.T + bias``, and the best of the names beside it."""

    linear: Floats32
    """[C, d] sum of all that is not chosen by a maximum, weights and spreads included."""
    bias: Floats32
    """[C]; empty for none."""
    best: Floats32
    """[names, d] names and synonyms among which each class takes the best; empty for none."""
    best_bias: Floats32
    """[names]."""
    best_starts: NDArray[np.int64]
    """[C] first row of each class in ``best``."""
    pairs: Floats32
    """[pairs, d] texts of a class against another one."""
    pair_bias: Floats32
    """[pairs]."""
    pair_keys: NDArray[np.int64]
    """[pairs] ``c * C + o``, growing."""
    gate: float
    """See :class:`Rule`."""
    temperature: float
    """What :data:`CLIP_TEMPERATURE` is in the unit of these scores."""

    def scores(self, photos: Embeddings) -> Floats32:
        """[n, C] for unit vectors [n, d]; the second stage is in them, so that their order is the answer."""
        found = self.first_stage(photos)
        return (
            found
            if self.gate <= 0 or not len(self.pairs) or found.shape[1] < 2
            else self._again(photos, found)
        )

    def first_stage(self, photos: Embeddings) -> Floats32:
        """[n, C] before the second stage."""
        found = photos @ self.linear.T
        if len(self.bias):
            found = found + self.bias
        if len(self.best):
            named = photos @ self.best.T + self.best_bias
            found = found + np.maximum.reduceat(named, self.best_starts, axis=1)
        return np.asarray(found, dtype=np.float32)

    def _again(self, photos: Embeddings, scores: Floats32) -> Floats32:
        """The scores, those of the best classes dealt out anew where the first two are too near to each other."""
        top = min(TOP, scores.shape[1])
        order = np.argpartition(-scores, top - 1, axis=1)[:, :top]
        values = np.take_along_axis(scores, order, axis=1)
        by_value = np.argsort(-values, axis=1, kind="stable")
        order = np.take_along_axis(order, by_value, axis=1)
        values = np.take_along_axis(values, by_value, axis=1)
        peak = scores.max(axis=1, keepdims=True)
        total = np.exp((scores - peak) / self.temperature).sum(axis=1)
        gap = (1 - np.exp((values[:, 1] - values[:, 0]) / self.temperature)) / total
        near = np.flatnonzero(gap < self.gate)
        if not len(near):
            return scores
        lead = self._lead(photos[near], order[near], scores.shape[1])  # [near, top]
        # scores of the first stage break ties of the second, as where no two classes have texts
        place = np.argsort(-lead, axis=1, kind="stable")
        dealt = values[near]
        for i in range(1, top):  # equal scores would hide the new order
            dealt[:, i] = np.minimum(dealt[:, i], np.nextafter(dealt[:, i - 1], np.float32(-np.inf)))
        found = scores.copy()
        found[near[:, None], np.take_along_axis(order[near], place, axis=1)] = dealt
        return found

    def _lead(self, photos: Embeddings, order: NDArray[np.int64], classes: int) -> Floats32:
        """r_c [n, top] of the classes in ``order``."""
        cosines = photos @ self.pairs.T + self.pair_bias  # [n, pairs]
        keys = order[:, :, None] * classes + order[:, None, :]  # [n, c, o]
        at = np.minimum(np.searchsorted(self.pair_keys, keys), len(self.pair_keys) - 1)
        there = self.pair_keys[at] == keys
        said = np.where(
            there, np.take_along_axis(cosines, at.reshape(len(at), -1), axis=1).reshape(at.shape), 0
        )
        both = there & there.transpose(0, 2, 1)  # one side alone says nothing of the difference
        difference = np.where(both, said - said.transpose(0, 2, 1), 0)
        return np.asarray(difference.sum(axis=2) / max(1, order.shape[1] - 1), dtype=np.float32)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Its arrays by name, to be saved."""
        return {k: v for k, v in self.__dict__.items() if isinstance(v, np.ndarray)}


def make_head(bank: TextBank, rule: Rule, unlabelled: Background | None = None) -> TextHead:
    """Join the texts of all classes into a few matrices.

    Args:
        bank: their vectors.
        rule: how they count.
        unlabelled: photos for the standardisation; without them there is none.
    """
    if rule.synonyms == "none":
        bank = replace(bank, names=bank.own_names, name_class=np.arange(bank.classes))
    names, name_shift = _standardised(bank.names, rule, unlabelled)
    texts, text_shift = _standardised(bank.texts, rule, unlabelled)
    pairs, pair_shift = _standardised(bank.pairs, rule, unlabelled)
    text_weight, name_weight = _weights(bank, rule)
    count = bank.classes
    linear, bias = _sums(texts * text_weight[:, None], text_shift * text_weight, bank.text_class, count)
    counts = np.bincount(bank.name_class, minlength=count)
    best, best_shift = names[:0], name_shift[:0]
    if rule.synonyms == "best" and counts.max() > 1:
        best, best_shift = (v * (name_weight * counts)[bank.name_class][(...,) + (None,) * (v.ndim - 1)]
                            for v in (names, name_shift))  # fmt: skip
    else:
        share = name_weight[bank.name_class]
        more, shift = _sums(names * share[:, None], name_shift * share, bank.name_class, count)
        linear, bias = linear + more, bias + shift
    spread = (
        1.0
        if unlabelled is None or rule.standardise != "spread"
        else float(np.linalg.norm(names, axis=1).mean())
    )
    keys = bank.pair_classes[:, 0] * count + bank.pair_classes[:, 1]
    order = np.argsort(keys, kind="stable")
    return TextHead(
        linear=linear.astype(np.float32),
        bias=bias.astype(np.float32) if unlabelled is not None else np.empty(0, np.float32),
        best=best.astype(np.float32),
        best_bias=best_shift.astype(np.float32),
        best_starts=np.searchsorted(bank.name_class, np.arange(count)),
        pairs=pairs[order].astype(np.float32),
        pair_bias=pair_shift[order].astype(np.float32),
        pair_keys=keys[order],
        gate=rule.gate,
        temperature=CLIP_TEMPERATURE * spread,
    )


def _standardised(
    vectors: Embeddings, rule: Rule, unlabelled: Background | None
) -> tuple[Floats32, Floats32]:
    """Vectors and shifts such that ``x @ vector + shift`` is the standardised cosine."""
    if unlabelled is None or rule.standardise == "none":
        return vectors, np.zeros(len(vectors), dtype=np.float32)
    mean, spread = unlabelled.moments(vectors)
    if rule.standardise == "mean":
        spread = np.ones_like(spread)
    return vectors / spread[:, None], -mean / spread


def _weights(bank: TextBank, rule: Rule) -> tuple[Floats32, Floats32]:
    """[texts] and [C]: weights of every text, and of every name of a class; of one class they sum to 1."""
    count, kinds = bank.classes, len(TEXT_KINDS)
    of_kind = np.array([getattr(rule, kind) for kind in TEXT_KINDS], dtype=np.float64)
    cell = bank.text_class * kinds + bank.text_kind
    number = np.bincount(cell, minlength=count * kinds).reshape(count, kinds)
    each = of_kind if rule.per_text else of_kind / np.maximum(number, 1)  # [C, kinds] or [kinds]
    each = np.broadcast_to(each, number.shape)
    total = (each * number).sum(axis=1) + rule.names
    lone = total <= 0  # a class that has only kinds of no weight keeps its name
    total = np.where(lone, 1.0, total)
    names = np.where(lone, 1.0, rule.names) / total / np.bincount(bank.name_class, minlength=count)
    texts = (each / total[:, None]).ravel()[cell]
    return texts.astype(np.float32), names.astype(np.float32)


def _sums(
    rows: Floats32, shifts: Floats32, owner: NDArray[np.int64], count: int
) -> tuple[Floats32, Floats32]:
    """Sums [count, d] and [count] of the rows and shifts of each owner; owners grow."""
    total = np.zeros((count, rows.shape[1]), dtype=np.float32)
    shift = np.zeros(count, dtype=np.float32)
    if len(rows):
        there, starts = np.unique(owner, return_index=True)
        total[there] = np.add.reduceat(rows, starts, axis=0)
        shift[there] = np.add.reduceat(shifts, starts)
    return total, shift
