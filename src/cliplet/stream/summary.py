"""What is said of all rows together, from one pass over the parts' files, in memory that does not grow with them.

Counts, means, extremes and the lowest and highest rows are exact. Quantiles and the rows that a report shows come
from a random sample of rows, the same for the same parts. Intervals resample images: all of them up to
:data:`IMAGES`, beyond that those whose names have the smallest hashes, scaled to the number of images that these let
guess (a k-minimum-values sketch, Bar-Yossef et al. 2002, RANDOM).
"""

import heapq
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.statistics.corpus import CorpusStatistic, grouped_interval
from cliplet.statistics.resampling import Interval
from cliplet.stream.caption_set import CaptionSet
from cliplet.stream.extras import COUNT, Layout, PartSums, image_hash
from cliplet.stream.part import tables_of
from cliplet.stream.scores import SCORES

IMAGES = 10_000
"""Images whose sums are kept for the intervals."""
SAMPLE = 50_000
"""Rows whose scores are kept for the quantiles."""
SHOWN = 2_000
"""Of these, rows that are kept whole, for a report."""
EXTREMES = 12
"""Lowest and highest rows kept whole."""
REASONS, EXAMPLES = 100, 3
"""Kinds of failures that are told apart, and rows kept of each."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SEED = 20

Floats = NDArray[np.float64]


@dataclass
class Summary:
    """Sketches of the rows seen so far; :meth:`add` takes a part's file."""

    scores: tuple[str, ...] = SCORES
    """Columns with numbers."""
    layout: Layout = field(default_factory=dict)
    """Of them those whose corpus value is no mean: where their sums stand in the parts' files of sums."""
    rows: int = 0
    """Rows seen."""
    failed: int = 0
    """Those without a score."""
    truncated: int = 0
    """Those whose caption was cut to the model's context."""
    without_references: int = 0
    """Those whose image has no references, though references were given."""
    word_for_word: int = 0
    """Captions that stand among their own references."""
    captions: CaptionSet | None = None
    """The captions as a set, where they are measured so."""
    reasons: dict[str, list[Any]] = field(default_factory=dict)
    """Kinds of failures: how many, then the first rows."""
    lowest: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    """Heap of (-score, -number, row)."""
    highest: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    """Heap of (score, -number, row)."""

    def __post_init__(self) -> None:
        self.sums: Floats = np.zeros((len(self.scores), 2))
        """Of each score: sum and number of rows that have it."""
        self._width = max((place.stop for place, _ in self.layout.values()), default=0)
        self._more: Floats = np.zeros(self._width)
        self._images: dict[int, Floats] = {}
        self._below = 2**64
        self._keys, self._values = np.empty(0), np.empty((0, len(self.scores)))
        self._shown: list[tuple[float, int, dict[str, Any]]] = []

    def add_all(self, files: Iterable[tuple[int, Path]]) -> "Summary":
        """Add parts, by number and file."""
        for number, file in files:
            self.add(number, file)
        return self

    def add(self, number: int, file: Path, beside: PartSums | None = None) -> None:
        """Add a part, and what its file of sums holds."""
        at, rng = 0, np.random.default_rng([SEED, number])
        if beside is not None:
            self._add_sums(beside)
        for table in tables_of(file):
            scores = np.stack([_floats(table, name) for name in self.scores])  # [scores, rows]
            keys = rng.random(table.num_rows)
            self._count(table, scores)
            self._by_image(table, scores)
            self._sample(table, scores, keys, number, at)
            self._extreme(table, scores[0], number, at)
            at += table.num_rows

    def _count(self, table: Any, scores: Floats) -> None:
        known = ~np.isnan(scores)
        self.rows += table.num_rows
        self.sums += np.stack([np.where(known, scores, 0).sum(axis=1), known.sum(axis=1)], axis=1)
        self.truncated += int(_values(table, "truncated").astype(bool).sum())
        reasons = table.column("reason")
        if COUNT in table.column_names:
            without = (_values(table, COUNT) == 0) & _values(reasons.is_null())
            self.without_references += int(without.sum())
        if reasons.null_count < table.num_rows:
            for i, reason in enumerate(reasons.to_pylist()):
                if reason is not None:
                    self.failed += 1
                    self._reason(reason, table, i)

    def _reason(self, reason: str, table: Any, i: int) -> None:
        image = table.column("image")[i].as_py()
        kind = _kind(reason, image)
        if kind not in self.reasons and len(self.reasons) >= REASONS:
            kind = "other reasons"
        kept = self.reasons.setdefault(kind, [0])
        kept[0] += 1
        if len(kept) <= EXAMPLES:
            kept.append(_row(table, i))

    def _by_image(self, table: Any, scores: Floats) -> None:
        """Add to the sums of images; those of the largest hashes are forgotten."""
        encoded = table.column("image").combine_chunks().dictionary_encode()
        names, codes = encoded.dictionary.to_pylist(), np.asarray(encoded.indices)
        known = ~np.isnan(scores)
        added = [
            np.bincount(codes, column, len(names))
            for values, has in zip(scores, known, strict=True)
            for column in (np.where(has, values, 0), has.astype(float))
        ]
        for name, sums in zip(names, np.stack(added, axis=1), strict=True):
            self._add_image(image_hash(name), slice(0, len(sums)), sums)
        self._forget()

    def _add_sums(self, beside: PartSums) -> None:
        self.word_for_word += beside.word_for_word
        if beside.captions is not None:
            if self.captions is None:
                self.captions = beside.captions
            else:
                self.captions.add(beside.captions)
        if self._width and len(beside.images):
            self._more += beside.sums.sum(axis=0)
            place = slice(2 * len(self.scores), None)
            for key, sums in zip(beside.images.tolist(), beside.sums, strict=True):
                self._add_image(key, place, sums)
            self._forget()

    def _add_image(self, key: int, place: slice, sums: Floats) -> None:
        """Add to some of the sums of an image, unless it is one of those forgotten."""
        if key < self._below and sums.any():
            if key not in self._images:
                self._images[key] = np.zeros(2 * len(self.scores) + self._width)
            self._images[key][place] += sums

    def _forget(self) -> None:
        """Of too many images keep those of the smallest hashes."""
        if len(self._images) > 2 * IMAGES:
            self._images = dict(heapq.nsmallest(IMAGES + 1, self._images.items()))
            self._below = max(self._images)
            del self._images[self._below]

    def _sample(self, table: Any, scores: Floats, keys: Floats, part: int, at: int) -> None:
        """Keep the rows of the smallest keys: their scores, and the smallest of all whole."""
        limit = self._keys.max() if len(self._keys) >= SAMPLE else 2.0
        chosen = np.flatnonzero(keys < limit)
        self._keys = np.concatenate([self._keys, keys[chosen]])
        self._values = np.concatenate([self._values, scores.T[chosen]])
        if len(self._keys) > SAMPLE:
            best = np.argpartition(self._keys, SAMPLE)[:SAMPLE]
            self._keys, self._values = self._keys[best], self._values[best]
        for i in chosen:
            item = (-float(keys[i]), -_number(part, at + int(i)))
            if len(self._shown) < SHOWN:
                heapq.heappush(self._shown, (*item, _row(table, int(i))))
            elif item > self._shown[0][:2]:
                heapq.heapreplace(self._shown, (*item, _row(table, int(i))))

    def _extreme(self, table: Any, scores: Floats, part: int, at: int) -> None:
        for heap, values in ((self.lowest, -scores), (self.highest, scores)):
            known = np.flatnonzero(~np.isnan(values))
            known = known[np.argsort(-values[known], kind="stable")[:EXTREMES]]
            for i in known:
                item = (float(values[i]), -_number(part, at + int(i)))
                if len(heap) < EXTREMES:
                    heapq.heappush(heap, (*item, _row(table, int(i))))
                elif item > heap[0][:2]:
                    heapq.heapreplace(heap, (*item, _row(table, int(i))))

    # ------------------------------------------------------------ what it says
    def shown(self) -> list[tuple[int, int, dict[str, Any]]]:
        """Part, row in it and row: the sample, the extremes and examples of failures, in their order, each once."""
        found = {-number: row for _, number, row in (*self._shown, *self.lowest, *self.highest)}
        return [(*divmod(number, _ROWS), found[number]) for number in sorted(found)]

    def images(self) -> tuple[int, bool]:
        """How many images the rows have, and whether that is exact."""
        if self._below == 2**64:
            return len(self._images), True
        largest = heapq.nsmallest(IMAGES, self._images)[-1]
        return round((IMAGES - 1) * 2**64 / largest), False

    def intervals(self) -> dict[str, Interval]:
        """The corpus value of each score, most often its mean, with its 95 % interval over images."""
        count, _ = self.images()
        kept = np.array([self._images[key] for key in heapq.nsmallest(IMAGES, self._images)])
        found = {}
        for i, name in enumerate(self.scores):
            n = int(self.sums[i, 1])
            if not n:
                continue
            if name in self.layout:
                place, value = self.layout[name]
                sums, total = kept[:, 2 * len(self.scores) :][:, place], self._more[place]
            else:
                sums, total = kept[:, 2 * i : 2 * i + 2], self.sums[i]
                value = CorpusStatistic.mean(np.zeros(0)).value
            inner = grouped_interval(sums[sums.any(axis=1)], value, n)
            narrow = math.sqrt(len(kept) / count)
            low, high = ((end - inner.value) * narrow for end in (inner.low, inner.high))
            whole = float(value(total))
            found[name] = Interval(whole, whole + low, whole + high, n)
        return found

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Quantiles of each score over the sampled rows."""
        order = np.argsort(self._keys, kind="stable")
        found = {}
        for i, name in enumerate(self.scores):
            values = self._values[order, i]
            values = values[~np.isnan(values)]
            if len(values):
                ends = np.quantile(values, QUANTILES)
                found[name] = {f"{q:g}": round(float(v), 6) for q, v in zip(QUANTILES, ends, strict=True)}
        return found

    def notes(self) -> list[str]:
        """What is sampled, and from how many."""
        said = []
        if self.rows > SAMPLE:
            said.append(f"quantiles are those of a random sample of {SAMPLE} of {self.rows} rows")
        images, exact = self.images()
        if images > IMAGES:
            about = "" if exact else "about "
            said.append(
                f"intervals come from {IMAGES} of {about}{images} images, scaled; means, counts and the lowest and "
                "highest rows are those of all rows"
            )
        return said

    def failures(self) -> dict[str, Any]:
        """Kinds of failures, the most frequent first: how many, and the first rows' places."""
        kinds = sorted(self.reasons.items(), key=lambda item: -item[1][0])
        return {kind: {"rows": kept[0], "such as": [f"{r['where']}: {r['reason']}" for r in kept[1:]]}
                for kind, kept in kinds}  # fmt: skip

    def failed_rows(self) -> Iterator[dict[str, Any]]:
        """Examples of failed rows."""
        for kept in self.reasons.values():
            yield from kept[1:]


_ROWS = 1 << 40


def _number(part: int, row: int) -> int:
    return part * _ROWS + row


def _floats(table: Any, name: str) -> Floats:
    return _values(table, name).astype(np.float64)  # None becomes NaN


def _values(table: Any, name: str | None = None) -> NDArray[Any]:
    values: NDArray[Any] = (table if name is None else table.column(name)).to_numpy()
    return values


def _row(table: Any, i: int) -> dict[str, Any]:
    row: Mapping[str, Any] = table.slice(i, 1).to_pylist()[0]
    return {name: round(v, 6) if isinstance(v, float) else v for name, v in row.items()}


def _kind(reason: str, image: Any) -> str:
    """A reason without what is the row's own, so that like ones are counted together."""
    text = reason.replace(str(image), "...") if image else reason
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "...", text)
    text = re.sub(r"\S*[/\\]\S*", "...", text)
    return re.sub(r"\d+", "N", text)[:160]
