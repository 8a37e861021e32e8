"""Where scores come from: a model (CLIPScore and its kin), the n-gram metrics, or columns of a file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.data.text import caption_problem
from cliplet.encoders.base import Encoder
from cliplet.errors import InputError
from cliplet.evaluation.human import ScoreRequest, Scores
from cliplet.evaluation.judgements import CANDIDATE_COLUMNS, IMAGE_COLUMNS
from cliplet.evaluation.photos import PhotoStore, image_key
from cliplet.evaluation.tables import column, find_column, read_table
from cliplet.metrics.ngram_scores import ngram_scores as count_and_score
from cliplet.metrics.reference_metrics import check_reference_metrics
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.scoring.scorer import Scorer

Progress = Callable[[int, int], None]
MODEL_METRICS = ("CLIPScore", "RefCLIPScore", "RefMixScore")


def model_scores(
    encoder: Encoder,
    photos: PhotoStore,
    request: ScoreRequest,
    preset: str = "paper",
    progress: Progress | None = None,
) -> tuple[Scores, dict[str, Any]]:
    """CLIPScore, RefCLIPScore and RefMixScore of an Encoder, and the provenance of the run.

    Photos that are missing or cannot be read give NaN; without references the reference scores are NaN.
    """
    found = photos.find_all(request.images)
    rows = [i for i, photo in enumerate(found) if photo is not None]
    if not rows and len(request):
        raise InputError(
            f"none of the {len(request)} photos was found, such as {request.images[0]}; name their folder or tar"
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
    scores = {name: _spread(values, rows, len(request)) for name, values in columns.items()}
    reasons = [
        f"{name}: not found" for name, photo in zip(request.images, found, strict=True) if photo is None
    ]
    reasons += [f"{request.images[i]}: {why}" for i, why in zip(rows, result.failures, strict=True) if why]
    return scores, {**result.provenance, "failures": list(dict.fromkeys(reasons))}


def text_cosines(encoder: Encoder, captions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Cosine of each caption with its partner, both as the model sees them with its prefix; NaN where one is empty."""
    prefix = encoder.card.text.prompt_prefix
    good = [
        i
        for i, (a, b) in enumerate(zip(captions, references, strict=True))
        if not (caption_problem(a) or caption_problem(b))
    ]
    out = np.full(len(captions), np.nan)
    distinct = list(dict.fromkeys([captions[i] for i in good] + [references[i] for i in good]))
    if distinct:
        place = {text: n for n, text in enumerate(distinct)}
        vectors = encoder.encode_texts([prefix + text for text in distinct])
        a = vectors[[place[captions[i]] for i in good]]
        b = vectors[[place[references[i]] for i in good]]
        out[good] = np.einsum("nd,nd->n", a, b, dtype=np.float64)
    return out


NGRAM_METRICS = ("bleu", "rouge", "meteor", "cider")
"""Metrics that compare with references and need nothing else; ``spice`` can be added where Java is."""


def ngram_scores(request: ScoreRequest, metrics: Sequence[str] = NGRAM_METRICS) -> tuple[Scores, list[str]]:
    """BLEU-1, BLEU-4, ROUGE-L, METEOR, CIDEr-D (and SPICE) of every caption, and what a reader must know of them.

    NaN where a caption has no references. One tokenisation serves all; every caption is tokenised on its own. CIDEr's
    document frequencies come from the captions under test, one document a row, as the field's correlation figures do.
    Without its tables METEOR goes by its own name, METEOR-exact-stem.
    """
    missing = check_reference_metrics(metrics)
    if missing:
        raise InputError("SPICE cannot run here: " + "; ".join(missing))
    rows = [i for i, references in enumerate(request.references) if references]
    if not rows or not metrics:
        return {}, []
    distinct = list(dict.fromkeys(t for i in rows for t in (request.captions[i], *request.references[i])))
    words = dict(zip(distinct, tokenize_many(distinct, joined=False), strict=True))
    candidates = [words[request.captions[i]] for i in rows]
    references = [[words[r] for r in request.references[i]] for i in rows]
    found: Scores = {}
    notes: list[str] = []
    if set(metrics) & {"bleu", "rouge", "cider"}:
        counted = count_and_score(candidates, references)
        if "bleu" in metrics:
            found |= {f"BLEU-{n}": counted.bleu.per_caption[n - 1] for n in (1, 4)}
        if "rouge" in metrics:
            found["ROUGE-L"] = counted.rouge_l.per_caption
        if "cider" in metrics:
            found["CIDEr-D"] = counted.cider_d.per_caption
    if "meteor" in metrics:
        from cliplet.metrics.meteor import Meteor, check_meteor

        scorer = Meteor(exact_stem=bool(check_meteor()))
        found[scorer.name] = scorer(candidates, references).per_caption
        notes += [f"{scorer.name} instead of METEOR: {what}" for what in check_meteor()]
    if "spice" in metrics:
        found["SPICE"] = _spice(
            [request.captions[i] for i in rows], [list(request.references[i]) for i in rows]
        )
    return {name: _spread(values, rows, len(request)) for name, values in found.items()}, notes


def _spice(captions: list[str], references: list[list[str]]) -> np.ndarray:
    from cliplet.metrics.spice import spice

    return spice(captions, references).per_caption


def _spread(values: np.ndarray, rows: Sequence[int], n: int) -> np.ndarray:
    """Values of some rows as a column of all n, NaN elsewhere."""
    out = np.full(n, np.nan)
    out[rows] = values
    return out


def file_scores(path: Path, request: ScoreRequest, names: Sequence[str] = ()) -> Scores:
    """Your own metric's scores from a table: columns ``image``, ``caption`` and one or more of numbers.

    Rows are joined by image and caption, so their order does not matter and one row may serve several requests; where
    a metric depends on the references drawn, give only benchmarks without drawing. ``names`` picks columns.
    """
    rows = read_table(path)
    image_at = column(rows, IMAGE_COLUMNS, path, "image")
    caption_at = column(rows, CANDIDATE_COLUMNS, path, "caption")
    wanted = list(names) or [n for n in rows[0] if n not in (image_at, caption_at) and _numeric(rows, n)]
    if not wanted:
        raise InputError(f"{path}: no column of numbers beside {image_at} and {caption_at}")
    place: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        place.setdefault((image_key(str(row[image_at])), " ".join(str(row[caption_at]).split())), i)
    at = [
        place.get((image_key(i), " ".join(c.split())), -1)
        for i, c in zip(request.images, request.captions, strict=True)
    ]
    if request.images and max(at) < 0:
        raise InputError(
            f"{path}: no row matches an image and caption of the benchmark, such as {request.images[0]!r}, "
            f"{request.captions[0]!r}"
        )
    scores: Scores = {}
    for name in wanted:
        if find_column(rows, [name.lower()]) is None:
            raise InputError(f"{path}: no column {name!r}; it has {', '.join(rows[0])}")
        values = np.array([_number(row[name]) for row in rows] + [np.nan])
        scores[name] = values[at]  # -1: the NaN at the end
    return scores


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _numeric(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return all(str(row[name]).strip() == "" or not np.isnan(_number(row[name])) for row in rows[:50])
