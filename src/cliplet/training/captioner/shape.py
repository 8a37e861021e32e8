"""The shape of sampled captions, and the signs that a reward is being gamed."""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from cliplet.metrics.diversity import diversity


def shape_of(captions: Sequence[str], ended: Sequence[bool]) -> dict[str, float]:
    """Length, repetition and variety of plain captions, and the share that has no end.

    ``length`` in words; ``repeated_1``, ``repeated_2``, ``repeated_4``: share of a caption's n-grams that repeat an
    earlier one of it; ``distinct_1``, ``distinct_2``: different n-grams of all captions over all; ``no_end``.
    """
    found = diversity([caption.split() for caption in captions])
    return {
        "length": found.mean_length,
        "repeated_1": found.repeated[0],
        "repeated_2": found.repeated[1],
        "repeated_4": found.repeated[3],
        "distinct_1": found.distinct_1,
        "distinct_2": found.distinct_2,
        "no_end": 1 - float(np.mean(ended)),
    }


class CollapseWatch:
    """Watches a self-critical stage's log for the known signs of collapse, and says each once.

    The first ``window`` lines say what is normal; after that the mean of the last ``window`` lines is compared:
    captions a third longer or shorter; repeated bigrams 3 points more and double; 3 % more captions without an end;
    half as many different words (some are always lost, as samples become surer); an image-text score
    (``lclipscore``) that rises while ``cider`` falls by more than a tenth, which says that the reward is gamed.

    Args:
        window: lines that are averaged.
    """

    def __init__(self, window: int = 20) -> None:
        self.window = window
        self.start: dict[str, float] = {}
        self.last: deque[Mapping[str, float]] = deque(maxlen=window)
        self.said: set[str] = set()
        self._seen = 0

    def observe(self, values: Mapping[str, float]) -> list[str]:
        """Take in one line's values; returns the warnings that it brings about."""
        self.last.append(values)
        self._seen += 1
        if self._seen < self.window:
            return []
        mean = {
            k: float(np.mean([v[k] for v in self.last if k in v])) for k in values if k not in _NOT_NUMBERS
        }
        if self._seen == self.window:
            self.start = mean
            return []
        new = [(sign, text) for sign, text in self._signs(self.start, mean) if sign not in self.said]
        self.said.update(sign for sign, _ in new)
        return [text for _, text in new]

    @staticmethod
    def _signs(a: Mapping[str, float], b: Mapping[str, float]) -> list[tuple[str, str]]:
        """Signs of collapse between the mean values at the start and now."""

        def moved(key: str) -> str:
            return f"{a[key]:.3g} -> {b[key]:.3g}"

        found = []
        if b["length"] > 1.33 * a["length"]:
            found.append(("long", f"captions run long: {moved('length')} words"))
        if b["length"] < 0.67 * a["length"]:
            found.append(("short", f"captions get cut short: {moved('length')} words"))
        if b["repeated_2"] > max(2 * a["repeated_2"], a["repeated_2"] + 0.03):
            found.append(
                ("repeat", f"captions repeat themselves: share of repeated bigrams {moved('repeated_2')}")
            )
        if b["no_end"] > a["no_end"] + 0.03:
            found.append(("no end", f"captions do not end: share without an end {moved('no_end')}"))
        if b["distinct_1"] < 0.5 * a["distinct_1"]:
            found.append(("variety", f"captions use fewer words: distinct-1 {moved('distinct_1')}"))
        names = ("reward/lclipscore", "reward/cider")
        known = all(n in a and n in b for n in names)
        if known and b[names[0]] > a[names[0]] and b[names[1]] < 0.9 * a[names[1]]:
            text = f"L-CLIPScore {moved(names[0])} rises while CIDEr {moved(names[1])} falls"
            found.append(("gaming", f"the reward is being gamed: {text}; give CIDEr more weight"))
        return found


_NOT_NUMBERS = {"kind", "stage"}
