"""Where scores come from: a model (CLIPScore and its kin), metrics on references, or columns of a file."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.data.names import NameIndex
from cliplet.data.photos import PhotoStore
from cliplet.data.records import CAPTION_FIELDS, IMAGE_FIELDS
from cliplet.data.tables import column, find_column, read_table
from cliplet.encoders.base import Encoder
from cliplet.errors import InputError
from cliplet.evaluation.human import ScoreRequest, Scores
from cliplet.metrics.registry import MetricNames, find_metrics, reference_scores
from cliplet.scoring.scorer import Scorer

Progress = Callable[[int, int], None]


def model_scores(
    encoder: Encoder,
    photos: PhotoStore,
    request: ScoreRequest,
    preset: str = "paper",
    progress: Progress | None = None,
) -> tuple[Scores, dict[str, Any]]:
    """CLIPScore, RefCLIPScore and RefMixScore of an Encoder (of an aligned one aCLIPScore and RefaCLIPScore too).

    With the provenance of the run. Photos that are missing or cannot be read give NaN; without references the
    reference scores are NaN.
    """
    found, missing = photos.photos(request.images)
    rows = [i for i, photo in enumerate(found) if photo is not None]
    if not rows and len(request):
        raise InputError(
            f"none of the {len(request)} photos was found: {missing[request.images[0]]}; name their folder or tar"
        )
    with_references = any(request.references)
    result = Scorer(encoder, preset=preset).score(
        [found[i] for i in rows],  # type: ignore[misc]
        [request.captions[i] for i in rows],
        [list(request.references[i]) for i in rows] if with_references else None,
        progress=progress,
    )
    columns = {result.preset.column: result.score}
    if result.ref_clip_score is not None and result.ref_mix_score is not None:
        columns |= {"RefCLIPScore": result.ref_clip_score, "RefMixScore": result.ref_mix_score}
    if result.a_clip_score is not None:
        columns["aCLIPScore"] = result.a_clip_score
    if result.ref_a_clip_score is not None:
        columns["RefaCLIPScore"] = result.ref_a_clip_score
    scores = {name: _spread(values, rows, len(request)) for name, values in columns.items()}
    reasons = [f"{name}: {why}" for name, why in missing.items()]
    reasons += [f"{request.images[i]}: {why}" for i, why in zip(rows, result.failures, strict=True) if why]
    return scores, {**result.provenance, "failures": list(dict.fromkeys(reasons))}


def reference_columns(
    request: ScoreRequest, metrics: MetricNames = None, tokenizer: str = "ptb"
) -> tuple[Scores, list[str]]:
    """Scores of metrics that compare captions with references, and what a reader must know of them.

    NaN where a caption has no references. Every caption is tokenised on its own. CIDEr's document frequencies come from
    the captions under test, one document a row, as the field's correlation figures do. Of each metric the columns that
    the literature compares with people (of BLEU the first and the fourth).
    """
    chosen = find_metrics(metrics)
    rows = [i for i, references in enumerate(request.references) if references]
    captions, references = [request.captions[i] for i in rows], [request.references[i] for i in rows]
    found = reference_scores(captions, references, None, chosen, joined=False, tokenizer=tokenizer)
    judged = {column for metric in chosen for column in metric.judged or metric.columns}
    shown = {name: values for name, values in found.per_caption.items() if name in judged}
    return {name: _spread(values, rows, len(request)) for name, values in shown.items()}, found.notes


def _spread(values: np.ndarray, rows: Sequence[int], n: int) -> np.ndarray:
    """Values of some rows as a column of all n, NaN elsewhere."""
    out = np.full(n, np.nan)
    out[rows] = values
    return out


def file_scores(
    path: Path, request: ScoreRequest, names: Sequence[str] = (), notes: list[str] | None = None
) -> Scores:
    """Your own metric's scores from a table: columns ``image``, ``caption`` and one or more of numbers.

    Rows are joined by image and caption, so their order does not matter and one row may serve several requests; where
    a metric depends on the references drawn, give only benchmarks without drawing. ``names`` picks columns; rows of the
    table that cannot be read are counted in ``notes``.
    """
    left: Counter[str] = Counter()
    rows = read_table(path, left)
    if notes is not None:
        notes += [f"{path}: {n} {what}" for what, n in left.items()]
    image_at = column(rows, IMAGE_FIELDS, path, "image")
    caption_at = column(rows, CAPTION_FIELDS, path, "caption")
    wanted = list(names) or [n for n in rows[0] if n not in (image_at, caption_at) and _numeric(rows, n)]
    if not wanted:
        raise InputError(f"{path}: no column of numbers beside {image_at} and {caption_at}")
    place: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        place.setdefault((str(row.get(image_at)), " ".join(str(row.get(caption_at)).split())), i)
    images = NameIndex((image for image, _ in place), f"images of {path}").find_all(request.images)
    at = [
        place.get((str(images[image]), " ".join(caption.split())), -1)
        for image, caption in zip(request.images, request.captions, strict=True)
    ]
    if request.images and max(at) < 0:
        raise InputError(
            f"{path}: no row matches an image and caption of the benchmark, such as {request.images[0]!r}, "
            f"{request.captions[0]!r}"
        )
    scores: Scores = {}
    for name in wanted:
        if find_column(rows[0], [name.lower()]) is None:
            raise InputError(f"{path}: no column {name!r}; it has {', '.join(rows[0])}")
        values = np.array([_number(row.get(name)) for row in rows] + [np.nan])
        scores[name] = values[at]  # -1: the NaN at the end
    return scores


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _numeric(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return all(
        str(v).strip() == "" or not np.isnan(_number(v)) for v in (row.get(name, "") for row in rows[:50])
    )
