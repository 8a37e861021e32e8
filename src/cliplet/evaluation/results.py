"""Named numbers: what every evaluation ends in, with published values beside them and checks against expected ones."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from cliplet.data.tables import read_json
from cliplet.errors import InputError
from cliplet.statistics.resampling import Interval


@dataclass(frozen=True)
class Entry:
    """One measured number, times 100 where it is a share or a correlation."""

    benchmark: str
    """What was measured on."""
    metric: str
    """What was measured: a metric, a direction of retrieval, a model."""
    statistic: str
    """How: tau-c, R@1, top-1, ..."""
    value: float
    """The number."""
    low: float
    """Lower end of its 95 % interval; NaN for none."""
    high: float
    """Upper end of it."""
    n: int
    """Ratings, queries, photos or pairs it rests on."""

    def as_json(self) -> dict[str, Any]:
        """A plain dictionary; NaN becomes None."""
        return plain(asdict(self))


def plain(value: Any) -> Any:
    """The value with every NaN and infinity, which JSON does not have, as None."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class Evaluation:
    """The numbers of one run, how they came about, and what reports need."""

    title: str
    """Heading of the report."""
    entries: list[Entry]
    """The numbers."""
    provenance: dict[str, Any]
    """Model, files, protocol, versions, counts."""
    notes: list[str] = field(default_factory=list)
    """Rows left out and other things that a reader must know."""
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    """Differences between metrics or models with their intervals and p-values, times 100."""
    details: list[Any] = field(default_factory=list)
    """Result objects that the HTML report draws."""
    failed: int = 0
    """Inputs that could not be used."""

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "results": [e.as_json() for e in self.entries],
            "comparisons": plain(self.comparisons),
            "published": [asdict(p) for p in published_for(self.entries)],
            "notes": self.notes,
            "provenance": plain(self.provenance),
        }


def entry(benchmark: str, metric: str, statistic: str, interval: Interval, scale: float = 100.0) -> Entry:
    """An entry from an interval, multiplied by ``scale``."""
    value, low, high = (scale * v for v in (interval.value, interval.low, interval.high))
    return Entry(benchmark, metric, statistic, value, low, high, interval.n)


def plain_entry(benchmark: str, metric: str, statistic: str, value: float, n: int) -> Entry:
    """An entry without an interval; ``value`` in [0, 1]."""
    return Entry(benchmark, metric, statistic, 100 * value, math.nan, math.nan, n)


@dataclass(frozen=True)
class Published:
    """A number from the literature, times 100."""

    benchmark: str
    """The benchmark's name here."""
    statistic: str
    """The statistic's name here."""
    metric: str
    """Which of our metrics it stands beside."""
    name: str
    """What its source calls it."""
    value: float
    """The number."""
    source: str
    """Where it is printed."""


@cache
def published() -> tuple[Published, ...]:
    """All published values that cliplet knows (``published.json`` beside this module)."""
    text = files("cliplet.evaluation").joinpath("published.json").read_text(encoding="utf-8")
    return tuple(Published(**row) for row in json.loads(text))


def published_for(entries: Iterable[Entry]) -> list[Published]:
    """Published values of the benchmarks and statistics among the entries, also of metrics not measured here."""
    keys = {(e.benchmark, e.statistic) for e in entries}
    return [p for p in published() if (p.benchmark, p.statistic) in keys]


def published_value(e: Entry) -> Published | None:
    """The published value of exactly this benchmark, metric and statistic."""
    for p in published():
        if (p.benchmark, p.statistic, p.metric) == (e.benchmark, e.statistic, e.metric):
            return p
    return None


# ---------------------------------------------------------------- expected values
@dataclass(frozen=True)
class Check:
    """One expected value against the measured one."""

    name: str
    """Benchmark, metric and statistic."""
    expected: float
    """The value wanted."""
    measured: float
    """The value found; NaN if it was not measured."""
    tolerance: float
    """How far they may be apart."""

    @property
    def passed(self) -> bool:
        """Whether the measured value is within the tolerance."""
        return abs(self.measured - self.expected) <= self.tolerance + 1e-9


def check_expected(entries: Sequence[Entry], path: Path, tolerance: float = 0.1) -> list[Check]:
    """Compare with a file of expected values: an earlier ``--json`` output, or its ``results`` list alone.

    An expected row may bring its own ``tolerance``, and so may the file. A value that was not measured fails.
    """
    content = read_json(path)
    rows = content.get("results") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows:
        raise InputError(f'{path}: expected a list of values, or an object with "results"')
    if isinstance(content, dict) and "tolerance" in content:
        tolerance = float(content["tolerance"])
    measured = {(e.benchmark, e.metric, e.statistic): e.value for e in entries}
    checks = []
    for number, row in enumerate(rows, 1):
        try:
            key = (row["benchmark"], row["metric"], row["statistic"])
            wanted = float(row["value"])
            allowed = float(row.get("tolerance", tolerance))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: value {number} lacks benchmark, metric, statistic or value ({error})"
            ) from None
        checks.append(Check(" ".join(key), wanted, measured.get(key, math.nan), allowed))
    return checks
