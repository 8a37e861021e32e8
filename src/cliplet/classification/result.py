"""What a classifier says of photos."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput

NONE = "none of these"
"""The answer for a photo of none of the classes."""


@dataclass(frozen=True)
class Classified:
    """Classes of n photos."""

    names: list[str]
    """What each photo is called."""
    classes: list[str]
    """Names of the C classes."""
    top: NDArray[np.int64]
    """[n, k] the best classes of each photo, the best first."""
    scores: NDArray[np.float32]
    """[n, k] their scores; NaN for a photo that could not be used."""
    confidence: NDArray[np.float32]
    """[n, k] their shares of the softmax over all classes."""
    evidence: NDArray[np.float32] | None
    """[n, k] what "none of these" and "several" compare with a cut; None where neither was asked for."""
    answers: list[list[str]]
    """The classes that each photo is said to show: one, or none ("none of these"), or several; empty if it failed."""
    calibrated: bool
    """Whether the confidence was fitted to labelled photos."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why photos could not be used, by position."""
    photos: list[ImageInput | None] = field(default_factory=list)
    """The photos, for reports."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Model, classes, rule, cuts, versions."""
    notes: list[str] = field(default_factory=list)
    """What was merged or left out."""

    def __len__(self) -> int:
        return len(self.names)

    def confidence_of(self, i: int) -> float | None:
        """The confidence of photo i's answer, of its first class where there are several.

        None for "none of these", for which there is none, and for a class that is not among the best ones.
        """
        said = self.answers[i][0] if self.answers[i] else None
        places = [n for n, c in enumerate(self.top[i]) if self.classes[c] == said]
        return float(self.confidence[i, places[0]]) if places else None

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a photo: photo, label, confidence, the best classes with their confidence, reason."""
        for i, name in enumerate(self.names):
            reason = self.reasons.get(i)
            if reason is not None:
                yield {"photo": name, "label": None, "confidence": None, "top": [], "reason": reason}
                continue
            answer, sure = self.answers[i], self.confidence_of(i)
            yield {
                "photo": name,
                "label": " | ".join(answer) if answer else NONE,
                "confidence": None if sure is None else round(sure, 6),
                "top": [
                    [self.classes[c], round(float(p), 6)]
                    for c, p in zip(self.top[i], self.confidence[i], strict=True)
                ],
                "reason": None,
            }

    def flat_rows(self) -> list[dict[str, Any]]:
        """As :meth:`rows`, with columns ``top 1``, ``confidence 1`` and so on: the rows of a CSV."""
        flat = []
        for row in self.rows():
            cells = {name: row[name] for name in ("photo", "label", "confidence")}
            for place in range(self.top.shape[1]):
                pair = row["top"][place] if row["top"] else (None, None)
                cells |= {f"top {place + 1}": pair[0], f"confidence {place + 1}": pair[1]}
            flat.append({**cells, "reason": row["reason"]})
        return flat

    def summary(self) -> dict[str, Any]:
        """Counts, and how often each class was said."""
        said: dict[str, int] = {}
        for i, answer in enumerate(self.answers):
            for label in answer or ([] if i in self.reasons else [NONE]):
                said[label] = said.get(label, 0) + 1
        return {
            "photos": len(self.names),
            "classified": len(self.names) - len(self.reasons),
            "failed": len(self.reasons),
            "confidence": "calibrated" if self.calibrated else "uncalibrated",
            "labels": dict(sorted(said.items(), key=lambda item: (-item[1], item[0]))),
        }

    def as_json(self) -> dict[str, Any]:
        """One object: rows, summary, notes, provenance."""
        return {
            "rows": list(self.rows()),
            "summary": self.summary(),
            "notes": self.notes,
            "provenance": json.loads(json.dumps(self.provenance, default=str)),
        }
