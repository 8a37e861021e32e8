"""Hard negatives: does the true caption score higher than one with a small, telling mistake?

Sets come as (image, true caption, false caption); Winoground's have two images as well. Beside every accuracy stands
what a blind model gets: this model when every photo is replaced by the average one, and guessers that take the shorter
caption, the longer one, or the one made of commoner words. Where the false captions of a set can be told without
looking, a good score on it says little.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.data.photos import PhotoStore
from cliplet.data.records import IMAGE_FIELDS
from cliplet.data.tables import Row, column, find_column, leave_out, read_table
from cliplet.data.text import caption_problem
from cliplet.encoders.base import Encoder
from cliplet.encoders.embed import Progress, embed_photos, embed_texts
from cliplet.errors import InputError
from cliplet.statistics.kendall import Floats
from cliplet.statistics.resampling import Interval, TieRule, bootstrap_mean, pairwise_wins


@dataclass(frozen=True)
class CaptionPair:
    """A photo with a true and a false caption."""

    image: str
    """The image's name."""
    true: str
    """The caption that fits."""
    false: str
    """The caption that does not."""
    category: str = ""
    """What was changed."""
    also: str = ""
    """Another caption that fits, in other words; nothing where there is none."""


@dataclass(frozen=True)
class Quartet:
    """Winoground: two images and two captions made of the same words, caption i fits image i."""

    images: tuple[str, str]
    """Both image names."""
    captions: tuple[str, str]
    """Both captions."""
    category: str = ""
    """Winoground's tag."""


@dataclass
class PairSet:
    """A set of hard negatives."""

    pairs: list[CaptionPair]
    """Pairs of captions (for Winoground both captions of both images)."""
    quartets: list[Quartet] = field(default_factory=list)
    """Winoground's examples; empty for other sets."""
    notes: Counter[str] = field(default_factory=Counter)
    """What the reader left out, with counts."""


@dataclass(frozen=True)
class PairResult:
    """One accuracy with its intervals and its blind controls."""

    category: str
    """The category, or "all"."""
    statistic: str
    """accuracy, both true captions, or Winoground's text, image and group score."""
    interval: Interval
    """The model's value in [0, 1]."""
    blind: dict[str, float]
    """What models that do not see the photo get, by name."""
    chance: float
    """What guessing gets."""


@dataclass
class PairsResult:
    """All results of one set."""

    results: list[PairResult]
    """Overall first, then by category."""
    pairs: list[CaptionPair]
    """The pairs that could be scored."""
    margins: Floats
    """[pairs] cosine of the true caption minus cosine of the false one."""
    notes: Counter[str]
    """Rows left out, with counts."""
    failures: list[str]
    """Photos that could not be used, with reasons."""


# ---------------------------------------------------------------- readers
def read_pair_files(paths: Iterable[str | Path]) -> PairSet:
    """Hard-negative files, told apart by their fields.

    SugarCrepe (``{id: {filename, caption, negative_caption}}``, the file's name is the category) and SugarCrepe++ (with
    ``caption2``), VALSE and FOIL-it (``{id: {image_file, caption, foil, mturk, linguistic_phenomena}}``), Winoground's
    ``examples.jsonl``, and your own CSV, TSV, JSON list, JSONL or Parquet with columns image, caption, and ``false``
    (or ``negative_caption``, ``foil``), and if you like ``category`` and ``caption2``, another caption that fits.
    """
    out = PairSet([])
    for path in map(Path, paths):
        rows = read_table(path, out.notes)
        if "caption_0" in rows[0]:
            _winoground(path, rows, out)
        elif "foil" in rows[0] and ("image_file" in rows[0] or "mturk" in rows[0]):
            _valse(path, rows, out)
        else:
            _generic(path, rows, out)
    return out


_TRUE = ("caption", "true", "true_caption", "positive_caption", "positive")
_ALSO = ("caption2", "caption_2", "also", "second_caption", "true2", "positive2")
_FALSE = ("negative_caption", "false", "false_caption", "foil", "negative", "hard_negative")


def _generic(path: Path, rows: Sequence[Row], out: PairSet) -> None:
    image = column(rows, IMAGE_FIELDS, path, "image")
    true = column(rows, _TRUE, path, "true caption")
    false = column(rows, _FALSE, path, "false caption")
    category = find_column(rows[0], ("category", "type", "kind", "linguistic_phenomena"))
    also = find_column(rows[0], _ALSO)
    bad = []
    for row in rows:
        reason = caption_problem(row.get(true)) or caption_problem(row.get(false))
        second = row.get(also) if also else ""
        if second:
            reason = reason or caption_problem(second)
        if reason is not None:
            bad.append(f"{row.where}: {reason}")
            continue
        name = str(row[category]) if category else path.stem
        out.pairs.append(CaptionPair(str(row[image]), row[true], row[false], name, second or ""))
    leave_out(out.notes, bad)


def _valse(path: Path, rows: Sequence[Row], out: PairSet) -> None:
    """VALSE keeps examples whose caption at least two of three annotators took for the true one."""
    for row in rows:
        votes = (row.get("mturk") or {}).get("caption")
        if votes is not None and int(votes) < 2:
            out.notes["VALSE examples left out: annotators did not agree on the caption"] += 1
            continue
        try:
            category = str(row.get("linguistic_phenomena") or path.stem)
            out.pairs.append(
                CaptionPair(str(row["image_file"]), str(row["caption"]), str(row["foil"]), category)
            )
        except KeyError as error:
            raise InputError(f"{path}: a VALSE example lacks {error}") from None


def _winoground(path: Path, rows: Sequence[Row], out: PairSet) -> None:
    for row in rows:
        try:
            images, captions = (
                (str(row["image_0"]), str(row["image_1"])),
                (str(row["caption_0"]), str(row["caption_1"])),
            )
        except KeyError as error:
            raise InputError(f"{path}: a Winoground example lacks {error}") from None
        category = str(row.get("collapsed_tag") or row.get("tag") or "")
        out.quartets.append(Quartet(images, captions, category))
        for i in (0, 1):
            out.pairs.append(CaptionPair(images[i], captions[i], captions[1 - i], category))


# ---------------------------------------------------------------- blind controls
def words_of(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation."""
    return "".join(c if c.isalnum() or c in "'-" else " " for c in caption.lower()).split()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else -math.inf


def blind_wins(pairs: Sequence[CaptionPair]) -> dict[str, Floats]:
    """[pairs] wins of models that see only the captions; ties count half.

    ``shorter`` and ``longer`` go by the number of characters; ``commoner words`` by the mean log frequency of the
    words in the other pairs' captions, true and false together, so that it knows no answers.
    """
    counts: Counter[str] = Counter()
    for p in pairs:
        counts.update(set(words_of(p.true)) | set(words_of(p.false)))

    def usual(caption: str, other: str) -> float:
        here = set(words_of(caption)) | set(words_of(other))  # the pair itself does not count
        return _mean([math.log(counts[w] - (w in here) + 0.1) for w in words_of(caption)])

    true_length, false_length = (
        np.array([len(getattr(p, k)) for p in pairs], dtype=float) for k in ("true", "false")
    )
    usual_true = np.array([usual(p.true, p.false) for p in pairs])
    usual_false = np.array([usual(p.false, p.true) for p in pairs])
    return {
        "shorter": pairwise_wins(-true_length, -false_length),
        "longer": pairwise_wins(true_length, false_length),
        "commoner words": pairwise_wins(usual_true, usual_false),
    }


def both_wins(first: Floats, second: Floats) -> Floats:
    """[pairs] wins in which both of two true captions score above the false one.

    Args:
        first: of the one, as :func:`~cliplet.statistics.resampling.pairwise_wins` gives them; 0.5 for a tie.
        second: of the other. Of captions that tie with the false one each is the lowest as often as it.
    """
    share = 1 / (1 + (first == 0.5) + (second == 0.5))
    return np.where(np.isnan(first + second), np.nan, np.where((first == 0) | (second == 0), 0.0, share))


# ---------------------------------------------------------------- evaluation
def evaluate_pairs(
    encoder: Encoder,
    data: PairSet,
    photos: PhotoStore,
    ties: TieRule = "loss",
    prefix: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> PairsResult:
    """Share of pairs in which the true caption has the larger cosine, overall and by category.

    ``prefix`` goes before every caption; default the model's own. A tie is not a win unless asked otherwise. Pairs with
    a second true caption also give ``both true captions``, the share in which both have a larger cosine than the false
    one: a model that takes the very words of one caption for the truth fails there.

    Source: SugarCrepe++ (arXiv 2406.11171) for the score of both.
    """
    if not data.pairs:
        raise InputError("no pairs to evaluate")
    names = list(dict.fromkeys(p.image for p in data.pairs))
    found, missing = photos.photos(names)
    embedded = embed_photos(encoder, found, names, progress, missing)
    at = {names[i]: n for n, i in enumerate(embedded.kept)}
    notes = Counter(data.notes)
    pairs = [p for p in data.pairs if p.image in at]
    if len(pairs) < len(data.pairs):
        notes["pairs left out: the photo is missing or cannot be read"] += len(data.pairs) - len(pairs)
    prefix = encoder.card.text.prompt_prefix if prefix is None else prefix
    rows = np.array([i for i, p in enumerate(pairs) if p.also], dtype=np.int64)
    two = [pairs[i] for i in rows]
    captions = [*(p.true for p in pairs), *(p.false for p in pairs), *(p.also for p in two)]
    own, wrong, also = np.split(
        embed_texts(encoder, captions, prefix), [len(pairs), 2 * len(pairs)]
    )  # [n, d]
    images = embedded.embeddings[[at[p.image] for p in pairs]]
    true, false = (np.einsum("nd,nd->n", images, texts, dtype=np.float64) for texts in (own, wrong))
    wins = pairwise_wins(true, false, ties)
    average = embedded.embeddings.mean(axis=0)  # [d]: the model without a photo to look at
    unseen = pairwise_wins(own @ average, wrong @ average)
    blind = {"this model, average photo": unseen, **blind_wins(pairs)}
    results = _by_category(pairs, wins, "accuracy", 0.5, blind, resamples, seed)
    if two:
        second = pairwise_wins(np.einsum("nd,nd->n", images[rows], also, dtype=np.float64), false[rows], ties)
        both_unseen = both_wins(unseen[rows], pairwise_wins(also @ average, wrong[rows] @ average))
        results += _both_results(two, wins[rows], second, both_unseen, resamples, seed)
    if data.quartets:
        cosines = {(p.image, p.true): (t, f) for p, t, f in zip(pairs, true, false, strict=True)}
        results += _quartet_results(data.quartets, cosines, resamples, seed)
    return PairsResult(results, pairs, true - false, notes, list(embedded.failures.values()))


def _both_results(
    two: Sequence[CaptionPair],
    first: Floats,
    second: Floats,
    unseen: Floats,
    resamples: int,
    seed: int,
) -> list[PairResult]:
    """Both true captions above the false one: wins of the first and of the second, those of both unseen."""
    other = blind_wins([replace(p, true=p.also) for p in two])
    blind = {"this model, average photo": unseen} | {
        name: both_wins(one, other[name]) for name, one in blind_wins(two).items()
    }
    return _by_category(two, both_wins(first, second), "both true captions", 1 / 3, blind, resamples, seed)


def _by_category(
    rows: Sequence[Any],
    wins: Floats,
    statistic: str,
    chance: float,
    blind: dict[str, Floats],
    resamples: int,
    seed: int,
) -> list[PairResult]:
    categories = np.array([r.category for r in rows])
    images = np.array([str(r.image if isinstance(r, CaptionPair) else r.images[0]) for r in rows])
    named = sorted(set(categories) - {""})
    results = []
    for name in ["all", *(named if len(set(categories)) > 1 else [])]:
        chosen = np.ones(len(rows), dtype=bool) if name == "all" else categories == name
        interval = bootstrap_mean(wins[chosen], images[chosen], resamples, seed=seed)
        controls = {k: float(np.nanmean(v[chosen])) for k, v in blind.items()}
        results.append(PairResult(name, statistic, interval, controls, chance))
    return results


def _quartet_results(
    quartets: Sequence[Quartet],
    cosines: dict[tuple[str, str], tuple[float, float]],
    resamples: int,
    seed: int,
) -> list[PairResult]:
    """Winoground's scores (Thrush et al. 2022): text, image and group; every comparison must be won outright."""
    rows, scores = [], []
    for q in quartets:
        first, second = (cosines.get((q.images[i], q.captions[i])) for i in (0, 1))
        if first is None or second is None:
            continue
        (c0_i0, c1_i0), (c1_i1, c0_i1) = first, second
        text = c0_i0 > c1_i0 and c1_i1 > c0_i1
        image = c0_i0 > c0_i1 and c1_i1 > c1_i0
        rows.append(q)
        scores.append((text, image, text and image))
    if not rows:
        return []
    table = np.array(scores, dtype=np.float64)
    results: list[PairResult] = []
    for n, (name, chance) in enumerate((("text score", 0.25), ("image score", 0.25), ("group score", 1 / 6))):
        results += _by_category(rows, table[:, n], name, chance, {}, resamples, seed)
    return results
