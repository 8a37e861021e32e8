"""Running totals of scores for a training loop: added batch by batch, summed over processes."""

import sys
from collections.abc import Iterable

import numpy as np

from cliplet.metrics.clipscore import Preset
from cliplet.scoring.result import ScoreResult


class Totals:
    """Sums over rows."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}  # score name to the sum of its values
        self.counts: dict[str, int] = {}  # score name to how many rows have a value
        self.rows = 0
        self.failed = 0  # rows without a score

    def add(self, result: ScoreResult) -> None:
        """Add the rows of a result."""
        for name, values in result.columns().items():
            known = values[np.isfinite(values)]
            self.sums[name] = self.sums.get(name, 0.0) + float(known.sum(dtype=np.float64))
            self.counts[name] = self.counts.get(name, 0) + len(known)
        self.rows += len(result.failures)
        self.failed += sum(reason is not None for reason in result.failures)

    @classmethod
    def together(cls, parts: Iterable["Totals"]) -> "Totals":
        """The sums of several parts, in their order."""
        whole = cls()
        for part in parts:
            for name in part.sums:
                whole.sums[name] = whole.sums.get(name, 0.0) + part.sums[name]
                whole.counts[name] = whole.counts.get(name, 0) + part.counts[name]
            whole.rows += part.rows
            whole.failed += part.failed
        return whole

    def means(self, preset: Preset) -> dict[str, float]:
        """The mean of each score over the rows that have it (NaN: none has), then ``rows`` and ``failed``."""
        names = dict.fromkeys((preset.column, "cosine", *self.sums))
        found = {n: self.sums[n] / self.counts[n] if self.counts.get(n) else float("nan") for n in names}
        found[preset.column] = preset.corpus([found[preset.column]])
        return {**found, "rows": self.rows, "failed": self.failed}


def of_all_processes(own: Totals) -> list[Totals]:
    """The totals of every process of torch.distributed where it runs, else these alone. Imports nothing."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return [own]
    found: list[Totals] = [own] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    return found
