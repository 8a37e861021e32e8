"""The match: how likely it is that a caption is the photo's own, on a scale that people can read."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliplet.data.text import content_problem
from cliplet.encoders.card import MatchSpec, ModelCard
from cliplet.errors import InputError


def matches(spec: MatchSpec, cosine: ArrayLike) -> NDArray[np.float32]:
    """The match of each cosine of a caption with content, float32 ``[n]``, 0 to 1; NaN stays NaN.

    Straight lines between the knots of ``spec``, the first and last probability beyond them. It grows with the cosine.
    """
    values = np.asarray(cosine, dtype=np.float64)
    found = np.interp(values, spec.cosines, spec.probabilities)
    return np.asarray(np.where(np.isnan(values), np.nan, found), dtype=np.float32)


def without_content(captions: Sequence[object], failures: Sequence[str | None]) -> dict[int, str]:
    """Which captions say nothing about any photo (their match is 0), and why, by position."""
    problems = (
        content_problem(caption) if failure is None and isinstance(caption, str) else None
        for caption, failure in zip(captions, failures, strict=True)
    )
    return {i: problem for i, problem in enumerate(problems) if problem is not None}


def save_match(path: str | Path, spec: MatchSpec, card: ModelCard) -> None:
    """Write a match to a JSON file, with the fingerprint of the model that it was measured on."""
    content = {"model": card.name, "fingerprint": card.fingerprint, "match": dataclasses.asdict(spec)}
    from cliplet.files import write_atomically  # shutil and tempfile take long to import

    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_match(path: str | Path, card: ModelCard) -> MatchSpec:
    """A match from :func:`save_match`'s file, for the model that it was measured on.

    Raises:
        InputError: the file cannot be read, is no such file, or belongs to another model.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        spec, fingerprint = MatchSpec(**content["match"]), content["fingerprint"]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, RecursionError, InputError) as error:
        raise InputError(f"{path} is not a match that cliplet calibrate wrote: {error}") from None
    if not spec:
        raise InputError(f"{path} holds no knots: calibrate again")
    if fingerprint != card.fingerprint:
        raise InputError(
            f"{path} was measured on {content.get('model')} ({fingerprint}), not on {card.name} "
            f"({card.fingerprint}): calibrate this model"
        )
    return spec
