"""The HTTP application: routes, their OpenAPI page, and errors of one shape."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cliplet.encoders.base import BaseEncoder
from cliplet.serve.bodies import read_body
from cliplet.serve.examples import request_body
from cliplet.serve.limits import App, Gate, Receive, Scope, Send, route_path
from cliplet.serve.metrics import Metrics
from cliplet.serve.photos import Index, Photos
from cliplet.serve.refusal import Refusal
from cliplet.serve.schemas import (
    FORMS,
    EmbedAnswer,
    EmbedRequest,
    ErrorAnswer,
    ExplainAnswer,
    ExplainRequest,
    Health,
    ScoreAnswer,
    ScoreRequest,
    SearchAnswer,
    SearchRequest,
    Strict,
)
from cliplet.serve.service import Service
from cliplet.serve.settings import Settings
from cliplet.serve.static import page_files
from cliplet.versions import versions

R = TypeVar("R", bound=Strict)
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The body is broken.", 401: "No key.", 408: "The body came too slowly.", 413: "Too large.",
        414: "The address is too long.", 415: "Another content type.", 422: "It does not fit.",
        429: "Too many requests of one client.", 431: "The headers are too large.", 500: "The service failed.",
        503: "Busy; see Retry-After.",
    }.items()
}  # fmt: skip


def build_app(
    encoder: BaseEncoder,
    settings: Settings | None = None,
    index: Index | None = None,
    secret: bytes | None = None,
) -> App:
    """The whole ASGI application.

    Args:
        encoder: the model.
        settings: bounds and options.
        index: an open index, for ``/v1/search``.
        secret: seals the ids of its photos; replicas of one service need the same.

    Raises:
        ModelError: the model cannot be loaded.
    """
    settings = settings or Settings()
    metrics = Metrics()
    photos = None if index is None else Photos(index, settings.max_pixels, secret)
    service = Service(encoder, settings, metrics, photos)
    service.warm_up()
    gate = Gate(Direct(_routes(service, metrics, settings), answers(service)), settings, metrics)
    if not settings.cors_origins:
        return gate
    return CORSMiddleware(
        gate, allow_origins=list(settings.cors_origins), allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
        expose_headers=["X-Request-ID", "Retry-After"],
    )  # fmt: skip


@cache
def _version() -> str:
    return versions()["cliplet"]


def _routes(service: Service, metrics: Metrics, settings: Settings) -> FastAPI:
    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.workers.start()
        yield
        service.workers.close()

    app = FastAPI(
        title="cliplet", version=_version(), lifespan=life, docs_url=None, redoc_url=None,
        redirect_slashes=False, license_info={"name": "Apache-2.0"},
        description="Scores captions against photos, embeds both, and searches photos by words.",
    )  # fmt: skip
    for error in (Refusal, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(error, _answered)
    _add_page(app)
    _add_state(app, service, metrics, settings)
    _add_work(app, service)
    return app


def _add_page(app: FastAPI) -> None:
    def file(name: str, request: Request) -> Response:
        found = page_files().get(name)
        if found is None:
            raise Refusal(404, "not_found", "there is no such file")
        headers = {"etag": found.tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.content, media_type=found.kind, headers=headers)

    async def page(request: Request) -> Response:
        return file("index.html", request)

    async def part(name: str, request: Request) -> Response:
        return file(name, request)

    app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/page/{name}", part, methods=["GET"], include_in_schema=False)


def _add_state(app: FastAPI, service: Service, metrics: Metrics, settings: Settings) -> None:
    bounds = (
        "max_body", "max_pixels", "max_captions", "max_caption_length", "max_references", "max_photos", "max_top",
        "queue", "body_seconds", "wait_seconds",
    )  # fmt: skip

    async def healthz() -> Health:
        """Whether the service is up, and its bounds."""
        return Health(
            version=_version(), key_required=bool(settings.keys), search=service.photos is not None,
            explain=settings.explain, limits={name: getattr(settings, name) for name in bounds},
        )  # fmt: skip

    async def counted() -> Response:
        """Counters in Prometheus' text form."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_api_route("/healthz", healthz, methods=["GET"], response_model=Health)
    app.add_api_route(
        "/metrics", counted, methods=["GET"], response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 401: ERRORS[401]},
    )  # fmt: skip


@dataclass(frozen=True)
class Endpoint(Generic[R]):
    """A POST that workers answer."""

    request: type[R]
    """What comes in."""
    answer: type[BaseModel]
    """What goes out."""
    do: Callable[[R], Awaitable[BaseModel]]
    """What makes one of the other."""
    parts: int
    """Fields that a form may have at most."""

    async def __call__(self, content_type: str, body: bytes) -> BaseModel:
        """Read a body and answer it."""
        return await self.do(read_body(content_type, body, self.request, FORMS[self.request], self.parts))


def answers(service: Service) -> dict[str, Endpoint[Any]]:
    """The endpoints of a service by their paths."""
    limits = service.settings
    texts = limits.max_captions + limits.max_references + 2
    found: dict[str, Endpoint[Any]] = {
        "/v1/score": Endpoint(ScoreRequest, ScoreAnswer, service.score, texts),
        "/v1/embed": Endpoint(
            EmbedRequest, EmbedAnswer, service.embed, limits.max_photos + limits.max_captions
        ),
    }
    if limits.explain:
        found["/v1/explain"] = Endpoint(
            ExplainRequest, ExplainAnswer, service.explain, len(FORMS[ExplainRequest])
        )
    if service.photos is not None:
        found["/v1/search"] = Endpoint(SearchRequest, SearchAnswer, service.search, len(FORMS[SearchRequest]))
    return found


class Direct:
    """Answers the endpoints' requests by itself; FastAPI, whose layers cost as much as decoding a photo, has the rest.

    The body comes whole from the gate, which also answers what is raised.
    """

    def __init__(self, app: App, endpoints: dict[str, Endpoint[Any]]) -> None:
        self.app, self.endpoints = app, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        endpoint = None
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self.endpoints.get(route_path(scope))
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        content_type = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
        answer = await endpoint(content_type, (await receive())["body"])
        body = answer.model_dump_json().encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _add_work(app: FastAPI, service: Service) -> None:
    """The endpoints as OpenAPI shows them."""

    def add(path: str, endpoint: Endpoint[Any]) -> None:
        async def answered(request: Request) -> Any:
            return await endpoint(request.headers.get("content-type", ""), await request.body())

        app.add_api_route(
            path, answered, methods=["POST"], response_model=endpoint.answer, responses=ERRORS, name=path,
            description=endpoint.do.__doc__, openapi_extra={"requestBody": request_body(endpoint.request)},
        )  # fmt: skip

    for path, endpoint in answers(service).items():
        add(path, endpoint)
    if service.photos is not None:
        _add_photos(app, service)


def _add_photos(app: FastAPI, service: Service) -> None:
    async def photo(photo_id: str, size: int = 400) -> Response:
        """A found photo as a JPEG at most ``size`` pixels long, without EXIF."""
        content = await service.thumbnail(photo_id, size)
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    image = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
    app.add_api_route(
        "/v1/photos/{photo_id}", photo, methods=["GET"], response_class=Response,
        responses={200: image, 404: {"model": ErrorAnswer, "description": "No such photo."}, **ERRORS},
    )  # fmt: skip


async def _answered(request: Request, error: Exception) -> Response:
    """Any error in the one shape; what was not foreseen says nothing of its inside."""
    request_id = request.scope.get("state", {}).get("request_id", "")
    if isinstance(error, RequestValidationError):
        error = Refusal(422, "not_fitting", "the request does not fit")
    elif isinstance(error, HTTPException):
        error = Refusal(
            error.status_code, f"http_{error.status_code}", str(error.detail), dict(error.headers or {})
        )
    elif not isinstance(error, Refusal):
        error = Refusal(500, "internal", "the service failed; its log says why")
    return JSONResponse(error.content(request_id), error.status, error.headers)
