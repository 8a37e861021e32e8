"""The plan: which parts a stream has, written once; a run that goes on must have the same one."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

from cliplet.data.arrow import arrow_length
from cliplet.data.captions import Columns, stream_captions
from cliplet.data.parquet import parquet_groups
from cliplet.data.photos import PhotoTar
from cliplet.data.samples import samples_of
from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.stream.source import Source

FORMAT = 1
"""Of plan.json."""
NAME = "plan.json"
PART_ROWS = 10_000
"""Rows of a part, about, unless another number is given."""
LONG = 1.5
"""A tar of fewer than so many times a part's rows, as its size lets guess, is one part and is not listed."""
PROBED = 20
"""Samples by which the rows of a tar are guessed."""


@dataclass(frozen=True)
class Part:
    """Rows of one source that are computed, written and repeated together."""

    number: int
    """Its place in the plan, from 0; the name of its file."""
    source: Source
    """Where its rows are."""
    start: int = 0
    """Its first row, as :func:`cliplet.data.captions.stream_captions` counts them."""
    stop: int | None = None
    """The row behind its last; None: to the end."""

    @property
    def name(self) -> str:
        """``part-00012``."""
        return f"part-{self.number:05d}"

    def __str__(self) -> str:
        rows = "" if self.stop is None else f", rows {self.start + 1} to {self.stop}"
        return f"{self.name} ({self.source.name}{rows})"


@dataclass(frozen=True)
class Plan:
    """All parts, and what decides about their contents."""

    sources: list[Source]
    """The files, in order."""
    cuts: list[tuple[int, int, int | None]]
    """Each part's source by number, first row and the row behind its last."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else a part's contents depend on: model, preset, versions; plain JSON."""

    def part(self, number: int) -> Part:
        """A part by its number."""
        source, start, stop = self.cuts[number]
        return Part(number, self.sources[source], start, stop)

    def __iter__(self) -> Iterator[Part]:
        return map(self.part, range(len(self.cuts)))

    def __len__(self) -> int:
        return len(self.cuts)

    def rows(self) -> int | None:
        """Rows in all; None where a part's number is not known."""
        known = [stop - start for _, start, stop in self.cuts if stop is not None]
        return sum(known) if len(known) == len(self.cuts) else None


def make_plan(
    sources: Sequence[Source], settings: Mapping[str, Any], part_rows: int, columns: Columns | None = None
) -> Plan:
    """Cut sources into parts of about ``part_rows`` rows, evenly.

    Tables are cut by their row groups where these are not longer than a part; other captions files are read once to
    count their rows; a tar that is not much longer than a part, and what is remote, is one part.

    Raises:
        InputError: a source is broken, or there are no rows.
    """
    cuts = [(i, *cut) for i, source in enumerate(sources) for cut in _cuts(source, part_rows, columns)]
    if not cuts:
        raise InputError(f"{', '.join(source.name for source in sources[:3])} holds no captions")
    return Plan(list(sources), cuts, dict(settings))


def _cuts(source: Source, rows: int, columns: Columns | None) -> list[tuple[int, int | None]]:
    path = Path(source.path)
    if source.remote:
        return [(0, None)]
    if source.kind == "table":
        groups = parquet_groups(path) if path.suffix.lower() == ".parquet" else [arrow_length(path)]
        return list(_by_groups(groups, rows))
    if source.kind == "tar":
        if _guessed_rows(path, source.size) < LONG * rows:
            return [(0, None)]
        tar = PhotoTar(path)
        if tar.damage is not None:
            return [(0, None)]  # its last row says what is lost
        samples = samples_of([member.name for member in tar.members])
        pieces = list(_even(sum(bool(sample.captions()) for sample in samples), rows))
        return [*pieces[:-1], (pieces[-1][0] if pieces else 0, None)]  # a sample may have several captions
    return list(_even(sum(1 for _ in stream_captions(path, columns)), rows))


def _even(count: int, rows: int) -> Iterator[tuple[int, int]]:
    """``count`` rows in the fewest pieces of at most ``rows``, as even as can be."""
    pieces = -(-count // rows)
    ends = [count * i // pieces for i in range(pieces + 1)] if pieces else [0]
    return pairwise(ends)


def _by_groups(groups: Sequence[int], rows: int) -> Iterator[tuple[int, int]]:
    """Whole row groups together up to ``rows``; a longer one in even pieces."""
    start = end = 0
    for first, last in pairwise(accumulate(groups, initial=0)):
        if last - start > rows and end > start:
            yield start, end
            start = first
        if last - first > rows:
            yield from ((first + a, first + b) for a, b in _even(last - first, rows))
            start = last
        end = last
    if end > start:
        yield start, end


def _guessed_rows(path: Path, size: int) -> float:
    """About how many samples a tar holds, by its size and its first ones; infinite where that cannot be said."""
    import tarfile

    try:
        with tarfile.open(path) as tar:
            members = list(islice(tar, 4 * PROBED))
            end = tar.offset
    except (tarfile.TarError, EOFError, OSError):
        return 0  # what is wrong with it is said by its part
    samples = len(samples_of([member.name for member in members if member.isfile()]))
    return size / (end / samples) if samples and end else float("inf")


# ---------------------------------------------------------------- on disk
def write_plan(plan: Plan, folder: Path) -> None:
    """Write ``plan.json``, whole or not at all."""
    content = {
        "format": FORMAT,
        "settings": plan.settings,
        # a remote one's path may hold a key in its query, and is not needed: a run that goes on names it again
        "sources": [asdict(s) | ({"path": s.name} if s.remote else {}) for s in plan.sources],
        "parts": plan.cuts,
    }
    write_atomically(folder / NAME, json.dumps(content, indent=1) + "\n")


def read_plan(folder: Path) -> Plan | None:
    """The plan of a folder; None where there is none.

    Raises:
        InputError: it is broken, or of another version of the format.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InputError(f"{path} is of format {content['format']}, not {FORMAT}: name another --out")
        sources = [Source(**one) for one in content["sources"]]
        cuts = [(int(i), int(start), stop) for i, start, stop in content["parts"]]
        return Plan(sources, cuts, content["settings"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a plan: {error!r}; name another --out, or delete it") from error


def check_same(plan: Plan, sources: Sequence[Source], settings: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with another plan than the one begun; the error names the first difference.

    Raises:
        InputError: the sources or settings are not those of the plan.
    """
    differ = _difference(plan, sources, settings)
    if differ is not None:
        raise InputError(
            f"{folder} holds another run: {differ}. Give the command that began it to go on, or name another --out"
        )


def _difference(plan: Plan, sources: Sequence[Source], settings: Mapping[str, Any]) -> str | None:
    now = json.loads(json.dumps(dict(settings)))
    for name in dict.fromkeys([*plan.settings, *now]):
        was, value = plan.settings.get(name), now.get(name)
        if was != value and isinstance(was, dict) and isinstance(value, dict):
            inner = next(key for key in (*was, *value) if was.get(key) != value.get(key))
            name, was, value = f"{inner} of {name}", was.get(inner), value.get(inner)
        if was != value:
            return f"{name} was {_shown(was)} and is {_shown(value)}"
    before, after = ({s.name: (s.size, s.stamp) for s in some} for some in (plan.sources, sources))
    for name in after:
        if name not in before:
            return f"{name} was not among its files"
        if before[name] != after[name]:
            what = "size" if before[name][0] != after[name][0] else "time of change"
            return f"{name} has another {what}"
    missing = next((name for name in before if name not in after), None)
    if missing is not None:
        return f"{missing} is missing among the files"
    return "its files come in another order" if list(before) != list(after) else None


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)[:200]
