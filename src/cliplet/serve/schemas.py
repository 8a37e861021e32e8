"""What requests and answers hold; the OpenAPI page is made from these."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from cliplet.serve.bodies import Field as FormField


def _bytes_alone(value: Any) -> Any:
    if not isinstance(value, bytes):
        raise ValueError("a photo must be base64 text in JSON, and a file in a form")
    return value


Photo = Annotated[
    bytes,
    BeforeValidator(_bytes_alone),
    WithJsonSchema({"type": "string", "format": "byte", "contentEncoding": "base64", "minLength": 1}),
]
PresetName = Literal["paper", "torchmetrics", "cosine"]


class Strict(BaseModel):
    """A request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class ScoreRequest(Strict):
    """One photo with its captions."""

    photo: Photo = Field(description="The photo: JPEG, PNG, WebP, GIF, BMP or TIFF; in JSON as base64.")
    captions: list[str] = Field(min_length=1, description="The captions to score.")
    references: list[str] = Field(
        default=[], description="Captions of people for this photo, if there are any."
    )
    preset: PresetName = Field(default="paper", description="The scale of the score.")


class EmbedRequest(Strict):
    """Photos and texts."""

    photos: list[Photo] = Field(default=[], description="Photos; in JSON as base64.")
    texts: list[str] = Field(
        default=[], description="Texts, embedded as they are: without the model's prefix."
    )


class SearchRequest(Strict):
    """A query of the index: words, a photo, or both."""

    text: str | None = Field(default=None, min_length=1, description="What to look for.")
    without: str | None = Field(default=None, min_length=1, description="What the photos should not show.")
    photo: Photo | None = Field(default=None, description="A photo that the found ones should be like.")
    top: int = Field(default=20, ge=1, description="How many photos to return.")


class ExplainRequest(Strict):
    """One photo with one caption."""

    photo: Photo = Field(description="The photo; in JSON as base64.")
    caption: str = Field(min_length=1, description="The caption to explain.")


FORMS: dict[type[Strict], dict[str, FormField]] = {
    ScoreRequest: {
        "photo": FormField(photo=True), "captions": FormField(many=True), "references": FormField(many=True),
        "preset": FormField(),
    },
    EmbedRequest: {"photos": FormField(many=True, photo=True), "texts": FormField(many=True)},
    SearchRequest: {
        "text": FormField(), "without": FormField(), "photo": FormField(photo=True), "top": FormField(number=True)
    },
    ExplainRequest: {"photo": FormField(photo=True), "caption": FormField()},
}  # fmt: skip
"""The fields of each request's form; a field that may come several times has one part for each value."""


class Model(BaseModel):
    """The model that answered."""

    name: str
    fingerprint: str = Field(description="Changes whenever weights or preprocessing change.")


class ScoredCaption(BaseModel):
    """One caption's scores; null where there is none, with the reason."""

    caption: str
    score: float | None = Field(description="The preset's score; paper: 0 to the model's w.")
    cosine: float | None = Field(description="Cosine of photo and caption, -1 to 1.")
    match: float | None = Field(
        description="Probability that the caption is the photo's own, 0 to 1; null where the model is not calibrated."
    )
    reference_cosine: float | None = Field(description="Largest cosine of caption and any reference.")
    ref_clip_score: float | None = Field(description="RefCLIPScore; null without references.")
    ref_mix_score: float | None = Field(description="RefMixScore; null without references.")
    truncated: bool = Field(description="Whether the caption was longer than the model's context.")
    reason: str | None = Field(description="Why there is no score.")


class ScoreAnswer(BaseModel):
    """Scores of a photo's captions, in the order of the request."""

    model: Model
    preset: PresetName
    score_name: str = Field(description="What the score is called in papers.")
    match_reason: str | None = Field(description="Why no caption has a match, where none has.")
    results: list[ScoredCaption]
    notes: list[str] = Field(description="What a reader of the scores must know.")


class Embedding(BaseModel):
    """One photo's or text's embedding."""

    embedding: list[float] | None = Field(description="Unit length; null where there is none.")
    truncated: bool = False
    reason: str | None = Field(default=None, description="Why there is no embedding.")


class EmbedAnswer(BaseModel):
    """Embeddings in the order of the request."""

    model: Model
    dimension: int
    photos: list[Embedding]
    texts: list[Embedding]


class FoundPhoto(BaseModel):
    """A photo of the index."""

    id: str = Field(description="For /v1/photos/{id}.")
    path: str = Field(description="The photo's path as the index holds it.")
    score: float = Field(description="Cosine of query and photo.")
    also: list[str] = Field(description="Paths of the same photo under other names.")


class SearchAnswer(BaseModel):
    """Photos, the best first."""

    model: Model
    photos: list[FoundPhoto]


class ExplainedUnit(BaseModel):
    """A word or phrase of the caption."""

    text: str
    start: int = Field(description="First character in the caption.")
    end: int = Field(description="One past its last character.")
    share: float | None = Field(
        description="Its share in the score; negative where it pulls the caption down."
    )


class ExplainAnswer(BaseModel):
    """What each part of a caption does to its score."""

    model: Model
    score: float | None
    units: list[ExplainedUnit]
    wrong: str | None = Field(
        description="The word most likely wrong; null where the photo supports the caption."
    )
    sentence: str = Field(description="The finding in words.")


class Health(BaseModel):
    """The service's state and bounds."""

    status: Literal["ok"] = "ok"
    version: str
    key_required: bool
    search: bool
    explain: bool
    limits: dict[str, int | float]


class FieldProblem(BaseModel):
    """One place of a request that does not fit."""

    where: str
    problem: str


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="A short name that programs can tell apart.")
    message: str
    request_id: str
    fields: list[FieldProblem] | None = None


class ErrorAnswer(BaseModel):
    """Every answer that is no success."""

    error: ErrorDetail
