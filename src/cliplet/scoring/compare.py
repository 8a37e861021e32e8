"""Which captioner is better: several captions files of the same images, compared metric by metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.captions import Columns, read_references
from cliplet.data.text import caption_problem
from cliplet.errors import InputError
from cliplet.metrics.cider import DocumentFrequencies
from cliplet.metrics.clipscore import MATCH, PRESETS
from cliplet.metrics.registry import MetricNames
from cliplet.metrics.tokenizer.ptb import check_tokenizer, tokenize_many
from cliplet.scoring.diversity import caption_diversity
from cliplet.scoring.file import ScoreTable, score_file
from cliplet.scoring.scorer import Scorer
from cliplet.statistics.corpus import CorpusStatistic, grouped_interval, interval_notes, paired_corpus_test
from cliplet.statistics.resampling import Interval, PairedTest, holm

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]
_WITHOUT_REFERENCES = {preset.column for preset in PRESETS.values()} | {"cosine"}


@dataclass(frozen=True)
class Difference:
    """One metric's difference between two captioners, on the images that both have captions for."""

    metric: str
    """Metric name."""
    first: str
    """Name of the first captioner."""
    second: str
    """Name of the second captioner."""
    test: PairedTest
    """First minus second: paired bootstrap interval and permutation p-value, images resampled."""
    p_adjusted: float
    """The p-value corrected for all metrics and pairs compared (Holm)."""
    wins: int
    """Images on which the first scores higher."""
    losses: int
    """Images on which the second scores higher."""
    ties: int
    """Images on which both score the same."""


@dataclass(frozen=True)
class Comparison:
    """Several captioners on the same images."""

    names: list[str]
    """The captioners, in the order given."""
    tables: list[ScoreTable]
    """Each captioner's scored file, all its rows."""
    images: list[str]
    """The images compared: those that all files name and at least one metric measures for all captioners."""
    left_out: dict[str, int]
    """For each captioner, its images with a caption and a photo that are not compared."""
    intervals: dict[str, list[Interval]]
    """Metric to each captioner's corpus value on the images that it measures for all of them. A caption that is empty
    or no text counts 0 in what the model scores; ``METRIC, answered`` is then the mean over the other captions."""
    differences: list[Difference]
    """Every metric and pair of captioners."""
    per_image: dict[str, Floats]
    """Metric to its mean per image and captioner, float64 ``[images, captioners]``; NaN where it measures none."""
    rows: list[list[list[int]]]
    """For each captioner and compared image, the numbers of its rows in the table."""
    notes: list[str]
    """What a reader of the numbers must know."""

    def summary(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        facts = self.tables[0].provenance
        return {
            "captioners": self.names,
            "images": len(self.images),
            "left_out": self.left_out,
            **{name: facts[name] for name in ("tokenizer",) if name in facts},
            "metrics": {
                metric: {
                    name: {"value": _plain(i.value), "low": _plain(i.low), "high": _plain(i.high), "n": i.n}
                    for name, i in zip(self.names, values, strict=True)
                }
                for metric, values in self.intervals.items()
            },
            "differences": [
                {
                    "metric": d.metric,
                    "first": d.first,
                    "second": d.second,
                    "difference": _plain(d.test.difference),
                    "low": _plain(d.test.low),
                    "high": _plain(d.test.high),
                    "p": _plain(d.test.p_value),
                    "p_adjusted": _plain(d.p_adjusted),
                    "wins": d.wins,
                    "losses": d.losses,
                    "ties": d.ties,
                }
                for d in self.differences
            ],
            "diversity": {
                name: {measure: _plain(value) for measure, value in table.diversity.items()}
                for name, table in zip(self.names, self.tables, strict=True)
            },
            "notes": self.notes,
        }


def compare_files(
    files: Sequence[str | Path],
    images: str | Path | None,
    scorer: Scorer | None,
    references: str | Path | None = None,
    metrics: MetricNames = None,
    document_frequencies: DocumentFrequencies | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
    tokenizer: str = "ptb",
    table: Columns | None = None,
) -> Comparison:
    """Score several captioners' files and compare them on the images that all of them have.

    A captioner gains nothing by silence: n-gram metrics run over all images with references, an empty caption among
    them, and in what the model scores a caption that is empty or no text counts 0. An image is left out of a metric
    where its photo cannot be read or its references are missing, for all captioners alike.

    Args:
        files: two or more captions files.
        images: folder or tar of the photos.
        scorer: model and preset; it should have a cache, or photos are encoded once a file. None: no model and no
            photos, only metrics on references.
        references: a file of reference captions.
        metrics: as :func:`cliplet.scoring.file.score_file`.
        document_frequencies: for CIDEr-D; default: from all images of the references file, so that every file is
            measured with the same.
        resamples: bootstrap resamples and permutations.
        seed: of both.
        progress: called with (rows done, rows in all) while scoring.
        tokenizer: as :func:`cliplet.scoring.file.score_file`.
        table: the columns and the separator of all captions files, where the usual names do not say them.

    Raises:
        InputError: fewer than two files, a file cannot be used, or they have no image in common.
    """
    if len(files) < 2:
        raise InputError("comparing needs two or more captions files")
    if references is not None and document_frequencies is None:
        document_frequencies = _frequencies(references, tokenizer)
    tables = [
        score_file(
            file, images, scorer, references, metrics, document_frequencies, progress, table, tokenizer
        )
        for file in files
    ]
    tables = [replace(table, diversity=caption_diversity(table, scorer)) for table in tables]
    names = _short_names(files)
    by_image = [_rows_by_image(table) for table in tables]
    common = [image for image in by_image[0] if all(image in other for other in by_image[1:])]
    rows = [[found[image] for image in common] for found in by_image]
    measured = _measured(tables, rows)
    if not measured:
        raise InputError(f"{' and '.join(map(str, files))} have no scored image in common")
    used = np.any([m.used for m in measured.values()], axis=0)  # [images]
    intervals = _intervals(measured, resamples, seed)
    return Comparison(
        names=names,
        tables=tables,
        images=[image for image, kept in zip(common, used, strict=True) if kept],
        left_out={
            name: sum(_has_caption(table, numbers) for numbers in found.values()) - int(used.sum())
            for name, table, found in zip(names, tables, by_image, strict=True)
        },
        intervals=intervals,
        differences=_differences(names, measured, resamples, seed),
        per_image={metric: m.per_image[used] for metric, m in measured.items()},
        rows=[[numbers for numbers, kept in zip(found, used, strict=True) if kept] for found in rows],
        notes=_notes(names, tables, rows, measured, intervals),
    )


def _frequencies(references: str | Path, tokenizer: str) -> DocumentFrequencies:
    texts = read_references(references).values()
    words = iter(tokenize_many([r for group in texts for r in group], tokenizer=check_tokenizer(tokenizer)))
    return DocumentFrequencies.from_references([[next(words) for _ in group] for group in texts if group])


def _short_names(files: Sequence[str | Path]) -> list[str]:
    """File stems where they differ, paths where they do not."""
    stems = [Path(file).stem for file in files]
    return stems if len(set(stems)) == len(stems) else [f"{i}: {file}" for i, file in enumerate(files, 1)]


def _rows_by_image(table: ScoreTable) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i in range(len(table.rows)):
        found.setdefault(table.image_of(i), []).append(i)
    return found


def _has_caption(table: ScoreTable, rows: list[int]) -> bool:
    return any(table.rows[i]["reason"] is None or _is_silent(table, i) for i in rows)


@dataclass(frozen=True)
class _Measured:
    """One metric on the images for which every captioner has a value."""

    used: NDArray[np.bool_]
    """Which of the common images these are, bool ``[images]``."""
    per_image: Floats
    """Each captioner's mean by image, ``[images, captioners]``; NaN on the others."""
    groups: list[Floats]
    """Each captioner's addends by used image, ``[used, k]``."""
    answered: list[Floats] | None
    """The same without captions that are empty or no text; None where there are none or it is no mean."""
    value: Callable[[Floats], Floats]
    """From sums of addends to the corpus value."""


@dataclass(frozen=True)
class _Captioner:
    """A captioner's rows on the common images."""

    table: ScoreTable
    rows: NDArray[np.int64]
    """Their numbers in the table, ``[rows]``."""
    image: NDArray[np.int64]
    """Each one's image, ``[rows]``."""
    silent: NDArray[np.bool_]
    """Whether its caption is empty or no text, ``[rows]``."""

    @classmethod
    def of(cls, table: ScoreTable, by_image: list[list[int]]) -> "_Captioner":
        rows = np.array([i for numbers in by_image for i in numbers], dtype=np.int64)
        image = np.repeat(np.arange(len(by_image)), [len(numbers) for numbers in by_image])
        return cls(table, rows, image, np.array([_is_silent(table, i) for i in rows], dtype=bool))


def _is_silent(table: ScoreTable, row: int) -> bool:
    """Whether a row has a photo, where a model needs it, and a caption that is empty or no text."""
    has_photo = table.photos[row] is not None or not table.with_model
    return has_photo and caption_problem(table.rows[row]["caption"]) is not None


def _measured(tables: Sequence[ScoreTable], rows: list[list[list[int]]]) -> dict[str, _Measured]:
    """Every metric that all have and that some common image has for all."""
    captioners = [_Captioner.of(table, found) for table, found in zip(tables, rows, strict=True)]
    shared = [m for m in tables[0].statistics if m != MATCH and all(m in t.statistics for t in tables)]
    n = len(rows[0])
    referenced = np.zeros(n, dtype=bool)  # [images]: where a metric that needs references has a value
    for c in captioners:
        for metric in set(shared) - _WITHOUT_REFERENCES:
            referenced[c.image[~np.isnan(c.table.columns[metric][c.rows])]] = True
    found = {}
    for metric in shared:
        zero_on = np.ones(n, dtype=bool) if metric in _WITHOUT_REFERENCES else referenced
        measured = _measure(metric, captioners, zero_on)
        if measured.used.any():
            found[metric] = measured
    return found


def _measure(metric: str, captioners: list[_Captioner], zero_on: NDArray[np.bool_]) -> _Measured:
    """One metric; a silent caption without a value gets 0 on the images of ``zero_on``."""
    n = len(zero_on)
    used = np.ones(n, dtype=bool)
    statistics, answered, means = [], [], []
    for c in captioners:
        statistic, values = c.table.statistics[metric], c.table.columns[metric][c.rows]
        own = CorpusStatistic(statistic.addends[c.rows], statistic.value)
        answered.append(own)
        if statistic.is_mean:
            values = np.where(np.isnan(values) & c.silent & zero_on[c.image], 0.0, values)
            own = CorpusStatistic.mean(values)
        statistics.append(own)
        used &= np.bincount(c.image, np.isnan(values), n) == 0
        with np.errstate(invalid="ignore"):
            means.append(np.bincount(c.image, values, n) / np.bincount(c.image, minlength=n))
    groups, said = (
        [s.by_group(c.image, n)[used] for s, c in zip(some, captioners, strict=True)]
        for some in (statistics, answered)
    )
    added = any(not np.array_equal(a, b) for a, b in zip(groups, said, strict=True))
    per_image = np.where(used[:, None], np.stack(means, axis=1), np.nan)
    return _Measured(used, per_image, groups, said if added else None, statistics[0].value)


def _intervals(measured: dict[str, _Measured], resamples: int, seed: int) -> dict[str, list[Interval]]:
    found = {}
    for metric, m in measured.items():
        found[metric] = [grouped_interval(g, m.value, len(g), resamples, seed=seed) for g in m.groups]
        if m.answered is not None:
            answered = [g[g.any(axis=1)] for g in m.answered]
            found[f"{metric}, answered"] = [
                grouped_interval(g, m.value, len(g), resamples, seed=seed) for g in answered
            ]
    return found


def _differences(
    names: list[str], measured: dict[str, _Measured], resamples: int, seed: int
) -> list[Difference]:
    found = []
    for metric, m in measured.items():
        for a, b in combinations(range(len(names)), 2):
            test = paired_corpus_test(m.groups[a], m.groups[b], m.value, resamples, seed=seed)
            gap = m.per_image[:, a] - m.per_image[:, b]
            counts = (int((gap > 0).sum()), int((gap < 0).sum()), int((gap == 0).sum()))
            found.append((metric, names[a], names[b], test, counts))
    adjusted = holm([test.p_value for _, _, _, test, _ in found])
    return [
        Difference(metric, a, b, test, float(p), *counts)
        for (metric, a, b, test, counts), p in zip(found, adjusted, strict=True)
    ]


def _notes(
    names: list[str],
    tables: Sequence[ScoreTable],
    rows: list[list[list[int]]],
    measured: dict[str, _Measured],
    intervals: dict[str, list[Interval]],
) -> list[str]:
    notes = [note for table in tables for note in table.notes]
    for name, table, found in zip(names, tables, rows, strict=True):
        chosen = [i for numbers in found for i in numbers]
        silent = sum(_is_silent(table, i) for i in chosen)
        if silent and table.with_model:
            notes.append(
                f"{name}: {silent} of {len(chosen)} captions are empty or no text and count 0 in the model's scores"
            )
    most = max(int(m.used.sum()) for m in measured.values())
    fewer: dict[int, list[str]] = {}
    for metric, m in measured.items():
        fewer.setdefault(int(m.used.sum()), []).append(metric)
    for count, metrics in fewer.items():
        if count < most:
            what = "the others lack a photo that can be read, or references"
            notes.append(f"{', '.join(metrics)}: {count} of {most} images; {what}")
    notes += interval_notes(interval for found in intervals.values() for interval in found)
    return list(dict.fromkeys(notes))


def _plain(value: float) -> float | None:
    """A number for JSON: None for NaN."""
    return None if np.isnan(value) else value
