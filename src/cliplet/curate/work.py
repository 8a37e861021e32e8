"""Curation's measuring as a work of the stream: any number of parts, on one machine or a cluster."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cliplet.curate.measure import SCHEMA, Measurer, Pair
from cliplet.data.captions import CaptionEntry, Columns
from cliplet.data.images import ImageInput
from cliplet.data.parquet import TablePhoto
from cliplet.stream.part import Compute, Say
from cliplet.stream.plan import Part
from cliplet.stream.reader import PartReader


@dataclass(frozen=True)
class CurateWork:
    """Measures the pairs of a part with one model."""

    model: str | None = None
    """As :func:`cliplet.load` takes it."""
    preset: str = "paper"
    """Scale of the score."""
    match: str | None = None
    """File of ``cliplet calibrate --out``; None: the match that the model has."""
    images: str | None = None
    """Folder or tar of the photos, or a pattern; None: photos that came with the captions, or paths."""
    columns: Columns = field(default_factory=Columns)
    """The captions files' columns and separator."""
    threads: int = 1
    """Threads of one process."""
    device: str | None = None
    """Where the model computes, as :func:`cliplet.load` takes it."""
    precision: str | None = None
    """In which precision, likewise."""

    def schema(self) -> Any:
        """:data:`cliplet.curate.measure.SCHEMA`."""
        return SCHEMA

    def begin(self) -> Compute:
        """Load the model."""
        return _Measuring(self)

    def measurer(self) -> Measurer:
        """The model, computing on ``threads`` threads."""
        from cliplet.encoders.batching import limit_threads
        from cliplet.scoring.scorer import Scorer

        scorer = Scorer(
            self.model, self.preset, match=self.match, device=self.device, precision=self.precision
        )
        limit_threads(scorer.encoder, self.threads)
        return Measurer(scorer)

    def reader(self) -> "Reader":
        """What reads parts."""
        return Reader(self.columns, self.images)


class Reader:
    """Reads the pairs of parts."""

    def __init__(self, columns: Columns, images: str | None) -> None:
        self.images = images
        self.inner = PartReader(columns, False, images)

    def pairs(self, part: Part, say: Say = lambda doing: None) -> Iterator[list[Pair]]:
        """Pairs, some thousands at a time; raises InputError as :class:`~cliplet.stream.reader.PartReader`."""
        source = part.source.name
        for entries, photos, names, reasons in self.inner.blocks(part, say):
            entries = [_in_its_row(entry) for entry in entries]
            yield [
                Pair(source, entry, photo, self._photo_name(source, entry, photo, name), why or entry.problem)
                for entry, photo, name, why in zip(entries, photos, names, reasons, strict=True)
            ]

    def _photo_name(
        self, source: str, entry: CaptionEntry, photo: ImageInput | None, name: str | None
    ) -> str:
        if isinstance(photo, (str, os.PathLike)):
            return os.path.abspath(photo)
        if isinstance(photo, TablePhoto):  # a cell is its row's own photo
            return f"{source} {entry.where}"
        return str(name) if self.images is not None else f"{source} {name or entry.image}"


def _in_its_row(entry: CaptionEntry) -> CaptionEntry:
    """The entry; one whose cell holds the bytes of another row's photo, after which it is called, says its own row."""
    if isinstance(entry.photo, TablePhoto) and entry.photo.where != entry.where:
        return entry._replace(image=f"{entry.image} ({entry.where})")
    return entry


class _Measuring:
    """Parts in one process."""

    def __init__(self, work: CurateWork) -> None:
        self.reader, self.measurer = work.reader(), work.measurer()

    def __call__(self, part: Part, say: Say) -> Iterator[Any]:
        seen: set[bytes] = set()
        done = 0
        for pairs in self.reader.pairs(part, say):
            for table in self.measurer.tables(pairs, seen):
                yield table
                done += table.num_rows
                say(f"measuring, {done} rows")
