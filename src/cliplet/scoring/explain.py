"""Why a caption has its score: shares of its phrases, where the photo shows them, and the word most likely wrong."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput, load_rgb
from cliplet.data.spans import Span
from cliplet.data.text import caption_problem
from cliplet.encoders.base import Embeddings, Encoder
from cliplet.errors import InputError, ModelError
from cliplet.scoring.background import SENTENCES
from cliplet.scoring.occlusion import Region, covered, falls, region
from cliplet.scoring.scorer import Scorer
from cliplet.scoring.shapley import shapley_values, subsets
from cliplet.scoring.units import Word, sentences, units, without, words
from cliplet.scoring.wrong_word import Variants, WordDoubt, doubts, variants

NEUTRAL = "a photo"
"""What stands for a sentence of which nothing is left."""
MOST_SENTENCES = 16
"""Sentences of one caption that are explained."""
MOST_CANDIDATES = 40
"""Words of one sentence that are doubted; a longer one is judged by its phrases alone."""
SUPPORTED, CONTRADICTED = 2.0, 1.0
"""Heights above the background, in spreads: from the first on a sentence is supported, below the second it is not."""

Verdict = Literal["supported", "doubtful", "not supported"]


@dataclass(frozen=True)
class Unit:
    """A word or phrase with its part in the score of its sentence."""

    text: str
    """Its words."""
    start: int
    """Place of its first character in the caption."""
    end: int
    """Place after its last character."""
    share: float
    """Its Shapley value in the score's unit: the shares of a sentence sum to its score less that of ``a photo``, both
    before negative ones are set to 0."""
    left_out: float
    """Change of the score when it alone is left out; above 0: the score is better without it."""
    region: Region | None = None
    """Where the photo shows it; None where regions were not asked for, nothing falls, or
    the words ("under") show nothing by themselves."""


@dataclass(frozen=True)
class SentenceJudgement:
    """One sentence, judged by itself."""

    text: str
    """The sentence."""
    start: int
    """Place of its first character in the caption."""
    end: int
    """Place after its last character."""
    score: float
    """Its own score, by the same preset."""
    height: float
    """How far it stands above what everyday sentences get with this photo, in their spreads."""
    verdict: Verdict
    """Whether the photo supports it, by its height."""
    units: tuple[Unit, ...]
    """At most eight words and phrases that hold all its words."""
    words: tuple[WordDoubt, ...]
    """All its words; empty where the sentence has too many, or words were not asked for."""
    neutral: float
    """The score of ``a photo``, before a negative one is set to 0."""
    truncated: bool = False
    """Whether the model cut it."""

    @property
    def wrong_word(self) -> WordDoubt | None:
        """The word most likely wrong if one is; None without words."""
        return max(self.words, key=lambda word: word.probability, default=None)


@dataclass(frozen=True)
class Explanation:
    """Why one caption has its score with one photo."""

    caption: str
    """The caption."""
    score: float
    """Its score, as :func:`cliplet.score` gives it."""
    sentence_score: float
    """Mean of the sentences' scores; the caption's own score where it is one sentence."""
    sentences: tuple[SentenceJudgement, ...]
    """Its sentences in order."""
    preset: str
    """How scores are made from cosines."""
    model: str
    """The model's name."""
    fingerprint: str
    """Of its weights."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know, such as a sentence that was cut."""

    @property
    def wrong_word(self) -> WordDoubt | None:
        """The word most likely wrong: that of the sentence which the photo supports least."""
        with_words = [s for s in self.sentences if s.words]
        return min(with_words, key=lambda s: s.height).wrong_word if with_words else None

    @property
    def message(self) -> str:
        """The explanation in plain English: one or two sentences."""
        return " ".join(filter(None, (_of_sentences(self.sentences), _of_word(self))))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON, numbers with six decimals."""
        wrong = self.wrong_word
        return {
            "caption": self.caption,
            "score": _round(self.score),
            "sentence_score": _round(self.sentence_score),
            "message": self.message,
            "wrong_word": None if wrong is None else _word(wrong),
            "sentences": [_sentence(s) for s in self.sentences],
            "notes": self.notes,
            "provenance": {"model": self.model, "fingerprint": self.fingerprint, "preset": self.preset},
        }


class Explainer:
    """Explains captions with one scorer; what does not depend on the photo is encoded once.

    Args:
        model: an Encoder, or what :func:`cliplet.load` takes; default the packaged model.
        preset: ``paper``, ``torchmetrics`` or ``cosine``.
        scorer: a scorer to use in their place.
    """

    def __init__(
        self,
        model: Encoder | str | Path | None = None,
        preset: str = "paper",
        scorer: Scorer | None = None,
    ) -> None:
        self.scorer = scorer or Scorer(model, preset)
        self.encoder, self.preset = self.scorer.encoder, self.scorer.preset
        card = self.encoder.card
        self.factor = card.score.w if self.preset.factor is None else self.preset.factor
        self.prefix = card.text.prompt_prefix if self.preset.with_prefix else ""
        self._background: Embeddings | None = None

    def explain(
        self, photo: ImageInput, caption: str, regions: bool = True, doubt_words: bool = True
    ) -> Explanation:
        """Explain one caption; arguments, result and errors as of :func:`explain`."""
        problem = caption_problem(caption)
        if problem is not None:
            raise InputError(problem)
        image = load_rgb(photo)
        vector, covers = self._images(image, regions)
        parts = sentences(caption)
        notes = []
        if len(parts) > MOST_SENTENCES:
            notes.append(f"only the first {MOST_SENTENCES} of {len(parts)} sentences are explained")
        plans = [
            _Plan(part, doubt_words) for part in parts[:MOST_SENTENCES] or [Span(caption, 0, len(caption))]
        ]
        texts = dict.fromkeys([NEUTRAL, caption, *(text for plan in plans for text in plan.texts)])
        known = _Texts(*self._encoded(list(texts)), list(texts))
        background = self._background_cosines(vector)
        judged = tuple(self._judge(plan, known, vector, background, covers) for plan in plans)
        notes += [
            f"a sentence is longer than the model reads and was cut: {s.text}" for s in judged if s.truncated
        ]
        if known.truncated(caption) and len(judged) > 1:
            notes.append(
                "the whole caption is longer than the model reads: its own score is that of its beginning"
            )
        score = self._points(float(known.cosine(caption, vector)))
        return Explanation(
            caption, score, float(np.mean([s.score for s in judged])) if len(judged) > 1 else score, judged,
            self.preset.name, self.encoder.card.name, self.encoder.card.fingerprint, notes,
        )  # fmt: skip

    def _images(self, image: Any, regions: bool) -> tuple[Embeddings, Embeddings | None]:
        """The photo's vector ``[d]`` and those of its covered copies ``[n, d]``."""
        vectors, reasons = self.encoder.encode_images_safely([image, *(covered(image) if regions else ())])
        if reasons:
            raise InputError(reasons[min(reasons)])
        return vectors[0], vectors[1:] if regions else None

    def _encoded(self, texts: list[str]) -> tuple[Embeddings, NDArray[np.bool_]]:
        vectors, truncated, reasons = self.encoder.encode_texts_safely([self.prefix + text for text in texts])
        if reasons:
            raise ModelError(f"{texts[min(reasons)]!r}: {reasons[min(reasons)]}")
        return vectors, truncated

    def _background_cosines(self, vector: Embeddings) -> NDArray[np.float64]:
        if self._background is None:
            self._background = self._encoded(list(SENTENCES))[0]
        return np.asarray(self._background @ vector, dtype=np.float64)

    def _points(self, cosine: float) -> float:
        return float(self.preset.apply(np.float32(cosine), self.encoder.card.score.w))

    def _judge(
        self,
        plan: "_Plan",
        known: "_Texts",
        photo: Embeddings,
        background: NDArray[np.float64],
        covers: Embeddings | None,
    ) -> SentenceJudgement:
        """One sentence from the vectors of its texts."""
        cosine = known.cosine(plan.sentence.text, photo)
        values = np.array([known.cosine(text, photo) for text in plan.coalitions])
        shares = shapley_values(values) * self.factor
        found = []
        for k, unit in enumerate(plan.units):
            alone = values[-1 - (1 << k)] - values[-1]
            place = self._region(plan, k, known, photo, covers)
            at = plan.sentence.start
            found.append(
                Unit(
                    unit.text,
                    at + unit.start,
                    at + unit.end,
                    float(shares[k]),
                    float(alone * self.factor),
                    place,
                )
            )
        spread = float(background.std())
        height = (cosine - float(background.mean())) / max(spread, 1e-6)
        return SentenceJudgement(
            plan.sentence.text, plan.sentence.start, plan.sentence.end, self._points(cosine), height,
            verdict(height), tuple(found), self._doubts(plan, known, photo, cosine, spread),
            known.cosine(NEUTRAL, photo) * self.factor, known.truncated(plan.sentence.text),
        )  # fmt: skip

    def _region(
        self, plan: "_Plan", k: int, known: "_Texts", photo: Embeddings, covers: Embeddings | None
    ) -> Region | None:
        if covers is None or not plan.shows(k):
            return None
        # what the phrase adds to its sentence, so that the rest of the sentence has no part in the place
        rest = plan.coalitions[-1 - (1 << k)] if len(plan.units) > 1 else NEUTRAL
        direction = known.vector(plan.sentence.text) - known.vector(rest or NEUTRAL)
        return region(
            falls(float(direction @ photo), (covers @ direction).tolist()) * np.float32(self.factor)
        )

    def _doubts(
        self, plan: "_Plan", known: "_Texts", photo: Embeddings, cosine: float, spread: float
    ) -> tuple[WordDoubt, ...]:
        if plan.variants is None:
            return ()
        left_out = [known.cosine(text or NEUTRAL, photo) for text in plan.variants.without]
        near = [(known.cosine(a, photo), known.cosine(b, photo)) for a, b in plan.variants.near]
        others = [[(w, known.cosine(text, photo)) for w, text in own] for own in plan.variants.others]
        found = doubts(plan.words, cosine, left_out, near, others, spread, self.factor)
        return tuple(_moved(word, plan.sentence.start) for word in found)


def explain(
    photo: ImageInput,
    caption: str,
    model: Encoder | str | Path | None = None,
    preset: str = "paper",
    regions: bool = True,
    doubt_words: bool = True,
) -> Explanation:
    """Say why a caption has its score with a photo.

    Args:
        photo: a path, a PIL image, an array, a tensor or encoded bytes.
        caption: the caption; one of several sentences is judged sentence by sentence.
        model: an Encoder, or what :func:`cliplet.load` takes; default the packaged model.
        preset: ``paper``, ``torchmetrics`` or ``cosine``: the unit of all shares.
        regions: whether to find each phrase in the photo, which encodes it 98 times more, covered in part.
        doubt_words: whether to look for the word most likely wrong, which encodes some hundred texts a sentence.

    Returns:
        An Explanation: shares, regions, the doubt of each word, a verdict for each sentence, a plain message.

    Raises:
        InputError: the photo or the caption cannot be used.
        ModelError: the model gives no finite embedding for a part of the caption.

    Example:
        >>> import cliplet
        >>> print(cliplet.explain("dog.jpg", "a cat on the beach").message)  # doctest: +SKIP
    """
    if model is None or isinstance(model, (str, Path)):
        explainer = _explainer(None if model is None else str(model), preset, os.getpid())
    else:
        explainer = Explainer(model, preset)
    return explainer.explain(photo, caption, regions, doubt_words)


@lru_cache(maxsize=2)
def _explainer(model: str | None, preset: str, process: int) -> Explainer:
    return Explainer(model, preset)


def verdict(height: float) -> Verdict:
    """What a sentence's height above the background says."""
    return "supported" if height >= SUPPORTED else "doubtful" if height >= CONTRADICTED else "not supported"


class _Plan:
    """One sentence and the texts that explaining it needs."""

    def __init__(self, sentence: Span, doubt_words: bool) -> None:
        self.sentence = sentence
        self.words: list[Word] = words(sentence.text)
        self.units = units(self.words, sentence.text) or [Span(sentence.text, 0, len(sentence.text))]
        everything = range(len(self.units))
        # subset i holds the units whose bits i has
        self.coalitions = [
            without(sentence.text, [self.units[k] for k in everything if k not in kept]) if kept else NEUTRAL
            for kept in subsets(len(self.units))
        ]
        self.coalitions[-1] = sentence.text
        self.variants: Variants | None = None
        if doubt_words and 0 < len(self.words) <= MOST_CANDIDATES:
            self.variants = variants(sentence.text, self.words)

    def shows(self, k: int) -> bool:
        """Whether a photo can show unit ``k``: it holds a word of a kind, other than a place, or no word has one."""
        unit = self.units[k]
        own = [w.kind for w in self.words if unit.start <= w.start < unit.end]
        return any(kind not in (None, "place") for kind in own) or all(w.kind is None for w in self.words)

    @property
    def texts(self) -> Iterable[str]:
        """All of them; an empty one is the neutral text."""
        more = self.variants.texts if self.variants else []
        return filter(None, [self.sentence.text, *self.coalitions, *more])


class _Texts:
    """Vectors of texts, each encoded once."""

    def __init__(self, vectors: Embeddings, cut: NDArray[np.bool_], texts: Sequence[str]) -> None:
        self._vectors, self._cut = vectors, cut
        self._place = {text: i for i, text in enumerate(texts)}

    def vector(self, text: str) -> Embeddings:
        return self._vectors[self._place[text]]

    def cosine(self, text: str, photo: Embeddings) -> float:
        return float(self.vector(text or NEUTRAL) @ photo)

    def truncated(self, text: str) -> bool:
        return bool(self._cut[self._place[text]])


def _moved(word: WordDoubt, by: int) -> WordDoubt:
    """The word with its place in the caption instead of in the sentence."""
    if not by:
        return word
    return WordDoubt(**{**vars(word), "start": word.start + by, "end": word.end + by})


def _of_sentences(judged: Sequence[SentenceJudgement]) -> str:
    if len(judged) == 1:
        return {
            "supported": "As a whole the photo supports this caption.",
            "doubtful": "The photo supports this caption only in part.",
            "not supported": "The photo does not support this caption.",
        }[judged[0].verdict]
    count = sum(s.verdict == "supported" for s in judged)
    least = min(judged, key=lambda s: s.height)
    return (
        f'The photo supports {count} of {len(judged)} sentences; least of all "{least.text.rstrip(" .!?")}".'
    )


def _of_word(explanation: Explanation) -> str:
    wrong = explanation.wrong_word
    if wrong is None:
        return ""
    text = f'If one word is wrong, it is most likely "{wrong.text}" ({100 * wrong.probability:.0f} %)'
    if wrong.better:
        text += f': "{wrong.better[0][0]}" in its place would add {wrong.better[0][1]:.3f}'
    elif wrong.left_out > 0:
        text += f": leaving it out would add {wrong.left_out:.3f}"
    return text + "."


def _sentence(judged: SentenceJudgement) -> dict[str, Any]:
    return {
        "text": judged.text,
        "score": _round(judged.score),
        "height": _round(judged.height),
        "verdict": judged.verdict,
        "neutral": _round(judged.neutral),
        "truncated": judged.truncated,
        "units": [
            {"text": u.text, "start": u.start, "end": u.end, "share": _round(u.share), "left_out": _round(u.left_out),
             "region": None if u.region is None else _region(u.region)}
            for u in judged.units
        ],
        "words": [_word(word) for word in judged.words],
    }  # fmt: skip


def _region(found: Region) -> dict[str, Any]:
    return {
        "x": _round(found.x),
        "y": _round(found.y),
        "box": [_round(v) for v in found.box],
        "fall": _round(found.fall),
        "map": [[_round(v) for v in row] for row in found.map.tolist()],
    }


def _word(word: WordDoubt) -> dict[str, Any]:
    return {
        "text": word.text, "start": word.start, "end": word.end, "kind": word.kind,
        "left_out": _round(word.left_out), "probability": _round(word.probability),
        "better": [{"word": other, "gain": _round(gain)} for other, gain in word.better],
    }  # fmt: skip


def _round(value: float) -> float:
    return round(float(value), 6)
