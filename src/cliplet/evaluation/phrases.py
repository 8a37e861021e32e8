"""Does a model know what a box shows? One box, one true phrase and edited ones; and one box among class names.

Whoever has embeddings of boxes calls :func:`phrase_test` and :func:`box_naming`; the edited phrases come from
:func:`phrase_questions`. Chance and what blind guessers get stand beside every figure.

Source: FG-CLIP's test on FG-OVD (arXiv 2505.05071), with edited phrases by rule instead of FG-OVD's.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import InputError
from cliplet.evaluation.fluency import fair_choice
from cliplet.evaluation.hard_negatives import KINDS, Kind, Words, swap_words
from cliplet.evaluation.pairs import words_of
from cliplet.statistics.kendall import Floats
from cliplet.statistics.resampling import Interval, bootstrap_mean

Vectors = NDArray[np.floating[Any]]
"""Embeddings of any precision."""
Encode = Callable[[Sequence[str]], Vectors]
"""Texts to embeddings ``[n, d]``, unit norm."""


@dataclass(frozen=True)
class PhraseQuestion:
    """One box with phrases of which one fits."""

    photo: str
    """The photo's name; boxes of one photo are drawn together in intervals."""
    true: str
    """The phrase that fits."""
    false: tuple[str, ...]
    """Phrases that do not, one at least."""
    kinds: tuple[str, ...] = ()
    """What was changed in each of ``false``."""


@dataclass(frozen=True)
class PhraseResult:
    """One share of questions answered."""

    name: str
    """``all``, a number of candidates such as ``4-way``, or the kind of word."""
    interval: Interval
    """Share of questions whose true phrase is nearest of all; a tie is not."""
    chance: float
    """What guessing gets: the mean of 1 / candidates."""
    blind: dict[str, float]
    """What guessers that do not see the box get, by name."""


@dataclass(frozen=True)
class NamingResult:
    """Boxes named by their nearest class."""

    boxes: Interval
    """Share of boxes."""
    classes: float
    """Mean of the classes' shares, over those that occur."""
    chance: float
    """1 / classes offered."""
    commonest: float
    """What always naming the commonest class gets."""
    by_class: dict[str, tuple[float, int]]
    """Share and number of boxes of each class that occurs."""


def edited_phrases(
    phrase: str,
    captions: Sequence[str],
    most: int,
    seed: int = 0,
    kinds: Sequence[Kind] = KINDS,
    words: Words = "all",
    words_seed: int = 0,
    frequencies: Mapping[str, int] | None = None,
) -> list[tuple[str, Kind]]:
    """False phrases that differ from a true one in one word, and the kind of word.

    Args:
        phrase: the true one.
        captions: of its photo; nothing that they mention is put in.
        most: how many at most; the kinds take turns.
        seed: of the words put in, with the phrase's text.
        kinds: of words to change.
        words: the part of the word pairs (:func:`~cliplet.evaluation.hard_negatives.in_words`).
        words_seed: of that split.
        frequencies: how often people use each word.
    """
    own = [phrase, *captions]
    found: list[list[tuple[str, Kind]]] = []
    for kind in kinds:
        key = zlib.crc32(f"{kind}\t{phrase}".encode("utf-8", "surrogatepass"))
        rng = np.random.default_rng([seed, key])
        swapped = swap_words(phrase, kind, rng, 2 * most, own, frequencies, words, words_seed)
        different = dict.fromkeys(text for text, _, _ in swapped)  # "7" and "seven" may come out as one
        found.append([(text, kind) for text in different])
    return [several[n] for n in range(most) for several in found if n < len(several)][:most]


def phrase_questions(
    phrases: Sequence[str],
    photos: Sequence[str],
    captions: Sequence[Sequence[str]],
    most: int = 10,
    seed: int = 0,
    words: Words = "all",
    words_seed: int = 0,
    kinds: Sequence[Kind] = KINDS,
    balanced: bool = False,
) -> tuple[list[int], list[PhraseQuestion]]:
    """Questions about boxes whose phrases can be edited.

    With many edited phrases a question is easy to guess: people write "dog" and "two" more often than what is put in
    their place, so the phrase of the commonest words is mostly the true one. ``balanced`` asks about one edited phrase
    at a time and leaves out so many questions that the commoner word and the length tell nothing.

    Args:
        phrases: the true phrase of each box.
        photos: the name of each box's photo.
        captions: all captions of each box's photo.
        most: edited phrases a box, at most.
        seed: see :func:`edited_phrases`.
        words: the part of the word pairs: ``test`` where a model has learnt on ``train``.
        words_seed: of that split.
        kinds: of words to change.
        balanced: ask about each edited phrase by itself, and as often about a commoner word as about a rarer one.

    Returns:
        The box of each question, and the questions.
    """
    said = dict(zip(photos, captions, strict=True))
    frequencies = Counter(w for own in said.values() for caption in own for w in words_of(caption))
    rows, questions = [], []
    for row, (phrase, photo) in enumerate(zip(phrases, photos, strict=True)):
        edited = edited_phrases(phrase, said[photo], most, seed, kinds, words, words_seed, frequencies)
        if edited:
            texts, changed = zip(*edited, strict=True)
            rows.append(row)
            questions.append(PhraseQuestion(photo, phrase, texts, changed))
    return _balanced(rows, questions, frequencies) if balanced else (rows, questions)


def _balanced(
    rows: Sequence[int], questions: Sequence[PhraseQuestion], frequencies: Mapping[str, int]
) -> tuple[list[int], list[PhraseQuestion]]:
    """Questions of one edited phrase each, those that nobody can answer by the words alone."""
    single = [
        (row, PhraseQuestion(q.photo, q.true, (text,), (kind,)))
        for row, q in zip(rows, questions, strict=True)
        for text, kind in zip(q.false, q.kinds, strict=True)
    ]
    fair = fair_edits([(q.true, q.false[0], q.kinds[0], q.photo) for _, q in single], frequencies)
    kept = [one for one, stays in zip(single, fair, strict=True) if stays]
    return [row for row, _ in kept], [q for _, q in kept]


def fair_edits(
    edits: Sequence[tuple[str, str, str, str]], frequencies: Mapping[str, int]
) -> NDArray[np.bool_]:
    """Which edited phrases to keep so that they are as often of commoner words, and longer, as their true ones.

    Args:
        edits: true phrase, edited one, kind of word, photo.
        frequencies: how often people use each word.
    """
    if not edits:
        return np.zeros(0, dtype=bool)

    def usual(text: str) -> float:
        return sum(math.log(frequencies.get(word, 0) + 0.1) for word in words_of(text))

    gaps = [(usual(true) - usual(false), len(false) - len(true)) for true, false, _, _ in edits]
    order = [
        zlib.crc32(f"{photo}\t{true}\t{false}".encode("utf-8", "surrogatepass"))
        for true, false, _, photo in edits
    ]
    return fair_choice(np.array(gaps, dtype=np.float64), [kind for _, _, kind, _ in edits], order)


def phrase_test(
    regions: Vectors,
    questions: Sequence[PhraseQuestion],
    encode: Encode,
    whole: Vectors | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> list[PhraseResult]:
    """How often the true phrase is nearer to the box than every edited one.

    Args:
        regions: embedding of each question's box ``[n, d]``, any length.
        questions: row by row.
        encode: texts to embeddings.
        whole: embeddings of the photos ``[n, d]``, which then stand among the guessers: what the photo as a whole says,
            without the box.
        resamples: of the intervals, by photo.
        seed: of them.

    Returns:
        All questions, then by number of candidates, then by kind of word (the true phrase against those of one kind).

    Raises:
        InputError: no question, or another number of boxes.
    """
    if not questions or len(regions) != len(questions):
        raise InputError(
            f"a phrase test of {len(questions)} questions on {len(regions)} boxes: give one box each"
        )
    candidates = _candidates(questions, encode)
    seen = {"": np.asarray(regions, dtype=np.float64)}
    if whole is not None:
        seen["this model, whole photo"] = np.asarray(whole, dtype=np.float64)
    mean = _unit(seen[""]).mean(axis=0)
    scores: dict[str, list[Floats]] = {name: [] for name in (*seen, "this model, average box")}
    for n, own in enumerate(candidates):
        for name, boxes in seen.items():
            scores[name].append(own @ boxes[n])
        scores["this model, average box"].append(own @ mean)
    scores |= _guesses(questions)
    photos = [q.photo for q in questions]

    def result(
        name: str, chosen: Sequence[int], among: Callable[[PhraseQuestion], list[int]]
    ) -> PhraseResult:
        taken = [(n, [0, *among(questions[n])]) for n in chosen]
        wins = {
            who: np.array([_won(values[n][places], who == "") for n, places in taken])
            for who, values in scores.items()
        }
        interval = bootstrap_mean(wins.pop(""), [photos[n] for n, _ in taken], resamples, seed=seed)
        chance = float(np.mean([1 / len(places) for _, places in taken]))
        return PhraseResult(name, interval, chance, {who: float(w.mean()) for who, w in wins.items()})

    def every(question: PhraseQuestion) -> list[int]:
        return list(range(1, 1 + len(question.false)))

    ways = sorted({1 + len(q.false) for q in questions})
    kinds = list(dict.fromkeys(k for q in questions for k in q.kinds))
    results = [result("all", range(len(questions)), every)]
    for way in ways if len(ways) > 1 else ():
        results.append(
            result(f"{way}-way", [n for n, q in enumerate(questions) if 1 + len(q.false) == way], every)
        )
    for kind in kinds:

        def of_kind(question: PhraseQuestion, kind: str = kind) -> list[int]:
            return [i for i, k in enumerate(question.kinds, 1) if k == kind]

        results.append(result(kind, [n for n, q in enumerate(questions) if kind in q.kinds], of_kind))
    return results


def phrase_wins(regions: Vectors, questions: Sequence[PhraseQuestion], encode: Encode) -> Floats:
    """1 for each question whose true phrase is nearer to the box than every edited one, else 0 ``[n]``.

    Args:
        regions: embedding of each question's box ``[n, d]``, any length.
        questions: row by row.
        encode: texts to embeddings.
    """
    candidates = _candidates(questions, encode)
    return np.array([_won(own @ box, True) for own, box in zip(candidates, regions, strict=True)])


def _candidates(questions: Sequence[PhraseQuestion], encode: Encode) -> list[Floats]:
    """Embeddings of each question's phrases, the true one first; equal texts are embedded once."""
    texts = list(dict.fromkeys(t for q in questions for t in (q.true, *q.false)))
    row = {text: i for i, text in enumerate(texts)}
    embedded = np.asarray(encode(texts), dtype=np.float64)
    return [embedded[[row[t] for t in (q.true, *q.false)]] for q in questions]


def _won(scores: Floats, strict: bool) -> float:
    """Whether the first score is the largest; of guessers a tie counts its share."""
    tied = int((scores == scores.max()).sum())
    first = scores[0] == scores.max()
    return float(first and tied == 1) if strict else float(first) / tied


def _guesses(questions: Sequence[PhraseQuestion]) -> dict[str, list[Floats]]:
    """What guessers that read the phrases alone think of each candidate; see :func:`~.pairs.blind_wins`.

    Words count as the questions on other photos use them, true and edited phrases with equal weight.
    """
    own: dict[str, dict[str, float]] = {}
    counts: dict[str, float] = {}
    for question in questions:
        of_photo = own.setdefault(question.photo, {})
        for word, times in _used(question).items():
            for into in (of_photo, counts):
                into[word] = into.get(word, 0.0) + times

    def usual(text: str, here: Mapping[str, float]) -> float:
        values = [math.log(max(0.0, counts[w] - here[w]) + 0.1) for w in words_of(text)]
        return float(np.mean(values)) if values else 0.0

    found: dict[str, list[Floats]] = {"shorter": [], "longer": [], "commoner words": []}
    for question in questions:
        texts = (question.true, *question.false)
        lengths = np.array([len(t) for t in texts], dtype=np.float64)
        found["shorter"].append(-lengths)
        found["longer"].append(lengths)
        found["commoner words"].append(np.array([usual(t, own[question.photo]) for t in texts]))
    return found


def _used(question: PhraseQuestion) -> dict[str, float]:
    """How often a question uses each word: its true phrase counts as much as all edited ones."""
    found = dict.fromkeys(words_of(question.true), 1.0)
    for text in question.false:
        for word in set(words_of(text)):
            found[word] = found.get(word, 0.0) + 1 / len(question.false)
    return found


def _unit(x: Floats) -> Floats:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def box_naming(
    regions: Vectors,
    labels: Sequence[str],
    classes: Sequence[str],
    encode: Encode,
    photos: Sequence[str] | None = None,
    template: str = "a photo of a {}.",
    resamples: int = 1000,
    seed: int = 0,
) -> NamingResult:
    """How often a box is nearest to its class among all class names. Labels of a detector are its own, not people's.

    Args:
        regions: embedding of each box ``[n, d]``, any length.
        labels: its class.
        classes: the names to choose from.
        encode: texts to embeddings.
        photos: the photo of each box, for the interval.
        template: the text of a class, ``{}`` for its name.
        resamples: of the interval.
        seed: of it.

    Raises:
        InputError: no box, or a label that is none of the classes.
    """
    number = {name: i for i, name in enumerate(classes)}
    unknown = sorted({label for label in labels if label not in number})
    if unknown or not len(labels) or len(labels) != len(regions):
        raise InputError(
            f"naming {len(regions)} boxes with {len(labels)} labels, {len(unknown)} of them no class: give each box "
            "one of the classes"
        )
    texts = np.asarray(encode([template.replace("{}", name) for name in classes]), dtype=np.float64)
    wanted = np.array([number[label] for label in labels])
    right = ((np.asarray(regions, dtype=np.float64) @ texts.T).argmax(axis=1) == wanted).astype(np.float64)
    by_class = {
        name: (float(right[wanted == i].mean()), int((wanted == i).sum()))
        for name, i in number.items()
        if i in wanted
    }
    return NamingResult(
        bootstrap_mean(right, photos, resamples, seed=seed),
        float(np.mean([share for share, _ in by_class.values()])),
        1 / len(classes),
        max(count for _, count in by_class.values()) / len(labels),
        by_class,
    )
