"""How requests stand in the OpenAPI page: JSON and form of each, with an example that works."""

from typing import Any

from cliplet.serve.bodies import JSON, MULTIPART
from cliplet.serve.schemas import FORMS, EmbedRequest, ExplainRequest, ScoreRequest, SearchRequest, Strict

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP4z8CAFWEXHbQSACj/P8Fu7N9hAAAAAElFTkSuQmCC"
"""A PNG of eight by eight red pixels, in base64."""
EXAMPLES: dict[type[Strict], dict[str, Any]] = {
    ScoreRequest: {
        "photo": DOT,
        "captions": ["a red square", "a dog on the beach"],
        "references": ["a red box"],
    },
    EmbedRequest: {"photos": [DOT], "texts": ["a red square"]},
    SearchRequest: {"text": "a red bicycle", "top": 5},
    ExplainRequest: {"photo": DOT, "caption": "a red square"},
}


def request_body(model: type[Strict]) -> dict[str, Any]:
    """The OpenAPI object of a request's body."""
    schema = model.model_json_schema()
    form = {
        **schema,
        "properties": {name: _as_part(model, name, own) for name, own in schema["properties"].items()},
    }
    return {
        "required": True,
        "content": {
            JSON: {"schema": schema, "example": EXAMPLES[model]},
            MULTIPART: {"schema": form},
        },
    }


def _as_part(model: type[Strict], name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A field as a part of a form: a photo is the bytes of a file."""
    if not FORMS[model][name].photo:
        return schema
    part = {"type": "string", "format": "binary", "minLength": 1}
    rest = {key: schema[key] for key in ("description",) if key in schema}
    return {"type": "array", "items": part, **rest} if FORMS[model][name].many else {**part, **rest}
