"""What a curation would read, on how many pairs, in what time, by a measured sample; nothing is written."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cliplet.curate.measure import Pair
from cliplet.curate.rules import Rules, own_reasons
from cliplet.curate.work import CurateWork, Reader
from cliplet.data.photos import PhotoTar
from cliplet.data.samples import samples_of
from cliplet.errors import InputError
from cliplet.stream.plan import Part, Plan, make_plan
from cliplet.stream.sources import Source

SAMPLE = 256
"""Pairs that are measured."""
PLACES = 4
"""Sources that they are drawn from."""
LISTED = 20
"""Tars that are listed to count their pairs; of more, so many spread evenly stand for all by their bytes."""


@dataclass(frozen=True)
class Estimate:
    """What a run would take."""

    sources: int
    """Files."""
    bytes: int
    """Of them that are local or known."""
    parts: int
    """Parts of the plan."""
    pairs: int
    """All pairs."""
    exact: bool
    """Whether they were counted; else guessed by bytes."""
    sampled: int
    """Pairs that were measured."""
    rate: float
    """Pairs a second in this process."""
    removed: Counter[str]
    """Of the sample: pairs that rules of single pairs would remove, by rule."""
    kept: int
    """Of the sample: pairs that none of these would remove."""

    def seconds(self, workers: int) -> float:
        """Time to measure, if workers do not hinder each other."""
        return self.pairs / max(self.rate, 1e-9) / max(1, workers)


def estimate(sources: Sequence[Source], rules: Rules, work: CurateWork, part_rows: int) -> Estimate:
    """Count what there is, and measure a sample of it.

    Raises:
        InputError: a source cannot be used.
    """
    plan = make_plan(sources, {}, part_rows, work.columns)
    measurer, reader = work.measurer(), work.reader()
    places = (
        [len(plan) * i // PLACES for i in range(PLACES)] if len(plan) >= PLACES else list(range(len(plan)))
    )
    found: list[dict[str, object]] = []
    counted: dict[int, int] = {}
    seconds = 0.0
    for i, number in enumerate(places):
        part, taken = plan.part(number), 0
        with suppress(InputError):  # its source is broken, which the run itself says
            for some in _some(reader, part, SAMPLE // len(places), counted):
                if i == 0 and not taken:
                    list(measurer.tables(some[:1], set()))  # loads the model
                start = time.monotonic()
                for table in measurer.tables(some, set()):
                    found += table.to_pylist()
                seconds += time.monotonic() - start
                taken += len(some)
    pairs, exact = _count(plan, counted)
    reasons = [{reason.rule for reason in own_reasons(row, rules)} for row in found]
    return Estimate(
        sources=len(sources),
        bytes=sum(_bytes(source) for source in sources),
        parts=len(plan),
        pairs=pairs,
        exact=exact,
        sampled=len(found),
        rate=len(found) / max(seconds, 1e-9),
        removed=Counter(rule for rules_of in reasons for rule in rules_of),
        kept=sum(not rules_of for rules_of in reasons),
    )


def _some(reader: Reader, part: Part, wanted: int, counted: dict[int, int]) -> Iterator[list[Pair]]:
    """The first pairs of a part, while its source is open; what was fetched for them is counted to its end."""
    seen = 0
    for block in reader.pairs(part):
        if seen < wanted:
            yield block[: wanted - seen]
        seen += len(block)
        if seen >= wanted and not part.source.remote:
            return
    if part.source.remote:
        counted[part.number] = seen


def _bytes(source: Source) -> int:
    if source.size >= 0:
        return source.size
    return sum(file.stat().st_size for file in Path(source.path).rglob("*") if file.is_file())


def _count(plan: Plan, counted: dict[int, int]) -> tuple[int, bool]:
    """Pairs of a plan, and whether each was counted; ``counted``: pairs of parts at addresses, by number."""
    known = sum(part.stop - part.start for part in plan if part.stop is not None)
    unknown = [part for part in plan if part.stop is None]
    local = [part for part in unknown if not part.source.remote and part.source.kind == "tar"]
    if not unknown:
        return known, True
    listed = local if len(local) <= LISTED else [local[len(local) * i // LISTED] for i in range(LISTED)]
    listed += [part for part in unknown if part.number in counted]
    samples = {part.number: counted.get(part.number) or _samples(part) for part in listed}
    size = sum(part.source.size for part in listed)
    a_byte = sum(samples.values()) / size if size else 0.0
    rest = sum(max(part.source.size, 0) * a_byte for part in unknown if part.number not in samples)
    return known + sum(samples.values()) + round(rest), len(samples) == len(unknown)


def _samples(part: Part) -> int:
    """Samples of a tar with captions, from a part's first on."""
    if part.source.remote:
        return 0
    try:
        tar = PhotoTar(part.source.path)
    except InputError:  # its part will say so
        return 0
    found = samples_of([member.name for member in tar.members])
    return max(0, sum(bool(sample.captions()) for sample in found) - part.start)
