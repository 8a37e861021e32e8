"""What a curation gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cliplet.curate.decide import Counts
from cliplet.curate.rules import Rules
from cliplet.curate.write import Written


@dataclass(frozen=True)
class Curated:
    """What a curation did."""

    folder: Path
    """Where its outputs are."""
    counts: Counts
    """What was decided."""
    rules: Rules
    """By which rules."""
    written: Written
    """Files, relative to the folder."""
    failed: Mapping[int, str]
    """Parts that could not be measured, and why."""
    notes: Sequence[str]
    """What a reader must know."""
    seconds: Mapping[str, float]
    """What measuring, deciding and writing took."""
