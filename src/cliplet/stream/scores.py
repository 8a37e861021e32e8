"""The work of `cliplet score`: the rows of a part with their scores, in blocks that depend on the part alone."""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from cliplet.data.captions import CaptionEntry, Columns, stream_captions
from cliplet.data.images import ImageInput
from cliplet.data.photos import TarPhoto
from cliplet.data.text import scrub
from cliplet.errors import InputError
from cliplet.metrics.clipscore import MODEL_SCORES, find_preset
from cliplet.scoring.rows import finite
from cliplet.stream.extras import COUNT, Computing, Extras
from cliplet.stream.part import Compute, Say
from cliplet.stream.plan import Part
from cliplet.stream.reader import PartReader
from cliplet.stream.source import Source, is_remote

if TYPE_CHECKING:
    from cliplet.scoring.scorer import Scorer, ScoreResult

SCORES = ("score", "match", "cosine")
"""Columns of scores that all parts have."""
TYPES = {"bool": bool, "int64": int, "double": float, "string": str}
"""Types of other columns by pyarrow's name, and Python's."""
NO_REFERENCES = "no references were found for the image"
"""Why a row has no score where there is no model."""
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
    "references",
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
    scored: "ScoreResult | None"
    """The scores; None without a model."""


@dataclass(frozen=True)
class ScoreWork:
    """Scores by one model.

    A subclass can add columns: :meth:`more_fields` names them, :meth:`more` fills them, and ``embeddings`` keeps the
    images' embeddings in each block's ``scored.image_embeddings``.
    """

    model: str | None = None
    """As :func:`cliplet.load` takes it; ``none``: without a model, for metrics on references alone."""
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
    """Whether blocks keep the embeddings of images and captions."""
    scores: tuple[str, ...] = ()
    """The model's other scores that parts have, by name (those of :data:`cliplet.metrics.clipscore.MODEL_SCORES`)."""
    extras: Extras = field(default_factory=Extras)
    """What is computed beside the model's scores."""
    cache: bool | str = False
    """Whether embeddings are kept on disk, or the folder where."""

    def schema(self) -> Any:
        """Image, caption, scores, reason and place, the other columns, and ``extra``: JSON of what has no column."""
        import pyarrow as pa

        own: dict[str, Any] = {}
        for name in ("image", "caption", "score", "match", "cosine"):
            own[name] = pa.float32() if name in SCORES else pa.string()
        own |= {MODEL_SCORES[name]: pa.float32() for name in self.scores}
        own |= {field: pa.float64() for _, field in self.extras.columns}
        own |= {COUNT: pa.int32()} if self.extras.references else {}
        own |= {"truncated": pa.bool_()} | {
            name: pa.string() for name in ("reason", "where", "source", "member")
        }
        extra = pa.string()
        others = {name: pa.type_for_alias(kind) for name, kind in self.others}
        return pa.schema(list((own | others | self.more_fields() | {"extra": extra}).items()))

    def more_fields(self) -> dict[str, Any]:
        """Columns beside those of the scores, by name, with their pyarrow types."""
        return {}

    def more(self, block: Block) -> Mapping[str, Any]:
        """The values of :meth:`more_fields` for a block, one a row."""
        return {}

    @property
    def alone(self) -> bool:
        """Whether there are only metrics on references."""
        return self.model == "none"

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
        if self.cache:
            from cliplet.encoders.cache import kept_alone

            scorer.encoder = kept_alone(scorer.encoder, self.cache)
        return scorer

    def measured(self) -> dict[str, str]:
        """Name of each score in outputs, and its column."""
        if self.alone:
            return dict(self.extras.columns)
        preset = find_preset(self.preset)
        found = {preset.column: "score", "match": "match", "cosine": "cosine"}
        if preset.field == "cosine":
            found = {"cosine": "score", "match": "match"}
        return found | {name: MODEL_SCORES[name] for name in self.scores} | dict(self.extras.columns)


class _Computing:
    """Parts in one process: the model, the photos' index and the place reached in a file stay from part to part."""

    def __init__(self, work: ScoreWork) -> None:
        self.work = work
        self.reader = PartReader(work.columns, work.several, work.images, photos=not work.alone)
        self.scorer = None if work.alone else work.scorer()
        self.extras = Computing(work.extras) if work.extras else None

    def __call__(self, part: Part, say: Say) -> Iterator[Any]:
        done = 0
        if self.extras is not None:
            self.extras.begin()
        for entries, photos, names, reasons in self.reader.blocks(part, say):
            total = "" if part.stop is None else f" of {part.stop - part.start}"

            def told(rows: int, _: int, before: int = done, total: str = total) -> None:
                say(f"scoring, {before + rows}{total} rows")

            told(0, 0)
            captions: list[Any] = [
                entry.caption if why is None else None for entry, why in zip(entries, reasons, strict=True)
            ]
            references = None if self.extras is None else self.extras.references(entries, names)
            scored, why = None, reasons
            if self.scorer is not None:
                scored = self.scorer.score(
                    [photo if photo is not None else b"" for photo in photos],
                    captions, references, told, self.work.embeddings or self.work.extras.diversity,
                )  # fmt: skip
                why = [own or failure for own, failure in zip(reasons, scored.failures, strict=True)]
            elif references is not None:
                why = [
                    own or (None if refs else NO_REFERENCES)
                    for own, refs in zip(reasons, references, strict=True)
                ]
            if self.extras is not None:
                say(f"comparing, {done}{total} rows")
            compared = {} if self.extras is None else self.extras.columns(entries, references)
            yield self._table(Block(part, entries, photos, names, why, scored), compared)
            if self.extras is not None:
                seen = reasons if scored is None else why  # a caption without references is one of the set
                self.extras.see(entries, [i for i, reason in enumerate(seen) if reason is None], scored)
            done += len(entries)
        if self.extras is not None:
            self.extras.finish(part)

    def _table(self, block: Block, compared: Mapping[str, Any]) -> Any:
        import pyarrow as pa

        scored, schema, n = block.scored, self.work.schema(), len(block.entries)
        none = pa.nulls(n, pa.float32())
        columns: dict[str, Any] = {
            "image": [_text(str(entry.image)) for entry in block.entries],
            "caption": [_text(e.caption) if isinstance(e.caption, str) else None for e in block.entries],
            "score": none if scored is None else _column(scored.score),
            "match": none if scored is None or scored.match is None else _column(scored.match),
            "cosine": none if scored is None else _column(scored.cosine),
            "truncated": pa.array(np.zeros(n, dtype=bool) if scored is None else scored.truncated),
            "reason": [None if why is None else _text(why) for why in block.reasons],
            "where": [_text(entry.where) for entry in block.entries],
            "source": [block.part.source.name] * n,
            "member": [photo.name if isinstance(photo, TarPhoto) else None for photo in block.photos],
            **{
                MODEL_SCORES[name]: _column(v)
                for name, v in (scored.columns() if scored else {}).items()
                if name in self.work.scores
            },
            **{name: _column(values, values.dtype) for name, values in compared.items()},
            **_others(block.entries, self.work.others),
            **self.work.more(block),
        }
        return pa.table([pa.array(columns[f.name], f.type) if isinstance(columns[f.name], list) else columns[f.name]
                         for f in schema], schema=schema)  # fmt: skip


def _column(values: Any, kind: Any = np.float32) -> Any:
    """Scores as a pyarrow column, null where a row has none."""
    import pyarrow as pa

    floats = np.asarray(values, dtype=kind)
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
    """The work with paths of model, match and photos that are good in any process of any machine."""
    images = work.images
    if images is not None and not is_remote(images):
        images = os.path.abspath(images.removeprefix("file://"))
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


def other_columns(
    entries: Sequence[CaptionEntry], taken: Collection[str] = ()
) -> tuple[tuple[str, str], ...]:
    """The other columns of the first entries with their types; one whose values are of several types has no column.

    ``taken``: columns of scores.
    """
    kinds: dict[str, set[str | None]] = {}
    for entry in entries:
        for name, value in entry.extra.items():
            if name and name not in _OWN and name not in taken and value is not None:
                kinds.setdefault(name, set()).add(_kind(value))
    known = {name: found for name, found in kinds.items() if None not in found}
    chosen = {name: "double" if found == {"int64", "double"} else next(iter(found)) for name, found in known.items()
              if len(found) == 1 or found == {"int64", "double"}}  # fmt: skip
    return tuple((name, kind) for name, kind in chosen.items() if kind is not None)
