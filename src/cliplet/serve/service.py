"""What the endpoints do, apart from HTTP: a model, its workers, and an index where there is one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cliplet.data.text import caption_problem
from cliplet.encoders.base import BaseEncoder
from cliplet.errors import InputError, ModelError
from cliplet.scoring.result import ScoreResult
from cliplet.serve.inference import Done, TooManyPixels, Work
from cliplet.serve.metrics import Metrics
from cliplet.serve.refusal import Refusal, busy
from cliplet.serve.schemas import (
    EmbedAnswer,
    Embedding,
    EmbedRequest,
    Model,
    ScoreAnswer,
    ScoredCaption,
    ScoreRequest,
)
from cliplet.serve.settings import Settings
from cliplet.serve.workers import Closed, Overdue, Workers

NO_MATCH = "this model has no calibrated match for this preset; the raw score stands alone"


class Service:
    """A model at work.

    Args:
        encoder: the model.
        settings: the bounds.
        metrics: where work is counted.
    """

    def __init__(self, encoder: BaseEncoder, settings: Settings, metrics: Metrics) -> None:
        self.encoder, self.settings, self.metrics = encoder, settings, metrics
        self.workers = Workers(encoder, settings.workers, settings.max_pixels, metrics)

    def warm_up(self) -> None:
        """Load the model and run it once.

        Raises:
            ModelError: it cannot be loaded.
        """
        grey = np.full((64, 64, 3), 128, dtype=np.uint8)
        self.encoder.encode_here([grey], ["a photo"])
        self.model  # noqa: B018

    @property
    def model(self) -> Model:
        """The model's name and fingerprint."""
        return Model(name=self.encoder.card.name, fingerprint=self.encoder.card.fingerprint)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Score one photo's captions."""
        limits = self.settings
        _check_count(request.captions, limits.max_captions, "captions")
        _check_count(request.references, limits.max_references, "references")
        self.check_texts(request.captions, "captions")
        self.check_texts(request.references, "references")
        work = Work([request.photo], request.captions, request.references or None, request.preset)
        done = await self.do(work)
        assert done.result is not None
        self.metrics.failed.inc(sum(reason is not None for reason in done.result.failures))
        return ScoreAnswer(
            model=self.model,
            preset=request.preset,
            score_name=done.result.preset.column,
            match_reason=None if "match" in done.result.columns() else NO_MATCH,
            results=_rows(request.captions, done.result),
            notes=[*done.result.notes, *done.notes],
        )

    async def embed(self, request: EmbedRequest) -> EmbedAnswer:
        """Embed photos and texts."""
        if not request.photos and not request.texts:
            raise Refusal(422, "nothing", "give photos, texts or both")
        _check_count(request.photos, self.settings.max_photos, "photos")
        _check_count(request.texts, self.settings.max_captions, "texts")
        self.check_texts(request.texts, "texts")
        done = await self.do(Work(request.photos, request.texts))
        if request.photos and len(done.reasons) == len(request.photos) and not request.texts:
            raise Refusal(422, "photo", done.reasons[0])
        photos = [
            Embedding(embedding=_vector(row), reason=done.reasons.get(i)) for i, row in enumerate(done.photos)
        ]
        texts = [
            Embedding(
                embedding=_vector(row), truncated=bool(done.truncated[i]),
                reason=None if np.isfinite(row).all() else caption_problem(text) or "the model gave NaN for this text",
            )
            for i, (row, text) in enumerate(zip(done.texts, request.texts, strict=True))
        ]  # fmt: skip
        return EmbedAnswer(
            model=self.model, dimension=self.encoder.card.embedding_dim, photos=photos, texts=texts
        )

    async def do(self, work: Work) -> Done:
        """The outcome of the workers' work; what went wrong becomes a Refusal."""
        try:
            return await self.workers.do(work, self.settings.wait_seconds)
        except Exception as error:
            raise refused(error) from error

    def check_texts(self, texts: Sequence[str], what: str) -> None:
        """Refuse texts that are too long."""
        most = self.settings.max_caption_length
        for i, text in enumerate(texts):
            if len(text) > most:
                raise Refusal(422, "text_too_long", f"{what}.{i} may have {most:,} characters")


def refused(error: Exception) -> Exception:
    """A Refusal for what a client can put right or wait for; other errors as they are."""
    if isinstance(error, TooManyPixels):
        return Refusal(413, "too_many_pixels", str(error))
    if isinstance(error, Overdue):
        return busy("the request was not done in time: come again", 2)
    if isinstance(error, Closed):
        return busy("the service shuts down: come again", 5)
    if isinstance(error, ModelError):
        return error
    if isinstance(error, InputError):
        return Refusal(422, "photo", str(error))
    return error


def _check_count(values: Sequence[Any], most: int, what: str) -> None:
    if len(values) > most:
        raise Refusal(422, "too_many", f"a request may have {most} {what}")


def _rows(captions: list[str], result: ScoreResult) -> list[ScoredCaption]:
    columns = result.columns()
    named = {
        "score": result.score,
        "cosine": result.cosine,
        "match": columns.get("match"),
        "reference_cosine": result.reference_cosine,
        "ref_clip_score": result.ref_clip_score,
        "ref_mix_score": result.ref_mix_score,
    }
    return [
        ScoredCaption(
            caption=caption,
            truncated=bool(result.truncated[i]),
            reason=result.failures[i],
            **{name: None if values is None else number(values[i]) for name, values in named.items()},
        )
        for i, caption in enumerate(captions)
    ]


def number(value: Any) -> float | None:
    """A finite float, or None."""
    found = float(value)
    return found if math.isfinite(found) else None


def _vector(row: Any) -> list[float] | None:
    return row.tolist() if np.isfinite(row).all() else None
