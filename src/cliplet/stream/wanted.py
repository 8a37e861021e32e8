"""What a user wants of a stream beside the model's scores, and the files that it takes, made once before the parts."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cliplet.data.captions import CaptionEntry, stream_captions
from cliplet.data.photos import PhotoIndex
from cliplet.errors import InputError
from cliplet.files import whole, write_atomically
from cliplet.stream.extras import BESIDE, FREQUENCIES, REFERENCES, TRAINING, Extras, Layout, compared, layout
from cliplet.stream.reader import opened
from cliplet.stream.source import Source
from cliplet.stream.sources import find_sources

if TYPE_CHECKING:
    from cliplet.metrics.base import ReferenceMetric

DOCUMENTS = 50_000
"""Images whose references are counted for document frequencies, at most; of more, every so-many-th."""
MADE = "made.json"
"""In ``beside``: from what its files were made, and what was in that."""
BATCH = 10_000


@dataclass(frozen=True)
class Wanted:
    """Options of ``cliplet score`` on references and on the captions as a set."""

    references: str | None = None
    """A file of references, several by a pattern, or an address; None: those in the captions files, if there are."""
    metrics: Sequence[str] | None = None
    """Metrics on them; None: the default ones."""
    df: str | None = None
    """A file of ``cliplet df``; None: counted over the references of ``references``."""
    tokenizer: str = "ptb"
    """Of the metrics."""
    diversity: bool = False
    """Whether the captions are measured as a set."""
    training: str | None = None
    """Captions of training, for the share of those that are new."""


@dataclass
class Settled:
    """What comes of it."""

    extras: Extras
    """For the workers."""
    settings: dict[str, Any]
    """For the plan."""
    sums: Layout = field(default_factory=dict)
    """Columns that are no means."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers must know."""
    references: list[Source] = field(default_factory=list)
    """Files of references."""
    training: list[Source] = field(default_factory=list)
    """Files of training captions."""
    df: str | None = None
    """File of document frequencies."""
    first: Sequence[CaptionEntry] = ()
    """The first captions, some of which should have references."""
    named: str | None = None
    """The references as they were given."""
    photos: PhotoIndex | None = None
    """Those in ``--images``, where this process has opened them."""

    @property
    def folder(self) -> Path:
        """``beside``."""
        return Path(self.extras.folder)

    def prepare(self) -> None:
        """Make the files in ``beside`` that are not there; a run that goes on finds them.

        Raises:
            InputError: references, frequencies or training captions cannot be read, or no reference belongs to the
                first captions.
        """
        if not self.extras:
            return
        self.folder.mkdir(exist_ok=True)
        made = self._made()
        if made.get("of") != json.loads(json.dumps(self.settings)):
            made = {"of": self.settings}
        for name, make in (
            (REFERENCES, self._references),
            (FREQUENCIES, self._frequencies),
            (TRAINING, self._training),
        ):
            if name not in made or not (self.folder / name).exists():
                made[name] = make()
        write_atomically(self.folder / MADE, json.dumps(made, indent=1) + "\n")

    def _made(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / MADE).read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            return {}

    def _references(self) -> dict[str, Any] | None:
        from cliplet.stream import references

        if self.extras.references != "file":
            return None
        read = references.build(self.folder / REFERENCES, self.references)
        if self.first:
            index = references.References(self.folder / REFERENCES, str(self.named))
            keys = [entry.image for entry in self.first if entry.reason is None]
            if keys and not any(index.of(keys, [None] * len(keys))):
                raise InputError(
                    f"none of the first {len(keys)} captions has a reference in {self.named}: the captions' images are "
                    f"called like {keys[0]!r}, those of the references like {index.first()!r}"
                )
        return read._asdict()

    def _frequencies(self) -> dict[str, Any] | None:
        if not self.extras.frequencies:
            return None
        from cliplet.metrics.cider import DocumentFrequencies

        if self.df is not None:
            with whole(self.folder / FREQUENCIES) as part:
                shutil.copyfile(self.df, part)
            found = DocumentFrequencies.load(self.folder / FREQUENCIES)
            return {"documents": found.documents, "every": 0}
        from cliplet.metrics.tokenizer.ptb import tokenize_many
        from cliplet.stream.references import References

        index = References(self.folder / REFERENCES)
        every = -(-index.count() // DOCUMENTS)
        groups = []
        for group in index.groups(every):
            groups.append(tokenize_many(group, joined=False, tokenizer=self.extras.tokenizer))
        found = DocumentFrequencies.from_references(groups, source=str(self.named))
        found.save(self.folder / FREQUENCIES)
        return {"documents": found.documents, "every": every}

    def _training(self) -> dict[str, Any] | None:
        if not self.extras.training:
            return None
        from cliplet.metrics.tokenizer.ptb import tokenize_many
        from cliplet.stream.caption_set import caption_hashes

        hashes = [np.empty(0, np.uint64)]
        for source in self.training:
            with opened(source, lambda doing: None) as path:
                entries = stream_captions(path, plain_lines=True)
                while block := list(islice(entries, BATCH)):
                    texts = [entry.caption for entry in block if entry.problem is None]
                    words = tokenize_many(texts, joined=False, tokenizer=self.extras.tokenizer)
                    hashes.append(np.unique(caption_hashes(words)))
        known = np.unique(np.concatenate(hashes))
        if not len(known):
            raise InputError(f"{self.training[0].name} holds no captions")
        with whole(self.folder / TRAINING) as part, open(part, "wb") as file:
            np.save(file, known, allow_pickle=False)
        return {"captions": len(known)}

    def said(self) -> list[str]:
        """Notes for the summary, of what ``beside`` was made from."""
        made, notes = self._made(), list(self.notes)
        read, counted = made.get(REFERENCES), made.get(FREQUENCIES)
        if self.extras.references == "own":
            notes.append("the references are those that the captions files themselves have")
        if read and read["left_out"]:
            notes.append(f"{read['left_out']} captions left out of {self.named}, such as {read['why']}")
        if counted:
            from cliplet.metrics.cider import small_corpus_caveat

            if counted["every"] == 1:
                notes.append(
                    f"CIDEr-D's document frequencies are those of all {counted['documents']} images of {self.named}"
                )
            elif counted["every"]:
                notes.append(
                    f"CIDEr-D's document frequencies are estimates: those of a sample of {counted['documents']} of the "
                    f"{read and read['images']} images of {self.named}; `cliplet df` and --df give exact ones"
                )
            caveat = small_corpus_caveat(counted["documents"])
            notes += [caveat] if caveat else []
        return notes


def settle(wanted: Wanted, entries: Sequence[CaptionEntry], source: Source, folder: Path) -> Settled:
    """What is to be computed, known to be able to run here.

    Args:
        wanted: the options.
        entries: the first captions; none where the first source is remote.
        source: theirs.
        folder: the output folder.

    Raises:
        InputError: a metric is unknown or cannot run, references are missing, or document frequencies are.
    """
    files = [] if wanted.references is None else find_sources([wanted.references])
    training = [] if wanted.training is None else find_sources([wanted.training])
    kind = "file" if files else _own(wanted, entries, source)
    chosen, notes, needed = _metrics(wanted, kind)
    columns: tuple[tuple[str, str], ...] = ()
    sums: Layout = {}
    if chosen:
        from cliplet.metrics.registry import row_fields

        tried = compared(["a dog"], [["a dog"]], chosen, None, wanted.tokenizer)
        fields = row_fields(chosen)
        columns = tuple((name, fields[name]) for name in tried.per_caption)
        _, sums = layout(tried.statistics)
        notes += tried.notes
    counted = bool(needed) or (wanted.df is not None and bool(kind))
    extras = Extras(
        str((folder / BESIDE).absolute()), kind, tuple(metric.name for metric in chosen), columns, wanted.tokenizer,
        counted, wanted.diversity or bool(training), bool(training),
    )  # fmt: skip
    settings: dict[str, Any] = {
        "references": [[one.name, one.size, one.stamp] for one in files] if files else kind or None,
        "metrics": [name for name, _ in columns] if kind else None,
        "document frequencies": (_digest(wanted.df) if wanted.df else "counted") if counted else None,
        "tokenizer": wanted.tokenizer,
        "diversity": extras.diversity,
        "training captions": [[one.name, one.size, one.stamp] for one in training] or None,
    }
    return Settled(
        extras, settings, sums, notes, files, training, wanted.df if counted else None,
        entries if files else (), wanted.references,
    )  # fmt: skip


def _own(wanted: Wanted, entries: Sequence[CaptionEntry], source: Source) -> str:
    """``own`` where the captions files have references: the first say so, or the options where these are remote."""
    unseen = not entries and source.remote and bool(wanted.metrics or wanted.df)
    if unseen or any(entry.references for entry in entries):
        return "own"
    asked = "--metrics" if wanted.metrics else "--df" if wanted.df else ""
    if asked:
        raise InputError(
            f"{asked} is for captions with references: give their file with --refs; {source.name} has none of its own"
        )
    return ""


def _metrics(wanted: Wanted, kind: str) -> tuple[list["ReferenceMetric"], list[str], list["ReferenceMetric"]]:
    """The chosen metrics, notes, and those of them that need document frequencies."""
    if not kind or (wanted.metrics is not None and not wanted.metrics):
        return [], [], []
    from cliplet.metrics import cider
    from cliplet.metrics.registry import find_metrics

    chosen = find_metrics(wanted.metrics)
    needed = [metric for metric in chosen if metric.count is cider.count]
    if not needed or kind == "file" or wanted.df is not None:
        return chosen, [], needed
    names = ", ".join(metric.columns[0] for metric in needed)
    why = (
        f"{names} weighs n-grams by document frequencies, which references inside the captions files cannot give "
        "before all are read: count them once with `cliplet df REFERENCES FILE` and give --df FILE"
    )
    if wanted.metrics is not None:
        raise InputError(f"{why}, or leave it out of --metrics")
    rest = [metric for metric in chosen if metric not in needed]
    return rest, [f"{names} is left out: it {why.removeprefix(names).strip()}"], []


def _digest(path: str) -> str:
    from cliplet.metrics.cider import DocumentFrequencies

    DocumentFrequencies.load(path)  # what it is not, is said now
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()
