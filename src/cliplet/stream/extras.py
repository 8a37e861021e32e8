"""What a stream computes beside the model's scores: metrics on references, and the captions as a set.

Values of single rows become columns of the parts. What only exists for all rows together (BLEU's counts, the captions
as a set) is summed part by part into ``beside/sums/part-00012.npz``, written before the part is, so that a part that is
there has its sums. ``beside`` also holds the references of a file, the document frequencies and the training captions.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.captions import CaptionEntry
from cliplet.data.names import image_name
from cliplet.data.text import caption_problem, scrub
from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.statistics.corpus import CorpusStatistic, Value

if TYPE_CHECKING:
    from cliplet.metrics.base import ReferenceMetric, ReferenceScores
    from cliplet.metrics.cider import DocumentFrequencies
    from cliplet.scoring.scorer import ScoreResult
    from cliplet.stream.caption_set import CaptionSet
    from cliplet.stream.plan import Part

BESIDE, SUMS = "beside", "sums"
"""Folders in the output folder, and in that one."""
REFERENCES, FREQUENCIES, TRAINING = "references.sqlite", "frequencies.npz", "training.npy"
"""Files of ``beside``."""
COUNT = "references"
"""The column that says how many references a row has."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Extras:
    """What is computed beside the model's scores; empty for nothing."""

    folder: str = ""
    """``beside``, by its whole path."""
    references: str = ""
    """Whose: ``file``, ``own`` (those in the rows), or empty for none."""
    metrics: tuple[str, ...] = ()
    """Metrics on references, as :func:`cliplet.metrics.registry.find_metrics` takes them."""
    columns: tuple[tuple[str, str], ...] = ()
    """Names and fields of what these give here; elsewhere they must give the same."""
    tokenizer: str = "ptb"
    """Of the metrics."""
    frequencies: bool = False
    """Whether there are document frequencies."""
    diversity: bool = False
    """Whether the captions are measured as a set."""
    training: bool = False
    """Whether with the share of captions that are not among those of training."""

    def __bool__(self) -> bool:
        return bool(self.references or self.diversity)

    def sums_of(self, part: "Part") -> Path:
        """The file of a part's sums."""
        return Path(self.folder) / SUMS / f"{part.name}.npz"


class Computing:
    """Extras in one process; :meth:`begin` and :meth:`finish` enclose a part."""

    def __init__(self, extras: Extras) -> None:
        """Open what is in ``beside``. Raises InputError where it is not there, or a metric cannot run."""
        from cliplet.stream.references import References

        self.extras, folder = extras, Path(extras.folder)
        self.index = References(folder / REFERENCES, "--refs") if extras.references == "file" else None
        self.metrics: list[ReferenceMetric] = []
        self.given: DocumentFrequencies | None = None
        self.known: Any = None
        if extras.metrics:
            from cliplet.metrics.registry import find_metrics

            self.metrics = find_metrics(extras.metrics)
        if extras.frequencies:
            from cliplet.metrics import cider

            self.given = cider.DocumentFrequencies.load(folder / FREQUENCIES)
        if extras.training:
            self.known = np.load(folder / TRAINING, mmap_mode="r")
        self.begin()

    def begin(self) -> None:
        """Begin a part."""
        self.sums: dict[int, Floats] = {}
        self.word_for_word = 0
        self.captions: CaptionSet | None = None
        if self.extras.diversity:
            from cliplet.stream import caption_set

            self.captions = caption_set.CaptionSet()

    def references(
        self, entries: Sequence[CaptionEntry], names: Sequence[str | None]
    ) -> list[list[str]] | None:
        """The usable references of each row; None where none are wanted."""
        if not self.extras.references:
            return None
        if self.index is not None:
            return self.index.of([entry.image for entry in entries], names)
        return [[r for r in entry.references or () if caption_problem(r) is None] for entry in entries]

    def columns(self, entries: Sequence[CaptionEntry], references: list[list[str]] | None) -> dict[str, Any]:
        """The metrics' columns by field, NaN where a row has none, and how many references each has."""
        if references is None:
            return {}
        rows = [i for i, own in enumerate(references) if own]
        found: dict[str, Any] = {COUNT: np.array([len(own) for own in references], np.int32)}
        found |= {field: np.full(len(entries), np.nan) for _, field in self.extras.columns}
        self.word_for_word += sum(entries[i].caption in references[i] for i in rows)
        if rows and self.metrics:
            scores = compared(
                [entries[i].caption for i in rows], [references[i] for i in rows], self.metrics, self.given,
                self.extras.tokenizer,
            )  # fmt: skip
            if set(scores.per_caption) != {name for name, _ in self.extras.columns}:
                raise InputError(
                    f"this machine gives {', '.join(scores.per_caption)}, where the run has "
                    f"{', '.join(name for name, _ in self.extras.columns)}: install the same on all"
                )
            for name, field in self.extras.columns:
                found[field][rows] = scores.per_caption[name]
            self._add([str(entries[i].image) for i in rows], scores.statistics)
        return found

    def see(self, entries: Sequence[CaptionEntry], rows: Sequence[int], scored: "ScoreResult | None") -> None:
        """Measure some captions of a block as a set; without scores no photo is looked for."""
        if self.captions is None:
            return
        from cliplet.metrics.tokenizer.ptb import tokenize_many

        words = tokenize_many(
            [entries[i].caption for i in rows], joined=False, tokenizer=self.extras.tokenizer
        )
        images = [image_name(entries[i].image) for i in rows]
        self.captions.add_block(words, images, self.known)
        if rows and scored is not None and scored.image_embeddings is not None:
            assert scored.text_embeddings is not None
            chosen = list(rows)
            self.captions.add_found(scored.image_embeddings[chosen], scored.text_embeddings[chosen], images)

    def finish(self, part: "Part") -> None:
        """Write the part's sums, whole or not at all."""
        keys = sorted(self.sums)
        arrays: dict[str, NDArray[Any]] = {
            "images": np.array(keys, np.uint64),
            "sums": np.stack([self.sums[key] for key in keys]) if keys else np.empty((0, 0)),
            "word_for_word": np.array(self.word_for_word),
        }
        if self.captions is not None:
            arrays |= self.captions.arrays()
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        path = self.extras.sums_of(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())

    def _add(self, images: Sequence[str], statistics: Mapping[str, CorpusStatistic]) -> None:
        """Add what rows add to values that are no means, by image."""
        addends, _ = layout(statistics)
        if not addends.shape[1]:
            return
        names, codes = np.unique([image_name(image) for image in images], return_inverse=True)
        sums = CorpusStatistic(addends, lambda s: s).by_group(codes.reshape(-1), len(names))
        for name, own in zip(names.tolist(), sums, strict=True):
            key = image_hash(name)
            self.sums[key] = self.sums[key] + own if key in self.sums else own


def image_hash(name: str) -> int:
    """64 bits of an image, by the name under which its rows are gathered."""
    from cliplet.stream.caption_set import text_hash

    return text_hash(image_name(name))


def compared(
    captions: Sequence[Any],
    references: Sequence[Sequence[str]],
    metrics: Sequence["ReferenceMetric"],
    frequencies: "DocumentFrequencies | None",
    tokenizer: str,
) -> "ReferenceScores":
    """Metrics of captions with references, each read on its own; a caption that is no text counts as an empty one."""
    from cliplet.metrics.registry import reference_scores

    texts = [scrub(caption) if isinstance(caption, str) else "" for caption in captions]
    return reference_scores(texts, references, None, metrics, frequencies, joined=False, tokenizer=tokenizer)


Layout = dict[str, tuple[slice, Value]]
"""Column to where its addends stand, and its value from their sums."""


def layout(statistics: Mapping[str, CorpusStatistic]) -> tuple[Floats, Layout]:
    """The addends ``[captions, k]`` of all columns that are no means, each once, and where each column's are."""
    arrays: list[Floats] = []
    known: dict[int, slice] = {}
    found: Layout = {}
    width = 0
    for name, statistic in statistics.items():
        if statistic.is_mean:
            continue
        if id(statistic.addends) not in known:
            arrays.append(statistic.addends)
            known[id(statistic.addends)] = slice(width, width + statistic.addends.shape[1])
            width += statistic.addends.shape[1]
        found[name] = known[id(statistic.addends)], statistic.value
    rows = len(next(iter(statistics.values())).addends) if statistics else 0
    return (np.concatenate(arrays, axis=1) if arrays else np.empty((rows, 0))), found


@dataclass(frozen=True)
class PartSums:
    """What a part's file of sums holds."""

    images: NDArray[np.uint64]
    """Hashes of its images."""
    sums: Floats
    """``[images, k]``, as :func:`layout` has them."""
    word_for_word: int
    """Captions that stand among their own references."""
    captions: "CaptionSet | None"
    """Its captions as a set."""


def read_sums(path: Path) -> PartSums:
    """A part's sums.

    Raises:
        InputError: they are missing or broken.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        captions = None
        if "set_sums" in arrays:
            from cliplet.stream import caption_set

            captions = caption_set.CaptionSet.restore(arrays)
        return PartSums(arrays["images"], arrays["sums"], int(arrays["word_for_word"]), captions)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(
            f"{path}, which belongs to its part, cannot be read ({error}): delete the part's file, so that the part is "
            "done again"
        ) from error
