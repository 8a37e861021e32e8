"""One shape for every answer that is no success."""

import json
from typing import Any


class Refusal(Exception):
    """A request that is not served, and why; never with what the client sent.

    Args:
        status: HTTP status.
        code: a short name that programs can tell apart.
        message: a sentence for people.
        headers: more headers of the answer.
        fields: for bodies that do not fit, what is wrong at which place.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: dict[str, str] | None = None,
        fields: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers, self.fields = headers or {}, fields or []

    def content(self, request_id: str) -> dict[str, Any]:
        """The answer's JSON object."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "request_id": request_id}
        if self.fields:
            error["fields"] = self.fields
        return {"error": error}

    def body(self, request_id: str) -> bytes:
        """:meth:`content` as bytes."""
        return json.dumps(self.content(request_id)).encode()


def busy(message: str, seconds: int = 1) -> Refusal:
    """503 for a service that has as much to do as it may."""
    return Refusal(503, "busy", message, {"Retry-After": str(seconds)})
