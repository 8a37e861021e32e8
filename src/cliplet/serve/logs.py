"""Logs: one JSON object a line on standard error, with the request's id."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

LOGGER = "cliplet.serve"
FIELDS = "fields"


class JsonFormatter(logging.Formatter):
    """One record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; an exception stands in it with its traceback."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        content.update(getattr(record, FIELDS, {}))
        if record.exc_info:
            content["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(content, ensure_ascii=True, default=str)


def set_up_logs(level: int = logging.INFO) -> None:
    """Send all records and warnings to standard error as JSON lines: the service's, the web server's, libraries'."""
    logging.captureWarnings(True)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns with pieces of broken bodies
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().handlers[:] = [handler]
    for name in (LOGGER, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def log(event: str, level: int = logging.INFO, exc_info: Any = None, **fields: Any) -> None:
    """Write one event with its fields."""
    logging.getLogger(LOGGER).log(level, event, exc_info=exc_info, extra={FIELDS: fields})
