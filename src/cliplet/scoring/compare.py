"""Which captioner is better: several captions files of the same images, compared metric by metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.captions import read_references
from cliplet.data.text import scrub
from cliplet.errors import InputError
from cliplet.metrics.cider import DocumentFrequencies
from cliplet.metrics.registry import MetricNames
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.scoring.diversity import caption_diversity
from cliplet.scoring.file import ScoreTable, score_file
from cliplet.scoring.scorer import Scorer
from cliplet.statistics.corpus import CorpusStatistic, grouped_interval, paired_corpus_test
from cliplet.statistics.resampling import Interval, PairedTest, holm

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


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
    """The images compared: those on which every captioner has a scored caption."""
    left_out: dict[str, int]
    """For each captioner, its images that are not compared."""
    intervals: dict[str, list[Interval]]
    """Metric to each captioner's corpus value on the compared images."""
    differences: list[Difference]
    """Every metric and pair of captioners."""
    per_image: dict[str, Floats]
    """Metric to its mean per image and captioner, float64 ``[images, captioners]``."""
    rows: list[list[list[int]]]
    """For each captioner and compared image, the numbers of its rows in the table."""
    notes: list[str]
    """What a reader of the numbers must know."""

    def summary(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "captioners": self.names,
            "images": len(self.images),
            "left_out": self.left_out,
            "metrics": {
                metric: {
                    name: {"value": i.value, "low": i.low, "high": i.high}
                    for name, i in zip(self.names, values, strict=True)
                }
                for metric, values in self.intervals.items()
            },
            "differences": [
                {
                    "metric": d.metric,
                    "first": d.first,
                    "second": d.second,
                    "difference": d.test.difference,
                    "low": d.test.low,
                    "high": d.test.high,
                    "p": d.test.p_value,
                    "p_adjusted": d.p_adjusted,
                    "wins": d.wins,
                    "losses": d.losses,
                    "ties": d.ties,
                }
                for d in self.differences
            ],
            "diversity": {
                name: dict(table.diversity) for name, table in zip(self.names, self.tables, strict=True)
            },
            "notes": self.notes,
        }


def compare_files(
    files: Sequence[str | Path],
    images: str | Path | None,
    scorer: Scorer,
    references: str | Path | None = None,
    metrics: MetricNames = None,
    document_frequencies: DocumentFrequencies | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Score several captioners' files and compare them on the images that all of them have.

    Args:
        files: two or more captions files.
        images: folder or tar of the photos.
        scorer: model and preset; it should have a cache, or photos are encoded once a file.
        references: a file of reference captions.
        metrics: as :func:`cliplet.scoring.file.score_file`.
        document_frequencies: for CIDEr-D; default: from all images of the references file, so that every file is
            measured with the same.
        resamples: bootstrap resamples and permutations.
        seed: of both.
        progress: called with (rows done, rows in all) while scoring.

    Raises:
        InputError: fewer than two files, a file cannot be used, or they have no image in common.
    """
    if len(files) < 2:
        raise InputError("comparing needs two or more captions files")
    if references is not None and document_frequencies is None:
        document_frequencies = _frequencies(references)
    tables = [
        score_file(file, images, scorer, references, metrics, document_frequencies, progress)
        for file in files
    ]
    tables = [replace(table, diversity=caption_diversity(table, scorer)) for table in tables]
    names = _short_names(files)
    by_image = [_rows_by_image(table) for table in tables]
    common = [image for image in by_image[0] if all(image in other for other in by_image[1:])]
    if not common:
        raise InputError(f"{' and '.join(map(str, files))} have no scored image in common")
    rows = [[found[image] for image in common] for found in by_image]
    per_image = _means(tables, rows)
    sums = _sums(tables, rows)
    intervals = {
        metric: [grouped_interval(group, value, len(common), resamples, seed=seed) for group in groups]
        for metric, (groups, value) in sums.items()
    }
    return Comparison(
        names=names,
        tables=tables,
        images=common,
        left_out={n: len(found) - len(common) for n, found in zip(names, by_image, strict=True)},
        intervals=intervals,
        differences=_differences(names, sums, per_image, resamples, seed),
        per_image=per_image,
        rows=rows,
        notes=list(dict.fromkeys(note for table in tables for note in table.notes)),
    )


def _frequencies(references: str | Path) -> DocumentFrequencies:
    texts = [[r for r in group if isinstance(r, str)] for group in read_references(references).values()]
    words = iter(tokenize_many([scrub(r) for group in texts for r in group]))
    return DocumentFrequencies.from_references([[next(words) for _ in group] for group in texts if group])


def _short_names(files: Sequence[str | Path]) -> list[str]:
    """File stems where they differ, paths where they do not."""
    stems = [Path(file).stem for file in files]
    return stems if len(set(stems)) == len(stems) else [f"{i}: {file}" for i, file in enumerate(files, 1)]


def _rows_by_image(table: ScoreTable) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, row in enumerate(table.rows):
        if row["reason"] is None:
            found.setdefault(table.photo_names[i] or str(row["image"]), []).append(i)
    return found


def _sums(
    tables: Sequence[ScoreTable], rows: list[list[list[int]]]
) -> dict[str, tuple[list[Floats], Callable[[Floats], Floats]]]:
    """For every metric that all have: each captioner's addends by image ``[images, k]``, and the corpus function."""
    shared = [m for m in tables[0].statistics if all(m in t.statistics for t in tables)]
    found = {}
    for metric in shared:
        statistics: list[CorpusStatistic] = [table.statistics[metric] for table in tables]
        groups = [
            np.stack([statistic.addends[numbers].sum(axis=0) for numbers in per_image])
            for statistic, per_image in zip(statistics, rows, strict=True)
        ]
        found[metric] = (groups, statistics[0].value)
    return found


def _means(tables: Sequence[ScoreTable], rows: list[list[list[int]]]) -> dict[str, Floats]:
    shared = [m for m in tables[0].columns if all(m in t.columns for t in tables)]
    return {
        metric: np.stack(
            [
                np.array([table.columns[metric][numbers].mean() for numbers in per_image])
                for table, per_image in zip(tables, rows, strict=True)
            ],
            axis=1,
        )
        for metric in shared
    }


def _differences(
    names: list[str],
    sums: dict[str, tuple[list[Floats], Callable[[Floats], Floats]]],
    per_image: dict[str, Floats],
    resamples: int,
    seed: int,
) -> list[Difference]:
    found = []
    for metric, (groups, value) in sums.items():
        for a, b in combinations(range(len(names)), 2):
            test = paired_corpus_test(groups[a], groups[b], value, resamples, seed=seed)
            gap = per_image[metric][:, a] - per_image[metric][:, b]
            counts = (int((gap > 0).sum()), int((gap < 0).sum()), int((gap == 0).sum()))
            found.append((metric, names[a], names[b], test, counts))
    adjusted = holm([test.p_value for _, _, _, test, _ in found])
    return [
        Difference(metric, a, b, test, float(p), *counts)
        for (metric, a, b, test, counts), p in zip(found, adjusted, strict=True)
    ]
