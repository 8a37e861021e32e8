"""Rows of scored captions: the photo of each, and what outputs say of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.captions import CaptionEntry
from cliplet.data.images import ImageInput
from cliplet.data.photos import PhotoIndex
from cliplet.errors import InputError
from cliplet.scoring.result import ScoreResult


def find_photos(
    entries: Sequence[CaptionEntry], index: PhotoIndex
) -> tuple[list[str | None], list[ImageInput | None], list[str | None]]:
    """Each row's photo name and photo, or the reason why it has none."""
    found = index.find_all(entry.image for entry in entries if entry.photo is None and entry.image != "")
    names: list[str | None] = [None] * len(entries)
    photos: list[ImageInput | None] = [None] * len(entries)
    reasons: list[str | None] = [entry.reason for entry in entries]
    for i, entry in enumerate(entries):
        if entry.photo is not None:
            names[i], photos[i] = str(entry.image), entry.photo
        elif entry.image != "":
            photo = found[entry.image]
            if isinstance(photo, InputError):
                reasons[i] = reasons[i] or str(photo)
            else:
                names[i], photos[i] = photo
    return names, photos, reasons


def model_columns(scored: ScoreResult | None) -> dict[str, NDArray[np.float64]]:
    """The model's scores by name, float64 ``[rows]``."""
    named = {} if scored is None else scored.columns()
    return {name: np.asarray(values, dtype=np.float64) for name, values in named.items()}


def table_rows(
    entries: Sequence[CaptionEntry],
    columns: Mapping[str, NDArray[np.float64]],
    fields: Mapping[str, str],
    scored: ScoreResult | None,
    reasons: list[str | None],
) -> list[dict[str, Any]]:
    """One row a caption for JSON: image, caption, scores, truncated, reason, where, and the file's other columns."""
    rows = []
    for i, entry in enumerate(entries):
        row: dict[str, Any] = {"image": entry.image, "caption": entry.caption}
        row |= {fields[name]: plain(float(values[i])) for name, values in columns.items()}
        row |= {
            "truncated": scored is not None and bool(scored.truncated[i]),
            "reason": reasons[i] or (None if scored is None else scored.failures[i]),
            "where": entry.where,
        }
        rows.append(row | {name: finite(v) for name, v in entry.extra.items() if name and name not in row})
    return rows


def finite(value: Any) -> Any:
    """The value; None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def none_found(reasons: Sequence[str]) -> InputError:
    """What to say where no image has a photo; the reason of each image."""
    return InputError(
        f"none of the {len(reasons)} images was found: {reasons[0]}. Give their folder or tar with --images; "
        "metrics on references need no photos: --model none computes them alone"
    )


def plain(value: float) -> float | None:
    """A number for JSON: None for NaN, six decimals."""
    return round(value, 6) if math.isfinite(value) else None
