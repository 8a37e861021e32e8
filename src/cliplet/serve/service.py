"""What the endpoints do, apart from HTTP: a model, its workers, and an index where there is one."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cliplet.data.text import caption_problem
from cliplet.encoders.base import BaseEncoder
from cliplet.errors import InputError, ModelError
from cliplet.scoring.result import ScoreResult
from cliplet.serve.inference import Done, TooManyPixels, Work, check_photo
from cliplet.serve.metrics import Metrics
from cliplet.serve.photos import SIZES, Photos, mean_direction
from cliplet.serve.refusal import Refusal, busy
from cliplet.serve.schemas import (
    EmbedAnswer,
    Embedding,
    EmbedRequest,
    ExplainAnswer,
    ExplainedUnit,
    ExplainRequest,
    FoundPhoto,
    Model,
    ScoreAnswer,
    ScoredCaption,
    ScoreRequest,
    SearchAnswer,
    SearchRequest,
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
        photos: the index, where there is one.
    """

    def __init__(
        self, encoder: BaseEncoder, settings: Settings, metrics: Metrics, photos: Photos | None = None
    ) -> None:
        self.encoder, self.settings, self.metrics, self.photos = encoder, settings, metrics, photos
        self.workers = Workers(encoder, settings.workers, settings.max_pixels, metrics)
        self._long = asyncio.Semaphore(
            max(1, self.workers.count - 1)
        )  # explanations leave a worker to the rest
        self._explainer: Any = None

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

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """Find photos of the index by words, by a photo, or by both together."""
        photos = self._photos()
        texts = [text for text in (request.text, request.without) if text is not None]
        self.check_texts(texts, "text")
        for text in texts:
            if problem := caption_problem(text):
                raise Refusal(422, "text", problem.replace("the caption", "a text of the query"))
        if request.text is None and request.photo is None:
            raise Refusal(422, "nothing", "give a text, a photo or both")
        if request.top > self.settings.max_top:
            raise Refusal(422, "too_many", f"a search may ask for {self.settings.max_top} photos")
        prefix = self.encoder.card.text.prompt_prefix  # as the index itself reads a query
        texts = [prefix + text for text in texts]
        done = await self.do(Work([] if request.photo is None else [request.photo], texts))
        if done.reasons:
            raise Refusal(422, "photo", done.reasons[0])
        words = done.texts[: request.text is not None]
        query = mean_direction(np.concatenate([words, done.photos]))
        without = None if request.without is None else done.texts[-1]
        found = await asyncio.to_thread(photos.find, query, request.top, without)
        return SearchAnswer(
            model=self.model,
            photos=[
                FoundPhoto(
                    id=photos.id_of(hit.path), path=hit.path, score=float(hit.score), also=list(hit.also)
                )
                for hit in found
            ],
        )

    async def thumbnail(self, photo_id: str, size: int) -> bytes:
        """A photo of the index as a small JPEG."""
        photos = self._photos()
        least, most = SIZES
        return await asyncio.to_thread(photos.thumbnail, photo_id, min(max(size, least), most))

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Say what each word and phrase of a caption does to its score, and which word is most likely wrong."""
        self.check_texts([request.caption], "caption")
        if problem := caption_problem(request.caption):
            raise Refusal(422, "text", problem)
        async with self._long:
            try:
                found = await self.workers.call(lambda: self._explained(request), self.settings.wait_seconds)
            except Exception as error:
                raise refused(error) from error
        units = [
            ExplainedUnit(text=unit.text, start=unit.start, end=unit.end, share=number(unit.share))
            for sentence in found.sentences
            for unit in sentence.units
        ]
        doubtful = [s for s in found.sentences if s.words and s.verdict != "supported"]
        wrong = min(doubtful, key=lambda s: s.height).wrong_word if doubtful else None
        return ExplainAnswer(
            model=self.model, score=number(found.score), units=units,
            wrong=None if wrong is None else wrong.text, sentence=found.message,
        )  # fmt: skip

    def _explained(self, request: ExplainRequest) -> Any:
        """On a worker's thread."""
        from cliplet.scoring.explain import Explainer

        check_photo(request.photo, self.settings.max_pixels)
        if self._explainer is None:
            self._explainer = Explainer(self.encoder)
        return self._explainer.explain(request.photo, request.caption, regions=False)

    def _photos(self) -> Photos:
        if self.photos is None:
            raise Refusal(404, "no_index", "this service has no index: start it with --index")
        return self.photos

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
