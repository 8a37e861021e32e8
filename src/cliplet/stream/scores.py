"""The work of `cliplet score`: the rows of a part with their scores, in blocks that depend on the part alone."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from cliplet.data.beside import photos_of
from cliplet.data.captions import CaptionEntry, Columns, stream_captions
from cliplet.data.images import ImageInput
from cliplet.data.photos import PhotoIndex, TarPhoto
from cliplet.data.text import scrub
from cliplet.errors import InputError
from cliplet.scoring.rows import find_photos, finite
from cliplet.stream.part import Compute, Say
from cliplet.stream.plan import Part
from cliplet.stream.source import Source, is_remote, unchanged

if TYPE_CHECKING:
    from cliplet.scoring.scorer import Scorer, ScoreResult

BLOCK = 10_000
"""Rows of a part that are scored together; memory does not grow with the part beyond them."""
TYPES = {"bool": bool, "int64": int, "double": float, "string": str}
"""Types of other columns by pyarrow's name, and Python's."""
PEEKED = 200
"""Rows of the first source that say which other columns there are."""
LOOKED = 8
"""Sources that are looked at for these."""
_OWN = (
    "image",
    "caption",
    "score",
    "match",
    "cosine",
    "truncated",
    "reason",
    "where",
    "source",
    "member",
    "extra",
)

W = TypeVar("W", bound=Any)


class Block(NamedTuple):
    """Rows of a part that were scored together."""

    part: Part
    """Whose they are."""
    entries: Sequence[CaptionEntry]
    """The captions as they were read."""
    photos: Sequence[ImageInput | None]
    """Each row's photo, None where it was not found."""
    names: Sequence[str | None]
    """Each row's photo by its name."""
    reasons: Sequence[str | None]
    """Why a row has no score."""
    scored: "ScoreResult"
    """The scores."""


@dataclass(frozen=True)
class ScoreWork:
    """Scores by one model.

    A subclass can add columns: :meth:`more_fields` names them, :meth:`more` fills them, and ``embeddings`` keeps the
    images' embeddings in each block's ``scored.image_embeddings``.
    """

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
    several: bool = False
    """Whether there are several sources: images and places then begin with theirs."""
    others: tuple[tuple[str, str], ...] = ()
    """Other columns that parts have, and their types (:data:`TYPES`); values that do not fit go into ``extra``."""
    threads: int = 1
    """Threads of one process."""
    gpus: float = 0
    """GPUs that Ray sets aside for each."""
    device: str | None = None
    """Where the model computes, as :func:`cliplet.load` takes it."""
    precision: str | None = None
    """In which precision, likewise."""
    embeddings: bool = False
    """Whether blocks keep the images' embeddings."""

    def schema(self) -> Any:
        """Image, caption, scores, reason and place, the other columns, and ``extra``: JSON of what has no column."""
        import pyarrow as pa

        own = {name: pa.string() for name in _OWN} | {
            "score": pa.float32(), "match": pa.float32(), "cosine": pa.float32(), "truncated": pa.bool_(),
        }  # fmt: skip
        extra = own.pop("extra")
        others = {name: pa.type_for_alias(kind) for name, kind in self.others}
        return pa.schema(list((own | others | self.more_fields() | {"extra": extra}).items()))

    def more_fields(self) -> dict[str, Any]:
        """Columns beside those of the scores, by name, with their pyarrow types."""
        return {}

    def more(self, block: Block) -> Mapping[str, Any]:
        """The values of :meth:`more_fields` for a block, one a row."""
        return {}

    def begin(self) -> Compute:
        """Load the model."""
        return _Computing(self)

    def scorer(self) -> "Scorer":
        """The model, computing on ``threads`` threads."""
        from cliplet.encoders.batching import limit_threads
        from cliplet.scoring.scorer import Scorer

        scorer = Scorer(
            self.model, self.preset, match=self.match, device=self.device, precision=self.precision
        )
        limit_threads(scorer.encoder, self.threads)
        return scorer


class _Computing:
    """Parts in one process: the model, the photos' index and the place reached in a file stay from part to part."""

    def __init__(self, work: ScoreWork) -> None:
        self.work = work
        self.reader = PartReader(work.columns, work.several, work.images)
        self.scorer = work.scorer()

    def __call__(self, part: Part, say: Say) -> Iterator[Any]:
        done = 0
        for entries, photos, names, reasons in self.reader.blocks(part, say):
            total = "" if part.stop is None else f" of {part.stop - part.start}"

            def told(rows: int, _: int, before: int = done, total: str = total) -> None:
                say(f"scoring, {before + rows}{total} rows")

            told(0, 0)
            captions: list[Any] = [
                entry.caption if why is None else None for entry, why in zip(entries, reasons, strict=True)
            ]
            scored = self.scorer.score(
                [photo if photo is not None else b"" for photo in photos],
                captions, progress=told, embeddings=self.work.embeddings,
            )  # fmt: skip
            why = [own or failure for own, failure in zip(reasons, scored.failures, strict=True)]
            yield self._table(Block(part, entries, photos, names, why, scored))
            done += len(entries)

    def _table(self, block: Block) -> Any:
        import pyarrow as pa

        scored, schema = block.scored, self.work.schema()
        columns: dict[str, Any] = {
            "image": [_text(str(entry.image)) for entry in block.entries],
            "caption": [_text(e.caption) if isinstance(e.caption, str) else None for e in block.entries],
            "score": _column(scored.score),
            "match": None if scored.match is None else _column(scored.match),
            "cosine": _column(scored.cosine),
            "truncated": pa.array(scored.truncated),
            "reason": [None if why is None else _text(why) for why in block.reasons],
            "where": [_text(entry.where) for entry in block.entries],
            "source": [block.part.source.name] * len(block.entries),
            "member": [photo.name if isinstance(photo, TarPhoto) else None for photo in block.photos],
            **_others(block.entries, self.work.others),
            **self.work.more(block),
        }
        if columns["match"] is None:
            columns["match"] = pa.nulls(len(block.entries), pa.float32())
        return pa.table([pa.array(columns[f.name], f.type) if isinstance(columns[f.name], list) else columns[f.name]
                         for f in schema], schema=schema)  # fmt: skip


class PartReader:
    """Reads parts: captions with their photos, in blocks; stays where it is in a file that is read from the start."""

    def __init__(self, columns: Columns, several: bool, images: str | None) -> None:
        self.columns, self.several, self.images = columns, several, images
        self._at: tuple[str, int, Iterator[CaptionEntry]] | None = None

    @cached_property
    def _index(self) -> PhotoIndex:
        return photos_of([], [], self.images)[1]

    def blocks(
        self, part: Part, say: Say
    ) -> Iterator[tuple[list[CaptionEntry], list[ImageInput | None], list[str | None], list[str | None]]]:
        """Entries, photos, photo names and reasons, :data:`BLOCK` rows at a time.

        Raises:
            InputError: the source has changed, cannot be read whole, or holds fewer rows than planned.
        """
        source, rows = part.source, 0
        with _opened(part, say) as path:
            entries = self._entries(part, path)
            while block := list(islice(entries, BLOCK)):
                rows += len(block)
                found, index = (
                    (block, self._index) if self.images is not None else photos_of(block, [path], None)
                )
                names, photos, reasons = find_photos(found, index)
                yield [self._named(e, source.name) for e in found], photos, names, reasons
        if part.stop is not None and source.kind != "tar" and rows < part.stop - part.start:
            raise InputError(f"{source.name} holds {rows} of the {part.stop - part.start} rows planned of it")

    def _named(self, entry: CaptionEntry, name: str) -> CaptionEntry:
        """The entry as outputs call it where there are several sources."""
        if not self.several:
            return entry
        image = entry.image if entry.photo is None else f"{name}/{entry.image}"
        return entry._replace(where=f"{name}, {entry.where}", image=image)

    def _entries(self, part: Part, path: Path) -> Iterator[CaptionEntry]:
        source = part.source
        if source.kind == "table" or (part.start == 0 and part.stop is None):
            return stream_captions(path, self.columns, None, part.start, part.stop)
        at, entries = 0, None
        if self._at is not None and self._at[0] == source.path and self._at[1] <= part.start:
            _, at, entries = self._at
        if entries is None:
            entries = stream_captions(path, self.columns)
        self._at = None  # until this part is read whole
        return self._slice(part, entries, at)

    def _slice(self, part: Part, entries: Iterator[CaptionEntry], at: int) -> Iterator[CaptionEntry]:
        for _ in islice(entries, part.start - at):
            pass
        yield from islice(entries, None if part.stop is None else part.stop - part.start)
        self._at = None if part.stop is None else (part.source.path, part.stop, entries)


class _opened:
    """A source as a local file: itself once it is known to be as planned, or a copy of what is remote."""

    def __init__(self, part: Part, say: Say) -> None:
        self.source, self.say = part.source, say
        self.copy: Any = None

    def __enter__(self) -> Path:
        if not self.source.remote:
            unchanged(self.source)
            return Path(self.source.path)
        from cliplet.stream.remote import fetched

        self.copy = fetched(self.source, self.say)
        return Path(self.copy.__enter__())

    def __exit__(self, *error: Any) -> None:
        if self.copy is not None:
            self.copy.__exit__(*error)


def _column(values: Any) -> Any:
    """Scores as a pyarrow column, null where a row has none."""
    import pyarrow as pa

    floats = np.asarray(values, dtype=np.float32)
    return pa.array(floats, mask=np.isnan(floats))


def _text(text: str) -> str:
    return text if text.isascii() else scrub(text)


def _others(entries: Sequence[CaptionEntry], others: Sequence[tuple[str, str]]) -> dict[str, list[Any]]:
    """The other columns, and what has none of its own or does not fit it as JSON in ``extra``."""
    found: dict[str, list[Any]] = {name: [] for name, _ in others} | {"extra": []}
    for entry in entries:
        left = {name: finite(value) for name, value in entry.extra.items() if name and value is not None}
        for name, kind in others:
            value = left.get(name)
            fits = value is not None and _kind(value) in (kind, "int64" if kind == "double" else kind)
            found[name].append(_fitted(left.pop(name), kind) if fits else None)
        left = {name: value for name, value in left.items() if name not in _OWN}
        found["extra"].append(json.dumps(left, ensure_ascii=True) if left else None)
    return found


def _fitted(value: Any, kind: str) -> Any:
    return float(value) if kind == "double" else _text(value) if kind == "string" else value


def _kind(value: Any) -> str | None:
    kind = next((name for name, kind in TYPES.items() if type(value) is kind), None)
    return None if kind == "int64" and not -(2**63) <= value < 2**63 else kind


def located(work: W) -> W:
    """The work with paths of model, match and photos that are good in any process of any machine.

    Raises:
        InputError: photos at an address.
    """
    if work.images is not None and is_remote(work.images):
        raise InputError(f"--images {work.images}: photos beside a stream must be in a local folder or tar")
    images = work.images and os.path.abspath(work.images)
    return replace(work, images=images, match=_absolute(work.match), model=_absolute(work.model))


def _absolute(name: str | None) -> str | None:
    """A file or folder by its whole path; other names as they are."""
    return os.path.abspath(name) if name and os.path.exists(name) else name


def first_captions(sources: Sequence[Source], columns: Columns) -> tuple[list[CaptionEntry], Source]:
    """The first captions of the first source that has good ones; what is remote has none, as it would be fetched.

    A shard that is broken or empty is for its part to tell, wherever it stands among the others.

    Raises:
        InputError: none of the first :data:`LOOKED` sources has good captions: what is wrong with the first.
    """
    wrong: list[InputError] = []
    for source in sources[:LOOKED]:
        if source.remote:
            return [], source
        try:
            entries = list(islice(stream_captions(source.path, columns), PEEKED))
        except InputError as error:
            wrong.append(error)
            continue
        if any(entry.reason is None for entry in entries):
            return entries, source
        why = f", {entries[0].where}: {entries[0].reason}" if entries else " holds no captions"
        wrong.append(InputError(f"{source.name}{why}"))
    raise wrong[0]


def other_columns(entries: Sequence[CaptionEntry]) -> tuple[tuple[str, str], ...]:
    """The other columns of the first entries with their types; one whose values are of several types has no column."""
    kinds: dict[str, set[str | None]] = {}
    for entry in entries:
        for name, value in entry.extra.items():
            if name and name not in _OWN and value is not None:
                kinds.setdefault(name, set()).add(_kind(value))
    known = {name: found for name, found in kinds.items() if None not in found}
    chosen = {name: "double" if found == {"int64", "double"} else next(iter(found)) for name, found in known.items()
              if len(found) == 1 or found == {"int64", "double"}}  # fmt: skip
    return tuple((name, kind) for name, kind in chosen.items() if kind is not None)
